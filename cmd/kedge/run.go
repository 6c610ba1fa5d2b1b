package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/job"
)

const runHelp = `Run does a night's work of the jobs in the config file, all of them or those that
are named: the hooks, the dumps of databases, the walk and the saves. Each part of a
job is saved under a NAME of its own, and a part that fails does not keep the others
from being saved.

What a hook has stopped is started again, whatever happens to the run: the hooks
resume and finally are run by a guardian process if the run is killed, and by
--make-good, which the system runs at boot, if everything was.

With --restore it reads the dump STREAM of a save again into what it was made from, with
the command that belongs to its preset, or that the config names. It says what it will
do first. A database or file that is not empty is refused; with --force it is moved
aside, to a name with the time in it, or what is in it is dumped to a file before.

It prints one line for each job, or with --json all there is to say. The exit code is 0
if everything was saved, 3 if files could not be read, and that of the worst failure
otherwise.`

const runExample = `  kedge run
  kedge run etc databases
  kedge --config ./kedge.toml run -v --now etc
  kedge run --make-good
  kedge run --restore bugs --dry-run
  kedge run databases --restore bugs@2026-07-22-231500`

func (a *app) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "run [--now] [--make-good] [--restore STREAM[@SAVE]] [JOB]...",
		Short:   "do the night's work that the config file says",
		Long:    runHelp,
		Example: runExample,
	}
	var file string
	configFlag(cmd, &file)
	now := cmd.Flags().Bool("now", false, "begin at once, without the job's jitter")
	good := cmd.Flags().Bool("make-good", false, "only run what interrupted runs left undone")
	var again reversing
	cmd.Flags().StringVar(&again.stream, "restore", "", "read a dump again: `STREAM`, or STREAM@SAVE")
	cmd.Flags().BoolVar(&again.force, "force", false, "with --restore: also into what is not empty")
	cmd.Flags().BoolVar(&again.dryRun, "dry-run", false, "with --restore: only say what would be done")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		c, err := a.loadConfig(file)
		if err != nil {
			return err
		}
		if again.stream != "" {
			return a.reverse(ctx, c, args, again)
		}
		if again.force || again.dryRun {
			return usagef("--force and --dry-run go with --restore")
		}
		w := a.jobWorld(c.State)
		if *good {
			made, err := job.MakeGood(ctx, w)
			for _, name := range made {
				a.ui.line("%s: resume and finally were run", escape(name))
			}
			return err
		}
		jobs, err := c.Select(args)
		if err != nil {
			return usagef("%v", err)
		}
		kits, err := a.kits(c, a.configFile(file))
		if err != nil {
			return err
		}
		w.Save = func(ctx context.Context, j *job.Job, p *job.Plan) (job.Saved, error) {
			return a.savePart(ctx, w.State, j, p, kits)
		}
		if err := a.doc.begin(a, "run"); err != nil {
			return err
		}
		worst := exitDone
		for _, j := range jobs {
			if *now {
				j.Jitter = 0
			}
			code, err := a.runJob(ctx, w, &j)
			if err != nil {
				return err
			}
			if worst == exitDone || worst == exitPartial && code != exitDone {
				worst = code
			}
		}
		switch worst {
		case exitDone:
			return nil
		case exitPartial:
			return &partialError{"not everything could be read; the rest was saved"}
		}
		return &codedError{worst, errors.New("not every job was done; what was saved is safe")}
	})
}

// configFlag adds --config.
func configFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "config", "", "the config is `FILE` (default: $KEDGE_CONFIG, /etc/kedge/kedge.toml, ~/.config/kedge/kedge.toml)")
}

