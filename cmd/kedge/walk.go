package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/index"
)

// This file is the walk over the sources, which index and backup share.

// walk are the options that say what a walk passes over.
type walk struct {
	oneFileSystem bool
	noCheckDevice bool
	exclude       excludes
}

func (w *walk) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&w.oneFileSystem, "one-file-system", "x", false, "do not enter other file systems")
	f.BoolVar(&w.oneFileSystem, "xdev", false, "")
	f.Lookup("xdev").Hidden = true
	f.BoolVar(&w.noCheckDevice, "no-check-device", false, "a device number alone is no change")
	w.exclude.flags(cmd)
}

// update walks the paths and brings an index up to date. more may change the
// options first.
func (a *app) update(ctx context.Context, w walk, file string, args []string, more func(*index.Options)) (index.Result, error) {
	var none index.Result
	ex, err := w.exclude.compile(a)
	if err != nil {
		return none, err
	}
	roots, covered, err := a.sources(args)
	if err != nil {
		return none, err
	}
	o := index.Options{
		FS:            a.FS,
		File:          file,
		Roots:         roots,
		OneFileSystem: w.oneFileSystem,
		NoCheckDevice: w.noCheckDevice,
		Exclude:       ex,
		Wait:          a.common.wait,
		Now:           a.now,
		Warn:          a.ui.warn,
		SetAside: func(damage error) {
			a.ui.line("the index is damaged (%s): it is set aside as %s and made anew, so all is read again",
				escapeText(damage.Error()), escape(index.DamagedName(file)))
		},
		Progress: func(n uint64) {
			a.ui.progress(func() string { return "indexing: " + plural(int64(n), "path") })
		},
	}
	if o.Skip, err = a.own(file); err != nil {
		return none, err
	}
	if more != nil {
		more(&o)
	}
	res, err := index.Update(ctx, o)
	a.ui.done()
	for _, p := range covered {
		a.ui.warn(p, fs.ErrNotExist)
		res.Errors++
	}
	if err != nil {
		return res, indexError(file, err)
	}
	a.ui.note("indexed %s: %s new, %s changed, %s gone", plural(int64(res.Paths), "path"),
		formatCount(int64(res.New)), formatCount(int64(res.Changed)), formatCount(int64(res.Gone)))
	return res, nil
}

// sources resolves the paths to be walked. One that is not there is left to
// the walk, which names it and notes that it is gone; if none is there at all,
// that is surely a mistake, and the index is left as it is. The walk does not see
// those that lie below another path: covered are those of them that are not there.
func (a *app) sources(args []string) (roots, covered []string, err error) {
	roots = make([]string, len(args))
	var missing []string
	for i, arg := range args {
		if roots[i], err = sourcePath(arg); err != nil {
			return nil, nil, err
		}
		if _, err := a.FS.Lstat(roots[i]); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			missing = append(missing, roots[i])
		}
	}
	for _, p := range missing {
		if slices.ContainsFunc(roots, func(r string) bool { return r != p && index.Within(p, r) }) {
			covered = append(covered, p)
		}
	}
	if len(missing) == len(args) {
		return nil, nil, &codedError{exitNotFound, &fs.PathError{Op: "index", Path: escape(args[0]), Err: fs.ErrNotExist}}
	}
	return roots, covered, nil
}

// own returns what a walk must never list: the repository, the index and what
// stands with it. DIR may be a directory of which only a part is ours.
func (a *app) own(file string) ([]string, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	mine := []string{filepath.Dir(file)}
	if file != indexPath(home) {
		mine = []string{file, filepath.Join(home, "kedge")}
	}
	for _, p := range []string{home, filepath.Join(home, ".git")} {
		if _, err := a.FS.Lstat(filepath.Join(p, "objects")); err == nil {
			mine = append(mine, p)
		}
	}
	if p, err := a.place(); err == nil && p.scheme == "" && a.common.remote != "" {
		mine = append(mine, p.path)
	}
	for i, p := range mine {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			mine[i] = real
		}
	}
	return mine, nil
}

// isDir reports whether a mode is that of a directory.
func isDir(mode uint32) bool { return mode&syscall.S_IFMT == syscall.S_IFDIR }
