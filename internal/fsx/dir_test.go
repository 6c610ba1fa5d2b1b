package fsx_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// opener opens a directory by path.
type opener func(path string) (*fsx.Dir, error)

// both runs a test with openat2 and without it.
func both(t *testing.T, test func(t *testing.T, open opener)) {
	t.Run("openat2", func(t *testing.T) { test(t, fsx.OpenDir) })
	t.Run("openat", func(t *testing.T) {
		d, err := fsx.OpenDirOld("/")
		must(t, err)
		if d.HasOpenat2() {
			t.Error("openat2 is in use")
		}
		must(t, d.Close())
		test(t, fsx.OpenDirOld)
	})
}

// openDir opens a directory for the length of the test.
func openDir(t testing.TB, open opener, path string) *fsx.Dir {
	t.Helper()
	d, err := open(path)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// inMemory returns a fresh directory in memory, for tests that make very many
// names.
func inMemory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fsx-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if d, err := fsx.OpenDir(filepath.Dir(dir)); err == nil {
			d.RemoveTree(filepath.Base(dir)) // os.RemoveAll is too slow for deep trees
			d.Close()
		}
	})
	return dir
}

func TestOpenDir(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/a/b/c", 0o755))
	must(t, os.Symlink("a", root+"/link"))
	must(t, os.Symlink("c", root+"/a/b/link"))
	must(t, os.Symlink("/proc/self/cwd", root+"/magic"))
	write(t, root+"/file", "")
	tests := []struct {
		path string
		err  error // nil: it opens a/b/c
	}{
		{root + "/a/b/c", nil},
		{root + "//a/./b//c/.//", nil},
		{root + "/link/b/c", unix.ENOTDIR},
		{root + "/a/b/link", unix.ENOTDIR},
		{root + "/magic", unix.ENOTDIR},
		{"/proc/self/cwd", unix.ENOTDIR},
		{root + "/file", unix.ENOTDIR},
		{root + "/file/x", unix.ENOTDIR},
		{root + "/a/none/c", fs.ErrNotExist},
		{root + "/a/../a/b/c", unix.EINVAL},
		{root + "/a/b/c/..", unix.EINVAL},
		{"a", unix.EINVAL},
		{"", unix.EINVAL},
		{root + "/a\x00", unix.EINVAL},
		{root + "/" + strings.Repeat("x", 256), unix.ENAMETOOLONG},
	}
	want, err := os.Stat(root + "/a/b/c")
	must(t, err)
	both(t, func(t *testing.T, open opener) {
		for _, tt := range tests {
			d, err := open(tt.path)
			if !errors.Is(err, tt.err) {
				t.Errorf("%q: %v, want %v", tt.path, err, tt.err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), tt.path) {
					t.Errorf("%q: error without the path: %v", tt.path, err)
				}
				continue
			}
			st, err := d.Stat()
			if err != nil || st.Ino != want.Sys().(*syscall.Stat_t).Ino {
				t.Errorf("%q: opened another directory (%v)", tt.path, err)
			}
			must(t, d.Close())
			if err := d.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("second close: %v", err)
			}
		}
		d := openDir(t, open, "/")
		st, err := d.Stat()
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			t.Errorf("/: %+v, %v", st, err)
		}
	})
}

// A path may be much longer than the kernel takes in one call, with pieces cut
// at every possible place, and a link in it is still refused.
func TestOpenDirLongPath(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		for _, size := range []int{1, 90, 254, 255} {
			root := inMemory(t)
			path := root
			stack := fsx.NewStack(openDir(t, open, root))
			defer stack.Close()
			for len(path) < 13000 {
				name := strings.Repeat("n", size)
				must(t, stack.Top().Mkdir(name, 0o755))
				must(t, stack.Push(name))
				path += "/" + name
			}
			want, err := stack.Top().Stat()
			must(t, err)
			d, err := open(path)
			must(t, err)
			got, err := d.Stat()
			if got != want || err != nil {
				t.Errorf("names of %d: another directory: %v", size, err)
			}
			must(t, d.Close())
			must(t, stack.Top().Symlink(".", "l"))
			if _, err := open(path + "/l"); !errors.Is(err, unix.ENOTDIR) {
				t.Errorf("link at the end: %v", err)
			}
			if _, err := open(path + "/none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("no such name at the end: %v", err)
			}
		}
	})
}

