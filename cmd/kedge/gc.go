package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/repo/gc"
)

const gcHelp = `Gc frees the room of what no save reaches any more. It may run at any time: saves that
are under way are waited for (--wait), and nothing is deleted that a save of the last
72 hours might still need. What it takes away stands in the trash of the repository for
72 hours; the run after that deletes it.

What prune left out is kept for 14 days, and so is what an interrupted save has sent.

--now ends these graces, for a disk that is full: it deletes at once, needs room for one
pack only, and says which prunes can no longer be undone. It has to be confirmed with
--yes. So has a run that finds less than 70 % of what was live the last time.

Bup and git do not say what they rely on. In a repository that bup made --now therefore
needs --unsafe as well, which says that neither is at work there. Under the name bup,
--unsafe is always asked for, and no --yes.

With --server it collects in all repositories of the server that the config describes.`

const gcExample = `  kedge gc
  kedge gc --dry-run
  kedge gc --dir /srv/backup/build --wait 1h
  kedge gc --now --yes`

func (a *app) gcCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "gc [--now] [--yes] [--dry-run]",
		Short:   "free the room of what no save reaches",
		Long:    gcHelp,
		Example: gcExample,
		Args:    cobra.NoArgs,
	}
	var o gc.Options
	f := cmd.Flags()
	f.BoolVar(&o.Now, "now", false, "delete at once, and end the time in which a prune can be undone")
	f.BoolVar(&o.Yes, "yes", false, "confirm what would be refused without")
	f.BoolVarP(&o.DryRun, "dry-run", "n", false, "only say what would be done")
	f.IntVar(&o.Threshold, "threshold", 10, "write packs of data anew of which `PERCENT` is garbage")
	unsafe := a.unsafeFlags(cmd)
	f.Lookup("unsafe").Usage = "no bup and no git is at work: --now needs it in a repository that bup made; bup asks for it"
	f.Bool("ignore-missing", false, "")
	f.Lookup("ignore-missing").Hidden = true // refused below
	var config string
	server := serverFlag(cmd, &config)
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		if err := a.checkGC(cmd, *unsafe, o.Threshold); err != nil {
			return err
		}
		// Under the name bup --unsafe is all the word there is.
		o.Alone, o.Yes = *unsafe, o.Yes || a.name == "bup"
		if *server {
			if o.Now || o.Yes || o.DryRun || *unsafe {
				return usagef("--server does what the config file says: --now, --yes, --unsafe and --dry-run are for one repository")
			}
			return a.runUpkeep(ctx, "gc", config, job.Plea{Tasks: []string{job.TaskGC}, Now: true})
		}
		p, err := a.openOwn(ctx, "gc")
		if err != nil {
			return err
		}
		defer a.closeRepo(directory{p})
		o.Wait, o.Progress = a.common.wait, a.gcProgress
		start := a.now()
		r, err := gc.Run(ctx, p, o)
		a.ui.done()
		if !o.DryRun && p.Path() != "" {
			err = errors.Join(err, a.noteTask(ctx, p.Path(), job.TaskGC, start, err))
		}
		a.doc.result = gcResult{r.Packs, r.Live, r.Dead, r.Rewritten, r.Retired, r.Written, r.Deleted, r.Freed, r.Rescued, r.Waiting,
			a.now().Sub(start).Round(time.Millisecond).Seconds()}
		for _, l := range r.Lost {
			if o.Now && a.chatty() {
				a.ui.line("a prune of %s at %s cannot be undone after this", escapeText(l.Ref), l.Time.Format(time.RFC3339))
			}
		}
		var busy *gc.BusyError
		var refused *gc.RefusedError
		switch {
		case errors.As(err, &busy):
			return &codedError{exitBusy, withHint(err, "--wait 1h waits longer; nothing was lost")}
		case errors.As(err, &refused) && refused.Err == nil:
			return &codedError{exitFailed, err}
		case err != nil:
			return err
		}
		if o.DryRun {
			return a.conclude("%s in %s: %s live, %s to be freed", plural(int64(r.Packs), "pack"), formatSize(r.Live+r.Dead), formatSize(r.Live), formatSize(r.Dead))
		}
		if a.chatty() {
			a.ui.note("%s", gcLine(r))
		}
		if !p.Config().Living || a.common.remote == "" {
			return nil
		}
		b, err := a.collectBucket(ctx)
		if err == nil && a.chatty() {
			a.ui.note("in the bucket: %s let go of, %s wait to be deleted, %s deleted, %s freed",
				plural(int64(b.Dropped), "object"), formatSize(b.WaitingBytes+b.DroppedBytes), plural(int64(b.Deleted), "object"), formatSize(b.DeletedBytes))
		}
		return err
	})
}

// checkGC refuses options that make no sense, or that kedge has not.
func (a *app) checkGC(cmd *cobra.Command, unsafe bool, threshold int) error {
	switch {
	case cmd.Flags().Changed("ignore-missing"):
		return withHint(usagef("option --ignore-missing is not there: of what refers to missing objects nothing is deleted"),
			"kedge fsck tells which saves lack something; 'rm' takes them out")
	case threshold < 1 || threshold > 100:
		return usagef("option --threshold: %d is no percentage", threshold)
	}
	return a.checkUnsafe(unsafe)
}

// gcLine sums a collection up in one line.
func gcLine(r gc.Result) string {
	s := fmt.Sprintf("%s live; %s taken away", formatSize(r.Live), plural(int64(r.Retired), "pack"))
	if r.Rewritten > 0 {
		s += fmt.Sprintf(", %d of them written anew in %s", r.Rewritten, formatSize(r.Written))
	}
	if r.Rescued > 0 {
		s += fmt.Sprintf("; %s brought back from the trash", plural(int64(r.Rescued), "object"))
	}
	s += fmt.Sprintf("; %s deleted, %s freed", plural(int64(r.Deleted), "pack"), formatSize(r.Freed))
	if r.Waiting > 0 {
		s += fmt.Sprintf("; %s wait in the trash", plural(int64(r.Waiting), "pack"))
	}
	return s
}

func (a *app) gcProgress(r gc.Result) {
	a.ui.progress(func() string {
		return fmt.Sprintf("collecting: %s looked at, %s written anew", plural(r.Trees, "tree"), plural(int64(r.Rewritten), "pack"))
	})
}

// gcResult is the result of gc in JSON.
type gcResult struct {
	Packs     int     `json:"packs"`
	Live      int64   `json:"bytes_live"`
	Dead      int64   `json:"bytes_dead"`
	Rewritten int     `json:"packs_rewritten"`
	Retired   int     `json:"packs_retired"`
	Written   int64   `json:"bytes_written"`
	Deleted   int     `json:"packs_deleted"`
	Freed     int64   `json:"bytes_freed"`
	Rescued   int     `json:"objects_rescued"`
	Waiting   int     `json:"packs_waiting"`
	Seconds   float64 `json:"seconds"`
}
