package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const rsnapshotHelp = `Import-rsnapshot saves what rsnapshot keeps: ROOT/SNAPSHOT/NAME becomes a save of NAME
that is dated as the snapshot is, ROOT/daily.0/web1 one of web1. The oldest come first.
With NAME only that one is imported. A save with the date of the snapshot is taken for
the snapshot, so an import that was interrupted can be started again.`

func (a *app) rsnapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "import-rsnapshot [-n] ROOT [NAME]",
		Short:   "save the snapshots of rsnapshot",
		Long:    rsnapshotHelp,
		Example: "  kedge import-rsnapshot -n /var/cache/rsnapshot\n  kedge import-rsnapshot /var/cache/rsnapshot web1",
		Args:    cobra.RangeArgs(1, 2),
	}
	dry := cmd.Flags().BoolP("dry-run", "n", false, "only print the commands that would do it")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		only := ""
		if len(args) == 2 {
			only = args[1]
		}
		snaps, err := a.snapshots(args[0], only)
		if err != nil {
			return err
		}
		if *dry {
			return a.printImport(snaps)
		}
		r, err := a.open(ctx, false)
		if err != nil {
			return err
		}
		defer a.closeRepo(r)
		dir, err := os.MkdirTemp("", "kedge-import-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		return a.importSnapshots(ctx, r, snaps, filepath.Join(dir, "index"))
	})
}

// snapshot is a directory that becomes a save.
type snapshot struct {
	path, name string
	date       time.Time
}

// snapshots returns the directories two levels below root, the oldest first.
func (a *app) snapshots(root, only string) (list []snapshot, err error) {
	dirs := func(dir string) ([]fs.DirEntry, error) {
		entries, err := a.FS.ReadDir(dir)
		return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.IsDir() }), err
	}
	snaps, err := dirs(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &codedError{exitNotFound, err}
	} else if err != nil {
		return nil, err
	}
	for _, s := range snaps {
		at := filepath.Join(root, s.Name())
		info, err := a.FS.Lstat(at)
		if err != nil {
			return nil, err
		}
		names, err := dirs(at)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if only != "" && n.Name() != only {
				continue
			}
			if err := repo.CheckRefName("refs/heads/" + n.Name()); err != nil {
				return nil, usagef("%s: %v", quote(filepath.Join(at, n.Name())), err)
			}
			list = append(list, snapshot{filepath.Join(at, n.Name()), n.Name(), info.ModTime().Truncate(time.Second)})
		}
	}
	slices.SortStableFunc(list, func(x, y snapshot) int { return x.date.Compare(y.date) })
	return list, nil
}

// printImport prints the commands that an import amounts to.
func (a *app) printImport(snaps []snapshot) error {
	for _, s := range snaps {
		p := shellWord(s.path + "/")
		err := a.print(fmt.Appendf(nil, "%s index -ux %s\n%s save --strip -d %d -n %s %s\n", a.name, p, a.name, s.date.Unix(), shellWord(s.name), p))
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) importSnapshots(ctx context.Context, r repository, snaps []snapshot, index string) error {
	partly := int64(0)
	dates := make(map[string]map[int64]bool) // of the saves of a name
	for _, s := range snaps {
		if dates[s.name] == nil {
			var err error
			if dates[s.name], err = datesOf(ctx, r, s.name); err != nil {
				return err
			}
		}
		if dates[s.name][s.date.Unix()] {
			a.ui.note("%s: a save of that date is there", escape(s.path))
			continue
		}
		res, err := a.update(ctx, walk{oneFileSystem: true}, index, []string{s.path + "/"}, nil)
		if err != nil {
			return err
		}
		o := saving{name: s.name, strip: true, level: -1}
		if err := o.date.Set(strconv.FormatInt(s.date.Unix(), 10)); err != nil {
			return err
		}
		opts, err := a.saveOptions(o, []string{s.path + "/"})
		if err != nil {
			return err
		}
		saved, err := a.save(ctx, r, opts, index, true)
		if err != nil {
			return err
		}
		a.ui.note("%s: %s", escape(s.path), saveLine(saved, false))
		partly += saved.Unreadable + saved.Changed + int64(res.Errors)
		dates[s.name][s.date.Unix()] = true
	}
	return unreadable(partly)
}

// datesOf returns the dates of the saves of a name.
func datesOf(ctx context.Context, r repo.Repo, name string) (map[int64]bool, error) {
	dates := make(map[int64]bool)
	refs, err := r.Refs(ctx, "refs/heads/"+name)
	if err != nil {
		return nil, err
	}
	tip := refAt(refs, "refs/heads/"+name)
	if tip.IsZero() {
		return dates, nil
	}
	return dates, repo.WalkCommits(ctx, r, tip, func(_ pack.ID, c *repo.Commit) error {
		dates[c.Author.When.Unix()] = true
		return nil
	})
}

// otherImports are commands of bup's that kedge does not have, and what does their work.
func (a *app) otherImports() (list []*cobra.Command) {
	for name, way := range map[string]string{
		"import-rdiff-backup": "'rdiff-backup restore --at TIME' each increment and save it with -d TIME: docs/bup.md has the lines",
		"import-duplicity":    "'duplicity restore --time TIME' each backup and save it with -d TIME: docs/bup.md has the lines",
	} {
		cmd := &cobra.Command{Use: name, Hidden: true}
		cmd.Flags().BoolP("dry-run", "n", false, "")
		list = append(list, a.command(cmd, func(context.Context, []string) error {
			return withHint(&codedError{exitUsage, errors.New("there is no " + name)}, way)
		}))
	}
	return list
}
