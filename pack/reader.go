package pack

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// Pack reads objects out of a pack file. It may be used by several goroutines at once.
type Pack struct {
	name string
	r    io.ReaderAt
	end  int64 // where the trailer begins
	n    int
	sum  ID
}

// FindFunc looks up the place of an object in the pack at hand, as Idx.Find
// does. Readers that get none refuse deltas whose base is given by id.
type FindFunc = func(ID) (off int64, ok bool, err error)

// OpenPack checks a pack's header, and that its trailer equals sum. It reads
// nothing else: that the trailer is the checksum of what stands before it is
// for Walk to check.
func OpenPack(name string, r io.ReaderAt, size int64, sum ID) (*Pack, error) {
	p := &Pack{name: name, r: r, end: size - idSize, sum: sum}
	if p.end < packHead {
		return nil, p.corrupt(-1, "too short for a pack")
	}
	var head [packHead]byte
	if err := readFull(name, r, head[:], 0); err != nil {
		return nil, err
	}
	if string(head[:4]) != packMagic {
		return nil, p.corrupt(0, "not a pack")
	}
	if v := binary.BigEndian.Uint32(head[4:]); v != packVersion {
		return nil, p.corrupt(4, fmt.Sprintf("unknown pack version %d", v))
	}
	p.n = int(binary.BigEndian.Uint32(head[8:]))
	var got ID
	if err := readFull(name, r, got.h[:], p.end); err != nil {
		return nil, err
	}
	if got != sum {
		return nil, p.corrupt(p.end, fmt.Sprintf("trailer is %v and not %v", got, sum))
	}
	return p, nil
}

// FarPack returns a pack of which nothing is read, for who has places of objects from
// elsewhere and compares each object with its id: where every read costs a round trip, a
// look at header and trailer would cost two. Len is 0, and there is no walking it.
func FarPack(name string, r io.ReaderAt, size int64) *Pack {
	return &Pack{name: name, r: r, end: size - idSize}
}

// Len returns the number of objects that the header claims.
func (p *Pack) Len() int { return p.n }

func (p *Pack) corrupt(off int64, reason string) error {
	return &CorruptError{File: p.name, Off: off, Reason: reason}
}

// Range reads n bytes of entries at off into buf, which grows if it must. It
// is how neighbouring objects are fetched with one read; Decoder.Append takes
// them apart.
func (p *Pack) Range(buf []byte, off int64, n int) ([]byte, error) {
	if off < packHead || n < 0 || int64(n) > p.end-off {
		return buf[:0], p.corrupt(off, fmt.Sprintf("%d bytes are not inside the pack", n))
	}
	buf = slices.Grow(buf[:0], n)[:n]
	return buf, readFull(p.name, p.r, buf, off)
}

const (
	maxDepth   = 50       // of a delta chain, git's default when it packs
	windowSize = 32 << 10 // bytes per read: most entries, and some neighbours
	maxGuess   = 16       // times as much as before is what a further read may take
)

// Scratch holds the buffers and the decoder of one reading goroutine.
type Scratch struct {
	limit int64
	z     inflater
	chain []int64 // the deltas between an object and its base, outermost first
	depth int     // how many there are up to an object that is no delta
	body  []byte
	other []byte // takes turns with body when deltas are applied
	delta []byte
	bases bases
	first [2 * maxVarint]byte // the front of a delta

	// The last bytes read, so that a header and its data, or an object and
	// its neighbour, cost one read.
	win     []byte
	winOff  int64
	winPack *Pack
	step    int // bytes per read if more than a window
}

// NewScratch returns a scratch that refuses objects above limit bytes.
func NewScratch(limit int64) *Scratch { return &Scratch{limit: limit} }

// view returns the bytes at off, n of them if the pack has so many there, and
// more if they are at hand.
func (s *Scratch) view(p *Pack, off int64, n int) ([]byte, error) {
	n = int(min(int64(n), p.end-off))
	if s.winPack == p && off >= s.winOff {
		if skip := off - s.winOff; skip+int64(n) <= int64(len(s.win)) {
			return s.win[skip:], nil
		}
	}
	n = int(min(max(int64(n), windowSize, int64(s.step)), p.end-off))
	s.winPack = nil
	var err error
	if s.win, err = p.Range(s.win, off, n); err != nil {
		return nil, err
	}
	s.winPack, s.winOff = p, off
	return s.win, nil
}

