package fsx

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Source is what Dir.OpenFile or Dir.OpenNode opened: a file to be read, or any
// inode held by an O_PATH descriptor, of which only the metadata can be had. It
// is a plain descriptor without poller and finalizer, which an os.File would
// cost a save that opens a million of them: who opens it must close it.
//
// ReadAt may be called by several goroutines at once.
type Source struct {
	fd   int
	off  int64 // of Read; the descriptor's own is moved by NextData
	name string
}

func (s *Source) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: s.name, Err: err}
}

// Fd returns the descriptor, valid until Close.
func (s *Source) Fd() int { return s.fd }

// Stat describes the inode as it is now.
func (s *Source) Stat() (Stat, error) {
	st, err := fstat(s.fd)
	return st, s.fail("stat", err)
}

// Readlink returns the target, if the inode is a symbolic link.
func (s *Source) Readlink() (string, error) {
	target, err := readlinkat(s.fd, "")
	return target, s.fail("readlink", err)
}

// Read reads from where the last Read ended.
func (s *Source) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := pread(s.fd, p, s.off)
	s.off += int64(n)
	if err != nil {
		return n, s.fail("read", err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// ReadAt reads at off, and returns io.EOF if the file ends before p is full.
func (s *Source) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := pread(s.fd, p[done:], off+int64(done))
		if err != nil {
			return done, s.fail("read", err)
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

func pread(fd int, p []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(fd, p, off)
		if err == nil {
			return n, nil
		}
		if err != unix.EINTR {
			return 0, err
		}
	}
}

// NextData returns the next extent of data at or after off: the bytes from data
// up to hole. At the end of the file both are its size. A file system that
// knows of no holes has data everywhere. The size is the one of now, and that of
// a file under /proc is 0: who has to be sure reads to the end.
func (s *Source) NextData(off int64) (data, hole int64, err error) {
	data, err = seek(s.fd, off, unix.SEEK_DATA)
	if err == nil {
		hole, err = seek(s.fd, data, unix.SEEK_HOLE)
		if err == nil && hole > data {
			return data, hole, nil
		}
	}
	// ENXIO: no data from here on, or the file was cut in between.
	size, sizeErr := seek(s.fd, 0, unix.SEEK_END)
	if sizeErr != nil {
		return 0, 0, s.fail("seek", sizeErr)
	}
	if oneOf(err, unix.EINVAL, unix.ENOTSUP, unix.ENOSYS) {
		return min(off, size), size, nil
	}
	if err == nil || errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	return 0, 0, s.fail("seek", err)
}

func seek(fd int, off int64, whence int) (int64, error) {
	for {
		at, err := unix.Seek(fd, off, whence)
		if err != unix.EINTR {
			return at, err
		}
	}
}

// Close gives the descriptor back. A second Close returns os.ErrClosed.
func (s *Source) Close() error {
	if s.fd < 0 {
		return s.fail("close", os.ErrClosed)
	}
	err := unix.Close(s.fd)
	s.fd = -1
	return s.fail("close", err)
}
