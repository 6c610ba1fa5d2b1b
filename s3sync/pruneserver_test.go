package s3sync_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/s3sync"
)

// aged is a store whose clock goes ahead: what was put before is as old as it would be.
type aged struct {
	s3sync.Objects
	mu    sync.Mutex
	ahead time.Duration
	at    map[string]time.Duration // when each key was put
}

func (a *aged) add(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ahead += d
}

func (a *aged) now() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Add(a.ahead)
}

func (a *aged) shift(o s3sync.Object) s3sync.Object {
	a.mu.Lock()
	defer a.mu.Unlock()
	o.Modified = o.Modified.Add(a.at[o.Key])
	return o
}

func (a *aged) Put(ctx context.Context, key string, b s3sync.Body) (string, error) {
	version, err := a.Objects.Put(ctx, key, b)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.at[key] = a.ahead
	}
	return version, err
}

func (a *aged) Stat(ctx context.Context, key, version string) (s3sync.Object, error) {
	o, err := a.Objects.Stat(ctx, key, version)
	return a.shift(o), err
}

func (a *aged) List(ctx context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	return a.Objects.List(ctx, prefix, after, func(o s3sync.Object) error { return fn(a.shift(o)) })
}

func (a *aged) Versions(ctx context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	return a.Objects.(s3sync.Versioned).Versions(ctx, prefix, after, func(o s3sync.Object) error { return fn(a.shift(o)) })
}

// Real servers, with versions and without, are pruned, by somebody who cannot open what is
// encrypted.
func TestPruneServer(t *testing.T) { kinds(t, testPruneServer) }

func testPruneServer(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	run := func(t *testing.T, real s3sync.Objects) {
		ctx := context.Background()
		a := &aged{Objects: real, at: make(map[string]time.Duration)}
		o := &orchard{source: newSource(t), aside: t.TempDir(), b: lock(&s3sync.Bucket{Objects: &s3sync.Patient{Objects: a}, Prefix: "p/build/"})}
		for i := range 6 {
			o.save(2)
			if i%2 == 1 {
				o.repack()
			}
			o.mirror(o.b)
			a.add(7 * day)
		}
		prune := func() s3sync.PruneResult {
			t.Helper()
			b := *o.b
			b.Identity, b.Recipients = nil, nil
			r, err := b.Prune(ctx, s3sync.PruneOptions{Keep: 1, Now: a.now})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		first := prune()
		a.add(4 * day)
		second := prune()
		if first.Dropped == 0 || second.Deleted != first.Dropped || second.Locked > 0 {
			t.Errorf("%+v, then %+v", first, second)
		}
		if got := o.intact(); got[0] != 8 {
			t.Errorf("generations %v", got)
		}
		left := 0
		count := func(o s3sync.Object) error { left++; return nil }
		var err error
		if v, ok := real.(s3sync.Versioned); ok && v.Versions(ctx, "p/", "", count) == nil {
			err = nil // versions that were hidden only would still be there
		} else {
			left = 0
			err = real.List(ctx, "p/", "", count)
		}
		g, gerr := o.b.Latest(ctx)
		if err != nil || gerr != nil || left > len(g.Files)+8 { // manifests and the probe
			t.Errorf("%d objects for %d files, %v, %v", left, len(g.Files), err, gerr)
		}
	}
	t.Run("gateway", func(t *testing.T) {
		s, err := s3sync.NewS3(startGateway(t))
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
	})
	t.Run("vault", func(t *testing.T) { run(t, startVault(t)) })
}
