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
// the first name that can't be removed.
func (d *Dir) RemoveTree(name string) error {
	err := d.Unlink(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	root, dupErr := d.dup()
	if dupErr != nil {
		return dupErr
	}
	stack := NewStack(root)
	defer stack.Close()
	if pushErr := stack.Push(name); pushErr != nil {
		if errors.Is(pushErr, unix.ENOTDIR) {
			return err // not a directory: what Unlink said stands
		}
		return pushErr
	}
	return removeAbove(stack)
}

// doomed is a directory that is being removed, with the sub-directories that
// still stand in it.
type doomed struct {
	name   string
	dirs   []string
	passes int
}

// removeAbove empties and removes all that lies above the bottom of the stack.
func removeAbove(stack *Stack) error {
	frames := []doomed{{name: stack.Top().name}}
	for len(frames) > 0 {
		f := &frames[len(frames)-1]
		if n := len(f.dirs); n > 0 {
			sub := f.dirs[n-1]
			f.dirs = f.dirs[:n-1]
			switch err := stack.Push(sub); {
			case err == nil:
				frames = append(frames, doomed{name: sub})
			case !errors.Is(err, fs.ErrNotExist):
				return err
			}
			continue
		}
		left, err := stack.Top().removeFiles()
		if err != nil {
			return err
		}
		if f.passes++; len(left) > 0 && f.passes < maxPasses {
			f.dirs = left
			continue
		}
		if err := stack.Pop(); err != nil {
			return err
		}
		err = stack.Top().Rmdir(f.name)
		switch {
		case err == nil || errors.Is(err, fs.ErrNotExist):
			frames = frames[:len(frames)-1]
		case errors.Is(err, unix.ENOTEMPTY) && f.passes < maxPasses:
			if err := stack.Push(f.name); err != nil {
				return err
			}
		default:
			return err
		}
	}
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
