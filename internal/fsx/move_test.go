package fsx

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestMoveTo(t *testing.T) {
	for _, old := range []bool{false, true} {
		root := t.TempDir()
		for _, dir := range []string{"a/tree/deep", "b/taken"} {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		a, err := OpenDir(filepath.Join(root, "a"))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		a.kern.old = old
		b, err := OpenDir(filepath.Join(root, "b"))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := a.MoveTo("tree", b, "taken"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("old %v: over a name that is taken: %v", old, err)
		}
		for _, bad := range []string{"", ".", "..", "x/y"} {
			if a.MoveTo(bad, b, "x") == nil || a.MoveTo("tree", b, bad) == nil {
				t.Errorf("old %v: %q is taken for a name", old, bad)
			}
		}
		if err := a.MoveTo("tree", b, "moved"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, "b/moved/deep")); err != nil {
			t.Error(err)
		}
		if err := a.MoveTo("tree", b, "again"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("old %v: what is gone: %v", old, err)
		}
	}
}
