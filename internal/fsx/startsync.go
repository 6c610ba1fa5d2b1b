package fsx

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// StartSync asks the kernel to begin writing n bytes at off to the disk, and does
// not wait for it. It makes nothing durable: that is for Sync, which then finds
// less to do. An Intercept does not see it, because it changes nothing.
//
// What the kernel answers counts like the answer to a write: before 4.13 it might
// tell of a lost page here and not once more in Sync. That it does not know the
// call, or not for this file system, is no failure.
func (f *File) StartSync(off, n int64) error {
	if err := f.refuse(); err != nil || f.fs.observed() {
		return err
	}
	err := retry(func() error { return unix.SyncFileRange(int(f.file.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE) })
	if err == nil || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return f.fail(&fs.PathError{Op: "sync_file_range", Path: f.name, Err: err})
}
