package fsx

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotRegular is what OpenFile says of anything that is not a regular file, a
// symbolic link included.
var ErrNotRegular = errors.New("not a regular file")

// ErrName is what the methods of a Dir say of a name that is no single
// component: empty, ".", "..", or with a '/' or NUL in it.
var ErrName = errors.New("not a single file name")

// Dir is a directory held by descriptor. Names given to its methods are single
// components: a name that is empty, "." or "..", or holds '/' or NUL is refused.
// No method follows a symbolic link. The methods
// that take a name, and CreateTemp, may be called by several goroutines at once;
// the others, such as Read and Close, by one while no other method runs.
//
// There is no finalizer: a Dir that is not closed keeps its descriptor.
type Dir struct {
	fd   int
	kern *kernel
	name string // for messages only
	read bool   // the descriptor's offset has moved
	pass bool   // may be passed through and not read: an O_PATH descriptor
}

// OpenDir opens an absolute path, component by component from the root (in one
// openat2 call where the kernel has it), refusing symbolic links on the way.
// The path may be longer than PATH_MAX; it may not hold "..". Of a directory
// that may be searched but not read only Read fails.
func OpenDir(path string) (*Dir, error) { return openDir(new(kernel), path) }

func openDir(k *kernel, path string) (*Dir, error) {
	if !strings.HasPrefix(path, "/") || strings.IndexByte(path, 0) >= 0 {
		return nil, &fs.PathError{Op: "open", Path: path, Err: unix.EINVAL}
	}
	fd, pass, err := k.openPath(path)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{fd: fd, kern: k, name: path, pass: pass}, nil
}

// fail makes the error of a method out of what the kernel said.
func (d *Dir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// validName reports whether name is a single component.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." &&
		strings.IndexByte(name, '/') < 0 && strings.IndexByte(name, 0) < 0
}

// Open opens a sub-directory, with O_NOATIME where that is allowed. What is no
// directory, or a symbolic link, answers ENOTDIR.
func (d *Dir) Open(name string) (*Dir, error) {
	if !validName(name) {
		return nil, d.fail("open", name, ErrName)
	}
	fd, err := d.kern.openNoatime(d.fd, name, dirFlags)
	if errors.Is(err, unix.ELOOP) {
		err = unix.ENOTDIR // openat2 says this of a link, openat that
	}
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	return &Dir{fd: fd, kern: d.kern, name: name}, nil
}

// Parent opens the directory above, "..". The caller compares its Stat with
// what it expects: the tree may have been moved meanwhile.
func (d *Dir) Parent() (*Dir, error) {
	fd, err := noatime(dirFlags, func(flags int) (int, error) { return openat(d.fd, "..", flags, 0) })
	if err != nil {
		return nil, d.fail("open", "..", err)
	}
	return &Dir{fd: fd, kern: d.kern, name: ".."}, nil
}

// dup returns a second Dir of the same directory. Both share one read offset.
func (d *Dir) dup() (*Dir, error) {
	fd, err := unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, d.fail("dup", d.name, err)
	}
	return &Dir{fd: fd, kern: d.kern, name: d.name, read: true}, nil
}

// Stat describes the directory itself.
func (d *Dir) Stat() (Stat, error) {
	st, err := fstat(d.fd)
	return st, d.fail("stat", d.name, err)
}

// Lstat describes a name in the directory.
func (d *Dir) Lstat(name string) (Stat, error) {
	if !validName(name) {
		return Stat{}, d.fail("lstat", name, ErrName)
	}
	st, err := lstatat(d.fd, name)
	if err != nil {
		return Stat{}, d.fail("lstat", name, err)
	}
	return st, nil
}

// leaseWait is how long OpenFile waits for others to give back a lease on the
// file: with O_NONBLOCK the kernel asks them and answers EWOULDBLOCK at once.
const leaseWait = 2 * time.Second

// OpenFile opens a regular file for reading, with O_NONBLOCK and O_NOATIME
// where allowed; anything but a regular file is closed again unread and
// answered with ErrNotRegular, so a FIFO or a device never blocks.
//
// To open a device can be an act by itself (a watchdog is armed, a tape is
// rewound), so the name is looked at first, and what was opened is looked at
// again, because the name may have changed hands between the two.
func (d *Dir) OpenFile(name string) (*Source, Stat, error) {
	st, err := d.Lstat(name)
	if err != nil {
		return nil, Stat{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, Stat{}, d.fail("open", name, ErrNotRegular)
	}
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := d.kern.openNoatime(d.fd, name, flags)
	for pause := time.Millisecond; errors.Is(err, unix.EWOULDBLOCK) && pause < leaseWait; pause *= 2 {
		time.Sleep(pause)
		fd, err = d.kern.openNoatime(d.fd, name, flags)
	}
	if oneOf(err, unix.ELOOP, unix.ENXIO, unix.ENODEV) { // a link; a socket, or a device without driver
		err = ErrNotRegular
	}
	if err != nil {
		return nil, Stat{}, d.fail("open", name, err)
	}
	st, err = fstat(fd)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = ErrNotRegular
	}
	if err != nil {
		discard(fd)
		return nil, Stat{}, d.fail("open", name, err)
	}
	return &Source{fd: fd, name: name}, st, nil
}

// OpenNode opens any name with O_PATH|O_NOFOLLOW, to read its metadata or to
// change them through /proc/self/fd.
func (d *Dir) OpenNode(name string) (*Source, Stat, error) {
	if !validName(name) {
		return nil, Stat{}, d.fail("open", name, ErrName)
	}
	fd, err := d.kern.open(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return nil, Stat{}, d.fail("open", name, err)
	}
	st, err := fstat(fd)
	if err != nil {
		discard(fd)
		return nil, Stat{}, d.fail("stat", name, err)
	}
	return &Source{fd: fd, name: name}, st, nil
}

// Readlink returns the target of a symbolic link.
func (d *Dir) Readlink(name string) (string, error) {
	if !validName(name) {
		return "", d.fail("readlink", name, ErrName)
	}
	target, err := readlinkat(d.fd, name)
	return target, d.fail("readlink", name, err)
}

// Sync makes the names in the directory durable, as far as its file system can.
func (d *Dir) Sync() error {
	err := retry(func() error { return unix.Fsync(d.fd) })
	if oneOf(err, unix.EINVAL, unix.ENOTSUP) {
		err = nil
	}
	return d.fail("sync", d.name, err)
}

// Fd returns the descriptor, valid until Close.
func (d *Dir) Fd() int { return d.fd }

// Close gives the descriptor back. A second Close returns os.ErrClosed.
func (d *Dir) Close() error {
	if d.fd < 0 {
		return d.fail("close", d.name, os.ErrClosed)
	}
	err := unix.Close(d.fd)
	d.fd = -1
	return d.fail("close", d.name, err)
}
