package s3sync

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
)

func testUpload(key string) *openUpload {
	return &openUpload{key: key, size: 50, sum: SumOf([]byte(key)), partSize: 20, id: key + ", 100% odd\n"}
}

// The id of an upload is on the disk before begin returns, and a part needs no sync.
func TestJournalOrder(t *testing.T) {
	dir := t.TempDir()
	trace := fault.Trace{Match: fault.Mutates}
	j, err := openJournal(&fsx.FS{Intercept: trace.Intercept}, dir, "store", "p/", "id")
	if err != nil {
		t.Fatal(err)
	}
	u := testUpload("k")
	for _, err := range []error{
		j.start(), j.start(), j.begin(u), j.part(u, Part{N: 2, Size: 20, Tag: `"t"`}), j.end(u), j.close(true),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Base(j.name)
	head, begin := len(j.head), len("begin k 50 ")+64+len(" 20 k,%20100%25%20odd%0A\n")
	part := len("part k,%20100%25%20odd%0A 2 20 ") + 64 + len(" \"t\"\n")
	want := []string{
		"lock " + name + ".lock", "create " + name, "truncate " + name + " 0",
		fmt.Sprintf("write %s 0+%d", name, head), "sync " + name, "syncdir .",
		fmt.Sprintf("write %s %d+%d", name, head, begin), "sync " + name,
		fmt.Sprintf("write %s %d+%d", name, head+begin, part),
		fmt.Sprintf("write %s %d+%d", name, head+begin+part, len("end k,%20100%25%20odd%0A\n")),
		"remove " + name,
	}
	if got := trace.Lines(dir); !slices.Equal(got, want) {
		t.Errorf("the order is\n%q, not\n%q", got, want)
	}
}

// What a run noted the next one finds, whatever of the end was lost; nobody else has it
// meanwhile.
func TestJournalReopen(t *testing.T) {
	dir := t.TempDir()
	unsynced := &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		if op.Kind == fsx.KindSync || op.Kind == fsx.KindSyncDir {
			return nil // hundreds of them, and nobody pulls the plug
		}
		return do()
	}}
	open := func() *journal {
		t.Helper()
		j, err := openJournal(unsynced, dir, "store", "p/", "id")
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	check := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	j := open()
	if j.cut {
		t.Error("a run that never was was cut short")
	}
	if _, err := openJournal(new(fsx.FS), dir, "store", "p/", "id"); !errors.Is(err, fsx.ErrLocked) {
		t.Errorf("a second run: %v", err)
	}
	other, err := openJournal(new(fsx.FS), dir, "store", "q/", "id")
	check(err, other.close(true))
	a, b := testUpload("a"), testUpload("b")
	check(j.start(), j.begin(a), j.begin(b), j.part(b, Part{1, 20, SumOf(nil), "x y"}), j.end(a), j.close(false))
	text, err := os.ReadFile(j.name)
	check(err)
	whole := map[int]bool{}
	for n := range len(text) + 1 {
		check(os.WriteFile(j.name, append(text[:n:n], "\x00\x00junk"...), 0o600))
		j := open()
		if !j.cut {
			t.Fatal("the journal is there, and the run was not cut short")
		}
		left := j.pending()
		whole[len(left)] = true
		if n == len(text) && (len(left) != 1 || left[0].key != "b" || left[0].id != b.id || left[0].sum != b.sum || j.noted(left[0])[1].Tag != "x y") {
			t.Errorf("%+v", left)
		}
		// What was cut is cut off before anything is written.
		check(j.start(), j.begin(testUpload("c")), j.close(false))
		j = open()
		if c := j.of("c"); len(c) != 1 {
			t.Fatalf("cut to %d bytes and written on, it reads %v", n, j.pending())
		}
		check(j.start())
		for _, u := range j.pending() {
			check(j.end(u))
		}
		check(j.close(true))
		if _, err := os.Stat(j.name); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("it is still there: %v", err)
		}
	}
	if !whole[0] || !whole[1] || !whole[2] {
		t.Errorf("numbers of open uploads seen: %v", whole)
	}
}

func FuzzJournal(f *testing.F) {
	const head = journalHead + "for s p/ id\n"
	f.Add([]byte(head + "begin k 50 " + SumOf(nil).String() + " 20 id\npart id 1 20 " + SumOf(nil).String() + " tag\nend id\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		open, n := parseJournal(text, head)
		if n < 0 || n > int64(len(text)) || n > 0 && !bytes.HasSuffix(text[:n], []byte("\n")) {
			t.Fatalf("%d of %d bytes count", n, len(text))
		}
		again, m := parseJournal(text[:n], head)
		if m != n || len(again) != len(open) {
			t.Errorf("what counts does not count alone: %d, %d", m, len(again))
		}
		for id, u := range open {
			w, err := unword(word(id))
			if err != nil || w != id || u.id != id || u.size < 0 || u.partSize <= 0 {
				t.Errorf("%+v", u)
			}
		}
	})
}
