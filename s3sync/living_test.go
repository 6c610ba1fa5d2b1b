package s3sync_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/gc"
	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/s3sync"
)

// live opens a repository that lives in a bucket, which is made if it is not there.
func live(t *testing.T, b *s3sync.Bucket, dir string) *repo.Packs {
	t.Helper()
	p, err := tryLive(t, b, dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryLive(t *testing.T, b *s3sync.Bucket, dir string) (*repo.Packs, error) {
	t.Helper()
	ctx := context.Background()
	l, err := b.Live(s3sync.LivingOptions{Dir: filepath.Join(dir, "bucket")})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { l.Close() })
	config, err := repo.NewConfig(repo.InitOptions{})
	if err != nil {
		return nil, err
	}
	if err := l.Init(ctx, config); err != nil {
		return nil, err
	}
	p, err := repo.OpenDepot(ctx, filepath.Join(dir, "desk"), l, repo.DirOptions{})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { p.Close() })
	return p, nil
}

// A repository that lives in a bucket is a repository.
func TestLiving(t *testing.T) {
	buckets(t, func(t *testing.T, b *s3sync.Bucket) {
		n := 0
		repotest.Run(t, func(t *testing.T) repo.Repo {
			n++
			own := *b
			own.Prefix = fmt.Sprintf("%s%d/", b.Prefix, n)
			return live(t, &own, t.TempDir())
		})
	})
}

// saveLive puts a save on a ref, on top of whatever is there.
func saveLive(p *repo.Packs, ref string, s repotest.Save) error {
	ctx := context.Background()
	if err := repotest.Store(ctx, p, s); err != nil {
		return err
	}
	_, err := p.SetRef(ctx, repo.Move{Ref: ref, New: s.Commit, Reparent: true})
	return err
}

// checkLive reads what is in the bucket as a mirror is read.
func checkLive(t *testing.T, b *s3sync.Bucket, ids []pack.ID) *repo.Packs {
	t.Helper()
	ctx := context.Background()
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Open(ctx, g, s3sync.NewCache(8<<20))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	if err := repotest.Check(ctx, p, ids); err != nil {
		t.Error(err)
	}
	if lacks, err := p.Missing(ctx, nil, ids); err != nil || len(lacks) > 0 {
		t.Errorf("%d objects are not known to be whole, %v", len(lacks), err)
	}
	return p
}

