package fsx

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// What goes through a machine at night should not stay in its page cache: it pushes
// out what the machine works with by day, and each page that it is given is one that
// the kernel has to find. On a virtual machine that costs most: memory that is free
// was given back to the host, and comes back page by page at the first touch, at ten
// times the cost of the copy that fills it. So large files are written to the disk while they
// grow, and dropped behind; the pages go round.

// StartSync asks the kernel to begin writing n bytes at off to the disk, and does
// not wait for it. It makes nothing durable: that is for Sync, which then finds
// less to do. An Intercept does not see it, because it changes nothing.
//
// What the kernel answers counts like the answer to a write: before 4.13 it might
// tell of a lost page here and not once more in Sync. That it does not know the
// call, or not for this file system, is no failure.
func (f *File) StartSync(off, n int64) error {
	if err := f.refuse(); err != nil || f.fs.observed() {
		return err
	}
	if err := startSync(int(f.file.Fd()), off, n); err != nil {
		return f.fail(&fs.PathError{Op: "sync_file_range", Path: f.name, Err: err})
	}
	return nil
}

// DropCache asks the kernel to forget n bytes at off, or all from there on if n is 0,
// as far as they are on the disk already: they are not needed soon.
func (f *File) DropCache(off, n int64) {
	if !f.closed.Load() && !f.fs.observed() {
		dropCache(int(f.file.Fd()), off, n)
	}
}

// StartSync is that of File.
func (t *Target) StartSync(off, n int64) error {
	return t.fail("sync_file_range", startSync(t.fd, off, n))
}

// Written is a Target of which only what was written is of interest: it stays open,
// under whatever name, until Close.
type Written struct{ fd int }

// Written returns what DropCache needs after the Target is closed.
func (t *Target) Written() (*Written, error) {
	fd, err := unix.FcntlInt(uintptr(t.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, t.dir.fail("dup", t.dir.name, err)
	}
	return &Written{fd}, nil
}

// DropCache is that of File.
func (w *Written) DropCache(off, n int64) { dropCache(w.fd, off, n) }

// Close gives the descriptor back.
func (w *Written) Close() error { return unix.Close(w.fd) }

// Prefetch is that of Source.
func (f *File) Prefetch(off, n int64) {
	if !f.closed.Load() && !f.fs.observed() {
		_ = unix.Fadvise(int(f.file.Fd()), off, n, unix.FADV_WILLNEED)
	}
}

// Prefetch asks the kernel to begin reading n bytes at off into the page cache, and does
// not wait for it.
func (s *Source) Prefetch(off, n int64) { _ = unix.Fadvise(s.fd, off, n, unix.FADV_WILLNEED) }

func startSync(fd int, off, n int64) error {
	err := retry(func() error { return unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE) })
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// dropCache is advice: that it is not taken is no failure.
func dropCache(fd int, off, n int64) { _ = unix.Fadvise(fd, off, n, unix.FADV_DONTNEED) }
