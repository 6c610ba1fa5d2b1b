package restore

import (
	"os"
	"syscall"
	"unsafe"
)

// chattr sets the attributes of a file (FS_IOC_SETFLAGS).
func chattr(path string, flags uint32) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const setFlags = 0x40086602
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), setFlags, uintptr(unsafe.Pointer(&flags)))
	if errno != 0 {
		return errno
	}
	return nil
}
