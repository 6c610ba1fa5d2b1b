package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

const mirrorHelp = `Mirror copies repositories to an object store that speaks S3, and makes each of
them there a repository as it was at one moment: a generation. Only what is not
there yet is sent. What is there is never changed and never deleted.

With --root every repository below ROOT is mirrored to the PREFIX with its name
behind; without, the repository of this run is mirrored to the PREFIX itself. A
mirror can be read like any repository, with -r s3://BUCKET/PREFIX/REPO and no
download first.

With --pull it is the other way round: the newest generations are brought back,
each file compared with the checksum in its manifest. Run again it fetches only
what is new.

Credentials come from the environment, from the files that AWS tools share, or
from the role of the instance. The key needs to put, get and list.`

const mirrorExample = `  kedge mirror --root /srv/backup s3://bucket/backup
  kedge ls -r s3://bucket/backup/build etc/latest/
  kedge restore -r s3://bucket/backup/build -C /tmp/x etc/latest/etc
  kedge mirror --pull --root /srv/backup s3://bucket/backup
  kedge mirror -d /srv/backup/build --endpoint https://s3.example.org s3://bucket/build`

func (a *app) mirrorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "mirror [--pull] [--root ROOT] s3://BUCKET/PREFIX",
		Short:   "copy repositories to an object store",
		Long:    mirrorHelp,
		Example: mirrorExample,
		Args:    cobra.ExactArgs(1),
	}
	root := cmd.Flags().String("root", "", "mirror every repository in the directory `ROOT`")
	cmd.AddCommand(a.mirrorStatusCommand(), a.mirrorVerifyCommand())
	pull := cmd.Flags().Bool("pull", false, "bring back what was mirrored")
	key := cmd.Flags().String("mirror-key", "", "sign manifests with the key in `FILE`, made by the first run (default: ROOT/.kedge/state/mirror_key)")
	workers := cmd.Flags().Int("parallel", 4, "send `N` files at once")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		at, err := parseBucket(args[0])
		if err != nil {
			return err
		}
		if a.common.remote != "" {
			return usagef("mirror reads a directory: -r does not go with it")
		}
		if *workers < 1 || *workers > 64 {
			return usagef("option --parallel: %d is not from 1 to 64", *workers)
		}
		s, err := a.objects(at)
		if err != nil {
			return err
		}
		if *pull {
			jobs, err := a.pullJobs(ctx, s, *root, at)
			if err != nil {
				return err
			}
			return a.pull(ctx, s, jobs, *workers)
		}
		jobs, err := a.mirrorJobs(*root, at)
		if err != nil {
			return err
		}
		if *key == "" {
			*key = filepath.Join(jobs[0].dir, "kedge", "mirror_key")
			if *root != "" {
				*key = filepath.Join(*root, ".kedge", "state", "mirror_key")
			}
		}
		sign, err := a.mirrorKey(*key)
		if err != nil {
			return err
		}
		return a.mirror(ctx, s, jobs, *workers, sign)
	})
}

// mirrorKey returns what signs manifests.
func (a *app) mirrorKey(file string) (func([]byte) ([]byte, error), error) {
	if err := a.FS.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	key, made, err := s3sync.MirrorKey(a.FS, file)
	if err != nil {
		return nil, err
	}
	if made {
		a.ui.line("made %s, which signs the mirror; who reads it may trust: %s", quote(file), s3sync.PublicLine(key))
	}
	return func(text []byte) ([]byte, error) { return s3sync.Sign(key, text) }, nil
}

// mirrorJob is a repository and where it goes.
type mirrorJob struct {
	dir string
	to  bucketAt
}

