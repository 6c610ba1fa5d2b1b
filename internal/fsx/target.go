package fsx

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Mkdir makes a directory; the umask takes bits off perm.
func (d *Dir) Mkdir(name string, perm fs.FileMode) error {
	if !validName(name) {
		return d.fail("mkdir", name, ErrName)
	}
	return d.fail("mkdir", name, retry(func() error {
		return unix.Mkdirat(d.fd, name, uint32(perm.Perm()))
	}))
}

// Symlink makes a symbolic link called name that holds target.
func (d *Dir) Symlink(target, name string) error {
	if !validName(name) {
		return d.fail("symlink", name, ErrName)
	}
	return d.fail("symlink", name, retry(func() error { return unix.Symlinkat(target, d.fd, name) }))
}

// Mknod makes a device, FIFO or socket. mode holds the type bits; rdev is as
// Stat has it.
func (d *Dir) Mknod(name string, mode uint32, rdev uint64) error {
	if !validName(name) {
		return d.fail("mknod", name, ErrName)
	}
	return d.fail("mknod", name, retry(func() error { return unix.Mknodat(d.fd, name, mode, int(rdev)) }))
}

// Linkat gives a held inode one more name, here. It fails with fs.ErrExist if
// the name is taken.
func (d *Dir) Linkat(node *Source, name string) error {
	if !validName(name) {
		return d.fail("link", name, ErrName)
	}
	return d.fail("link", name, d.link(node.fd, name))
}

// link names an inode by its descriptor: under /proc, which everybody may, or
// where that is missing by the empty path, which root may.
func (d *Dir) link(fd int, name string) error {
	if d.kern.hasProc() {
		return retry(func() error {
			return unix.Linkat(unix.AT_FDCWD, procPath(fd), d.fd, name, unix.AT_SYMLINK_FOLLOW)
		})
	}
	return retry(func() error { return unix.Linkat(fd, "", d.fd, name, unix.AT_EMPTY_PATH) })
}

// Rename gives a name in this directory to what has another one, replacing what
// had it.
func (d *Dir) Rename(from, to string) error {
	if !validName(from) || !validName(to) {
		return d.fail("rename", from, ErrName)
	}
	return d.fail("rename", from, retry(func() error { return unix.Renameat(d.fd, from, d.fd, to) }))
}

// Unlink removes a name that is no directory.
func (d *Dir) Unlink(name string) error { return d.unlink(name, 0) }

// Rmdir removes an empty directory.
func (d *Dir) Rmdir(name string) error { return d.unlink(name, unix.AT_REMOVEDIR) }

func (d *Dir) unlink(name string, flags int) error {
	if !validName(name) {
		return d.fail("remove", name, ErrName)
	}
	return d.fail("remove", name, retry(func() error { return unix.Unlinkat(d.fd, name, flags) }))
}

// Target is a new file that has no name, or a temporary one, until LinkAs gives
// it its own. After the first failed write LinkAs refuses: what has a name is
// complete. The Dir it was made in must stay open as long as the Target is.
//
// WriteAt may be called by several goroutines at once.
type Target struct {
	dir    *Dir
	fd     int
	temp   string // a name that Close removes; "" if there is none
	failed atomic.Pointer[failure]
}

// tempPrefix begins the name of a Target that could not be made without one.
const (
	tempPrefix = ".kedge-"
	tempDigits = 8
)

