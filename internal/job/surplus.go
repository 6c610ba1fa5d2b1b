package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// mover moves aside what a place has and a save has not, or all there is. It holds each
// directory open that it works in: in a place that others can write to, no name leads it
// elsewhere.
type mover struct {
	ctx      context.Context
	r        *Recovery
	t        *target
	pins     pins
	suffix   string // of the names of what is moved aside
	all      bool   // whatever the save has
	excluded func(path string, dir bool) bool
}

// aside is the directory to which the pieces of one file system are moved: beside the place
// or, where that is another file system, in it. It is made when it is needed.
type aside struct {
	at   string // its path
	from string // what its content was below
}

// surplus moves aside what the save does not have, with all everything.
func (r *Recovery) surplus(ctx context.Context, t *target, pins pins, suffix string, all bool) error {
	m := &mover{ctx: ctx, r: r, t: t, pins: pins, suffix: suffix, all: all}
	if r.Excluded != nil && t.unit.kit.Exclude != nil {
		var err error
		if m.excluded, err = r.Excluded(t.unit.kit.Exclude); err != nil {
			return err
		}
	}
	above, err := filepath.EvalSymlinks(path.Dir(t.place))
	if err != nil {
		return err
	}
	parent, err := fsx.OpenDir(above)
	if err != nil {
		return err
	}
	defer parent.Close()
	d, err := parent.Open(path.Base(t.place))
	if err != nil {
		return err
	}
	defer d.Close()
	outer, err := parent.Stat()
	if err != nil {
		return err
	}
	st, err := d.Stat()
	if err != nil {
		return err
	}
	a := &aside{at: path.Join(above, path.Base(t.place)) + suffix, from: t.place}
	if pins.mounts[t.place] || st.Dev != outer.Dev {
		a.at = path.Join(above, path.Base(t.place), path.Base(t.place)+suffix)
	}
	return m.dir(d, t.place, a, &t.node, st.Dev)
}

// dir looks at a directory of which p is the path and node what the save has, nil if nothing.
func (m *mover) dir(d *fsx.Dir, p string, a *aside, node *repo.Node, dev uint64) error {
	if m.ctx.Err() != nil {
		return context.Cause(m.ctx)
	}
	saved := make(map[string]repo.Node)
	if node != nil && node.IsDir() {
		err := (&repo.VFS{Repo: m.r.Repo}).ReadDir(m.ctx, node, false, func(n *repo.Node) error {
			saved[n.Name] = *n
			return nil
		})
		if err != nil {
			return err
		}
	}
	var names []string
	if err := d.Read(func(n fsx.DirName) error { names = append(names, n.Name); return nil }); err != nil {
		return err
	}
	var to *fsx.Dir
	defer func() {
		if to != nil {
			to.Close()
		}
	}()
	for _, name := range names {
		full := path.Join(p, name)
		if strings.Contains(name, asideMark) || strings.HasPrefix(name, stagePrefix) || m.r.stays(full) {
			continue
		}
		enter, move, inner, err := m.judge(d, name, full, saved, dev)
		switch {
		case err != nil:
		case enter:
			err = m.enter(d, name, full, a, saved, inner, dev)
		case move:
			if to == nil {
				if to, err = m.asideDir(a, p); err != nil {
					return err
				}
			}
			err = m.move(d, name, to, a)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// judge says what is to be done with a name: nothing, look into it, or move it aside.
func (m *mover) judge(d *fsx.Dir, name, full string, saved map[string]repo.Node, dev uint64) (enter, move bool, inner uint64, err error) {
	st, err := d.Lstat(name)
	if err != nil {
		return false, false, 0, err
	}
	n, known := saved[name]
	isDir := st.Mode&meta.TypeMask == meta.TypeDir
	mounted := isDir && (m.pins.mounts[full] || st.Dev != dev)
	switch {
	case mounted && !known: // a file system of which nothing was saved is nobody's surplus
		return false, false, 0, nil
	case mounted, isDir && m.pins.holds(full):
		return true, false, st.Dev, nil
	case m.all:
		return false, true, 0, nil
	case known && isDir && n.IsDir():
		return true, false, st.Dev, nil
	case known && isDir == n.IsDir(): // the restore replaces it if it has to
		return false, false, 0, nil
	case !known && m.isExcluded(full, isDir):
		return false, false, 0, nil
	}
	return false, true, 0, nil
}

// isExcluded reports whether the job excludes a path.
func (m *mover) isExcluded(full string, dir bool) bool {
	walked := m.t.path.Place
	if m.t.path.From != "" {
		walked = m.t.path.From
	}
	return m.excluded != nil && m.excluded(path.Join(walked, strings.TrimPrefix(full, m.t.place)), dir)
}

// enter looks at what is in a directory.
func (m *mover) enter(d *fsx.Dir, name, full string, a *aside, saved map[string]repo.Node, inner, dev uint64) error {
	sub, err := d.Open(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	if m.pins.mounts[full] || inner != dev {
		real, err := filepath.EvalSymlinks(full)
		if err != nil {
			return err
		}
		a = &aside{at: path.Join(real, name+m.suffix), from: full}
	}
	var node *repo.Node
	if n, ok := saved[name]; ok {
		node = &n
	}
	return m.dir(sub, full, a, node, inner)
}

// asideDir opens the directory to which what is in p is moved.
func (m *mover) asideDir(a *aside, p string) (*fsx.Dir, error) {
	if err := m.r.World.FS.MkdirAll(a.at, 0o700); err != nil {
		return nil, err
	}
	d, err := fsx.OpenDir(a.at)
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Split(strings.Trim(strings.TrimPrefix(p, a.from), "/"), "/") {
		if name == "" {
			continue
		}
		err := d.Mkdir(name, 0o700)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			d.Close()
			return nil, err
		}
		sub, err := d.Open(name)
		d.Close()
		if err != nil {
			return nil, err
		}
		d = sub
	}
	return d, nil
}

// move moves one name aside.
func (m *mover) move(d *fsx.Dir, name string, to *fsx.Dir, a *aside) error {
	err := d.MoveTo(name, to, name)
	for n := 2; errors.Is(err, fs.ErrExist) && n < 1000; n++ { // it was there before, and is again
		err = d.MoveTo(name, to, fmt.Sprintf("%s-%d", name, n))
	}
	if err != nil {
		return err
	}
	m.t.rep.Moved++
	m.t.rep.Aside = a.at
	return nil
}
