package remote

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/remote/wire"
)

// fetching gets idx files into the cache while a session goes on.
//
// First come those of packs that the session itself made: they cost 28 bytes for
// each object that was sent. Others are fetched only by a session that adds more
// than a commit, the largest first, and never more of them than it has sent itself,
// so that a small save over a slow line is not followed by a gigabyte of idx.
// A session that has all promised ones asks no questions any more.
type fetching struct {
	news   chan struct{} // something may be there to be fetched
	calm   chan struct{} // one was fetched
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// Guarded by session.mu.
	real    bool   // the session added more than a commit
	wants   []want // in the order in which they are fetched
	holes   int    // packs whose idx cannot be had
	total   int64  // bytes of idx files in view
	fetched int64  // bytes of those that came for credit
}

// want is an idx that is not in the cache.
type want struct {
	pack wire.PackInfo
	of   *batch // that made the pack; nil: it was there before
}

// kick says that there may be something to do.
func (f *fetching) kick() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// promised takes the packs that the server promises to keep, and begins to fetch.
func (s *session) promised(packs []wire.PackInfo) {
	v := new(view)
	if s.f.cache != nil {
		v.idx = s.f.cache.load(packs)
	}
	have := make(map[string]bool, len(v.idx))
	for _, x := range v.idx {
		have[x.path] = true
		s.fetch.total += x.pack.IdxSize
	}
	for i := range packs {
		switch {
		case !packs[i].Closed:
			s.open = true
		case s.f.cache == nil:
			s.fetch.holes++
		case !have[s.f.cache.path(packs[i].Name)]:
			s.fetch.wants = append(s.fetch.wants, want{pack: packs[i]})
		}
	}
	slices.SortFunc(s.fetch.wants, func(a, b want) int { return cmp.Compare(b.pack.IdxSize, a.pack.IdxSize) })
	s.setView(v.idx)
	if s.f.cache == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.fetch.news, s.fetch.calm, s.fetch.cancel = make(chan struct{}, 1), make(chan struct{}, 1), cancel
	s.fetch.wg.Go(func() { s.fetchAll(ctx) })
}

// setView says which idx files are to be believed, with s.mu held.
func (s *session) setView(idx []*cachedIdx) {
	v := &view{idx: idx, whole: !s.open && s.fetch.holes == 0}
	for _, w := range s.fetch.wants {
		if w.of == nil || w.of.ids == nil {
			v.whole = false
		}
	}
	s.view = v
}

// published takes the packs of a commit, with s.mu held. Until their idx files are
// there, the ids of the batch stand for them.
func (s *session) published(b *batch, packs wire.PackList) {
	for i := range packs {
		switch {
		case !packs[i].Closed:
			s.open = true
		case s.f.cache == nil:
			s.fetch.holes++
		default:
			s.fetch.wants = slices.Insert(s.fetch.wants, b.left, want{packs[i], b})
			b.left++
		}
	}
	s.bury()
	s.setView(s.view.idx)
	s.fetch.kick()
}

// bury lets go of the ids of batches whose idx files are there, or that are too many,
// with s.mu held.
func (s *session) bury() {
	kept := 0
	for i := len(s.past) - 1; i >= 0; i-- {
		b := s.past[i]
		if kept += len(b.ids); isClosed(b.done) && kept > 2*s.f.tune.idsKept {
			b.ids = nil
		}
	}
	s.past = slices.DeleteFunc(s.past, func(b *batch) bool { return b.objects == 0 && b.left == 0 })
}

// fetchAll fetches until ctx ends.
func (s *session) fetchAll(ctx context.Context) {
	for ctx.Err() == nil {
		w, ok := s.nextWant()
		if !ok {
			select {
			case <-s.fetch.news:
			case <-s.f.dead:
				return
			case <-ctx.Done():
			}
			continue
		}
		x, err := s.f.fetchIdx(ctx, w.pack)
		if ctx.Err() != nil {
			return
		}
		s.got(w, x, err)
		select {
		case s.fetch.calm <- struct{}{}:
		default:
		}
	}
}

// nextWant returns what to fetch now.
func (s *session) nextWant() (want, bool) {
	credit := s.credit.Load() + s.f.tune.credit
	s.mu.RLock()
	defer s.mu.RUnlock()
	f := &s.fetch
	for _, w := range f.wants {
		n := w.pack.IdxSize
		if f.total+n <= s.f.tune.cacheLimit && (w.of != nil || f.real && f.fetched+n <= credit) {
			return w, true
		}
	}
	return want{}, false
}

// got takes an idx, or that it cannot be had.
func (s *session) got(w want, x *cachedIdx, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.fetch
	f.wants = slices.DeleteFunc(f.wants, func(o want) bool { return o == w })
	idx := s.view.idx
	if err != nil {
		f.holes++
	} else {
		idx = append(slices.Clip(idx), x)
		f.total += x.pack.IdxSize
	}
	if w.of != nil {
		w.of.left--
		s.bury()
	} else {
		f.fetched += w.pack.IdxSize
	}
	s.setView(idx)
}

// lose takes idx files that turned out to be damaged out of the view and the cache.
func (s *session) lose(bad []*cachedIdx) {
	for _, x := range bad {
		x.drop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	idx := slices.DeleteFunc(slices.Clone(s.view.idx), func(x *cachedIdx) bool {
		if !slices.Contains(bad, x) {
			return false
		}
		s.fetch.total -= x.pack.IdxSize
		s.fetch.wants = append(s.fetch.wants, want{pack: x.pack})
		return true
	})
	s.setView(idx)
	s.fetch.kick()
}

// stopFetching waits a little for idx files of new packs, and ends the rest.
func (s *session) stopFetching() {
	if s.fetch.cancel == nil {
		return
	}
	enough := time.NewTimer(s.f.tune.linger)
	defer enough.Stop()
	for waits := s.awaits(); waits; {
		select {
		case <-s.fetch.calm:
			waits = s.awaits()
		case <-enough.C:
			waits = false
		case <-s.f.dead:
			waits = false
		}
	}
	s.fetch.cancel()
	s.fetch.wg.Wait()
}

// awaits reports whether an idx of a new pack is still to come.
func (s *session) awaits() bool {
	w, ok := s.nextWant()
	return ok && w.of != nil
}

const (
	idxStep  = 512 << 10 // of an idx, in one request
	idxAhead = 4         // requests
)

// fetchIdx fetches an idx into the cache.
func (f *frames) fetchIdx(ctx context.Context, p wire.PackInfo) (*cachedIdx, error) {
	in, err := f.cache.create(p)
	if err != nil {
		return nil, err
	}
	var replies []future
	asked, at := int64(0), int64(0)
	for at < p.IdxSize {
		for asked < p.IdxSize && len(replies) < idxAhead {
			n := int(min(idxStep, p.IdxSize-asked))
			m := wire.ReadRequest{Name: p.Name.String(), Off: asked, N: n}
			reply, err := f.start(ctx, wire.Index, m.Append(nil))
			if err != nil {
				in.abort()
				return nil, err
			}
			replies = append(replies, reply)
			asked += int64(n)
		}
		body, err := replies[0].wait(ctx)
		replies = replies[1:]
		if err == nil && int64(len(body)) != min(idxStep, p.IdxSize-at) {
			err = errTorn
		}
		if err == nil {
			_, err = in.f.WriteAt(body, at)
		}
		if err != nil {
			in.abort()
			return nil, err
		}
		at += int64(len(body))
		f.bufs.put(body)
	}
	return in.finish()
}
