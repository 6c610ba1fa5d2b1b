package index

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"golang.org/x/sys/unix"
)

// hardNames are names that file systems allow.
var hardNames = []string{
	"a\nb", "\n", " ", "-", "--", "...", ".a", "a.", "\x01", "\x7f", "\xff\xfe", "ü", "u\u0308", `\`, "*", "'\"$(x)",
	strings.Repeat("n", 255), strings.Repeat("ü", 127), "a", "a!", "a-", "a-/b", "a/b", "A", "~",
}

func TestHardNames(t *testing.T) {
	src, name := scratch(t)
	want := map[string]bool{src: true}
	for _, n := range hardNames {
		if n == "a" || n == "a-" {
			n += "/"
		}
		mktree(t, src, n)
		for p := filepath.Join(src, n); p != src; p = filepath.Dir(p) {
			want[p] = true
		}
	}
	update(t, Options{File: name, Roots: []string{src}})
	got := paths(contents(t, openIndex(t, name)))
	for _, p := range got {
		if !want[p] {
			t.Errorf("%q is nowhere", p)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d paths, want %d", len(got), len(want))
	}
	for p := range want {
		if rec, _, ok, err := openIndex(t, name).Lookup(p); !ok || err != nil || rec.Path != p {
			t.Errorf("%q: %v, %v", p, ok, err)
		}
	}
}

// TestSpecialFiles: nothing blocks, nothing is followed or opened.
func TestSpecialFiles(t *testing.T) {
	src, name := scratch(t)
	if err := unix.Mkfifo(src+"/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	t.Chdir(src) // the path of a socket may be 107 bytes long
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "socket"}); err != nil {
		t.Fatal(err)
	}
	mktree(t, src, "loop -> .", "dir/up -> ..", "dangling -> /nowhere/at/all")
	if os.Getuid() == 0 {
		if err := unix.Mknod(src+"/dev", unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1))); err != nil {
			t.Fatal(err)
		}
	}
	update(t, Options{File: name, Roots: []string{src, src + "/loop"}})
	f := openIndex(t, name)
	for _, r := range contents(t, f) {
		var st unix.Stat_t
		if err := unix.Lstat(r.Path, &st); err != nil {
			t.Fatal(err)
		}
		if r.Stat.Mode != st.Mode || r.Stat.Rdev != uint64(st.Rdev) || r.Stat.Ino != st.Ino {
			t.Errorf("%s: %+v", r.Path, r.Stat)
		}
	}
	if rec, _, _, _ := f.Lookup(src + "/dangling"); rec.Target != "/nowhere/at/all" {
		t.Errorf("%q", rec.Target)
	}
	if n := f.Len(); n != 7 && n != 8 {
		t.Errorf("%d records", n)
	}
}

// TestWideDirectories: more names than a chunk, and than are asked for ahead,
// with directories among them.
func TestWideDirectories(t *testing.T) {
	src, name := scratch(t)
	const n = chunkSize*(ahead+3) + 7
	for i := range n {
		f := fmt.Sprintf("%05d", i*7%n)
		if i%50 == 0 {
			f += "/x/y"
		}
		mktree(t, src, f)
	}
	mktree(t, src, fmt.Sprintf("sub/%s/leaf", strings.Repeat("d/", openLevels+5)))
	for range 2 {
		update(t, Options{File: name, Roots: []string{src}})
	}
	f := openIndex(t, name)
	if want := uint64(n + 2*((n+49)/50) + openLevels + 5 + 3); f.Len() != want {
		t.Errorf("%d records, want %d", f.Len(), want)
	}
	markAll(t, name, inAnHour())
	if res := update(t, Options{File: name, Roots: []string{src}}); res.Rewritten {
		t.Errorf("%+v", res)
	}
}

// TestComb: at every level of a deep tree there are directories before and after
// the one that goes deeper, so that the walk comes back to what it had given up.
func TestComb(t *testing.T) {
	src, name := scratch(t)
	const depth = 2*openLevels + 40 // more than a Stack keeps open, too
	p, want := "", 1
	for range depth {
		mktree(t, src, p+"a/f", p+"m/", p+"z/g -> h", p+"y")
		want += 6
		p += "m/"
	}
	var fds atomic.Int64
	o := Options{File: name, Roots: []string{src}, Seen: func(string, *fsx.Stat, byte) {
		if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
			fds.Store(max(fds.Load(), int64(len(entries))))
		}
	}}
	res := update(t, o)
	if res.Paths != uint64(want) {
		t.Errorf("%d paths, want %d", res.Paths, want)
	}
	if f := openIndex(t, name); f.Len() != uint64(want) {
		t.Errorf("%d records, want %d", f.Len(), want)
	}
	if fds.Load() > 64+openLevels*(ahead+1)+40 {
		t.Errorf("%d descriptors were open", fds.Load())
	}
	if entries, _ := os.ReadDir("/proc/self/fd"); len(entries) > 40 {
		t.Errorf("%d descriptors are left open", len(entries))
	}
}

// TestDeepTree: 20,000 levels.
func TestDeepTree(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 20,000 directories")
	}
	const depth = 20_000
	src, name := scratch(t)
	if shm, err := os.MkdirTemp("/dev/shm", "kedge-test-"); err == nil {
		src = shm // memory is a hundred times faster at this than a disk
	}
	root, err := fsx.OpenDir(src)
	if err != nil {
		t.Fatal(err)
	}
	stack := fsx.NewStack(root)
	for i := range depth {
		if err := unix.Mkdirat(stack.Top().Fd(), "d", 0o755); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			if err := unix.Mkdirat(stack.Top().Fd(), "e", 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := stack.Push("d"); err != nil {
			t.Fatal(err)
		}
	}
	stack.Close()
	defer exec.Command("rm", "-rf", src).Run() // os.RemoveAll holds a descriptor for every level

	o := Options{File: name, Roots: []string{src}}
	if res := update(t, o); res.Paths != depth+depth/1000+1 {
		t.Errorf("%+v", res)
	}
	if res := update(t, o); res.Rewritten {
		t.Errorf("%+v", res)
	}
	f := openIndex(t, name)
	it := f.Records("/")
	if !it.Next() || len(it.Record().Path) != len(src)+2*depth {
		t.Errorf("the first path has %d bytes", len(it.Record().Path))
	}
	info, _ := os.Stat(name)
	if info.Size() > 100*depth {
		t.Errorf("the index has %d bytes", info.Size())
	}
	rev := f.Reverse("/")
	n := uint64(0)
	for rev.Next() {
		n++
	}
	if n != f.Len() || rev.Err() != nil {
		t.Errorf("backwards: %d records, %v", n, rev.Err())
	}
	if _, err := Update(t.Context(), Options{File: name, Roots: []string{src}, Exclude: excludeGlob(t, "d"), Now: inAnHour}); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, openIndex(t, name)); got[len(got)-1].Below != depth+depth/1000 || got[0].Flags != 0 {
		t.Errorf("%+v", got[len(got)-1])
	}
}

func excludeGlob(t *testing.T, pattern string) *Exclude {
	t.Helper()
	var x Exclude
	if err := x.AddGlob(pattern); err != nil {
		t.Fatal(err)
	}
	return &x
}

// TestMoved moves directories while the walk is deep in them. It finds its way
// back to what is still in its place; what is not keeps its records.
func TestMoved(t *testing.T) {
	level := func(n int) string { return strings.Repeat("/d", n) }
	const depth = 70 // the stack has closed the first levels then
	for _, c := range []struct {
		what       string
		move       []int // levels, the deepest first
		lost, last int   // the levels from lost to last are not found any more
	}{
		{"a level that is open", []int{30}, 0, -1},
		{"one that is closed: its parent is reached by its path", []int{3}, 0, -1},
		{"one, and one above it: from there on nothing is found", []int{5, 2}, 2, 4},
		{"the root itself", []int{5, 0}, 0, 4},
	} {
		src, name := scratch(t)
		mktree(t, src, level(depth)+"/leaf")
		for i := range 8 {
			mktree(t, src, level(i)+"/z")
		}
		o := Options{File: name, Roots: []string{src}}
		update(t, o)
		markAll(t, name, inAnHour())
		before := openIndex(t, name).Len()

		var warned []string
		o.Warn = func(p string, err error) { warned = append(warned, p) }
		o.Seen = func(p string, st *fsx.Stat, status byte) {
			if !strings.HasSuffix(p, "/leaf") {
				return
			}
			for _, n := range c.move {
				if err := os.Rename(src+level(n), fmt.Sprintf("%s-moved-%d", src, n)); err != nil {
					t.Fatal(err)
				}
			}
		}
		update(t, o)
		f := openIndex(t, name)
		if f.Len() != before {
			t.Errorf("%s: %d records, there were %d", c.what, f.Len(), before)
		}
		lost := c.last >= 0
		if lost && !slices.Equal(warned, []string{src + level(c.lost)}) || !lost && warned != nil {
			t.Errorf("%s: warned of %q", c.what, warned)
		}
		for i := range 8 {
			mark := byte(' ')
			if lost && i <= c.last {
				mark = 'M'
			}
			if rec, _, _, _ := f.Lookup(src + level(i)); rec.Status() != mark {
				t.Errorf("%s: level %d is '%c', want '%c'", c.what, i, rec.Status(), mark)
			}
			if rec, _, _, _ := f.Lookup(src + level(i) + "/z"); rec.Status() != ' ' {
				t.Errorf("%s: the file at level %d is '%c'", c.what, i, rec.Status())
			}
		}
		// The next run sees what is gone.
		o.Seen, warned = nil, nil
		update(t, o)
		if rec, _, _, _ := openIndex(t, name).Lookup(src + level(c.move[0]) + level(1)); rec.Status() != 'D' {
			t.Errorf("%s: the next run says '%c'", c.what, rec.Status())
		}
	}
}

// TestSwappedForLink: a directory that becomes a symbolic link between two looks
// is not followed.
func TestSwappedForLink(t *testing.T) {
	src, name := scratch(t)
	secret := filepath.Join(filepath.Dir(src), "secret")
	mktree(t, filepath.Dir(src), "secret/x")
	for i := range ahead + 20 {
		mktree(t, src, fmt.Sprintf("%03d/f", i))
	}
	last := fmt.Sprintf("%s/%03d", src, ahead+19)
	o := Options{File: name, Roots: []string{src}, Warn: func(string, error) {}}
	once := false
	o.Seen = func(p string, _ *fsx.Stat, _ byte) {
		if once {
			return
		}
		once = true
		if err := os.RemoveAll(last); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(secret, last); err != nil {
			t.Fatal(err)
		}
	}
	update(t, o)
	for _, r := range contents(t, openIndex(t, name)) {
		if strings.HasSuffix(r.Path, "/x") {
			t.Errorf("the walk went through a link: %s", r.Path)
		}
	}
}

func TestNames(t *testing.T) {
	var n names
	want := slices.Clone(hardNames)
	want = append(want, "prefix-prefix-1", "prefix-prefix-2", "prefix-prefix-", "prefix-prefix-10", "12345678", "1234567", "123456789", "12345678\x00")
	for range 2 {
		n.reset()
		for _, s := range want {
			if err := n.add(s, 0); err != nil {
				t.Fatal(err)
			}
		}
		n.add(want[0], 0) // twice
		n.sort()
		n.dedup()
		slices.Sort(want)
		var got []string
		for i := range n.list {
			got = append(got, n.at(i))
			if j, ok := n.find(n.at(i)); !ok || i != j {
				t.Errorf("%q is not found", n.at(i))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if n.has("nothing") {
			t.Error("found what is not there")
		}
	}
}
