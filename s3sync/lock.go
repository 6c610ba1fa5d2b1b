package s3sync

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Objects can be locked where the bucket was made for it: until a time nobody can delete the
// version that was locked, whatever keys they stole. A run of a mirror locks, or locks for
// longer, all that the generations name that no prune has dropped, and their manifests. So
// each of them can be restored for at least as many days after the last run as was said.
// Nothing is noted of what was locked: a lock can only be made longer, and to ask for each
// costs as much as to set it.

// locked is what a lock is set on.
type locked struct{ key, version string }

// lock sets the locks that the options want.
func (m *mirror) lock(ctx context.Context) error {
	if m.o.LockDays == 0 {
		return nil
	}
	until := m.o.Now().UTC().Add(time.Duration(m.o.LockDays) * 24 * time.Hour).Truncate(time.Second)
	list, err := m.b.lockable(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for x := range list {
		if m.acquire(ctx) != nil {
			break
		}
		wg.Go(func() {
			defer m.release()
			if err := m.b.retain(ctx, x, until); err != nil {
				cancel(fmt.Errorf("locking %s: %w", x.key, err))
				return
			}
			m.mu.Lock()
			m.result.Locked++
			m.mu.Unlock()
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// lockable returns what the generations need that no prune has dropped.
func (b *Bucket) lockable(ctx context.Context) (map[locked]bool, error) {
	list := make(map[locked]bool)
	dropped := make(map[string]bool)
	var freed Spans
	first := true
	err := b.manifests(ctx, keyManifests, "", func(n uint64, versions []Object) error {
		g, err := b.load(ctx, n, versions)
		if err != nil {
			if ctx.Err() != nil || IsTemporary(err) {
				return err
			}
			return nil // what is no good needs nothing
		}
		if first {
			dropped, freed = dropsOf(g), g.allFreed()
			first = false
		}
		if dropped[manifestKey(keyManifests, n)] || freed.has(n) {
			return nil
		}
		list[locked{b.Prefix + manifestKey(keyManifests, n), g.version}] = true
		for _, f := range g.Files {
			list[locked{b.Prefix + f.Key, f.Version}] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	g := byKey{fn: func(versions []Object) error {
		if o := versions[0]; !dropped[o.Key[len(b.Prefix):]] {
			list[locked{o.Key, o.Version}] = true
		}
		return nil
	}}
	if _, err = versions(ctx, b.Objects, b.Prefix+keyBases, "", g.add); err == nil {
		err = g.flush()
	}
	return list, err
}

// retain locks an object. One that is locked for longer already is not an error, though a
// store says so.
func (b *Bucket) retain(ctx context.Context, x locked, until time.Time) error {
	err := b.Objects.Retain(ctx, x.key, x.version, until)
	if err == nil || IsTemporary(err) || ctx.Err() != nil {
		return err
	}
	o, serr := b.Objects.Stat(ctx, x.key, x.version)
	switch {
	case serr != nil:
		return errors.Join(err, serr)
	case !o.Until.Before(until):
		return nil
	}
	return err
}
