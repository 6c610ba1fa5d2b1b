package repotest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// at returns where a ref is, zero if there is none.
func at(t *testing.T, r repo.Repo, name string) pack.ID {
	t.Helper()
	refs, err := r.Refs(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs {
		if ref.Name == name {
			return ref.ID
		}
	}
	return pack.ID{}
}

// commitOf reads a commit.
func commitOf(t *testing.T, r repo.Repo, id pack.ID) (c repo.Commit) {
	t.Helper()
	err := r.Get(context.Background(), []pack.ID{id}, func(_ int, _ pack.Type, body []byte) error {
		var err error
		c, err = repo.ParseCommit(body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testRefs(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	s := NewSave("a", 3)
	store(t, r, s)
	names := []string{"refs/heads/a", "refs/heads/a-b", "refs/heads/b/c", "refs/heads/ü", "refs/tags/a"}
	for _, i := range []int{3, 0, 4, 2, 1} {
		if _, err := r.SetRef(ctx, repo.Move{Ref: names[i], New: s.Commit}); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string][]string{
		"":             names,
		"refs/":        names,
		"refs/heads/":  names[:4],
		"refs/heads/a": names[:2],
		"refs/heads/b": names[2:3],
		"refs/tags/a":  names[4:],
		"refs/tags/ab": nil,
		"x":            nil,
	} {
		var got []string
		refs, err := r.Refs(ctx, prefix)
		for _, ref := range refs {
			got = append(got, ref.Name)
			if ref.ID != s.Commit {
				t.Errorf("%s is at %v", ref.Name, ref.ID)
			}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("Refs(%q) = %q, %v; want %q", prefix, got, err, want)
		}
	}
	for _, name := range []string{"", "HEAD", "refs/heads", "refs/heads/", "refs/heads/../x", "refs/heads/.x", "refs/heads/x.lock",
		"refs/heads/x/", "refs/heads//x", "refs/heads/a b", "refs/heads/a~1", "refs/heads/a\n", "refs/heads/@{", "/etc/passwd", "refs/../../x"} {
		if _, err := r.SetRef(ctx, repo.Move{Ref: name, New: s.Commit}); err == nil {
			t.Errorf("%q was accepted as the name of a ref", name)
		}
	}
	for _, name := range []string{"refs/heads/a/b", "refs/heads/b"} {
		if _, err := r.SetRef(ctx, repo.Move{Ref: name, New: s.Commit}); err == nil {
			t.Errorf("%s was made although git could not hold it beside the others", name)
		}
	}
}

func testMoves(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	a, b := NewSave("a", 3), NewSave("b", 3)
	store(t, r, a, b)
	const name = "refs/heads/x"
	move := func(old, next, want pack.ID, changed bool) {
		t.Helper()
		got, err := r.SetRef(ctx, repo.Move{Ref: name, Old: old, New: next})
		var c *repo.RefChangedError
		switch {
		case changed && (!errors.As(err, &c) || c.Ref != name || c.Want != old || c.Got != want):
			t.Fatalf("SetRef: %v; want a RefChangedError with %v", err, want)
		case !changed && (err != nil || got != want):
			t.Fatalf("SetRef: %v, %v; want %v", got, err, want)
		}
		if now := at(t, r, name); now != want {
			t.Fatalf("the ref is at %v and not at %v", now, want)
		}
	}
	var none pack.ID
	move(a.Commit, b.Commit, none, true) // there is no ref to move
	move(none, a.Commit, a.Commit, false)
	move(none, a.Commit, a.Commit, false) // again: done already
	move(none, b.Commit, a.Commit, true)
	move(b.Commit, a.Commit, a.Commit, false) // wrong old, but done already
	move(a.Commit, b.Commit, b.Commit, false)
	move(a.Commit, none, b.Commit, true)
	move(b.Commit, none, none, false)
	move(b.Commit, none, none, false)
	lost := pack.Sum(pack.Commit, []byte("lost"))
	if _, err := r.SetRef(ctx, repo.Move{Ref: name, New: lost}); !errors.As(err, new(*repo.MissingError)) {
		t.Fatal("moved to an object that is not there:", err)
	}
	// A tag may lead to anything, a branch to commits only.
	const tag = "refs/tags/x"
	for _, id := range []pack.ID{b.Tree, b.Data[0].ID, b.Commit} {
		if _, err := r.SetRef(ctx, repo.Move{Ref: tag, Old: at(t, r, tag), New: id}); err != nil || at(t, r, tag) != id {
			t.Fatalf("a tag of %v: %v", id, err)
		}
		if _, err := r.SetRef(ctx, repo.Move{Ref: name, New: id}); (err == nil) != (id == b.Commit) {
			t.Fatalf("a branch of %v: %v", id, err)
		}
	}
	// A server that was asked for something wrong goes on.
	move(b.Commit, a.Commit, a.Commit, false)
}

func testReparent(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	const name = "refs/heads/x"
	a := NewSave("a", 3)
	b, c := NewSave("b", 3, a.Commit), NewSave("c", 3, a.Commit)
	store(t, r, a, b, c)
	set := func(m repo.Move) pack.ID {
		t.Helper()
		m.Ref, m.Reparent = name, true
		id, err := r.SetRef(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		if now := at(t, r, name); now != id {
			t.Fatalf("SetRef says %v, the ref is at %v", id, now)
		}
		return id
	}
	if id := set(repo.Move{New: a.Commit}); id != a.Commit {
		t.Fatal("first save:", id)
	}
	if id := set(repo.Move{Old: a.Commit, New: b.Commit}); id != b.Commit {
		t.Fatal("second save:", id)
	}
	onTop := set(repo.Move{Old: a.Commit, New: c.Commit})
	if got, want := commitOf(t, r, onTop), commitOf(t, r, c.Commit); !slices.Equal(got.Parents, []pack.ID{b.Commit}) ||
		got.Tree != want.Tree || !got.Author.When.Equal(want.Author.When) || got.Message != want.Message {
		t.Fatalf("%+v is no copy of %+v on top of %v", got, want, b.Commit)
	}
	// The same commands again: their saves are there.
	if id := set(repo.Move{Old: a.Commit, New: c.Commit}); id != onTop {
		t.Fatal("a save that is there was put on top again")
	}
	if id := set(repo.Move{Old: a.Commit, New: b.Commit}); id != onTop {
		t.Fatal("a save that is there was put on top again")
	}
	// The name was deleted: a new history begins.
	if _, err := r.SetRef(ctx, repo.Move{Ref: name, Old: onTop}); err != nil {
		t.Fatal(err)
	}
	d := NewSave("d", 3, onTop)
	store(t, r, d)
	if got := commitOf(t, r, set(repo.Move{Old: onTop, New: d.Commit})); len(got.Parents) != 0 || got.Tree != d.Tree {
		t.Fatalf("%+v does not begin a new history", got)
	}
	if _, err := r.SetRef(ctx, repo.Move{Ref: name, New: d.Tree, Reparent: true}); err == nil {
		t.Fatal("a tree was taken for a save")
	}
}

// testSavers lets many save under one name: all saves must be in its history.
func testSavers(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	const name = "refs/heads/x"
	const savers, each = 4, 3
	var wg sync.WaitGroup
	for i := range savers {
		wg.Go(func() {
			for k := range each {
				var old []pack.ID
				refs, err := r.Refs(ctx, name)
				m := repo.Move{Ref: name, Reparent: true}
				if len(refs) == 1 {
					m.Old = refs[0].ID
					old = []pack.ID{m.Old}
				}
				s := NewSave(fmt.Sprintf("saver %d, save %d", i, k), 3, old...)
				if err == nil {
					err = Store(ctx, r, s)
				}
				if m.New = s.Commit; err == nil {
					_, err = r.SetRef(ctx, m)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for id := at(t, r, name); !id.IsZero(); {
		c := commitOf(t, r, id)
		if seen[c.Message] {
			t.Errorf("%q is there twice", c.Message)
		}
		seen[c.Message] = true
		id = pack.ID{}
		if len(c.Parents) > 0 {
			id = c.Parents[0]
		}
	}
	if len(seen) != savers*each {
		t.Fatalf("%d saves are in the history of %d", len(seen), savers*each)
	}
}
