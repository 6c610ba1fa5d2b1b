package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
)

const midxHelp = `Midx does nothing, and is there for scripts that call it: what kedge needs to find objects
it keeps in order itself, and it never reads the midx files that bup makes.

With --check it reads the idx files it is given, or all with -a, and compares their
checksums.`

func (a *app) midxCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "midx [-a | -f | --check] [OPTION...] [FILE...]",
		Short:   "accepted; kedge keeps its indexes in order itself",
		Long:    midxHelp,
		Example: "  kedge midx --check -a",
		Hidden:  true,
	}
	f := cmd.Flags()
	f.StringP("output", "o", "", "accepted: `FILE`")
	auto := f.BoolP("auto", "a", false, "all files of the repository")
	force := f.BoolP("force", "f", false, "accepted")
	f.BoolP("print", "p", false, "accepted")
	check := f.Bool("check", false, "compare the checksums of idx files")
	f.Int("max-files", -1, "accepted: `N`")
	dir := f.StringP("packs", "d", "", "the files are in `DIR`")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		switch {
		case *check && len(args) == 0 && !*auto:
			return usagef("if using --check, you must provide filenames or -a")
		case !*check && !*auto && !*force && len(args) == 0:
			return usagef("you must use -f or -a or provide input filenames")
		case !*check && (*auto || *force) && len(args) > 0:
			return usagef("you can't use -f/-a and also provide filenames")
		case !*check && len(args) == 0 && *dir == "":
			_, err := a.idxFiles(ctx) // that there is a repository
			return err
		case !*check:
			return nil
		}
		if len(args) == 0 {
			var err error
			if *dir != "" {
				args, err = filepath.Glob(filepath.Join(globbed(*dir), "*.idx"))
			} else {
				args, err = a.idxFiles(ctx)
			}
			if err != nil {
				return err
			}
		}
		return a.checkIdxFiles(args)
	})
}

// checkIdxFiles compares the checksums of idx files. Bup's midx files are said to be of
// no account.
func (a *app) checkIdxFiles(names []string) error {
	for _, name := range names {
		if strings.HasSuffix(name, ".midx") {
			a.ui.note("%s: kedge does not use it", escape(name))
			continue
		}
		a.ui.note("checking %s", escape(name))
		x, done, err := openIdx(name)
		if err == nil {
			err = x.CheckSum()
			_ = done()
		}
		if err != nil {
			return &codedError{exitDamaged, fmt.Errorf("%s: %w", quote(name), err)}
		}
	}
	a.ui.raw([]byte("All tests passed.\n"))
	return nil
}

const bloomHelp = `Bloom does nothing, and is there for scripts that call it: kedge makes what filters it
needs in memory, and never reads those that bup makes.

With -c it looks for every object of IDX in the repository, and fails if one is not
found.`

func (a *app) bloomCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "bloom [-c IDX] [OPTION...]",
		Short:   "accepted; kedge keeps its filters in memory",
		Long:    bloomHelp,
		Example: "  kedge bloom -c objects/pack/pack-ID.idx",
		Args:    cobra.NoArgs,
		Hidden:  true,
	}
	f := cmd.Flags()
	f.Bool("ruin", false, "accepted: there is nothing to ruin")
	f.BoolP("force", "f", false, "accepted")
	f.StringP("output", "o", "", "accepted: `FILE`")
	f.StringP("packs", "d", "", "accepted: `DIR`")
	k := f.IntP("hashes", "k", 4, "accepted: `4` or 5")
	check := f.StringP("check", "c", "", "look for the objects of `IDX`")
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		switch {
		case *k != 4 && *k != 5:
			return usagef("only k values of 4 and 5 are supported")
		case *check == "":
			_, err := a.idxFiles(ctx) // is there a repository?
			return err
		}
		return a.checkFound(ctx, *check)
	})
}

// checkFound looks for each object of an idx file.
func (a *app) checkFound(ctx context.Context, name string) error {
	r, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer a.closeRepo(r)
	lost := int64(0)
	var ids, missing []pack.ID
	ask := func() error {
		missing, err = r.Missing(ctx, missing[:0], ids)
		for _, id := range missing {
			lost++
			a.ui.line("object %v missing", id)
		}
		ids = ids[:0]
		return err
	}
	err = eachRecord(name, func(rec pack.Record) error {
		if ids = append(ids, rec.ID); len(ids) < 4096 {
			return nil
		}
		return ask()
	})
	if err == nil {
		err = ask()
	}
	if err == nil && lost > 0 {
		err = &codedError{exitDamaged, fmt.Errorf("%s: %s not found", quote(name), plural(lost, "object"))}
	}
	if err == nil {
		a.ui.raw([]byte("All tests passed.\n"))
	}
	return err
}
