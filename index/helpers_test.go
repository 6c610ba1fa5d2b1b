package index

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// contents returns clones of all records.
func contents(t testing.TB, f *File) []Record {
	t.Helper()
	recs, err := collect(f, "/")
	if err != nil {
		t.Fatal(err)
	}
	return recs
}

func collect(f *File, root string) ([]Record, error) {
	var recs []Record
	it := f.Records(root)
	for it.Next() {
		recs = append(recs, it.Record().Clone())
	}
	return recs, it.Err()
}

func equalRecords(t testing.TB, got, want []Record) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("record %d is\n%+v, want\n%+v", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
}

func paths(recs []Record) []string {
	names := make([]string, len(recs))
	for i := range recs {
		names[i] = recs[i].Path
	}
	return names
}

// update runs an update that must go well, at a time when nothing is racy.
func update(t testing.TB, o Options) Result {
	t.Helper()
	if o.Now == nil {
		o.Now = inAnHour
	}
	if o.FS == nil {
		o.FS = &fsx.FS{}
	}
	warn := o.Warn
	if warn == nil {
		o.Warn = func(path string, err error) { t.Errorf("%s: %v", path, err) }
	}
	res, err := Update(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

// open opens an index that must be sound.
func openIndex(t testing.TB, name string) *File {
	t.Helper()
	f, err := Open(&fsx.FS{}, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Check(); err != nil {
		t.Fatal(err)
	}
	return f
}
