package repo

import (
	"context"
	"errors"
	"io/fs"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kedgebackup/kedge/pack"
)

// Group is one of a few groups that a walk puts objects into. What they mean is for the walk
// to say; 0 is none.
type Group uint8

// maxGroups is how many groups there are: 1 to maxGroups.
const maxGroups = 4

// maxLoose is how many loose objects there may be where one is needed. Their ids are in
// memory, as no idx lists them; git packs them long before they are so many.
const maxLoose = 1 << 18

// Selection is the objects of a repository as it is at one moment, put into groups by a walk
// over all that there is. What is remembered of an object is a bit for each group of which
// its pack has any; a map of ids would take two hundred times as much.
//
// An object that stands in several packs is put into its group in one of them. Which one
// depends on nothing but the packs, so that no object is in a selection twice.
//
// A Selection may be used by several goroutines at once.
type Selection struct {
	p      *Packs
	t      *table
	packs  []*groupedPack
	of     map[*packFile]*groupedPack
	recent [maxGroups + 1]atomic.Pointer[groupedPack] // where objects of a group were found last
	large  chan struct{}

	mu     sync.Mutex
	loose  *looseSet // nil until an object was in no pack
	counts [maxGroups + 1]int64
}

// grouped is objects in a row with their groups. Group 0 is those that were put off, which
// may be in another one as well.
type grouped struct {
	n    int
	bits [maxGroups + 1]bitmap // nil: there are none in it
}

type groupedPack struct {
	*packFile
	grouped
}

// looseSet is the loose objects.
type looseSet struct {
	ids []pack.ID // sorted
	grouped
}

// get returns the group of object i.
func (s *grouped) get(i int) Group {
	for k := 1; k <= maxGroups; k++ {
		if b := s.bits[k]; b != nil && b.has(i) {
			return Group(k)
		}
	}
	return 0
}

// set puts object i into a group.
func (s *grouped) set(i int, k Group) (news bool) {
	if s.bits[k] == nil {
		s.bits[k] = makeBitmap(s.n)
	}
	return s.bits[k].add(i)
}

// count returns how many objects are in a group.
func (s *grouped) count(k Group) (n int) {
	for _, word := range s.bits[k] {
		n += bits.OnesCount32(word)
	}
	return n
}

// NewSelection begins a selection of the objects that are there now. Large may be shared by
// several; it holds one element while one of them has an object above a mebibyte in memory.
// nil: one of its own.
func (p *Packs) NewSelection(ctx context.Context, large chan struct{}) (*Selection, error) {
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	if large == nil {
		large = make(chan struct{}, 1)
	}
	s := &Selection{p: p, t: p.table.Load(), of: make(map[*packFile]*groupedPack), large: large}
	for _, f := range s.t.packs {
		ok, err := p.open(f)
		if err != nil {
			return nil, err
		}
		if ok { // a damaged one is as good as none
			mp := &groupedPack{packFile: f, grouped: grouped{n: f.idx.Len()}}
			s.packs = append(s.packs, mp)
			s.of[f] = mp
		}
	}
	return s, nil
}

// Count returns how many objects are in a group.
func (s *Selection) Count(k Group) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[k]
}

// GroupOf returns the group of an object. One that is not there is a *MissingError.
func (s *Selection) GroupOf(ctx context.Context, id pack.ID) (Group, error) {
	at, i, err := s.spot(ctx, id, 0)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return at.get(i), nil
}

// Put puts an object into a group unless it is in one, and returns the one that it was in.
// An object that is not there is a *MissingError.
func (s *Selection) Put(ctx context.Context, id pack.ID, k Group) (had Group, err error) {
	at, i, err := s.spot(ctx, id, k)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if had = at.get(i); had == 0 {
		at.set(i, k)
		s.counts[k]++
	}
	return had, nil
}

// Each calls fn for the objects of a group, some thousands at a time. Nothing may be put
// into the group meanwhile.
func (s *Selection) Each(ctx context.Context, k Group, fn func(ids []pack.ID) error) error {
	var ids []pack.ID
	give := func(most int) error {
		if len(ids) < most || len(ids) == 0 {
			return nil
		}
		err := fn(ids)
		ids = ids[:0]
		return firstErr(err, ctx.Err())
	}
	for _, mp := range s.packs {
		if mp.bits[k] == nil {
			continue
		}
		c := mp.idx.Cursor(groupStep)
		for i := 0; i < mp.n; i++ {
			r, ok, err := c.Next()
			if err != nil || !ok {
				return rewritten(err)
			}
			if mp.bits[k].has(i) {
				ids = append(ids, r.ID)
			}
			if err := give(groupStep); err != nil {
				return err
			}
		}
	}
	if l := s.loose; l != nil && l.bits[k] != nil {
		for i, id := range l.ids {
			if l.bits[k].has(i) {
				ids = append(ids, id)
			}
		}
	}
	return give(0)
}

// PutOff remembers an object for TakePutOff, whatever group it is in: that is how a walk
// keeps the list of what it has still to look at short.
func (s *Selection) PutOff(ctx context.Context, id pack.ID) error {
	at, i, err := s.spot(ctx, id, 0)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.set(i, 0) {
		s.counts[0]++
	}
	return nil
}

