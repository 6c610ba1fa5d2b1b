package s3sync_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/s3sync"
)

// keyOf returns the key of a manifest, or that of its second copy.
func keyOf(b *s3sync.Bucket, dir string, n uint64) string {
	return fmt.Sprintf("%s%s/%016x", b.Prefix, dir, ^n)
}

// fulls is a bucket of a repository that has three saves, in a generation each, all of them
// full ones.
func fulls(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) (*memory, *source, *s3sync.Bucket) {
	t.Helper()
	m, s := newMemory(), newSource(t)
	b := lock(&s3sync.Bucket{Objects: m, Prefix: "b/"})
	for n := range uint64(3) {
		s.save(3)
		s.mirror(b)
		if m.objects[keyOf(b, "bases", n+1)] == nil {
			t.Fatalf("generation %d is a difference", n+1)
		}
	}
	return m, s, b
}

// warned makes sure that something is said of the second copy of a generation.
func warned(t *testing.T, list []error, n uint64) {
	t.Helper()
	want := fmt.Sprintf("generation %d: the second copy of its manifest was read", n)
	if !slices.ContainsFunc(list, func(err error) bool { return strings.Contains(err.Error(), want) }) {
		t.Errorf("%q is not in %q", want, list)
	}
}

// The newest manifest is lost, or damaged, and its second copy is not: that is found, named,
// and brought back; a prune lets go of nothing for it, and the next run makes the first copy anew.
func TestSecondCopy(t *testing.T) { kinds(t, testSecondCopy) }

func testSecondCopy(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	for _, lost := range []bool{true, false} {
		m, s, b := fulls(t, lock)
		first := keyOf(b, "manifests", 3)
		good := m.objects[first]
		if m.objects[first] = []byte("rot"); lost {
			delete(m.objects, first)
		}
		g, err := b.Recover(ctx)
		if err != nil || g.N != 3 || len(g.Passed) > 0 {
			t.Fatalf("lost %t: %+v, %v", lost, g, err)
		}
		warned(t, g.Warnings(), 3)
		s.check(b, g, 3)
		if _, err := b.Pull(ctx, g, s3sync.PullOptions{Dir: filepath.Join(t.TempDir(), "copy")}); err != nil {
			t.Error(err)
		}
		if g, err = b.At(ctx, 3); err != nil {
			t.Fatal(err)
		}
		warned(t, g.Warnings(), 3)
		var list []uint64
		err = b.Generations(ctx, func(l s3sync.Listed) error {
			if list = append(list, l.N); l.N == 3 {
				warned(t, l.Warnings, 3)
			} else if len(l.Warnings) > 0 {
				t.Errorf("generation %d: %q", l.N, l.Warnings)
			}
			return l.Err
		})
		if err != nil || !slices.Equal(list, []uint64{3, 2, 1}) {
			t.Errorf("lost %t: generations %d, %v", lost, list, err)
		}
		if r, err := b.Prune(ctx, s3sync.PruneOptions{Keep: 3, DryRun: true}); err != nil || r.Dropped > 0 || r.Generations != 3 {
			t.Errorf("lost %t: prune: %+v, %v", lost, r, err)
		}
		r := s.mirror(b)
		if !r.Unchanged || r.Generation != 3 {
			t.Errorf("lost %t: the next run: %+v", lost, r)
		}
		warned(t, r.Warnings, 3)
		if lost && string(m.objects[first]) != string(good) {
			t.Error("the first copy was not made anew")
		}
	}
}

