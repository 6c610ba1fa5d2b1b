package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// The walk reads saved directories from the top down, makes the directories of
// the target and gathers the work in them. It does not recurse: its path is a
// slice, of which the outer levels close their descriptors when it gets long.

// walk goes through the saved trees.
type walk struct {
	batch
	path   []level
	parked int // levels of path that need not be looked at to be parked
}

// level is a directory on the path.
type level struct {
	f      *folder
	subs   []sub
	next   int
	prefix string // of paths in it, if there is an Exclude
}

// sub is a sub-directory to be entered.
type sub struct {
	name   string
	id     pack.ID
	exists bool
}

// keepOpen is the number of levels of the path that stay open.
const keepOpen = 48

// maxLinks is the number of symbolic links of one directory that are remembered
// until its files are there.
const maxLinks = 4096

// root restores one of the paths.
func (w *walk) root(rt *root, fresh bool) error {
	out := &folder{root: rt, dress: rt.self && (fresh || w.r.Overwrite != Never), clean: rt.self && w.r.Delete}
	if !w.r.DryRun || !fresh {
		var err error
		if out.dir, err = fsx.OpenDir(w.r.out); err != nil {
			if !w.r.DryRun || !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	w.path, w.parked = append(w.path[:0], level{f: out, prefix: "/"}), 0
	lv := &w.path[0]
	if rt.into {
		if err := out.list(); err != nil {
			return err
		}
		if err := w.read(lv, rt.item.ID); err != nil {
			return err
		}
	} else if err := w.single(lv, &rt.item.DirItem); err != nil {
		return err
	}
	return w.descend()
}

// single puts one item into Out.
func (w *walk) single(lv *level, d *repo.DirItem) error {
	if w.r.excluded(lv.f, d.Name, d.IsDir()) {
		return nil
	}
	exists := lv.f.dir != nil
	if d.IsDir() {
		if exists {
			_, err := lv.f.dir.Lstat(d.Name)
			exists = !errors.Is(err, fs.ErrNotExist)
		}
		lv.subs = append(lv.subs, sub{d.Name, d.ID, exists})
		return nil
	}
	return w.item(lv.f, d, exists)
}

// descend walks everything below the first level of the path.
func (w *walk) descend() error {
	for len(w.path) > 0 {
		if err := context.Cause(w.r.ctx); err != nil {
			return err
		}
		lv := &w.path[len(w.path)-1]
		if lv.next == len(lv.subs) {
			if err := w.leave(); err != nil {
				return err
			}
			continue
		}
		s := lv.subs[lv.next]
		lv.subs[lv.next] = sub{}
		lv.next++
		f, err := w.enter(lv.f, s)
		if err != nil {
			w.r.fail(lv.f.path()+s.name+"/", err)
			continue
		}
		w.push(f)
		if err := w.read(&w.path[len(w.path)-1], s.id); err != nil {
			return err
		}
	}
	return nil
}

// folders returns what is on the path when the walk was stopped.
func (w *walk) folders() (list []*folder) {
	for i := range w.path {
		list = append(list, w.path[i].f)
	}
	if w.w != nil {
		list = append(list, w.w.left...)
	}
	return list
}

// push makes a folder the innermost, and parks others that are far out.
func (w *walk) push(f *folder) {
	lv := level{f: f}
	if w.r.Exclude != nil {
		lv.prefix = w.path[len(w.path)-1].prefix + f.name + "/"
	}
	w.path = append(w.path, lv)
	for len(w.path)-w.parked > keepOpen {
		out := w.path[w.parked].f
		if out.dir != nil && (w.path[w.parked+1].f.dir == nil || !out.park()) {
			break // files are still on the way into it; or a dry run could not come back
		}
		w.parked++
	}
}

// leave goes up one level. The folder is finished when all that was gathered
// before is done.
func (w *walk) leave() error {
	last := len(w.path) - 1
	f := w.path[last].f
	if last > 0 {
		up := w.path[last-1].f
		if up.dir == nil && f.dir != nil && up.ino != 0 {
			if err := up.unpark(f.dir); err != nil {
				return fmt.Errorf("%s: %w", up.path(), err)
			}
		}
	}
	w.path[last] = level{}
	w.path = w.path[:last]
	w.parked = min(w.parked, max(0, last-1))
	return w.batch.leave(f)
}

// enter opens or makes a sub-directory of the target.
func (w *walk) enter(up *folder, s sub) (*folder, error) {
	r := w.r
	f := &folder{root: up.root, parent: up, name: s.name, clean: r.Delete}
	if up.dir == nil { // dry run
		f.fresh, f.dress = true, true
		return f, nil
	}
	var err error
	if s.exists {
		if f.dir, err = r.openExisting(up, s.name); err != nil {
			return nil, err
		}
	}
	if f.dir == nil && r.DryRun {
		f.fresh, f.dress = true, true
		return f, nil
	}
	if f.dir == nil {
		err = up.dir.Mkdir(s.name, 0o700)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		f.fresh = err == nil
		if f.dir, err = up.dir.Open(s.name); err != nil {
			return nil, err
		}
		// Somebody who may write here could have put another in its place. That one
		// is treated like any that was there before.
		st, err := f.dir.Stat()
		if err != nil || st.UID != r.euid || st.Mode&0o077 != 0 {
			f.fresh = false
		}
	}
	f.dress = f.fresh || r.Overwrite != Never
	if err = f.list(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// openExisting opens a directory that may be there. It returns nil if there is
// none, or something in its place that may be replaced, and was.
func (r *run) openExisting(up *folder, name string) (*fsx.Dir, error) {
	dir, err := up.dir.Open(name)
	if err == nil {
		return dir, nil
	}
	st, serr := up.dir.Lstat(name)
	if errors.Is(serr, fs.ErrNotExist) {
		return nil, nil
	}
	if serr != nil || st.Mode&meta.TypeMask == meta.TypeDir {
		return nil, err
	}
	link := st.Mode&meta.TypeMask == meta.TypeSymlink
	switch {
	case link && r.Overwrite != Always:
		return nil, errors.New("a symbolic link is where the directory goes")
	case r.Overwrite == Never:
		return nil, errors.New("a file is where the directory goes")
	case r.DryRun:
		return nil, nil
	}
	return nil, up.dir.Unlink(name)
}

// read reads a saved directory and gathers the work in it. What is wrong with the
// directory is an error of its own; one that is returned stops the run.
func (w *walk) read(lv *level, tree pack.ID) error {
	f := lv.f
	f.tree = tree
	err := repo.ReadDir(w.r.ctx, w.r.Repo, tree, func(d *repo.DirItem) error {
		if err := context.Cause(w.r.ctx); err != nil {
			return err
		}
		if d.Name == "." {
			f.meta, f.mode = *d.Meta, d.StatMode()
			if d.Err != nil {
				w.r.fail(f.path(), asObject(f.root.saved(f.path()), fmt.Errorf("metadata are lost: %w", d.Err)))
			}
			return nil
		}
		exists := f.meets(d.Name)
		if w.excluded(lv, d) {
			return nil
		}
		if d.IsDir() {
			lv.subs = append(lv.subs, sub{d.Name, d.ID, exists})
			return nil
		}
		return w.item(f, d, exists)
	})
	if err == nil {
		f.rest()
		return nil
	}
	if w.r.ctx.Err() != nil || !damage(err) {
		return err
	}
	// What is in it is not known, so nothing of it is surplus.
	f.clean, f.surplus = false, nil
	f.rest()
	w.r.fail(f.path(), asObject(f.root.saved(f.path()), err))
	return nil
}

func (w *walk) excluded(lv *level, d *repo.DirItem) bool {
	return w.r.Exclude != nil && w.r.Exclude(lv.prefix+d.Name, d.IsDir())
}

func (r *run) excluded(f *folder, name string, dir bool) bool {
	return r.Exclude != nil && r.Exclude(f.path()+name, dir)
}

// item gathers what is to be done for anything but a directory.
func (w *walk) item(f *folder, d *repo.DirItem, exists bool) error {
	it := item{f: f, name: d.Name, id: d.ID, mode: d.StatMode(), exists: exists}
	if d.Meta != nil {
		it.meta = *d.Meta
	}
	switch it.mode & meta.TypeMask {
	case meta.TypeFile:
		return w.file(&file{item: it, chunked: d.Chunked})
	case meta.TypeSymlink:
		w.r.found(0)
		if len(f.links) == maxLinks {
			if f.moreFrom == "" {
				f.moreFrom = f.links[maxLinks-1].name
			}
			return nil
		}
		f.links = append(f.links, it)
		return nil
	case meta.TypeChar, meta.TypeBlock, meta.TypeFIFO, meta.TypeSocket:
		w.r.found(0)
		return w.addNode(&it)
	}
	w.r.fail(it.path(), fmt.Errorf("unknown type of file, mode %o", it.mode))
	return nil
}

// file gathers a regular file.
func (w *walk) file(f *file) error {
	r := w.r
	size := max(0, f.meta.Size)
	r.found(size)
	set, begun := r.setOf(&f.item)
	f.set = set
	if begun && !r.DryRun {
		return w.addLater(f)
	}
	keep, err := r.keepFile(f)
	switch {
	case err != nil || keep:
		return err
	case r.DryRun:
		r.dry(&f.item, size)
		return nil
	}
	return w.add(f)
}

// keepFile reports whether nothing is to be written for a regular file: what is
// there stays, or stands in the way and may not be removed. An error stops the run.
func (r *run) keepFile(f *file) (keep bool, err error) {
	keep, err = r.inTheWay(&f.item, func(st fsx.Stat) (bool, error) {
		same, err := r.sameFile(f, st)
		if same && f.set != nil {
			f.set.isAt(r, &f.item, st)
		}
		return same, err
	})
	if err == nil || r.ctx.Err() != nil {
		return keep, err
	}
	f.fail(r, err)
	return true, nil
}

// missing counts what an item is not given.
func (r *run) missing(it *item, a *meta.Applier) {
	if what := a.Withholds(&it.meta); len(what) > 0 {
		r.withhold(it.path(), what...)
	}
}

// dry counts an item of a dry run that would be written.
func (r *run) dry(it *item, size int64) {
	if a, err := r.applier(); err == nil {
		r.missing(it, a)
		r.free(a)
	}
	r.done(it.f, it.name, written, size)
}
