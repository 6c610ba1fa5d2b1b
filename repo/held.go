package repo

import "sync/atomic"

// defaultHold is how many bytes of idx files a Packs keeps in memory: those of half
// a million objects.
const defaultHold = 16 << 20

// heldIdx is an io.ReaderAt of the idx of a pack. One that is read again and again
// is read as a whole, once, and kept, as far as there is room. A search reads a
// kilobyte here and four bytes there; that a save of known chunks and a check made a
// million system calls for, each with the lock of the open files before and behind
// it. The files of a pack do not change, so what is kept is as good as what is there.
type heldIdx struct {
	handle
	p     *Packs
	f     *packFile
	reads atomic.Int64
	bytes atomic.Pointer[[]byte]
}

// ReadAt reads at off.
func (h *heldIdx) ReadAt(dst []byte, off int64) (int, error) {
	if b := h.bytes.Load(); b != nil && off <= int64(len(*b))-int64(len(dst)) {
		return copy(dst, (*b)[off:]), nil
	}
	// As many reads as it has pages, or nearly, cost more than reading it all.
	// Reads that come later are not counted; see misses.
	if after := h.f.idxSize>>13 + 16; h.reads.Load() < after && h.reads.Add(1) == after {
		h.hold()
	}
	return h.handle.ReadAt(dst, off)
}

// hold reads the file if there is room for it. That it cannot be read is for the
// next read to say.
func (h *heldIdx) hold() {
	p, size := h.p, h.f.idxSize
	if size > p.hold.Load() {
		return
	}
	if p.held.Add(size) > p.hold.Load() && !p.makeRoom(size) {
		p.held.Add(-size)
		return
	}
	b := make([]byte, size)
	if _, err := h.handle.ReadAt(b, 0); err != nil {
		p.held.Add(-size)
		return
	}
	h.bytes.Store(&b)
}

// makeRoom counts anew what is held: packs that are gone have taken what they held
// with them. It reports whether size more fits.
func (p *Packs) makeRoom(size int64) bool {
	sum := size
	for _, f := range p.table.Load().packs {
		if h := f.held.Load(); h != nil && h.bytes.Load() != nil {
			sum += f.idxSize
		}
	}
	p.held.Store(sum)
	return sum <= p.hold.Load()
}

// HoldIdx bounds the memory that the Packs takes for idx files that it often reads,
// in bytes; 0 is for none. It is 16 MiB if nobody says otherwise. What is held already stays.
func (p *Packs) HoldIdx(bytes int64) { p.hold.Store(bytes) }
