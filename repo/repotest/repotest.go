// Package repotest is the conformance suite of repo.Repo, which every
// implementation runs, with the objects that it needs:
//
//	func TestRepo(t *testing.T) {
//		repotest.Run(t, func(t *testing.T) repo.Repo { return open(t) })
//	}
package repotest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Run tests a Repo. open returns an empty repository each time.
func Run(t *testing.T, open func(t *testing.T) repo.Repo) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, r repo.Repo)
	}{
		{"round trip", testRoundTrip},
		{"get", testGet},
		{"missing keeps the order", testMissingOrder},
		{"invisible before commit", testInvisible},
		{"session goes on after commit", testGoesOn},
		{"objects that are there already", testKnown},
		{"a child is missing", testOrphan},
		{"an entry that lies", testLie},
		{"refs", testRefs},
		{"moves", testMoves},
		{"a save on a ref that moved on", testReparent},
		{"many savers on one ref", testSavers},
		{"sessions side by side", testSideBySide},
		{"cancelled", testCancelled},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := open(t)
			defer r.Close()
			test.run(t, r)
		})
	}
}

// Store adds saves in a session of its own and commits it.
func Store(ctx context.Context, r repo.Repo, saves ...Save) error {
	s, err := r.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, save := range saves {
		if err := s.Add(ctx, repo.Data, save.Data); err != nil {
			return err
		}
		if err := s.Add(ctx, repo.Trees, save.Trees); err != nil {
			return err
		}
	}
	return s.Commit(ctx)
}

func store(t *testing.T, r repo.Repo, saves ...Save) {
	t.Helper()
	if err := Store(context.Background(), r, saves...); err != nil {
		t.Fatal(err)
	}
}

// wantMissing compares what Missing says.
func wantMissing(t *testing.T, m interface {
	Missing(context.Context, []pack.ID, []pack.ID) ([]pack.ID, error)
}, ids, want []pack.ID) {
	t.Helper()
	got, err := m.Missing(context.Background(), nil, ids)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("of %d ids %d are missing and not %d, %v", len(ids), len(got), len(want), err)
	}
}

// Check reads objects and compares their hashes.
func Check(ctx context.Context, r repo.Repo, ids []pack.ID) error {
	var n atomic.Int64
	err := r.Get(ctx, ids, func(i int, t pack.Type, body []byte) error {
		n.Add(1)
		if id := pack.Sum(t, body); id != ids[i] {
			return fmt.Errorf("object %v came as %v", ids[i], id)
		}
		return nil
	})
	if err == nil && int(n.Load()) != len(ids) {
		err = fmt.Errorf("%d objects came for %d ids", n.Load(), len(ids))
	}
	return err
}

func testRoundTrip(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	s := NewSave("a", 2000)
	wantMissing(t, r, s.IDs(), s.IDs())
	store(t, r, s)
	wantMissing(t, r, s.IDs(), nil)
	if err := Check(ctx, r, s.IDs()); err != nil {
		t.Fatal(err)
	}
}

