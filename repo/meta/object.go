package meta

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// object is a file-system object held by descriptor. An O_PATH descriptor holds
// an object without opening it, which is the only way to hold a symbolic link,
// a device, a FIFO or a socket; most calls refuse it. They take its name under
// /proc/self/fd instead, which leads to the object itself and nowhere else: a
// symbolic link that is held so is not followed any further.
type object struct {
	fd   int
	path string // "" if fd is not O_PATH
}

// hold returns the object behind fd, whose type tells which kind fd is; a
// regular file or a directory may be either (see list).
func hold(fd int, mode uint32) object {
	switch mode & TypeMask {
	case TypeFile, TypeDir:
		return object{fd: fd}
	}
	return object{fd: fd, path: procPath(fd)}
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// list reads the NUL-terminated names of the extended attributes, into buf if
// they fit. Where fd turns out to be O_PATH, the object goes on by path.
func (o *object) list(buf []byte) ([]byte, error) {
	for {
		n, err := o.listOnce(buf)
		if err == unix.EBADF && o.path == "" {
			o.path = procPath(o.fd)
			continue
		}
		if err == unix.ERANGE {
			if n, err = o.listOnce(nil); err == nil {
				buf = make([]byte, n+256) // the list may grow meanwhile
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

func (o *object) listOnce(buf []byte) (int, error) {
	if o.path != "" {
		return unix.Listxattr(o.path, buf)
	}
	return unix.Flistxattr(o.fd, buf)
}

// get returns the value of an extended attribute.
func (o *object) get(name string) (string, error) {
	var small [256]byte
	buf := small[:]
	for {
		n, err := o.getOnce(name, buf)
		if err == unix.ERANGE {
			if n, err = o.getOnce(name, nil); err == nil {
				buf = make([]byte, n+256)
				continue
			}
		}
		if err != nil {
			return "", err
		}
		return string(buf[:n]), nil
	}
}

func (o *object) getOnce(name string, buf []byte) (int, error) {
	if o.path != "" {
		return unix.Getxattr(o.path, name, buf)
	}
	return unix.Fgetxattr(o.fd, name, buf)
}

func (o *object) set(name string, value []byte) error {
	if o.path != "" {
		return unix.Setxattr(o.path, name, value, 0)
	}
	return unix.Fsetxattr(o.fd, name, value, 0)
}

func (o *object) remove(name string) error {
	if o.path != "" {
		return unix.Removexattr(o.path, name)
	}
	return unix.Fremovexattr(o.fd, name)
}

// flags and setFlags are the two ioctls for attributes; fd must not be O_PATH.
func (o *object) flags() (uint32, error) {
	return unix.IoctlGetUint32(o.fd, unix.FS_IOC_GETFLAGS)
}

func (o *object) setFlags(flags uint32) error {
	return unix.IoctlSetPointerInt(o.fd, unix.FS_IOC_SETFLAGS, int(flags))
}

// eachName calls fn for each name of a list of extended attributes until it
// says false.
func eachName(list []byte, fn func(name string) bool) {
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name != "" && !fn(name) {
			return
		}
	}
}
