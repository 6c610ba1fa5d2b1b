package s3sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"
)

// sweep deletes what was dropped long enough ago. The manifest of this run drops it, too.
//
//	DELETE manifests, the newest first, one after the other
//	DELETE their second copies, DELETE what they named, several at once
func (p *prune) sweep(ctx context.Context) error {
	o, err := p.b.Objects.Stat(ctx, p.b.Prefix+manifestKey(keyManifests, p.result.Generation), "")
	if err != nil {
		return err
	}
	s := sweep{prune: p, now: o.Modified, end: p.now.Add(sweepTime)}
	var copies, data []string
	for _, d := range p.drops { // manifests come in the order of their keys
		if at, _ := p.droppedAt(d); !p.due[d.Key] || s.now.Sub(at) < pruneGrace {
			continue
		}
		switch {
		case strings.HasPrefix(d.Key, keyManifests):
			if err := s.manifest(ctx, d.Key); err != nil {
				return err
			}
		case strings.HasPrefix(d.Key, keyBases):
			copies = append(copies, d.Key)
		default:
			data = append(data, d.Key)
		}
	}
	for _, keys := range [][]string{copies, data} {
		if err := s.deleteAll(ctx, keys); err != nil {
			return err
		}
	}
	if p.result.Deleted == 0 && s.why != nil {
		return s.why
	}
	return nil
}

type sweep struct {
	*prune
	now time.Time // of our manifest, by the clock of the store
	end time.Time // by our clock; nothing is deleted after that

	mu  sync.Mutex
	why error // the first refusal that no lock explains
}

// manifest deletes a manifest. If the store does not, what it names stays, too.
func (s *sweep) manifest(ctx context.Context, key string) error {
	n, _ := parseManifestKey(key)
	if s.needed[key] {
		return nil
	}
	gone, err := s.delete(ctx, key)
	if err != nil || gone {
		return err
	}
	g, err := s.b.load(ctx, n, s.there[key])
	if err != nil {
		if ctx.Err() != nil || IsTemporary(err) {
			return err
		}
		return nil // what it names nobody knows
	}
	s.needed[manifestKey(keyBases, n)] = true
	for _, f := range g.Files {
		s.needed[f.Key] = true
	}
	if g.Kind == Diff {
		s.needed[manifestKey(keyManifests, g.Base)] = true
		s.needed[manifestKey(keyBases, g.Base)] = true
	}
	return nil
}

// deleteAll deletes keys, several at once.
func (s *sweep) deleteAll(ctx context.Context, keys []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, s.o.Workers)
	var wg sync.WaitGroup
	for _, key := range keys {
		if s.needed[key] {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if _, err := s.delete(ctx, key); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// delete deletes all versions of a key, and reports whether it is gone.
func (s *sweep) delete(ctx context.Context, key string) (gone bool, err error) {
	if s.o.Now().After(s.end) {
		return false, fmt.Errorf("this prune has been under way for %d days, and deletes no more; another can go on", int(sweepTime.Hours()/24))
	}
	whole, bytes := s.b.Prefix+key, int64(0)
	versions := s.there[key]
	if !s.all {
		o, err := s.b.Objects.Stat(ctx, whole, "")
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil
		} else if err != nil {
			return false, err
		}
		if o.Modified.After(s.now) {
			return true, nil // what was dropped is gone, and this came after it
		}
		o.Key, versions = whole, []Object{o}
	}
	gone = true
	for _, o := range versions {
		bytes += o.Size
		err := s.deleteOld(ctx, o)
		if err == nil {
			continue
		}
		if ctx.Err() != nil || IsTemporary(err) {
			return false, err
		}
		// Stores say in different ways that something is locked, and of others that it is
		// not there: only the effect tells.
		at, serr := s.b.Objects.Stat(ctx, whole, o.Version)
		if errors.Is(serr, fs.ErrNotExist) {
			continue
		} else if serr != nil {
			return false, serr
		}
		gone = false
		if !at.Until.After(s.now) {
			s.refused(fmt.Errorf("deleting %s: %w", whole, err))
		}
	}
	s.count(gone, bytes)
	return gone, nil
}

// deleteOld deletes a version of an object. If an answer is lost, and it is gone then, it is not
// asked for again: what is sent under the key after that, maybe weeks later, is not ours to delete.
func (s *sweep) deleteOld(ctx context.Context, o Object) error {
	patient, ok := s.b.Objects.(*Patient)
	if !ok {
		return s.b.Objects.Delete(ctx, o.Key, o.Version)
	}
	failed := false
	return patient.again(ctx, "delete", o.Key, 0, func(ctx context.Context) error {
		if failed {
			at, err := patient.Objects.Stat(ctx, o.Key, o.Version)
			if errors.Is(err, fs.ErrNotExist) || err == nil && at.Modified.After(s.now) {
				return nil
			} else if err != nil {
				return err
			}
		}
		failed = true
		return patient.Objects.Delete(ctx, o.Key, o.Version)
	})
}

func (s *sweep) refused(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		s.why = err
	}
}

func (s *sweep) count(gone bool, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if gone {
		s.result.Deleted++
		s.result.DeletedBytes += bytes
	} else {
		s.result.Locked++
		s.result.LockedBytes += bytes
	}
	if s.o.Progress != nil {
		s.o.Progress(s.result)
	}
}
