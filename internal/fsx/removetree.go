package fsx

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// maxPasses is how often RemoveTree lists one directory. A file system may pass
// over names while others are removed, so one pass is not always enough; and if
// somebody makes files as fast as we remove them, it has to end.
const maxPasses = 100

// RemoveTree removes a name with everything below it, by descriptor and without
// recursion, however deep it is. It is no error if there is none. It stops at
// the first name that can't be removed. What is mounted below is not entered:
// that is EXDEV, before anything in it is touched.
func (d *Dir) RemoveTree(name string) error {
	err := d.Unlink(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	st, statErr := d.Stat()
	if statErr != nil {
		return statErr
	}
	root, dupErr := d.dup()
	if dupErr != nil {
		return dupErr
	}
	r := remover{stack: NewStack(root), dev: st.Dev, mount: mountOf(d.fd)}
	defer r.stack.Close()
	if enterErr := r.enter(name); enterErr != nil {
		if errors.Is(enterErr, unix.ENOTDIR) {
			return err // not a directory: what Unlink said stands
		}
		return enterErr
	}
	return r.run()
}

// doomed is a directory that is being removed, with the sub-directories that
// still stand in it.
type doomed struct {
	name   string
	dirs   []string
	passes int
}

// remover is a removal under way: frames are the directories above the bottom
// of the stack.
type remover struct {
	stack  *Stack
	dev    uint64
	mount  uint64 // a bind mount has the same device
	frames []doomed
}

// mountOf returns the id of the mount that a descriptor was opened in, 0 where
// the kernel (before 5.8) does not tell.
func mountOf(fd int) uint64 {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	if err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return 0
	}
	return st.Mnt_id
}

// enter goes down into a directory of the same mount.
func (r *remover) enter(name string) error {
	dir, err := r.stack.Top().Open(name)
	if err != nil {
		return err
	}
	st, err := dir.Stat()
	if err == nil && (st.Dev != r.dev || mountOf(dir.fd) != r.mount) {
		err = dir.fail("remove", name, unix.EXDEV)
	}
	if err != nil {
		dir.Close()
		return err
	}
	if err := r.stack.PushDir(dir); err != nil {
		return err
	}
	r.frames = append(r.frames, doomed{name: name})
	return nil
}

// run empties and removes the directories, the innermost first.
func (r *remover) run() error {
	for len(r.frames) > 0 {
		f := &r.frames[len(r.frames)-1]
		if n := len(f.dirs); n > 0 {
			sub := f.dirs[n-1]
			f.dirs = f.dirs[:n-1]
			if err := r.enter(sub); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		left, err := r.stack.Top().removeFiles()
		if err != nil {
			return err
		}
		if f.passes++; len(left) > 0 && f.passes < maxPasses {
			f.dirs = left
			continue
		}
		if err := r.leave(f); err != nil {
			return err
		}
	}
	return nil
}

// leave goes up and removes the directory, or comes back if it is not empty.
func (r *remover) leave(f *doomed) error {
	if err := r.stack.Pop(); err != nil {
		return err
	}
	err := r.stack.Top().Rmdir(f.name)
	if errors.Is(err, unix.ENOTEMPTY) && f.passes < maxPasses {
		return r.stack.Push(f.name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.frames = r.frames[:len(r.frames)-1]
	return nil
}

// removeFiles removes what is no directory, and returns the directories.
func (d *Dir) removeFiles() (dirs []string, err error) {
	err = d.Read(func(n DirName) error {
		if n.Type == unix.DT_DIR {
			dirs = append(dirs, n.Name)
			return nil
		}
		err := d.Unlink(n.Name)
		if errors.Is(err, unix.EISDIR) { // the file system told no type
			dirs = append(dirs, n.Name)
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return dirs, err
}
