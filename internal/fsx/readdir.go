package fsx

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// DirName is a name in a directory, with its d_type (DT_*, 0 unknown) and inode.
type DirName struct {
	Name string
	Type uint8
	Ino  uint64
}

// listing is the room that one Read needs. A pool keeps it between the
// directories of a tree.
type listing struct {
	raw   [32 << 10]byte
	names []byte
}

// Read calls fn for each name but "." and "..", in the order of the file
// system, and stops at its first error.
func (d *Dir) Read(fn func(DirName) error) error {
	if d.pass {
		return d.fail("readdir", d.name, unix.EACCES)
	}
	if d.read {
		if _, err := unix.Seek(d.fd, 0, unix.SEEK_SET); err != nil {
			return d.fail("readdir", d.name, err)
		}
	}
	d.read = true
	l, _ := d.kern.listings.Get().(*listing)
	if l == nil {
		l = new(listing)
	}
	defer d.kern.listings.Put(l)
	for {
		n, err := unix.Getdents(d.fd, l.raw[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return d.fail("readdir", d.name, err)
		}
		if n == 0 {
			return nil
		}
		if err := l.each(l.raw[:n], fn); err != nil {
			if errors.Is(err, errDirent) {
				err = d.fail("readdir", d.name, unix.EIO)
			}
			return err
		}
	}
}

// A record of getdents64, in the byte order of the machine:
//
//	0       8       16  18  19
//	| inode | offset | len | type | name, NUL, padding to len |
const (
	direntLen  = 16
	direntType = 18
	direntName = 19
)

// errDirent means that the kernel gave a record that is none.
var errDirent = unix.EBADMSG

// nextDirent takes one record off b.
func nextDirent(b []byte) (ino uint64, typ uint8, name, rest []byte, err error) {
	if len(b) < direntName+1 {
		return 0, 0, nil, nil, errDirent
	}
	size := int(binary.NativeEndian.Uint16(b[direntLen:]))
	if size < direntName+1 || size > len(b) {
		return 0, 0, nil, nil, errDirent
	}
	name = b[direntName:size]
	end := bytes.IndexByte(name, 0)
	if end <= 0 {
		return 0, 0, nil, nil, errDirent
	}
	return binary.NativeEndian.Uint64(b), b[direntType], name[:end], b[size:], nil
}

func isDots(name []byte) bool {
	return name[0] == '.' && (len(name) == 1 || (len(name) == 2 && name[1] == '.'))
}

// each calls fn for the records of one buffer. All names of the buffer become
// one string, of which each is a part: one allocation for some hundred names.
func (l *listing) each(raw []byte, fn func(DirName) error) error {
	l.names = l.names[:0]
	for b := raw; len(b) > 0; {
		_, _, name, rest, err := nextDirent(b)
		if err != nil {
			return err
		}
		if !isDots(name) {
			l.names = append(l.names, name...)
		}
		b = rest
	}
	names := string(l.names)
	for b := raw; len(b) > 0; {
		ino, typ, name, rest, _ := nextDirent(b)
		b = rest
		if isDots(name) {
			continue
		}
		if err := fn(DirName{Name: names[:len(name)], Type: typ, Ino: ino}); err != nil {
			return err
		}
		names = names[len(name):]
	}
	return nil
}
