package s3sync_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/gc"
	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/s3sync"
)

// collectLive is gc as the command does it: what is superseded is dropped, and deleted when its
// grace is over.
func collectLive(t *testing.T, b *s3sync.Bucket, dir string, now func() time.Time) error {
	p, err := tryLive(t, b, dir)
	if err != nil {
		return err
	}
	if _, err = gc.Run(context.Background(), p, gc.Options{Yes: true}); err == nil {
		_, err = b.Prune(context.Background(), s3sync.PruneOptions{Keep: 1, Now: now, Workers: 1})
	}
	return errors.Join(err, p.Close())
}

// Every request of two collections, of which the second one deletes, fails in turn, or its
// answer is lost: nothing that a ref leads to is gone, and the next run completes. A full sweep
// takes them all, others each fifth.
func TestLivingCollectFaults(t *testing.T) {
	step := int64(5)
	if full {
		step = 1
	}
	for _, answer := range []bool{false, true} {
		for k := int64(0); ; k += step {
			m, clock := newMemory(), &testClock{t: time.Now()}
			m.now = clock.now
			b := &s3sync.Bucket{Objects: m, Prefix: "p/build/"}
			dir := t.TempDir()
			kept, gone := repotest.NewSave("kept", 10), repotest.NewSave("gone", 10)
			p := live(t, b, dir)
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("request %d fails (answer %v): %v", k, answer, err)
				}
			}
			check(repotest.Store(context.Background(), p, kept, gone)) // one pack, to be written anew
			check(saveLive(p, "refs/heads/etc", kept))
			check(saveLive(p, "refs/heads/gone", gone))
			_, err := p.SetRef(context.Background(), repo.Move{Ref: "refs/heads/gone", Old: gone.Commit})
			check(err)
			check(p.Close())

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
			first := collectLive(t, b, dir, clock.now)
			clock.add(100 * time.Hour)
			second := collectLive(t, b, dir, clock.now)
			m.before, m.after = nil, nil
			checkLive(t, b, kept.IDs())
			if m.calls.Load()-start <= k {
				check(errors.Join(first, second))
				if k < 30 {
					t.Errorf("only %d requests", k)
				}
				break
			}
			// It ends as if nothing had been.
			for range 3 {
				check(collectLive(t, b, dir, clock.now))
				clock.add(100 * time.Hour)
			}
			late := repotest.NewSave("late", 10)
			check(saveLive(live(t, b, dir), "refs/heads/etc", late))
			if checkLive(t, b, append(append(kept.IDs(), late.Blobs...), late.Tree)); t.Failed() {
				t.Fatalf("after request %d failed (answer %v)", k, answer)
			}
			other := live(t, b, t.TempDir())
			if lacks, err := other.Missing(context.Background(), nil, gone.Blobs); err != nil || len(lacks) != len(gone.Blobs) {
				t.Errorf("request %d (answer %v): garbage is there, %v", k, answer, err)
			}
			if n := objects(t, b); n > 40 {
				t.Errorf("request %d (answer %v): %d objects are left", k, answer, n)
			}
		}
	}
}

// A pack is sent from here; before it is named, another machine sends and names the very same,
// and it is taken away again. The save fails, and succeeds when it is run again.
func TestLivingSamePack(t *testing.T) {
	ctx := context.Background()
	m := newMemory()
	b := &s3sync.Bucket{Objects: m, Prefix: "p/build/"}
	here, there := t.TempDir(), t.TempDir()
	s := repotest.NewSave("same", 20)
	p := live(t, b, here)
	if err := repotest.Store(ctx, p, s); err != nil {
		t.Fatal(err)
	}
	other := live(t, b, there)
	if err := saveLive(other, "refs/heads/other", s); err != nil {
		t.Fatal(err)
	}
	if _, err := other.SetRef(ctx, repo.Move{Ref: "refs/heads/other", Old: s.Commit}); err != nil {
		t.Fatal(err)
	}
	if err := collectLive(t, b, there, time.Now); err != nil {
		t.Fatal(err)
	}
	_, err := p.SetRef(ctx, repo.Move{Ref: "refs/heads/etc", New: s.Commit})
	if !errors.As(err, new(*repo.BusyError)) {
		t.Errorf("a save on what was dropped: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := saveLive(live(t, b, here), "refs/heads/etc", s); err != nil {
		t.Fatalf("run again: %v", err)
	}
	checkLive(t, b, s.IDs())
}

// What is brought back from the bucket is a repository that reads and checks fine.
func TestLivingPull(t *testing.T) {
	ctx := context.Background()
	b := &s3sync.Bucket{Objects: newMemory(), Prefix: "p/build/"}
	dir := t.TempDir()
	var ids []pack.ID
	for n := range 5 {
		s := repotest.NewSave(fmt.Sprint(n), 20)
		if err := saveLive(live(t, b, dir), "refs/heads/etc", s); err != nil {
			t.Fatal(err)
		}
		ids = append(append(ids, s.Tree), s.Blobs...)
	}
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "pulled")
	if _, err := b.Pull(ctx, g, s3sync.PullOptions{Dir: to}); err != nil {
		t.Fatal(err)
	}
	p, err := repo.OpenDir(ctx, to, repo.DirOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := repotest.Check(ctx, p, ids); err != nil {
		t.Error(err)
	}
	r, err := repo.Check(ctx, p, repo.CheckOptions{}, func(f repo.Finding) { t.Error(f) })
	if err != nil || r.Objects < int64(len(ids)) {
		t.Errorf("%+v, %v", r, err)
	}
}

// A repository does not grow beyond what can be read.
func TestLivingFull(t *testing.T) {
	ctx := context.Background()
	b := &s3sync.Bucket{Objects: newMemory(), Prefix: "p/build/"}
	dir := t.TempDir()
	first := repotest.NewSave("first", 20)
	if err := saveLive(live(t, b, dir), "refs/heads/etc", first); err != nil {
		t.Fatal(err)
	}
	l, err := b.Live(s3sync.LivingOptions{Dir: filepath.Join(dir, "bucket"), MaxFiles: 6})
	if err != nil {
		t.Fatal(err)
	}
	p, err := repo.OpenDepot(ctx, filepath.Join(dir, "desk"), l, repo.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := saveLive(p, "refs/heads/etc", repotest.NewSave("second", 20)); !errors.As(err, new(*repo.RefusedError)) {
		t.Errorf("a save beyond the limit: %v", err)
	}
	checkLive(t, b, first.IDs())
	// To take away goes on, and makes room.
	if _, err := p.SetRef(ctx, repo.Move{Ref: "refs/heads/etc", Old: first.Commit}); err != nil {
		t.Errorf("a ref goes: %v", err)
	}
	if _, err := gc.Run(ctx, p, gc.Options{Yes: true}); err != nil {
		t.Errorf("garbage is collected: %v", err)
	}
}
