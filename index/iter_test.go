package index

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// manyRecords is an index of several blocks, and its records.
func manyRecords(t testing.TB, seed uint64) (*File, []Record) {
	recs := randomRecords(rand.New(rand.NewPCG(seed, 15)), 6000, true)
	settle(recs)
	name := filepath.Join(t.TempDir(), "index")
	writeIndex(t, name, recs)
	f, err := Open(&fsx.FS{}, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if len(f.e.blocks) < 5 {
		t.Fatalf("only %d blocks", len(f.e.blocks))
	}
	return f, recs
}

func TestRecordsBelow(t *testing.T) {
	f, recs := manyRecords(t, 1)
	r := rand.New(rand.NewPCG(2, 15))
	for range 300 {
		root := randomPath(r)
		var want []Record
		for _, rec := range recs {
			if Within(rec.Path, root) {
				want = append(want, rec)
			}
		}
		got, err := collect(f, root)
		if err != nil {
			t.Fatal(err)
		}
		equalRecords(t, got, want)
	}
}

func TestTops(t *testing.T) {
	f, recs := manyRecords(t, 5)
	r := rand.New(rand.NewPCG(6, 15))
	several := 0
	for range 300 {
		root := randomPath(r)
		var want, got []Record
		for i, rec := range recs {
			above := func(o Record) bool { return o.Path != rec.Path && Within(rec.Path, o.Path) && Within(o.Path, root) }
			if Within(rec.Path, root) && !slices.ContainsFunc(recs[i:], above) {
				want = append(want, rec)
			}
		}
		err := f.Tops(root, func(r *Record, ordinal uint64) error {
			if ordinal != uint64(slices.IndexFunc(recs, func(o Record) bool { return o.Path == r.Path })) {
				t.Errorf("%s has ordinal %d", r.Path, ordinal)
			}
			got = append(got, r.Clone())
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		equalRecords(t, got, want)
		if len(want) > 1 {
			several++
		}
	}
	if several < 5 {
		t.Errorf("only %d roots had more than one record on top", several)
	}
}

func TestLookup(t *testing.T) {
	f, recs := manyRecords(t, 3)
	r := rand.New(rand.NewPCG(4, 15))
	for range 300 {
		i := r.IntN(len(recs))
		rec, ord, ok, err := f.Lookup(recs[i].Path)
		if err != nil || !ok || ord != uint64(i) {
			t.Fatalf("%q: %d, %v, %v", recs[i].Path, ord, ok, err)
		}
		equalRecords(t, []Record{rec}, recs[i:i+1])
		if _, _, ok, err := f.Lookup(recs[i].Path + "\x01no"); ok || err != nil {
			t.Fatalf("found what is not there: %v", err)
		}
	}
	for _, p := range []string{"/~", "/\xff\xff", "//", ""} {
		if _, _, ok, err := f.Lookup(p); ok || err != nil {
			t.Errorf("%q: %v, %v", p, ok, err)
		}
	}
}

func TestSkipTo(t *testing.T) {
	f, recs := manyRecords(t, 5)
	r := rand.New(rand.NewPCG(6, 15))
	it := f.Records("/")
	for range 2000 {
		to := r.IntN(len(recs) + 20)
		if r.IntN(2) == 0 {
			to = int(it.Ordinal()) + r.IntN(40) // not far
		}
		it.SkipTo(uint64(to))
		for i := to; i < to+r.IntN(4); i++ {
			if it.Next() != (i < len(recs)) {
				t.Fatalf("skipped to %d of %d: %v", i, len(recs), it.Err())
			}
			if i < len(recs) && (it.Record().Path != recs[i].Path || it.Ordinal() != uint64(i)) {
				t.Fatalf("skipped to %d, but got %d %q", i, it.Ordinal(), it.Record().Path)
			}
		}
	}
	// An iterator over a part never leaves it.
	it = f.Records("/a")
	it.SkipTo(0)
	if !it.Next() || !Within(it.Record().Path, "/a") {
		t.Error("SkipTo went out at the front")
	}
	it.SkipTo(uint64(len(recs) - 1))
	if it.Next() {
		t.Error("SkipTo went out at the back")
	}
}

// bupOrder sorts paths as bup lists them.
func bupOrder(recs []Record) []string {
	var p []string
	for _, r := range recs {
		if r.IsDir() && r.Path != "/" {
			p = append(p, r.Path+"/")
		} else {
			p = append(p, r.Path)
		}
	}
	slices.Sort(p)
	slices.Reverse(p)
	return p
}

func reversed(t *testing.T, f *File, root string) (recs []Record) {
	it := f.Reverse(root)
	for it.Next() {
		rec := it.Record().Clone()
		if len(recs)%50 == 0 {
			same, ord, _, err := f.Lookup(rec.Path)
			if err != nil || ord != it.Ordinal() {
				t.Fatalf("%s has ordinal %d, not %d (%v)", same.Path, ord, it.Ordinal(), err)
			}
		}
		recs = append(recs, rec)
	}
	if it.Err() != nil {
		t.Fatal(it.Err())
	}
	return recs
}

func TestReverse(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "a-c/x", "a.d/x", "a/x", "a/y/z", "a0", "a!", "b/c-/x", "b/c/x", "b/c0", "b-", "\xff/x", "\n")
	for i := range 3000 {
		mktree(t, src, "b/many/"+strings.Repeat("x", i%7)+string(rune('0'+i%10))+strings.Repeat("-", i/100)+".")
	}
	update(t, Options{File: name, Roots: []string{src + "/a", src + "/b", src + "/a-c", src + "/a.d", src + "/\xff"}})
	for range 2 {
		f := openIndex(t, name)
		for _, root := range []string{"/", src, src + "/a", src + "/b/c-", src + "/nothing", src + "/a/x"} {
			recs, err := collect(f, root)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range reversed(t, f, root) {
				got = append(got, r.Path+map[bool]string{true: "/"}[r.IsDir()])
			}
			if want := bupOrder(recs); !slices.Equal(got, want) {
				t.Errorf("%s:\n%q\nwant\n%q", root, got, want)
			}
		}
		update(t, Options{File: name, Roots: []string{src}}) // and with the directory above
	}
}

// TestBupListsSo compares with bup itself.
func TestBupListsSo(t *testing.T) {
	bup, err := exec.LookPath("bup")
	if err != nil {
		t.Skip("no bup here")
	}
	src, name := scratch(t)
	mktree(t, src, "a-c/x", "a.d/x", "a/x", "a/y/z", "a0", "a!", "b/c-/x", "b/c/x", "b/c0", "b-", "l -> a", "e/")
	update(t, Options{File: name, Roots: []string{src}})
	run := func(args ...string) string {
		cmd := exec.Command(bup, args...)
		cmd.Env = append(os.Environ(), "BUP_DIR="+filepath.Dir(src)+"/bup")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("bup %q: %v", args, err)
		}
		return string(out)
	}
	run("init")
	run("index", "-u", src)
	var lines []string
	for _, r := range reversed(t, openIndex(t, name), src) {
		lines = append(lines, string(r.Status())+" "+r.Path+map[bool]string{true: "/"}[r.IsDir()]+"\n")
	}
	if got, want := strings.Join(lines, ""), run("index", "-s", src); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