// TakePutOff appends to dst some objects that were put off, most at most, and forgets them.
func (s *Selection) TakePutOff(dst []pack.ID, most int) ([]pack.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, mp := range s.packs {
		if most == 0 || s.counts[0] == 0 {
			return dst, nil
		}
		if mp.bits[0] == nil {
			continue
		}
		c := mp.idx.Cursor(groupStep)
		for i := 0; most > 0; i++ {
			r, ok, err := c.Next()
			if err != nil || !ok {
				if err != nil {
					return dst, rewritten(err)
				}
				break
			}
			if mp.take(i) {
				dst = append(dst, r.ID)
				most--
				s.counts[0]--
			}
		}
	}
	if l := s.loose; l != nil && l.bits[0] != nil {
		for i := 0; i < l.n && most > 0; i++ {
			if l.take(i) {
				dst = append(dst, l.ids[i])
				most--
				s.counts[0]--
			}
		}
	}
	return dst, nil
}

// take reports whether object i was put off, and forgets it.
func (s *grouped) take(i int) bool {
	bit := uint32(1) << (i % 32)
	was := s.bits[0][i/32]&bit != 0
	s.bits[0][i/32] &^= bit
	return was
}

// spot returns the place of an object. The pack in which one of the group hint was found last
// is tried first. The object may have its place in another pack that has it too; but if it
// is in a group here, then here is its place.
func (s *Selection) spot(ctx context.Context, id pack.ID, hint Group) (*grouped, int, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	if mp := s.recent[hint].Load(); mp != nil && len(s.packs) > 1 {
		i, ok, err := mp.idx.Place(id)
		if err != nil {
			return nil, 0, rewritten(err)
		}
		if ok && s.known(mp, i) {
			return &mp.grouped, i, nil
		}
	}
	mp, i, err := s.find(id)
	if err != nil {
		return nil, 0, rewritten(err)
	}
	if mp == nil {
		return s.looseSpot(ctx, id)
	}
	if s.recent[hint].Load() != mp {
		s.recent[hint].Store(mp)
	}
	return &mp.grouped, i, nil
}

// known reports whether object i of a pack is in a group.
func (s *Selection) known(mp *groupedPack, i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return mp.get(i) != 0
}

// find returns the one place of an object in a pack, nil if it is in none.
func (s *Selection) find(id pack.ID) (*groupedPack, int, error) {
	packs := s.t.single
	if s.t.midx != nil {
		n, _, ok, err := s.t.midx.Find(id)
		if err == nil && !ok {
			if s.t.midx.misses.due(s.t.midx.Len()) {
				err = s.t.midx.BuildFilter()
			}
		}
		if err != nil && !errors.As(err, new(*pack.CorruptError)) {
			return nil, 0, err
		}
		if err != nil || ok {
			packs = s.t.packs // if it is not where the multi-pack-index says
		}
		if f := s.of[s.t.midxPack(n, ok && err == nil)]; f != nil {
			if i, ok, err := f.place(id); ok || err != nil {
				return f, i, err
			}
		}
	}
	for _, f := range packs {
		mp := s.of[f]
		if mp == nil {
			continue
		}
		if i, ok, err := mp.place(id); ok || err != nil {
			return mp, i, err
		}
	}
	return nil, 0, nil
}

// midxPack returns a pack that the multi-pack-index names.
func (t *table) midxPack(n int, ok bool) *packFile {
	if !ok || n >= len(t.midxPacks) {
		return nil
	}
	return t.midxPacks[n]
}

// place returns the number of an object in a pack.
func (mp *groupedPack) place(id pack.ID) (int, bool, error) {
	i, ok, err := mp.idx.Place(id)
	if err == nil && !ok && mp.misses.due(mp.n) {
		err = mp.idx.BuildFilter()
	}
	return i, ok, err
}

// rewritten returns what an error about an idx means to a walk: who repacks the
// repository takes away what is being read.
func rewritten(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &BusyError{What: "repository", Hint: "its packs were rewritten meanwhile"}
	}
	return err
}

// looseSpot returns the place of an object that is in no pack.
func (s *Selection) looseSpot(ctx context.Context, id pack.ID) (*grouped, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loose == nil {
		l, err := s.p.listLoose(ctx)
		if err != nil {
			return nil, 0, err
		}
		s.loose = l
	}
	i, ok := slices.BinarySearchFunc(s.loose.ids, id, pack.ID.Compare)
	if !ok {
		return nil, 0, &MissingError{ID: id}
	}
	return &s.loose.grouped, i, nil
}

// listLoose lists the loose objects.
func (p *Packs) listLoose(ctx context.Context) (*looseSet, error) {
	const hex = "0123456789abcdef"
	l := new(looseSet)
	for i := range 256 {
		dir := "objects/" + string([]byte{hex[i>>4], hex[i&15]})
		err := p.store.List(ctx, dir, func(name string, _ int64) error {
			id, err := pack.ParseID(name[len("objects/"):len(dir)] + name[len(dir)+1:])
			if err != nil {
				return nil // what git has not finished writing
			}
			if len(l.ids) == maxLoose {
				return &RefusedError{Reason: "the repository has too many loose objects; git gc packs them"}
			}
			l.ids = append(l.ids, id)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(l.ids, pack.ID.Compare)
	l.n = len(l.ids)
	return l, nil
}
