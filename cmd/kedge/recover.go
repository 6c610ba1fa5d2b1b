package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/repo/restore"
)

const recoverHelp = `Recover brings an instance back on a blank machine: it restores the directories that
'kedge run' saved to where they were, loads the dumps of databases, and runs the
recover-hooks. What it has to know it finds in the saves; 'kedge kit' shows it.

What is in the way is moved aside, to NAME.before-restore-TIME, and nothing is deleted.
What was done is remembered in the state directory: cut short, the same command goes on
where it was. On a machine that was recovered before, a standby, it brings everything up
to date in place: what the save does not have is moved aside, and a dump is loaded only
if it changed.

    --from s3://BUCKET/PREFIX --repo REPO     from a mirror
    --from ssh://USER@HOST --repo REPO        from a server
    --from DIR                                from a repository on a disk

Without NAMEs, all are recovered that have a kit. NAME/SAVE is an older save. The data
and the hooks of a repository become those of this machine: recover from one that you
trust, and from a mirror with --trust.

Exit code 0: everything is back. 3: what is named in warnings is not.`

const recoverExample = `  kedge recover --dry-run --from ssh://backup@srv --repo web1
  kedge recover --from s3://bucket/backup --repo web1 --trust /root/mirror.pub
  kedge recover --from s3://bucket/backup --repo web1 --map /srv=/data/srv dir-srv-www
  kedge recover --from /mnt/disk/web1 dir-etc/2026-07-22-231500`

// recovering are the options of recover.
type recovering struct {
	from, repo, state, config           string
	maps                                []string
	numeric, noHooks, noStreams, device bool
	dryRun                              bool
}

func (o *recovering) flags(f *pflag.FlagSet) {
	f.StringVar(&o.from, "from", "", "the repository, or with --repo what it is in, is at `URL`")
	f.StringVar(&o.repo, "repo", "", "the `NAME` of the repository there")
	f.StringArrayVar(&o.maps, "map", nil, "recover what was below OLD to NEW: `OLD=NEW`; may be repeated")
	f.StringVar(&o.config, "config", "", "take the jobs from `FILE`, not from the saves")
	f.StringVar(&o.state, "state", job.DefaultState, "what is done is remembered in `DIR`")
	f.BoolVar(&o.numeric, "numeric-ids", false, "restore owners by number, not by name")
	f.BoolVar(&o.noStreams, "no-streams", false, "load no dumps")
	f.BoolVar(&o.noHooks, "no-hooks", false, "run no hooks")
	f.BoolVar(&o.device, "overwrite-devices", false, "write saved block devices to those of this machine: what is on them is lost")
	f.BoolVar(&o.dryRun, "dry-run", false, "change nothing, but say what would be done")
}

func (a *app) recoverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "recover --from URL [--repo REPO] [OPTION...] [NAME[/SAVE]]...",
		Short:   "bring an instance back on a blank machine",
		Long:    recoverHelp,
		Example: recoverExample,
	}
	var o recovering
	o.flags(cmd.Flags())
	return a.command(cmd, func(ctx context.Context, args []string) error {
		maps, err := pathMap(o.maps)
		if err != nil {
			return err
		}
		switch {
		case o.from == "" || a.common.remote != "":
			return usagef("recover needs --from URL, and takes no -r")
		case !filepath.IsAbs(o.state):
			return usagef("option --state: %s is not absolute", quote(o.state))
		}
		a.common.remote = joinAddress(o.from, o.repo)
		r, err := a.open(ctx, true)
		if err != nil {
			return err
		}
		defer a.closeRepo(r)
		rec := &job.Recovery{
			World: a.jobWorld(o.state), Repo: r, From: a.common.remote, Names: args, Map: maps, Keep: []string{a.cacheDir()},
			Options:  restore.Options{Numeric: o.numeric, Workers: a.workers(), Progress: a.restoreProgress, Warn: a.ui.warn},
			Excluded: a.kitExcludes, NoHooks: o.noHooks, NoStreams: o.noStreams, Devices: o.device, DryRun: o.dryRun,
		}
		rec.World.Log = func(format string, args ...any) { a.ui.note("%s", escapeText(fmt.Sprintf(format, args...))) }
		if o.config != "" {
			if rec.Kit, err = a.configKits(o.config); err != nil {
				return err
			}
		}
		rep, err := rec.Run(ctx)
		a.ui.done()
		a.doc.result = rep
		if err != nil {
			return a.recoverFailed(err)
		}
		return a.recovered(&rep)
	})
}