// CreateTemp makes a file that only its owner can open, without a name where the
// file system can do that (O_TMPFILE, Linux 3.11), so that nothing is left
// behind if the process is killed; else under a random one.
func (d *Dir) CreateTemp() (*Target, error) {
	if d.kern.hasProc() && !d.kern.old {
		fd, err := openat(d.fd, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err == nil {
			return &Target{dir: d, fd: fd}, nil
		}
		if !oneOf(err, unix.EOPNOTSUPP, unix.EISDIR, unix.EINVAL, unix.ENOENT) {
			return nil, d.fail("create", d.name, err)
		}
		// Else the file system, or the kernel, has it not.
	}
	const flags = unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_RDWR | unix.O_CLOEXEC
	for tries := 0; ; tries++ {
		name := TempName()
		fd, err := openat(d.fd, name, flags, 0o600)
		if err == nil {
			return &Target{dir: d, fd: fd, temp: name}, nil
		}
		if tries >= 100 || !errors.Is(err, unix.EEXIST) {
			return nil, d.fail("create", name, err)
		}
	}
}

// TempName returns a random name for something that is to be renamed.
func TempName() string { return fmt.Sprintf("%s%0*x", tempPrefix, tempDigits, rand.Uint32()) }

// IsTempName reports whether a name looks like one of TempName, as it is left
// behind by a process that was killed.
func IsTempName(name string) bool {
	digits, ok := strings.CutPrefix(name, tempPrefix)
	return ok && len(digits) == tempDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

func (t *Target) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	t.failed.CompareAndSwap(nil, &failure{t.dir.fail(op, t.dir.name, err)})
	return t.failed.Load().err
}

// Fd returns the descriptor, valid until Close.
func (t *Target) Fd() int { return t.fd }

// Stat describes the inode as it is now.
func (t *Target) Stat() (Stat, error) {
	st, err := fstat(t.fd)
	return st, t.dir.fail("stat", t.dir.name, err)
}

// WriteAt writes at off; what is passed over becomes a hole. It writes all of p
// or fails.
func (t *Target) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(t.fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, t.fail("write", err)
		case n == 0:
			return done, t.fail("write", unix.EIO)
		default:
			done += n
		}
	}
	return done, nil
}

// ReadAt reads back at off what was written.
func (t *Target) ReadAt(p []byte, off int64) (int, error) {
	return (&Source{fd: t.fd, name: t.dir.name}).ReadAt(p, off)
}

// Truncate sets the size.
func (t *Target) Truncate(size int64) error {
	return t.fail("truncate", retry(func() error { return unix.Ftruncate(t.fd, size) }))
}

// Sync makes the bytes durable. The name is durable after LinkAs and a Sync of
// the Dir.
func (t *Target) Sync() error {
	return t.fail("sync", retry(func() error { return unix.Fsync(t.fd) }))
}

// LinkAs gives the file its name, atomically: there is what was there before or
// the whole file. Without replace a name that is taken is fs.ErrExist; with it,
// whatever has the name is replaced, but for a directory.
func (t *Target) LinkAs(name string, replace bool) error {
	if !validName(name) {
		return t.dir.fail("link", name, ErrName)
	}
	if failed := t.failed.Load(); failed != nil {
		return failed.err
	}
	var err error
	if t.temp == "" {
		err = t.linkNameless(name, replace)
	} else {
		err = t.renameTemp(name, replace)
	}
	return t.dir.fail("link", name, err)
}

// linkNameless names an O_TMPFILE. link never replaces, so to replace, the file
// takes a temporary name first, and is renamed from that.
func (t *Target) linkNameless(name string, replace bool) error {
	err := t.dir.link(t.fd, name)
	if !replace || !errors.Is(err, unix.EEXIST) {
		return err
	}
	for tries := 0; ; tries++ {
		temp := TempName()
		err := t.dir.link(t.fd, temp)
		if err == nil {
			t.temp = temp
			return t.renameTemp(name, true)
		}
		if tries >= 100 || !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
}

// renameTemp gives the file its name and takes the temporary one off it.
func (t *Target) renameTemp(name string, replace bool) error {
	d := t.dir.fd
	if replace {
		if err := retry(func() error { return unix.Renameat(d, t.temp, d, name) }); err != nil {
			return err
		}
		t.temp = ""
		return nil
	}
	err := error(unix.ENOSYS)
	if !t.dir.kern.old {
		err = retry(func() error { return unix.Renameat2(d, t.temp, d, name, unix.RENAME_NOREPLACE) })
	}
	if oneOf(err, unix.EINVAL, unix.ENOSYS) { // before Linux 3.15, or not on this file system
		if err = retry(func() error { return unix.Linkat(d, t.temp, d, name, 0) }); err == nil {
			err = retry(func() error { return unix.Unlinkat(d, t.temp, 0) })
		}
	}
	if err == nil {
		t.temp = ""
	}
	return err
}

// Close gives the descriptor back, and removes the file if it never got its name.
func (t *Target) Close() error {
	if t.fd < 0 {
		return t.dir.fail("close", t.dir.name, os.ErrClosed)
	}
	if t.temp != "" {
		_ = unix.Unlinkat(t.dir.fd, t.temp, 0)
		t.temp = ""
	}
	err := unix.Close(t.fd)
	t.fd = -1
	return t.dir.fail("close", t.dir.name, err)
}
