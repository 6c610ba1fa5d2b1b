package repo

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/kedgebackup/kedge/pack"
)

// Marks says which objects of a repository are reached from some tips. Only trees,
// commits and tags are read; of blobs it is enough that they are there. What is
// remembered of an object is two bits, so a billion of them take 250 MB.
//
// An object that is in two packs is marked in one of them, and it may be either.
//
// Marks hold for the packs that there were when they began: what came later is not
// counted, and what went is missing.
type Marks struct {
	p     *Packs
	trash *Packs // where else an object may be; nil if nothing is in the trash

	census
	browse bitmap // it is a tree, a commit, a tag or the metadata of a directory
	queue  treeQueue

	mu     sync.Mutex
	rescue []pack.ID        // reached, and only in the trash, parents before children
	other  map[pack.ID]bool // reached, and in no pack of the census
	trees  int64
}

// MarkAll takes a census of the packs there are. Objects that are in none of them are
// looked for in the trash if that is wanted.
func (p *Packs) MarkAll(ctx context.Context, useTrash bool) (*Marks, error) {
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	m := &Marks{p: p, other: make(map[pack.ID]bool)}
	m.queue.more.L = &m.queue.mu
	m.of = make(map[*packFile]*countedPack)
	for _, f := range p.table.Load().packs {
		cp := &countedPack{packFile: f, base: m.n}
		cp.own.name, cp.own.size, cp.own.idxSize = f.name, f.size, f.idxSize
		if err := p.tryOpen(&cp.own); err != nil {
			return nil, fmt.Errorf("%s: %w", f.packName(), err)
		}
		m.n += cp.own.idx.Len()
		m.packs = append(m.packs, cp)
		m.of[f] = cp
	}
	m.seen, m.browse = makeBitmap(m.n), makeBitmap(m.n)
	if useTrash && p.dir != nil {
		var err error
		if m.trash, err = p.dir.openTrash(ctx, p.config); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Close gives back what the marks hold open.
func (m *Marks) Close() error {
	if m.trash == nil {
		return nil
	}
	return m.trash.Close()
}

// Trees returns how many trees, commits and tags were read so far.
func (m *Marks) Trees() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trees
}

// Rescue returns what was reached and is nowhere but in the trash, parents before
// their children.
func (m *Marks) Rescue() []pack.ID { return m.rescue }

// Reach marks objects of any type and all below them. One that is nowhere is a
// *MissingError. It may be called again, and then goes down only to what is new.
func (m *Marks) Reach(ctx context.Context, tips ...pack.ID) error {
	for _, id := range tips {
		if news, err := m.reach(id, true); err != nil {
			return err
		} else if news {
			m.queue.trees = append(m.queue.trees, id)
		}
	}
	m.queue.err = nil
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			var batch []pack.ID
			for {
				var err error
				if batch, err = m.queue.take(batch); len(batch) == 0 || err != nil {
					return
				}
				m.queue.done(m.below(ctx, batch))
			}
		})
	}
	wg.Wait()
	return m.queue.err
}

