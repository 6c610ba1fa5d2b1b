package index

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// TestModel makes random edits to a tree and compares the index after each with
// a plain list.
func TestModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testModel(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func testModel(t *testing.T, r *rand.Rand) {
	src, name := scratch(t)
	names := []string{"a", "b", "a-", "a b", "c\n", "\xff", "a.d", strings.Repeat("long", 60)}
	randomName := func() string {
		p := src
		for range 1 + r.IntN(4) {
			p += "/" + names[r.IntN(len(names))]
		}
		return p
	}
	model := map[string]Record{}
	for range 60 {
		for range r.IntN(12) {
			p := randomName()
			switch r.IntN(6) {
			case 0:
				os.RemoveAll(p)
			case 1:
				os.MkdirAll(p, 0o755)
			case 2:
				os.Symlink("target", p)
			case 3:
				os.Rename(p, randomName())
			case 4:
				os.Chmod(p, 0o600|os.FileMode(r.IntN(64)))
			default:
				os.MkdirAll(filepath.Dir(p), 0o755)
				os.WriteFile(p, make([]byte, r.IntN(100)), 0o644)
			}
		}
		roots := []string{src}
		for r.IntN(2) == 0 {
			roots = append(roots, randomName())
		}
		if len(roots) > 1 && r.IntN(2) == 0 {
			roots = roots[1:]
		}
		o := Options{FS: noSync(), File: name, Roots: roots, Warn: func(string, error) {}, Now: inAnHour}
		if _, err := Update(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		modelUpdate(t, model, roots)
		compareModel(t, name, model)
		if len(model) > 0 && r.IntN(3) == 0 {
			modelSave(t, r, name, model)
			compareModel(t, name, model)
		}
	}
}

// modelUpdate does to the list what Update does to the file.
func modelUpdate(t *testing.T, model map[string]Record, roots []string) {
	inRoot := func(p string) bool {
		return slices.ContainsFunc(roots, func(r string) bool { return Within(p, r) })
	}
	dirty := map[string]bool{} // something at or below is new, changed or gone
	mark := func(p string) {
		for ; !dirty[p]; p = filepath.Dir(p) {
			dirty[p] = true
		}
	}
	found := map[string]bool{}
	for _, root := range roots {
		filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			d, err := fsx.OpenDir(filepath.Dir(p))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			st, err := d.Lstat(filepath.Base(p))
			if err != nil {
				t.Fatal(err)
			}
			found[p] = true
			rec, ok := model[p]
			w := walk{updater: &updater{o: &Options{}}}
			if !ok || rec.Flags&Exists == 0 || w.changed(&rec.Stat, &st) {
				rec.Path, rec.Stat, rec.Flags, rec.Target = p, st, Exists, ""
				if st.Mode&modeType == modeSymlink {
					rec.Target = "target"
				}
				model[p] = rec
			}
			return nil
		})
	}
	for p, rec := range model {
		if inRoot(p) && !found[p] {
			rec.Flags = 0
			model[p] = rec
		}
		if rec.Flags&Valid == 0 {
			mark(p)
		}
	}
	for p, rec := range model {
		if dirty[p] {
			rec.Flags &^= Valid
			model[p] = rec
		}
	}
}

// modelSave saves some of the files, in the index and in the list, and all
// directories below which everything is saved.
func modelSave(t *testing.T, r *rand.Rand, name string, model map[string]Record) {
	f := exclusive(t, noSync(), name)
	defer f.Close()
	w := f.Rewrite()
	left := map[string]bool{} // not saved, or with something below that is not
	some := 1 + r.IntN(6)
	it := f.Records("/")
	for it.Next() {
		rec := it.Record().Clone()
		switch {
		case rec.Flags&Exists == 0 && r.IntN(some) > 0:
			if err := w.Drop(it.Ordinal()); err != nil {
				t.Fatal(err)
			}
			delete(model, rec.Path)
			continue
		case rec.Flags&Exists == 0 || left[rec.Path] || rec.Flags&Valid == 0 && r.IntN(some) == 0:
			for p := rec.Path; p != "/"; p = filepath.Dir(p) {
				left[p] = true
			}
			continue
		case rec.Flags&Valid != 0:
			continue
		}
		rec.Flags |= Valid
		rec.ID, rec.GitMode, rec.Chunker = pack.Sum(pack.Blob, []byte(rec.Path)), gitModeOf(rec.Stat.Mode), "rabin:13"
		if err := w.Set(it.Ordinal(), &rec); err != nil {
			t.Fatal(err)
		}
		model[rec.Path] = rec
	}
	if err := errors.Join(it.Err(), w.Commit()); err != nil {
		t.Fatal(err)
	}
}

func compareModel(t *testing.T, name string, model map[string]Record) {
	t.Helper()
	if _, err := os.Lstat(name); err != nil && len(model) == 0 {
		return // nothing was there, and nothing was written
	}
	var want []Record
	for _, rec := range model {
		rec.Stat.Atime, rec.Stat.Blocks = fsx.Time{}, 0
		want = append(want, rec)
	}
	slices.SortFunc(want, func(a, b Record) int { return Compare(a.Path, b.Path) })
	got := contents(t, openIndex(t, name))
	for i := range want {
		want[i].Below = 0
		for j := i - 1; j >= 0 && Within(want[j].Path, want[i].Path); j-- {
			want[i].Below++
		}
	}
	for i := range got { // looked at by the model at another time
		got[i].Stat.Atime, got[i].Stat.Blocks = fsx.Time{}, 0
		if i < len(want) && got[i].Stat.Nlink != want[i].Stat.Nlink {
			t.Errorf("%q has %d links", got[i].Path, got[i].Stat.Nlink)
		}
	}
	equalRecords(t, got, want)
}