// joinAddress returns the address of a repository in a place.
func joinAddress(from, name string) string {
	switch {
	case name == "":
		return from
	case strings.HasSuffix(from, "/"), strings.HasSuffix(from, ":") && !isURL(from):
		return from + name
	}
	return from + "/" + name
}

// pathMap reads the values of --map.
func pathMap(values []string) (list [][2]string, err error) {
	for _, v := range values {
		from, to, ok := strings.Cut(v, "=")
		if !ok || !path.IsAbs(from) || !path.IsAbs(to) {
			return nil, usagef("option --map: %s is not of the form OLD=NEW, two absolute paths", quote(v))
		}
		list = append(list, [2]string{path.Clean(from), path.Clean(to)})
	}
	return list, nil
}

// kitExcludes makes what tells whether a job excluded a path.
func (a *app) kitExcludes(x *job.KitExclude) (func(path string, dir bool) bool, error) {
	ex := excludes{paths: x.Paths, rx: x.Rx, globs: x.Globs}
	matcher, err := ex.compile(a)
	if err != nil {
		return nil, err
	}
	return matcher.Match, nil
}

// configKits returns the kits that the saves of a config file would have.
func (a *app) configKits(file string) (func(name string) (job.Kit, bool), error) {
	c, err := a.loadConfig(file)
	if err != nil {
		return nil, err
	}
	kits, err := a.kits(c, file)
	if err != nil {
		return nil, err
	}
	return func(name string) (job.Kit, bool) {
		for _, k := range kits {
			if k.Name == name {
				return k, true
			}
		}
		return job.Kit{}, false
	}, nil
}

// recoverFailed says what may help if nothing could be recovered.
func (a *app) recoverFailed(err error) error {
	var none *job.NoKitError
	if errors.As(err, &none) {
		return withHint(&codedError{exitNotFound, err}, fmt.Sprintf("'%s restore -r … -C / --system NAME/latest/PATH' restores without one; --config FILE takes the jobs from a config file", a.name))
	}
	return err
}

// recovered tells what was recovered, and what was not.
func (a *app) recovered(rep *job.RecoverReport) error {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(escapeText(fmt.Sprintf(format, args...)) + "\n") }
	failed := 0
	fail := func(what, text string) {
		if text != "" {
			failed++
			a.ui.warn(what, errors.New(text))
		}
	}
	for i := range rep.Names {
		n := &rep.Names[i]
		if n.Error == "" {
			line("%s, saved %s", n.Name, n.Save.Format(time.DateTime))
		}
		fail(n.Name, n.Error)
		for _, p := range n.Paths {
			line("  %s %s%s", p.Place, p.Done, recoveredPath(&p))
			fail(p.Place, p.Error)
			failed += int(min(p.NotRestored, 1))
		}
		for _, s := range n.Streams {
			line("  stream %s %s", s.Name, s.Done)
			fail("stream "+s.Name, s.Error)
		}
	}
	for _, h := range rep.Hooks {
		line("hook of %s: %s", h.Job, h.Done)
		fail("hook of "+h.Job, h.Error)
	}
	if !a.common.json && !a.common.quiet {
		if err := a.print([]byte(b.String())); err != nil {
			return err
		}
	}
	if !rep.Complete() {
		return withHint(&partialError{"not everything is back: see the warnings above"}, "when the cause is gone, the same command does the rest")
	}
	return nil
}

// recoveredPath says what became of a path.
func recoveredPath(p *job.RecoveredPath) string {
	if p.Error != "" {
		return ""
	}
	var parts []string
	if p.Files > 0 || p.Kept > 0 {
		parts = append(parts, plural(p.Files, "file")+" written ("+formatSize(p.Bytes)+"), "+formatCount(p.Kept)+" left alone")
	}
	if p.NotRestored > 0 {
		parts = append(parts, plural(p.NotRestored, "item")+" not, or not fully, restored")
	}
	switch {
	case p.Aside != "" && p.Moved == 0:
		parts = append(parts, "what is there would be moved to "+p.Aside)
	case p.Aside != "":
		parts = append(parts, "what was in the way is in "+p.Aside)
	}
	if parts == nil {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}