// On the way to a directory the right to search is enough.
func TestOpenDirThroughUnreadable(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/a/b/c", 0o755))
	write(t, root+"/a/b/c/f", "x")
	must(t, os.Chmod(root+"/a/b", 0o711))
	asNobody(t, func() {
		for _, open := range []opener{fsx.OpenDir, fsx.OpenDirOld} {
			d, err := open(root + "/a/b/c")
			if err != nil {
				t.Error(err)
				return
			}
			// Neither the directory nor the file is his: O_NOATIME is refused to him.
			f, _, err := d.OpenFile("f")
			if err != nil {
				t.Error(err)
			} else {
				f.Close()
			}
			if err := d.Read(func(fsx.DirName) error { return nil }); err != nil {
				t.Error(err)
			}
			d.Close()
			passThrough(t, open, root+"/a/b")
		}
	})
}

// passThrough opens a directory that may be searched and not read: it leads to
// what is below it, and only Read fails. Without the right to search it is of no use.
func passThrough(t *testing.T, open opener, path string) {
	t.Helper()
	d, err := open(path)
	if err != nil {
		t.Errorf("directory that may be searched: %v", err)
		return
	}
	defer d.Close()
	if _, err := d.Lstat("c"); err != nil {
		t.Error(err)
	}
	if c, err := d.Open("c"); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if err := d.Read(func(fsx.DirName) error { return nil }); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("read of an unreadable directory: %v", err)
	}
}

// A directory that may be neither read nor searched is not opened.
func TestOpenDirForbidden(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/a/b", 0o755))
	must(t, os.Chmod(root+"/a/b", 0o600))
	asNobody(t, func() {
		for _, open := range []opener{fsx.OpenDir, fsx.OpenDirOld} {
			if d, err := open(root + "/a/b"); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("forbidden directory: %v", err)
				if err == nil {
					d.Close()
				}
			}
		}
	})
}

// No method takes anything but a single name.
func TestNamesAreSingle(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/a/b", 0o755))
	d := openDir(t, fsx.OpenDir, root+"/a")
	node, _, err := d.OpenNode("b")
	must(t, err)
	defer node.Close()
	target, err := d.CreateTemp()
	must(t, err)
	defer target.Close()
	methods := map[string]func(name string) error{
		"Open":       func(name string) error { _, err := d.Open(name); return err },
		"Lstat":      func(name string) error { _, err := d.Lstat(name); return err },
		"OpenFile":   func(name string) error { _, _, err := d.OpenFile(name); return err },
		"OpenNode":   func(name string) error { _, _, err := d.OpenNode(name); return err },
		"Readlink":   func(name string) error { _, err := d.Readlink(name); return err },
		"Mkdir":      func(name string) error { return d.Mkdir(name, 0o755) },
		"Symlink":    func(name string) error { return d.Symlink("x", name) },
		"Mknod":      func(name string) error { return d.Mknod(name, unix.S_IFIFO|0o600, 0) },
		"Linkat":     func(name string) error { return d.Linkat(node, name) },
		"Rename":     func(name string) error { return d.Rename("b", name) },
		"Rename of":  func(name string) error { return d.Rename(name, "c") },
		"Unlink":     func(name string) error { return d.Unlink(name) },
		"Rmdir":      func(name string) error { return d.Rmdir(name) },
		"RemoveTree": func(name string) error { return d.RemoveTree(name) },
		"LinkAs":     func(name string) error { return target.LinkAs(name, true) },
	}
	for method, call := range methods {
		for _, name := range []string{"", ".", "..", "/", "b/", "/b", "b/x", "../a", "b\x00", "\x00"} {
			if err := call(name); !errors.Is(err, fsx.ErrName) {
				t.Errorf("%s(%q): %v", method, name, err)
			}
		}
	}
	if got := listing(t, root); !slices.Equal(got, []string{"a", "a/b"}) {
		t.Errorf("left: %q", got)
	}
}

