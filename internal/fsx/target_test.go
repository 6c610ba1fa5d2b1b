package fsx_test

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// make writes a target and gives it a name.
func makeTarget(d *fsx.Dir, name, data string, replace bool) error {
	target, err := d.CreateTemp()
	if err != nil {
		return err
	}
	defer target.Close()
	if _, err := target.WriteAt([]byte(data), 0); err != nil {
		return err
	}
	return target.LinkAs(name, replace)
}

func TestTarget(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		root := t.TempDir()
		d := openDir(t, open, root)
		write(t, root+"/old", "old")
		write(t, root+"/outside", "outside")
		must(t, os.Symlink("outside", root+"/link"))
		must(t, os.Mkdir(root+"/dir", 0o755))
		if err := makeTarget(d, "new", "1", false); err != nil {
			t.Error(err)
		}
		if err := makeTarget(d, "new2", "2", true); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"old", "link", "dir"} {
			if err := makeTarget(d, name, "x", false); !errors.Is(err, fs.ErrExist) {
				t.Errorf("over %s: %v", name, err)
			}
		}
		if err := makeTarget(d, "old", "3", true); err != nil {
			t.Error(err)
		}
		if err := makeTarget(d, "link", "4", true); err != nil {
			t.Error(err)
		}
		if err := makeTarget(d, "dir", "5", true); err == nil {
			t.Error("replaced a directory")
		}
		want := []string{"dir", "link=4", "new=1", "new2=2", "old=3", "outside=outside"}
		if got := listing(t, root); !slices.Equal(got, want) {
			t.Errorf("got %q\nwant %q", got, want)
		}
	})
}

// Until it has its name nobody else can open a target; it goes without a trace
// if it does not get one.
func TestTargetAbandoned(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		root := t.TempDir()
		d := openDir(t, open, root)
		target, err := d.CreateTemp()
		must(t, err)
		if _, err := target.WriteAt([]byte("x"), 0); err != nil {
			t.Error(err)
		}
		if st, err := target.Stat(); err != nil || st.Mode != unix.S_IFREG|0o600 {
			t.Errorf("mode %o, %v", st.Mode, err)
		}
		if name := target.Temporary(); name != "" {
			if !strings.HasPrefix(name, ".kedge-") || !slices.Equal(listing(t, root), []string{name + "=x"}) {
				t.Errorf("temporary name %q, listing %q", name, listing(t, root))
			}
		}
		must(t, target.Close())
		if err := target.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
		if got := listing(t, root); len(got) != 0 {
			t.Errorf("left: %q", got)
		}
	})
}

// What was not written whole gets no name.
func TestTargetFailureSticks(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		root := t.TempDir()
		d := openDir(t, open, root)
		target, err := d.CreateTemp()
		must(t, err)
		_, first := target.WriteAt([]byte("x"), -1)
		if !errors.Is(first, unix.EINVAL) {
			t.Fatal(first)
		}
		if _, err := target.WriteAt([]byte("x"), 0); err != nil {
			t.Error(err)
		}
		if err := target.LinkAs("name", false); !errors.Is(err, first) {
			t.Errorf("link after a failed write: %v", err)
		}
		must(t, target.Close())
		if got := listing(t, root); len(got) != 0 {
			t.Errorf("left: %q", got)
		}
	})
}

// On a full disk a write fails, and what it was to become does not appear.
func TestTargetOnFullDisk(t *testing.T) {
	root := mountSmall(t)
	both(t, func(t *testing.T, open opener) {
		d := openDir(t, open, root)
		err := makeTarget(d, "big", strings.Repeat("x", 2<<20), false)
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("2 MiB on 1 MiB: %v", err)
		}
		if got := listing(t, root); len(got) != 0 {
			t.Errorf("left: %q", got)
		}
	})
}

// mountSmall mounts a file system of 1 MiB for the length of the test.
func mountSmall(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := unix.Mount("none", root, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("can't mount:", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(root, unix.MNT_DETACH)) })
	return root
}

func TestTargetIsSparse(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		d := openDir(t, open, t.TempDir())
		target, err := d.CreateTemp()
		must(t, err)
		defer target.Close()
		_, err = target.WriteAt([]byte("end"), 1<<40)
		must(t, err)
		must(t, target.Truncate(1<<40+4096))
		must(t, target.Sync())
		buf := make([]byte, 5)
		if n, err := target.ReadAt(buf, 1<<40-1); n != 5 || err != nil || string(buf) != "\x00end\x00" {
			t.Errorf("%q, %v", buf[:n], err)
		}
		must(t, target.LinkAs("f", false))
		must(t, d.Sync())
		st, err := d.Lstat("f")
		if err != nil || st.Size != 1<<40+4096 || st.Blocks > 1000 {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

func TestMakeNames(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, fsx.OpenDir, root)
	must(t, d.Mkdir("dir", 0o700))
	must(t, d.Symlink("../target\n", "link"))
	must(t, d.Mknod("fifo", unix.S_IFIFO|0o640, 0))
	must(t, d.Mknod("socket", unix.S_IFSOCK|0o600, 0))
	for name, mode := range map[string]uint32{
		"dir": unix.S_IFDIR | 0o700, "link": unix.S_IFLNK | 0o777,
		"fifo": unix.S_IFIFO | 0o640, "socket": unix.S_IFSOCK | 0o600,
	} {
		if st, err := d.Lstat(name); err != nil || st.Mode != mode {
			t.Errorf("%s: mode %o, %v", name, st.Mode, err)
		}
		// A hard link of whatever is held, a symbolic link itself included.
		node, st, err := d.OpenNode(name)
		must(t, err)
		if name != "dir" {
			must(t, d.Linkat(node, name+"2"))
			if st2, err := d.Lstat(name + "2"); err != nil || st2.Ino != st.Ino || st2.Nlink != 2 {
				t.Errorf("%s: link %+v, %v", name, st2, err)
			}
			if err := d.Linkat(node, name+"2"); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s: link over it: %v", name, err)
			}
			must(t, d.Unlink(name+"2"))
		}
		must(t, node.Close())
		for what, err := range map[string]error{
			"mkdir": d.Mkdir(name, 0o700), "symlink": d.Symlink("x", name),
			"mknod": d.Mknod(name, unix.S_IFIFO|0o600, 0),
		} {
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s over %s: %v", what, name, err)
			}
		}
	}
	if os.Getuid() == 0 {
		for _, rdev := range []uint64{unix.Mkdev(1, 3), unix.Mkdev(4095, 1048575)} {
			must(t, d.Mknod("dev", unix.S_IFCHR|0o600, rdev))
			if st, err := d.Lstat("dev"); err != nil || st.Rdev != rdev {
				t.Errorf("rdev %x, want %x, %v", st.Rdev, rdev, err)
			}
			must(t, d.Unlink("dev"))
		}
	}
	must(t, d.Rename("fifo", "socket"))
	if err := d.Unlink("dir"); !errors.Is(err, unix.EISDIR) {
		t.Errorf("unlink of a directory: %v", err)
	}
	if err := d.Rmdir("socket"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("rmdir of a FIFO: %v", err)
	}
	must(t, d.Rmdir("dir"))
	must(t, d.Unlink("link"))
	must(t, d.Unlink("socket"))
	if got := listing(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}
