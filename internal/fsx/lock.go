package fsx

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is what Lock fails with when others hold the lock for longer than
// it may wait.
var ErrLocked = errors.New("locked by another process")

// LockMode says how a lock is shared.
type LockMode uint8

// Shared locks go together; an exclusive one goes with none.
const (
	Shared LockMode = iota
	Exclusive
)

// Between two attempts Lock sleeps for 5 ms, then longer, at most 50 ms. A
// blocking flock in a thread of its own was rejected: it can't be given up
// after a time without leaking the thread.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = 50 * time.Millisecond
)

// Lock is a held flock(2). It ends with the process that holds it.
type Lock struct{ file *File }

// Lock takes an advisory lock on name, which is created if it is not there. It
// waits for at most wait (0: not at all) and fails with ErrLocked then. After
// the lock is taken the file must still be the one of that name, else it is
// opened again (someone removed it in between).
//
// Where the file may not be written a shared lock is taken on it as it is, so
// that a repository can be read by those who may only read.
func (f *FS) Lock(name string, mode LockMode, wait time.Duration) (*Lock, error) {
	var file *os.File
	err := f.do(Op{Kind: KindLock, Path: name}, func() (err error) {
		file, err = lockFile(name, mode, wait)
		return err
	})
	locked, err := f.adopt(name, file, err)
	if err != nil {
		return nil, err
	}
	return &Lock{locked}, nil
}

// lockFile opens name, locks it and makes sure that it still has its name.
func lockFile(name string, mode LockMode, wait time.Duration) (*os.File, error) {
	deadline := time.Now().Add(wait)
	for pause := firstPause; ; {
		file, err := openLock(name, mode)
		if err != nil {
			return nil, err
		}
		err = tryLock(file, mode)
		if err == nil {
			current, statErr := isCurrent(file, name)
			if current {
				return file, nil
			}
			err = statErr
		}
		file.Close()
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			left := time.Until(deadline)
			if left <= 0 {
				return nil, &fs.PathError{Op: "lock", Path: name, Err: ErrLocked}
			}
			time.Sleep(min(pause, left))
			pause = min(2*pause, lastPause)
		case err != nil:
			return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
		}
	}
}

func openLock(name string, mode LockMode) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o640)
	if mode == Shared && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)) {
		if plain, plainErr := os.Open(name); plainErr == nil {
			return plain, nil
		}
	}
	return file, err
}

func tryLock(file *os.File, mode LockMode) error {
	how := unix.LOCK_SH | unix.LOCK_NB
	if mode == Exclusive {
		how = unix.LOCK_EX | unix.LOCK_NB
	}
	for {
		if err := unix.Flock(int(file.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// isCurrent reports whether file is what name leads to.
func isCurrent(file *os.File, name string) (bool, error) {
	held, err := file.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(held, named), err
}

// File returns the locked file; it stays open as long as the lock is held.
func (l *Lock) File() *File { return l.file }

// Share returns another descriptor of the locked file, for a process that is about to be
// started. The lock is held until that process, and this one, have closed it or died; but
// Unlock takes it from both.
func (l *Lock) Share() (*os.File, error) {
	fd, err := unix.FcntlInt(l.file.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "dup", Path: l.file.name, Err: err}
	}
	return os.NewFile(uintptr(fd), l.file.name), nil
}

// Unlock gives the lock back.
func (l *Lock) Unlock() error {
	if !l.file.closed.Load() {
		// A process that is being forked shares the open file for a moment; the
		// lock must not wait for it to exec, so it is given up by name first.
		_ = unix.Flock(int(l.file.file.Fd()), unix.LOCK_UN)
	}
	return l.file.Close()
}