// zoo makes one name of each type and returns the directory.
func zoo(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	write(t, root+"/file", "hello")
	must(t, os.Mkdir(root+"/dir", 0o751))
	must(t, os.Symlink("file", root+"/link"))
	must(t, os.Symlink("dir", root+"/dirlink"))
	must(t, os.Link(root+"/file", root+"/hard"))
	must(t, unix.Mkfifo(root+"/fifo", 0o600))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	home, err := os.Getwd()
	must(t, err)
	must(t, os.Chdir(root)) // a path of a socket is short
	defer os.Chdir(home)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: "socket"}))
	if os.Getuid() == 0 {
		must(t, unix.Mknod(root+"/char", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		must(t, unix.Mknod(root+"/nochar", unix.S_IFCHR|0o600, int(unix.Mkdev(4095, 1048575))))
		must(t, unix.Mknod(root+"/block", unix.S_IFBLK|0o600, int(unix.Mkdev(7, 7))))
	}
	must(t, os.Chtimes(root+"/file", time.Unix(-1, 5), time.Unix(-2, 999999999)))
	return root
}

func TestLstat(t *testing.T) {
	root := zoo(t)
	both(t, func(t *testing.T, open opener) {
		d := openDir(t, open, root)
		entries, err := os.ReadDir(root)
		must(t, err)
		for _, e := range entries {
			var want unix.Stat_t
			must(t, unix.Lstat(filepath.Join(root, e.Name()), &want))
			st, err := d.Lstat(e.Name())
			must(t, err)
			got := fmt.Sprint(st.Dev, st.Ino, st.Nlink, st.Mode, st.UID, st.GID, st.Rdev, st.Size, st.Blocks, st.Atime, st.Mtime, st.Ctime)
			if want := fmt.Sprint(want.Dev, want.Ino, want.Nlink, want.Mode, want.Uid, want.Gid, want.Rdev, want.Size, want.Blocks, want.Atim, want.Mtim, want.Ctim); got != want {
				t.Errorf("%s: %s, want %s", e.Name(), got, want)
			}
			node, nst, err := d.OpenNode(e.Name())
			if err != nil || nst != st {
				t.Errorf("%s: OpenNode: %+v, %v", e.Name(), nst, err)
				continue
			}
			if again, err := node.Stat(); again != st || err != nil {
				t.Errorf("%s: Stat of the node: %+v, %v", e.Name(), again, err)
			}
			must(t, node.Close())
		}
		st, err := d.Lstat("file")
		if err != nil || st.Mtime != (fsx.Time{Sec: -2, Nsec: 999999999}) {
			t.Errorf("mtime %v, %v", st.Mtime, err)
		}
		for _, n := range []int{255, 256, 300, 5000} {
			want := error(unix.ENOENT)
			if n > 255 {
				want = unix.ENAMETOOLONG
			}
			if _, err := d.Lstat(strings.Repeat("n", n)); !errors.Is(err, want) {
				t.Errorf("name of %d bytes: %v, want %v", n, err, want)
			}
		}
	})
}

func TestLstatDoesNotAllocate(t *testing.T) {
	d := openDir(t, fsx.OpenDir, zoo(t))
	failed := 0
	n := testing.AllocsPerRun(1000, func() {
		if _, err := d.Lstat("file"); err != nil {
			failed++
		}
	})
	if n != 0 || failed != 0 {
		t.Errorf("%v allocations, %d failures", n, failed)
	}
}

func TestOpenFile(t *testing.T) {
	root := zoo(t)
	both(t, func(t *testing.T, open opener) {
		d := openDir(t, open, root)
		entries, err := os.ReadDir(root)
		must(t, err)
		before := descriptors(t)
		for _, e := range entries {
			f, st, err := d.OpenFile(e.Name())
			if !e.Type().IsRegular() {
				if !errors.Is(err, fsx.ErrNotRegular) {
					t.Errorf("%s: %v", e.Name(), err)
				}
				continue
			}
			must(t, err)
			if st.Size != 5 || st.Mode != unix.S_IFREG|0o644 {
				t.Errorf("%s: %+v", e.Name(), st)
			}
			must(t, iotest.TestReader(f, []byte("hello")))
			must(t, f.Close())
			if err := f.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("second close: %v", err)
			}
		}
		if _, _, err := d.OpenFile("none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("no file: %v", err)
		}
		if _, err := d.Open("dirlink"); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("link to a directory: %v", err)
		}
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}

// A backup must not change what it reads: the access times stay.
func TestOpenFileKeepsAccessTime(t *testing.T) {
	root := t.TempDir()
	must(t, os.Mkdir(root+"/d", 0o755))
	write(t, root+"/d/f", "data")
	old := time.Unix(1, 0) // older than mtime, so that relatime would renew it
	both(t, func(t *testing.T, open opener) {
		must(t, os.Chtimes(root+"/d/f", old, time.Now()))
		must(t, os.Chtimes(root+"/d", old, time.Now()))
		parent := openDir(t, open, root)
		d, err := parent.Open("d")
		must(t, err)
		defer d.Close()
		must(t, d.Read(func(fsx.DirName) error { return nil }))
		f, _, err := d.OpenFile("f")
		must(t, err)
		_, err = io.ReadAll(f)
		must(t, err)
		must(t, f.Close())
		st, err := d.Lstat("f")
		must(t, err)
		dst, err := d.Stat()
		must(t, err)
		if st.Atime.Sec != 1 || dst.Atime.Sec != 1 {
			t.Errorf("access times: file %v, directory %v", st.Atime, dst.Atime)
		}
	})
}

// Another process may hold a lease on a file; it is asked for it and gives it
// back a moment later.
func TestOpenFileUnderLease(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/f", "data")
	holder, err := os.OpenFile(root+"/f", os.O_RDWR, 0)
	must(t, err)
	defer holder.Close()
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skip("no leases here:", err)
	}
	released := make(chan error)
	go func() {
		time.Sleep(20 * time.Millisecond)
		_, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		released <- err
	}()
	f, _, err := openDir(t, fsx.OpenDir, root).OpenFile("f")
	must(t, <-released)
	must(t, err)
	must(t, f.Close())
}