// reach marks one object and reports whether that is news. Browse says that whoever lists
// directories needs it.
func (m *Marks) reach(id pack.ID, browse bool) (news bool, err error) {
	num, err := m.place(id, browse)
	if err != nil {
		return false, err
	}
	if num >= 0 {
		if browse {
			m.browse.add(num)
		}
		return m.seen.add(num), nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.other[id] {
		return false, nil
	}
	m.other[id] = true
	return true, m.elsewhere(id)
}

// place returns the number of an object in the census, -1 if it is not in it. Packs that came
// later may have copies of objects that are, and do not count.
func (m *Marks) place(id pack.ID, browse bool) (int, error) {
	recent := &m.recent[0]
	if browse {
		recent = &m.recent[1]
	}
	t := m.p.table.Load()
	if cp := recent.Load(); cp != nil && t.byName[cp.name] == cp.packFile { // it may have been retired
		if i, ok, err := cp.own.idx.Place(id); ok || err != nil {
			return cp.base + i, err
		}
	}
	at, ok, err := m.p.find(t, id, func(f *packFile) bool { return m.of[f] != nil })
	if err != nil || !ok {
		return -1, err
	}
	cp := m.of[at.file]
	i, ok, err := cp.own.idx.Place(id)
	if err != nil || !ok {
		return -1, err
	}
	recent.Store(cp)
	return cp.base + i, nil
}

// Has reports whether an object is marked.
func (m *Marks) Has(id pack.ID) (bool, error) {
	num, err := m.place(id, true)
	if err != nil || num >= 0 {
		return num >= 0 && m.seen.has(num), err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.other[id], nil
}

// ReachPack marks everything in a pack of which nothing below is missing, and all that is below.
// The pack may have come after the census.
func (m *Marks) ReachPack(ctx context.Context, name pack.ID) error {
	f := m.p.table.Load().byName["pack-"+name.String()]
	if f == nil {
		return nil
	}
	if ok, err := m.p.open(f); err != nil || !ok {
		return firstErr(err, errGone)
	}
	s := pack.NewScratch(maxTree)
	var ids []pack.ID
	err := f.idx.Records(func(r pack.Record) error {
		typ, _, err := f.pack.Header(s, r.Off, f.idx.Find)
		switch {
		case err != nil:
			return err
		case typ == pack.Blob:
			_, err := m.reach(r.ID, false)
			return err
		}
		if ids = append(ids, r.ID); len(ids) < kidsAtOnce {
			return ctx.Err()
		}
		err = m.ReachWhole(ctx, ids...)
		ids = ids[:0]
		return err
	})
	return firstErr(err, m.ReachWhole(ctx, ids...))
}

// ReachWhole marks those objects of which nothing below is missing. Of the others it marks
// nothing: half of what somebody left behind is of no use, and could not be written anew.
func (m *Marks) ReachWhole(ctx context.Context, ids ...pack.ID) error {
	lacks, err := m.p.Missing(ctx, nil, ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if len(lacks) > 0 && lacks[0] == id {
			lacks = lacks[1:]
			continue
		}
		if err := m.Reach(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// Later returns the packs that came after the census.
func (m *Marks) Later(ctx context.Context) (names []pack.ID, err error) {
	if err := m.p.refresh(ctx); err != nil {
		return nil, err
	}
	for _, f := range m.p.table.Load().packs {
		if info, ok := f.info(); ok && m.of[f] == nil {
			names = append(names, info.Name)
		}
	}
	return names, nil
}

// elsewhere makes sure that an object that is in no pack of the census is in the trash,
// loose, or in a pack that was published since, and takes notice if it is to be brought
// back from the trash.
func (m *Marks) elsewhere(id pack.ID) error {
	if m.trash != nil {
		if _, ok, err := m.trash.find(m.trash.table.Load(), id, nil); err != nil || ok {
			m.rescue = append(m.rescue, id)
			return err
		}
	}
	ctx := context.Background()
	return m.p.Get(ctx, []pack.ID{id}, func(int, pack.Type, []byte) error { return nil })
}

// below marks what a batch of objects names, and puts what has to be read in the queue.
func (m *Marks) below(ctx context.Context, ids []pack.ID) error {
	visit := func(i int, t pack.Type, body []byte) error {
		return m.visit(ids[i], t, body)
	}
	err := m.p.Get(ctx, ids, visit)
	if errors.As(err, new(*MissingError)) && m.trash != nil { // one of them is in the trash
		for i, id := range ids {
			from := m.p
			if _, ok, ferr := m.p.findFresh(ctx, id); ferr != nil {
				return ferr
			} else if !ok {
				if _, ok, err := m.trash.find(m.trash.table.Load(), id, nil); err != nil {
					return err
				} else if ok {
					from = m.trash
				}
			}
			err = from.Get(ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error { return visit(i, t, body) })
			if err != nil {
				return err
			}
		}
		err = nil
	}
	m.mu.Lock()
	m.trees += int64(len(ids))
	m.mu.Unlock()
	return err
}

// visit marks the children of one object. Visiting one twice does no harm.
func (m *Marks) visit(id pack.ID, t pack.Type, body []byte) error {
	var deeper []pack.ID
	name := func(kid pack.ID, read, browse bool) error {
		news, err := m.reach(kid, read || browse)
		if err != nil {
			return fmt.Errorf("below %v %v: %w", t, id, err)
		}
		if news && read {
			deeper = append(deeper, kid)
		}
		return nil
	}
	switch t {
	case pack.Blob:
		return nil
	case pack.Tree:
		s := NewTreeScanner(body)
		for s.Next() {
			if s.Mode == modeGitlink {
				continue
			}
			if err := name(s.ID, s.Mode == ModeDir, string(s.Name) == bupmName); err != nil {
				return err
			}
		}
		if err := s.Err(); err != nil {
			return fmt.Errorf("tree %v: %w", id, err)
		}
	default:
		kids, err := children(nil, t, body)
		if err != nil {
			return fmt.Errorf("%v %v: %w", t, id, err)
		}
		for _, kid := range kids {
			if err := name(kid, true, true); err != nil {
				return err
			}
		}
	}
	if len(deeper) > 0 {
		m.queue.put(deeper...)
	}
	return nil
}

// PackUse is what of a pack is reached.
type PackUse struct {
	PackInfo
	Live, Dead           int   // objects
	LiveBytes, DeadBytes int64 // of their entries
	// DeadTree says that a dead object is no blob. It is not found out for a pack of
	// which a tenth is dead, which is enough to write it anew.
	DeadTree bool
	Browse   int // live objects that are no contents of files
}

// Use counts what of each pack is reached. It looks at the headers of as few dead objects
// as it can, because that is a read each.
func (m *Marks) Use(ctx context.Context) ([]PackUse, error) {
	uses := make([]PackUse, 0, len(m.packs))
	for _, cp := range m.packs {
		u, err := m.use(ctx, cp)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cp.packName(), err)
		}
		uses = append(uses, u)
	}
	return uses, nil
}

// UseOf is Use for one pack. Of one that was published after the census nothing is counted:
// the zero PackUse.
func (m *Marks) UseOf(ctx context.Context, name pack.ID) (PackUse, error) {
	cp := m.pack(name)
	if cp == nil {
		return PackUse{}, nil
	}
	return m.use(ctx, cp)
}

func (m *Marks) use(ctx context.Context, cp *countedPack) (u PackUse, err error) {
	u.PackInfo, _ = cp.packFile.info()
	s := pack.NewScratch(maxTree)
	err = m.each(ctx, cp, func(rec placed, size int64, live bool) error {
		if live {
			u.Live++
			u.LiveBytes += size
			if m.browse.has(cp.base + int(rec.num)) {
				u.Browse++
			}
			return nil
		}
		u.Dead++
		u.DeadBytes += size
		if u.DeadTree || u.DeadBytes >= cp.size/10 {
			return nil
		}
		t, _, err := cp.own.pack.Header(s, rec.off, cp.own.idx.Find)
		u.DeadTree = t != pack.Blob
		return err
	})
	return u, err
}

// each calls fn for each object of a pack by its place.
func (m *Marks) each(ctx context.Context, cp *countedPack, fn func(rec placed, size int64, live bool) error) error {
	l := packLister{cp: cp, most: partObjects}
	var part partBuffer
	for l.at < cp.size {
		if err := firstErr(ctx.Err(), l.next(&part)); err != nil {
			return err
		}
		if l.reason != "" {
			return &pack.CorruptError{File: cp.idxName(), Off: -1, Reason: l.reason}
		}
		for i, rec := range part.recs {
			end := part.end
			if i+1 < len(part.recs) {
				end = part.recs[i+1].off
			}
			if err := fn(rec, end-rec.off, m.seen.has(cp.base+int(rec.num))); err != nil {
				return err
			}
		}
	}
	return nil
}

// Bytes returns how many bytes the marked entries take in their packs.
func (m *Marks) Bytes(ctx context.Context) (n int64, err error) {
	for _, cp := range m.packs {
		err := m.each(ctx, cp, func(_ placed, size int64, live bool) error {
			if live {
				n += size
			}
			return nil
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Have marks objects without what is below them.
func (m *Marks) Have(ids ...pack.ID) error {
	for _, id := range ids {
		if _, err := m.reach(id, true); err != nil {
			return err
		}
	}
	return nil
}
