package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/index"
)

const drecurseHelp = `Drecurse lists a directory and all that is in it, as 'index' would find it, in the order
of bup's index: names backwards, and what is in a directory before it.`

func (a *app) drecurseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "drecurse [-x] [--exclude ...] PATH",
		Short:   "list what is in a directory",
		Long:    drecurseHelp,
		Example: "  kedge drecurse -x --exclude-rx '/\\.cache/' /home",
		Args:    cobra.ExactArgs(1),
	}
	var w walk
	w.flags(cmd)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		ex, err := w.exclude.compile(a)
		if err != nil {
			return err
		}
		d := descent{a: a, ctx: ctx, oneFileSystem: w.oneFileSystem, exclude: ex}
		err = d.walk(args[0], func(path string, _ bool) error {
			if a.common.quiet {
				return nil
			}
			return a.print(append(a.appendName(nil, path), '\n'))
		})
		if err != nil {
			return err
		}
		return unreadable(d.failed)
	})
}

// descent lists trees of files.
type descent struct {
	a             *app
	ctx           context.Context
	oneFileSystem bool
	exclude       *index.Exclude // nil: nothing

	abs, given string // the root, as it is and as it was named
	dev        uint64
	failed     int64
}

// walk calls fn for all below a path and for itself: a directory's comes after what is in
// it and ends in a slash. What cannot be read is told of and counted.
func (d *descent) walk(path string, fn func(path string, dir bool) error) (err error) {
	if d.abs, err = sourcePath(path); err != nil {
		return err
	}
	d.given = strings.TrimRight(path, "/")
	info, err := d.a.FS.Lstat(d.abs)
	if err != nil {
		d.fail(path, err)
		return nil
	}
	d.dev = device(info)
	if !info.IsDir() {
		return fn(path, false)
	}
	return d.dir("", fn)
}

// fail tells of a path that cannot be read.
func (d *descent) fail(path string, err error) {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	d.a.ui.warn(path, err)
	d.failed++
}

// dir lists a directory; rel is its path below the root, with a slash at its end.
func (d *descent) dir(rel string, fn func(path string, dir bool) error) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	list, err := d.a.FS.ReadDir(filepath.Join(d.abs, rel))
	if err != nil {
		d.fail(d.given+"/"+rel, err)
	}
	names := make([]string, 0, len(list))
	for _, e := range list {
		name := rel + e.Name()
		if d.exclude != nil && d.exclude.Match(filepath.Join(d.abs, name), e.IsDir()) {
			continue
		}
		if e.IsDir() {
			name += "/"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range slices.Backward(names) {
		dir := strings.HasSuffix(name, "/")
		enter := dir && d.sameDevice(name)
		if enter {
			if err := d.dir(name, fn); err != nil {
				return err
			}
			continue
		}
		if err := fn(d.given+"/"+name, dir); err != nil {
			return err
		}
	}
	return fn(d.given+"/"+rel, true)
}

// sameDevice reports whether a directory is to be entered.
func (d *descent) sameDevice(rel string) bool {
	if !d.oneFileSystem {
		return true
	}
	info, err := d.a.FS.Lstat(filepath.Join(d.abs, rel))
	return err == nil && device(info) == d.dev
}

func device(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev) //nolint:unconvert // it is 32 bits wide on some systems
	}
	return 0
}
