package repo

import (
	"context"
	"slices"

	"github.com/kedgebackup/kedge/pack"
)

// FarStore is a Store of which each read costs a round trip, such as one behind S3. It
// knows where objects are without a search in the idx files of all packs, and is asked for
// many at once.
type FarStore interface {
	Store
	// Locate returns where objects are, as many places as there are ids. A place is only
	// what the store believes: who reads there compares what is read with the id. Packs
	// for which skip returns true do not count.
	Locate(ctx context.Context, ids []pack.ID, skip func(pack string) bool) ([]Located, error)
	// Parallel returns how many reads should be under way at once.
	Parallel() int
}

// Located is a place in a pack.
type Located struct {
	Pack string // "pack-…", without directory and ending; "": the object is in no pack
	Off  int64
}

// IsFar reports whether each read of a repository costs a round trip, so that it pays to
// ask for more before the last answers are there.
func IsFar(r Repo) bool {
	f, ok := r.(interface{ IsFar() bool })
	return ok && f.IsFar()
}

// IsFar reports whether each read costs a round trip.
func (p *Packs) IsFar() bool { return p.far != nil }

// How the objects of a FarStore are read: ranges are long, as each costs a round trip, and
// every reader has two of them, so that one that is slow does not keep the others waiting.
const (
	farShare = 2
	farFloor = 1 << 20
)

// reader returns the pack of a place that was found.
func (f *packFile) reader() *pack.Pack {
	if f.ready.Load() {
		return f.pack
	}
	return f.bare.Load()
}

// finder returns what looks up the base of a delta.
func (p *Packs) finder(f *packFile) pack.FindFunc {
	if f.ready.Load() {
		return f.idx.Find
	}
	return func(id pack.ID) (int64, bool, error) {
		at, ok, err := p.findIn(f, id)
		return at.off, ok, err
	}
}

// places returns where objects of a FarStore are; file is nil for those that are in no
// pack that counts.
func (p *Packs) places(ctx context.Context, t *table, ids []pack.ID, want func(*packFile) bool) ([]place, error) {
	counts := func(name string) *packFile {
		if f := t.byName[name]; f != nil && !f.gone.Load() && (want == nil || want(f)) {
			return f
		}
		return nil
	}
	found, err := p.locate(ctx, t, ids, counts)
	if err != nil {
		return nil, err
	}
	out := make([]place, len(ids))
	for i, l := range found {
		f := counts(l.Pack)
		if f == nil {
			continue
		}
		if f.reader() == nil {
			f.bare.Store(pack.FarPack(f.packName(), handle{&p.files, f.packName()}, f.size))
		}
		out[i] = place{f, l.Off}
	}
	return out, nil
}

// locate looks for objects in the packs of the desk, and asks the store for the others.
func (p *Packs) locate(ctx context.Context, t *table, ids []pack.ID, counts func(string) *packFile) ([]Located, error) {
	skip := func(name string) bool { return counts(name) == nil }
	if len(t.near) == 0 {
		return p.far.Locate(ctx, ids, skip)
	}
	out := make([]Located, len(ids))
	var rest []pack.ID
	var where []int
	for i, id := range ids {
		var ok bool
		if out[i], ok = p.findNear(t, id, counts); !ok {
			rest, where = append(rest, id), append(where, i)
		}
	}
	if len(rest) == 0 {
		return out, nil
	}
	found, err := p.far.Locate(ctx, rest, skip)
	for k, l := range found {
		out[where[k]] = l
	}
	return out, err
}

// findFar is find in a FarStore, for who reads the idx of the pack as well.
func (p *Packs) findFar(t *table, id pack.ID, want func(*packFile) bool) (place, bool, error) {
	at, err := p.places(context.Background(), t, []pack.ID{id}, want)
	if err != nil || at[0].file == nil {
		return place{}, false, err
	}
	ok, err := p.open(at[0].file)
	return at[0], ok, err
}

// getFar is Get from a FarStore.
func (p *Packs) getFar(ctx context.Context, ids []pack.ID, fn func(int, pack.Type, []byte) error) error {
	at, err := p.places(ctx, p.table.Load(), ids, nil)
	if err != nil {
		return err
	}
	want := make([]wanted, 0, len(ids))
	var loose []int
	for i := range at {
		if at[i].file == nil {
			loose = append(loose, i)
			continue
		}
		want = append(want, wanted{i, at[i]})
	}
	return p.getAll(ctx, ids, want, loose, fn)
}

// missingFar is missing in a FarStore.
func (p *Packs) missingFar(ctx context.Context, dst, ids []pack.ID, open bool) ([]pack.ID, error) {
	at, err := p.places(ctx, p.table.Load(), ids, isClosed)
	if err != nil {
		return dst, err
	}
	for i, id := range ids {
		ok := at[i].file != nil
		if !ok && open {
			if ok, err = p.prove(ctx, id); err != nil {
				return dst, err
			}
		}
		if !ok {
			dst = append(dst, id)
		}
	}
	return dst, nil
}

// elsewhere looks for an object in packs that were not tried yet.
func (p *Packs) elsewhere(ctx context.Context, id pack.ID, tried []*packFile) (place, bool) {
	t := p.table.Load()
	if p.far != nil {
		at, err := p.places(ctx, t, []pack.ID{id}, func(f *packFile) bool { return !slices.Contains(tried, f) })
		if err != nil || at[0].file == nil {
			return place{}, false
		}
		return at[0], true
	}
	for _, f := range t.packs {
		if slices.Contains(tried, f) {
			continue
		}
		if at, ok, err := p.findIn(f, id); ok && err == nil {
			return at, true
		}
	}
	return place{}, false
}
