package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/repo/save"
)

const backupHelp = `Backup does all that a backup needs: it makes the repository if there is none, looks
at every PATH (index), saves what changed (save), and prints what it did. NAME is the
name of this host unless -n says another.

What could not be read is named and left out, the rest is saved, and the exit code is 3.
Run it every night, with -q from cron: then it is silent unless something is wrong.

It takes the options of index, save and init.`

const backupExample = `  kedge backup /etc /home
  kedge -d /mnt/disk/backup backup -q -x --exclude-caches /
  kedge backup -n db --stream 'dump.sql=mysqldump --all-databases' /etc/mysql`

func (a *app) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "backup [-n NAME] [OPTION...] PATH...",
		Short:   "make the repository if needed, index and save in one step",
		Long:    backupHelp,
		Example: backupExample,
	}
	var s saving
	var w walk
	var n newRepo
	s.flags(cmd)
	w.flags(cmd)
	n.flags(cmd)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if s.name == "" {
			s.name = hostname()
		}
		o, err := a.saveOptions(s, args)
		if err != nil {
			return err
		}
		if len(o.Roots) == 0 && len(o.Streams) == 0 {
			return usagef("backup needs a PATH or a stream")
		}
		return a.backup(ctx, s, w, n, o, args)
	})
}

// backup makes the repository, updates the index and saves.
func (a *app) backup(ctx context.Context, s saving, w walk, n newRepo, o save.Options, args []string) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	if s.indexFile == "" {
		s.indexFile = indexPath(home)
	}
	if len(args) > 0 {
		if _, _, err := a.sources(args); err != nil {
			return err // before a repository is made for nothing
		}
	}
	r, err := a.openOrCreate(ctx, n)
	if err != nil {
		return err
	}
	defer a.closeRepo(r)
	if err := mayMove(r, "refs/heads/"+o.Name); err != nil && o.Name != "" {
		return err
	}
	var seen index.Result
	if len(args) > 0 {
		if seen, err = a.update(ctx, w, s.indexFile, args, nil); err != nil {
			return err
		}
	}
	res, err := a.save(ctx, r, o, s.indexFile, false)
	if err != nil {
		return err
	}
	a.doc.result = backupResult{saveJSON(o, res), updateJSON(seen)}
	if err := a.printIDs(s, res); err != nil {
		return err
	}
	if !a.common.quiet && !a.common.json {
		if err := a.print(backupSummary(o, seen, res)); err != nil {
			return err
		}
	}
	if err := saveOutcome(res); err != nil {
		return err
	}
	return unreadable(int64(seen.Errors))
}

// backupResult is the result of backup in JSON.
type backupResult struct {
	saveResult
	Index updateResult `json:"index"`
}

// backupSummary is what backup prints at its end.
func backupSummary(o save.Options, seen index.Result, r save.Result) []byte {
	var b bytes.Buffer
	width, stored := len("deduplicated")+2, storedWord(o.DryRun)
	if o.DryRun {
		width = len(stored) + 2
	}
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-*s%s\n", width, what, fmt.Sprintf(format, args...))
	}
	commit := r.Commit.String()
	if len(commit) > 12 {
		commit = commit[:12]
	}
	if o.DryRun {
		line("not saved", "%s (dry run)", o.Name)
	} else {
		line("saved", "%s, commit %s", o.Name, commit)
	}
	line("files", "%s in %s, %s", formatCount(r.Files), pluralOf(r.Dirs, "directory", "directories"), formatSize(r.Bytes))
	if len(o.Roots) > 0 {
		line("changes", "%s new, %s changed, %s gone", formatCount(int64(seen.New)),
			formatCount(int64(seen.Changed)), formatCount(int64(seen.Gone)))
	}
	line("read", "%s in %s", formatSize(r.BytesRead), plural(r.FilesRead, "file"))
	line("new", "%s", formatSize(r.BytesNew))
	line("deduplicated", "%s", formatSize(r.BytesDedup))
	line(stored, "%s in %s", formatSize(r.BytesStored), plural(r.ObjectsStored, "object"))
	line("time", "%s", formatSeconds(r.Elapsed))
	return b.Bytes()
}
