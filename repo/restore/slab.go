package restore

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kedgebackup/kedge/pack"
)

// Chunks have some ten kilobytes and begin anywhere. If each is written as it
// comes, each write takes the lock of the inode, for which the other writers
// spin, and begins and ends within a page that has to be zeroed first: a dump of
// 2.6 GB took the kernel 4 s and more. Gathered in aligned slabs they are a tenth of
// the calls, and the page cache takes them in large folios.
//
// Chunks come by their places in packs. Mostly that is their order in the file,
// and a few slabs are open at a time. Those of a file that shares its chunks with
// others come in any order: when there are too many slabs, the one that was not
// used for the longest time is written as far as it is filled.

const (
	slabSize = 128 << 10 // each begins at a multiple of it
	maxSlabs = 256       // of one run, 32 MiB
)

// slabs holds the parts of chunked files that are being filled.
type slabs struct {
	most int // how many there may be; 0: maxSlabs

	mu   sync.Mutex // for what follows, and for all of a slab but its bytes
	open map[slabPlace]*slab
	free []*slab
	made int
	tick uint64
}

// slabPlace is where a slab belongs: in f from at*slabSize on.
type slabPlace struct {
	f  *file
	at int64
}

// slab is a part of a file in memory.
type slab struct {
	slabPlace
	buf    []byte
	spans  []span // that are filled, in order; those that touch are one
	filled int    // bytes in them
	busy   int    // goroutines that copy into it
	used   uint64 // the tick when one did last
	proofs []*proof
}

// span is a part of a slab.
type span struct{ from, to int }

// proof is a chunk that is read back when all its parts are written.
type proof struct {
	id   pack.ID
	off  int64
	size int
	left atomic.Int32 // parts that are not written
}

// take opens the slab of a place for the caller to copy into, until give. If
// there are too many it returns one that nobody is using, which the caller writes
// before the next try; or none at all, if all are in use.
func (s *slabs) take(at slabPlace) (sl, old *slab) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sl = s.open[at]; sl == nil {
		if sl = s.spare(); sl == nil {
			return nil, s.oldest()
		}
		at.f.holds.Add(1)
		sl.slabPlace = at
		if s.open == nil {
			s.open = make(map[slabPlace]*slab)
		}
		s.open[at] = sl
	}
	sl.busy++
	s.tick++
	sl.used = s.tick
	return sl, nil
}

// spare returns a slab that is free, or nil.
func (s *slabs) spare() *slab {
	if n := len(s.free); n > 0 {
		sl := s.free[n-1]
		s.free = s.free[:n-1]
		return sl
	}
	most := s.most
	if most == 0 {
		most = maxSlabs
	}
	if s.made == most {
		return nil
	}
	s.made++
	return &slab{buf: make([]byte, slabSize)}
}

// oldest closes the slab that was not used for the longest time.
func (s *slabs) oldest() *slab {
	var old *slab
	for _, sl := range s.open {
		if sl.busy == 0 && (old == nil || sl.used < old.used) {
			old = sl
		}
	}
	if old != nil {
		delete(s.open, old.slabPlace)
	}
	return old
}

// give says that a span of a slab is filled. It reports whether all is: then the
// slab is closed, and the caller writes it.
func (s *slabs) give(sl *slab, sp span, p *proof) (full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl.add(sp)
	if p != nil {
		sl.proofs = append(sl.proofs, p)
	}
	sl.busy--
	if full = sl.filled >= slabSize && sl.busy == 0; full {
		delete(s.open, sl.slabPlace)
	}
	return full
}

// add notes that a span is filled.
func (sl *slab) add(sp span) {
	sl.filled += sp.to - sp.from
	i := len(sl.spans)
	for i > 0 && sl.spans[i-1].from > sp.from {
		i--
	}
	sl.spans = slices.Insert(sl.spans, i, sp)
	if i+1 < len(sl.spans) && sl.spans[i].to == sl.spans[i+1].from {
		sl.spans[i].to = sl.spans[i+1].to
		sl.spans = slices.Delete(sl.spans, i+1, i+2)
	}
	if i > 0 && sl.spans[i-1].to == sl.spans[i].from {
		sl.spans[i-1].to = sl.spans[i].to
		sl.spans = slices.Delete(sl.spans, i, i+1)
	}
}

// of closes all slabs of a file, which nobody uses any more, in the order of
// their places.
func (s *slabs) of(f *file) (list []*slab) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, sl := range s.open {
		if at.f == f {
			list = append(list, sl)
			delete(s.open, at)
		}
	}
	slices.SortFunc(list, func(a, b *slab) int { return int(min(max(a.at-b.at, -1), 1)) })
	return list
}

// release takes a slab back.
func (s *slabs) release(sl *slab) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(sl.proofs)
	*sl = slab{buf: sl.buf, spans: sl.spans[:0], proofs: sl.proofs[:0]}
	s.free = append(s.free, sl)
}

// gather puts a chunk into the slabs it belongs to, and writes those that are
// full. What fills a slab alone is not copied.
func (r *run) gather(f *file, id pack.ID, body []byte, off int64) error {
	var p *proof
	if r.Verify {
		p = &proof{id: id, off: off, size: len(body)}
		p.left.Store(int32((off+int64(len(body))-1)/slabSize - off/slabSize + 1))
	}
	for len(body) > 0 {
		at := slabPlace{f, off / slabSize}
		from := int(off % slabSize)
		n := min(len(body), slabSize-from)
		sl := r.slab(at, n)
		if sl == nil {
			if err := f.write(r, f.target, body[:n], off); err != nil {
				return err
			}
			if err := r.prove(f, p); err != nil {
				return err
			}
		} else {
			copy(sl.buf[from:], body[:n])
			if r.slabs.give(sl, span{from, from + n}, p) {
				r.writeSlab(sl)
			}
		}
		body, off = body[n:], off+int64(n)
	}
	return nil
}

// slab opens the slab for n bytes, and makes room for it; nil says that they are
// better written at once.
func (r *run) slab(at slabPlace, n int) *slab {
	if n == slabSize {
		return nil
	}
	for {
		sl, old := r.slabs.take(at)
		if old == nil {
			return sl
		}
		r.writeSlab(old)
	}
}

// writeSlab writes what a closed slab has, reads back the chunks that are
// complete with it, and gives it back. What goes wrong is its file's trouble.
func (r *run) writeSlab(sl *slab) {
	f := sl.f
	err := r.writeSpans(sl)
	r.slabs.release(sl)
	if err != nil {
		f.fail(r, err)
	}
	f.letGo(r)
}

func (r *run) writeSpans(sl *slab) error {
	if sl.f.failed.Load() {
		return nil
	}
	for _, sp := range sl.spans {
		if err := sl.f.write(r, sl.f.target, sl.buf[sp.from:sp.to], sl.at*slabSize+int64(sp.from)); err != nil {
			return err
		}
	}
	for _, p := range sl.proofs {
		if err := r.prove(sl.f, p); err != nil {
			return err
		}
	}
	return nil
}

// prove says that a part of a chunk is written, and after the last one reads the
// chunk back. Without Options.Verify p is nil.
func (r *run) prove(f *file, p *proof) error {
	if p == nil || p.left.Add(-1) > 0 {
		return nil
	}
	return r.readBack(f.target, p.id, p.off, int64(p.size))
}
