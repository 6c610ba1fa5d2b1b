package s3sync

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/kedgebackup/kedge/pack"
)

// source is where rows of a segment come from: the idx of a pack, or an old segment.
type source struct {
	packs []segmentPack // the first stretch of each pack
	sizes []int64       // of the packs

	idx *pack.Idx // of the one pack; nil: it is a segment

	head *segmentHead
	at   io.ReaderAt
	gone []bool // of the entries of its table
	n    int64  // rows of packs that are not gone
}

// rows returns how many rows there are.
func (s *source) rows() int64 {
	if s.idx != nil {
		return int64(s.idx.Len())
	}
	return s.n
}

// stretches returns how many entries of a pack table the packs take.
func (s *source) stretches() (n int) {
	for _, size := range s.sizes {
		n += stretchesOf(size)
	}
	return n
}

func stretchesOf(size int64) int { return int((size-1)/baseStep) + 1 }

// sources returns the segment, of which a copy is at hand, as what another one is made of.
func (o *oldSegment) sources(at io.ReaderAt, packs map[pack.ID]int64) ([]*source, error) {
	s := &source{head: &o.head, at: at, n: o.rows, gone: make([]bool, len(o.head.packs))}
	for i, p := range o.head.packs {
		size, ok := packs[p.id]
		if s.gone[i] = !ok; ok && p.base == 0 {
			s.packs, s.sizes = append(s.packs, p), append(s.sizes, size)
		}
	}
	if !o.stale {
		return []*source{s}, nil
	}
	s.n = 0
	in := pageInput{s: s}
	for {
		_, _, ok, err := in.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		s.n++
	}
	return []*source{s}, nil
}

// segmentWriter writes the pages of a segment.
type segmentWriter struct {
	w    io.WriterAt
	at   int64
	buf  []byte
	page int // where in buf the page begins that is being filled
	head *segmentHead
}

// writeSegment merges sources into a segment. Memory does not grow with the number of
// objects.
func writeSegment(w io.WriterAt, list []*source, rows int64) error {
	h := &segmentHead{rows: rows}
	size := make(map[pack.ID]int64)
	for _, s := range list {
		for i, p := range s.packs {
			size[p.id] = s.sizes[i]
		}
	}
	ids := make([]pack.ID, 0, len(size))
	for id := range size {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, pack.ID.Compare)
	m := merge{list: list, size: size, first: make(map[pack.ID]int)}
	for _, id := range ids {
		m.first[id] = len(h.packs)
		for base := range stretchesOf(size[id]) {
			h.packs = append(h.packs, segmentPack{id, uint32(base)})
		}
	}
	if len(h.packs) > maxSegmentPacks || rows > maxSegmentRows {
		return errors.New("too many packs for a segment")
	}
	sw := &segmentWriter{w: w, head: h}
	_, sw.at = headBytes(len(h.packs), rows)
	if err := m.each(sw.add); err != nil {
		return err
	}
	if err := sw.finish(); err != nil {
		return err
	}
	_, err := w.WriteAt(h.append(nil), 0)
	return err
}

// add adds a row.
func (w *segmentWriter) add(id pack.ID, k int, off int64) error {
	if len(w.buf) == w.page {
		var b [64]byte
		w.head.first = append(w.head.first, binary.BigEndian.Uint32(id.AppendBytes(b[:0])))
	}
	w.buf = appendRow(w.buf, id, uint16(k), uint32(off))
	if len(w.buf)-w.page == rowsPerPage*rowSize {
		w.endPage()
		if len(w.buf) >= 1<<20 {
			return w.flush()
		}
	}
	return nil
}

func (w *segmentWriter) endPage() {
	w.buf = binary.BigEndian.AppendUint32(w.buf, crc32.Checksum(w.buf[w.page:], castagnoli))
	w.page = len(w.buf)
}

func (w *segmentWriter) flush() error {
	_, err := w.w.WriteAt(w.buf, w.at)
	w.at += int64(len(w.buf))
	w.buf, w.page = w.buf[:0], 0
	return err
}

func (w *segmentWriter) finish() error {
	if len(w.buf) > w.page {
		w.endPage()
	}
	return w.flush()
}

// mergeMemory is what the read buffers of all inputs may take together.
const mergeMemory = 16 << 20

