package s3sync_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/s3sync"
)

// A mirror stands still at each of its requests while prunes drop and delete, for longer
// than any grace; and a prune while a mirror runs from its first request to its last.
func TestPruneRace(t *testing.T) {
	ctx := context.Background()
	quiet := func(o *orchard, what string, paused *bool, k int64, other func()) {
		o.m.calls.Store(0)
		o.m.before = func(n int64, _, _ string) error {
			if n >= k && !*paused {
				*paused = true
				hook := o.m.before
				o.m.before = nil
				other()
				o.m.before = hook
			}
			return nil
		}
		defer func() { o.m.before = nil }()
		var err error
		if what == "mirror" {
			_, err = o.b.Mirror(ctx, s3sync.MirrorOptions{Dir: o.dir, Workers: 1})
		} else {
			_, err = o.b.Prune(ctx, s3sync.PruneOptions{Keep: 1, Now: o.clock.now, Workers: 1})
		}
		if err != nil {
			o.t.Fatalf("%s at request %d: %v", what, k, err)
		}
	}
	step := int64(7)
	if full {
		step = 1
	}
	for _, what := range []string{"mirror", "prune"} {
		for _, cut := range []bool{false, true} {
			fresh := newOrchard(t)
			fresh.weeks(5)
			for k := int64(1); ; k += step {
				o := fresh.clone()
				if cut { // what a run left behind is there, and may be dropped
					o.save(2)
					o.m.before = func(_ int64, op, key string) error {
						if op == "put" && strings.Contains(key, "manifests/") {
							return errors.New("the line is dead")
						}
						return nil
					}
					if _, err := o.b.Mirror(ctx, s3sync.MirrorOptions{Dir: o.dir}); err == nil {
						t.Fatal("it was not cut short")
					}
					o.m.before = nil
					o.clock.add(8 * day)
				}
				o.mustPrune(2)
				o.clock.add(4 * day)
				o.save(1)
				o.bringBack()
				paused := false
				quiet(o, what, &paused, k, func() {
					if what == "prune" {
						o.mirror(o.b)
						return
					}
					for range 3 {
						o.mustPrune(1)
						o.clock.add(8 * day)
					}
				})
				o.intact()
				o.mirror(o.b)
				for range 3 {
					o.clock.add(4 * day)
					o.mustPrune(1)
				}
				o.intact()
				g, err := o.b.Latest(ctx)
				if err != nil {
					t.Fatal(err)
				}
				o.check(o.b, g, len(o.saves))
				if !paused {
					break
				}
			}
		}
	}
}

// gated is a store whose user does a request whenever it is its turn.
type gated struct {
	*memory
	turn, done chan struct{}
}

// Two mirrors and two prunes take turns at random, request by request, while days go by.
func TestPruneInterleaved(t *testing.T) {
	ctx := context.Background()
	rounds := 10
	if full {
		rounds = 300
	}
	fresh := newOrchard(t)
	fresh.weeks(4)
	fresh.mustPrune(1)
	fresh.clock.add(4 * day)
	fresh.save(1)
	fresh.bringBack()
	for seed := range uint64(rounds) {
		rng := rand.New(rand.NewPCG(seed, 7))
		o := fresh.clone()
		states := []string{t.TempDir(), t.TempDir()}
		var actors []*gated
		var wg sync.WaitGroup
		act := func(do func(b *s3sync.Bucket) error) {
			a := &gated{memory: o.m, turn: make(chan struct{}), done: make(chan struct{})}
			actors = append(actors, a)
			b := &s3sync.Bucket{Objects: turns{a}, Prefix: o.b.Prefix}
			wg.Go(func() {
				defer close(a.done)
				if err := do(b); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			})
		}
		for i := range 2 {
			act(func(b *s3sync.Bucket) error {
				_, err := b.Mirror(ctx, s3sync.MirrorOptions{Dir: o.dir, StateDir: states[i], Workers: 2, Now: o.clock.now})
				return err
			})
			act(func(b *s3sync.Bucket) error {
				for range 3 {
					if _, err := b.Prune(ctx, s3sync.PruneOptions{Keep: 1, Now: o.clock.now, Workers: 2}); err != nil {
						return err
					}
					o.clock.add(2 * day)
				}
				return nil
			})
		}
		for len(actors) > 0 {
			i := rng.IntN(len(actors))
			for range 1 + rng.IntN(12) {
				select {
				case actors[i].turn <- struct{}{}:
					continue
				case <-actors[i].done:
				}
				actors = slices.Delete(actors, i, i+1)
				break
			}
			if rng.IntN(8) == 0 {
				o.clock.add(time.Duration(rng.IntN(5)) * day)
			}
		}
		wg.Wait()
		o.intact()
		o.mirror(o.b)
		for range 3 {
			o.clock.add(4 * day)
			o.mustPrune(1)
		}
		o.intact()
		g, err := o.b.Latest(ctx)
		if err != nil {
			t.Fatal(err)
		}
		o.check(o.b, g, len(o.saves))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// turns asks for a turn before each request.
type turns struct{ g *gated }

func (x turns) Put(ctx context.Context, key string, b s3sync.Body) (string, error) {
	<-x.g.turn
	return x.g.memory.Put(ctx, key, b)
}

func (x turns) Get(ctx context.Context, key, version string, p []byte, off int64) (int, error) {
	<-x.g.turn
	return x.g.memory.Get(ctx, key, version, p, off)
}

func (x turns) Stat(ctx context.Context, key, version string) (s3sync.Object, error) {
	<-x.g.turn
	return x.g.memory.Stat(ctx, key, version)
}

func (x turns) List(ctx context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	<-x.g.turn
	return x.g.memory.List(ctx, prefix, after, fn)
}

func (x turns) Delete(ctx context.Context, key, version string) error {
	<-x.g.turn
	return x.g.memory.Delete(ctx, key, version)
}

func (x turns) Retain(ctx context.Context, key, version string, until time.Time) error {
	<-x.g.turn
	return x.g.memory.Retain(ctx, key, version, until)
}
