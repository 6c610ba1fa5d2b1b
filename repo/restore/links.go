package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// linkKey names a set of hard links: what the records of all its members have in
// common, and the save they are from.
type linkKey struct {
	save pack.ID
	path string
}

// linkSet is one inode with several names. The first name that comes up becomes
// the file, the others are linked to it. If it comes to nothing, the next one is
// the file. run.mu holds its fields.
type linkSet struct {
	id pack.ID // what the members must have in common to be believed
	at uint32  // type

	there    bool // the inode has a name:
	dir      string
	name     string
	dev, ino uint64
}

// setOf returns the set an item belongs to, nil if to none; begun is false for
// the first of its members. An item that says it is a member, but has another
// content, is a file of its own.
func (r *run) setOf(it *item) (s *linkSet, begun bool) {
	if it.meta.Hardlink == "" {
		return nil, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := linkKey{it.f.root.save, it.meta.Hardlink}
	s = r.sets[key]
	if s == nil {
		s = &linkSet{id: it.id, at: it.mode & meta.TypeMask}
		r.sets[key] = s
		return s, false
	}
	if s.id != it.id || s.at != it.mode&meta.TypeMask {
		return nil, false
	}
	return s, true
}

// isAt notes that the inode of the set has the name of it.
func (s *linkSet) isAt(r *run, it *item, st fsx.Stat) {
	dir := it.f.sharedPath()
	r.mu.Lock()
	defer r.mu.Unlock()
	s.there, s.dir, s.name, s.dev, s.ino = true, dir, it.name, st.Dev, st.Ino
}

// made notes that a file of the set was written. It is sealed at the very end:
// with the immutable attribute it could not be linked.
func (s *linkSet) made(r *run, f *file, t *fsx.Target) error {
	st, err := t.Stat()
	if err != nil {
		return err
	}
	s.isAt(r, &f.item, st)
	if meta.Sealed(&f.meta) {
		r.mu.Lock()
		r.seals = append(r.seals, seal{s, f.meta})
		r.mu.Unlock()
	}
	return nil
}

// seal is an inode that gets its last attributes when all is done.
type seal struct {
	set  *linkSet
	meta meta.Meta
}

func (r *run) sealAll() error {
	a, err := r.applier()
	if err != nil {
		return err
	}
	defer r.free(a)
	for _, s := range r.seals {
		node, err := r.dirs.find(r, s.set)
		if err != nil {
			r.fail(s.set.dir+s.set.name, err)
			continue
		}
		// The ioctl needs an open file, which an O_PATH descriptor is not.
		f, st, err := r.dirs.dir.OpenFile(s.set.name)
		if err == nil {
			if st.Dev != s.set.dev || st.Ino != s.set.ino {
				err = errMoved
			} else {
				err = a.Seal(f.Fd(), &s.meta)
			}
			f.Close()
		}
		if err != nil {
			r.fail(s.set.dir+s.set.name, err)
		}
		node.Close()
	}
	return nil
}

// dirCache is the directory that was needed last for a link.
type dirCache struct {
	path string
	dir  *fsx.Dir
}

func (c *dirCache) close() {
	if c.dir != nil {
		c.dir.Close()
		c.dir = nil
	}
}

var errMoved = errors.New("somebody has put another file in its place")

// find holds the inode of a set, which must still be where it was put.
func (c *dirCache) find(r *run, s *linkSet) (*fsx.Source, error) {
	if c.dir == nil || c.path != s.dir {
		c.close()
		dir, err := fsx.OpenDir(r.out + s.dir)
		if err != nil {
			return nil, err
		}
		c.path, c.dir = s.dir, dir
	}
	node, st, err := c.dir.OpenNode(s.name)
	if err != nil {
		return nil, err
	}
	if st.Dev != s.dev || st.Ino != s.ino {
		node.Close()
		return nil, errMoved
	}
	return node, nil
}

// linkAll links files to the ones they are further names of. It returns those
// for which there is none.
func (r *run) linkAll(files []*file) (orphans []*file) {
	for _, f := range files {
		f.f.pins.Add(-1)
		if r.ctx.Err() != nil {
			continue
		}
		linked, err := r.link(&f.item, f.set)
		if err != nil {
			f.fail(r, err)
		} else if !linked {
			orphans = append(orphans, f)
		}
	}
	return orphans
}

// link makes an item a further name of a set. It returns false if the set has
// none, or the file system allows it no more.
func (r *run) link(it *item, s *linkSet) (linked bool, err error) {
	r.mu.Lock()
	there := s.there
	r.mu.Unlock()
	if !there {
		return false, nil
	}
	forget := func() {
		r.mu.Lock()
		s.there = false
		r.mu.Unlock()
	}
	node, err := r.dirs.find(r, s)
	if err != nil {
		forget()
		return false, nil
	}
	defer node.Close()
	keep, err := r.inTheWay(it, func(st fsx.Stat) (bool, error) {
		return st.Dev == s.dev && st.Ino == s.ino, nil
	})
	if keep || err != nil {
		return true, err
	}
	err = it.f.dir.Linkat(node, it.name)
	if errors.Is(err, fs.ErrExist) && r.Overwrite != Never {
		err = relink(it.f.dir, node, it.name)
	}
	if cannotLink(err) {
		forget()
		r.fail(it.path(), fmt.Errorf("becomes a file of its own: %w", err))
		return false, nil
	}
	if err == nil {
		r.done(it.f, it.name, written, 0)
	}
	return true, err
}

// cannotLink reports whether a file system says that an inode can have no
// further name there: it has too many, or is on another file system, or they
// have no links at all.
func cannotLink(err error) bool {
	for _, e := range []error{syscall.EMLINK, syscall.EXDEV, syscall.EPERM, syscall.ENOTSUP, syscall.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// relink gives a name that is taken to the inode of node.
func relink(dir *fsx.Dir, node *fsx.Source, name string) error {
	temp := fsx.TempName()
	if err := dir.Linkat(node, temp); err != nil {
		return err
	}
	err := dir.Rename(temp, name)
	// Where both names are of one inode already, rename does nothing at all.
	if gone := dir.Unlink(temp); err == nil && gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = gone
	}
	return err
}
