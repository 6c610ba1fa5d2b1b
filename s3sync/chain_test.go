package s3sync_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/s3sync"
)

// replace puts another manifest where a generation has its own, in both places, which can be
// read as well as the right one.
func replace(t *testing.T, m *memory, b *s3sync.Bucket, n uint64) {
	t.Helper()
	for _, dir := range []string{"manifests", "bases"} {
		key := keyOf(b, dir, n)
		text := m.objects[key]
		if text == nil {
			continue
		}
		x, err := s3sync.ParseManifest(text)
		if err != nil {
			t.Fatal(err)
		}
		x.Prev[0] ^= 1
		m.objects[key] = append(x.Append(nil), x.Signature...)
	}
}

// breaks lists the generations that are not the ones that the next were made on top of.
func breaks(t *testing.T, b *s3sync.Bucket) (list []uint64) {
	t.Helper()
	err := b.Generations(context.Background(), func(l s3sync.Listed) error {
		if l.Broken != nil {
			list = append(list, l.N)
		}
		return l.Err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// chainOf mirrors until the newest generation is a difference, and two after its base.
func chainOf(t *testing.T) (*memory, *source, *s3sync.Bucket, *s3sync.Generation) {
	t.Helper()
	m, s := newMemory(), newSource(t)
	b := &s3sync.Bucket{Objects: m, Prefix: "b/"}
	for range 60 {
		s.save(2)
		s.mirror(b)
		g, err := b.Latest(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if g.Kind == s3sync.Diff && g.N == g.Base+2 {
			return m, s, b, g
		}
	}
	t.Fatal("no difference after 60 generations")
	return nil, nil, nil, nil
}

// A manifest that is not the one that the next was made on top of is found by who lists all of
// them, by who verifies a generation that goes back to it, and by the next run, which believes
// nothing then, and says so once.
func TestChain(t *testing.T) {
	ctx := context.Background()
	m, s, b, g := chainOf(t)
	if list := breaks(t, b); len(list) > 0 {
		t.Fatalf("broken: %d", list)
	}
	if list, err := b.Breaks(ctx, g); err != nil || len(list) > 0 {
		t.Fatalf("%q, %v", list, err)
	}
	for n := uint64(1); n < g.N; n++ {
		kept := make(map[string][]byte)
		for key, data := range m.objects {
			kept[key] = data
		}
		replace(t, m, b, n)
		// The one that was replaced names another one before it in this test: two breaks.
		two := []uint64{n, n - 1}
		if n == 1 {
			two = two[:1]
		}
		if list := breaks(t, b); !slices.Equal(list, two) {
			t.Errorf("%d was replaced: broken %d", n, list)
		}
		list, err := b.Breaks(ctx, g)
		if err != nil || (len(list) > 0) != (n >= g.Base) {
			t.Errorf("%d was replaced, generation %d on base %d: %q, %v", n, g.N, g.Base, list, err)
		}
		m.objects = kept
	}

	replace(t, m, b, g.Base)
	s.save(2)
	r := s.mirror(b)
	want := fmt.Sprintf("generation %d was made on top of another generation %d", g.Base+1, g.Base)
	if len(r.Broken) != 1 || !strings.Contains(r.Broken[0].Error(), want) {
		t.Errorf("the next run: %+v", r)
	}
	if g, err := b.Latest(ctx); err != nil || g.Kind != s3sync.Full {
		t.Errorf("%+v, %v", g, err)
	}
	if r := s.mirror(b); !r.Unchanged || len(r.Broken) > 0 {
		t.Errorf("the run after that: %+v", r)
	}
}

// What is missing between two manifests, or was no good when the next was made, is no break.
func TestChainGaps(t *testing.T) {
	ctx := context.Background()
	m, _, b, g := chainOf(t)
	delete(m.objects, keyOf(b, "manifests", g.N-1))
	replace(t, m, b, g.N-2)
	delete(m.objects, keyOf(b, "manifests", g.N-3))
	if list := breaks(t, b); len(list) > 0 {
		t.Errorf("broken: %d", list)
	}
	if list, err := b.Breaks(ctx, g); err != nil || len(list) > 0 {
		t.Errorf("%q, %v", list, err)
	}

	m, s, b := fulls(t, locked)
	rot := m.objects[keyOf(b, "manifests", 3)]
	m.objects[keyOf(b, "manifests", 3)] = []byte("rot")
	m.objects[keyOf(b, "bases", 3)] = []byte("rot")
	if r := s.mirror(b); r.Generation != 4 || len(r.Broken) > 0 {
		t.Errorf("%+v", r)
	}
	m.objects[keyOf(b, "manifests", 3)] = rot
	if list := breaks(t, b); len(list) > 0 {
		t.Errorf("it was passed over: %d", list)
	}
	m.objects[keyOf(b, "manifests", 2)] = m.objects[keyOf(b, "manifests", 1)]
	m.objects[keyOf(b, "bases", 2)] = nil
	g, err := b.At(ctx, 3)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := b.Breaks(ctx, g); err != nil || len(list) > 0 {
		t.Errorf("the one before is no good: %q, %v", list, err)
	}
}
