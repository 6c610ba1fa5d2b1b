package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kedgebackup/kedge/pack"
)

// Limits of what is read. Objects that kedge and bup write are far smaller;
// who has larger ones put them there with git.
const (
	maxBlob = 64 << 20
	maxTree = 1 << 30
)

// A range is one read of a pack, and the work of one goroutine at a time. It is
// as long as it pays: a gap of gapLimit costs a disk as much as another seek, and
// a decoder needs all of a range in memory. A short call is cut into shorter
// ranges, so that nobody waits for a long time for whoever has the last one.
const (
	rangeLimit = 4 << 20   // bytes from the first object to the last one
	rangeFloor = 256 << 10 // what a range is not cut below for the sake of others
	rangeShare = 16        // ranges for each processor are enough
	gapLimit   = 128 << 10 // bytes between two wanted objects, read for nothing
	tailGuess  = 72 << 10  // bytes read for the last object, whose length nobody tells
)

// wanted is an object of a call of Get.
type wanted struct {
	i int // its place in ids
	place
}

// reader is what one goroutine needs to read objects.
type reader struct {
	buf     []byte // a range
	body    []byte
	dec     *pack.Decoder
	hasher  *pack.Hasher
	scratch *pack.Scratch
}

func newReader() *reader {
	return &reader{dec: pack.NewDecoder(maxBlob), hasher: pack.NewHasher(), scratch: pack.NewScratch(maxBlob)}
}

// trim gives back the room that a rare large object took.
func (r *reader) trim() {
	if cap(r.body) > rangeLimit {
		r.body = nil
	}
}

// Get calls fn once for each id, in any order and from several goroutines at
// once: all are located, sorted by pack and offset, and read in ranges.
func (p *Packs) Get(ctx context.Context, ids []pack.ID, fn func(i int, t pack.Type, body []byte) error) error {
	if err := p.refreshIfEnded(); err != nil {
		return err
	}
	if p.far != nil {
		return p.getFar(ctx, ids, fn)
	}
	want := make([]wanted, 0, len(ids))
	var loose []int
	for i, id := range ids {
		at, ok, err := p.findFresh(ctx, id)
		if err != nil {
			return err
		}
		if !ok {
			loose = append(loose, i)
			continue
		}
		want = append(want, wanted{i, at})
	}
	return p.getAll(ctx, ids, want, loose, fn)
}

// getAll reads the objects of want from packs, and those with the places of loose.
func (p *Packs) getAll(ctx context.Context, ids []pack.ID, want []wanted, loose []int, fn func(int, pack.Type, []byte) error) error {
	for _, i := range loose {
		if err := p.getLoose(ctx, ids[i], i, fn); err != nil {
			return err
		}
	}
	slices.SortFunc(want, func(a, b wanted) int {
		if a.file != b.file {
			return cmp.Compare(a.file.name, b.file.name)
		}
		return cmp.Compare(a.off, b.off)
	})
	return p.getRanges(ctx, ids, want, fn)
}

// refreshIfEnded fails after Close.
func (p *Packs) refreshIfEnded() error {
	if p.ended.Load() {
		return ErrClosed
	}
	return nil
}

// cutRange returns how many of the sorted objects one read should fetch.
func cutRange(want []wanted) int { return cutTo(want, rangeLimit) }

// cutTo is cutRange for reads of up to limit bytes.
func cutTo(want []wanted, limit int64) int {
	n := 1
	for n < len(want) && want[n].follows(want[n-1]) && want[n].off-want[0].off <= limit {
		n++
	}
	return n
}

// follows reports whether an object can be in one range with the one before it.
func (w *wanted) follows(prev wanted) bool {
	return w.file == prev.file && w.off-prev.off <= gapLimit
}

// limitFor returns how long ranges should be so that workers have equal shares.
func (p *Packs) limitFor(want []wanted, workers int) int64 {
	total := int64(0)
	for i := 1; i < len(want); i++ {
		if want[i].follows(want[i-1]) {
			total += want[i].off - want[i-1].off
		}
	}
	share, floor := int64(rangeShare), int64(rangeFloor)
	if p.far != nil {
		share, floor = farShare, farFloor
	}
	return min(max(total/(int64(workers)*share), floor), rangeLimit)
}

