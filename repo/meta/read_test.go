package meta

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"golang.org/x/sys/unix"
)

// scratch returns a directory on a file system with extended attributes, which
// /tmp may not have.
func scratch(t testing.TB) string {
	t.Helper()
	for _, base := range []string{t.TempDir(), "."} {
		dir, err := os.MkdirTemp(base, "scratch-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if unix.Setxattr(dir, "user.kedge", []byte("x"), 0) == nil {
			unix.Removexattr(dir, "user.kedge")
			abs, err := filepath.Abs(dir)
			if err != nil {
				t.Fatal(err)
			}
			return abs
		}
	}
	t.Skip("no file system with extended attributes at hand")
	return ""
}

func openDir(t testing.TB, dir string) *fsx.Dir {
	t.Helper()
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := fsx.OpenDir(real)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// readMeta reads the whole metadata of a name: files and directories through an
// open descriptor, the rest through an O_PATH one.
func readMeta(t testing.TB, d *fsx.Dir, name string, n *Names) Meta {
	t.Helper()
	node, st, err := d.OpenNode(name)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	fd := node.Fd()
	switch st.Mode & TypeMask {
	case TypeFile:
		f, _, err := d.OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fd = f.Fd()
	case TypeDir:
		sub, err := d.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		fd = sub.Fd()
	}
	m := FromStat(st, n)
	if m.Extras, err = ReadExtras(fd, st, n); err != nil {
		t.Fatal(err)
	}
	if m.Type() == TypeSymlink {
		if m.Symlink, err = d.Readlink(name); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestReadPlainAllocatesNothing(t *testing.T) {
	dir := scratch(t)
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, dir)
	f, st, err := d.OpenFile("f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := &Names{}
	var m Meta
	buf := make([]byte, 0, 512)
	if got := testing.AllocsPerRun(100, func() {
		m = FromStat(st, n)
		if m.Extras, err = ReadExtras(f.Fd(), st, n); err == nil {
			buf = m.Append(buf[:0])
		}
	}); got != 0 || err != nil {
		t.Errorf("reading a plain file allocates %v times, error %v", got, err)
	}
	if m.Extras.Xattrs != nil || m.Extras.ACL != nil {
		t.Errorf("%+v", m.Extras)
	}
}

// TestReadByPath reads a file and a directory that are held with O_PATH, on
// which neither flistxattr nor ioctl works.
func TestReadByPath(t *testing.T) {
	dir := scratch(t)
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(name, "user.a", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, dir)
	n := &Names{}
	want := readMeta(t, d, "f", n)
	node, st, err := d.OpenNode("f")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	got := FromStat(st, n)
	if got.Extras, err = ReadExtras(node.Fd(), st, n); err != nil {
		t.Fatal(err)
	}
	got.Atime = want.Atime
	if !equal(got, want) || len(want.Extras.Xattrs) != 1 {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// TestReadManyXattrs has more names, and longer values, than the buffers hold.
func TestReadManyXattrs(t *testing.T) {
	dir := scratch(t)
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for i := range 12 {
		key := "user." + string(rune('a'+i)) + string(make60())
		value := string(make([]byte, 20*i))
		if err := unix.Setxattr(name, key, []byte(value), 0); err != nil {
			t.Skip(err) // ext4 has room for a block of them
		}
		want[key] = value
	}
	m := readMeta(t, openDir(t, dir), "f", &Names{})
	if len(m.Extras.Xattrs) != len(want) {
		t.Fatalf("%d attributes, want %d", len(m.Extras.Xattrs), len(want))
	}
	for _, x := range m.Extras.Xattrs {
		if v, ok := want[x.Name]; !ok || v != x.Value {
			t.Errorf("%s = %q, want %q", x.Name, x.Value, v)
		}
	}
}

func make60() []byte {
	b := make([]byte, 60)
	for i := range b {
		b[i] = 'x'
	}
	return b
}

func TestReadBadDescriptor(t *testing.T) {
	if _, err := ReadExtras(-1, fsx.Stat{Mode: TypeFile}, &Names{}); err == nil {
		t.Error("no error")
	}
}

func TestFromStat(t *testing.T) {
	n := &Names{}
	for _, c := range []struct {
		st         fsx.Stat
		size, rdev int64
	}{
		{fsx.Stat{Mode: TypeFile | 0o644, Size: 5, Rdev: 9}, 5, 0},
		{fsx.Stat{Mode: TypeSymlink | 0o777, Size: 5}, 5, 0},
		{fsx.Stat{Mode: TypeDir | 0o755, Size: 4096}, -1, 0},
		{fsx.Stat{Mode: TypeChar | 0o644, Rdev: 259}, -1, 259},
		{fsx.Stat{Mode: TypeBlock | 0o644, Rdev: 259}, -1, 259},
		{fsx.Stat{Mode: TypeFIFO | 0o644, Rdev: 9}, -1, 0},
		{fsx.Stat{Mode: TypeSocket | 0o644, Rdev: 9}, -1, 0},
	} {
		m := FromStat(c.st, n)
		if m.Size != c.size || m.Rdev != uint64(c.rdev) || m.Mode != c.st.Mode || m.User != "root" || m.Group != "root" {
			t.Errorf("%+v gives %+v", c.st, m)
		}
	}
}

func TestNames(t *testing.T) {
	n := &Names{}
	for range 2 { // the second time from the cache
		if got := n.User(0); got != "root" {
			t.Errorf("user 0 is %q", got)
		}
		if got := n.User(3999999999); got != "" {
			t.Errorf("user 3999999999 is %q", got)
		}
		if got := n.Group(0); got != "root" {
			t.Errorf("group 0 is %q", got)
		}
		if id, ok := n.UID("root"); id != 0 || !ok {
			t.Errorf("root is %d, %v", id, ok)
		}
		for _, name := range []string{"", "no-such-user-here", "0", "12345"} {
			if id, ok := n.UID(name); ok {
				t.Errorf("user %q is %d", name, id)
			}
			if id, ok := n.GID(name); ok {
				t.Errorf("group %q is %d", name, id)
			}
		}
	}
	for id := range uint32(maxCached + 10) {
		n.users.name(id+1000, func(string) string { return "x" })
	}
	if len(n.users.names) > maxCached {
		t.Errorf("the cache holds %d names", len(n.users.names))
	}
	if n.User(0) != "root" {
		t.Error("root is gone")
	}
}

func BenchmarkReadPlain(b *testing.B) {
	dir := scratch(b)
	os.WriteFile(filepath.Join(dir, "f"), nil, 0o644)
	d := openDir(b, dir)
	f, st, err := d.OpenFile("f")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	n := &Names{}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadExtras(f.Fd(), st, n); err != nil && err != syscall.ENOTSUP {
			b.Fatal(err)
		}
	}
}
