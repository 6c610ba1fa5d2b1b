package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

const mirrorPruneHelp = `Prune lets go of old generations of a mirror. It keeps the newest ones and what they
are based on; what only others need is dropped by this run, and deleted by a later
one, three days after it was dropped or more. So run it now and then, once a week say.
Until it is deleted, what was dropped can still be read, and raising
--keep-generations keeps it.

If the address is that of a prefix with mirrors below it, all of them are pruned, and
what a server has of its own.

Use credentials that the mirror does not have: they need to delete, and to create
manifests. The mirror's should do neither. What Object Lock holds is deleted by a run
after the lock is over.

With --mirror-key, or --root, the manifests that prune makes are signed. Who reads the
mirror with --trust passes them over unless the key is among the trusted ones; that
does no harm, as they say the same as those before them.`

const mirrorPruneExample = `  kedge mirror prune --keep-generations 12 --dry-run s3://bucket/backup
  kedge mirror prune --keep-generations 12 s3://bucket/backup/build`

// mirrorPruneOptions are those of mirror prune.
type mirrorPruneOptions struct {
	keep      int
	root, key string
	dryRun    bool
	workers   int
}

func (o *mirrorPruneOptions) flags(f *pflag.FlagSet) {
	f.IntVar(&o.keep, "keep-generations", 0, "keep the newest `N` generations")
	f.StringVar(&o.root, "root", "", "prune all mirrors below the PREFIX; the key is in `ROOT`/.kedge/state/prune_key")
	f.StringVar(&o.key, "mirror-key", "", "sign manifests with the key in `FILE`, made by the first run")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "only say what would be done")
	f.IntVar(&o.workers, "parallel", 8, "delete `N` objects at once")
}

func (o *mirrorPruneOptions) check() error {
	switch {
	case o.keep < 1:
		return usagef("option --keep-generations: how many are kept has to be said, and one at least is")
	case o.workers < 1 || o.workers > 64:
		return usagef("option --parallel: %d is not from 1 to 64", o.workers)
	}
	return nil
}

func (a *app) mirrorPruneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "prune --keep-generations N [--dry-run] s3://BUCKET/PREFIX",
		Short:   "let go of old generations of a mirror",
		Long:    mirrorPruneHelp,
		Example: mirrorPruneExample,
		Args:    cobra.ExactArgs(1),
	}
	var o mirrorPruneOptions
	o.flags(cmd.Flags())
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if err := o.check(); err != nil {
			return err
		}
		if err := a.noGeneration("how many are kept is said by --keep-generations"); err != nil {
			return err
		}
		at, err := parseBucket(args[0])
		if err != nil {
			return err
		}
		s, err := a.objects(at)
		if err != nil {
			return err
		}
		jobs, err := a.mirrorPruneJobs(ctx, s, at, o)
		if err != nil {
			return err
		}
		options := s3sync.PruneOptions{Keep: o.keep, DryRun: o.dryRun, Now: a.now, Workers: o.workers, Progress: a.mirrorPruneProgress}
		if o.root != "" && !o.dryRun {
			o.key = cmp.Or(o.key, filepath.Join(o.root, ownDir, "state", "prune_key"))
		}
		if o.key != "" && !o.dryRun {
			if options.Sign, err = a.mirrorKey(o.key); err != nil {
				return err
			}
		}
		if err := a.doc.begin(a, "mirror prune"); err != nil {
			return err
		}
		return a.each(ctx, jobs, func(j mirrorJob) error { return a.pruneMirror(ctx, s, j, options) })
	})
}