// Savers at desks of their own race for one name: all of them end up in the history.
func TestLivingRace(t *testing.T) {
	buckets(t, func(t *testing.T, b *s3sync.Bucket) {
		const savers, saves = 3, 4
		live(t, b, t.TempDir())
		var wg sync.WaitGroup
		var mu sync.Mutex
		var ids []pack.ID
		for i := range savers {
			p := live(t, b, t.TempDir())
			wg.Go(func() {
				for n := range saves {
					s := repotest.NewSave(fmt.Sprint(i, " ", n), 20)
					if err := saveLive(p, "refs/heads/etc", s); err != nil {
						t.Error(err)
					}
					mu.Lock()
					ids = append(append(ids, s.Tree), s.Blobs...)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		p := checkLive(t, b, ids)
		refs, err := p.Refs(context.Background(), "refs/heads/")
		if err != nil || len(refs) != 1 {
			t.Fatalf("%v, %v", refs, err)
		}
		n := 0
		err = repo.WalkCommits(context.Background(), p, refs[0].ID, func(pack.ID, *repo.Commit) error { n++; return nil })
		if err != nil || n != savers*saves {
			t.Errorf("%d saves, want %d, %v", n, savers*saves, err)
		}
	})
}

// Every request of a save fails in turn, or its answer is lost: what was there stays whole, and
// the next run completes.
func TestLivingFaults(t *testing.T) {
	for _, answer := range []bool{false, true} {
		for k := int64(0); ; k++ {
			m := newMemory()
			b := &s3sync.Bucket{Objects: m, Prefix: "p/build/"}
			dir := t.TempDir()
			first, second := repotest.NewSave("first", 20), repotest.NewSave("second", 20)
			if err := saveLive(live(t, b, dir), "refs/heads/etc", first); err != nil {
				t.Fatal(err)
			}
			start := m.calls.Load()
			hook := func(n int64, _, _ string) error {
				if n-start-1 == k {
					return errors.New("the line is cut")
				}
				return nil
			}
			if answer {
				m.after = hook
			} else {
				m.before = hook
			}
			p, err := tryLive(t, b, dir)
			if err == nil {
				err = saveLive(p, "refs/heads/etc", second)
			}
			m.before, m.after = nil, nil
			if done := m.calls.Load() - start; done <= k {
				if err != nil || k < 20 {
					t.Errorf("after %d requests: %v", k, err)
				}
				break
			}
			checkLive(t, b, first.IDs())
			if err := saveLive(live(t, b, dir), "refs/heads/etc", second); err != nil {
				t.Fatalf("after request %d failed (answer %v): %v", k, answer, err)
			}
			checkLive(t, b, append(first.IDs(), append(second.Blobs, second.Tree)...))
		}
	}
}

// objects counts what is in a bucket.
func objects(t *testing.T, b *s3sync.Bucket) (n int) {
	t.Helper()
	err := b.Objects.List(context.Background(), b.Prefix, "", func(s3sync.Object) error { n++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Nobody saves on top of a generation that others came after and that cannot be read.
func TestLivingDamaged(t *testing.T) {
	m := newMemory()
	b := &s3sync.Bucket{Objects: m, Prefix: "p/build/"}
	dir := t.TempDir()
	if err := saveLive(live(t, b, dir), "refs/heads/etc", repotest.NewSave("first", 20)); err != nil {
		t.Fatal(err)
	}
	g, err := b.Latest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	for key := range m.objects {
		if strings.HasSuffix(key, fmt.Sprintf("s/%016x", ^g.N)) {
			m.objects[key] = []byte("kedge-manifest 1\nnonsense\n")
		}
	}
	m.mu.Unlock()
	if _, err := tryLive(t, b, dir); err == nil || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("opened for saving: %v", err)
	}
}

// Months of nights with garbage collection stay whole, and so do the segments.
func TestLivingNights(t *testing.T) {
	ctx := context.Background()
	m, clock := newMemory(), &testClock{t: time.Now()}
	m.now = clock.now
	b := &s3sync.Bucket{Objects: m, Prefix: "p/build/"}
	dir := t.TempDir()
	var kept []pack.ID
	for night := range 40 {
		p := live(t, b, dir)
		for _, name := range []string{"etc", "gone"} {
			s := repotest.NewSave(fmt.Sprint(name, night), 15)
			if err := saveLive(p, "refs/heads/"+name, s); err != nil {
				t.Fatal(err)
			}
			if name == "etc" {
				kept = append(append(kept, s.Tree), s.Blobs...)
			}
		}
		if night%7 == 6 {
			refs, err := p.Refs(ctx, "refs/heads/gone")
			if err == nil {
				_, err = p.SetRef(ctx, repo.Move{Ref: "refs/heads/gone", Old: refs[0].ID})
			}
			if err == nil {
				_, err = gc.Run(ctx, p, gc.Options{Yes: true})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	checkLive(t, b, kept)
	// What gc left behind is let go of and deleted; who saves in between goes on.
	before := objects(t, b)
	for n := range 4 {
		clock.add(100 * time.Hour)
		if _, err := b.Prune(ctx, s3sync.PruneOptions{Keep: 1, Now: clock.now}); err != nil {
			t.Fatal(err)
		}
		s := repotest.NewSave(fmt.Sprint("late", n), 5)
		if err := saveLive(live(t, b, dir), "refs/heads/etc", s); err != nil {
			t.Fatal(err)
		}
		kept = append(append(kept, s.Tree), s.Blobs...)
		checkLive(t, b, kept)
	}
	if n := objects(t, b); n > before/2 {
		t.Errorf("%d objects are left of %d", n, before)
	}
	fresh := live(t, b, t.TempDir())
	if err := repotest.Check(ctx, fresh, kept); err != nil {
		t.Error(err)
	}
	if lacks, err := fresh.Missing(ctx, nil, kept); err != nil || len(lacks) > 0 {
		t.Errorf("%d of %d are missing, %v", len(lacks), len(kept), err)
	}
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	packs, segments := 0, 0
	for _, f := range g.Files {
		switch filepath.Dir(f.Name) {
		case "objects/pack":
			packs++
		case "kedge/segments":
			segments++
		}
	}
	t.Logf("%d files of packs, %d segments, generation %d", packs, segments, g.N)
	if segments > 6 {
		t.Errorf("%d segments", segments)
	}
}
