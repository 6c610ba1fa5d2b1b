package s3sync

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
	"github.com/kedgebackup/kedge/pack"
)

func testNamed(i int) File {
	sum := SumOf(fmt.Append(nil, i))
	return File{
		Name: fmt.Sprintf("objects/pack/pack-%d, odd.pack", i), Size: int64(i), SHA256: sum, Key: fmt.Sprintf("data/%032x", i),
		Cipher: Stored{int64(i) + 200, SumOf(sum[:])},
	}
}

// What a file will be is on the disk before it is sent, and so is what a manifest seals.
func TestNamesOrder(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(new(fsx.FS), dir, "store", "p/", "id")
	if err != nil {
		t.Fatal(err)
	}
	trace := fault.Trace{Match: fault.Mutates}
	j.fs = &fsx.FS{Intercept: trace.Intercept}
	n, err := openNames(j, "id")
	if err != nil {
		t.Fatal(err)
	}
	f, segment := testNamed(1), segmentPacks{7, []pack.ID{{}}}
	for _, err := range []error{n.noteSegment("kedge/segments/x", &segment), n.note(f), n.noteGeneration(Sum{1}, Sum{2})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	name, head := filepath.Base(n.name), len(n.head)
	one, two := len(packsLine("kedge/segments/x", &segment)), len(fileLine(&f))
	want := []string{
		"create " + name, "truncate " + name + " 0", fmt.Sprintf("write %s 0+%d", name, head), "sync " + name, "syncdir .",
		fmt.Sprintf("write %s %d+%d", name, head, one),
		fmt.Sprintf("write %s %d+%d", name, head+one, two), "sync " + name,
		fmt.Sprintf("write %s %d+%d", name, head+one+two, len("generation  \n")+128), "sync " + name,
	}
	if got := trace.Lines(dir); !slices.Equal(got, want) {
		t.Errorf("the order is\n%q, not\n%q", got, want)
	}
}

// What was noted is there again, also after the file was written anew, and of what is cut off
// nothing is taken.
func TestNamesReopen(t *testing.T) {
	j, err := openJournal(new(fsx.FS), t.TempDir(), "store", "p/", "id")
	if err != nil {
		t.Fatal(err)
	}
	open := func() *names {
		t.Helper()
		n, err := openNames(j, "id")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := open()
	var all []File
	for i := range 200 {
		f := testNamed(i)
		all = append(all, f)
		if err := n.note(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.noteGeneration(Sum{3}, Sum{4}); err != nil {
		t.Fatal(err)
	}
	n = open()
	if !maps.Equal(n.byKey, fileMap(all)) || n.refs[Sum{3}] != (Sum{4}) {
		t.Errorf("%d files, refs %v", len(n.byKey), n.refs)
	}
	n.tip = Sum{3}
	if err := n.keep(all[:20], all[10:30]); err != nil {
		t.Fatal(err)
	}
	n = open()
	if !maps.Equal(n.byKey, fileMap(all[:30])) || n.refs[Sum{3}] != (Sum{4}) {
		t.Errorf("written anew: %d files, refs %v", len(n.byKey), n.refs)
	}
	if err := n.fs.Replace(n.name, []byte(n.head+fileLine(&all[0])+"file data/x torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	n = open()
	if err := n.note(all[1]); err != nil {
		t.Fatal(err)
	}
	if n = open(); !maps.Equal(n.byKey, fileMap(all[:2])) {
		t.Errorf("after a torn line: %v", n.byKey)
	}
}

func fileMap(list []File) map[string]File {
	m := make(map[string]File)
	for _, f := range list {
		m[f.Key] = f
	}
	return m
}

// No line makes names panic, and one that is taken is written as it was read.
func FuzzNames(f *testing.F) {
	x := testNamed(5)
	f.Add(fileLine(&x))
	f.Add(packsLine("kedge/segments/x", &segmentPacks{7, []pack.ID{{}}}))
	f.Add("generation " + Sum{1}.String() + " " + Sum{2}.String() + "\n")
	f.Fuzz(func(t *testing.T, line string) {
		var n names
		n.clear()
		n.takeText([]byte(line))
		for _, x := range n.byKey {
			var again names
			again.clear()
			if again.takeText([]byte(fileLine(&x))); again.byKey[x.Key] != x {
				t.Errorf("%+v came back as %+v", x, again.byKey[x.Key])
			}
		}
	})
}
