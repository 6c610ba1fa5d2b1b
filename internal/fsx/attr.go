package fsx

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The setters below change the inode that a descriptor holds, never one that a
// name leads to, so nobody can make them touch another by swapping a name. The
// descriptor may be an O_PATH one (Dir.OpenNode), of a symbolic link too: the
// plain calls answer EBADF then, and the inode is named in a second way, by an
// empty path or under /proc/self/fd.
//
// They go in this order: owner, mode, ACL, times. A change of owner clears the
// set-id bits, so the mode comes after it.

// Unchanged as an owner leaves that half of the ownership as it is.
const Unchanged = ^uint32(0)

// Fchown sets owner and group of a held inode.
func Fchown(fd int, uid, gid uint32) error {
	err := retry(func() error { return unix.Fchown(fd, int(uid), int(gid)) })
	if !errors.Is(err, unix.EBADF) {
		return err
	}
	return retry(func() error { return unix.Fchownat(fd, "", int(uid), int(gid), unix.AT_EMPTY_PATH) })
}

// Fchmod sets the twelve permission bits of a held inode. Those of a symbolic
// link can't be set on Linux and mean nothing: that is ENOTSUP.
func Fchmod(fd int, mode uint32) error {
	mode &= 0o7777
	err := retry(func() error { return unix.Fchmod(fd, mode) })
	if !errors.Is(err, unix.EBADF) {
		return err
	}
	st, err := fstat(fd)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.ENOTSUP
	}
	err = retry(func() error { return unix.Fchmodat(unix.AT_FDCWD, procPath(fd), mode, 0) })
	if errors.Is(err, unix.ENOENT) { // no /proc; Linux 6.6 can do without
		err = unix.Fchmodat(fd, "", mode, unix.AT_EMPTY_PATH)
	}
	return err
}

// Futimens sets the times of access and modification of a held inode.
func Futimens(fd int, atime, mtime Time) error {
	var ts [2]unix.Timespec
	var err error
	if ts[0], err = timespec(atime); err != nil {
		return err
	}
	if ts[1], err = timespec(mtime); err != nil {
		return err
	}
	err = retry(func() error { return futimens(fd, &ts) })
	if !errors.Is(err, unix.EBADF) {
		return err
	}
	// An O_PATH descriptor; an empty path is understood since Linux 5.8.
	err = unix.UtimesNanoAt(fd, "", ts[:], unix.AT_EMPTY_PATH)
	if oneOf(err, unix.EINVAL, unix.ENOENT) {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), ts[:], 0)
	}
	return err
}

// futimens is utimensat without a path, which package unix can't express.
func futimens(fd int, ts *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// timespec translates; on 32-bit systems a time may not fit.
func timespec(t Time) (unix.Timespec, error) {
	if t.Nsec < 0 || t.Nsec > 999_999_999 { // UTIME_NOW and UTIME_OMIT lie out there
		return unix.Timespec{}, unix.EINVAL
	}
	return unix.TimeToTimespec(time.Unix(t.Sec, int64(t.Nsec)))
}
