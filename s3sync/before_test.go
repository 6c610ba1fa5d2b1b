package s3sync_test

import (
	"context"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/s3sync"
)

// signedRun is a mirror run with a key.
func signedRun(t *testing.T, s *source, b *s3sync.Bucket, key ssh.Signer, state string) s3sync.MirrorResult {
	t.Helper()
	r, err := b.Mirror(context.Background(), s3sync.MirrorOptions{
		Dir: s.dir, StateDir: state, Sign: func(text []byte) ([]byte, error) { return s3sync.Sign(key, text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// When the key of a mirror is lost, another one signs a full generation, though nothing else has
// changed; packs that are there are not sent again. Who trusts the new key alone can read what follows.
func TestMirrorKeyLost(t *testing.T) { kinds(t, testMirrorKeyLost) }

func testMirrorKeyLost(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	s, state := newSource(t), t.TempDir()
	bucket := func(m *memory, keys ...ssh.PublicKey) *s3sync.Bucket {
		return lock(&s3sync.Bucket{Objects: m, Prefix: "b/", Check: s3sync.Trust(keys...)})
	}
	m, before, after := newMemory(), mirrorKey(t), mirrorKey(t)
	last := uint64(0)
	for kind := s3sync.Full; kind != s3sync.Diff; { // a difference to what the old key signed
		s.save(2)
		last = signedRun(t, s, bucket(m), before, state).Generation
		g, err := bucket(m).Latest(ctx)
		if err != nil || last > 60 {
			t.Fatal(last, err)
		}
		kind = g.Kind
	}
	r := signedRun(t, s, bucket(m), after, state)
	if r.Unchanged || r.Generation != last+1 || r.Sent > 4 || !strings.HasPrefix(r.Before, "SHA256:") {
		t.Errorf("%+v", r)
	}
	if r := signedRun(t, s, bucket(m), after, state); !r.Unchanged || r.Before != "" {
		t.Errorf("once more: %+v", r)
	}
	s.save(2)
	signedRun(t, s, bucket(m), after, state)
	b := bucket(m, after.PublicKey())
	for n := last + 1; n <= last+2; n++ {
		g, err := b.At(ctx, n)
		if err != nil {
			t.Fatalf("generation %d: %v", n, err)
		}
		if n == last+1 && g.Kind != s3sync.Full {
			t.Errorf("generation %d is a %s", n, g.Kind)
		}
		s.check(b, g, len(s.saves)-int(last+2-n))
	}
	if r, err := bucket(m).Prune(ctx, s3sync.PruneOptions{Keep: 1}); err != nil || r.Generation != last+3 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r := signedRun(t, s, bucket(m), after, state); r.Sent > 0 || r.Before != "" {
		t.Errorf("a prune that nobody signed: %+v", r)
	}
}

// Who may write to a bucket, and no more, cannot make the next run believe a manifest that says
// that everything is there already, with other checksums, be it called a mirror's or a prune's.
func TestMirrorForged(t *testing.T) {
	for _, kind := range []s3sync.Kind{s3sync.Full, s3sync.Prune} {
		t.Run(string(kind), func(t *testing.T) {
			ctx := context.Background()
			m, s, key, thief, state := newMemory(), newSource(t), mirrorKey(t), mirrorKey(t), t.TempDir()
			b := &s3sync.Bucket{Objects: m, Prefix: "b/", Check: s3sync.Trust()}
			s.save(20)
			signedRun(t, s, b, key, state)
			g, err := b.Latest(ctx)
			if err != nil {
				t.Fatal(err)
			}
			x := g.Manifest
			x.N, x.Kind, x.Prev, x.Files = 2, kind, g.Sum, append([]s3sync.File(nil), g.Files...)
			for i := range x.Files {
				x.Files[i].SHA256[0] ^= 1
			}
			text := x.Append(nil)
			signature, err := s3sync.Sign(thief, text)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Put(ctx, "b/manifests/fffffffffffffffd", bodyOf(append(text, signature...))); err != nil {
				t.Fatal(err)
			}
			s.save(20)
			if r := signedRun(t, s, b, key, state); r.Before == "" || r.Generation != 3 {
				t.Errorf("%+v", r)
			}
			if g, err = b.Latest(ctx); err != nil || g.N != 3 {
				t.Fatal(g, err)
			}
			r, err := b.Verify(ctx, g, s3sync.VerifyOptions{ReadShare: 1}, func(f s3sync.File, err error) { t.Errorf("%s: %v", f.Name, err) })
			if err != nil || r.Damaged > 0 {
				t.Errorf("%+v, %v", r, err)
			}
			s.check(b, g, 2)
		})
	}
}
