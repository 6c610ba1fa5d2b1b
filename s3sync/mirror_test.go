package s3sync_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/s3sync"
)

// source is a repository to be mirrored, with the saves that are in it.
type source struct {
	t     testing.TB
	dir   string
	saves []repotest.Save
}

func newSource(t testing.TB) *source {
	t.Helper()
	s := &source{t: t, dir: t.TempDir()}
	if _, err := repo.InitDir(context.Background(), s.dir, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// save adds a save of n blobs.
func (s *source) save(n int) {
	s.t.Helper()
	s.saveWith(n)
}

// saveWith adds a save of n blobs, and others that stand in its pack beside them.
func (s *source) saveWith(n int, beside ...pack.Entry) {
	s.t.Helper()
	ctx := context.Background()
	p, err := repo.OpenDir(ctx, s.dir, repo.DirOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer p.Close()
	var tip pack.ID
	var parents []pack.ID
	if k := len(s.saves); k > 0 {
		tip = s.saves[k-1].Commit
		parents = []pack.ID{tip}
	}
	x := repotest.NewSave(fmt.Sprint("save ", len(s.saves)), n, parents...)
	x.Data = append(x.Data, beside...)
	if err := repotest.Store(ctx, p, x); err != nil {
		s.t.Fatal(err)
	}
	if _, err := p.SetRef(ctx, repo.Move{Ref: "refs/heads/x", Old: tip, New: x.Commit}); err != nil {
		s.t.Fatal(err)
	}
	s.saves = append(s.saves, x)
}

// mirror mirrors the source and expects it to succeed.
func (s *source) mirror(b *s3sync.Bucket) s3sync.MirrorResult {
	s.t.Helper()
	r, err := b.Mirror(context.Background(), s3sync.MirrorOptions{Dir: s.dir})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// check makes sure that a generation holds the first n saves and nothing of the others.
func (s *source) check(b *s3sync.Bucket, g *s3sync.Generation, n int) {
	s.t.Helper()
	ctx := context.Background()
	p, err := b.Open(ctx, g, s3sync.NewCache(8<<20))
	if err != nil {
		s.t.Fatal(err)
	}
	defer p.Close()
	refs, err := p.Refs(ctx, "refs/heads/")
	if err != nil {
		s.t.Fatal(err)
	}
	if n == 0 {
		if len(refs) > 0 {
			s.t.Errorf("refs %v", refs)
		}
		return
	}
	if len(refs) != 1 || refs[0].ID != s.saves[n-1].Commit {
		s.t.Fatalf("refs %v, not at save %d", refs, n)
	}
	var ids []pack.ID
	for _, x := range s.saves[:n] {
		ids = append(append(ids, x.Commit, x.Tree), x.Blobs...)
	}
	if err := repotest.Check(ctx, p, ids); err != nil {
		s.t.Error(err)
	}
	if missing, err := p.Missing(ctx, nil, ids); err != nil || len(missing) > 0 {
		s.t.Errorf("%d objects are missing, %v", len(missing), err)
	}
}

func buckets(t *testing.T, test func(t *testing.T, b *s3sync.Bucket)) {
	t.Run("memory", func(t *testing.T) {
		test(t, &s3sync.Bucket{Objects: &s3sync.Patient{Objects: newMemory()}, Prefix: "p/build/"})
	})
	t.Run("gateway", func(t *testing.T) {
		s, err := s3sync.NewS3(startGateway(t))
		if err != nil {
			t.Fatal(err)
		}
		test(t, &s3sync.Bucket{Objects: &s3sync.Patient{Objects: s}, Prefix: "p/build/"})
	})
}

// allBuckets runs a test with buckets that are plain, and with such that are encrypted.
func allBuckets(t *testing.T, test func(t *testing.T, b *s3sync.Bucket)) {
	kinds(t, func(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
		buckets(t, func(t *testing.T, b *s3sync.Bucket) { test(t, lock(b)) })
	})
}

// kinds runs a test with mirrors that are plain and with such that are encrypted, which
// lock makes of a bucket.
func kinds(t *testing.T, test func(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket)) {
	t.Run("plain", func(t *testing.T) { test(t, func(b *s3sync.Bucket) *s3sync.Bucket { return b }) })
	t.Run("encrypted", func(t *testing.T) { test(t, locked) })
}

// The keys that mirrors are encrypted to in tests.
const (
	testIdentity  = "AGE-SECRET-KEY-1MSHV3ZD3SEAGNKSZ6VGGRDYY4J4G8ZQKWQJKVK69NN9M9DMSYNLSJFYZT0"
	testRecipient = "age1xj02j3dlw436w4d4cjr2ps3udk6ccxrc8lpsgmt99utqh4hk2yxqn7lrjj"
)

// locked makes a bucket one that is encrypted, and can be read.
func locked(b *s3sync.Bucket) *s3sync.Bucket {
	to, err := s3sync.ParseRecipients([]byte(testRecipient))
	if err != nil {
		panic(err)
	}
	id, err := s3sync.ParseIdentity([]byte(testIdentity))
	if err != nil {
		panic(err)
	}
	b.Recipients, b.Identity = to, id
	return b
}

func TestMirror(t *testing.T) {
	allBuckets(t, func(t *testing.T, b *s3sync.Bucket) {
		ctx := context.Background()
		if _, err := b.Latest(ctx); !errors.As(err, new(*repo.NotFoundError)) {
			t.Fatalf("an empty bucket: %v", err)
		}
		s := newSource(t)
		s.mirror(b)
		const nights = 20
		for night := range nights {
			s.save(10)
			r := s.mirror(b)
			if r.Generation != uint64(night+2) || r.Sent == 0 {
				t.Fatalf("night %d: %+v", night, r)
			}
			if r := s.mirror(b); !r.Unchanged || r.Sent != 0 || r.Generation != uint64(night+2) {
				t.Fatalf("again: %+v", r)
			}
		}
		g, err := b.Latest(ctx)
		if err != nil {
			t.Fatal(err)
		}
		s.check(b, g, nights)
		diffs := 0
		for n := range uint64(nights + 1) {
			g, err := b.At(ctx, n+1)
			if err != nil {
				t.Fatal(err)
			}
			if g.Kind == s3sync.Diff {
				diffs++
			}
			s.check(b, g, int(n))
		}
		if diffs < nights/3 {
			t.Errorf("only %d generations of %d are differences", diffs, nights+1)
		}
		names, err := s3sync.Names(ctx, b.Objects, "p/")
		if err != nil || len(names) != 1 || names[0] != "build" {
			t.Errorf("names %q, %v", names, err)
		}
	})
}

// A mirror run that fails at any request leaves the last generation as it was, and the
// next run completes.
func TestMirrorFaults(t *testing.T) { kinds(t, testMirrorFaults) }

func testMirrorFaults(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	broken := errors.New("the line is dead")
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			for k, done := int64(1), false; !done; k++ {
				m := newMemory()
				b := lock(&s3sync.Bucket{Objects: &s3sync.Patient{Objects: m}, Prefix: "build/"})
				s := newSource(t)
				s.save(3)
				s.mirror(b)
				s.save(3)
				m.calls.Store(0)
				hook := func(n int64, op, key string) error {
					if n >= k {
						return broken
					}
					return nil
				}
				if when == "before" {
					m.before = hook
				} else {
					m.after = hook
				}
				_, err := b.Mirror(ctx, s3sync.MirrorOptions{Dir: s.dir})
				done = err == nil
				if err != nil && !errors.Is(err, broken) {
					t.Fatalf("request %d: %v", k, err)
				}
				m.before, m.after = nil, nil
				g, err := b.Latest(ctx)
				if err != nil {
					t.Fatalf("request %d: %v", k, err)
				}
				s.check(b, g, int(g.N))
				s.mirror(b)
				if g, err = b.Latest(ctx); err != nil {
					t.Fatal(err)
				}
				s.check(b, g, 2)
			}
		})
	}
}

// Each request fails the first time, before or after it was done: the run succeeds all the
// same.
func TestMirrorRetries(t *testing.T) { kinds(t, testMirrorRetries) }

func testMirrorRetries(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	for _, when := range []string{"before", "after"} {
		m := newMemory()
		b := lock(&s3sync.Bucket{Objects: &s3sync.Patient{Objects: m, Pause: time.Microsecond}, Prefix: "build/"})
		s := newSource(t)
		s.save(3)
		s.mirror(b)
		s.save(3)
		var seen sync.Map
		hook := func(_ int64, op, key string) error {
			if _, again := seen.LoadOrStore(op+" "+key, true); !again {
				return s3sync.Temporary(errors.New("503 SlowDown"))
			}
			return nil
		}
		if when == "before" {
			m.before = hook
		} else {
			m.after = hook
		}
		s.mirror(b)
		m.before, m.after = nil, nil
		g, err := b.Latest(context.Background())
		if err != nil || g.N != 2 {
			t.Fatalf("%s: generation %v, %v", when, g, err)
		}
		s.check(b, g, 2)
	}
}

// A newest manifest that is damaged or a fake is passed over.
func TestBadManifests(t *testing.T) { kinds(t, testBadManifests) }

func testBadManifests(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	m := newMemory()
	b := lock(&s3sync.Bucket{Objects: m, Prefix: "build/"})
	s := newSource(t)
	s.save(3)
	s.mirror(b)
	s.save(3)
	s.mirror(b)
	for key, text := range m.objects {
		if strings.HasPrefix(key, "build/manifests/") && strings.HasSuffix(key, "d") { // generation 2
			m.objects[key] = append([]byte(nil), text[:len(text)-1]...)
		}
	}
	delete(m.objects, fmt.Sprintf("build/bases/%016x", ^uint64(2)))
	g, err := b.Latest(ctx)
	if err != nil || g.N != 1 || len(g.Passed) != 1 {
		t.Fatalf("%+v, %v", g, err)
	}
	s.check(b, g, 1)
	if r := s.mirror(b); r.Generation != 3 || r.SentBytes > 64<<10 {
		t.Errorf("the run after: %+v", r)
	}
	if g, err = b.Latest(ctx); err != nil || g.N != 3 {
		t.Fatalf("%v, %v", g, err)
	}
	s.check(b, g, 2)
}

func FuzzManifest(f *testing.F) {
	m := s3sync.Manifest{N: 3, Time: time.Unix(1700000000, 0), Repo: "abc", Kind: s3sync.Diff, Base: 1, Head: "refs/heads/main",
		Files: []s3sync.File{{Name: "config", Size: 3, Key: "state/x"}}, Gone: []string{"a/b"}}
	f.Add(m.Append(nil))
	m.Files[0].PartSums = s3sync.SumOf([]byte("parts"))
	f.Add(m.Append(nil))
	m.Files[0].Version = "v1"
	f.Add(m.Append(nil))
	m.Kind, m.Base, m.Gone, m.N = s3sync.Prune, 0, nil, 30
	m.Drops = []s3sync.Drop{{Key: "a", Since: 1}, {Key: "b", Since: 1, First: 2, Last: 2}, {Key: "c", Since: 9, First: 2, Last: 10}}
	m.Freed = s3sync.Spans{{First: 1, Last: 1}, {First: 3, Last: 29}}
	f.Add(m.Append(nil))
	f.Add([]byte("kedge-sealed-manifest 1\nn 1\ntime 2026-11-21T03:00:12Z\nrepo -\nkind prune\nprev -\n+ data/x 3 " + s3sync.SumOf(nil).String() +
		"\ndrop 1 data/y\n-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := s3sync.ParseManifest(text)
		if err != nil {
			return
		}
		if got := append(m.Append(nil), m.Signature...); string(got) != string(text) {
			t.Errorf("written again it is\n%q, not\n%q", got, text)
		}
	})
}
