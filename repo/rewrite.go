package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/kedgebackup/kedge/pack"
)

// Rewrite copies what is marked in some packs into new ones, data and what browsing needs
// apart, and publishes those. Objects that are also in a pack that stays are left off, and
// none is written twice. Every object is inflated and compared with its id on the way: a
// damaged one is a *pack.CorruptError, and then nothing may be taken away.
//
// Entries are copied as they stand; deltas are resolved and encoded anew. It returns the
// packs that were published.
func (m *Marks) Rewrite(ctx context.Context, from []pack.ID, stays func(pack.ID) bool) ([]PackInfo, error) {
	begun, err := m.p.Begin(ctx)
	if err != nil {
		return nil, err
	}
	s := begun.(*session)
	defer s.Close()
	w := &rewriter{m: m, s: s, check: &checkWorker{ctx: ctx, reader: newReader()}, enc: pack.NewEncoder(max(1, m.p.config.Compression))}
	w.check.hasher = pack.NewGuard()
	w.stays = func(f *packFile) bool {
		info, ok := f.info()
		return ok && stays(info.Name) && m.of[f] != nil
	}
	for _, name := range from {
		cp := m.pack(name)
		if cp == nil {
			return nil, fmt.Errorf("pack %v is not there any more", name)
		}
		if err := w.pack(ctx, cp); err != nil {
			return nil, fmt.Errorf("%s: %w", cp.packName(), err)
		}
	}
	if err := s.Commit(ctx); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return infos(s.published), nil
}

// pack returns a pack of the census.
func (m *Marks) pack(name pack.ID) *countedPack {
	for _, cp := range m.packs {
		if info, ok := cp.packFile.info(); ok && info.Name == name {
			return cp
		}
	}
	return nil
}

// rewriter copies objects from packs to a session.
type rewriter struct {
	m     *Marks
	s     *session
	check *checkWorker
	enc   *pack.Encoder
	stays func(*packFile) bool

	buf   []byte // a part of the pack at hand
	start int64  // where it begins
	out   []byte
}

// copyStep is how much of a pack is read at once.
const copyStep = 4 << 20

// pack copies what is marked in one pack.
func (w *rewriter) pack(ctx context.Context, cp *countedPack) error {
	w.buf = w.buf[:0]
	return w.m.each(ctx, cp, func(rec placed, size int64, live bool) error {
		if !live {
			return nil
		}
		if at, ok, err := w.m.p.find(w.m.p.table.Load(), rec.id, w.stays); err != nil || ok && at.file != cp.packFile {
			return err
		}
		entry, err := w.entry(cp, rec.off, size)
		if err != nil {
			return err
		}
		t, body, err := w.check.object(cp, rec, entry, rec.off+size)
		if err != nil {
			return err
		}
		e := pack.Entry{ID: rec.id, CRC: rec.crc, Bytes: entry}
		if _, _, _, err := pack.ParseHeader(entry); errors.Is(err, pack.ErrDelta) || rec.crc == 0 {
			w.out, e.CRC = w.enc.Append(w.out[:0], t, body)
			e.Bytes = w.out
		}
		class := Data
		if w.m.browse.has(cp.base + int(rec.num)) {
			class = Trees
		}
		return w.s.fail(w.s.addOne(ctx, class, &e))
	})
}

// entry returns the bytes of an entry, valid until the next call.
func (w *rewriter) entry(cp *countedPack, off, size int64) ([]byte, error) {
	if off < w.start || off+size > w.start+int64(len(w.buf)) || len(w.buf) == 0 {
		n := max(size, min(copyStep, cp.size-packTrailer-off))
		b, err := cp.own.pack.Range(w.buf[:0], off, int(n))
		if err != nil {
			return nil, err
		}
		w.buf, w.start = b, off
	}
	return w.buf[off-w.start:][:size], nil
}

// BringBack copies objects from the trash into the repository again, children before
// their parents.
func (m *Marks) BringBack(ctx context.Context) error {
	if len(m.rescue) == 0 {
		return nil
	}
	s, err := m.p.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	enc := pack.NewEncoder(max(1, m.p.config.Compression))
	for i := len(m.rescue) - 1; i >= 0; i-- {
		id := m.rescue[i]
		err := m.trash.Get(ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
			class := Data
			if t != pack.Blob {
				class = Trees
			}
			out, crc := enc.Append(nil, t, body)
			return s.Add(ctx, class, []pack.Entry{{ID: id, CRC: crc, Bytes: out}})
		})
		if err != nil {
			return err
		}
	}
	return s.Commit(ctx)
}
