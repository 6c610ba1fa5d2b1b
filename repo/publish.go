package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/pack/midx"
)

// publish finishes a pack and gives it and its idx their names, the pack first,
// so that whoever sees the idx sees the pack:
//
//	write PACK ..., write its count, read it back, write its checksum, write
//	IDX, fsync PACK, fsync IDX, link PACK, link IDX, fsync of objects/pack;
//	write the name to kedge/closed, fsync
//
// The pack is listed as closed if all children of its objects are: it is data,
// and names nothing in the pack of trees, or it is trees, which come behind all
// data. What is not listed now is listed with the next pack of trees.
func (s *session) publish(ctx context.Context, n *newPack) error {
	defer n.out.Abort()
	name, index, err := n.w.Finish()
	if err != nil {
		return err
	}
	f := &packFile{name: "pack-" + name.String(), size: n.w.Size() + packTrailer}
	out, err := s.store.Create(ctx)
	if err != nil {
		return err
	}
	defer out.Abort()
	if f.idxSize, err = index.WriteTo(out); err != nil {
		return err
	}
	// Who saves has no use for the pages of a pack; who sends it on to a depot has.
	if w, ok := n.out.(*dirPending); ok && s.p.depot == nil {
		w.passing = n.w.Size() >= passingMin
	}
	if together, ok := n.out.(pairer); ok {
		err = together.commitPair(f.packName(), out, f.idxName())
	} else if err = n.out.Commit(f.packName()); err == nil {
		err = out.Commit(f.idxName())
	}
	if errors.As(err, new(*ExistsError)) {
		err = s.takePlace(ctx, f, n.out, out, index.Len())
	}
	if err != nil {
		return err
	}
	if s.p.depot != nil {
		if err := s.p.depot.send(ctx, f.name); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.bytes += f.size
	s.published = append(s.published, f)
	n.file = f
	s.mu.Unlock()
	if n.class == Data && n.leans {
		return nil
	}
	return s.list(ctx, n)
}

// passingMin is the size from which a pack is dropped from the page cache when it is
// on the disk. What a night adds to a quiet machine may as well stay.
const passingMin = 16 << 20

// pairer is what a Pending implements that can be committed with another one
// at less cost.
type pairer interface {
	commitPair(name string, other Pending, otherName string) error
}

// replacer is what a Pending implements that can take the place of a file.
type replacer interface{ replace(name string) error }

// takePlace publishes a pack and its idx where files of their names have other
// bytes. The name of a pack is the hash of its bytes, so what is there is
// damaged, and ours, which was read back, is what it should be: nothing is lost
// when ours is renamed over it. Otherwise the damage would be in the way of
// whoever saves the same again (I5). An idx may have been written by another
// version of git and be as good.
func (s *session) takePlace(ctx context.Context, f *packFile, packOut, idxOut Pending, objects int) error {
	put := func(out Pending, name string) error {
		err := out.Commit(name)
		r, ok := out.(replacer)
		if ok && errors.As(err, new(*ExistsError)) {
			err = r.replace(name)
		}
		return err
	}
	if err := put(packOut, f.packName()); err != nil {
		return err
	}
	if size, err := s.sameIdx(ctx, f, objects); err == nil {
		f.idxSize = size
	} else if err := put(idxOut, f.idxName()); err != nil {
		return err
	}
	s.p.drop(f.name)
	return nil
}

// sameIdx checks that the idx that is in the place of ours is whole and has as
// many objects, and returns its size. That it belongs to the pack is checked
// when it is opened.
func (s *session) sameIdx(ctx context.Context, f *packFile, objects int) (int64, error) {
	b, err := s.p.store.Open(ctx, f.idxName())
	if err != nil {
		return 0, err
	}
	defer b.Close()
	x, err := pack.OpenIdx(f.idxName(), b, b.Size())
	if err == nil {
		err = x.Verify(f.size)
	}
	if err == nil && x.Len() != objects {
		err = &pack.CorruptError{File: f.idxName(), Off: -1, Reason: "has not the objects of its pack"}
	}
	return b.Size(), err
}

// list makes published packs known as closed, to this process and to others,
// and drops their sets of ids.
func (s *session) list(ctx context.Context, packs ...*newPack) error {
	files := make([]*packFile, len(packs))
	for i, n := range packs {
		files[i] = s.p.adopt(n.file)
	}
	if err := s.p.addClosed(ctx, files); err != nil {
		return err
	}
	for _, n := range packs {
		s.recycle(n)
	}
	// A first save of a terabyte makes eight thousand packs. Only packs of data,
	// which come one at a time, lead to a new index over all.
	if packs[0].class == Data && len(s.p.table.Load().single) >= coverPacksMin {
		s.p.coverPacks(ctx, s.store)
	}
	return nil
}

// listRest lists the data packs that had to wait for packs of trees.
func (s *session) listRest(ctx context.Context) error {
	s.mu.RLock()
	rest := slices.Clone(s.live)
	s.mu.RUnlock()
	for _, n := range rest {
		if n.file == nil {
			return fmt.Errorf("pack of %d objects was not published", n.w.Len())
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return s.list(ctx, rest...)
}

// A multi-pack-index is written again when so many packs are outside of it that
// looking into each of them costs, and they hold a quarter of what it covers;
// or when they are very many. So the work stays in proportion to what is added.
const (
	coverPacksMin = 16
	coverPacksMax = 96
)

// coverPacks writes a new multi-pack-index over all packs if that pays. It is
// derived and replaced as a whole, so a crash leaves the old one or the new
// one; and if it cannot be written, nothing is lost but time.
func (p *Packs) coverPacks(ctx context.Context, store Store) {
	if p.depot != nil {
		return // it has tables of its own
	}
	t := p.table.Load()
	single, _ := p.idxes(t.single)
	objects := 0
	for _, x := range single {
		objects += x.Len()
	}
	stale := slices.Contains(t.midxPacks, nil)
	covered := 0
	if t.midx != nil {
		covered = t.midx.Len()
	}
	if n := len(single); !stale && (n < coverPacksMin || n < coverPacksMax && 4*objects < covered) {
		return
	}
	out, err := store.Create(ctx)
	if err == nil {
		defer out.Abort()
		all, names := p.idxes(t.packs)
		into, ok := out.(replacer)
		if !ok || len(all) == 0 {
			return // a Store of files that are written once has no place for it
		}
		err = midx.Write(out, names, all)
		if err == nil {
			err = into.replace(fileMidx)
		}
	}
	p.mu.Lock()
	p.sure, p.scanned = false, time.Time{}
	p.mu.Unlock()
	if err == nil {
		err = p.refresh(ctx)
	}
	if err != nil {
		p.warn(fileMidx, err)
	}
}

// idxes returns the idx files of those packs that can be opened, in the order
// of their names, and the names.
func (p *Packs) idxes(packs []*packFile) (tables []*pack.Idx, names []string) {
	packs = slices.Clone(packs)
	slices.SortFunc(packs, func(a, b *packFile) int { return strings.Compare(a.name, b.name) })
	for _, f := range packs {
		if ok, err := p.open(f); ok && err == nil {
			tables = append(tables, f.idx)
			names = append(names, f.name+".idx")
		}
	}
	return tables, names
}
