package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// hardCases makes a tree of everything that has ever been hard to back up, at a
// size that fits a unit test.
func hardCases(t testing.TB, dir string) {
	t.Helper()
	needRoot(t)
	strangeNames(t, mkdir(t, dir, "names"))
	allTypes(t, mkdir(t, dir, "types"))
	attributeCases(t, mkdir(t, dir, "attributes"))
	sizes(t, mkdir(t, dir, "sizes"))
	linkSets(t, mkdir(t, dir, "links"))
	mkdir(t, dir, "empty/empty")
	for p, when := range map[string]int64{"sizes/1": 0, "sizes/2048": -5, "types": 1 << 31, "names": 4102444800} {
		ts := []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: when, Nsec: 999999999}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, p), ts, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func strangeNames(t testing.TB, dir string) {
	for c := 1; c < 256; c++ {
		if c != '/' && c != '.' {
			write(t, dir+"/"+string([]byte{byte(c)}), []byte{byte(c)})
		}
	}
	for _, n := range []string{
		strings.Repeat("n", 255), strings.Repeat("\xc3\xa9", 127), "new\nline", "\xff\xfe\x80", "-rf", "--help", " ", "...",
		"a.bup", "a.bupl", "a.bupm", "a.bupd", "a.bupz", "x.bup.bup", ".bupx", "caf\u00e9", "cafe\u0301", "tab\there", "\x1b[31mred",
		"\u202etxt.exe", "con", "aux.c", "back\\slash", "semi;colon", "$(touch x)", "`x`", "quote'\"",
	} {
		write(t, dir+"/"+n, []byte(n))
	}
	mkdir(t, dir, "d.bup")
	mkdir(t, dir, "d.bupd")
	mkdir(t, dir, "a-dir")
	write(t, dir+"/a-dir.x", nil)
	mkdir(t, dir, ".git/objects")
	write(t, dir+"/.git/config", []byte("[core]\n"))
	write(t, dir+"/.gitmodules", []byte("[submodule \"x\"]\n\tpath = -x\n\turl = --upload-pack=x\n"))
	mkdir(t, dir, "deeper/.GIT")
	write(t, dir+"/deeper/.gitattributes", []byte("* x\n"))
	if err := os.Symlink("/etc/passwd", dir+"/deeper/.gitignore"); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/deeper/git~1", nil)
}

func allTypes(t testing.TB, dir string) {
	for n, target := range map[string]string{
		"link": "../sizes/1", "dangling": "nowhere", "loop": "loop", "absolute": "/etc", "long": strings.Repeat("x/", 2000), "bytes": "\xff\n",
	} {
		if err := os.Symlink(target, dir+"/"+n); err != nil {
			t.Fatal(err)
		}
	}
	for n, m := range map[string]struct {
		mode uint32
		dev  uint64
	}{
		"fifo": {unix.S_IFIFO | 0o640, 0}, "socket": {unix.S_IFSOCK | 0o600, 0},
		"null": {unix.S_IFCHR | 0o666, unix.Mkdev(1, 3)}, "loop0": {unix.S_IFBLK | 0o660, unix.Mkdev(7, 0)},
		"large": {unix.S_IFCHR | 0o600, unix.Mkdev(259, 70000)},
	} {
		if err := unix.Mknod(dir+"/"+n, m.mode, int(m.dev)); err != nil {
			t.Fatal(err)
		}
	}
	for n, mode := range map[string]uint32{"setuid": 0o4755, "setgid": 0o2755, "sticky": 0o1777, "none": 0, "all": 0o7777} {
		write(t, dir+"/"+n, []byte(n))
		d := mkdir(t, dir, n+".d")
		for _, p := range []string{dir + "/" + n, d} {
			if err := unix.Chown(p, 12345, 1<<31); err != nil {
				t.Fatal(err)
			}
			if err := unix.Chmod(p, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := unix.Lchown(dir+"/dangling", 4294967294, 100); err != nil {
		t.Fatal(err)
	}
}

func attributeCases(t testing.TB, dir string) {
	f, d := dir+"/file", mkdir(t, dir, "dir")
	write(t, f, []byte("attributes"))
	for _, p := range []string{f, d} {
		for k, v := range map[string]string{"user.text": "value", "user.bin": "\x00\xff", "user.empty": "", "trusted.kedge": "t", "user.long": strings.Repeat("v", 2000)} {
			if err := unix.Setxattr(p, k, []byte(v), 0); err != nil {
				t.Fatal(err)
			}
		}
		must(t, "setfacl", "-m", "u:12345:r,g:54321:rwx,u:nobody:rw", p)
	}
	must(t, "setfacl", "-d", "-m", "u:12345:rwx,g::r,o::-", d)
	capable := dir + "/capable"
	write(t, capable, []byte("#!/bin/sh\n"))
	// cap_net_bind_service+ep, as setcap writes it
	if err := unix.Setxattr(capable, "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0); err != nil {
		t.Fatal(err)
	}
	for n, flag := range map[string]string{"immutable": "+i", "append": "+a", "nodump": "+d", "noatime": "+A"} {
		write(t, dir+"/"+n, []byte(n))
		must(t, "chattr", flag, dir+"/"+n)
		if n == "immutable" || n == "append" {
			t.Cleanup(func() { command(t, nil, "chattr", "-R", "-i", "-a", dir) })
		}
	}
	must(t, "chattr", "+d", d)
}

func sizes(t testing.TB, dir string) {
	r := rand.New(rand.NewPCG(7, 7))
	for _, n := range []int{0, 1, 63, 64, 65, 2047, 2048, 2049, 8192, 65535, 65536, 65537, 1 << 20, 1<<20 + 1, 3 << 20} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		write(t, fmt.Sprintf("%s/%d", dir, n), b)
	}
	write(t, dir+"/zeros", make([]byte, 5<<20))
	write(t, dir+"/ones", []byte(strings.Repeat("\x01", 300000)))
	sparseFile(t, dir+"/sparse", 1<<40, 10)
	sparseFile(t, dir+"/hole", 1<<30, 0)
	sparseFile(t, dir+"/tail", 1<<20+12345, 3)
}

// sparseFile makes a file of holes with some islands of data in it.
func sparseFile(t testing.TB, name string, size int64, islands int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for i := range islands {
		if _, err := f.WriteAt([]byte(strings.Repeat(fmt.Sprintf("island %d ", i), 3000)), size/int64(islands+1)*int64(i+1)); err != nil {
			t.Fatal(err)
		}
	}
}

func linkSets(t testing.TB, dir string) {
	write(t, dir+"/first", []byte("one inode"))
	d := mkdir(t, dir, "sub")
	for i := range 50 {
		if err := os.Link(dir+"/first", fmt.Sprintf("%s/%d", d, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(dir+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(dir+"/pipe", dir+"/pipe2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("x", dir+"/sym"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Linkat(unix.AT_FDCWD, dir+"/sym", unix.AT_FDCWD, dir+"/sym2", 0); err != nil {
		t.Fatal(err)
	}
}
