package fsx

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// MoveTo gives what is called name here the name as in another directory of the same file
// system. It replaces nothing: a name that is taken is fs.ErrExist.
func (d *Dir) MoveTo(name string, to *Dir, as string) error {
	if !validName(name) || !validName(as) {
		return d.fail("rename", name, ErrName)
	}
	err := error(unix.ENOSYS)
	if !d.kern.old {
		err = retry(func() error { return unix.Renameat2(d.fd, name, to.fd, as, unix.RENAME_NOREPLACE) })
	}
	if oneOf(err, unix.EINVAL, unix.ENOSYS) { // before Linux 3.15, or not on this file system
		if _, err := lstatat(to.fd, as); err == nil {
			return d.fail("rename", as, fs.ErrExist)
		}
		err = retry(func() error { return unix.Renameat(d.fd, name, to.fd, as) })
	}
	return d.fail("rename", name, err)
}
