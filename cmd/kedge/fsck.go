package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/repo"
)

const fsckHelp = `Fsck reads everything that is stored and checks it: each pack and its index against
their checksums, each object against its id, and that each save has all it refers to.
What is damaged is listed, then the saves and paths that it affects, and the exit code
is 5. Nothing is repaired, and nothing is removed.

With --quick only the checksums of the files are checked, and that each name leads to
something. With NAME or NAME/SAVE only what these reach is.

With --server it reads tonight's share of the packs of all repositories of the server
that the config describes: those that were not read for longest.

-v also lists what is no damage: index files that can be made again, names that git or
bup moved, files that belong nowhere.`

const fsckExample = `  kedge fsck
  kedge fsck --quick
  kedge fsck web1 db/latest`

func (a *app) fsckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "fsck [--quick] [-v] [NAME[/SAVE]]...",
		Short:             "check everything that is stored",
		Long:              fsckHelp,
		Example:           fsckExample,
		ValidArgsFunction: a.completeSaved,
	}
	quick := cmd.Flags().Bool("quick", false, "check the checksums of the files only")
	parity := a.parityFlags(cmd.Flags())
	var config string
	server := serverFlag(cmd, &config)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if err := parity(); err != nil {
			return err
		}
		if *server {
			if *quick || len(args) > 0 {
				return usagef("--server does what the config file says: --quick and names are for one repository")
			}
			return a.runUpkeep(ctx, "fsck", config, job.Plea{Tasks: []string{job.TaskFsck}, Now: true})
		}
		if *quick && len(args) > 0 {
			return usagef("--quick checks whole files: it does not go with names")
		}
		r, err := a.openToCheck(ctx)
		if err != nil {
			return err
		}
		if len(args) > 0 {
			defer a.closeRepo(r)
		} else {
			defer r.Close() // what there is to warn of was found, and listed
		}
		return a.fsck(ctx, r, *quick, args)
	})
}

// openToCheck opens a repository in which a check may note what it has proved;
// one that cannot be written to is checked all the same.
func (a *app) openToCheck(ctx context.Context) (repository, error) {
	if p, err := a.place(); err == nil && p.scheme == "s3" {
		return a.open(ctx, true)
	}
	r, err := a.open(ctx, false)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return a.open(ctx, true)
	}
	return r, err
}

func (a *app) fsck(ctx context.Context, r repository, quick bool, names []string) error {
	start := a.now()
	if err := a.doc.begin(a, "fsck"); err != nil {
		return err
	}
	var printed error
	res, err := r.Check(ctx, repo.CheckOptions{
		Quick: quick, Names: names, Workers: a.workers(), Progress: a.fsckProgress,
	}, func(f repo.Finding) {
		if perr := a.finding(f); printed == nil {
			printed = perr
		}
	})
	a.ui.done()
	if err != nil {
		return err
	}
	a.doc.result = fsckResult{res.Packs, res.Objects, res.Bytes, res.Trees, res.Damage, res.Notes,
		a.now().Sub(start).Round(time.Millisecond).Seconds()}
	if res.Damage > 0 {
		return &codedError{exitDamaged, fmt.Errorf("the repository is damaged: %s", plural(res.Damage, "finding"))}
	}
	a.ui.note("no damage%s, %s", checked(quick, res), formatSeconds(a.now().Sub(start)))
	return printed
}

// checked says what was read.
func checked(quick bool, r repo.CheckResult) string {
	if quick {
		return fmt.Sprintf(" to files: %s of %s; objects were not looked at", plural(r.Packs, "pack"), formatSize(r.Bytes))
	}
	return fmt.Sprintf(": %s, %s of %s", plural(r.Packs, "pack"), plural(r.Objects, "object"), formatSize(r.Bytes))
}

// finding prints one thing that was found.
func (a *app) finding(f repo.Finding) error {
	if a.common.json {
		return a.doc.entry(a, findingJSON(f))
	}
	if !f.Damage() && a.common.verbose == 0 {
		return nil
	}
	// The file is on standard output before the next is read: whoever looks on
	// at a check of hours wants to know.
	if err := a.print([]byte(escapeText(f.String()) + "\n")); err != nil {
		return err
	}
	return a.out.Flush()
}

func (a *app) fsckProgress(p repo.CheckResult) {
	a.ui.progress(func() string {
		s := fmt.Sprintf("checking: %s, %s", plural(p.Packs, "pack"), formatSize(p.Bytes))
		if p.Objects > 0 {
			s += fmt.Sprintf(" in %s, %s", plural(p.Objects, "object"), plural(p.Trees, "tree"))
		}
		if p.Damage > 0 {
			s += ", " + plural(p.Damage, "finding")
		}
		return s
	})
}

// fsckResult is the result of fsck in JSON.
type fsckResult struct {
	Packs   int64   `json:"packs"`
	Objects int64   `json:"objects"`
	Bytes   int64   `json:"bytes"`
	Trees   int64   `json:"trees"`
	Damage  int64   `json:"damage"`
	Notes   int64   `json:"notes"`
	Seconds float64 `json:"seconds"`
}

// fsckEntry is a finding of fsck in JSON.
type fsckEntry struct {
	Kind       string `json:"kind"`
	Damage     bool   `json:"damage"`
	File       string `json:"file,omitempty"`
	Offset     int64  `json:"offset,omitempty"`
	Object     string `json:"object,omitempty"`
	Ref        string `json:"ref,omitempty"`
	Newest     string `json:"newest,omitempty"`
	Oldest     string `json:"oldest,omitempty"`
	Saves      int    `json:"saves,omitempty"`
	Path       string `json:"path,omitempty"`
	PathBase64 string `json:"path_base64,omitempty"`
	Reason     string `json:"reason,omitempty"`
}

func findingJSON(f repo.Finding) fsckEntry {
	p := nameJSON(f.Path)
	e := fsckEntry{Kind: string(f.Kind), Damage: f.Damage(), File: f.File, Ref: f.Ref, Newest: f.Newest, Oldest: f.Oldest,
		Saves: f.Saves, Path: p.Text, PathBase64: p.Base64, Reason: f.Reason}
	if f.Offset > 0 {
		e.Offset = f.Offset
	}
	if !f.Object.IsZero() {
		e.Object = f.Object.String()
	}
	return e
}