// mirrorPruneJobs lists what is to be pruned: the mirror at an address, or all below it.
func (a *app) mirrorPruneJobs(ctx context.Context, s s3sync.Objects, at bucketAt, o mirrorPruneOptions) ([]mirrorJob, error) {
	if o.root == "" {
		in, err := a.resolve(ctx, s, at)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", escape(at.String()), err)
		}
		b, err := a.bucket(s, in)
		if err != nil {
			return nil, err
		}
		_, err = b.Latest(ctx)
		if !errors.As(err, new(*repo.NotFoundError)) {
			return []mirrorJob{{to: in}}, nil // prune tells what is wrong with it
		}
	}
	names, err := s3sync.Names(ctx, s, at.prefix)
	if err == nil && len(names) == 0 {
		err = a.noMirror(ctx, s, at, &repo.NotFoundError{What: "repository", Name: at.String()})
	}
	var jobs []mirrorJob
	for _, name := range append(names, ownDir) {
		jobs = append(jobs, mirrorJob{to: at.below(name)})
	}
	return jobs, err
}

// pruneMirror prunes one mirror.
func (a *app) pruneMirror(ctx context.Context, s s3sync.Objects, j mirrorJob, o s3sync.PruneOptions) error {
	b, err := a.bucket(s, j.to)
	if err != nil {
		return err
	}
	r, err := b.Prune(ctx, o)
	a.ui.done()
	if errors.As(err, new(*repo.NotFoundError)) && strings.HasSuffix(j.to.prefix, ownDir+"/") {
		return nil // a server without anything of its own
	}
	if errors.As(err, new(*s3sync.UnsafeStoreError)) {
		err = &codedError{exitRefused, err}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", escape(j.to.String()), err)
	}
	if a.common.json {
		e := mirrorPruneResult{
			Mirror: j.to.String(), DryRun: o.DryRun, Generation: r.Generation, Generations: r.Generations,
			Dropped: r.Dropped, BytesDropped: r.DroppedBytes, Waiting: r.Waiting, BytesWaiting: r.WaitingBytes,
			Deleted: r.Deleted, BytesDeleted: r.DeletedBytes, Locked: r.Locked, BytesLocked: r.LockedBytes,
		}
		if !r.Next.IsZero() {
			e.Next = r.Next.UTC().Format(time.RFC3339)
		}
		return a.doc.entry(a, e)
	}
	line := escape(j.to.String()) + ": " + prunedText(r, o.DryRun)
	if o.DryRun {
		return a.print([]byte(line + "\n"))
	}
	a.ui.note("%s", line)
	return nil
}

// prunedText says what a prune did.
func prunedText(r s3sync.PruneResult, dry bool) string {
	parts := []string{plural(int64(r.Generations), "generation") + " kept"}
	would := ""
	if dry {
		would = "would be "
	}
	add := func(what string, n int, bytes int64) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s (%s) %s", plural(int64(n), "object"), formatSize(bytes), what))
		}
	}
	add(would+"dropped", r.Dropped, r.DroppedBytes)
	add(would+"deleted", r.Deleted, r.DeletedBytes)
	add("locked", r.Locked, r.LockedBytes)
	if r.Waiting > 0 {
		add("to be deleted by a run after "+r.Next.UTC().Format(time.RFC3339), r.Waiting, r.WaitingBytes)
	}
	if len(parts) == 1 {
		parts = append(parts, "nothing to do")
	}
	return strings.Join(parts, ", ")
}

func (a *app) mirrorPruneProgress(r s3sync.PruneResult) {
	a.ui.progress(func() string {
		return fmt.Sprintf("pruning: %s (%s) deleted", plural(int64(r.Deleted), "object"), formatSize(r.DeletedBytes))
	})
}

// mirrorPruneResult is a mirror that was pruned, in JSON.
type mirrorPruneResult struct {
	Mirror       string `json:"mirror"`
	DryRun       bool   `json:"dry_run"`
	Generation   uint64 `json:"generation,omitempty"`
	Generations  int    `json:"generations"`
	Dropped      int    `json:"dropped"`
	BytesDropped int64  `json:"bytes_dropped"`
	Waiting      int    `json:"waiting"`
	BytesWaiting int64  `json:"bytes_waiting"`
	Next         string `json:"next,omitempty"`
	Deleted      int    `json:"deleted"`
	BytesDeleted int64  `json:"bytes_deleted"`
	Locked       int    `json:"locked"`
	BytesLocked  int64  `json:"bytes_locked"`
}
