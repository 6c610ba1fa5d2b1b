package repo

import (
	"context"
	"hash/crc32"
	"io"
	"slices"

	"github.com/kedgebackup/kedge/pack"
)

const (
	groupStep = 4096    // records of an idx read at once
	groupPart = 1 << 16 // objects that are located and sorted together, about
	sendRange = 1 << 20 // bytes of neighbours that are read at once
)

// entryWriter writes the entries of the objects of a group.
type entryWriter struct {
	*Selection
	ctx     context.Context
	w       io.Writer
	k       Group
	n       int64
	recs    []sentEntry
	end     int64 // where the part of recs ends
	enc     *pack.Encoder
	scratch *pack.Scratch
	buf     []byte
	head    []byte
	made    []byte
}

// sentEntry is an entry and where it is in its pack.
type sentEntry struct {
	off, end int64
	crc      uint32
	id       pack.ID
}

// WriteEntries writes to w the entries of all objects of a group, as a pack has them, and
// returns how many they were. Each pack is read from front to end. An entry is copied as
// it is stored, after its CRC was compared with the idx; so is a delta whose base is in the
// group and the same pack, but that its base is named by id. Deltas stay within packs, and
// so can never come to be each other's base. All else is made anew, whole: other deltas,
// loose objects and, from another pack that has them, damaged ones.
func (s *Selection) WriteEntries(ctx context.Context, w io.Writer, k Group) (int64, error) {
	e := &entryWriter{Selection: s, ctx: ctx, w: w, k: k, enc: pack.NewEncoder(1), scratch: pack.NewScratch(maxTree)}
	for _, mp := range s.packs {
		n := mp.count(k)
		if n == 0 {
			continue
		}
		step := mp.size/int64(n/groupPart+1) + 1
		for from := int64(0); from < mp.size; from = e.end {
			if err := e.collect(mp, from, step); err != nil {
				return e.n, rewritten(err)
			}
			if err := e.send(mp); err != nil {
				return e.n, err
			}
		}
	}
	return e.n, e.sendLoose()
}

// collect lists the objects of the group in a pack from an offset on, those in step bytes, or
// fewer if there are many, in the order of their places.
func (s *entryWriter) collect(mp *groupedPack, from, step int64) error {
	bits := mp.bits[s.k]
	var all int // objects in the part
	for {
		s.end, s.recs, all = min(from+step, mp.size), s.recs[:0], 0
		next := mp.size - packTrailer // where the first object behind the part is
		c := mp.idx.Cursor(groupStep)
		for i := 0; len(s.recs) <= 2*groupPart; i++ {
			r, ok, err := c.Next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			switch {
			case r.Off < from:
			case r.Off >= s.end:
				next = min(next, r.Off)
			default:
				all++
				if bits.has(i) {
					s.recs = append(s.recs, sentEntry{off: r.Off, crc: r.CRC, id: r.ID})
				}
			}
		}
		if len(s.recs) > 2*groupPart && step > 1 { // many small ones in one place
			step = max(step/4, 1)
			continue
		}
		slices.SortFunc(s.recs, func(a, b sentEntry) int { return int(min(max(a.off-b.off, -1), 1)) })
		for i := range s.recs {
			s.recs[i].end = next
			if i+1 < len(s.recs) {
				s.recs[i].end = s.recs[i+1].off
			}
		}
		if all == len(s.recs) {
			return nil
		}
		return s.findEnds(mp)
	}
}

// findEnds finds out where the entries end: where the next one begins, of the group or not.
func (s *entryWriter) findEnds(mp *groupedPack) error {
	if len(s.recs) == 0 {
		return nil
	}
	first, last := s.recs[0].off, s.recs[len(s.recs)-1].end
	c := mp.idx.Cursor(groupStep)
	for {
		r, ok, err := c.Next()
		if err != nil || !ok {
			return err
		}
		if r.Off <= first || r.Off >= last {
			continue
		}
		if e := &s.recs[s.search(r.Off)-1]; r.Off < e.end {
			e.end = r.Off
		}
	}
}

// search returns the number of the first entry that does not begin before off.
func (s *entryWriter) search(off int64) int {
	i, _ := slices.BinarySearchFunc(s.recs, off, func(e sentEntry, off int64) int {
		return int(min(max(e.off-off, -1), 1))
	})
	return i
}

// send writes the entries that were collected, neighbours read with one read.
func (s *entryWriter) send(mp *groupedPack) error {
	for i := 0; i < len(s.recs); {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		first := s.recs[i]
		if first.end-first.off > sendRange {
			if err := s.sendLarge(mp, first); err != nil {
				return err
			}
			i++
			continue
		}
		n := i + 1
		for n < len(s.recs) && s.recs[n].off-s.recs[n-1].end <= gapLimit && s.recs[n].end-first.off <= sendRange {
			n++
		}
		buf, err := mp.pack.Range(s.buf, first.off, int(s.recs[n-1].end-first.off))
		s.buf = buf
		for _, e := range s.recs[i:n] {
			entry := []byte(nil)
			if err == nil {
				entry = buf[e.off-first.off : e.end-first.off]
			}
			if err := s.entry(mp, e, entry); err != nil {
				return err
			}
		}
		i = n
	}
	return nil
}

