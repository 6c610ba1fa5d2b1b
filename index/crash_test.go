package index

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/crash"
)

// TestPowerCut cuts the power after every change that an update and a rewrite
// make, the first of all included: there is the index of before or the one of
// after, whole, and after the acknowledgement there is that of after.
func TestPowerCut(t *testing.T) {
	src, _ := scratch(t)
	mktree(t, src, "a", "b/c")
	root := filepath.Join(filepath.Dir(src), "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(root, "sub", "index")
	for round, work := range []func(fs *fsx.FS) error{
		func(fs *fsx.FS) error {
			_, err := Update(t.Context(), Options{FS: fs, File: name, Roots: []string{src}, Now: inAnHour})
			return err
		},
		func(fs *fsx.FS) error { return dropOne(fs, name, 1) },
		func(fs *fsx.FS) error {
			_, err := Update(t.Context(), Options{FS: fs, File: name, Roots: []string{src}, Now: inAnHour})
			return err
		},
	} {
		before, _ := os.ReadFile(name)
		if before != nil { // what a process that was killed left behind
			if err := os.WriteFile(tempName(name), make([]byte, 10_000), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		rec, err := crash.New(root)
		if err != nil {
			t.Fatal(err)
		}
		if err := work(&fsx.FS{Intercept: rec.Intercept}); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if string(before) == string(after) {
			t.Fatal("nothing was done")
		}
		acked := rec.Len()
		n, err := rec.Sweep(t.TempDir(), 8, func(cut crash.Cut, dir string) error {
			got, err := os.ReadFile(filepath.Join(dir, "sub", "index"))
			switch {
			case err != nil && before == nil && cut.K < acked:
				return nil
			case err != nil:
				return err
			case string(got) == string(after), cut.K < acked && before != nil && string(got) == string(before):
				return nil
			}
			return fmt.Errorf("an index of %d bytes", len(got))
		})
		if err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if n < 40 {
			t.Errorf("round %d: only %d states", round, n)
		}
	}
}
