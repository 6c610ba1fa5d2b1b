package meta

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// hardCases makes one of everything in dir: types, times, owners, set-id bits,
// ACLs, attributes, capabilities. It needs root.
func hardCases(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) {
		t.Helper()
		must(os.WriteFile(at(name), []byte("hello\n"), 0o644))
	}
	file("a.txt")
	must(unix.Setxattr(at("a.txt"), "user.k1", []byte("v1"), 0))
	must(unix.Setxattr(at("a.txt"), "user.k2", []byte("\x00\xff"), 0))
	must(unix.Setxattr(at("a.txt"), "trusted.t", nil, 0))
	must(os.Link(at("a.txt"), at("h")))

	file("acl")
	run(t, "setfacl", "-m", "u:nobody:rw,u:12345:r,g:daemon:rx,g:777:r", at("acl"))
	must(os.Mkdir(at("d"), 0o750))
	run(t, "setfacl", "-d", "-m", "u:nobody:rwx", at("d"))
	must(os.Mkdir(at("d2"), 0o2755))
	run(t, "setfacl", "-m", "u:nobody:rwx", at("d2"))
	run(t, "setfacl", "-d", "-m", "g:daemon:rwx", at("d2"))

	file("setuid")
	must(os.Chown(at("setuid"), 65534, 1))
	must(unix.Chmod(at("setuid"), 0o6755))
	must(unix.Setxattr(at("setuid"), xattrCapability,
		[]byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	file("sticky")
	must(unix.Chmod(at("sticky"), 0o1600))
	must(os.Mkdir(at("tmp"), 0o755))
	must(unix.Chmod(at("tmp"), 0o1777))
	file("big-ids")
	must(os.Chown(at("big-ids"), 4000000001, 4294967294))

	must(os.Symlink("a.txt", at("link")))
	must(os.Lchown(at("link"), 1000, 1000))
	must(unix.Lsetxattr(at("link"), "trusted.l", []byte("bar"), 0))
	must(unix.Mknod(at("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(300, 70000))))
	must(unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 0))))
	must(unix.Mknod(at("fifo"), unix.S_IFIFO|0o622, 0))
	must(unix.Setxattr(at("fifo"), "trusted.f", []byte("x"), 0))
	must(unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0))

	file("old")
	must(unix.UtimesNanoAt(unix.AT_FDCWD, at("old"), []unix.Timespec{{Sec: -2, Nsec: 500000000}, {Sec: -1, Nsec: 999999999}}, 0))
	file("future")
	must(unix.UtimesNanoAt(unix.AT_FDCWD, at("future"), []unix.Timespec{{Sec: 5000000000}, {Sec: 5000000001, Nsec: 1}}, 0))
	must(unix.UtimesNanoAt(unix.AT_FDCWD, at("link"), []unix.Timespec{{Sec: 77, Nsec: 1}, {Sec: 78, Nsec: 2}}, unix.AT_SYMLINK_NOFOLLOW))
	file("flags")
	chattr(t, "+dA", at("flags"))
}

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// chattr sets attributes and takes them away again at the end, so that the
// scratch directory can be removed. A file system without them is no failure.
func chattr(t *testing.T, flags, name string) bool {
	t.Helper()
	if out, err := exec.Command("chattr", flags, name).CombinedOutput(); err != nil {
		t.Logf("chattr %s: %v %s", flags, err, out)
		return false
	}
	t.Cleanup(func() { exec.Command("chattr", "-"+flags[1:], name).Run() })
	return true
}

// needs skips a test where a program or the right to run it is not there.
func needs(t *testing.T, root bool, programs ...string) {
	t.Helper()
	if root && os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
}
