package index

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
	"github.com/kedgebackup/kedge/pack"
)

// tree returns the records of a tree of directories, all valid, that fills
// several blocks: /NN/NN/NNN.
func tree() []Record {
	var recs []Record
	rec := func(mode uint32, format string, a ...any) {
		p := fmt.Sprintf(format, a...)
		recs = append(recs, Record{Path: p, Flags: Exists | Valid, GitMode: mode, ID: pack.Sum(pack.Blob, []byte(p)),
			Stat: fsx.Stat{Mode: mode, Nlink: 1, Ino: uint64(len(recs)), Size: 1 << 40, Mtime: fsx.Time{Nsec: 1}}})
	}
	for i := range 10 {
		for j := range 10 {
			for k := range 60 {
				rec(0o100644, "/top/%02d/%02d/%03d", i, j, k)
			}
			rec(0o40000, "/top/%02d/%02d", i, j)
		}
		rec(0o40000, "/top/%02d", i)
	}
	rec(0o40000, "/top")
	settle(recs)
	return recs
}

func exclusive(t testing.TB, fs *fsx.FS, name string) *File {
	t.Helper()
	f, err := OpenExclusive(fs, name, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestRewrite makes random changes and compares with the same changes to a list.
func TestRewrite(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	name := filepath.Join(t.TempDir(), "index")
	start := tree()
	for round := range 20 {
		writeIndex(t, name, start)
		f := exclusive(t, noSync(), name)
		w := f.Rewrite()
		var want []Record
		every := 1 + r.IntN(1<<(1+r.IntN(12)))
		for i := range start {
			rec := start[i]
			switch n := r.IntN(every * 4); n {
			case 0:
				if err := w.Drop(uint64(i)); err != nil {
					t.Fatal(err)
				}
				continue
			case 1, 2, 3:
				rec.Extras = []byte("new")
				rec.ID = pack.Sum(pack.Blob, rec.Extras)
				if n == 1 {
					rec.Flags &^= Valid
				}
				rec.Below = uint64(r.IntN(1000)) // not looked at
				if err := w.Set(uint64(i), &rec); err != nil {
					t.Fatal(err)
				}
			}
			want = append(want, rec)
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		settleFast(want)
		equalRecords(t, contents(t, f), want) // the File has the new version
		f.Close()
		equalRecords(t, contents(t, openIndex(t, name)), want)
		if t.Failed() {
			t.Fatalf("round %d, one change in %d", round, every)
		}
	}
}

// settleFast is settle in linear time.
func settleFast(recs []Record) {
	type top struct {
		first   int
		path    string
		invalid bool
	}
	var tops []top
	for i := range recs {
		rec := &recs[i]
		t := top{first: i, path: rec.Path}
		for n := len(tops); n > 0 && Within(tops[n-1].path, rec.Path); n-- {
			t.first, t.invalid = tops[n-1].first, t.invalid || tops[n-1].invalid
			tops = tops[:n-1]
		}
		rec.Below = uint64(i - t.first)
		if t.invalid {
			rec.Flags &^= Valid
		}
		t.invalid = rec.Flags&Valid == 0
		tops = append(tops, t)
	}
}

// TestRewriteMarks does what a save does: everything below a directory becomes
// valid, then the directory.
func TestRewriteMarks(t *testing.T) {
	name := filepath.Join(t.TempDir(), "index")
	recs := tree()
	for i := range recs {
		recs[i].Flags = Exists
	}
	writeIndex(t, name, recs)
	f := exclusive(t, noSync(), name)
	w := f.Rewrite()
	it := f.Records("/")
	for it.Next() {
		rec := *it.Record() // with the iterator's own strings
		rec.Flags |= Valid
		if strings.HasSuffix(rec.Path, "/03/04/005") {
			rec.Flags = Exists // racy: its directories must not become valid
		}
		if err := w.Set(it.Ordinal(), &rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	var invalid []string
	for _, rec := range contents(t, openIndex(t, name)) {
		if rec.Flags&Valid == 0 {
			invalid = append(invalid, rec.Path)
		}
	}
	if want := []string{"/top/03/04/005", "/top/03/04", "/top/03", "/top"}; !slices.Equal(invalid, want) {
		t.Errorf("not valid: %q, want %q", invalid, want)
	}
}

func TestRewriteErrors(t *testing.T) {
	name := filepath.Join(t.TempDir(), "index")
	recs := tree()
	writeIndex(t, name, recs)
	before, _ := os.ReadFile(name)
	for what, try := range map[string]func(w *Rewrite) error{
		"twice":         func(w *Rewrite) error { return errors.Join(w.Set(5, &recs[5]), w.Set(5, &recs[5])) },
		"backwards":     func(w *Rewrite) error { return errors.Join(w.Drop(5), w.Drop(4)) },
		"beyond":        func(w *Rewrite) error { return w.Drop(uint64(len(recs))) },
		"other path":    func(w *Rewrite) error { return w.Set(5, &recs[6]) },
		"broken record": func(w *Rewrite) error { r := recs[5]; r.Flags = 128; return w.Set(5, &r) },
	} {
		f := exclusive(t, noSync(), name)
		w := f.Rewrite()
		err := try(w)
		if err == nil {
			t.Errorf("%s: no error", what)
		}
		if commit := w.Commit(); commit == nil || !strings.Contains(err.Error(), commit.Error()) {
			t.Errorf("%s: %v, but Commit says %v", what, err, commit)
		}
		f.Close()
	}
	f := openIndex(t, name)
	w := f.Rewrite()
	if w.Drop(0) == nil || w.Commit() == nil {
		t.Error("an index opened for reading can be rewritten")
	}
	e := exclusive(t, noSync(), name)
	w = e.Rewrite()
	w.Abort()
	if w.Drop(0) == nil || w.Commit() == nil {
		t.Error("a rewrite goes on after Abort")
	}
	after, _ := os.ReadFile(name)
	if string(before) != string(after) {
		t.Error("the index has changed")
	}
	leftovers(t, filepath.Dir(name), "index", "index.lock")
}

// leftovers compares what is in a directory with what should be.
func leftovers(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

// TestWriteOrder compares the operations of a rewrite with the wanted ones. Of
// the old version everything but two blocks is copied, in one piece each.
func TestWriteOrder(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "index")
	recs := tree()
	writeIndex(t, name, recs)
	var trace fault.Trace
	f := exclusive(t, &fsx.FS{Intercept: trace.Intercept}, name)
	blocks := f.e.blocks
	if len(blocks) < 4 {
		t.Fatalf("only %d blocks", len(blocks))
	}
	trace.Reset()
	w := f.Rewrite()
	if err := w.Drop(blocks[1].first); err != nil { // a file: its directory and the two above count it
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, op := range trace.Ops() {
		if op.Kind != fsx.KindRead {
			got = append(got, strings.Split(fault.Line(op, dir), " 0+")[0])
		}
	}
	for i := range got {
		if strings.HasPrefix(got[i], "write ") {
			got[i] = "write index.tmp"
		}
	}
	want := []string{"remove index.tmp", "create index.tmp"}
	for range strings.Count(strings.Join(got, ","), "write") {
		want = append(want, "write index.tmp")
	}
	want = append(want, "sync index.tmp", "rename index.tmp index.tmp", "syncdir .", "close index")
	want[len(want)-3] = "rename index.tmp index"
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// Block 0 is copied, 1 encoded anew, those to the end of /top/NN copied or
	// anew, and so on: far fewer records are encoded than there are.
	reads := 0
	for _, op := range trace.Ops() {
		if op.Kind == fsx.KindRead && op.Path == name {
			reads++
		}
	}
	if reads >= 2*len(blocks) {
		t.Errorf("%d reads for %d blocks", reads, len(blocks))
	}
	leftovers(t, dir, "index", "index.lock")
}

// TestRewriteSkips: blocks in which nothing changes are not decoded: they may
// even be damaged, and are as damaged after.
func TestRewriteSkips(t *testing.T) {
	name := filepath.Join(t.TempDir(), "index")
	recs := tree()
	writeIndex(t, name, recs)
	f := exclusive(t, noSync(), name)
	blocks := slices.Clone(f.e.blocks)
	file, err := fsxWrite(name, blocks[2].off+100)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	last := uint64(len(recs) - 1)
	w := f.Rewrite()
	if err := w.Set(last, &recs[last]); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := len(f.e.blocks); got != len(blocks) {
		t.Errorf("%d blocks, there were %d", got, len(blocks))
	}
	var corrupt *pack.CorruptError
	if err := f.Check(); !errors.As(err, &corrupt) || corrupt.Off != blocks[2].off {
		t.Errorf("Check says %v, the damage is in the block at %d", err, blocks[2].off)
	}
}

// fsxWrite flips a byte of a file.
func fsxWrite(name string, off int64) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	var b [1]byte
	if _, err := file.ReadAt(b[:], off); err != nil {
		return nil, err
	}
	b[0] ^= 0x10
	_, err = file.WriteAt(b[:], off)
	return file, err
}

// TestNoChangeNoWrite: a commit without a change does nothing at all.
func TestNoChangeNoWrite(t *testing.T) {
	name := filepath.Join(t.TempDir(), "index")
	writeIndex(t, name, tree())
	trace := fault.Trace{Match: fault.Mutates}
	f := exclusive(t, &fsx.FS{Intercept: trace.Intercept}, name)
	trace.Reset()
	if err := f.Rewrite().Commit(); err != nil {
		t.Fatal(err)
	}
	if lines := trace.Lines(filepath.Dir(name)); len(lines) > 0 {
		t.Errorf("%q", lines)
	}
}

// TestSmallBlocksGrow: many rewrites that touch little do not leave the file in
// ever smaller pieces.
func TestSmallBlocksGrow(t *testing.T) {
	name := filepath.Join(t.TempDir(), "index")
	writeIndex(t, name, tree())
	r := rand.New(rand.NewPCG(11, 12))
	f := exclusive(t, noSync(), name)
	for f.Len() > 2000 {
		w := f.Rewrite()
		it := f.Records("/")
		next := uint64(r.IntN(300))
		for next < f.Len() {
			it.SkipTo(next)
			if !it.Next() {
				t.Fatal(it.Err())
			}
			if !it.Record().IsDir() {
				if err := w.Drop(next); err != nil {
					t.Fatal(err)
				}
			}
			next += 1 + uint64(r.IntN(300))
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		for i, b := range f.e.blocks {
			if b.size < blockTarget/4 && i < len(f.e.blocks)-1 {
				t.Fatalf("block %d of %d has %d bytes", i, len(f.e.blocks), b.size)
			}
		}
	}
	if err := f.Check(); err != nil {
		t.Error(err)
	}
}

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "index")
	if _, err := OpenExclusive(&fsx.FS{}, name, 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no index: %v", err)
	}
	if _, err := Open(&fsx.FS{}, name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no index: %v", err)
	}
	leftovers(t, filepath.Dir(name))
	writeIndex(t, name, tree())
	f := exclusive(t, noSync(), name)
	if _, err := OpenExclusive(noSync(), name, time.Millisecond); !errors.Is(err, fsx.ErrLocked) {
		t.Errorf("a second writer: %v", err)
	}
	if _, err := Update(t.Context(), Options{FS: noSync(), File: name, Roots: []string{"/dev/null"}}); !errors.Is(err, fsx.ErrLocked) {
		t.Errorf("an update: %v", err)
	}
	if err := Clear(noSync(), name, 0); !errors.Is(err, fsx.ErrLocked) {
		t.Errorf("clear: %v", err)
	}
	reader := openIndex(t, name) // readers need no lock
	it := reader.Records("/")
	it.Next()
	w := f.Rewrite()
	if err := w.Drop(0); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	n := 1
	for it.Next() { // and go on with the version they have
		n++
	}
	if it.Err() != nil || n != len(tree()) {
		t.Errorf("%d records, %v", n, it.Err())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Clear(noSync(), name, 0); err != nil {
		t.Fatal(err)
	}
	if err := Clear(noSync(), name, 0); err != nil {
		t.Errorf("clear again: %v", err)
	}
	if _, err := Open(&fsx.FS{}, name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cleared: %v", err)
	}
}

// TestRewriteFaults lets every operation of a rewrite fail. The old version or
// the new one is in place then, and the next rewrite succeeds.
func TestRewriteFaults(t *testing.T) {
	recs := tree()
	name := filepath.Join(t.TempDir(), "index")
	writeIndex(t, name, recs)
	old, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, plan := range []fault.Plan{{}, {After: true}, {Forever: true}, {Short: true}} {
		runs := 0
		plan.Sweep(func(fail *fault.Fail) {
			runs++
			os.Remove(name)
			if err := os.WriteFile(name, old, 0o600); err != nil {
				t.Fatal(err)
			}
			err := dropOne(&fsx.FS{Intercept: fail.Intercept}, name, 2000)
			got := contents(t, openIndex(t, name))
			if len(got) != len(recs) && len(got) != len(recs)-1 || err == nil && len(got) == len(recs) {
				t.Fatalf("operation %d: %v, and %d records", runs, err, len(got))
			}
			if err := dropOne(noSync(), name, 0); err != nil {
				t.Fatalf("operation %d: the next rewrite: %v", runs, err)
			}
		})
		if runs < 20 {
			t.Errorf("only %d operations", runs)
		}
	}
}

func dropOne(fs *fsx.FS, name string, ordinal uint64) error {
	f, err := OpenExclusive(fs, name, 0)
	if err != nil {
		return err
	}
	w := f.Rewrite()
	w.Drop(ordinal)
	err = w.Commit()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
