package s3sync_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// otherIdentity opens nothing here.
const otherIdentity = "AGE-SECRET-KEY-1NNE0LT7HDJ0GKA2LET0FVYKRZQU69HTZ5MSTZSCPSCFDQPPN98ZSC93V98"

// maxObject returns the size of the largest object whose key has a part.
func maxObject(m *memory, part string) (size int64) {
	for key, data := range m.objects {
		if strings.Contains(key, part) {
			size = max(size, int64(len(data)))
		}
	}
	return size
}

// sealed is an encrypted mirror of three saves.
func sealed(t *testing.T) (*memory, *source, *s3sync.Bucket) {
	t.Helper()
	m := newMemory()
	b := locked(&s3sync.Bucket{Objects: m, Prefix: "p/"})
	s := newSource(t)
	for range 3 {
		s.save(30)
		s.mirror(b)
	}
	return m, s, b
}

// Nothing that was mirrored stands in the bucket in clear.
func TestSealedReveals(t *testing.T) {
	m, s, b := sealed(t)
	if r := s.mirror(b); !r.Unchanged || r.Sent > 0 || r.Unknown > 0 {
		t.Errorf("nothing has changed: %+v", r)
	}
	p, err := repo.OpenDir(context.Background(), s.dir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	words := []string{"refs/heads", "objects/pack", "kedge/", ".idx", "PACK", p.Config().ID, s.saves[0].Commit.String()}
	for key, data := range m.objects {
		for _, word := range words {
			if strings.Contains(key, word) || bytes.Contains(data, []byte(word)) && !strings.HasSuffix(key, "RESTORE.txt") && !strings.HasSuffix(key, "probe") {
				t.Errorf("%s: there is %q", key, word)
			}
		}
	}
}

// Without an identity a generation goes by its keys: it can be verified and pruned, and not
// read. With the wrong one there is none.
func TestLocked(t *testing.T) {
	ctx := context.Background()
	m, s, b := sealed(t)
	shut := &s3sync.Bucket{Objects: m, Prefix: "p/"}
	g, err := shut.Latest(ctx)
	if err != nil || !g.Locked || !g.Encrypted || len(g.Refs) > 0 {
		t.Fatalf("%+v, %v", g, err)
	}
	r, err := shut.Verify(ctx, g, s3sync.VerifyOptions{ReadShare: 1}, func(f s3sync.File, err error) { t.Error(f.Name, err) })
	if err != nil || r.Read != len(g.Files) {
		t.Errorf("%+v, %v", r, err)
	}
	_, err1 := shut.Open(ctx, g, s3sync.NewCache(0))
	_, err2 := shut.Pull(ctx, g, s3sync.PullOptions{Dir: t.TempDir() + "/x"})
	_, err3 := shut.PullTexts(ctx, g)
	for _, err := range []error{err1, err2, err3} {
		if !errors.As(err, new(*s3sync.LockedError)) {
			t.Errorf("it was read: %v", err)
		}
	}
	other, err := s3sync.ParseIdentity([]byte(otherIdentity))
	if err != nil {
		t.Fatal(err)
	}
	shut.Identity = other
	if _, err := shut.Latest(ctx); !errors.As(err, new(*repo.RefusedError)) {
		t.Errorf("with the identity of others: %v", err)
	}
	if _, err := (&s3sync.Bucket{Objects: m, Prefix: "p/"}).Mirror(ctx, s3sync.MirrorOptions{Dir: s.dir}); !errors.As(err, new(*s3sync.MixedError)) {
		t.Errorf("a plain run: %v", err)
	}
	plain := &s3sync.Bucket{Objects: newMemory(), Prefix: "p/"}
	s.mirror(plain)
	if _, err := locked(plain).Mirror(ctx, s3sync.MirrorOptions{Dir: s.dir}); !errors.As(err, new(*s3sync.MixedError)) {
		t.Errorf("an encrypted run onto a plain mirror: %v", err)
	}
	s.check(b, must(b.Latest(ctx)), 3)
}

func must(g *s3sync.Generation, err error) *s3sync.Generation {
	if err != nil {
		panic(err)
	}
	return g
}

// Whoever can write to the bucket exchanges, cuts and replays what is in it: it is found, and
// no other bytes are taken for what was saved.
func TestSealedTampered(t *testing.T) {
	ctx := context.Background()
	m, s, b := sealed(t)
	g := must(b.Latest(ctx))
	var packs []s3sync.File
	for _, f := range g.Files {
		if strings.HasSuffix(f.Name, ".pack") {
			packs = append(packs, f)
		}
	}
	key := func(i int) string { return b.Prefix + packs[i].Key }
	spoilt := func(what string) {
		t.Helper()
		p, err := b.Open(ctx, g, s3sync.NewCache(0))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if good, all, _ := s.readable(p); good == all {
			t.Errorf("%s: nobody noticed", what)
		}
		r, err := b.Verify(ctx, g, s3sync.VerifyOptions{ReadShare: 1}, func(s3sync.File, error) {})
		if err != nil || r.Damaged == 0 {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
		var lost *s3sync.LostError
		if _, err := b.Pull(ctx, g, s3sync.PullOptions{Dir: filepath.Join(t.TempDir(), "x")}); !errors.As(err, &lost) {
			t.Errorf("%s: pull: %v", what, err)
		}
	}
	one, two := m.objects[key(0)], m.objects[key(1)]
	m.objects[key(0)], m.objects[key(1)] = two, one
	spoilt("two ciphertexts are swapped")
	m.objects[key(0)], m.objects[key(1)] = one[:len(one)-16], two
	spoilt("one is cut short")
	m.objects[key(0)] = slices.Clone(one)
	m.objects[key(0)][len(one)/2] ^= 1
	spoilt("a byte is changed")
	m.objects[key(0)] = one

	// An older manifest in place of the newest, as it is and with the number changed.
	manifest := func(dir string, n uint64) string { return fmt.Sprintf("%s%s/%016x", b.Prefix, dir, ^n) }
	old := m.objects[manifest("manifests", 2)]
	for _, text := range [][]byte{old, bytes.Replace(old, []byte("\nn 2\n"), []byte("\nn 4\n"), 1)} {
		m.objects[manifest("manifests", 4)] = text
		got, err := b.Latest(ctx)
		if err != nil || got.N != 3 || len(got.Passed) != 1 {
			t.Errorf("a replayed manifest: %+v, %v", got, err)
		}
	}
	delete(m.objects, manifest("manifests", 4))

	// The sealed part of another generation, and a key that it does not name.
	now := m.objects[manifest("manifests", 3)]
	begin := []byte("-----BEGIN AGE")
	head, _, _ := bytes.Cut(now, begin)
	_, tail, _ := bytes.Cut(old, begin)
	for _, text := range [][]byte{
		slices.Concat(head, begin, tail), bytes.Replace(now, []byte("+ data/"), []byte("+ data/0 1 "+s3sync.SumOf(nil).String()+"\n+ data/"), 1),
	} {
		m.objects[manifest("manifests", 3)] = text
		base := m.objects[manifest("bases", 3)]
		delete(m.objects, manifest("bases", 3))
		if _, err := b.At(ctx, 3); !errors.As(err, new(*pack.CorruptError)) {
			t.Errorf("a manifest put together of two: %v", err)
		}
		if base != nil {
			m.objects[manifest("bases", 3)] = base
		}
	}
}

// The names in the state directory are cut anywhere, or lost: the next run says how many files
// it does not know any more and sends them, and what it makes is whole.
func TestLostNames(t *testing.T) {
	ctx := context.Background()
	m, s, b := sealed(t)
	list, err := filepath.Glob(s.dir + "/kedge/names-*")
	if err != nil || len(list) != 1 {
		t.Fatalf("%q, %v", list, err)
	}
	text, err := os.ReadFile(list[0])
	if err != nil {
		t.Fatal(err)
	}
	files := len(must(b.Latest(ctx)).Files)
	for _, n := range []int{len(text), len(text) - 1, len(text) / 2, len(text) / 3, 30, 0} {
		if err := os.WriteFile(list[0], text[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		at := *b
		at.Objects = m.clone()
		r := s.mirror(&at)
		whole := n >= len(text)-1 // what is noted last is the generation
		if (r.Unknown == 0) != whole || r.Unchanged != (n == len(text)) || n == 0 && r.Unknown != files-1 {
			t.Errorf("%d of %d bytes: %+v", n, len(text), r)
		}
		g := must(at.Latest(ctx))
		if r.Unknown > 0 && g.Kind != s3sync.Full {
			t.Errorf("%d of %d bytes: generation %d is a %s", n, len(text), g.N, g.Kind)
		}
		s.check(&at, g, 3)
		if r := s.mirror(&at); !r.Unchanged {
			t.Errorf("%d of %d bytes: the run after: %+v", n, len(text), r)
		}
	}
}

// A prune has no identity, and what it writes can be opened by those who have.
func TestPruneSealed(t *testing.T) {
	ctx := context.Background()
	_, s, b := sealed(t)
	nights := 3
	for must(b.Latest(ctx)).Kind != s3sync.Diff {
		if nights++; nights == 30 {
			t.Fatal("no generation is a difference")
		}
		s.save(1)
		s.mirror(b)
	}
	r, err := (&s3sync.Bucket{Objects: b.Objects, Prefix: b.Prefix}).Prune(ctx, s3sync.PruneOptions{Keep: 1})
	if err != nil || r.Generation != uint64(nights+1) {
		t.Fatalf("%+v, %v", r, err)
	}
	g := must(b.Latest(ctx))
	if g.N != uint64(nights+1) || g.Kind != s3sync.Prune || len(g.Drops) == 0 {
		t.Errorf("%+v", g)
	}
	s.check(b, g, nights)
	s.save(1)
	if r := s.mirror(b); r.Unknown > 0 || r.Sent > 12 {
		t.Errorf("the run after: %+v", r)
	}
	s.check(b, must(b.Latest(ctx)), nights+1)
}

// Names of encrypted repositories are told to those who have an identity.
func TestPlaces(t *testing.T) {
	ctx := context.Background()
	m, s := newMemory(), newSource(t)
	s.save(1)
	dir := s3sync.PlaceOf("p/", "build", "some id")
	b := locked(&s3sync.Bucket{Objects: m, Prefix: "p/" + dir + "/"})
	if _, err := b.Mirror(ctx, s3sync.MirrorOptions{Dir: s.dir, Name: "build"}); err != nil {
		t.Fatal(err)
	}
	list, err := s3sync.Places(ctx, m, "p/", b.Identity)
	if err != nil || len(list) != 1 || list[0].Name != "build" || list[0].Dir != dir || !list[0].Encrypted {
		t.Errorf("%+v, %v", list, err)
	}
	list, err = s3sync.Places(ctx, m, "p/", nil)
	if err != nil || len(list) != 1 || !list[0].Encrypted || !errors.As(list[0].Err, new(*s3sync.LockedError)) {
		t.Errorf("without an identity: %+v, %v", list, err)
	}
	if got, err := s3sync.FindPlace(ctx, m, "p/", "build", b.Identity); err != nil || got != dir {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := s3sync.FindPlace(ctx, m, "p/", "other", b.Identity); !errors.As(err, new(*repo.NotFoundError)) {
		t.Errorf("a name that there is not: %v", err)
	}
	if err := s3sync.Unmixed(ctx, m, "p/", false); !errors.As(err, new(*s3sync.MixedError)) {
		t.Errorf("plain beside encrypted: %v", err)
	}
	if err := s3sync.Unmixed(ctx, m, "p/", true); err != nil {
		t.Error(err)
	}
}