// configFile returns the config file that is meant.
func (a *app) configFile(file string) string {
	if file != "" {
		return file
	}
	if file := a.Env("KEDGE_CONFIG"); file != "" {
		return file
	}
	const system = "/etc/kedge/kedge.toml"
	if _, err := a.FS.Lstat(system); err == nil {
		return system
	}
	base := a.Env("XDG_CONFIG_HOME")
	if base == "" && a.Env("HOME") != "" {
		base = filepath.Join(a.Env("HOME"), ".config")
	}
	if base != "" {
		if own := filepath.Join(base, "kedge", "kedge.toml"); a.exists(own) {
			return own
		}
	}
	return system
}

func (a *app) exists(file string) bool {
	_, err := a.FS.Lstat(file)
	return err == nil
}

// loadConfig reads the config file.
func (a *app) loadConfig(file string) (*job.Config, error) {
	file = a.configFile(file)
	c, err := job.Load(a.FS, file)
	return c, configError(err)
}

// configError says what to do about a config file that cannot be read.
func configError(err error) error {
	if err == nil {
		return nil
	}
	hint := "'kedge config init' prints a config file for this host"
	if errors.As(err, new(*job.ConfigError)) {
		hint = "'kedge config check' says all that is wrong"
	}
	return withHint(&codedError{exitUsage, err}, hint)
}

// jobWorld is what runs of jobs need of this program.
func (a *app) jobWorld(state string) *job.World {
	self, err := os.Executable()
	if err != nil {
		self = "kedge"
	}
	errFile, ok := a.Stderr.(*os.File)
	if !ok {
		errFile = os.Stderr
	}
	return &job.World{
		FS: a.FS, Stderr: errFile, Env: os.Environ(), Self: []string{self, "guard"}, State: state, Now: a.now,
		ExitCode: exitCode,
		Log: func(format string, args ...any) {
			if a.common.verbose > 0 {
				a.ui.line("%s", escapeText(fmt.Sprintf(format, args...)))
			}
		},
	}
}

// runJob runs one job and tells of it. Its failure is in the exit code alone: the other jobs
// go on.
func (a *app) runJob(ctx context.Context, w *job.World, j *job.Job) (int, error) {
	plans, err := j.Plans(hostname())
	if err != nil {
		return exitUsage, usagef("job %s: %v", j.Job, err)
	}
	if err := j.Notify.TellStart(ctx); err != nil {
		a.ui.line("%s: %s", escape(j.Job), escapeText(err.Error()))
	}
	rep, err := job.Run(ctx, w, j, plans)
	a.ui.done()
	if err != nil {
		a.ui.line("%s: %s", escape(j.Job), escapeText(err.Error()))
	}
	for _, p := range rep.Parts { // unreadable files were named as they were met
		if p.Error != "" && p.Exit != exitPartial && a.common.verbose == 0 && (err == nil || p.Error != err.Error()) {
			a.ui.line("%s: %s", escape(p.Name), escapeText(p.Error))
		}
	}
	if nerr := job.Tell(ctx, w, j, &rep); nerr != nil {
		a.ui.line("%s: %s", escape(j.Job), escapeText(nerr.Error()))
	}
	if a.common.json {
		return rep.Exit, a.doc.entry(a, rep)
	}
	if a.common.quiet && rep.Exit == exitDone {
		return rep.Exit, ctx.Err()
	}
	return rep.Exit, errors.Join(a.print([]byte(reportLine(&rep)+"\n")), ctx.Err())
}

// reportLine sums a run up.
func reportLine(r *job.Report) string {
	var files, read, stored, unreadable int64
	var failed []string
	for _, p := range r.Parts {
		files += p.Files
		read += p.BytesRead
		stored += p.Stored
		unreadable += p.Unreadable
		if p.Exit != exitDone && p.Exit != exitPartial {
			failed = append(failed, p.Name)
		}
	}
	s := fmt.Sprintf("%s: exit %d, %s, %s, %s read, %s stored, %s", escape(r.Job), r.Exit, plural(int64(len(r.Parts)), "save"),
		plural(files, "file"), formatSize(read), formatSize(stored), formatSeconds(time.Duration(r.Seconds*float64(time.Second))))
	if unreadable > 0 {
		s += ", " + plural(unreadable, "path") + " unreadable"
	}
	if len(failed) > 0 {
		s += ", not saved: " + escapeText(strings.Join(failed, " "))
	}
	return s
}

