package s3sync

import (
	"context"
	"fmt"
	"io/fs"
	"sort"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// The names of the files of a repository that change, as a manifest has them. HEAD and
// refs have lines of their own.
const (
	nameConfig   = "config"
	nameReceipts = "kedge/receipts"
	nameClosed   = "kedge/closed"
)

// Snapshot is a generation as a repo.Store that can be read.
type Snapshot struct {
	b     *Bucket
	g     *Generation
	cache *Cache
}

// Snapshot returns the files of a generation, which are read through a cache.
func (b *Bucket) Snapshot(g *Generation, cache *Cache) *Snapshot { return &Snapshot{b, g, cache} }

// Open opens a file of the generation. Nothing is asked of the store yet.
func (s *Snapshot) Open(ctx context.Context, name string) (repo.Blob, error) {
	f, ok := s.g.File(name)
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &remoteFile{s: s.b.Objects, cache: s.cache, key: s.b.Prefix + f.Key, version: f.Version, size: f.Size}, nil
}

// List calls fn for the files below dir, in the order of their names.
func (s *Snapshot) List(ctx context.Context, dir string, fn func(name string, size int64) error) error {
	files, prefix := s.g.Files, dir+"/"
	i := sort.Search(len(files), func(i int) bool { return files[i].Name >= prefix })
	for ; i < len(files) && strings.HasPrefix(files[i].Name, prefix); i++ {
		if err := fn(files[i].Name, files[i].Size); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Create is refused.
func (s *Snapshot) Create(context.Context) (repo.Pending, error) { return nil, repo.ErrReadOnly }

// Remove is refused.
func (s *Snapshot) Remove(context.Context, string) error { return repo.ErrReadOnly }

// State returns what changes in the repository, as it was.
func (s *Snapshot) State(ctx context.Context) (repo.State, error) {
	st := repo.State{Refs: s.g.Refs, Head: s.g.Head}
	for name, to := range map[string]*[]byte{nameConfig: &st.Config, nameReceipts: &st.Receipts, nameClosed: &st.Closed} {
		f, ok := s.g.File(name)
		if !ok {
			continue
		}
		text, err := ReadAll(ctx, s.b.Objects, s.b.Prefix+f.Key, f.Version, int(f.Size))
		if err != nil {
			return st, fmt.Errorf("%s: %w", name, err)
		}
		if SumOf(text) != f.SHA256 {
			return st, &pack.CorruptError{File: s.b.Prefix + f.Key, Off: -1, Reason: "its SHA-256 is not what the manifest says"}
		}
		*to = text
	}
	return st, nil
}

// Open opens a generation as a repository that can be read.
func (b *Bucket) Open(ctx context.Context, g *Generation, cache *Cache) (*repo.Packs, error) {
	s := b.Snapshot(g, cache)
	state, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	return repo.OpenSnapshot(ctx, s, state)
}