// mirrorJobs lists what is to be mirrored.
func (a *app) mirrorJobs(root string, at bucketAt) ([]mirrorJob, error) {
	if root == "" {
		dir, err := a.home()
		return []mirrorJob{{dir, at}}, err
	}
	list, err := a.FS.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var jobs []mirrorJob
	for _, e := range list {
		dir := filepath.Join(root, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if _, err := a.FS.Lstat(filepath.Join(dir, "objects")); err != nil {
			continue
		}
		jobs = append(jobs, mirrorJob{dir, bucketAt{at.bucket, at.prefix + e.Name() + "/"}})
	}
	if len(jobs) == 0 {
		return nil, &repo.NotFoundError{What: "repository", Name: root}
	}
	slices.SortFunc(jobs, func(x, y mirrorJob) int { return strings.Compare(x.dir, y.dir) })
	return jobs, nil
}

// mirror does the jobs one after the other. One that fails does not keep the others from
// being done.
func (a *app) mirror(ctx context.Context, s s3sync.Objects, jobs []mirrorJob, workers int, sign func([]byte) ([]byte, error)) error {
	if err := a.doc.begin(a, "mirror"); err != nil {
		return err
	}
	return a.each(ctx, jobs, func(j mirrorJob) error {
		start := a.now()
		b, err := a.bucket(s, j.to)
		if err != nil {
			return err
		}
		r, err := b.Mirror(ctx, s3sync.MirrorOptions{
			FS: a.FS, Dir: j.dir, Workers: workers, Now: a.now, Progress: a.mirrorProgress, Sign: sign,
		})
		a.ui.done()
		if err != nil {
			return fmt.Errorf("%s to %s: %w", quote(j.dir), escape(j.to.String()), err)
		}
		return a.mirrored(j, r, a.now().Sub(start))
	})
}

// each does jobs one after the other. What fails is named, and the exit code is that of the
// first failure.
func (a *app) each(ctx context.Context, jobs []mirrorJob, do func(j mirrorJob) error) error {
	var first error
	failed := 0
	for _, j := range jobs {
		err := do(j)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			continue
		}
		if failed++; first == nil {
			first = err
		} else {
			a.ui.line("error: %s", escapeText(err.Error()))
		}
	}
	if failed > 1 {
		return fmt.Errorf("%d of %d repositories failed: %w", failed, len(jobs), first)
	}
	return first
}

// pullJobs lists what is to be brought back.
func (a *app) pullJobs(ctx context.Context, s s3sync.Objects, root string, at bucketAt) ([]mirrorJob, error) {
	if root == "" {
		dir, err := a.home()
		return []mirrorJob{{dir, at}}, err
	}
	names, err := s3sync.Names(ctx, s, at.prefix)
	if err == nil && len(names) == 0 {
		err = &repo.NotFoundError{What: "repository", Name: at.String()}
	}
	var jobs []mirrorJob
	for _, name := range names {
		if name != filepath.Base(name) || name == "." || name == ".." {
			return nil, fmt.Errorf("%s: a repository is called %s", escape(at.String()), quote(name))
		}
		jobs = append(jobs, mirrorJob{filepath.Join(root, name), bucketAt{at.bucket, at.prefix + name + "/"}})
	}
	return jobs, err
}

// pull brings repositories back.
func (a *app) pull(ctx context.Context, s s3sync.Objects, jobs []mirrorJob, workers int) error {
	if err := a.doc.begin(a, "mirror"); err != nil {
		return err
	}
	return a.each(ctx, jobs, func(j mirrorJob) error {
		start := a.now()
		b, err := a.bucket(s, j.to)
		if err != nil {
			return err
		}
		g, err := b.Latest(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", escape(j.to.String()), err)
		}
		for _, err := range g.Passed {
			a.ui.line("warning: %s: %s", escape(j.to.String()), escapeText(err.Error()))
		}
		r, err := b.Pull(ctx, g, s3sync.PullOptions{FS: a.FS, Dir: j.dir, Workers: workers, Progress: a.pullProgress})
		a.ui.done()
		if err != nil {
			return fmt.Errorf("%s to %s: %w", escape(j.to.String()), quote(j.dir), err)
		}
		return a.pulled(j, r, a.now().Sub(start))
	})
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

// mirrored tells what became of a job.
func (a *app) mirrored(j mirrorJob, r s3sync.MirrorResult, took time.Duration) error {
	if a.common.json {
		return a.doc.entry(a, mirrorResult{
			Repository: nameJSON(j.dir), Mirror: j.to.String(), Generation: r.Generation, Files: r.Files, Bytes: r.Bytes,
			FilesSent: r.Sent, BytesSent: r.SentBytes, Unchanged: r.Unchanged, Seconds: took.Round(time.Millisecond).Seconds(),
		})
	}
	if r.Unchanged {
		a.ui.note("%s: generation %d is up to date", escape(j.to.String()), r.Generation)
		return nil
	}
	a.ui.note("%s: generation %d, %s sent in %s, %s in all, %s", escape(j.to.String()), r.Generation,
		formatSize(r.SentBytes), plural(int64(r.Sent), "file"), formatSize(r.Bytes), formatSeconds(took))
	return nil
}

// mirrorResult is a mirrored repository in JSON.
type mirrorResult struct {
	Repository jsonName `json:"repository"`
	Mirror     string   `json:"mirror"`
	Generation uint64   `json:"generation"`
	Files      int      `json:"files"`
	Bytes      int64    `json:"bytes"`
	FilesSent  int      `json:"files_sent"`
	BytesSent  int64    `json:"bytes_sent"`
	Unchanged  bool     `json:"unchanged"`
	Seconds    float64  `json:"seconds"`
}

func (a *app) mirrorProgress(r s3sync.MirrorResult) {
	a.ui.progress(func() string {
		return fmt.Sprintf("mirroring: %s sent in %s", formatSize(r.SentBytes), plural(int64(r.Sent), "file"))
	})
}
