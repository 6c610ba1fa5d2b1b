package fsx_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// withoutOpenat2 is the environment variable by which a child of the tests is
// told the errno that a sandbox answers openat2 with.
const withoutOpenat2 = "FSX_TEST_OPENAT2_ERRNO"

func TestMain(m *testing.M) {
	if errno, err := strconv.Atoi(os.Getenv(withoutOpenat2)); err == nil {
		if err := forbidOpenat2(errno); err != nil {
			fmt.Println("no seccomp here:", err)
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// forbidOpenat2 has the kernel answer openat2 with errno, in all threads.
func forbidOpenat2(errno int) error {
	const ld, jeq, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	const allow, deny = 0x7fff0000, 0x00050000 // SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
	program := []unix.SockFilter{
		{Code: ld, K: 0}, // the number of the call
		{Code: jeq, K: unix.SYS_OPENAT2, Jt: 0, Jf: 1},
		{Code: ret, K: deny | uint32(errno)},
		{Code: ret, K: allow},
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const setModeFilter, threadSync = 1, 1
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, threadSync, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return errno
	}
	return nil
}

// A kernel without openat2 says ENOSYS, an old sandbox EPERM. With either, the
// tests of Dir pass as they do with it.
func TestSandboxWithoutOpenat2(t *testing.T) {
	if os.Getenv(withoutOpenat2) != "" {
		d, err := fsx.OpenDir("/")
		must(t, err)
		if d.HasOpenat2() {
			t.Error("openat2 is believed to work")
		}
		must(t, d.Close())
		return
	}
	self, err := os.Executable()
	must(t, err)
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM} {
		cmd := exec.Command(self, "-test.short", "-test.run", "Sandbox|OpenDir|OpenFile|Read|Target|Stack")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", withoutOpenat2, int(errno)))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", errno, err, out)
		}
	}
}
