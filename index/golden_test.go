package index

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// goldenRecords are those of the example in the package doc.
func goldenRecords(t testing.TB) []Record {
	id, err := pack.ParseID("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
	if err != nil {
		t.Fatal(err)
	}
	at := fsx.Time{Sec: 1700000000, Nsec: 250000000}
	return []Record{{
		Path: "/a/b", Flags: Exists | Valid, GitMode: 0o100644, ID: id, Chunker: "rabin:13",
		Stat: fsx.Stat{
			Dev: 2049, Ino: 12, Nlink: 1, Mode: 0o100644, Size: 5, Blocks: 8,
			Atime: at, Mtime: at, Ctime: at,
		},
	}, {
		Path: "/a/l", Flags: Exists, Target: "b",
		Stat: fsx.Stat{
			Dev: 2049, Ino: 13, Nlink: 1, Mode: 0o120777, Size: 1,
			Atime: fsx.Time{Sec: 1700000001, Nsec: 0}, Mtime: at, Ctime: at,
		},
	}, {
		Path: "/a", Flags: Exists, Below: 2,
		Stat: fsx.Stat{
			Dev: 2049, Ino: 11, Nlink: 2, Mode: 0o040755, Size: 4096, Blocks: 8,
			Atime: at, Mtime: at, Ctime: at,
		},
	}}
}

// writeIndex writes an index of its own, whatever lies below what.
func writeIndex(t testing.TB, name string, recs []Record) {
	t.Helper()
	w := &writer{fs: noSync(), name: name}
	for i := range recs {
		if err := w.append(&recs[i]); err != nil {
			t.Fatal(err)
		}
	}
	e, err := w.finish()
	if err != nil {
		t.Fatal(err)
	}
	e.file.Close()
}

// noSync is a file system that does not wait for the disk.
func noSync() *fsx.FS {
	return &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		if op.Kind == fsx.KindSync || op.Kind == fsx.KindSyncDir {
			return nil
		}
		return do()
	}}
}

var hexLine = regexp.MustCompile(`(?m)^//\t[0-9a-f]{4}  ((?: ?[0-9a-f]{2})+)(?:   |$)`)

// TestExample compares the bytes in the package doc with those of the code.
func TestExample(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for _, m := range hexLine.FindAllSubmatch(doc, -1) {
		b, err := hex.DecodeString(strings.ReplaceAll(string(m[1]), " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, b...)
	}
	name := filepath.Join(t.TempDir(), "index")
	writeIndex(t, name, goldenRecords(t))
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Fatalf("the example in the package doc is\n%s\nbut should be\n%s", hex.Dump(want), hex.Dump(got))
	}

	f, err := Open(&fsx.FS{}, name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Check(); err != nil {
		t.Error(err)
	}
	equalRecords(t, contents(t, f), goldenRecords(t))
}