// span returns exactly the n bytes at off, which are inside the pack.
func (s *Scratch) span(p *Pack, off int64, n int) ([]byte, error) {
	b, err := s.view(p, off, n)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// head is the header of an entry.
type head struct {
	off  int64
	kind uint8
	size int64 // of the object, or of the delta
	data int64 // where the zlib stream begins
	base int64 // where the base of a delta is

	known bool // an object that Scratch remembers; data is not set
}

// view returns n bytes of the entry's data. A new window begins at the header,
// so that Walk finds the whole entry in it.
func (h *head) view(s *Scratch, p *Pack, n int) ([]byte, error) {
	skip := int(h.data - h.off)
	b, err := s.view(p, h.off, skip+n)
	if err != nil {
		return nil, err
	}
	return b[skip:], nil
}

// headLen is more than any header takes.
const headLen = maxVarint + max(maxVarint, idSize)

// head reads the header of the entry at off. If all that fails is the look-up
// of a delta's base, everything else in h is set all the same.
func (p *Pack) head(s *Scratch, off int64, find FindFunc) (h head, err error) {
	if off < packHead || off >= p.end {
		return h, p.corrupt(off, "object outside the pack")
	}
	b, err := s.view(p, off, headLen)
	if err != nil {
		return h, err
	}
	kind, size, n, err := parseHeader(b)
	if err != nil {
		return h, inFile(p.name, off, err)
	}
	h = head{off: off, kind: kind, size: size}
	switch kind {
	case ofsDelta:
		back, m, err := parseBack(b[n:])
		if err != nil {
			return h, inFile(p.name, off+int64(n), err)
		}
		n += m
		if h.base = off - back; h.base < packHead {
			return h, p.corrupt(off, "base of a delta before the first object")
		}
	case refDelta:
		id, _, ok := CutID(b[n:])
		if !ok {
			return h, p.corrupt(off, "entry is cut short")
		}
		n += idSize
		h.data = off + int64(n)
		h.base, err = p.find(off, id, find)
		return h, err
	}
	h.data = off + int64(n)
	return h, nil
}

// find looks up the base of the delta at off.
func (p *Pack) find(off int64, id ID, find FindFunc) (int64, error) {
	if find == nil {
		return 0, inFile(p.name, off, ErrDelta)
	}
	base, ok, err := find(id)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, p.corrupt(off, fmt.Sprintf("base %v of a delta is not in the pack", id))
	}
	return base, nil
}

// parseBack reads how far before a delta its base is: seven bits a byte,
// highest first, where every byte but the last counts one more than it says,
// so that no distance has two forms.
func parseBack(b []byte) (back int64, n int, err error) {
	for {
		if n == len(b) {
			return 0, n, corrupt(n, "entry is cut short")
		}
		c := b[n]
		n++
		if n > 1 {
			back++
		}
		if back >= 1<<(63-7) {
			return 0, n, corrupt(0, "base of a delta before the first object")
		}
		back = back<<7 | int64(c&0x7f)
		if c&0x80 == 0 {
			break
		}
	}
	if back == 0 {
		return 0, n, corrupt(0, "delta is its own base")
	}
	return back, n, nil
}

// inflate unpacks the whole entry of a header into dst, which grows if it must,
// and returns how many bytes its zlib stream takes.
//
// The pack does not say where an entry ends. Nearly always the window holds
// it; if the stream goes on, the view is made larger, to the worst that an
// object of this size becomes at first, until the pack ends.
func (p *Pack) inflate(s *Scratch, dst []byte, h head) (out []byte, ns int, err error) {
	if err := checkSize(h.size, s.limit); err != nil {
		return dst, 0, inFile(p.name, h.data, err)
	}
	avail := p.end - h.data
	if h.size/maxInflation > avail {
		return dst, 0, p.corrupt(h.data, "entry claims more than its pack can hold")
	}
	worst := EncodedLimit(int(h.size))
	want := max(min(worst, windowSize-headLen), int(h.size/maxInflation))
	for {
		src, err := h.view(s, p, want)
		if err != nil {
			return dst, 0, err
		}
		dst = slices.Grow(dst[:0], int(h.size))[:h.size]
		ns, err = s.z.run(dst, src)
		if err == errShort && int64(len(src)) < avail {
			want = max(2*len(src), min(worst, maxGuess*len(src)))
			continue
		}
		if err == errShort {
			err = corrupt(len(src), errShort.Error())
		}
		if err != nil {
			err = inFile(p.name, h.data, err)
		}
		return dst, ns, err
	}
}

