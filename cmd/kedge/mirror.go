package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

const mirrorHelp = `Mirror copies repositories to an object store that speaks S3, and makes each of them
there a repository as it was at one moment: a generation. Only what is not there yet is
sent. What is there is never changed and never deleted.

With --root every repository below ROOT is mirrored to the PREFIX with its name behind;
without, the repository of this run is mirrored to the PREFIX itself. A mirror can be read
like any repository, with -r s3://BUCKET/PREFIX/REPO and no download first.

Credentials come from the environment, from the files that AWS tools share, or from the
role of the instance. The key needs to put, get and list.`

const mirrorExample = `  kedge mirror --root /srv/backup s3://bucket/backup
  kedge ls -r s3://bucket/backup/build etc/latest/
  kedge restore -r s3://bucket/backup/build -C /tmp/x etc/latest/etc
  kedge mirror --dir /srv/backup/build --endpoint https://s3.example.org s3://bucket/build`

func (a *app) mirrorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "mirror [--root ROOT] s3://BUCKET/PREFIX",
		Short:   "copy repositories to an object store",
		Long:    mirrorHelp,
		Example: mirrorExample,
		Args:    cobra.ExactArgs(1),
	}
	root := cmd.Flags().String("root", "", "mirror every repository in the directory `ROOT`")
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
		jobs, err := a.mirrorJobs(*root, at)
		if err != nil {
			return err
		}
		return a.mirror(ctx, s, jobs, *workers)
	})
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
func (a *app) mirror(ctx context.Context, s s3sync.Objects, jobs []mirrorJob, workers int) error {
	if err := a.doc.begin(a, "mirror"); err != nil {
		return err
	}
	var first error
	failed := 0
	for _, j := range jobs {
		start := a.now()
		b := &s3sync.Bucket{Objects: s, Prefix: j.to.prefix}
		r, err := b.Mirror(ctx, s3sync.MirrorOptions{
			FS: a.FS, Dir: j.dir, Workers: workers, Now: a.now, Progress: a.mirrorProgress,
		})
		a.ui.done()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			err = fmt.Errorf("%s to %s: %w", quote(j.dir), escape(j.to.String()), err)
			if failed++; first == nil {
				first = err
			} else {
				a.ui.line("error: %v", err)
			}
			continue
		}
		if err := a.mirrored(j, r, a.now().Sub(start)); err != nil {
			return err
		}
	}
	if failed > 1 {
		return errors.Join(first, fmt.Errorf("%d of %d repositories were not mirrored", failed, len(jobs)))
	}
	return first
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