func TestReadNames(t *testing.T) {
	root := zoo(t)
	many := inMemory(t)
	want := map[string]bool{}
	for i := range 3000 { // more than one buffer
		name := fmt.Sprintf("%d-%s", i, strings.Repeat("x", i%250))
		write(t, many+"/"+name, "")
		want[name] = true
	}
	both(t, func(t *testing.T, open opener) {
		d := openDir(t, open, root)
		must(t, d.Read(func(n fsx.DirName) error {
			st, err := d.Lstat(n.Name)
			if err != nil || n.Ino != st.Ino || n.Type != 0 && uint32(n.Type) != st.Mode>>12 {
				t.Errorf("%+v: %+v, %v", n, st, err)
			}
			return nil
		}))
		d = openDir(t, open, many)
		for range 2 { // the second time from the start again
			got := map[string]bool{}
			must(t, d.Read(func(n fsx.DirName) error {
				if len(got) == 1000 { // in between, another one
					other := openDir(t, open, root)
					if err := other.Read(func(fsx.DirName) error { return nil }); err != nil {
						return err
					}
				}
				got[n.Name] = true
				return nil
			}))
			if len(got) != len(want) {
				t.Errorf("%d names, want %d", len(got), len(want))
			}
			for name := range want {
				if !got[name] {
					t.Fatalf("%q is missing", name)
				}
			}
		}
		calls, stop := 0, errors.New("stop")
		if err := d.Read(func(fsx.DirName) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
			t.Errorf("%v after %d calls", err, calls)
		}
	})
}

