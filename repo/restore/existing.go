package restore

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// inTheWay decides what becomes of the name of an item that may be taken. If what
// is there stays, keep is true, and it is counted. Otherwise the name is free, or
// taken by something that a rename replaces. Same is asked about what is there, if
// that is of the right type and can stay.
func (r *run) inTheWay(it *item, same func(fsx.Stat) (bool, error)) (keep bool, err error) {
	if !it.exists {
		return false, nil
	}
	st, err := it.f.dir.Lstat(it.name)
	if errors.Is(err, fs.ErrNotExist) {
		it.exists = false
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if r.Overwrite == Never {
		r.stays(it, st)
		return true, nil
	}
	if r.Overwrite == IfChanged && st.Mode&meta.TypeMask == it.mode&meta.TypeMask {
		if keep, err = same(st); keep || err != nil {
			if keep {
				r.stays(it, st)
			}
			return keep, err
		}
	}
	if st.Mode&meta.TypeMask == meta.TypeDir {
		return false, r.clear(it)
	}
	return false, nil
}

// stays counts an item that is left alone. What was withheld from it when it was
// written is still missing.
func (r *run) stays(it *item, st fsx.Stat) {
	if a, err := r.applier(); err == nil && r.Overwrite != Never {
		for _, what := range a.Withholds(&it.meta) {
			if what == "setuid" && st.Mode&0o4000 != 0 || what == "setgid" && st.Mode&0o2000 != 0 {
				continue
			}
			r.withhold(it.path(), what)
		}
		r.free(a)
	}
	r.done(it.f, it.name, kept, max(0, it.meta.Size))
}

// clear removes a directory that is where something else goes.
func (r *run) clear(it *item) error {
	if r.DryRun {
		return nil
	}
	err := it.f.dir.Rmdir(it.name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		it.exists = false
		return nil
	}
	if !r.Delete { // what is in it is not in the save
		return fmt.Errorf("a directory is in the way: %w", err)
	}
	if err = it.f.dir.RemoveTree(it.name); err == nil {
		it.exists = false
	}
	return err
}

// sameFile reports whether a regular file is what it should be. Where it cannot
// be told it is written anew.
func (r *run) sameFile(f *file, st fsx.Stat) (bool, error) {
	m := &f.meta
	switch {
	case m.Mode == 0 || m.Mtime != st.Mtime:
		return false, nil
	case m.Size >= 0 && m.Size != st.Size, m.Size < 0 && !r.Verify:
		return false, nil
	case m.Hardlink == "" && st.Nlink > 1: // it has a name too many
		return false, nil
	}
	src, now, err := f.f.dir.OpenFile(f.name)
	if err != nil || now.Ino != st.Ino || now.Dev != st.Dev {
		return false, nil
	}
	defer src.Close()
	if !r.sameMeta(&f.item, src.Fd(), now) {
		return false, nil
	}
	if !r.Verify {
		return true, nil
	}
	return r.sameContent(f, src, now.Size)
}

// sameMeta reports whether Apply would change nothing.
func (r *run) sameMeta(it *item, fd int, st fsx.Stat) bool {
	a, err := r.applier()
	if err != nil {
		return false
	}
	defer r.free(a)
	differs, err := a.Differs(fd, st, &it.meta)
	return err == nil && !differs
}

// sameContent compares the chunks of an open file with their ids.
func (r *run) sameContent(f *file, src *fsx.Source, size int64) (bool, error) {
	c := r.hashers.Get().(*checker)
	defer r.hashers.Put(c)
	if !f.chunked && size > maxObject {
		return false, nil
	}
	end := int64(0)
	err := repo.OpenFile(r.ctx, r.Repo, f.id, f.chunked).Chunks(0, func(k repo.Chunk) error {
		n := k.Size
		if n < 0 {
			n = size - k.Off
		}
		if end = k.Off + n; n < 0 || n > maxObject || end > size {
			return errStop
		}
		same, err := c.same(src, k.Off, n, k.ID)
		if err == nil && !same {
			err = errStop
		}
		return err
	})
	if err == errStop {
		return false, nil
	}
	if err != nil {
		if damage(err) {
			err = asObject(f.saved(), err)
		}
		return false, err
	}
	return end == size, nil
}

// sameNode reports whether a device, FIFO, socket or link is what it should be.
func (r *run) sameNode(it *item, st fsx.Stat, target string) (bool, error) {
	if it.meta.Mode == 0 || it.meta.Rdev != st.Rdev && it.isDevice() {
		return false, nil
	}
	node, now, err := it.f.dir.OpenNode(it.name)
	if err != nil || now.Ino != st.Ino || now.Dev != st.Dev {
		return false, nil
	}
	defer node.Close()
	if it.mode&meta.TypeMask == meta.TypeSymlink {
		if have, err := node.Readlink(); err != nil || have != target {
			return false, nil
		}
	}
	return r.sameMeta(it, node.Fd(), now), nil
}

func (it *item) isDevice() bool {
	t := it.mode & meta.TypeMask
	return t == meta.TypeChar || t == meta.TypeBlock
}