// merge reads sources in step.
type merge struct {
	list  []*source
	size  map[pack.ID]int64
	first map[pack.ID]int // the first stretch of each pack
	next  []mergeInput
}

// mergeInput is a source with its next row.
type mergeInput struct {
	in  input
	id  pack.ID
	k   int // the stretch
	off int64
}

// input gives the rows of a source, in the order of ids, and for each the place.
type input interface {
	next() (id pack.ID, at spot, ok bool, err error)
}

// idxInput is an idx.
type idxInput struct {
	pack pack.ID
	c    *pack.Cursor
}

func (x idxInput) next() (id pack.ID, at spot, ok bool, err error) {
	r, ok, err := x.c.Next()
	return r.ID, spot{x.pack, r.Off}, ok, err
}

// pageInput is a segment that is at hand.
type pageInput struct {
	s    *source
	page int
	rows []byte
	buf  []byte
}

func (x *pageInput) next() (id pack.ID, at spot, ok bool, err error) {
	h := x.s.head
	for {
		if len(x.rows) == 0 {
			if x.page == len(h.first) {
				return id, at, false, nil
			}
			off, n := h.page(x.page)
			x.buf = slices.Grow(x.buf[:0], n)[:n]
			if _, err := x.s.at.ReadAt(x.buf, off); err != nil && err != io.EOF {
				return id, at, false, err
			}
			if x.rows, err = checkPage(x.buf); err != nil {
				return id, at, false, err
			}
			x.page++
		}
		id, _, _ = pack.CutID(x.rows)
		row := x.rows[idWidth:rowSize]
		x.rows = x.rows[rowSize:]
		k := int(binary.BigEndian.Uint16(row))
		if k >= len(h.packs) {
			return id, at, false, corruptSegment(-1, "pack %d of %d", k, len(h.packs))
		}
		if !x.s.gone[k] {
			p := h.packs[k]
			return id, spot{p.id, int64(p.base)*baseStep + int64(binary.BigEndian.Uint32(row[2:]))}, true, nil
		}
	}
}

// each calls fn for every row, in the order of ids, and of packs where they are equal, with
// the stretch and the place in it.
func (m *merge) each(fn func(id pack.ID, k int, off int64) error) error {
	step := max(64, min(4096, mergeMemory/40/max(1, len(m.list))))
	for _, s := range m.list {
		var in mergeInput
		if s.idx != nil {
			in.in = idxInput{s.packs[0].id, s.idx.Cursor(step)}
		} else {
			in.in = &pageInput{s: s}
		}
		ok, err := m.advance(&in)
		if err != nil {
			return err
		}
		if ok {
			m.next = append(m.next, in)
		}
	}
	heap.Init(m)
	for len(m.next) > 0 {
		in := &m.next[0]
		if err := fn(in.id, in.k, in.off); err != nil {
			return err
		}
		ok, err := m.advance(in)
		if err != nil {
			return err
		}
		if ok {
			heap.Fix(m, 0)
		} else {
			heap.Pop(m)
		}
	}
	return nil
}

// advance goes on to the next row.
func (m *merge) advance(in *mergeInput) (ok bool, err error) {
	id, at, ok, err := in.in.next()
	if !ok || err != nil {
		return false, err
	}
	if at.off < 0 || at.off >= m.size[at.pack] {
		return false, &pack.CorruptError{File: packName(at.pack) + ".idx", Off: -1, Reason: fmt.Sprintf("object %v is outside the pack", id)}
	}
	in.id, in.k, in.off = id, m.first[at.pack]+int(at.off/baseStep), at.off%baseStep
	return true, nil
}

// Len, Less, Swap, Push and Pop are what container/heap wants.
func (m *merge) Len() int { return len(m.next) }

// Less orders the heap.
func (m *merge) Less(i, j int) bool {
	if c := m.next[i].id.Compare(m.next[j].id); c != 0 {
		return c < 0
	}
	return m.next[i].k < m.next[j].k
}

// Swap swaps two inputs.
func (m *merge) Swap(i, j int) { m.next[i], m.next[j] = m.next[j], m.next[i] }

// Push is not used.
func (m *merge) Push(any) {}

// Pop takes the last input off.
func (m *merge) Pop() any {
	m.next = m.next[:len(m.next)-1]
	return nil
}
