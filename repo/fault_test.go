package repo

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
	"github.com/kedgebackup/kedge/pack"
)

// copyTree copies a repository for one run of a sweep. kedge/reflock and what
// is linked to it are not linked in the copy, so there must be no such links.
func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "r.git")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// sweep lets operation 1, 2, … of a save on top of an older one fail in one
// way. Whatever happens: what was promised is there, refs are whole, and the
// same command succeeds when the disk works again (I1, I2, I4, I5).
func sweep(t *testing.T, plan fault.Plan) {
	ctx := context.Background()
	p, origin := newRepo(t, InitOptions{})
	base := makeSave("base", 3)
	if _, err := base.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	p.Close()
	next := makeSave("next", 20, base.commit)
	failed, k := 0, 1
	for ; ; k++ {
		dir := copyTree(t, origin)
		f := plan.At(k)
		err := func() error {
			p, err := OpenDir(ctx, dir, DirOptions{FS: &fsx.FS{Intercept: f.Intercept}})
			if err != nil {
				return err
			}
			defer p.Close()
			_, err = next.save(ctx, p)
			return err
		}()
		if err != nil {
			failed++
		}
		if err != nil && !f.Fired() {
			t.Fatal("without a failure:", err)
		}
		// What the process would have held is free when it is gone; here it
		// lives on, and so does a lock that a failed close left behind.
		promised := []pack.ID{base.tree}
		if err == nil {
			promised = append(promised, next.tree)
		}
		if bad := checkState(ctx, dir, promised, []saved{next}); bad != nil {
			t.Fatalf("operation %d (%v %s) failed, the save said %v; then: %v", k, f.Op().Kind, f.Op().Path, err, bad)
		}
		os.RemoveAll(filepath.Dir(dir))
		if !f.Fired() {
			break
		}
	}
	t.Logf("%d operations, %d runs failed", k-1, failed)
	if failed == 0 {
		t.Fatal("no failure was noticed")
	}
}

func TestFailingDisk(t *testing.T) {
	for _, test := range []struct {
		name string
		plan fault.Plan
	}{
		{"error", fault.Plan{Err: syscall.EIO}},
		{"error for ever", fault.Plan{Err: syscall.EIO, Forever: true, Match: fault.Mutates}},
		{"error for ever when reading", fault.Plan{Err: syscall.EIO, Forever: true, Match: fault.Only(fsx.KindRead)}},
		{"full disk, short writes", fault.Plan{Err: syscall.ENOSPC, Short: true, Match: fault.Mutates}},
		{"done, but denied", fault.Plan{Err: syscall.EIO, After: true, Match: fault.Mutates}},
		{"sync that loses data", fault.Plan{Err: syscall.EIO, Drop: true, Match: fault.Only(fsx.KindSync)}},
		{"out of files", fault.Plan{Err: syscall.EMFILE, Match: fault.Only(fsx.KindOpen, fsx.KindCreate, fsx.KindLock)}},
	} {
		t.Run(test.name, func(t *testing.T) { sweep(t, test.plan) })
	}
}