func TestReadOddNames(t *testing.T) {
	root := t.TempDir()
	want := []string{"\n", " ", "...", ".a", "\\", "a\tb", "\xff\xfe", strings.Repeat("é", 127) + "x"}
	for _, name := range want {
		write(t, root+"/"+name, name)
	}
	d := openDir(t, fsx.OpenDir, root)
	var got []string
	must(t, d.Read(func(n fsx.DirName) error {
		got = append(got, n.Name)
		f, _, err := d.OpenFile(n.Name)
		if err != nil {
			return err
		}
		defer f.Close()
		if data, err := io.ReadAll(f); err != nil || string(data) != n.Name {
			t.Errorf("%q holds %q, %v", n.Name, data, err)
		}
		return nil
	}))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// A directory that is removed while it is held is an error or empty, no crash.
func TestReadOfRemoved(t *testing.T) {
	root := t.TempDir()
	must(t, os.Mkdir(root+"/d", 0o755))
	d := openDir(t, fsx.OpenDir, root+"/d")
	must(t, os.Remove(root+"/d"))
	err := d.Read(func(n fsx.DirName) error { return fmt.Errorf("name %q", n.Name) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := d.Lstat("x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestReadlink(t *testing.T) {
	root := inMemory(t)
	d := openDir(t, fsx.OpenDir, root)
	for _, size := range []int{1, 511, 512, 513, 4094, 4095} {
		want := strings.Repeat("t", size)
		must(t, d.Symlink(want, "l"))
		if got, err := d.Readlink("l"); got != want || err != nil {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
		node, st, err := d.OpenNode("l")
		must(t, err)
		if got, err := node.Readlink(); got != want || err != nil || st.Size != int64(size) {
			t.Errorf("node of %d bytes: got %d, %v", size, len(got), err)
		}
		must(t, node.Close())
		must(t, d.Unlink("l"))
	}
	write(t, root+"/file", "")
	if _, err := d.Readlink("file"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("of a file: %v", err)
	}
}

func TestParent(t *testing.T) {
	root := t.TempDir()
	must(t, os.Mkdir(root+"/d", 0o755))
	both(t, func(t *testing.T, open opener) {
		d := openDir(t, open, root)
		sub, err := d.Open("d")
		must(t, err)
		defer sub.Close()
		up, err := sub.Parent()
		must(t, err)
		defer up.Close()
		want, _ := d.Stat()
		if got, err := up.Stat(); got != want || err != nil {
			t.Errorf("got %+v, %v", got, err)
		}
		if d.Fd() == up.Fd() {
			t.Error("one descriptor for two")
		}
	})
}

// BenchmarkLstat is what an unchanged path costs at the least.
func BenchmarkLstat(b *testing.B) {
	d := openDir(b, fsx.OpenDir, zoo(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Lstat("file"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpenFile opens, stats and closes.
func BenchmarkOpenFile(b *testing.B) {
	d := openDir(b, fsx.OpenDir, zoo(b))
	b.ReportAllocs()
	for b.Loop() {
		f, _, err := d.OpenFile("file")
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// BenchmarkRead lists 10,000 names.
func BenchmarkRead(b *testing.B) {
	root := inMemory(b)
	for i := range 10000 {
		write(b, fmt.Sprintf("%s/name-%d", root, i), "")
	}
	d := openDir(b, fsx.OpenDir, root)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		must(b, d.Read(func(fsx.DirName) error { n++; return nil }))
		if n != 10000 {
			b.Fatal(n)
		}
	}
}
