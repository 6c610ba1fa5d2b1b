package fsx

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// ErrMoved is what Stack.Pop fails with if the directory above is not the one
// that it came down through: somebody moved the tree, and what a walk would do
// next, it would do in the wrong place.
var ErrMoved = errors.New("directory was moved")

// stackFds is the number of descriptors that a Stack holds at most.
const stackFds = 64

// Stack is a path as a stack of Dirs, of any depth: 20,000 levels make a path
// of megabytes, which no system call takes, and more directories than a process
// may hold open. The root and the innermost 63 are open; one in between that is
// needed again is opened through "..", and must have the device and inode that
// it had. A Stack is used by one goroutine at a time.
type Stack struct {
	levels []level
	open   int // innermost levels that are open; the root is always, and not counted
	err    error
}

// level is one directory; dev and ino are filled in when dir is closed.
type level struct {
	dir      *Dir
	name     string
	dev, ino uint64
}

// NewStack returns a Stack of which root is the bottom. Close closes root too.
func NewStack(root *Dir) *Stack { return &Stack{levels: []level{{dir: root, name: root.name}}} }

// Top returns the innermost directory. It is valid until Push, Pop or Close.
func (s *Stack) Top() *Dir { return s.levels[len(s.levels)-1].dir }

// Depth returns the number of directories above the root.
func (s *Stack) Depth() int { return len(s.levels) - 1 }

// Push opens a sub-directory of Top, which is the top then.
func (s *Stack) Push(name string) error {
	if s.err != nil {
		return s.err
	}
	dir, err := s.Top().Open(name)
	if err != nil {
		return err
	}
	return s.PushDir(dir)
}

// PushDir makes a sub-directory of Top that was opened before the new top. The
// Stack closes it, also if PushDir fails.
func (s *Stack) PushDir(dir *Dir) error {
	if s.err == nil && s.open == stackFds-1 {
		s.err = s.closeOutermost()
	}
	if s.err != nil {
		dir.Close()
		return s.err
	}
	s.levels = append(s.levels, level{dir: dir, name: dir.name})
	s.open++
	return nil
}

// closeOutermost closes the first open level above the root, and remembers
// which it was.
func (s *Stack) closeOutermost() error {
	l := &s.levels[len(s.levels)-s.open]
	st, err := l.dir.Stat()
	if err != nil {
		return err
	}
	l.dev, l.ino = st.Dev, st.Ino
	l.dir.Close()
	l.dir = nil
	s.open--
	return nil
}

// Pop goes up one level. It fails with ErrMoved if what is there is not the
// directory that Push came from; then, and after any other failure, the Stack
// can only be closed.
func (s *Stack) Pop() error {
	if s.err != nil {
		return s.err
	}
	last := len(s.levels) - 1
	if last == 0 {
		return &fs.PathError{Op: "open", Path: "..", Err: unix.EINVAL}
	}
	top, above := &s.levels[last], &s.levels[last-1]
	if above.dir == nil {
		if s.err = above.reopen(top.dir); s.err != nil {
			return s.err
		}
		s.open++
	}
	top.dir.Close()
	s.levels[last] = level{}
	s.levels = s.levels[:last]
	s.open--
	return nil
}

// reopen opens a level from the one below it.
func (l *level) reopen(below *Dir) error {
	dir, err := below.Parent()
	if err != nil {
		return err
	}
	st, err := dir.Stat()
	if err == nil && (st.Dev != l.dev || st.Ino != l.ino) {
		err = &fs.PathError{Op: "open", Path: l.name, Err: ErrMoved}
	}
	if err != nil {
		dir.Close()
		return err
	}
	dir.name = l.name
	l.dir = dir
	return nil
}

// Close closes everything.
func (s *Stack) Close() error {
	var first error
	for i := range s.levels {
		if dir := s.levels[i].dir; dir != nil {
			if err := dir.Close(); first == nil {
				first = err
			}
		}
	}
	s.levels, s.open, s.err = s.levels[:1], 0, fs.ErrClosed
	return first
}
