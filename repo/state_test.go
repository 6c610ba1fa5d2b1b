package repo_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// A snapshot of a directory shows what was there when its state was read, and
// refuses to be written to.
func TestSnapshot(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	if _, err := repo.InitDir(ctx, dir, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := repo.OpenDir(ctx, dir, repo.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	one := repotest.NewSave("one", 5)
	move := func(old pack.ID, s repotest.Save) {
		t.Helper()
		if err := repotest.Store(ctx, p, s); err != nil {
			t.Fatal(err)
		}
		if _, err := p.SetRef(ctx, repo.Move{Ref: "refs/heads/x", Old: old, New: s.Commit}); err != nil {
			t.Fatal(err)
		}
	}
	move(pack.ID{}, one)
	d := repo.NewDir(new(fsx.FS), dir)
	state, err := d.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	move(one.Commit, repotest.NewSave("two", 5, one.Commit))

	snap, err := repo.OpenSnapshot(ctx, d, state)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	refs, err := snap.Refs(ctx, "refs/heads/")
	if err != nil || !slices.Equal(refs, []repo.Ref{{Name: "refs/heads/x", ID: one.Commit}}) {
		t.Fatalf("refs of the snapshot: %v, %v", refs, err)
	}
	if none, _ := snap.Refs(ctx, "refs/tags/"); len(none) > 0 {
		t.Errorf("tags that are none: %v", none)
	}
	if err := repotest.Check(ctx, snap, append(one.Blobs, one.Tree, one.Commit)); err != nil {
		t.Error(err)
	}
	if missing, err := snap.Missing(ctx, nil, []pack.ID{one.Commit}); err != nil || len(missing) > 0 {
		t.Errorf("the save is missing: %v", err)
	}
	n := 0
	if err := snap.Receipts(ctx, func(repo.Receipt) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("%d receipts, %v", n, err)
	}
	if _, err := snap.Begin(ctx); !errors.Is(err, repo.ErrReadOnly) {
		t.Errorf("Begin: %v", err)
	}
	if _, err := snap.SetRef(ctx, repo.Move{Ref: "refs/heads/y", New: one.Commit}); !errors.Is(err, repo.ErrReadOnly) {
		t.Errorf("SetRef: %v", err)
	}
	if state.Head == "" || snap.Config().ID == "" {
		t.Errorf("head %q, id %q", state.Head, snap.Config().ID)
	}
}
