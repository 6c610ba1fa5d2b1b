package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/kedgebackup/kedge/remote"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// followed is a repository behind a server as a copy follows it.
type followed struct {
	repo.Store
	client *remote.Client
	known  repo.State // the copy's
}

// State returns what changes in the repository.
func (f *followed) State(ctx context.Context) (repo.State, error) {
	return f.client.State(ctx, f.known)
}

// follow keeps repositories of this machine copies of those behind a server: all that the key
// may see, or the one that the address ends at.
func (a *app) follow(ctx context.Context, address string, o mirrorOptions) error {
	at, err := remote.ParseAddress(address)
	if err != nil {
		return usagef("%v", err)
	}
	if a.common.remote != "" {
		return usagef("mirror --pull writes into a directory: -r does not go with it")
	}
	if err := o.check(); err != nil {
		return err
	}
	if o.partial {
		return usagef("--partial does not go with a server: what is missing there is missing")
	}
	jobs, err := a.followJobs(ctx, at, o.root)
	if err != nil {
		return err
	}
	if err := a.doc.begin(a, "mirror"); err != nil {
		return err
	}
	failed := 0
	for _, j := range jobs {
		ferr := a.followOne(ctx, j, o)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if ferr == nil {
			continue
		}
		if failed++; err == nil {
			err = ferr
		} else {
			a.ui.line("error: %s", escapeText(ferr.Error()))
		}
	}
	if failed > 1 {
		return fmt.Errorf("%d of %d repositories failed: %w", failed, len(jobs), err)
	}
	return err
}

// followJob is a repository behind a server, and its copy.
type followJob struct {
	from remote.Address
	dir  string
}

// followJobs lists what is to be followed. The names are those of a server that may be
// anybody by now, so they are looked at before they become paths.
func (a *app) followJobs(ctx context.Context, at remote.Address, root string) (jobs []followJob, err error) {
	if root == "" {
		dir, err := a.home()
		return []followJob{{at, dir}}, err
	}
	if at.Path != "" && at.Path != "/" {
		return nil, usagef("with --root the address ends at the server, ssh://HOST/: what the key may see there is copied")
	}
	o, err := a.remoteOptions()
	if err != nil {
		return nil, err
	}
	names, err := remote.List(ctx, at, o)
	if err == nil && len(names) == 0 {
		err = withHint(&repo.NotFoundError{What: "repository", Name: at.String()},
			"a standby has a key of role mirror: on the server, 'kedge client add --role mirror \"*\" KEY.pub'")
	}
	for _, name := range names {
		if err := access.CheckName(name); err != nil {
			return nil, fmt.Errorf("%s: %w", escape(at.String()), err)
		}
		from := at
		from.Path = "/" + name
		jobs = append(jobs, followJob{from, filepath.Join(root, name)})
	}
	return jobs, err
}

// followOne brings one copy up to date.
func (a *app) followOne(ctx context.Context, j followJob, o mirrorOptions) (err error) {
	start := a.now()
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s to %s: %w", escape(j.from.String()), quote(j.dir), err)
		}
	}()
	ro, err := a.remoteOptions()
	if err != nil {
		return err
	}
	ro.Cache = "" // of whole idx files, which are not asked for
	c, err := remote.Dial(ctx, j.from, ro)
	if err != nil {
		return err
	}
	defer c.Close()
	if c.Info().Rights&wire.MayMirror == 0 {
		return withHint(&repo.RefusedError{Reason: "the key may not copy repositories"},
			"a standby has a key of role mirror: on the server, 'kedge client add --role mirror \"*\" KEY.pub'")
	}
	known, err := a.knownState(ctx, j.dir)
	if err != nil {
		return err
	}
	src := &followed{Store: c.Store(), client: c, known: known}
	r, err := s3sync.Sync(ctx, j.dir, src, s3sync.SyncOptions{FS: a.FS, Workers: o.workers, Now: a.now, Progress: a.followProgress})
	a.ui.done()
	if err != nil {
		return err
	}
	return a.didFollow(j, r, a.now().Sub(start))
}

// knownState returns the state of a copy; none if there is none yet.
func (a *app) knownState(ctx context.Context, dir string) (repo.State, error) {
	p, err := repo.OpenDir(ctx, dir, repo.DirOptions{FS: a.FS, ReadOnly: true})
	if errors.As(err, new(*repo.NotFoundError)) {
		return repo.State{}, nil
	} else if err != nil {
		return repo.State{}, err
	}
	defer func() { _ = p.Close() }()
	return repo.NewDir(a.FS, p.Path()).State(ctx)
}

// followResult is a copy that was brought up to date, in JSON.
type followResult struct {
	Repository   jsonName `json:"repository"`
	Source       string   `json:"source"`
	Packs        int      `json:"packs"`
	PacksGot     int      `json:"packs_got"`
	BytesGot     int64    `json:"bytes_got"`
	PacksDropped int      `json:"packs_dropped"`
	Seconds      float64  `json:"seconds"`
}

// didFollow tells what became of a copy.
func (a *app) didFollow(j followJob, r s3sync.SyncResult, took time.Duration) error {
	if a.common.json {
		return a.doc.entry(a, followResult{
			Repository: nameJSON(j.dir), Source: j.from.String(), Packs: r.Packs, PacksGot: r.Got, BytesGot: r.GotBytes,
			PacksDropped: r.Dropped, Seconds: took.Round(time.Millisecond).Seconds(),
		})
	}
	dropped := ""
	if r.Dropped > 0 {
		dropped = fmt.Sprintf(", %s dropped", plural(int64(r.Dropped), "pack"))
	}
	a.ui.note("%s: as %s, %s got in %s%s, %s", quote(j.dir), escape(j.from.String()),
		formatSize(r.GotBytes), plural(int64(r.Got), "pack"), dropped, formatSeconds(took))
	return nil
}

func (a *app) followProgress(r s3sync.SyncResult) {
	a.ui.progress(func() string {
		return fmt.Sprintf("fetching: %s in %s", formatSize(r.GotBytes), plural(int64(r.Got), "pack"))
	})
}
