package repo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// dirWriter returns a DirWriter that stores into m and splits as bup does.
func (m memObjects) dirWriter(t testing.TB) *DirWriter {
	return &DirWriter{
		Split: func(body []byte) (TreeEntry, error) { return m.splitN(t, "rollsum:13", body), nil },
		Emit:  m.addTree,
	}
}

// loadGit reads all objects and refs of a git repository with git.
func loadGit(t testing.TB, dir string) *memRepo {
	t.Helper()
	m := &memRepo{memObjects: memObjects{}}
	cmd := exec.Command("git", "cat-file", "--batch-all-objects", "--batch", "--buffer")
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]pack.Type{"blob": pack.Blob, "tree": pack.Tree, "commit": pack.Commit, "tag": pack.Tag}
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			break
		}
		f := strings.Fields(line)
		n, _ := strconv.Atoi(f[2])
		body := make([]byte, n+1)
		if _, err := io.ReadFull(in, body); err != nil {
			t.Fatal(err)
		}
		if id, _ := m.add(types[f[1]], body[:n]); id.String() != f[0] {
			t.Fatalf("%s hashes to %v", f[0], id)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(runGit(t, dir, "", "for-each-ref", "--format=%(objectname) %(refname)")), "\n") {
		if id, name, ok := strings.Cut(line, " "); ok {
			m.refs = append(m.refs, Ref{name, mustID(id)})
		}
	}
	return m
}

