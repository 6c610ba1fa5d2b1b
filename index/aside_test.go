package index

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/crash"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
	"github.com/kedgebackup/kedge/pack"
)

// twoTrees makes the directories a and b and an index of both, with few records
// to a block so that an update of one passes over blocks of the other unread.
func twoTrees(t *testing.T) (src, name string, file []byte) {
	t.Helper()
	src, name = scratch(t)
	mktree(t, src, "a/1", "a/2", "a/3", "a/4", "b/1", "b/2", "b/3", "b/4")
	update(t, Options{FS: noSync(), File: name, Roots: []string{src + "/a", src + "/b"}})
	recs := contents(t, openIndex(t, name))
	w := &writer{fs: noSync(), name: name}
	for i := range recs {
		if err := w.append(&recs[i]); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			if err := w.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	e, err := w.finish()
	if err != nil {
		t.Fatal(err)
	}
	e.file.Close()
	return src, name, mustRead(t, name)
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustWrite(t *testing.T, name string, b []byte) {
	t.Helper()
	os.Remove(name)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSetAside: wherever an index is damaged, in what an update reads and in what
// it passes over, it is put aside and made anew; without SetAside it is left alone.
func TestSetAside(t *testing.T) {
	src, name, file := twoTrees(t)
	o := Options{FS: noSync(), File: name, Roots: []string{src + "/a"}}
	for i := range file {
		damaged := slices.Clone(file)
		damaged[i] ^= 0x20
		mustWrite(t, name, damaged)
		o.SetAside = nil
		var corrupt *pack.CorruptError
		if _, err := Update(t.Context(), o); !errors.As(err, &corrupt) || corrupt.File != name {
			t.Fatalf("byte %d: %v", i, err)
		}
		if string(mustRead(t, name)) != string(damaged) {
			t.Fatalf("byte %d: the index was changed", i)
		}
		var said []error
		o.SetAside = func(err error) { said = append(said, err) }
		if res := update(t, o); res.New != 5 || res.Paths != 5 || res.Errors != 0 {
			t.Fatalf("byte %d: %+v", i, res)
		}
		if len(said) != 1 || !errors.As(said[0], &corrupt) {
			t.Fatalf("byte %d: told of %v", i, said)
		}
		if string(mustRead(t, DamagedName(name))) != string(damaged) {
			t.Fatalf("byte %d: something else was set aside", i)
		}
		wantLines(t, "made anew", statuses(t, name, src), "A ./a/1", "A ./a/2", "A ./a/3", "A ./a/4", "A ./a")
	}
	said := 0
	o.SetAside = func(error) { said++ }
	if update(t, o); said > 0 {
		t.Error("a sound index was set aside")
	}
	if err := Clear(noSync(), name, 0); err != nil {
		t.Fatal(err)
	}
	if list, _ := filepath.Glob(name + "*"); !slices.Equal(list, []string{lockName(name)}) {
		t.Errorf("Clear leaves %v", list)
	}
}

// TestNewerVersion: an index that a newer program wrote is no damage, and stays.
func TestNewerVersion(t *testing.T) {
	src, name, file := twoTrees(t)
	file = append([]byte(magic+"\x02\x00\x00\x00"), file[headerSize:]...)
	file = append(file, make([]byte, 40)...) // who knows what its trailer is like
	mustWrite(t, name, file)
	var newer *VersionError
	_, err := Update(t.Context(), Options{FS: noSync(), File: name, Roots: []string{src}, SetAside: func(err error) { t.Error("set aside:", err) }})
	if !errors.As(err, &newer) || newer.Version != 2 || newer.File != name {
		t.Error(err)
	}
	if _, err := Open(noSync(), name); !errors.As(err, &newer) {
		t.Error(err)
	}
	if string(mustRead(t, name)) != string(file) {
		t.Error("it was changed")
	}
}

// TestSetAsideFaults lets every operation fail: what was there before is there
// under one of its names, or the new index is; and the next update succeeds.
func TestSetAsideFaults(t *testing.T) {
	src, name, file := twoTrees(t)
	file[len(file)-40] ^= 1
	o := Options{File: name, Roots: []string{src}, Now: inAnHour, SetAside: func(error) {}}
	for _, plan := range []fault.Plan{{}, {After: true}, {Forever: true}, {Short: true}} {
		runs := 0
		plan.Sweep(func(fail *fault.Fail) {
			runs++
			os.Remove(DamagedName(name))
			mustWrite(t, name, file)
			o.FS = &fsx.FS{Intercept: fail.Intercept}
			_, err := Update(t.Context(), o)
			f, openErr := Open(noSync(), name)
			if openErr == nil {
				f.Close()
			}
			aside, _ := os.ReadFile(DamagedName(name))
			switch {
			case err == nil && openErr != nil:
				t.Fatalf("operation %d: no error, and the index: %v", runs, openErr)
			case openErr != nil && string(aside) != string(file) && string(mustRead(t, name)) != string(file):
				t.Fatalf("operation %d: %v, and the damaged index is gone", runs, err)
			}
			o.FS = noSync()
			update(t, o)
			if n := len(statuses(t, name, src)); n != 11 {
				t.Fatalf("operation %d: the next update has %d paths", runs, n)
			}
		})
		if runs < 12 {
			t.Errorf("only %d operations", runs)
		}
	}
}

// TestSetAsidePowerCut: after a power cut there is the damaged index under one of
// its names, or the new one; once Update has returned, the new one.
func TestSetAsidePowerCut(t *testing.T) {
	src, name, file := twoTrees(t)
	file[100] ^= 1
	mustWrite(t, name, file)
	rec, err := crash.New(filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	update(t, Options{FS: &fsx.FS{Intercept: rec.Intercept}, File: name, Roots: []string{src}, SetAside: func(error) {}})
	after, acked := mustRead(t, name), rec.Len()
	n, err := rec.Sweep(t.TempDir(), 8, func(cut crash.Cut, dir string) error {
		got, _ := os.ReadFile(filepath.Join(dir, "index"))
		aside, _ := os.ReadFile(filepath.Join(dir, "index.damaged"))
		switch {
		case string(got) == string(after):
		case cut.K < acked && string(got) == string(file):
		case cut.K < acked && got == nil && string(aside) == string(file):
		default:
			return fmt.Errorf("an index of %d bytes, and one of %d set aside", len(got), len(aside))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n < 40 {
		t.Errorf("only %d states", n)
	}
}
