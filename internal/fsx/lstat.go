package fsx

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// lstatat describes a name without following it. It is called once for every
// path of a tree at every run, so it does without the heap: the name is copied
// to the stack, where package unix would allocate room for it and its NUL.
func lstatat(dirfd int, name string) (Stat, error) {
	var path [256]byte // NAME_MAX is 255 bytes, but a few file systems have more
	if sysFstatat == 0 || len(name) >= len(path) {
		return lstatatLong(dirfd, name)
	}
	copy(path[:], name)
	var st unix.Stat_t
	for {
		_, _, errno := unix.Syscall6(sysFstatat, uintptr(dirfd), uintptr(unsafe.Pointer(&path[0])),
			uintptr(unsafe.Pointer(&st)), unix.AT_SYMLINK_NOFOLLOW, 0, 0)
		if errno == 0 {
			return statOf(&st), nil
		}
		if errno != unix.EINTR {
			return Stat{}, errno
		}
	}
}

func lstatatLong(dirfd int, name string) (Stat, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return Stat{}, err
	}
	return statOf(&st), nil
}
