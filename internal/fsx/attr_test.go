package fsx_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Owner, mode and times are set on whatever a descriptor holds, an O_PATH one
// of any type included, and nothing else changes.
func TestSetters(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give files away")
	}
	root := zoo(t)
	d := openDir(t, fsx.OpenDir, root)
	times := []fsx.Time{{Sec: -5, Nsec: 999999999}, {Sec: 0, Nsec: 0}, {Sec: 1 << 32, Nsec: 1}}
	for i, name := range []string{"file", "dir", "link", "fifo", "socket", "char"} {
		node, st, err := d.OpenNode(name)
		must(t, err)
		others := map[string]fsx.Stat{}
		for _, other := range []string{"file", "dir", "link", "fifo", "socket", "char"} {
			if other != name {
				others[other], err = d.Lstat(other)
				must(t, err)
			}
		}
		uid, gid := uint32(1000+i), uint32(1<<32-2)
		must(t, fsx.Fchown(node.Fd(), uid, gid))
		err = fsx.Fchmod(node.Fd(), 0o6753)
		mode := st.Mode&unix.S_IFMT | 0o6753
		if name == "link" {
			if !errors.Is(err, unix.ENOTSUP) {
				t.Errorf("mode of a link: %v", err)
			}
			mode = st.Mode
		} else {
			must(t, err)
		}
		atime, mtime := times[i%3], times[(i+1)%3]
		must(t, fsx.Futimens(node.Fd(), atime, mtime))
		got, err := d.Lstat(name)
		must(t, err)
		if got.Ino != st.Ino || got.UID != uid || got.GID != gid || got.Mode != mode || got.Atime != atime || got.Mtime != mtime {
			t.Errorf("%s: %+v, want owner %d:%d, mode %o, times %v %v", name, got, uid, gid, mode, atime, mtime)
		}
		must(t, fsx.Fchown(node.Fd(), fsx.Unchanged, 7))
		if got, err := d.Lstat(name); err != nil || got.UID != uid || got.GID != 7 {
			t.Errorf("%s: owner %d:%d, %v", name, got.UID, got.GID, err)
		}
		must(t, node.Close())
		for other, was := range others {
			if is, err := d.Lstat(other); is != was || err != nil {
				t.Errorf("setting %s changed %s: %+v, was %+v, %v", name, other, is, was, err)
			}
		}
	}
}

// The same through plain descriptors, which need no /proc.
func TestSettersOnOpenFile(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, fsx.OpenDir, root)
	target, err := d.CreateTemp()
	must(t, err)
	defer target.Close()
	want := fsx.Time{Sec: 1234567890, Nsec: 987654321}
	for _, held := range []interface {
		Fd() int
		Stat() (fsx.Stat, error)
	}{target, d} {
		must(t, fsx.Fchown(held.Fd(), uint32(os.Getuid()), fsx.Unchanged))
		must(t, fsx.Fchmod(held.Fd(), 0o750))
		must(t, fsx.Futimens(held.Fd(), want, want))
		st, err := held.Stat()
		if err != nil || st.Mode&0o7777 != 0o750 || st.Mtime != want || st.Atime != want {
			t.Errorf("%+v, %v", st, err)
		}
	}
	for _, bad := range []fsx.Time{{Nsec: -1}, {Nsec: 1e9}, {Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}} {
		if err := fsx.Futimens(target.Fd(), bad, want); !errors.Is(err, unix.EINVAL) {
			t.Errorf("atime %v: %v", bad, err)
		}
		if err := fsx.Futimens(target.Fd(), want, bad); !errors.Is(err, unix.EINVAL) {
			t.Errorf("mtime %v: %v", bad, err)
		}
	}
	for what, err := range map[string]error{
		"owner": fsx.Fchown(-1, 0, 0), "mode": fsx.Fchmod(-1, 0), "times": fsx.Futimens(-1, want, want),
	} {
		if err == nil {
			t.Errorf("%s of no descriptor was set", what)
		}
	}
}

// Between the opening and the setting somebody puts a link to a file of
// another in place of the name. The held inode changes, the other does not.
func TestSettersIgnoreNames(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/mine", "")
	write(t, root+"/other", "")
	d := openDir(t, fsx.OpenDir, root)
	was, err := d.Lstat("other")
	must(t, err)
	node, _, err := d.OpenNode("mine")
	must(t, err)
	defer node.Close()
	must(t, os.Rename(root+"/mine", root+"/moved"))
	must(t, os.Symlink("other", root+"/mine"))
	must(t, fsx.Fchmod(node.Fd(), 0o4711))
	must(t, fsx.Fchown(node.Fd(), uint32(os.Getuid()), fsx.Unchanged))
	must(t, fsx.Futimens(node.Fd(), fsx.Time{Sec: 1}, fsx.Time{Sec: 2}))
	if is, err := d.Lstat("other"); is != was || err != nil {
		t.Errorf("the other file changed: %+v, %v", is, err)
	}
	if st, err := d.Lstat("moved"); err != nil || st.Mtime.Sec != 2 {
		t.Errorf("the held file did not: %+v, %v", st, err)
	}
}
