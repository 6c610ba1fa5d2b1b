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

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/repo"
)

const upkeepHelp = `Upkeep does what a server has to do by itself, as the config file says it, in this
order, for one repository after the other:

    fsck     read the packs that were not read for longest: all are within a month
    mirror   copy what is new to the object store
    prune    take saves out of histories by the rules of retention
    gc       free the room of what no save reaches

It does what is due: what has not been done since its day came last. 'kedge schedule
install' has it run every night. With TASKs only these are done, with --now whether
they are due or not, with --repo only for that repository.

Nothing that fails keeps the rest from being done. What cannot be done because somebody
saves is done the next night. A repository in which packs are damaged is neither pruned
nor collected. Whom the config names is told how it ended.`

const upkeepExample = `  kedge upkeep
  kedge upkeep --now gc
  kedge upkeep --now --repo build prune gc`

// upkeepOptions are those of upkeep.
type upkeepOptions struct {
	config string
	repos  []string
	now    bool
}

func (a *app) upkeepCommand() *cobra.Command {
	var o upkeepOptions
	cmd := &cobra.Command{
		Use:       "upkeep [--now] [--repo REPO]... [TASK]...",
		Short:     "do what a server has to do tonight",
		Long:      upkeepHelp,
		Example:   upkeepExample,
		ValidArgs: job.Tasks(),
	}
	configFlag(cmd, &o.config)
	cmd.Flags().StringArrayVar(&o.repos, "repo", nil, "only the repository `REPO`; may be repeated")
	cmd.Flags().BoolVar(&o.now, "now", false, "do it though it is not due")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		for _, task := range args {
			if !slices.Contains(job.Tasks(), task) {
				return withHint(usagef("there is no task %s", quote(task)), "the tasks are "+strings.Join(job.Tasks(), ", "))
			}
		}
		return a.runUpkeep(ctx, "upkeep", o.config, job.Plea{Tasks: args, Repos: o.repos, Now: o.now})
	})
}

// serverFlag adds --server, by which a command does its task for the whole server.
func serverFlag(cmd *cobra.Command, config *string) *bool {
	configFlag(cmd, config)
	return cmd.Flags().Bool("server", false, "do it now for all repositories of the server that the config file describes, as it says")
}

// serverConfig reads the config file of a server.
func (a *app) serverConfig(file string) (*job.Config, error) {
	c, err := a.loadConfig(file)
	if err != nil {
		return nil, err
	}
	if c.Server == nil {
		return nil, withHint(usagef("%s has no section [server]", a.configFile(file)), "it says where the repositories are, and what is to be done for them")
	}
	return c, nil
}

// runUpkeep does what a server has to do.
func (a *app) runUpkeep(ctx context.Context, command, file string, plea job.Plea) error {
	c, err := a.serverConfig(file)
	if err != nil {
		return err
	}
	s := c.Server
	for _, task := range plea.Tasks {
		if !s.Has(task) {
			return usagef("the config file does not say how to %s", task)
		}
	}
	if err := a.doc.begin(a, command); err != nil {
		return err
	}
	k, err := a.keeper(s)
	if err != nil {
		return err
	}
	whole := command == "upkeep" && len(plea.Repos)+len(plea.Tasks) == 0
	if whole {
		if err := s.Notify.TellStart(ctx); err != nil {
			a.ui.line("%s", escapeText(err.Error()))
		}
	}
	r := k.Run(ctx, plea)
	a.ui.done()
	if whole && ctx.Err() == nil {
		if err := s.Notify.Tell(ctx, a.FS, r.Notice()); err != nil {
			a.ui.line("%s", escapeText(err.Error()))
		}
	}
	return a.printUpkeep(ctx, &r)
}

