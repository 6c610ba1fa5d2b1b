package fsx

import "os"

// Time is a point in time as the kernel tells it: seconds since the epoch,
// rounded down, and 0 to 999,999,999 nanoseconds.
type Time struct {
	Sec  int64
	Nsec int32
}

// Stat is what lstat(2) says of an inode. Mode is the whole st_mode, type bits
// included; Rdev is as the kernel encodes it.
type Stat struct {
	Dev, Ino            uint64
	Nlink               uint64
	Mode                uint32
	UID, GID            uint32
	Rdev                uint64
	Size                int64
	Blocks              int64 // of 512 bytes
	Atime, Mtime, Ctime Time
}

// Dir is a directory held by descriptor. Names given to its methods are single
// components: a name that is empty, "." or "..", or holds '/' or NUL is refused.
// No method follows a symbolic link. A Dir is used by one goroutine at a time,
// but for Lstat and OpenFile, which may be called at once.
type Dir struct{}

// DirName is a name in a directory, with its d_type (DT_*, 0 unknown) and inode.
type DirName struct {
	Name string
	Type uint8
	Ino  uint64
}

// OpenDir opens an absolute path, component by component from the root (in one
// openat2 call where the kernel has it), refusing symbolic links on the way.
func OpenDir(path string) (*Dir, error) { panic("stub") }

// Open opens a sub-directory, with O_NOATIME where that is allowed.
func (d *Dir) Open(name string) (*Dir, error) { panic("stub") }

// Parent opens the directory above, "..". The caller compares its Stat with
// what it expects: the tree may have been moved meanwhile.
func (d *Dir) Parent() (*Dir, error) { panic("stub") }

// Read calls fn for each name but "." and "..", in the order of the file
// system, and stops at its first error.
func (d *Dir) Read(fn func(DirName) error) error { panic("stub") }

// Stat describes the directory itself.
func (d *Dir) Stat() (Stat, error) { panic("stub") }

// Lstat describes a name in the directory.
func (d *Dir) Lstat(name string) (Stat, error) { panic("stub") }

// OpenFile opens a regular file for reading, with O_NONBLOCK and O_NOATIME
// where allowed; anything but a regular file is closed again unread and
// answered with ErrNotRegular, so a FIFO or a device never blocks.
func (d *Dir) OpenFile(name string) (*os.File, Stat, error) { panic("stub") }

// OpenNode opens any name with O_PATH|O_NOFOLLOW, to read its metadata or to
// change them through /proc/self/fd.
func (d *Dir) OpenNode(name string) (*os.File, Stat, error) { panic("stub") }

// Readlink returns the target of a symbolic link.
func (d *Dir) Readlink(name string) (string, error) { panic("stub") }

// Fd returns the descriptor, valid until Close.
func (d *Dir) Fd() int { panic("stub") }

// Close gives the descriptor back.
func (d *Dir) Close() error { panic("stub") }
