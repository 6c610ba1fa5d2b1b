package repo

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/kedgebackup/kedge/pack"
)

// checkTables compares the tables of ids with their checksums, each once in a
// process, before a session relies on them. A closed pack proves that all below
// its objects is there (I9); that proof does not look at the idx in which a child
// is found, so one flipped bit there would let a save pass that lacks the child
// (I2). Reading costs about half a second for a gigabyte of tables, which is
// forty million objects.
//
// Tables are derived: a damaged multi-pack-index is removed, and an idx that is
// damaged or gone is made anew from its pack. Where that cannot be done the pack
// counts as absent: what it holds is proved to be elsewhere, or stored again.
func (s *session) checkTables(ctx context.Context) error {
	if s.p.depot != nil {
		return nil // the idx files of the desk are checked when they are opened
	}
	again, err := s.checkMidx(ctx)
	if err != nil {
		return err
	}
	lines, err := s.p.dir.closedPacks()
	if err != nil {
		return err
	}
	t := s.p.table.Load()
	for _, l := range lines {
		if t.byName[l.name] == nil && !l.uses {
			made, err := s.reindex(ctx, &packFile{name: l.name, size: l.size})
			if err != nil {
				return err
			}
			again = again || made
		}
	}
	for _, f := range t.packs {
		made, err := s.checkIdx(ctx, f)
		if err := firstErr(err, ctx.Err()); err != nil {
			return err
		}
		again = again || made
	}
	if !again {
		return nil
	}
	s.p.mu.Lock()
	s.p.sure = false
	s.p.mu.Unlock()
	return s.rely(ctx, 0)
}

// checkMidx removes a multi-pack-index that is not what its checksum says.
func (s *session) checkMidx(ctx context.Context) (removed bool, err error) {
	m := s.p.table.Load().midx
	if m == nil || m.checked.Load() {
		return false, nil
	}
	err = pack.CheckTrailer(fileMidx, m.blob, m.size)
	if errors.As(err, new(*pack.CorruptError)) {
		s.p.warn(fileMidx, err)
		return true, s.p.store.Remove(ctx, fileMidx)
	}
	if err == nil {
		m.checked.Store(true)
	}
	return false, err
}

// checkIdx compares an idx with its checksum, and makes it anew if it is damaged.
func (s *session) checkIdx(ctx context.Context, f *packFile) (made bool, err error) {
	if f.checked.Load() {
		return false, nil
	}
	ok, err := s.p.open(f)
	if err != nil {
		return false, err
	}
	if ok {
		err = f.idx.CheckSum()
	}
	switch {
	case err == nil && ok:
		f.checked.Store(true)
		return false, nil
	case err != nil && !errors.As(err, new(*pack.CorruptError)):
		return false, err
	}
	if made, rerr := s.reindex(ctx, f); made || rerr != nil {
		return made, rerr
	}
	if err != nil {
		err = s.p.lost(f, err)
	}
	return false, err
}

// reindex makes the idx of a pack anew:
//
//	read the pack, hash every object; write IDX, fsync, rename, fsync of objects/pack
//
// made is false if the pack itself is no good, or not there. Only then the idx
// is not what is wrong.
func (s *session) reindex(ctx context.Context, f *packFile) (made bool, err error) {
	sum, err := pack.ParseID(strings.TrimPrefix(f.name, "pack-"))
	if err != nil {
		return false, nil //nolint:nilerr // a pack of a name that is no checksum is not ours
	}
	b, err := s.p.store.Open(ctx, f.packName())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer b.Close()
	var index *pack.Index
	p, err := pack.OpenPack(f.packName(), b, b.Size(), sum)
	if err == nil {
		index, err = p.Reindex(pack.NewScratch(maxBlob))
	}
	if err != nil {
		s.p.warn(f.packName(), err)
		return false, nil
	}
	out, err := s.store.Create(ctx)
	if err != nil {
		return false, err
	}
	defer out.Abort()
	r, ok := out.(replacer)
	if !ok {
		return false, nil
	}
	if _, err := index.WriteTo(out); err != nil {
		return false, err
	}
	if err := r.replace(f.idxName()); err != nil {
		return false, err
	}
	s.p.drop(f.name)
	return true, nil
}