// savePart walks and saves one part of a job, with the kit that is its own.
func (a *app) savePart(ctx context.Context, state string, j *job.Job, p *job.Plan, kits []job.Kit) (job.Saved, error) {
	a.reachJob(state, j)
	if err := a.FS.MkdirAll(a.common.dir, 0o700); err != nil {
		return job.Saved{}, err
	}
	file := filepath.Join(a.common.dir, "index")
	s := saving{name: p.Name, graft: p.Scope.Graft, level: -1, indexFile: file}
	if j.BWLimit != "" {
		if err := s.bwlimit.Set(j.BWLimit); err != nil {
			return job.Saved{}, usagef("job %s: bwlimit: %v", j.Job, err)
		}
	}
	o, err := a.saveOptions(s, p.Paths)
	if err != nil {
		return job.Saved{}, err
	}
	for i := range p.Streams {
		o.Streams = append(o.Streams, a.jobStream(&p.Streams[i]))
	}
	kit, err := a.kitStreams(kits, j, p)
	if err != nil {
		return job.Saved{}, err
	}
	o.Streams = append(o.Streams, kit...)
	r, err := a.openOrCreate(ctx, newRepo{})
	if err != nil {
		return job.Saved{}, err
	}
	defer a.closeRepo(r)
	if err := mayMove(r, "refs/heads/"+o.Name); err != nil {
		return job.Saved{}, err
	}
	var seen index.Result
	if len(p.Paths) > 0 {
		w := walk{oneFileSystem: p.Scope.OneFileSystem, exclude: excludes{
			paths: p.Scope.Exclude, rx: p.Scope.ExcludeRx, globs: p.Scope.ExcludeGlob, ifPresent: p.Scope.ExcludeIfPresent,
			caches: p.Scope.ExcludeCaches,
		}}
		if p.Scope.ExcludeFrom != "" {
			w.exclude.pathsFrom = []string{p.Scope.ExcludeFrom}
		}
		if seen, err = a.update(ctx, w, file, p.Paths, nil); err != nil {
			return job.Saved{}, err
		}
	}
	res, err := a.save(ctx, r, o, file, false)
	if err != nil {
		return job.Saved{}, err
	}
	saved := job.Saved{Commit: res.Commit.String(), Files: res.Files, Bytes: res.Bytes, BytesRead: res.BytesRead, BytesNew: res.BytesNew,
		Stored: res.BytesStored, Unreadable: res.Unreadable}
	return saved, errors.Join(saveOutcome(res), unreadable(int64(seen.Errors)))
}

// reachJob makes the repository of a job that of this run, and keeps its index apart: an index
// is locked while it is used, and jobs may run at the same time. Nothing is made here: who only
// looks may not be allowed to. state is a parameter, as a field that is not set yet would lead to
// the working directory.
func (a *app) reachJob(state string, j *job.Job) {
	a.common.dir, a.common.remote = filepath.Join(state, "jobs", j.Job), j.Repository
	a.common.reach.ssh, a.common.reach.knownHosts, a.common.reach.keys = j.SSH, j.KnownHosts, nil
	if j.SSHKey != "" {
		a.common.reach.keys = []string{j.SSHKey}
	}
	a.common.store.endpoint, a.common.store.region = j.Endpoint, j.Region
}

// guardCommand is the guardian, which job.Run starts.
func (a *app) guardCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "guard --state DIR JOB", Hidden: true, Args: cobra.ExactArgs(1)}
	state := cmd.Flags().String("state", job.DefaultState, "what is remembered is in `DIR`")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		a.common.verbose = 1
		// What ends the run is not what ends the guardian: a terminal's ^C, a unit's stop.
		return job.Guard(context.WithoutCancel(ctx), a.jobWorld(*state), args[0], a.Stdin)
	})
}