// entry writes one entry, whose stored bytes are given if they could be read.
func (s *entryWriter) entry(mp *groupedPack, e sentEntry, stored []byte) error {
	if e.crc == 0 || len(stored) == 0 || crc32.ChecksumIEEE(stored) != e.crc {
		return s.remake(e.id)
	}
	head, skip, ok := s.header(mp, e, stored)
	if !ok {
		return s.remake(e.id)
	}
	if len(head) > 0 {
		if _, err := s.w.Write(head); err != nil {
			return err
		}
	}
	s.n++
	_, err := s.w.Write(stored[skip:])
	return err
}

// header returns what is written instead of the first skip bytes of an entry; ok is false
// if the entry cannot be sent as it is stored.
func (s *entryWriter) header(mp *groupedPack, e sentEntry, stored []byte) (head []byte, skip int, ok bool) {
	_, _, _, err := pack.ParseHeader(stored)
	if err == nil {
		return nil, 0, true
	}
	d, ok := pack.ParseDelta(stored)
	if !ok || err != pack.ErrDelta {
		return nil, 0, false
	}
	base := d.Base
	if d.Back > 0 {
		i := s.search(e.off - d.Back)
		if i == len(s.recs) || s.recs[i].off != e.off-d.Back {
			return nil, 0, false
		}
		base = s.recs[i].id
	} else if i, here, err := mp.idx.Place(base); err != nil || !here || !mp.bits[s.k].has(i) {
		return nil, 0, false
	}
	s.head = pack.AppendDelta(s.head[:0], d.Size, base)
	return s.head, d.Len, true
}

// sendLarge writes an entry that is not held in memory.
func (s *entryWriter) sendLarge(mp *groupedPack, e sentEntry) error {
	in := io.NewSectionReader(handle{&s.p.files, mp.packName()}, e.off, e.end-e.off)
	s.buf = slices.Grow(s.buf[:0], sendRange)[:sendRange]
	sum, at := uint32(0), int64(0)
	var front [64]byte
	for {
		n, err := in.ReadAt(s.buf, at)
		if at == 0 {
			copy(front[:], s.buf[:n])
		}
		sum = crc32.Update(sum, crc32.IEEETable, s.buf[:n])
		at += int64(n)
		if err == io.EOF {
			break
		} else if err != nil || s.ctx.Err() != nil {
			return firstErr(s.ctx.Err(), s.remake(e.id))
		}
	}
	head, skip, ok := s.header(mp, e, front[:])
	if !ok || sum != e.crc || e.crc == 0 {
		return s.remake(e.id)
	}
	if len(head) > 0 {
		if _, err := s.w.Write(head); err != nil {
			return err
		}
	}
	s.n++
	_, _ = in.Seek(int64(skip), io.SeekStart)
	// The writer must not be asked to read by itself, in pieces of its own choice.
	n, err := io.CopyBuffer(struct{ io.Writer }{s.w}, struct{ io.Reader }{in}, s.buf)
	if err == nil && n != e.end-e.off-int64(skip) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// remake writes the entry of an object that is encoded anew. Of large ones there is one in
// memory at a time.
func (s *entryWriter) remake(id pack.ID) error {
	large := s.sizeOf(id) > sendRange
	if large {
		select {
		case s.large <- struct{}{}:
			defer func() { <-s.large }()
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
	err := s.p.Get(s.ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
		s.made, _ = s.enc.Append(s.made[:0], t, body)
		return nil
	})
	if err != nil {
		return err
	}
	s.n++
	_, err = s.w.Write(s.made)
	if cap(s.made) > sendRange {
		s.made = nil
	}
	return err
}

// sizeOf returns the size of an object, 0 if nobody knows.
func (s *entryWriter) sizeOf(id pack.ID) int64 {
	at, ok, err := s.p.findFresh(s.ctx, id)
	if err != nil || !ok {
		return 0
	}
	_, size, err := at.file.pack.Header(s.scratch, at.off, at.file.idx.Find)
	if err != nil {
		return 0
	}
	return size
}

// sendLoose writes the loose objects of the group.
func (s *entryWriter) sendLoose() error {
	l := s.loose
	if l == nil || l.bits[s.k] == nil {
		return nil
	}
	for i, id := range l.ids {
		if !l.bits[s.k].has(i) {
			continue
		}
		if err := s.remake(id); err != nil {
			return err
		}
	}
	return nil
}
