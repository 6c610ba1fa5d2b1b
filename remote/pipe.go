package remote

import (
	"os"
	"syscall"
)

const (
	setPipeSize = 1031    // F_SETPIPE_SZ of Linux, which package syscall does not name
	pipeSize    = 1 << 20 // what anybody may ask for
)

// WidenPipe makes the pipe that f reads from hold more, if f is one and that is allowed.
//
// OpenSSH hands on what it has decrypted as fast as the pipe takes it, and the rest
// waits in a buffer that it moves about. With 1 MiB instead of 64 KiB a save of 600 MB
// takes 0.5 of 5.9 seconds of processor less, both ends and both ssh together, and a
// restore 0.6 of 4.4. The pipes that ssh reads from stay as they are: it takes 32 KiB
// at a time, and what waits in a longer pipe has left the cache by then.
func WidenPipe(f *os.File) {
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) {
		// A failure leaves a pipe that works. The user's share of such memory is limited.
		_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, pipeSize)
	})
}