// resolve follows the chain of deltas from the object at off to its base, or
// to an object that is remembered, and leaves the places of the deltas in
// s.chain.
func (p *Pack) resolve(s *Scratch, off int64, find FindFunc) (base head, err error) {
	s.chain = s.chain[:0]
	for at := off; ; {
		if b, ok := s.bases.get(p, at); ok {
			s.depth = len(s.chain) + b.depth
			if s.depth > maxDepth {
				return base, p.tooDeep(off)
			}
			return head{off: at, kind: uint8(b.t), size: int64(len(b.body)), known: true}, nil
		}
		h, err := p.head(s, at, find)
		if err != nil || h.kind < ofsDelta {
			s.depth = len(s.chain)
			return h, err
		}
		if len(s.chain) == maxDepth {
			return h, p.tooDeep(off)
		}
		s.chain = append(s.chain, at)
		at = h.base
	}
}

func (p *Pack) tooDeep(off int64) error {
	return p.corrupt(off, fmt.Sprintf("more than %d deltas upon each other", maxDepth))
}

// Object returns type and body of the object at off, resolving deltas (depth at
// most 50; base by offset in this pack, or by id through find, which may be
// nil). The body is valid until the next use of s. Its hash is not checked.
func (p *Pack) Object(s *Scratch, off int64, find FindFunc) (Type, []byte, error) {
	base, err := p.resolve(s, off, find)
	if err != nil {
		return 0, nil, err
	}
	if base.known {
		b, _ := s.bases.get(p, base.off)
		s.body = append(s.body[:0], b.body...)
	} else if s.body, _, err = p.inflate(s, s.body, base); err != nil {
		return 0, nil, err
	}
	t := Type(base.kind)
	for i, at := range slices.Backward(s.chain) {
		h, err := p.head(s, at, find)
		if err != nil {
			return 0, nil, err
		}
		if i == 0 {
			s.bases.put(p, h.base, t, s.depth-1, s.body)
		}
		if s.delta, _, err = p.inflate(s, s.delta, h); err != nil {
			return 0, nil, err
		}
		if err := s.apply(); err != nil {
			return 0, nil, inFile(p.name, at, noPlace(err))
		}
	}
	return t, s.body, nil
}

// apply replaces s.body by what s.delta makes of it.
func (s *Scratch) apply() error {
	size, err := deltaSize(s.delta, len(s.body))
	if err != nil {
		return err
	}
	if err := checkSize(size, s.limit); err != nil {
		return err
	}
	s.other = slices.Grow(s.other[:0], int(size))
	s.other = applyDelta(s.other, s.body, s.delta)
	s.body, s.other = s.other, s.body
	return nil
}

// noPlace drops the place from an error about a delta: it counts inflated
// bytes, which are no place in the file.
func noPlace(err error) error {
	if c, ok := err.(*CorruptError); ok {
		c.Off = 0
	}
	return err
}

// Header returns the type and the size of the object at off, a delta resolved
// as far as its type, without inflating more than it must.
func (p *Pack) Header(s *Scratch, off int64, find FindFunc) (Type, int64, error) {
	base, err := p.resolve(s, off, find)
	if err != nil || len(s.chain) == 0 {
		return Type(base.kind), base.size, err
	}
	h, err := p.head(s, off, find)
	if err != nil {
		return 0, 0, err
	}
	size, err := p.resultSize(s, h)
	return Type(base.kind), size, err
}

// resultSize reads the size of its result from the front of a delta.
func (p *Pack) resultSize(s *Scratch, h head) (int64, error) {
	first := s.first[:min(int64(len(s.first)), h.size)]
	for want := 1; ; {
		src, err := h.view(s, p, want)
		if err != nil {
			return 0, err
		}
		n, err := s.z.prefix(first, src)
		if err == errShort && int64(len(src)) < p.end-h.data {
			want = 2 * len(src)
			continue
		}
		if err == errShort {
			err = corrupt(0, errShort.Error())
		}
		if err != nil {
			return 0, inFile(p.name, h.data, err)
		}
		_, size, _, err := deltaLengths(first[:n])
		if err != nil {
			return 0, inFile(p.name, h.data, noPlace(err))
		}
		return size, nil
	}
}
