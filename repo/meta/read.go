package meta

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/kedgebackup/kedge/internal/fsx"
	"golang.org/x/sys/unix"
)

// maxXattrs bounds the extended attributes of one file, so that an entry stays
// below MaxEntry.
const maxXattrs = MaxEntry / 2

// ReadExtras reads ACLs, attributes and extended attributes of an open file or
// directory, or of anything behind an O_PATH descriptor (fsx.Dir.OpenNode). A
// part that the file system does not have is no error. With an error the result
// holds what could be read.
//
// A file that has nothing of the sort costs two system calls, flistxattr and an
// ioctl, and no allocation; other objects than files and directories have no
// attributes and cost one.
func ReadExtras(fd int, st fsx.Stat, n *Names) (Extras, error) {
	var x Extras
	var small [512]byte
	o := hold(fd, st.Mode)
	list, err := o.list(small[:])
	if err != nil && !absent(err) {
		err = fmt.Errorf("extended attributes: %w", err)
	} else {
		err = nil
	}
	if len(list) > 0 {
		err = x.readXattrs(&o, list, st.Mode, n)
	}
	if t := st.Mode & TypeMask; t == TypeFile || t == TypeDir {
		attr, ferr := readFlags(&o)
		if ferr != nil && !absent(ferr) {
			err = errors.Join(err, fmt.Errorf("file attributes: %w", ferr))
		}
		x.Attr = attr
	}
	return x, err
}

// absent reports whether a file system says that it has no such thing.
func absent(err error) bool {
	switch err {
	case syscall.EOPNOTSUPP, syscall.ENOTTY, syscall.ENOSYS, syscall.EINVAL:
		return true
	}
	return false
}

// readFlags asks for the attributes. No ioctl works on an O_PATH descriptor, so
// the object behind it is opened; if that is not allowed, it counts as having none.
func readFlags(o *object) (uint32, error) {
	if o.path == "" {
		return o.flags()
	}
	const how = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := unix.Open(o.path, how|unix.O_NOATIME, 0)
	if err == unix.EPERM {
		fd, err = unix.Open(o.path, how, 0)
	}
	if err == unix.EACCES {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	opened := object{fd: fd}
	return opened.flags()
}

// readXattrs reads the values of the listed attributes, and the ACLs among them.
func (x *Extras) readXattrs(o *object, list []byte, mode uint32, n *Names) error {
	var errs error
	var access, dflt string
	total := 0
	eachName(list, func(name string) bool {
		value, err := o.get(name)
		if err == unix.ENODATA {
			return true // gone since it was listed
		}
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("extended attribute %q: %w", name, err))
			return true
		}
		if total += len(name) + len(value); total > maxXattrs {
			errs = errors.Join(errs, fmt.Errorf("extended attributes: %w", ErrLimit))
			return false
		}
		switch name {
		case xattrACLAccess:
			access = value
		case xattrACLDefault:
			dflt = value
		}
		x.Xattrs = append(x.Xattrs, Xattr{Name: name, Value: value})
		return true
	})
	if access == "" && dflt == "" {
		return errs
	}
	acl, err := readACL(access, dflt, mode, n)
	x.ACL = acl
	return errors.Join(errs, err)
}
