package s3sync_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/kedgebackup/kedge/s3sync"
)

// cover puts a manifest that can be read as well on top of what a key has, or of what was hidden
// by a delete marker: who may write to the bucket, and no more, can do that.
func cover(t *testing.T, v *vault, key string, hide bool) {
	t.Helper()
	list := v.objects[key]
	if len(list) == 0 {
		t.Fatalf("no %s", key)
	}
	x, err := s3sync.ParseManifest(list[0].data)
	if err != nil {
		t.Fatal(err)
	}
	x.Prev[0] ^= 1
	if hide {
		v.add(key, vaultVersion{marker: true})
	}
	v.add(key, vaultVersion{data: append(x.Append(nil), x.Signature...)})
}

// Of a manifest that was written over the oldest version counts for who names its generation, too,
// be it that of the generation or of what that is based on; and of the second copy, where the first
// one is gone or damaged, for whoever looks for generations.
func TestOldestManifest(t *testing.T) { kinds(t, testOldestManifest) }

func testOldestManifest(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	v, s := newVault(), newSource(t)
	b := lock(&s3sync.Bucket{Objects: &s3sync.Patient{Objects: v}, Prefix: "b/"})
	var g *s3sync.Generation
	for g == nil || g.Kind != s3sync.Diff {
		s.save(2)
		s.mirror(b)
		var err error
		if g, err = b.Latest(ctx); err != nil || g.N > 60 {
			t.Fatal(g, err)
		}
	}
	base, err := b.At(ctx, g.Base)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, find func() (*s3sync.Generation, error), want *s3sync.Generation) {
		t.Helper()
		got, err := find()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if got.N != want.N || got.Sum != want.Sum || len(got.Files) != len(want.Files) {
			t.Errorf("%s: generation %d, %v; want %d, %v", what, got.N, got.Sum, want.N, want.Sum)
		}
	}
	at := func(n uint64) func() (*s3sync.Generation, error) {
		return func() (*s3sync.Generation, error) { return b.At(ctx, n) }
	}
	for i, x := range []*s3sync.Generation{g, base} {
		cover(t, v, keyOf(b, "manifests", x.N), i == 0)
	}
	check("a difference", at(g.N), g)
	check("its base", at(base.N), base)

	cover(t, v, keyOf(b, "bases", base.N), false)
	first := keyOf(b, "manifests", base.N)
	v.objects[first] = []vaultVersion{{id: "rot", data: []byte("rot")}}
	check("the second copy of a damaged one", at(base.N), base)
	check("that of the base", at(g.N), g)
	check("that of the newest's base", func() (*s3sync.Generation, error) { return b.Latest(ctx) }, g)
	delete(v.objects, first)
	check("the second copy of a lost one", at(base.N), base)
	delete(v.objects, keyOf(b, "manifests", g.N))
	for n := base.N + 1; n < g.N; n++ {
		delete(v.objects, keyOf(b, "manifests", n))
	}
	recovered := func() (*s3sync.Generation, error) { return b.Recover(ctx) }
	check("a newest one that is lost", recovered, base)

	s.save(2) // the first copy is put back as it was
	if _, err := b.Mirror(ctx, s3sync.MirrorOptions{Dir: s.dir, StateDir: filepath.Join(t.TempDir(), "state")}); err != nil {
		t.Fatal(err)
	}
	if list := v.objects[first]; len(list) != 1 || s3sync.SumOf(list[0].data) != base.Sum {
		t.Errorf("%d versions of the first copy, or not the right one", len(list))
	}
}
