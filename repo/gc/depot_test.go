package gc_test

import (
	"context"
	"errors"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/gc"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// In a depot nobody knows of the sessions at other desks. What a save rests on and what gc
// drops meet when the next state is made.
func TestDepot(t *testing.T) {
	ctx := context.Background()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := repotest.NewDepot(repo.InitOptions{})
	check(err)
	open := func() *repo.Packs {
		t.Helper()
		p, err := repo.OpenDepot(ctx, t.TempDir(), d, repo.DirOptions{})
		check(err)
		t.Cleanup(func() { p.Close() })
		return p
	}
	const ref = "refs/heads/etc"
	set := func(p *repo.Packs, name string, old, id pack.ID) error {
		_, err := p.SetRef(ctx, repo.Move{Ref: name, Old: old, New: id})
		return err
	}
	old, kept := repotest.NewSave("old", 40), repotest.NewSave("kept", 40)
	p := open()
	check(repotest.Store(ctx, p, old, kept))
	check(set(p, ref, pack.ID{}, old.Commit))
	check(set(p, "refs/heads/kept", pack.ID{}, kept.Commit))

	// A saver finds that all of the old save is there. Then its ref goes, and garbage is
	// collected at another desk.
	saver := open()
	lacks, err := saver.Missing(ctx, nil, []pack.ID{old.Commit})
	check(err)
	if len(lacks) > 0 {
		t.Fatal("it is missing at first")
	}
	keeper := open()
	check(set(keeper, ref, old.Commit, pack.ID{}))
	r, err := gc.Run(ctx, keeper, gc.Options{Yes: true})
	check(err)
	if r.Retired == 0 {
		t.Fatalf("nothing was retired: %+v", r)
	}
	err = set(saver, "refs/heads/again", pack.ID{}, old.Commit)
	if !errors.As(err, new(*repo.MissingError)) {
		t.Fatalf("a ref was moved to what is gone: %v", err)
	}
	check(repotest.Store(ctx, saver, old)) // run again
	check(set(saver, "refs/heads/again", pack.ID{}, old.Commit))
	for _, s := range []repotest.Save{old, kept} {
		check(repotest.Check(ctx, open(), s.IDs()))
	}

	// Who saves while garbage is looked for is not overrun.
	check(set(saver, "refs/heads/again", old.Commit, pack.ID{}))
	keeper = open()
	d.Before = func(step string) error {
		d.Before = nil
		return set(saver, "refs/heads/late", pack.ID{}, kept.Commit)
	}
	if _, err := gc.Run(ctx, keeper, gc.Options{Yes: true}); !errors.As(err, new(*repo.BusyError)) {
		t.Fatalf("garbage was collected on what was decided before: %v", err)
	}
	_, err = gc.Run(ctx, open(), gc.Options{Yes: true})
	check(err)
	check(repotest.Check(ctx, open(), kept.IDs()))
}
