package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// pullJobs lists what is to be brought back.
func (a *app) pullJobs(ctx context.Context, s s3sync.Objects, root string, at bucketAt) ([]mirrorJob, error) {
	if root == "" {
		dir, err := a.home()
		if err == nil {
			at, err = a.resolve(ctx, s, at)
		}
		return []mirrorJob{{dir: dir, to: at}}, err
	}
	id, err := a.identity()
	if err != nil {
		return nil, err
	}
	places, err := s3sync.Places(ctx, s, at.prefix, id)
	if err == nil && len(places) == 0 {
		err = &repo.NotFoundError{What: "repository", Name: at.String()}
	}
	var jobs []mirrorJob
	for i, p := range places {
		if errors.As(p.Err, new(*s3sync.LockedError)) {
			return nil, a.locked(at, p.Err)
		}
		j := mirrorJob{dir: filepath.Join(root, p.Name), to: at.below(p.Dir)}
		same := func(k int) bool { return k >= 0 && k < len(places) && places[k].Err == nil && places[k].Name == p.Name }
		switch {
		case p.Err != nil:
			j.wrong = a.unnamed(at, p)
		case same(i-1) || same(i+1):
			j.wrong = withHint(fmt.Errorf("%s: more than one repository is called %s", escape(j.to.String()), quote(p.Name)), a.oneByOne(at, p))
		case p.Name != filepath.Base(p.Name) || p.Name == "." || p.Name == "..":
			j.wrong = fmt.Errorf("%s: a repository is called %s", escape(at.String()), quote(p.Name))
		}
		jobs = append(jobs, j)
	}
	return jobs, err
}

// unnamed says of a repository that nothing tells what it is called.
func (a *app) unnamed(at bucketAt, p s3sync.Place) error {
	return withHint(fmt.Errorf("%s: what it is called cannot be told: %w", escape(at.below(p.Dir).String()), p.Err), a.oneByOne(at, p))
}

// oneByOne says how a repository is read that no name leads to.
func (a *app) oneByOne(at bucketAt, p s3sync.Place) string {
	return fmt.Sprintf("its digits go in place of the name: '%s mirror --pull -d DIR %s --identity FILE'", a.name, escape(at.below(p.Dir).String()))
}

// pull brings repositories back, and with --root what the server had of its own.
func (a *app) pull(ctx context.Context, s s3sync.Objects, at bucketAt, o mirrorOptions) error {
	jobs, err := a.pullJobs(ctx, s, o.root, at)
	if err != nil {
		return err
	}
	if err := a.doc.begin(a, "mirror"); err != nil {
		return err
	}
	err = a.each(ctx, jobs, func(j mirrorJob) error {
		start := a.now()
		b, err := a.bucket(s, j.to)
		if err != nil {
			return err
		}
		g, err := a.generation(ctx, b, j.to)
		if err != nil {
			return err
		}
		a.warnOf(j.to, g.Warnings())
		r, err := b.Pull(ctx, g, s3sync.PullOptions{FS: a.FS, Dir: j.dir, Workers: o.workers, Partial: o.partial, Progress: a.pullProgress})
		a.ui.done()
		for _, name := range r.Rebuilt {
			a.ui.line("warning: %s: %s was missing or wrong and was made anew", escape(j.to.String()), escape(name))
		}
		if err != nil {
			return a.lostFiles(j, o, err)
		}
		return a.pulled(j, r, a.now().Sub(start))
	})
	if o.root == "" || ctx.Err() != nil {
		return err
	}
	if oerr := a.pullOwn(ctx, s, at.below(ownDir), o.root+"/"+ownDir+".restored"); err == nil {
		err = oerr
	} else if oerr != nil {
		a.ui.line("error: %s", escapeText(oerr.Error()))
	}
	return err
}

