package access

import (
	"context"
	"errors"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
)

// Store is where the repositories of a server are if they are not directories: behind it is
// an object store. Names are those that CheckName lets pass.
type Store interface {
	// Open opens a repository; *repo.NotFoundError if it is not there.
	Open(ctx context.Context, name string, readOnly bool) (*repo.Packs, error)
	// Create makes a repository. One that is there stays as it is.
	Create(ctx context.Context, name string, o repo.InitOptions) error
	// Names returns the names of those that are there, sorted.
	Names(ctx context.Context) ([]string, error)
}

// directories is the Store of most servers.
type directories struct{ files *fsx.FS }

// Open opens the repository in a directory.
func (d directories) Open(ctx context.Context, dir string, readOnly bool) (*repo.Packs, error) {
	return repo.OpenDir(ctx, dir, repo.DirOptions{FS: d.files, ReadOnly: readOnly})
}

// Create makes a directory a repository.
func (d directories) Create(ctx context.Context, dir string, o repo.InitOptions) error {
	o.FS = d.files
	_, err := repo.InitDir(ctx, dir, o)
	return err
}

// opener returns what opens what Resolve returns.
func (g *Grant) opener(files *fsx.FS) interface {
	Open(ctx context.Context, dir string, readOnly bool) (*repo.Packs, error)
	Create(ctx context.Context, dir string, o repo.InitOptions) error
} {
	if g.Store != nil {
		return g.Store
	}
	return directories{files}
}

// Open opens what Resolve returned. With create one that is not there is made first, which
// created tells.
func (g *Grant) Open(ctx context.Context, files *fsx.FS, dir string, readOnly bool, create *repo.InitOptions) (p *repo.Packs, created bool, err error) {
	at := g.opener(files)
	p, err = at.Open(ctx, dir, readOnly)
	if create == nil || !errors.As(err, new(*repo.NotFoundError)) {
		return p, false, err
	}
	if readOnly {
		return nil, false, &repo.RefusedError{Reason: "the key may not make repositories"}
	}
	if err := at.Create(ctx, dir, *create); err != nil {
		return nil, false, err
	}
	p, err = at.Open(ctx, dir, readOnly)
	return p, true, err
}