// getRanges reads the objects of want, which is sorted, with as many
// goroutines as there are processors and ranges.
func (p *Packs) getRanges(ctx context.Context, ids []pack.ID, want []wanted, fn func(int, pack.Type, []byte) error) error {
	if len(want) == 0 {
		return nil
	}
	workers := runtime.GOMAXPROCS(0)
	if p.far != nil {
		workers = p.far.Parallel()
	}
	limit := p.limitFor(want, workers)
	if cutTo(want, limit) == len(want) {
		return p.getRange(ctx, ids, want, fn)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var ends []int
	for at := 0; at < len(want); {
		at += cutTo(want[at:], limit)
		ends = append(ends, at)
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, len(ends)) {
		wg.Go(func() {
			for {
				k := int(next.Add(1)) - 1
				if k >= len(ends) || ctx.Err() != nil {
					return
				}
				start := 0
				if k > 0 {
					start = ends[k-1]
				}
				if soon := k + workers; soon < len(ends) && p.far == nil {
					p.prefetch(want[ends[soon-1]:ends[soon]])
				}
				if err := p.getRange(ctx, ids, want[start:ends[k]], fn); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// prefetch has the disk read what getRange will read, while others are worked on.
func (p *Packs) prefetch(want []wanted) {
	first, last := want[0], want[len(want)-1]
	handle{&p.files, first.file.packName()}.prefetch(first.off, last.off+tailGuess-first.off)
}

// getRange reads neighbouring objects with one read and gives them to fn.
func (p *Packs) getRange(ctx context.Context, ids []pack.ID, want []wanted, fn func(int, pack.Type, []byte) error) error {
	r := p.scratch.Get().(*reader)
	defer func() {
		r.trim()
		p.scratch.Put(r)
	}()
	file, start := want[0].file, want[0].off
	r.buf = r.buf[:0]
	if len(want) > 1 {
		end := min(want[len(want)-1].off+tailGuess, file.size-packTrailer)
		// If this fails the objects are read one by one, and fail then.
		if b, err := file.reader().Range(r.buf, start, int(end-start)); err == nil {
			r.buf = b
		}
	}
	for _, w := range want {
		if err := ctx.Err(); err != nil {
			return err
		}
		var entry []byte
		if skip := w.off - start; skip < int64(len(r.buf)) {
			entry = r.buf[skip:]
		}
		t, body, err := p.object(ctx, r, ids[w.i], w.place, entry)
		if err != nil {
			return err
		}
		if err := fn(w.i, t, body); err != nil {
			return err
		}
	}
	return nil
}

// packTrailer is the length of the checksum at the end of a pack.
var packTrailer = int64(len(pack.ID{}.AppendBytes(nil)))

// object returns an object whose hash is right. It is decoded from entry if
// that holds all of it, else it is read from its pack; if the bytes are wrong
// there, other packs that have it are tried.
func (p *Packs) object(ctx context.Context, r *reader, id pack.ID, at place, entry []byte) (pack.Type, []byte, error) {
	if len(entry) > 0 {
		body, t, _, err := r.dec.Append(r.body[:0], entry)
		r.body = body
		if err == nil {
			if got, err := r.hasher.Sum(t, body); err == nil && got == id {
				return t, body, nil
			}
		}
	}
	t, body, err := p.objectAt(r, id, at)
	if err == nil {
		return t, body, nil
	}
	for tried := []*packFile{at.file}; ; {
		other, ok := p.elsewhere(ctx, id, tried)
		if !ok {
			break
		}
		if t, body, otherErr := p.objectAt(r, id, other); otherErr == nil {
			p.warn(at.file.packName(), err)
			return t, body, nil
		}
		tried = append(tried, other.file)
	}
	if errors.Is(err, errGone) { // the pack was taken away; the object may be in a new one
		if err := p.refresh(ctx); err != nil {
			return 0, nil, err
		}
		if now, ok, findErr := p.find(p.table.Load(), id, nil); ok && findErr == nil && now.file != at.file {
			return p.object(ctx, r, id, now, nil)
		}
		t, body, looseErr := p.looseObject(ctx, id)
		if looseErr == nil {
			return t, body, nil
		}
	}
	return 0, nil, err
}

// objectAt reads an object from one pack and compares its hash.
func (p *Packs) objectAt(r *reader, id pack.ID, at place) (pack.Type, []byte, error) {
	f := at.file
	pk, find := f.reader(), p.finder(f)
	t, body, err := pk.Object(r.scratch, at.off, find)
	if errors.Is(err, pack.ErrTooLarge) {
		// Directories may be larger than any blob that one writes.
		big := pack.NewScratch(maxTree)
		if kind, _, e := pk.Header(big, at.off, find); e == nil && kind == pack.Tree {
			t, body, err = pk.Object(big, at.off, find)
		}
	}
	if isGone(err) {
		f.gone.Store(true)
		if p.far != nil { // nobody else takes its packs away
			p.warn(f.packName(), err)
		}
		return 0, nil, fmt.Errorf("%w: %w", errGone, err)
	}
	if err != nil {
		return 0, nil, err
	}
	got, err := r.hasher.Sum(t, body)
	if err != nil {
		return 0, nil, err
	}
	if got != id {
		return 0, nil, &pack.CorruptError{File: f.packName(), Off: at.off, Reason: fmt.Sprintf("object %v has the bytes of %v %v", id, t, got)}
	}
	return t, body, nil
}
