package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo/meta"
)

// metaExtract makes what an archive lists, and gives it its metadata: directories last,
// in the order of the archive, in which what is in them comes first.
func (a *app) metaExtract(ctx context.Context, r io.Reader, o *metaOptions) error {
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	root, err := fsx.OpenDir(wd)
	if err != nil {
		return err
	}
	defer root.Close()
	applier, err := meta.NewApplier(meta.Options{Numeric: o.numeric, System: true}, new(meta.Names))
	if err != nil {
		return err
	}
	x := extraction{a: a, root: root, applier: applier}
	var dirs []meta.Meta
	err = eachMeta(ctx, r, func(m *meta.Meta) error {
		if m.Path == "" {
			return withHint(errors.New("the archive has no paths: there is nothing that its metadata could be given to"), "meta -c without --no-paths records them")
		}
		if m.Type() == meta.TypeSymlink && !o.symlinks {
			return nil
		}
		if !o.finish {
			x.do("+ ", m, o, x.make)
		}
		switch {
		case o.start:
		case m.Type() == meta.TypeDir:
			dirs = append(dirs, *m)
		default:
			x.do("= ", m, o, x.dress)
		}
		return nil
	})
	for i := range dirs {
		x.do("= ", &dirs[i], o, x.dress)
	}
	if err != nil || x.failed == 0 {
		return err
	}
	return &partialError{plural(x.failed, "path") + " not made or without all metadata; the rest is done"}
}

// extraction makes and dresses what an archive lists, below a directory.
type extraction struct {
	a       *app
	root    *fsx.Dir
	applier *meta.Applier
	failed  int64
}

// do does one step for one entry, and tells what went wrong.
func (x *extraction) do(sign string, m *meta.Meta, o *metaOptions, step func(dir *fsx.Dir, name string, m *meta.Meta) error) {
	if x.a.common.verbose > 0 {
		if !o.extract {
			sign = ""
		}
		x.a.ui.raw([]byte(sign + escape(m.Path) + "\n"))
	}
	dir, name, err := x.parent(m.Path, sign != "= " && !o.finish)
	if err == nil {
		err = step(dir, name, m)
		if dir != x.root {
			dir.Close()
		}
	}
	if err != nil {
		x.a.ui.warn(m.Path, err)
		x.failed++
	}
}

// parent opens the directory in which a path ends, and makes those on the way if that
// is wanted. No symbolic link is followed; ".." leads nowhere.
func (x *extraction) parent(path string, create bool) (dir *fsx.Dir, name string, err error) {
	parts := strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == "." })
	dir = x.root
	if len(parts) == 0 {
		return dir, "", nil
	}
	for _, p := range parts {
		if p == ".." {
			return nil, "", errors.New("the path leads out of the directory")
		}
	}
	for _, p := range parts[:len(parts)-1] {
		if create {
			if err := dir.Mkdir(p, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, "", err
			}
		}
		next, err := dir.Open(p)
		if dir != x.root {
			dir.Close()
		}
		if err != nil {
			return nil, "", err
		}
		dir = next
	}
	return dir, parts[len(parts)-1], nil
}

// make makes an empty object of the type of an entry, unless there is one.
func (x *extraction) make(dir *fsx.Dir, name string, m *meta.Meta) error {
	if name == "" {
		return nil
	}
	st, err := dir.Lstat(name)
	if err == nil {
		return x.there(dir, name, st, m)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch m.Type() {
	case meta.TypeDir:
		return dir.Mkdir(name, 0o700)
	case meta.TypeSymlink:
		return dir.Symlink(m.Symlink, name)
	case meta.TypeFile:
		t, err := dir.CreateTemp()
		if err != nil {
			return err
		}
		defer t.Close()
		return t.LinkAs(name, false)
	}
	return dir.Mknod(name, m.Type()|0o600, m.Rdev)
}

// there says whether what is there can stand for what an entry describes.
func (x *extraction) there(dir *fsx.Dir, name string, st fsx.Stat, m *meta.Meta) error {
	same := st.Mode&meta.TypeMask == m.Type()
	switch m.Type() {
	case meta.TypeSymlink:
		if same {
			target, err := dir.Readlink(name)
			if err != nil {
				return err
			}
			same = target == m.Symlink
		}
	case meta.TypeChar, meta.TypeBlock:
		same = same && st.Rdev == m.Rdev
	}
	if !same {
		return errors.New("something else has this name")
	}
	return nil
}

// dress gives an object the metadata of an entry.
func (x *extraction) dress(dir *fsx.Dir, name string, m *meta.Meta) error {
	if name == "" {
		return outcome(x.applier.Apply(dir.Fd(), m))
	}
	st, err := dir.Lstat(name)
	if err != nil {
		return err
	}
	if st.Mode&meta.TypeMask != m.Type() {
		return errors.New("something else has this name")
	}
	var fd int
	var closer io.Closer
	switch m.Type() {
	case meta.TypeDir:
		d, err := dir.Open(name)
		if err != nil {
			return err
		}
		fd, closer = d.Fd(), d
	case meta.TypeFile:
		f, _, err := dir.OpenFile(name)
		if err != nil {
			return err
		}
		fd, closer = f.Fd(), f
	default:
		n, _, err := dir.OpenNode(name)
		if err != nil {
			return err
		}
		fd, closer = n.Fd(), n
	}
	defer closer.Close()
	err = outcome(x.applier.Apply(fd, m))
	if serr := x.applier.Seal(fd, m); err == nil {
		err = serr
	}
	return err
}

// outcome turns what could not be applied into one error.
func outcome(out meta.Outcome) error {
	if len(out.Errs) == 0 {
		return nil
	}
	if len(out.Errs) == 1 {
		return out.Errs[0]
	}
	return fmt.Errorf("%w (and %d more)", out.Errs[0], len(out.Errs)-1)
}
