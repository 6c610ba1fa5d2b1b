package meta

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"golang.org/x/sys/unix"
)

// create makes a bare object of m's type under name and gives back a descriptor
// to apply to.
func create(t *testing.T, d *fsx.Dir, name string, m *Meta) (fd int, done func()) {
	t.Helper()
	var err error
	switch m.Type() {
	case TypeFile:
		target, err := d.CreateTemp()
		if err == nil {
			err = target.LinkAs(name, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		return target.Fd(), func() { target.Close() }
	case TypeDir:
		err = d.Mkdir(name, 0o700)
	case TypeSymlink:
		err = d.Symlink(m.Symlink, name)
	default:
		err = d.Mknod(name, m.Type()|0o600, m.Rdev)
	}
	if err != nil {
		t.Fatal(err)
	}
	if m.Type() == TypeDir {
		sub, err := d.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		return sub.Fd(), func() { sub.Close() }
	}
	node, _, err := d.OpenNode(name)
	if err != nil {
		t.Fatal(err)
	}
	return node.Fd(), func() { node.Close() }
}

// roundTrip applies the metadata of everything in src to new objects in dst.
func roundTrip(t *testing.T, src, dst string, ignore func(*Meta)) {
	t.Helper()
	n := &Names{}
	a, err := NewApplier(Options{System: true}, n)
	if err != nil {
		t.Fatal(err)
	}
	in, out := openDir(t, src), openDir(t, dst)
	files, dirs := names(t, src)
	for _, name := range append(files, dirs...) {
		want := readMeta(t, in, name, n)
		fd, done := create(t, out, name, &want)
		o := a.Apply(fd, &want)
		for _, err := range o.Errs {
			t.Errorf("%s: %v", name, err)
		}
		if len(o.Withheld) > 0 {
			t.Errorf("%s: withheld %v", name, o.Withheld)
		}
		done()
		got := readMeta(t, out, name, n)
		for _, m := range []*Meta{&got, &want} { // file systems list attributes as they like
			slices.SortFunc(m.Extras.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
			ignore(m)
		}
		sameOnDisk(t, got, want, name, want.Type() != TypeFile)
		unchanged(t, a, out, name, &want)
	}
}

// unchanged checks that Differs finds nothing to do.
func unchanged(t *testing.T, a *Applier, d *fsx.Dir, name string, m *Meta) {
	t.Helper()
	node, st, err := d.OpenNode(name)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	if differs, err := a.Differs(node.Fd(), st, m); differs || err != nil {
		t.Errorf("%s: differs after Apply: %v, error %v", name, differs, err)
	}
}

func TestApplyRoundTrip(t *testing.T) {
	needs(t, true, "setfacl", "chattr")
	base := scratch(t)
	src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
	os.Mkdir(src, 0o755)
	os.Mkdir(dst, 0o755)
	hardCases(t, src)
	// What is made in dst inherits an ACL and an attribute, which must go.
	run(t, "setfacl", "-d", "-m", "u:daemon:rwx,g:nogroup:rwx", dst)
	roundTrip(t, src, dst, func(*Meta) {})
}

// TestApplyOtherFileSystem goes from this file system to xfs, which has other
// attributes, and back.
func TestApplyOtherFileSystem(t *testing.T) {
	needs(t, true, "setfacl", "chattr", "mkfs.xfs", "mount")
	base := scratch(t)
	src, xfs, back := filepath.Join(base, "src"), filepath.Join(base, "xfs"), filepath.Join(base, "back")
	for _, dir := range []string{src, xfs, back} {
		os.Mkdir(dir, 0o755)
	}
	image := filepath.Join(base, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 320<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.xfs", "-q", image)
	if out, err := exec.Command("mount", "-o", "loop", image, xfs).CombinedOutput(); err != nil {
		t.Skipf("mount: %v %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", xfs).Run() })
	hardCases(t, src)
	ignore := func(m *Meta) {
		m.Extras.Attr &= settable // how a file is stored differs
		m.Extras.Xattrs = slices.DeleteFunc(m.Extras.Xattrs, func(x Xattr) bool { return strings.HasPrefix(x.Name, xfsACL) })
	}
	there := filepath.Join(xfs, "there")
	os.Mkdir(there, 0o755)
	roundTrip(t, src, there, ignore)
	roundTrip(t, there, back, ignore)
}

// TestApplyWithoutSystem leaves off what gives rights away, and says so.
func TestApplyWithoutSystem(t *testing.T) {
	needs(t, true)
	d := openDir(t, scratch(t))
	n := &Names{}
	a, err := NewApplier(Options{}, n)
	if err != nil {
		t.Fatal(err)
	}
	m := Meta{Mode: TypeFile | 0o6755, UID: 65534, GID: 65534, Extras: Extras{Xattrs: []Xattr{
		{"trusted.a", "1"}, {"user.b", "2"},
		{xattrCapability, "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}}}
	fd, done := create(t, d, "f", &m)
	defer done()
	o := a.Apply(fd, &m)
	slices.Sort(o.Withheld)
	if got := strings.Join(o.Withheld, " "); got != "security.capability setgid setuid trusted.a" || len(o.Errs) > 0 {
		t.Errorf("withheld %q, errors %v", got, o.Errs)
	}
	got := readMeta(t, d, "f", n)
	if got.Mode != TypeFile|0o755 || got.UID != 65534 || len(got.Extras.Xattrs) != 1 || got.Extras.Xattrs[0].Name != "user.b" {
		t.Errorf("%+v", got)
	}
	unchanged(t, a, d, "f", &m)

	m.Mode = TypeDir | 0o2755 // which gives nobody rights
	m.Extras = Extras{}
	fd, done = create(t, d, "d", &m)
	defer done()
	if o := a.Apply(fd, &m); len(o.Withheld) > 0 || len(o.Errs) > 0 {
		t.Errorf("directory: %+v", o)
	}
	if got := readMeta(t, d, "d", n); got.Mode != m.Mode {
		t.Errorf("directory has mode %o", got.Mode)
	}
}

// TestApplyKeepsSetuidFromWrongOwner gives a set-id file an owner that cannot
// be: it stays root's, and must not get the bits.
func TestApplyKeepsSetuidFromWrongOwner(t *testing.T) {
	needs(t, true)
	d := openDir(t, scratch(t))
	n := &Names{}
	a, err := NewApplier(Options{System: true}, n)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range []Meta{
		{Mode: TypeFile | 0o6755, UID: 1<<32 - 1, GID: 1<<32 - 1},
		{Mode: TypeFile | 0o6755, UID: -1, GID: -7},
		{Mode: TypeFile | 0o6755, UID: 1 << 32, GID: 1 << 40},
	} {
		name := string(rune('a' + i))
		fd, done := create(t, d, name, &m)
		o := a.Apply(fd, &m)
		done()
		if got := readMeta(t, d, name, n); got.Mode != TypeFile|0o755 || len(o.Errs) == 0 {
			t.Errorf("uid %d: mode %o, errors %v", m.UID, got.Mode, o.Errs)
		}
	}
}

func TestOwner(t *testing.T) {
	n := &Names{}
	n.users.ids = map[string]int64{"alice": 1000, "bob": 1001, "evil": 0, "root": 0, "gone": -1}
	n.groups.ids = map[string]int64{"staff": 50, "wheel": 0}
	for _, c := range []struct {
		name      string
		opts      Options
		uid       int64
		user      string
		want      int
		wantError bool
	}{
		{"by name", Options{}, 7, "alice", 1000, false},
		{"by number", Options{Numeric: true}, 7, "alice", 7, false},
		{"unknown name", Options{}, 7, "gone", 7, false},
		{"no name", Options{}, 7, "", 7, false},
		{"root is never looked up", Options{}, 0, "alice", 0, false},
		{"a name that leads to root", Options{}, 7, "evil", 7, false},
		{"map of names", Options{MapUser: map[string]string{"alice": "bob"}}, 7, "alice", 1001, false},
		{"map of names, from root", Options{MapUser: map[string]string{"root": "bob"}}, 0, "root", 1001, false},
		{"map of names, to root", Options{MapUser: map[string]string{"bob": "root"}}, 7, "bob", 0, false},
		{"map to no name", Options{MapUser: map[string]string{"alice": ""}}, 7, "alice", 7, false},
		{"map of an empty name", Options{MapUser: map[string]string{"": "bob"}}, 7, "", 7, false},
		{"map of names, numeric", Options{Numeric: true, MapUser: map[string]string{"alice": "bob"}}, 7, "alice", 7, false},
		{"map of numbers", Options{MapUID: map[uint32]uint32{7: 9}}, 7, "gone", 9, false},
		{"map of numbers, the name counts", Options{MapUID: map[uint32]uint32{7: 9}}, 7, "alice", 1000, false},
		{"map of numbers, from root", Options{MapUID: map[uint32]uint32{0: 9}}, 0, "root", 9, false},
		{"map of numbers, to root", Options{MapUID: map[uint32]uint32{7: 0}}, 7, "alice", 0, false},
		{"no such number", Options{}, 1<<32 - 1, "", -1, true},
		{"negative", Options{}, -1, "gone", -1, true},
		{"negative with a name", Options{}, -1, "alice", 1000, false},
		{"too large", Options{Numeric: true}, 1 << 40, "alice", -1, true},
		{"wraps to root", Options{Numeric: true}, 1 << 32, "", -1, true},
	} {
		a := &Applier{opts: c.opts, names: n, root: true}
		got, _, err := a.Owner(&Meta{UID: c.uid, User: c.user})
		if got != c.want || (err != nil) != c.wantError {
			t.Errorf("%s: %d, error %v, want %d", c.name, got, err, c.want)
		}
	}
	if _, err := NewApplier(Options{MapUser: map[string]string{"a": "gone"}}, n); err == nil {
		t.Error("a map to an unknown user was taken")
	}
	if _, err := NewApplier(Options{MapGroup: map[string]string{"a": "no-such-group-here"}}, n); err == nil {
		t.Error("a map to an unknown group was taken")
	}
}

// TestApplyAsUser applies with the rights of an ordinary user: groups, but no
// owners, and that is no error.
func TestApplyAsUser(t *testing.T) {
	d := openDir(t, scratch(t))
	n := &Names{}
	a := &Applier{names: n, groups: []int{os.Getegid(), 12}}
	m := Meta{Mode: TypeFile | 0o4640, UID: 4242, GID: 4243, User: "x", Mtime: fsx.Time{Sec: 5, Nsec: 6}}
	fd, done := create(t, d, "f", &m)
	defer done()
	if o := a.Apply(fd, &m); len(o.Errs) > 0 || strings.Join(o.Withheld, " ") != "setuid" {
		t.Errorf("%+v", o)
	}
	got := readMeta(t, d, "f", n)
	if got.UID != int64(os.Geteuid()) || got.GID != int64(os.Getegid()) || got.Mode != TypeFile|0o640 || got.Mtime != m.Mtime {
		t.Errorf("%+v", got)
	}
	unchanged(t, a, d, "f", &m)
	if os.Geteuid() != 0 {
		return
	}
	m.GID = 12
	if o := a.Apply(fd, &m); len(o.Errs) > 0 {
		t.Errorf("%+v", o)
	}
	if got := readMeta(t, d, "f", n); got.GID != 12 {
		t.Errorf("group %d", got.GID)
	}
}

// TestApplySurplus takes away what the save does not have.
func TestApplySurplus(t *testing.T) {
	needs(t, true, "setfacl", "chattr")
	dir := scratch(t)
	name := filepath.Join(dir, "a.txt")
	hardCases(t, dir)
	d, n := openDir(t, dir), &Names{}
	a, err := NewApplier(Options{System: true}, n)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.txt", "acl", "setuid", "d", "d2"} {
		m := readMeta(t, d, name, n)
		m.Extras = Extras{}
		m.Mode &^= 0o077
		fd, done := open(t, d, name)
		st, err := d.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if differs, err := a.Differs(fd, st, &m); !differs || err != nil {
			t.Errorf("%s: differs %v, error %v", name, differs, err)
		}
		if o := a.Apply(fd, &m); len(o.Errs) > 0 {
			t.Errorf("%s: %v", name, o.Errs)
		}
		done()
		got := readMeta(t, d, name, n)
		if len(got.Extras.Xattrs) > 0 || got.Extras.ACL != nil || got.Mode != m.Mode {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := unix.Getxattr(name, "user.k1", nil); err != unix.ENODATA {
		t.Errorf("user.k1: %v", err)
	}
}

func open(t *testing.T, d *fsx.Dir, name string) (fd int, done func()) {
	t.Helper()
	if sub, err := d.Open(name); err == nil {
		return sub.Fd(), func() { sub.Close() }
	}
	f, _, err := d.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return f.Fd(), func() { f.Close() }
}

func TestDiffers(t *testing.T) {
	needs(t, true)
	d, n := openDir(t, scratch(t)), &Names{}
	a, err := NewApplier(Options{System: true}, n)
	if err != nil {
		t.Fatal(err)
	}
	base := Meta{Mode: TypeFile | 0o640, UID: 3, GID: 4, Mtime: fsx.Time{Sec: 9, Nsec: 8},
		Extras: Extras{Attr: 0x80000, Xattrs: []Xattr{{"user.a", "1"}}}}
	fd, done := create(t, d, "f", &base)
	defer done()
	if o := a.Apply(fd, &base); len(o.Errs) > 0 {
		t.Fatal(o.Errs)
	}
	st, err := d.Lstat("f")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(m *Meta){
		"":             func(m *Meta) {},
		"mode":         func(m *Meta) { m.Mode ^= 1 },
		"setuid":       func(m *Meta) { m.Mode |= 0o4000 },
		"owner":        func(m *Meta) { m.UID++ },
		"group":        func(m *Meta) { m.GID++ },
		"mtime":        func(m *Meta) { m.Mtime.Nsec++ },
		"xattr value":  func(m *Meta) { m.Extras.Xattrs = []Xattr{{"user.a", "2"}} },
		"xattr more":   func(m *Meta) { m.Extras.Xattrs = []Xattr{{"user.a", "1"}, {"user.b", ""}} },
		"xattr less":   func(m *Meta) { m.Extras.Xattrs = nil },
		"trusted":      func(m *Meta) { m.Extras.Xattrs = []Xattr{{"user.a", "1"}, {"trusted.b", ""}} },
		"attribute":    func(m *Meta) { m.Extras.Attr |= flagNoDump },
		"ACL":          func(m *Meta) { m.Extras.ACL = &ACL{Access: "u::rw-,u:7:r--,g::r--,m::r--,o::---"} },
		"ACL, trivial": func(m *Meta) { m.Extras.ACL = &ACL{Access: "u::rw-,g::r--,o::---"} },
	} {
		m := base
		change(&m)
		differs, err := a.Differs(fd, st, &m)
		if want := name != "" && name != "ACL, trivial"; differs != want || err != nil {
			t.Errorf("%q: differs %v, error %v", name, differs, err)
		}
	}
}

func TestSeal(t *testing.T) {
	needs(t, true, "chattr")
	dir := scratch(t)
	d, n := openDir(t, dir), &Names{}
	a, err := NewApplier(Options{}, n)
	if err != nil {
		t.Fatal(err)
	}
	m := Meta{Mode: TypeFile | 0o644, Extras: Extras{Attr: flagImmutable | flagNoDump}}
	fd, done := create(t, d, "f", &m)
	defer done()
	if o := a.Apply(fd, &m); len(o.Errs) > 0 {
		t.Skip(o.Errs) // a file system without attributes
	}
	if err := os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "g")); err != nil {
		t.Errorf("after Apply the file cannot be linked: %v", err)
	}
	if !Sealed(&m) || Sealed(&Meta{Mode: TypeFile, Extras: Extras{Attr: flagNoDump}}) {
		t.Error("Sealed is wrong")
	}
	t.Cleanup(func() { exec.Command("chattr", "-i", filepath.Join(dir, "f")).Run() })
	if err := a.Seal(fd, &m); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "h")); !errors.Is(err, unix.EPERM) {
		t.Errorf("after Seal: %v", err)
	}
	if got := readMeta(t, d, "f", n); got.Extras.Attr&(flagImmutable|flagNoDump) != flagImmutable|flagNoDump {
		t.Errorf("attributes %x", got.Extras.Attr)
	}
}

// TestApplyReports tries what cannot be done: each part is an error of its own,
// and the rest is applied.
func TestApplyReports(t *testing.T) {
	d, n := openDir(t, scratch(t)), &Names{}
	a, err := NewApplier(Options{System: true}, n)
	if err != nil {
		t.Fatal(err)
	}
	m := Meta{Mode: TypeFile | 0o640, UID: int64(os.Geteuid()), GID: int64(os.Getegid()), Mtime: fsx.Time{Sec: 99},
		Extras: Extras{ACL: &ACL{Access: "nonsense"}, Xattrs: []Xattr{{"nospace", "1"}, {"user.x\x00y", "2"}, {"user.ok", "3"}}}}
	fd, done := create(t, d, "f", &m)
	defer done()
	var parts []string
	for _, err := range a.Apply(fd, &m).Errs {
		var pe *PartError
		if !errors.As(err, &pe) {
			t.Fatalf("%T", err)
		}
		parts = append(parts, pe.Part)
	}
	if got := strings.Join(parts, ","); got != "ACL,nospace,user.x\x00y" {
		t.Errorf("failed parts: %q", got)
	}
	got := readMeta(t, d, "f", n)
	if got.Mtime != m.Mtime || got.Mode != m.Mode || len(got.Extras.Xattrs) != 1 {
		t.Errorf("%+v", got)
	}
	if o := a.Apply(fd, &Meta{}); len(o.Errs) > 0 {
		t.Errorf("an empty entry: %v", o.Errs)
	}
}

// TestApplyPlainAllocatesNothing: a restore does this for every file.
func TestApplyPlainAllocatesNothing(t *testing.T) {
	d, n := openDir(t, scratch(t)), &Names{}
	a, err := NewApplier(Options{}, n)
	if err != nil {
		t.Fatal(err)
	}
	m := Meta{Mode: TypeFile | 0o644, UID: int64(os.Geteuid()), GID: int64(os.Getegid()), Extras: Extras{Attr: 0x80000}}
	fd, done := create(t, d, "f", &m)
	defer done()
	if got := testing.AllocsPerRun(100, func() {
		if o := a.Apply(fd, &m); len(o.Errs) > 0 {
			t.Fatal(o.Errs)
		}
	}); got != 0 {
		t.Errorf("Apply allocates %v times", got)
	}
}