// One listing of manifests is what a look at a directory pays; that none is listed costs one more.
func TestSecondCopyRequests(t *testing.T) {
	ctx := context.Background()
	m, _, b := fulls(t, func(b *s3sync.Bucket) *s3sync.Bucket { return b })
	count := func(find func(context.Context) (*s3sync.Generation, error)) (uint64, int64) {
		t.Helper()
		start := m.calls.Load()
		g, err := find(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return g.N, m.calls.Load() - start
	}
	if n, requests := count(b.Latest); n != 3 || requests != 2 {
		t.Errorf("generation %d in %d requests", n, requests)
	}
	if n, requests := count(b.Recover); n != 3 || requests != 3 {
		t.Errorf("recovered generation %d in %d requests", n, requests)
	}
	for n := range uint64(3) {
		delete(m.objects, keyOf(b, "manifests", n+1))
	}
	if n, _ := count(b.Latest); n != 3 {
		t.Errorf("without any first copy: generation %d", n)
	}
	if names, err := s3sync.Names(ctx, m, ""); err != nil || !slices.Equal(names, []string{"b"}) {
		t.Errorf("%q, %v", names, err)
	}
}

// A second copy that is no good, and has no first one, counts for nothing but its number, and
// one far above is somebody's mischief.
func TestSecondCopyBad(t *testing.T) {
	ctx := context.Background()
	m, s, b := fulls(t, func(b *s3sync.Bucket) *s3sync.Bucket { return b })
	delete(m.objects, keyOf(b, "manifests", 3))
	m.objects[keyOf(b, "bases", 3)] = []byte("rot")
	m.objects[keyOf(b, "bases", 1<<40)] = []byte("rot")
	g, err := b.Recover(ctx)
	if err != nil || g.N != 2 || len(g.Warnings()) > 0 {
		t.Fatalf("%+v, %v", g, err)
	}
	if r := s.mirror(b); r.Generation != 4 {
		t.Errorf("%+v", r)
	}
	if g, err = b.Latest(ctx); err != nil || g.N != 4 {
		t.Fatalf("%+v, %v", g, err)
	}
	s.check(b, g, 3)
}

// That the second copy cannot be read at the moment is no reason to go back to an older one.
func TestSecondCopyLater(t *testing.T) {
	ctx, broken := context.Background(), s3sync.Temporary(errors.New("the line is dead"))
	m, _, b := fulls(t, func(b *s3sync.Bucket) *s3sync.Bucket { return b })
	m.objects[keyOf(b, "manifests", 3)] = []byte("rot")
	m.before = func(_ int64, _, key string) error {
		if key == keyOf(b, "bases", 3) {
			return broken
		}
		return nil
	}
	if g, err := b.Latest(ctx); !errors.Is(err, broken) || errors.As(err, new(*pack.CorruptError)) {
		t.Errorf("%+v, %v", g, err)
	}
}

// Who saves into a bucket goes on from the newest save, though the first copy of its manifest is
// lost.
func TestLivingSecondCopy(t *testing.T) {
	ctx := context.Background()
	m := newMemory()
	b := &s3sync.Bucket{Objects: m, Prefix: "p/build/"}
	first, second := repotest.NewSave("first", 20), repotest.NewSave("second", 20)
	if err := saveLive(live(t, b, t.TempDir()), "refs/heads/one", first); err != nil {
		t.Fatal(err)
	}
	g, err := b.Latest(ctx)
	if err != nil || m.objects[keyOf(b, "bases", g.N)] == nil {
		t.Fatalf("%+v, %v", g, err)
	}
	delete(m.objects, keyOf(b, "manifests", g.N))
	if err := saveLive(live(t, b, t.TempDir()), "refs/heads/two", second); err != nil {
		t.Fatal(err)
	}
	checkLive(t, b, append(first.IDs(), second.IDs()...))
	if now, err := b.Latest(ctx); err != nil || now.N != g.N+1 || len(now.Refs) != 2 {
		t.Errorf("%+v, %v", now, err)
	}
}

// Others may have made any number of generations since, whom a reader does not trust, and somebody
// may have put any number of fakes there: what counts is found all the same, the first few are
// named, and the next run takes the number after them.
func TestManyPassed(t *testing.T) {
	ctx := context.Background()
	const many = 150
	m, s, key, other := newMemory(), newSource(t), mirrorKey(t), mirrorKey(t)
	b := &s3sync.Bucket{Objects: m, Prefix: "b/", Check: s3sync.Trust(key.PublicKey())}
	s.save(2)
	signedRun(t, s, b, key, t.TempDir())
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	x := g.Manifest
	for n := uint64(2); n < 2+many; n++ {
		x.N, x.Signature = n, nil
		text := x.Append(nil)
		signature, err := s3sync.Sign(other, text)
		if err != nil {
			t.Fatal(err)
		}
		if text = append(text, signature...); n%2 == 0 {
			text = []byte("rot")
		}
		m.objects[keyOf(b, "manifests", n)] = text
	}
	if g, err = b.Latest(ctx); err != nil || g.N != 1 || len(g.Passed) != 21 {
		t.Fatalf("%+v, %v", g, err)
	}
	for i, want := range map[int]string{0: "generation 151: ", 19: "generation 132: ", 20: "130 more"} {
		if !strings.HasPrefix(g.Passed[i].Error(), want) {
			t.Errorf("%d is %q, not %q", i, g.Passed[i], want)
		}
	}
	s.save(2)
	if r := signedRun(t, s, b, key, t.TempDir()); r.Generation != 2+many {
		t.Errorf("%+v", r)
	}
	if g, err = b.Latest(ctx); err != nil || g.N != 2+many {
		t.Fatalf("%+v, %v", g, err)
	}
	s.check(b, g, 2)
}
