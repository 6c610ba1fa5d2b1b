package repotest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

func newDepot(t *testing.T) *repotest.Depot {
	t.Helper()
	d, err := repotest.NewDepot(repo.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func atDesk(t *testing.T, d *repotest.Depot, dir string) *repo.Packs {
	t.Helper()
	p, err := repo.OpenDepot(context.Background(), dir, d, repo.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// A repository in a depot is a repository.
func TestDepot(t *testing.T) {
	repotest.Run(t, func(t *testing.T) repo.Repo { return atDesk(t, newDepot(t), t.TempDir()) })
}

func tip(t *testing.T, r repo.Repo, ref string) (id pack.ID) {
	t.Helper()
	refs, err := r.Refs(context.Background(), ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range refs {
		if at.Name == ref {
			id = at.ID
		}
	}
	return id
}

// check reads all saves of a ref from a desk of its own, and counts them.
func count(t *testing.T, d *repotest.Depot, ref string) int {
	t.Helper()
	p := atDesk(t, d, t.TempDir())
	n := 0
	err := repo.WalkCommits(context.Background(), p, tip(t, p, ref), func(id pack.ID, c *repo.Commit) error {
		n++
		var ids []pack.ID
		err := repo.ReadDir(context.Background(), p, c.Tree, func(item *repo.DirItem) error {
			ids = append(ids, item.ID)
			return nil
		})
		if err == nil {
			err = repotest.Check(context.Background(), p, append(ids, id, c.Tree))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A change that changes nothing is none, and no failure: the second night allows the same names
// and pins the same save.
func TestDepotAgain(t *testing.T) {
	ctx := context.Background()
	d := newDepot(t)
	for range 2 {
		p := atDesk(t, d, t.TempDir())
		if err := p.AllowNames(ctx, []string{".git"}); err != nil {
			t.Fatal(err)
		}
		if err := p.SetPins(ctx, func(list []repo.Pin) ([]repo.Pin, error) { return list, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if d.States() != 1 {
		t.Errorf("%d states", d.States())
	}
}

// Savers at desks of their own put their saves on one ref: none is lost.
func TestDepotSavers(t *testing.T) {
	ctx := context.Background()
	d := newDepot(t)
	const savers, saves = 4, 5
	var wg sync.WaitGroup
	for i := range savers {
		p := atDesk(t, d, t.TempDir())
		wg.Go(func() {
			for n := range saves {
				s := repotest.NewSave(fmt.Sprint(i, " ", n), 20)
				err := repotest.Store(ctx, p, s)
				if err == nil {
					_, err = p.SetRef(ctx, repo.Move{Ref: "refs/heads/etc", New: s.Commit, Reparent: true})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := count(t, d, "refs/heads/etc"); n != savers*saves {
		t.Errorf("%d saves, want %d", n, savers*saves)
	}
	var receipts int
	p := atDesk(t, d, t.TempDir())
	if err := p.Receipts(ctx, func(repo.Receipt) error { receipts++; return nil }); err != nil || receipts != savers*saves {
		t.Errorf("%d receipts, %v", receipts, err)
	}
}

// A save that fails at any step is completed by the next run, from the same desk, or from
// another one where the first was lost.
func TestDepotFails(t *testing.T) {
	ctx := context.Background()
	fail := errors.New("the line is cut")
	for _, lose := range []bool{false, true} {
		for k := 0; ; k++ {
			d := newDepot(t)
			desk := t.TempDir()
			steps := 0
			d.Before = func(string) error {
				if steps++; steps == k+1 {
					return fail
				}
				return nil
			}
			save := func() error {
				p := atDesk(t, d, desk)
				defer p.Close()
				for _, seed := range []string{"one", "two"} {
					s := repotest.NewSave(seed, 30)
					if err := repotest.Store(ctx, p, s); err != nil {
						return err
					}
					if _, err := p.SetRef(ctx, repo.Move{Ref: "refs/heads/" + seed, New: s.Commit}); err != nil {
						return err
					}
				}
				return nil
			}
			first := save()
			d.Before = nil
			if lose {
				desk = t.TempDir()
			}
			if err := save(); err != nil {
				t.Fatalf("lose %v, after step %d failed: %v", lose, k, err)
			}
			for _, seed := range []string{"one", "two"} {
				if n := count(t, d, "refs/heads/"+seed); n != 1 {
					t.Errorf("after step %d failed: %d saves of %s", k, n, seed)
				}
			}
			if first == nil {
				if k < 4 {
					t.Errorf("only %d steps", k)
				}
				break
			}
		}
	}
}