// lostFiles names the files of a generation that cannot be had.
func (a *app) lostFiles(j mirrorJob, o mirrorOptions, err error) error {
	if errors.As(err, new(*s3sync.LockedError)) {
		return a.locked(j.to, err)
	}
	named := fmt.Errorf("%s to %s: %w", escape(j.to.String()), quote(j.dir), err)
	var lost *s3sync.LostError
	if !errors.As(err, &lost) {
		return named
	}
	for _, err := range lost.Files {
		a.ui.line("error: %s", escapeText(err.Error()))
	}
	if o.partial {
		return withHint(named, fmt.Sprintf("'%s -d %s fsck' tells what of the saves is affected", a.name, quote(j.dir)))
	}
	return withHint(named, "with --partial the rest becomes a repository; an older generation (--generation) may be whole")
}

// pulled tells what became of a job.
func (a *app) pulled(j mirrorJob, r s3sync.PullResult, took time.Duration) error {
	if a.common.json {
		return a.doc.entry(a, pullResult{
			Repository: nameJSON(j.dir), Mirror: j.to.String(), Generation: r.Generation, Files: r.Files,
			FilesGot: r.Got, BytesGot: r.GotBytes, Seconds: took.Round(time.Millisecond).Seconds(),
		})
	}
	a.ui.note("%s: generation %d, %s got in %s, %s", quote(j.dir), r.Generation,
		formatSize(r.GotBytes), plural(int64(r.Got), "file"), formatSeconds(took))
	return nil
}

// pullResult is a repository that was brought back, in JSON.
type pullResult struct {
	Repository jsonName `json:"repository"`
	Mirror     string   `json:"mirror"`
	Generation uint64   `json:"generation"`
	Files      int      `json:"files"`
	FilesGot   int      `json:"files_got"`
	BytesGot   int64    `json:"bytes_got"`
	Seconds    float64  `json:"seconds"`
}

func (a *app) pullProgress(r s3sync.PullResult) {
	a.ui.progress(func() string {
		return fmt.Sprintf("fetching: %s in %s", formatSize(r.GotBytes), plural(int64(r.Got), "file"))
	})
}

// ownDir is where a server has its own things below its root.
const ownDir = ".kedge"

// ownFiles are those that are mirrored. Others are secrets, or are made anew. secretFiles are
// mirrored only where they are encrypted.
var (
	ownFiles    = []string{"authorized_keys", "config", "kedge.toml"}
	secretFiles = []string{"host_key"}
)

// mirrorOwn mirrors what a server has of its own.
func (a *app) mirrorOwn(ctx context.Context, b *s3sync.Bucket, dir string, o s3sync.MirrorOptions) (s3sync.MirrorResult, error) {
	files := make(map[string][]byte)
	names := ownFiles
	if b.Recipients != nil {
		names = slices.Concat(ownFiles, secretFiles)
	}
	for _, name := range names {
		text, err := a.FS.ReadFile(filepath.Join(dir, name), s3sync.MaxText)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return s3sync.MirrorResult{}, err
		}
		files[name] = text
	}
	return b.MirrorTexts(ctx, files, o)
}

// pullOwn puts what the server had of its own where an administrator can look at it: whose
// keys open a new server is not for a bucket to say.
func (a *app) pullOwn(ctx context.Context, s s3sync.Objects, at bucketAt, dir string) error {
	b, err := a.bucket(s, at)
	if err != nil {
		return err
	}
	g, err := b.Recover(ctx)
	if errors.As(err, new(*repo.NotFoundError)) {
		return nil
	}
	var files map[string][]byte
	if err == nil {
		a.warnOf(at, g.Warnings())
		files, err = b.PullTexts(ctx, g)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", escape(at.String()), err)
	}
	if len(files) == 0 {
		return nil
	}
	if err := a.FS.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := a.FS.Replace(filepath.Join(dir, name), files[name], 0o600); err != nil {
			return err
		}
	}
	a.ui.line("the server's own files are in %s: look at them, and move what is right to %s", quote(dir),
		quote(filepath.Join(filepath.Dir(dir), ownDir)))
	return nil
}
