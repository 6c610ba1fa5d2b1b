package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// finish completes a folder of which all files are there.
func (r *run) finish(f *folder) error {
	defer f.close()
	if f.dir == nil && !r.DryRun {
		return nil
	}
	for i := range f.links {
		r.symlink(&f.links[i])
	}
	f.links = nil
	if f.moreFrom != "" {
		if err := r.moreLinks(f); err != nil {
			return err
		}
	}
	for _, name := range f.surplus {
		r.remove(f, name)
	}
	f.surplus = nil
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	r.finishSelf(f)
	return nil
}

// moreLinks reads a saved directory once more, for the links that were too many
// to be remembered.
func (r *run) moreLinks(f *folder) error {
	err := repo.ReadDir(r.ctx, r.Repo, f.tree, func(d *repo.DirItem) error {
		if d.Name == "." || d.Name <= f.moreFrom || d.IsDir() || d.StatMode()&meta.TypeMask != meta.TypeSymlink || r.excluded(f, d.Name, false) {
			return nil
		}
		r.symlink(&item{f: f, name: d.Name, id: d.ID, mode: d.StatMode(), meta: *d.Meta, exists: !f.fresh})
		return context.Cause(r.ctx)
	})
	if err != nil && r.ctx.Err() == nil && damage(err) {
		r.fail(f.path(), asObject(f.root.saved(f.path()), err))
		return nil
	}
	return err
}

// remove removes what the save does not have.
func (r *run) remove(f *folder, name string) {
	if r.ctx.Err() != nil {
		return
	}
	st, err := f.dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	path := name
	if err == nil && st.Mode&meta.TypeMask == meta.TypeDir {
		path += "/"
		if fsx.IsTempName(name) && !f.clean {
			return // ours are no directories
		}
	}
	if err == nil && !r.DryRun {
		err = f.dir.RemoveTree(name)
	}
	if err != nil {
		r.fail(f.path()+path, fmt.Errorf("cannot be removed: %w", err))
		return
	}
	r.done(f, path, removed, 0)
}

// finishSelf gives a folder its metadata.
func (r *run) finishSelf(f *folder) {
	if !f.dress {
		return
	}
	if f.dir == nil { // dry run
		r.done(f, "", written, 0)
		return
	}
	a, err := r.applier()
	if err != nil {
		r.fail(f.path(), err)
		return
	}
	defer r.free(a)
	if !f.fresh {
		st, err := f.dir.Stat()
		if err == nil {
			if differs, derr := a.Differs(f.dir.Fd(), st, &f.meta); !differs && derr == nil {
				r.missing(&item{f: f, meta: f.meta}, a)
				r.done(f, "", kept, 0)
				return
			}
		}
	}
	if r.DryRun {
		r.done(f, "", written, 0)
		return
	}
	self := item{f: f, mode: f.mode, meta: f.meta}
	out := self.dress(a, f.dir.Fd())
	if err := a.Seal(f.dir.Fd(), &f.meta); err != nil {
		out.Errs = append(out.Errs, err)
	}
	self.report(r, out, 0)
}

// symlink makes a symbolic link.
func (r *run) symlink(it *item) {
	if r.ctx.Err() != nil {
		return
	}
	target := it.meta.Symlink
	if target == "" {
		var err error
		if target, err = repo.ReadLink(r.ctx, r.Repo, it.id); err != nil {
			r.fail(it.path(), asObject(it.saved(), err))
			return
		}
	}
	r.node(it, target, func(temp string) error { return it.f.dir.Symlink(target, temp) })
}

// special makes a device, FIFO or socket.
func (r *run) special(it *item) {
	r.node(it, "", func(temp string) error {
		return it.f.dir.Mknod(temp, it.mode&meta.TypeMask|0o600, it.meta.Rdev)
	})
}

// node makes what is neither file nor directory: under a temporary name, with its
// metadata, and then renamed.
func (r *run) node(it *item, target string, create func(temp string) error) {
	err := r.tryNode(it, target, create)
	if err != nil {
		r.fail(it.path(), err)
	}
}

func (r *run) tryNode(it *item, target string, create func(temp string) error) error {
	same := func(st fsx.Stat) (bool, error) { return r.sameNode(it, st, target) }
	if it.f.dir == nil { // dry run
		r.done(it.f, it.name, written, 0)
		return nil
	}
	if set, begun := r.setOf(it); set != nil {
		if begun && !r.DryRun {
			if linked, err := r.link(it, set); linked || err != nil {
				return err
			}
		}
		defer func() {
			if st, err := it.f.dir.Lstat(it.name); err == nil && !r.DryRun {
				set.isAt(r, it, st)
			}
		}()
	}
	if keep, err := r.inTheWay(it, same); keep || err != nil {
		return err
	}
	if it.isDevice() && !r.system {
		r.withhold(it.path(), "device")
		return nil
	}
	if r.DryRun {
		r.done(it.f, it.name, written, 0)
		return nil
	}
	return r.makeNode(it, create)
}

// makeNode makes it and gives it its name.
func (r *run) makeNode(it *item, create func(temp string) error) error {
	dir, temp := it.f.dir, fsx.TempName()
	if err := create(temp); err != nil {
		return err
	}
	defer dir.Unlink(temp) // when it is renamed there is none
	node, st, err := dir.OpenNode(temp)
	if err != nil {
		return err
	}
	defer node.Close()
	if st.Mode&meta.TypeMask != it.mode&meta.TypeMask || st.UID != r.euid || st.Nlink != 1 {
		return errMoved
	}
	a, err := r.applier()
	if err != nil {
		return err
	}
	defer r.free(a)
	out := it.dress(a, node.Fd())
	if r.Overwrite == Never {
		err = dir.Linkat(node, it.name)
	} else {
		err = dir.Rename(temp, it.name)
	}
	if err != nil {
		return err
	}
	it.report(r, out, 0)
	return nil
}