// printUpkeep prints a line for each task that was done.
func (a *app) printUpkeep(ctx context.Context, r *job.UpkeepReport) error {
	for i := range r.Tasks {
		t := &r.Tasks[i]
		if a.common.json {
			if err := a.doc.entry(a, t); err != nil {
				return err
			}
			continue
		}
		if a.common.quiet && t.Exit == exitDone {
			continue
		}
		if err := a.print([]byte(escapeText(t.String()) + "\n")); err != nil {
			return err
		}
	}
	a.doc.result = upkeepResult{r.Repos, len(r.Tasks), r.Failures(), r.Seconds}
	switch {
	case r.Exit == exitDone:
		if len(r.Tasks) == 0 {
			a.ui.note("nothing was due")
		}
		return nil
	case r.Error != "" && ctx.Err() == nil:
		return &codedError{r.Exit, errors.New(r.Error)}
	}
	return &codedError{r.Exit, fmt.Errorf("%s of %d failed", plural(int64(r.Failures()), "task"), len(r.Tasks))}
}

// upkeepResult is the result of upkeep in JSON.
type upkeepResult struct {
	Repositories int     `json:"repositories"`
	Tasks        int     `json:"tasks"`
	Failed       int     `json:"failed"`
	Seconds      float64 `json:"seconds"`
}

// keeper returns what does the work of a server.
func (a *app) keeper(s *job.Server) (*job.Keeper, error) {
	k := &job.Keeper{
		FS: a.FS, Server: s, Clock: a.now, Zone: time.Local, Wait: a.common.wait, Who: a.whoami(), ExitCode: exitCode,
		Log: func(format string, args ...any) {
			if a.common.verbose > 0 {
				a.ui.line("%s", escapeText(fmt.Sprintf(format, args...)))
			}
		},
		Found: func(repository string, f repo.Finding) {
			if f.Damage() {
				a.ui.line("%s: %s", escapeText(repository), escapeText(f.String()))
			}
		},
	}
	if s.Mirror == nil {
		return k, nil
	}
	var run *mirrorRun
	at, err := parseBucket(s.Mirror.To)
	if err != nil {
		return nil, err
	}
	k.Mirror = func(ctx context.Context, name string) (string, error) {
		if run == nil {
			if run, err = a.serverMirror(s, at); err != nil {
				return "", err
			}
		}
		if name == "" {
			name = ownDir
		}
		r, err := run.one(ctx, mirrorJob{dir: filepath.Join(s.Root, name), to: at.below(name)})
		switch {
		case err != nil || r.Generation == 0:
			return "", err
		case r.Unchanged:
			return fmt.Sprintf("generation %d is up to date", r.Generation), nil
		}
		return fmt.Sprintf("generation %d, %s sent in %s, %s in all", r.Generation, formatSize(r.SentBytes), plural(int64(r.Sent), "file"),
			formatSize(r.Bytes)), nil
	}
	return k, nil
}

// serverMirror begins a run of mirror by the config file.
func (a *app) serverMirror(s *job.Server, at bucketAt) (*mirrorRun, error) {
	m := s.Mirror
	o := mirrorOptions{root: s.Root, workers: 4, lockDays: m.ObjectLockDays}
	if m.BWLimit != "" {
		if err := o.bwlimit.Set(m.BWLimit); err != nil {
			return nil, usagef("server.mirror.bwlimit: %v", err)
		}
	}
	for _, to := range m.EncryptTo {
		if filepath.IsAbs(to) {
			o.recipients = append(o.recipients, to)
		} else {
			o.encryptTo = append(o.encryptTo, to)
		}
	}
	a.reachMirror(m)
	objects, err := a.objects(at)
	if err != nil {
		return nil, err
	}
	objects.Slowest = o.slowest()
	return a.newMirrorRun(objects, at, o, "")
}

// noteTask remembers how a task ended that was done by a command of its own, if the
// repository is one of a server. What is interrupted is not remembered.
func (a *app) noteTask(ctx context.Context, dir, task string, start time.Time, failed error) error {
	if ctx.Err() != nil {
		return nil
	}
	return job.NoteTask(a.FS, filepath.Dir(dir), filepath.Base(dir), task, start, failed)
}