// runBup runs bup on a repository; the test is skipped where there is none.
func runBup(t testing.TB, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("bup"); err != nil {
		t.Skip("no bup")
	}
	cmd := exec.Command("bup", append([]string{"-d", dir}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("bup %v: %v\n%s", args, err, stderr.Bytes())
	}
	return string(out)
}

// oddTree makes a directory with most things that a directory can hold.
func oddTree(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	write := func(name string, data []byte, perm fs.FileMode) {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, perm); err != nil {
			t.Fatal(err)
		}
	}
	s := streamS(1000000)
	write("a", s[:10], 0o644)
	write("a-b", s[:11], 0o600)
	write("a.d/x", nil, 0o755)
	write("a/../a.d-/y", s[:300000], 0o640)
	write("big", s, 0o644)
	write("x.bup", s[:20], 0o644)
	write("y.bup", s[:200000], 0o644)
	write("z.bupd", s[:21], 0o644)
	write(".bupm", s[:22], 0o644)
	write("dir.bup/deep/er", s[:23], 0o644)
	write("!first", s[:24], 0o644)
	write("caf\xe9\n", s[:25], 0o644)
	for i := range 3000 {
		write(fmt.Sprintf("many/file-%04d", i), s[i:i+i%5], 0o644)
	}
	for _, d := range []string{"empty", "many/sub", "a.d/sub.bupl"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for target, name := range map[string]string{"a": "link", "/absolute/../x": "abs", "many": "dirlink", "gone": "link.bup"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(root, "a"), filepath.Join(root, "hard")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

// bupSave saves a directory with bup and returns the repository.
func bupSave(t testing.TB, root, name string, args ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bup")
	runBup(t, dir, "init")
	bupAgain(t, dir, root, name, args...)
	return dir
}

func bupAgain(t testing.TB, dir, root, name string, args ...string) {
	t.Helper()
	runBup(t, dir, "index", root)
	runBup(t, dir, append(append([]string{"save", "-q", "--strip", "-n", name}, args...), root)...)
}

// collect reads a directory into memory.
func collect(t testing.TB, r Repo, tree pack.ID) (out []DirItem) {
	t.Helper()
	err := ReadDir(context.Background(), r, tree, func(d *DirItem) error {
		item := *d
		m := *d.Meta
		item.Meta = &m
		out = append(out, item)
		return nil
	})
	if err != nil {
		t.Fatalf("ReadDir %v: %v", tree, err)
	}
	return out
}

// rewrite stores what collect returned.
func rewrite(t testing.TB, w *DirWriter, items []DirItem) pack.ID {
	t.Helper()
	var list []DirEntry
	for _, d := range items[1:] {
		e := DirEntry{Name: d.Name, Mode: d.Mode, Chunked: d.Chunked, ID: d.ID}
		if !d.IsDir() {
			e.Meta = d.Meta.Append(nil)
		}
		list = append(list, e)
	}
	id, err := w.Write(items[0].Meta.Append(nil), list)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestDirAgainstBup reads a tree that bup saved, compares it with the source, and
// stores every directory again: the ids must be bup's own.
func TestDirAgainstBup(t *testing.T) {
	root := oddTree(t)
	r := loadGit(t, bupSave(t, root, "odd"))
	tip, err := ParseCommit(r.memObjects[r.refs[0].ID].body)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	var walk func(dir string, tree pack.ID)
	walk = func(dir string, tree pack.ID) {
		items := collect(t, r, tree)
		if id := rewrite(t, r.dirWriter(t), items); id != tree {
			t.Errorf("%s: stored again as %v, was %v", dir, id, tree)
		}
		names, err := os.ReadDir(dir)
		if err != nil || len(names) != len(items)-1 {
			t.Fatalf("%s: %d items, source has %d, %v", dir, len(items)-1, len(names), err)
		}
		for i, d := range items {
			full := filepath.Join(dir, d.Name)
			var st syscall.Stat_t
			if err := syscall.Lstat(full, &st); err != nil {
				t.Fatal(err)
			}
			if i > 0 && names[i-1].Name() != d.Name {
				t.Errorf("%s stands where %s should", d.Name, names[i-1].Name())
			}
			if d.IsDir() != (st.Mode&syscall.S_IFMT == syscall.S_IFDIR) {
				t.Errorf("%s: mode %o for %o", full, d.Mode, st.Mode)
			}
			if !d.IsDir() || i == 0 {
				if d.Lost || d.Err != nil || d.Meta.Mode != st.Mode || d.Meta.Mtime.Sec != st.Mtim.Sec || int64(d.Meta.Mtime.Nsec) != st.Mtim.Nsec {
					t.Errorf("%s: %+v, source has mode %o", full, d, st.Mode)
				}
			}
			seen++
			if i > 0 && d.IsDir() {
				walk(full, d.ID)
			}
		}
	}
	walk(root, tip.Tree)
	if seen < 3030 {
		t.Errorf("%d items only", seen)
	}
}

func TestDirWriterRefuses(t *testing.T) {
	m := memObjects{}
	b := m.blob(3)
	for _, c := range []struct {
		name  string
		items []DirEntry
	}{
		{"twice", []DirEntry{{Name: "a", Mode: ModeFile, ID: b}, {Name: "a", Mode: ModeDir, ID: b}}},
		{"order", []DirEntry{{Name: "b", Mode: ModeFile, ID: b}, {Name: "a", Mode: ModeFile, ID: b}}},
		{"empty", []DirEntry{{Name: "", Mode: ModeFile, ID: b}}},
		{"dots", []DirEntry{{Name: "..", Mode: ModeDir, ID: b}}},
		{"slash", []DirEntry{{Name: "a/b", Mode: ModeFile, ID: b}}},
		{"NUL", []DirEntry{{Name: "a\x00b", Mode: ModeFile, ID: b}}},
		{"mode", []DirEntry{{Name: "a", Mode: 0o644, ID: b}}},
		{"chunked blob", []DirEntry{{Name: "a", Mode: ModeFile, Chunked: true, ID: b}}},
	} {
		if _, err := m.dirWriter(t).Write(nil, c.items); err == nil {
			t.Errorf("%s: no error", c.name)
		}
	}
}

// randomItems makes items with names that sort differently mangled.
func (m memObjects) randomItems(r *rand.Rand, n int) (items []DirItem) {
	self := meta.Meta{Mode: 0o040755, Size: -1}
	items = append(items, DirItem{Name: ".", Meta: &self})
	names := map[string]bool{}
	for range n {
		names[oddName(r)+[]string{"", "", ".bup", ".bupm", ".bupl", "!"}[r.IntN(6)]] = true
	}
	id := m.blob(5)
	for name := range names {
		d := DirItem{Name: name, ID: id, Meta: &meta.Meta{Size: -1}}
		switch r.IntN(4) {
		case 0:
			d.Mode, d.Meta.Mode = ModeFile, 0o100600
		case 1:
			d.Mode, d.Meta.Mode, d.Meta.Symlink = ModeSymlink, 0o120777, "x"
		case 2:
			d.Mode = ModeDir
		case 3:
			d.Mode, d.Chunked, d.Meta.Mode = ModeDir, true, 0o100640
		}
		items = append(items, d)
	}
	slices.SortFunc(items[1:], func(a, b DirItem) int { return strings.Compare(a.Name, b.Name) })
	return items
}

func sameItems(a, b []DirItem) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d items, want %d", len(a), len(b))
	}
	for i := range a {
		x, y := a[i], b[i]
		if x.Name != y.Name || i > 0 && (x.Mode != y.Mode || x.Chunked != y.Chunked || x.ID != y.ID) || x.Lost ||
			x.Meta.Mode != y.Meta.Mode || x.Meta.Symlink != y.Meta.Symlink {
			return fmt.Errorf("item %d is %+v with %+v, want %+v with %+v", i, x, *x.Meta, y, *y.Meta)
		}
	}
	return nil
}

// TestDirRoundTrip: what is written is read back, and git finds nothing to say
// of the trees. Writers are used again.
func TestDirRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	r := &memRepo{memObjects: memObjects{}}
	for _, split := range []bool{false, true} {
		w := r.dirWriter(t)
		w.SplitTrees = split
		for range 300 {
			items := r.randomItems(rnd, rnd.IntN(50))
			id := rewrite(t, w, items)
			if err := sameItems(collect(t, r, id), items); err != nil {
				t.Fatal(err)
			}
			for i, want := range items[1:] {
				d, err := Lookup(context.Background(), r, id, want.Name, true)
				if err != nil || d == nil {
					t.Fatalf("Lookup %q: %v, %v", want.Name, d, err)
				}
				if want.IsDir() {
					continue
				}
				if err := sameItems([]DirItem{{Name: ".", Meta: &meta.Meta{}}, *d}, []DirItem{{Name: ".", Meta: &meta.Meta{}}, items[i+1]}); err != nil {
					t.Fatal(err)
				}
			}
			if d, err := Lookup(context.Background(), r, id, "no such name", true); d != nil || err != nil {
				t.Fatal(d, err)
			}
		}
	}
}

// TestDirTolerance: what older writers left behind is read, and said.
func TestDirTolerance(t *testing.T) {
	ctx := context.Background()
	r := &memRepo{memObjects: memObjects{}}
	b := r.blob(3)
	rec := func(mode uint32) []byte { return (&meta.Meta{Mode: mode, Size: -1}).Append(nil) }
	dir, file, link := rec(0o040711), rec(0o100604), rec(0o120777)
	cat := func(parts ...[]byte) pack.ID { id, _ := r.add(pack.Blob, slices.Concat(parts...)); return id }
	tree := func(bupm pack.ID) pack.ID {
		return r.treeOf("100644 .bupm", bupm, "100644 a", b, "120000 l", b, "40000 sub", r.treeOf())
	}
	for _, c := range []struct {
		name          string
		tree          pack.ID
		dir, a        uint32 // st_mode
		dirLost, lost bool
		err           string
	}{
		{"whole", tree(cat(dir, file, link)), 0o040711, 0o100604, false, false, ""},
		{"made by git", r.treeOf("100644 a", b), 0o040755, 0o100644, false, false, ""},
		{"made by git, executable", r.treeOf("100755 a", b), 0o040755, 0o100755, false, false, ""},
		{"empty records", tree(cat(emptyMeta, emptyMeta, emptyMeta)), 0o040700, 0o100600, true, true, ""},
		{"too few", tree(cat(dir, file)), 0o040711, 0o100600, true, true, "too few records"},
		{"too many", tree(cat(dir, file, link, file)), 0o040711, 0o100600, true, true, "too many records"},
		{"another's", tree(cat(dir, link, file)), 0o040711, 0o100600, true, true, `record of mode 120777 for "a"`},
		{"no directory first", tree(cat(file, file, link)), 0o040700, 0o100600, true, true, "first record is of mode 100604"},
		{"no records", tree(cat()), 0o040700, 0o100600, true, true, "no records"},
		{"cut off", tree(cat(dir, file, link[:5])), 0o040711, 0o100600, true, true, "without an end"},
		{"huge field", tree(cat(dir, []byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f})), 0o040711, 0o100600, true, true, "field of"},
		{"missing", tree(someID(9)), 0o040700, 0o100600, true, true, "is missing"},
		{"a tree of no chunks", r.treeOf("40000 .bupm", r.treeOf(), "100644 a", b), 0o040700, 0o100600, true, true, "without a chunk"},
		{"a link", r.treeOf("120000 .bupm", b, "100644 a", b), 0o040700, 0o100600, true, true, "mode 120000"},
		{"bad record", tree(cat(dir, []byte{10, 3, 0xa4, 0x86, 4, 0}, link)), 0o040711, 0o100600, false, true, `record of "a"`},
	} {
		items := collect(t, r, c.tree)
		self, a := items[0], items[1]
		if self.StatMode() != c.dir || a.StatMode() != c.a || self.Lost != c.dirLost || a.Lost != c.lost {
			t.Errorf("%s: . is %o lost %v, a is %o lost %v", c.name, self.StatMode(), self.Lost, a.StatMode(), a.Lost)
		}
		var said string
		for _, d := range items {
			if d.Err != nil {
				said += d.Err.Error()
			}
		}
		if !strings.Contains(said, c.err) || (c.err == "") != (said == "") {
			t.Errorf("%s: said %q, want %q", c.name, said, c.err)
		}
		one, err := Lookup(ctx, r, c.tree, "a", true)
		if err != nil || one.StatMode() != c.a || one.Lost != c.lost {
			t.Errorf("%s: Lookup: %+v, %v", c.name, one, err)
		}
		err = DirMetas(ctx, r, []pack.ID{c.tree, tree(cat(dir, file, link))}, func(i int, d *DirItem) error {
			if want := []uint32{c.dir, 0o040711}[i]; d.StatMode() != want {
				t.Errorf("%s: DirMetas %d: %o, want %o", c.name, i, d.StatMode(), want)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: DirMetas: %v", c.name, err)
		}
	}
}

func TestDirHostile(t *testing.T) {
	r := &memRepo{memObjects: memObjects{}}
	b := r.blob(3)
	leaf := r.treeOf("100644 a", b)
	other := r.treeOf("100644 b", b)
	for _, c := range []struct {
		name, want string
		tree       pack.ID
	}{
		{"one name twice", `"a" twice`, r.treeOf("100644 a", b, "40000 a.bup", leaf)},
		{"dot behind .bup", "name is . or ..", r.treeOf("40000 ..bup", leaf)},
		{"dot dot behind .bupl", "name is . or ..", r.treeOf("100644 ...bupl", b)},
		{"part beside item", "beside items", r.treeOf("40000 a..1.bupd", leaf, "100644 z", b)},
		{"part without a level", "no part", r.treeOf("40000 a.bupd", leaf)},
		{"level 0", "no part", r.treeOf("40000 a..0.bupd", leaf)},
		{"level too high", "no part", r.treeOf("40000 a..999.bupd", leaf)},
		{"levels differ", "no part of level 1", r.treeOf("40000 a..1.bupd", leaf, "40000 b..2.bupd", other)},
		{"leaf above", "no part of level 2", r.treeOf("40000 a..2.bupd", leaf)},
		{"tree for a leaf", "no part of level 1", r.treeOf("40000 a..1.bupd", r.treeOf("40000 a..1.bupd", leaf))},
		{"level the same below", "no part of level 1", r.treeOf("40000 a..2.bupd", r.treeOf("40000 a..2.bupd", leaf))},
		{"empty part", "no part of level 1", r.treeOf("40000 a..1.bupd", r.treeOf())},
		{"part twice", "twice", r.treeOf("40000 a..1.bupd", leaf, "40000 b..1.bupd", leaf)},
		{"name in two parts", `"a" after "a"`, r.treeOf("40000 a..1.bupd", leaf, "40000 b..1.bupd", r.treeOf("100755 a", b))},
		{"a blob", "is a blob, not a tree", b},
	} {
		err := ReadDir(context.Background(), r, c.tree, func(*DirItem) error { return nil })
		var corrupt *pack.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	// A laugh for each level: 2^31 leaves if they were followed.
	id := leaf
	for level := 1; level < maxPartLevel; level++ {
		id = r.treeOf(fmt.Sprintf("40000 a..%d.bupd", level), id, fmt.Sprintf("40000 b..%d.bupd", level), id)
	}
	if err := ReadDir(context.Background(), r, id, func(*DirItem) error { return nil }); err == nil {
		t.Error("a part in two places was followed")
	}
	var missing *MissingError
	if err := ReadDir(context.Background(), r, someID(99), func(*DirItem) error { return nil }); !errors.As(err, &missing) {
		t.Errorf("missing tree: %v", err)
	}
}

// FuzzReadDir reads a directory of which tree and .bupm come from the fuzzer.
func FuzzReadDir(f *testing.F) {
	rec := func(mode uint32) []byte { return (&meta.Meta{Mode: mode, Size: -1}).Append(nil) }
	f.Add(treeOf("100644 a", "40000 b.bup", "120000 c"), slices.Concat(rec(0o040755), rec(0o100644), rec(0o100644), rec(0o120777)), uint16(0))
	f.Add(treeOf("100644 a"), slices.Concat(rec(0o040755), []byte{0}), uint16(3))
	f.Add(treeOf("40000 a..1.bupd", "40000 b..1.bupd"), rec(0o040755), uint16(1))
	f.Fuzz(func(t *testing.T, body, bupm []byte, cut uint16) {
		r := &memRepo{memObjects: memObjects{}}
		var list []TreeEntry
		if ParseTree(body, func(e TreeEntry) error { list = append(list, e); return nil }) != nil {
			return
		}
		// The .bupm goes in as a blob or, with a cut, as two chunks.
		e := TreeEntry{Mode: ModeFile, Name: bupmName}
		e.ID, _ = r.add(pack.Blob, bupm)
		if n := int(cut); n > 0 && n < len(bupm) {
			a, _ := r.add(pack.Blob, bupm[:n])
			b, _ := r.add(pack.Blob, bupm[n:])
			e.Mode = ModeDir
			e.ID = r.treeOf("100644 0000", a, fmt.Sprintf("100644 %04x", n), b)
		}
		list = append(slices.DeleteFunc(list, func(o TreeEntry) bool { return o.Name == bupmName }), e)
		SortTree(list)
		id, _ := r.addTree(AppendTree(nil, list))
		var items []DirItem
		last := ""
		err := ReadDir(context.Background(), r, id, func(d *DirItem) error {
			if len(items) > 1 && d.Name <= last {
				t.Fatalf("%q after %q", d.Name, last)
			}
			last = d.Name
			if d.Meta.Mode != 0 && !fits(d.Mode, d.Chunked, d.Meta.Mode) {
				t.Fatalf("%q of mode %o has metadata of mode %o", d.Name, d.Mode, d.Meta.Mode)
			}
			items = append(items, *d)
			return nil
		})
		if err != nil {
			return
		}
		for _, d := range items[1:] {
			one, err := Lookup(context.Background(), r, id, d.Name, !d.IsDir())
			if err != nil || one == nil || one.Mode != d.Mode || one.ID != d.ID || one.Lost != d.Lost {
				t.Fatalf("Lookup %q: %+v, %v, want %+v", d.Name, one, err, d)
			}
		}
	})
}

// TestDirMillion writes and reads a directory of many files and holds the memory
// to a few times what the tree and its .bupm come to.
func TestDirMillion(t *testing.T) {
	const n = 200_000
	m := &memRepo{memObjects: memObjects{}}
	w := m.dirWriter(t)
	rec := (&meta.Meta{Mode: 0o100644, User: "root", Group: "root", Size: 3}).Append(nil)
	id := m.blob(3)
	perItem := testing.AllocsPerRun(1, func() {
		for i := range n {
			if err := w.Add(DirEntry{Name: string(fmt.Appendf(nil, "file-%07d", i)), Mode: ModeFile, ID: id, Meta: rec}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Finish(nil); err != nil {
			t.Fatal(err)
		}
	}) / n
	if perItem > 4 { // the name and the test's own
		t.Errorf("%v allocations for an item", perItem)
	}
	var tree pack.ID
	for id, o := range m.memObjects {
		if o.t == pack.Tree && len(o.body) > n*30 {
			tree = id
		}
	}
	got := 0
	err := ReadDir(context.Background(), m, tree, func(d *DirItem) error { got++; return nil })
	if err != nil || got != n+1 {
		t.Errorf("%d items, %v", got, err)
	}
}