func testGet(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	s := NewSave("a", 10)
	store(t, r, s)
	none := func(int, pack.Type, []byte) error { return nil }
	if err := r.Get(ctx, nil, none); err != nil {
		t.Fatal(err)
	}
	if err := Check(ctx, r, []pack.ID{s.Blobs[3], s.Blobs[3], s.Commit, s.Blobs[3]}); err != nil {
		t.Fatal("one id several times:", err)
	}
	lost := pack.Sum(pack.Blob, []byte("never stored"))
	err := r.Get(ctx, []pack.ID{s.Blobs[0], lost}, none)
	if m := new(repo.MissingError); !errors.As(err, &m) || m.ID != lost {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	if err := r.Get(ctx, s.IDs(), func(int, pack.Type, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	err = r.Get(ctx, []pack.ID{s.Commit}, func(i int, typ pack.Type, body []byte) error {
		if i != 0 || typ != pack.Commit {
			return fmt.Errorf("object %d of type %v", i, typ)
		}
		_, err := repo.ParseCommit(body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testMissingOrder(t *testing.T, r repo.Repo) {
	a, b := NewSave("a", 50), NewSave("b", 50)
	store(t, r, a)
	var mixed, want []pack.ID
	for i := range 50 {
		mixed = append(mixed, b.Blobs[49-i], a.Blobs[i], b.Blobs[49-i])
		want = append(want, b.Blobs[49-i], b.Blobs[49-i])
	}
	wantMissing(t, r, mixed, want)
	got, err := r.Missing(context.Background(), []pack.ID{a.Tree}, b.Blobs[:1])
	if err != nil || !slices.Equal(got, []pack.ID{a.Tree, b.Blobs[0]}) {
		t.Fatal("Missing does not append:", got, err)
	}
}

func testInvisible(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	s := NewSave("a", 20)
	sess, err := r.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := sess.Add(ctx, repo.Data, s.Data); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, sess, s.IDs(), []pack.ID{s.Tree, s.Commit})
	wantMissing(t, r, s.IDs(), s.IDs())
	if err := sess.Close(); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, r, s.IDs(), s.IDs())
	if err := sess.Add(ctx, repo.Data, s.Data); err == nil {
		t.Fatal("Add after Close succeeded")
	}
	if err := sess.Commit(ctx); err == nil {
		t.Fatal("Commit after Close succeeded")
	}
}

func testGoesOn(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	sess, err := r.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	if err := sess.Commit(ctx); err != nil {
		t.Fatal("empty commit:", err)
	}
	var all []pack.ID
	for _, seed := range []string{"a", "b", "c"} {
		s := NewSave(seed, 5)
		if err := sess.Add(ctx, repo.Data, s.Data); err != nil {
			t.Fatal(err)
		}
		if err := sess.Add(ctx, repo.Trees, s.Trees); err != nil {
			t.Fatal(err)
		}
		if err := sess.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		all = append(all, s.IDs()...)
		wantMissing(t, r, all, nil)
		wantMissing(t, sess, all, nil)
	}
	if objects, bytes := sess.Stats(); objects != int64(len(all)) || bytes <= 0 {
		t.Fatalf("Stats: %d objects, %d bytes; %d were added", objects, bytes, len(all))
	}
}

func testKnown(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	a := NewSave("a", 20)
	store(t, r, a)
	sess, err := r.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	b := NewSave("b", 20)
	for range 2 {
		for _, s := range []Save{a, b} {
			if err := sess.Add(ctx, repo.Data, append(s.Data, s.Data...)); err != nil {
				t.Fatal(err)
			}
			if err := sess.Add(ctx, repo.Trees, s.Trees); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := sess.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if objects, _ := sess.Stats(); objects != int64(len(b.IDs())) {
		t.Fatalf("%d objects were stored, only %d are new", objects, len(b.IDs()))
	}
}

// testOrphan: a tree whose blob is nowhere must not become visible (I9).
func testOrphan(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	s := NewSave("a", 20)
	sess, err := r.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	err = sess.Add(ctx, repo.Data, s.Data[1:])
	if err == nil {
		err = sess.Add(ctx, repo.Trees, s.Trees)
	}
	if err == nil {
		err = sess.Commit(ctx)
	}
	if m := new(repo.MissingError); !errors.As(err, &m) || m.ID != s.Blobs[0] {
		t.Fatalf("a tree without one of its blobs: %v", err)
	}
	if sess.Commit(ctx) == nil || sess.Add(ctx, repo.Data, s.Data) == nil {
		t.Fatal("the session goes on after an error")
	}
	wantMissing(t, r, []pack.ID{s.Tree, s.Commit}, []pack.ID{s.Tree, s.Commit})
	if _, err := r.SetRef(ctx, repo.Move{Ref: "refs/heads/a", New: s.Commit}); err == nil {
		t.Fatal("a ref was set to a commit that is not there")
	}
}

// testLie: the id of a tree is checked before it is stored.
func testLie(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	a, b := NewSave("a", 3), NewSave("b", 3)
	sess, err := r.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	lie := a.Trees[0]
	lie.ID = b.Tree
	if err := sess.Add(ctx, repo.Data, a.Data); err != nil {
		t.Fatal(err)
	}
	err = sess.Add(ctx, repo.Trees, []pack.Entry{lie})
	if err == nil {
		err = sess.Commit(ctx)
	}
	if err == nil {
		t.Fatal("a tree was stored under the id of another one")
	}
	wantMissing(t, r, []pack.ID{b.Tree}, []pack.ID{b.Tree})
}

// testSideBySide: sessions do not see each other before they commit, and both
// may bring the same objects.
func testSideBySide(t *testing.T, r repo.Repo) {
	ctx := context.Background()
	shared := NewSave("shared", 100)
	var wg sync.WaitGroup
	var all []pack.ID
	for i := range 4 {
		own := NewSave(fmt.Sprint("own ", i), 100)
		all = append(all, own.IDs()...)
		wg.Go(func() {
			if err := Store(ctx, r, shared, own); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all = append(all, shared.IDs()...)
	wantMissing(t, r, all, nil)
	if err := Check(ctx, r, all); err != nil {
		t.Fatal(err)
	}
}

func testCancelled(t *testing.T, r repo.Repo) {
	s := NewSave("a", 3)
	store(t, r, s)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Check(ctx, r, s.IDs()); !errors.Is(err, context.Canceled) {
		t.Error("Get:", err)
	}
	if _, err := r.SetRef(ctx, repo.Move{Ref: "refs/heads/a", New: s.Commit}); !errors.Is(err, context.Canceled) {
		t.Error("SetRef:", err)
	}
	if _, err := r.Begin(ctx); !errors.Is(err, context.Canceled) {
		t.Error("Begin:", err)
	}
	if refs, err := r.Refs(context.Background(), ""); err != nil || len(refs) != 0 {
		t.Error(refs, err)
	}
}
