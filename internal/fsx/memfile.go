package fsx

import (
	"os"

	"golang.org/x/sys/unix"
)

// MemFile returns a file that holds data, belongs to a user, can be read by nobody else, and is
// in no directory: a child process that inherits it as descriptor N finds it as /proc/self/fd/N.
// It is gone when the last who has it open is, even if all of them are killed, which is why
// secrets are handed over in one.
func MemFile(name string, data []byte, uid, gid int) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err = f.Chmod(0o400); err == nil {
		_, err = f.Write(data)
	}
	if err == nil && uid != os.Geteuid() {
		err = f.Chown(uid, gid)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
