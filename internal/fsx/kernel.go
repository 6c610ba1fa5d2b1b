package fsx

import (
	"errors"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// kernel is what the Dirs of one tree know of the system below them. It is made
// by OpenDir, found out about at first need, and shared by all Dirs that are
// opened from one another.
type kernel struct {
	once    sync.Once
	openat2 bool // the call is there and no sandbox forbids it
	old     bool // tests: do without openat2, O_TMPFILE and renameat2, as on Linux 3.10

	procOnce sync.Once
	proc     bool // /proc/self/fd is there

	listings sync.Pool // of *listing
}

const (
	// dirFlags open a directory to be read and worked in.
	dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	// nodeFlags open a directory on the way to another: that needs the right to
	// search it, not to read it.
	nodeFlags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

	noLinks = unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

	// maxPiece is how much of a path goes into one openat2 call. The kernel takes
	// PATH_MAX, 4096, with the final NUL.
	maxPiece = 4000
)

// oneOf reports whether err is one of some answers of the kernel.
func oneOf(err error, answers ...unix.Errno) bool {
	for _, answer := range answers {
		if errors.Is(err, answer) {
			return true
		}
	}
	return false
}

// discard closes a descriptor through which nothing was written: what the close
// says is of no interest.
func discard(fd int) { _ = unix.Close(fd) }

// retry runs a call until it is not interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func openat(dirfd int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// openat2 is a kernel call of Linux 5.6. EAGAIN means that a rename somewhere
// in the system ran into the look-up; it says nothing about the path.
func openat2(dirfd int, path string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_LARGEFILE), Resolve: resolve}
	if flags&unix.O_PATH != 0 {
		how.Flags = uint64(flags)
	}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(dirfd, path, &how)
		if err == unix.EINTR || (err == unix.EAGAIN && flags&unix.O_NONBLOCK == 0 && tries < 128) {
			continue
		}
		return fd, err
	}
}

// hasOpenat2 asks once. An old kernel answers ENOSYS, a sandbox EPERM: to open
// the root with O_PATH is allowed to everybody else.
func (k *kernel) hasOpenat2() bool {
	k.once.Do(func() {
		if k.old {
			return
		}
		fd, err := openat2(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_CLOEXEC, noLinks)
		if err == nil {
			discard(fd)
			k.openat2 = true
		}
	})
	return k.openat2
}

// open opens a single component. flags hold O_NOFOLLOW, so that one call of
// openat is as safe as one of openat2 is.
func (k *kernel) open(dirfd int, name string, flags int) (int, error) {
	if k.hasOpenat2() {
		return openat2(dirfd, name, flags, noLinks|unix.RESOLVE_BENEATH)
	}
	return openat(dirfd, name, flags, 0)
}

// openNoatime is open with O_NOATIME if we may.
func (k *kernel) openNoatime(dirfd int, name string, flags int) (int, error) {
	fd, err := k.open(dirfd, name, flags|unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		return k.open(dirfd, name, flags)
	}
	return fd, err
}

// noatime tries with O_NOATIME, which only the owner of a file and root may
// use, and then without.
func noatime(flags int, open func(flags int) (int, error)) (int, error) {
	fd, err := open(flags | unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		return open(flags)
	}
	return fd, err
}

// openPath opens a directory by its absolute path, in pieces. One that may only
// be passed through stays an O_PATH descriptor.
func (k *kernel) openPath(path string) (fd int, pass bool, err error) {
	at, err := openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false, err
	}
	rest := strings.TrimLeft(path, "/")
	for rest != "" {
		var piece string
		piece, rest, err = k.cutPiece(rest)
		if err != nil {
			discard(at)
			return -1, false, err
		}
		next, err := k.openPiece(at, piece, nodeFlags)
		discard(at)
		if err != nil {
			return -1, false, err
		}
		at = next
	}
	// What is held by now is the very directory; "." of it can't be anything else.
	fd, err = noatime(dirFlags, func(flags int) (int, error) { return openat(at, ".", flags, 0) })
	if errors.Is(err, unix.EACCES) && unix.Faccessat(at, ".", unix.X_OK, unix.AT_EACCESS) == nil {
		return at, true, nil
	}
	discard(at)
	return fd, false, err
}

// cutPiece takes as many components off a path as the kernel resolves in one
// call: with openat2 what fits, else one. "." and empty components are dropped.
func (k *kernel) cutPiece(path string) (piece, rest string, err error) {
	limit := 0
	if k.hasOpenat2() {
		limit = maxPiece
	}
	end := 0 // of the piece
	for at := 0; at < len(path); {
		next := strings.IndexByte(path[at:], '/')
		if next < 0 {
			next = len(path) - at
		}
		if path[at:at+next] == ".." {
			return "", "", unix.EINVAL
		}
		if end > 0 && at+next > limit {
			break
		}
		end = at + next
		at = end + 1
	}
	return path[:end], strings.TrimLeft(path[end:], "/"), nil
}

// openPiece opens what cutPiece has cut.
func (k *kernel) openPiece(dirfd int, piece string, flags int) (int, error) {
	if k.hasOpenat2() {
		fd, err := openat2(dirfd, piece, flags, noLinks|unix.RESOLVE_BENEATH)
		if errors.Is(err, unix.ELOOP) {
			err = unix.ENOTDIR
		}
		return fd, err
	}
	fd, err := openat(dirfd, piece, flags, 0)
	if err != nil {
		return -1, err
	}
	// O_DIRECTORY with O_NOFOLLOW refuses links since Linux 2.6.39; one look more
	// costs little and takes nobody's word.
	st, err := fstat(fd)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = unix.ENOTDIR
	}
	if err != nil {
		discard(fd)
		return -1, err
	}
	return fd, nil
}

// hasProc reports whether a descriptor has a path under /proc.
func (k *kernel) hasProc() bool {
	k.procOnce.Do(func() { k.proc = unix.Access("/proc/self/fd", unix.X_OK) == nil })
	return k.proc
}

// procPath is the path by which a held descriptor is named to calls that take
// paths only. The kernel goes from it straight to the inode, a symbolic link
// included, whatever has become of its name.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// readlinkat reads a link; name "" is the one that dirfd holds.
func readlinkat(dirfd int, name string) (string, error) {
	for size := 512; ; size *= 8 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dirfd, name, buf)
		switch {
		case err == unix.EINTR:
			size /= 8
		case err != nil:
			return "", err
		case n < size:
			return string(buf[:n]), nil
		case size > 1<<20: // Linux has no longer links than 4095 bytes
			return "", unix.ENAMETOOLONG
		}
	}
}
