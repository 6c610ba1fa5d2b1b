package repo

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"

	"github.com/kedgebackup/kedge/pack"
)

// place is where an object is.
type place struct {
	file *packFile
	off  int64
}

// find looks for an object in all packs. If want is not nil only packs for
// which it returns true count. The places to look, in this order: the pack
// where the last object was found, the multi-pack-index, the other packs.
//
// What the multi-pack-index says is looked up again in the idx of the pack
// that it names: it may be older than what it describes.
func (p *Packs) find(t *table, id pack.ID, want func(*packFile) bool) (place, bool, error) {
	if p.far != nil {
		return p.findFar(t, id, want)
	}
	first := p.recent.Load()
	if first != nil && t.byName[first.name] == first && (want == nil || want(first)) {
		if at, ok, err := p.findIn(first, id); ok || err != nil {
			return at, ok, err
		}
	}
	if t.midx != nil {
		at, ok, known, err := p.findMidx(t, id, want)
		if ok || err != nil {
			return at, ok, err
		}
		if known {
			// It knows the object, but not in a pack that counts; there may be
			// another one among those it covers.
			return p.findAny(t.packs, id, want)
		}
	}
	return p.findAny(t.single, id, want)
}

// findAny looks into every one of packs.
func (p *Packs) findAny(packs []*packFile, id pack.ID, want func(*packFile) bool) (place, bool, error) {
	for _, f := range packs {
		if want != nil && !want(f) {
			continue
		}
		if at, ok, err := p.findIn(f, id); ok || err != nil {
			return at, ok, err
		}
	}
	return place{}, false, nil
}

// findMidx looks into the multi-pack-index; known says that it has the id, or
// that it cannot be read.
func (p *Packs) findMidx(t *table, id pack.ID, want func(*packFile) bool) (at place, ok, known bool, err error) {
	n, _, known, err := t.midx.Find(id)
	if err != nil {
		if errors.As(err, new(*pack.CorruptError)) || errors.Is(err, fs.ErrNotExist) {
			p.warn(fileMidx, err)
			return at, false, true, nil
		}
		return at, false, false, err
	}
	if !known {
		if t.midx.misses.due(t.midx.Len()) {
			err = t.midx.BuildFilter()
		}
		return at, false, false, err
	}
	f := t.midxPacks[n]
	if f == nil || want != nil && !want(f) {
		return at, false, true, nil
	}
	at, ok, err = p.findIn(f, id)
	return at, ok, true, err
}

// findIn looks into one pack. A pack that is damaged or gone has nothing.
func (p *Packs) findIn(f *packFile, id pack.ID) (place, bool, error) {
	ok, err := p.open(f)
	if !ok || err != nil {
		return place{}, false, err
	}
	off, ok, err := f.idx.Find(id)
	if err == nil && !ok && f.misses.due(f.idx.Len()) {
		err = f.idx.BuildFilter()
	}
	if err != nil {
		return place{}, false, p.lost(f, err)
	}
	if ok && p.recent.Load() != f {
		p.recent.Store(f)
	}
	return place{f, off}, ok, nil
}

// misses counts vain searches in a table of ids, until a filter is worth the
// reading of the whole table. What comes later is not counted: a counter that all
// workers write to for every id is one that they wait for.
type misses struct{ n atomic.Int64 }

// due counts a vain search in a table of n ids, and reports whether it is the one
// after which the filter is to be made.
func (m *misses) due(n int) bool {
	after := int64(1000 + n/200)
	return m.n.Load() < after && m.n.Add(1) == after
}

// findFresh is find, and once more if the packs have changed since: another
// writer may have added one, git may have packed them anew.
func (p *Packs) findFresh(ctx context.Context, id pack.ID) (place, bool, error) {
	t := p.table.Load()
	at, ok, err := p.find(t, id, nil)
	if ok || err != nil {
		return at, ok, err
	}
	if err := p.refresh(ctx); err != nil {
		return place{}, false, err
	}
	if now := p.table.Load(); now != t {
		return p.find(now, id, nil)
	}
	return place{}, false, nil
}
