package fsx

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
)

// File is an open file. After the first failed write, truncate, sync or close
// every later change fails with the same error: the kernel reports a lost page
// once, and a second fsync that succeeds proves nothing. Reads go on.
//
// ReadAt and WriteAt may be called by several goroutines at once; Read, Write
// and Seek share an offset and may not.
type File struct {
	fs     *FS
	file   *os.File
	name   string
	off    int64 // kept here and not in the kernel, so that Op can tell it
	failed atomic.Pointer[failure]
	closed atomic.Bool
}

// failure is the error that a File or Target keeps.
type failure struct{ err error }

// fail keeps the first error and returns the one that was kept.
func (f *File) fail(err error) error {
	if err == nil {
		return nil
	}
	f.failed.CompareAndSwap(nil, &failure{err})
	return f.failed.Load().err
}

// refuse is asked before every change.
func (f *File) refuse() error {
	if f.closed.Load() {
		return &fs.PathError{Op: "write", Path: f.name, Err: os.ErrClosed}
	}
	if failed := f.failed.Load(); failed != nil {
		return failed.err
	}
	return nil
}

// Name returns the path the file was opened by.
func (f *File) Name() string { return f.name }

// Write appends at the file's own offset.
func (f *File) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.off)
	f.off += int64(n)
	return n, err
}

// WriteAt writes at off. It writes all of p or fails.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.refuse(); err != nil {
		return 0, err
	}
	if f.fs.observed() {
		return f.observedWriteAt(p, off)
	}
	n, err := f.file.WriteAt(p, off)
	return n, f.fail(err)
}

// observedWriteAt is WriteAt with somebody watching. It is a function of its
// own because its closure moves what it captures to the heap.
func (f *File) observedWriteAt(p []byte, off int64) (int, error) {
	var n int
	err := f.fs.do(Op{Kind: KindWrite, Path: f.name, Off: off, Data: p}, func() (err error) {
		n, err = f.file.WriteAt(p, off)
		return err
	})
	if err == nil && n < len(p) {
		err = &fs.PathError{Op: "write", Path: f.name, Err: io.ErrShortWrite}
	}
	return n, f.fail(err)
}

// Read reads from the file's own offset.
func (f *File) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil // the end is told by the next call, as io.Reader has it
	}
	return n, err
}

// ReadAt reads at off. Like every io.ReaderAt it fills p or tells why not.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if f.fs.observed() {
		return f.observedReadAt(p, off)
	}
	return f.file.ReadAt(p, off)
}

func (f *File) observedReadAt(p []byte, off int64) (int, error) {
	var n int
	var end error // io.EOF is no failure, and not for Intercept to see
	err := f.fs.do(Op{Kind: KindRead, Path: f.name, Off: off}, func() (err error) {
		n, err = f.file.ReadAt(p, off)
		if end = nil; err == io.EOF {
			end, err = io.EOF, nil
		}
		return err
	})
	switch {
	case err != nil:
		return n, err
	case end == nil && n < len(p):
		return n, &fs.PathError{Op: "read", Path: f.name, Err: errNotRun}
	}
	return n, end
}

// Seek sets the file's own offset.
func (f *File) Seek(off int64, whence int) (int64, error) {
	base := int64(0)
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		base = f.off
	case io.SeekEnd:
		size, err := f.Size()
		if err != nil {
			return 0, err
		}
		base = size
	default:
		return 0, &fs.PathError{Op: "seek", Path: f.name, Err: fs.ErrInvalid}
	}
	if base+off < 0 {
		return 0, &fs.PathError{Op: "seek", Path: f.name, Err: fs.ErrInvalid}
	}
	f.off = base + off
	return f.off, nil
}

// Truncate sets the file's size.
func (f *File) Truncate(size int64) error {
	if err := f.refuse(); err != nil {
		return err
	}
	return f.fail(f.fs.do(Op{Kind: KindTruncate, Path: f.name, Off: size}, func() error {
		return f.file.Truncate(size)
	}))
}

// Size returns the file's size now.
func (f *File) Size() (int64, error) {
	size := int64(-1)
	err := f.fs.do(Op{Kind: KindStat, Path: f.name}, func() error {
		info, err := f.file.Stat()
		if err == nil {
			size = info.Size()
		}
		return err
	})
	if err == nil && size < 0 {
		err = &fs.PathError{Op: "stat", Path: f.name, Err: errNotRun}
	}
	return size, err
}

// Sync makes the file's bytes durable.
func (f *File) Sync() error {
	if err := f.refuse(); err != nil {
		return err
	}
	return f.fail(f.fs.do(Op{Kind: KindSync, Path: f.name}, f.file.Sync))
}

// Close closes the file. A file that was written to and not synced is not
// durable. If a change had failed Close returns that error again; a second
// Close returns os.ErrClosed. The descriptor is given back in any case.
func (f *File) Close() error {
	if f.closed.Swap(true) {
		return &fs.PathError{Op: "close", Path: f.name, Err: os.ErrClosed}
	}
	err := f.fs.do(Op{Kind: KindClose, Path: f.name}, f.file.Close)
	if closeErr := f.file.Close(); err == nil && !errors.Is(closeErr, os.ErrClosed) {
		err = closeErr // Intercept did not run it
	}
	_ = f.fail(err)
	if failed := f.failed.Load(); failed != nil {
		return failed.err
	}
	return nil
}
