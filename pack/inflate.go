package pack

import (
	"encoding/binary"
	"errors"
)

// errShort says that a zlib stream goes on where its bytes end. A reader that
// has more of the file tries again with more.
var errShort = errors.New("zlib stream is cut short")

// errFull says that a stream holds more than there is room for.
var errFull = errors.New("zlib stream holds more than its declared size")

// inflater unpacks zlib streams from slice to slice.
//
// Objects in packs are small, their size is known, and all their bytes are in
// memory. A library that reads from an io.Reader into a window of its own pays
// on every byte for what it is not told; this one
//
//   - refills its bit buffer with one load of eight bytes, and so seldom asks
//     whether there are enough bits;
//   - looks a symbol, its length and its extra bits up at once (see code), and
//     takes up to three literals per refill;
//   - copies matches eight bytes at a time within the caller's slice, which is
//     the window.
//
// All that happens while both slices have room to spare (fast); the rest of a
// block is decoded with every step checked (slow). What zlib refuses is
// refused: codes that are over-full or incomplete, a missing end-of-block code,
// symbols that mean nothing, distances before the beginning, preset
// dictionaries, wrong checksums.
type inflater struct {
	recent recent
	lens   [maxLits + maxDists]uint8
}

// run unpacks the stream at the front of src, which must hold exactly len(dst)
// bytes and carry their checksum. It returns how many bytes of src it took.
func (z *inflater) run(dst, src []byte) (ns int, err error) {
	nd, ns, err := z.stream(dst, src)
	switch {
	case err == errFull:
		return ns, corrupt(ns, errFull.Error())
	case err != nil:
		return ns, err
	case nd < len(dst):
		return ns, corrupt(ns, "zlib stream holds less than its declared size")
	case len(src) < ns+4:
		return ns, errShort
	case binary.BigEndian.Uint32(src[ns:]) != adler32(dst):
		return ns, corrupt(ns, "zlib checksum mismatch")
	}
	return ns + 4, nil
}

// prefix fills dst with the first bytes of the stream at the front of src and
// returns how many there were. It does not look at what follows.
func (z *inflater) prefix(dst, src []byte) (nd int, err error) {
	nd, _, err = z.stream(dst, src)
	if err == errFull || err == errShort && nd == len(dst) {
		err = nil
	}
	return nd, err
}

// stream unpacks a stream up to its checksum, or until dst is full.
func (z *inflater) stream(dst, src []byte) (nd, ns int, err error) {
	if len(src) < 2 {
		return 0, 0, errShort
	}
	switch {
	case binary.BigEndian.Uint16(src)%31 != 0:
		return 0, 0, corrupt(0, "bad zlib header checksum")
	case src[0]&0x0f != 8 || src[0]>>4 > 7:
		return 0, 0, corrupt(0, "unknown zlib method or window")
	case src[1]&0x20 != 0:
		return 0, 0, corrupt(1, "zlib stream wants a dictionary")
	}
	r := bitReader{src: src, p: 2}
	for last := false; !last && err == nil; {
		r.fill()
		last = r.take(1) == 1
		switch r.take(2) {
		case 0:
			nd, err = r.stored(dst, nd)
		case 1:
			nd, err = r.block(dst, nd, fixedCodes)
		case 2:
			var t *tables
			if t, err = z.header(&r); err == nil {
				nd, err = r.block(dst, nd, t)
			}
		default:
			err = errors.New("unknown deflate block type")
		}
		if r.short() {
			err = errShort // whatever else the bits that are not there said
		}
	}
	ns = r.place()
	if err != nil && err != errShort && err != errFull {
		err = corrupt(ns, err.Error())
	}
	return nd, ns, err
}

// lensOrder is the order in which the lengths of the lengths' codes are sent.
var lensOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// header reads the codes of a block.
func (z *inflater) header(r *bitReader) (*tables, error) {
	pos := r.pos()
	t, known := z.recent.find(r.src, pos)
	if known {
		r.seek(pos + t.bits)
		return &t.tables, nil
	}
	if err := z.codes(r, &t.tables); err != nil {
		return nil, err
	}
	t.keep(r.src, pos, r.pos())
	return &t.tables, nil
}

// codes reads codes and makes their tables.
func (z *inflater) codes(r *bitReader, t *tables) error {
	r.fill()
	nlit, ndist, nlen := int(r.take(5))+257, int(r.take(5))+1, int(r.take(4))+4
	if nlit > maxLits || ndist > maxDists {
		return errors.New("too many deflate symbols")
	}
	var lens [19]uint8
	for _, i := range lensOrder[:nlen] {
		r.fill()
		lens[i] = uint8(r.take(3))
	}
	var table [1 << lenBits]code
	if !lenCodes.build(table[:], lens[:]) {
		return errors.New("deflate code lengths have no code")
	}
	if err := z.lengths(r, &table, nlit+ndist); err != nil {
		return err
	}
	switch {
	case r.short():
		return errShort
	case z.lens[256] == 0:
		return errors.New("deflate block without an end")
	case !litCodes.build(t.lit[:], z.lens[:nlit]):
		return errors.New("bad deflate literal code")
	case !distCodes.build(t.dist[:], z.lens[nlit:nlit+ndist]):
		return errors.New("bad deflate distance code")
	}
	return nil
}

// lengths reads the lengths of n codes, run-length coded, into z.lens. What
// follows the end of the source are zeros, so it ends there too.
func (z *inflater) lengths(r *bitReader, table *[1 << lenBits]code, n int) (err error) {
	lens := z.lens[:n]
	for i := 0; i < n && err == nil; {
		r.fill()
		bits, taken := r.bits, uint(0)
		for k := 0; k < 4 && i < n; k++ { // each takes 14 bits at most
			e := table[bits&(1<<lenBits-1)]
			bits >>= e & 63
			taken += uint(e & 63)
			sym := uint8(e >> 16)
			if sym < 16 {
				lens[i] = sym
				i++
				continue
			}
			value, again, extra := uint8(0), 3, uint(3)
			switch {
			case sym == 18:
				again, extra = 11, 7
			case sym == 16 && i > 0:
				value, extra = lens[i-1], 2
			case sym == 16:
				err = errors.New("deflate code lengths repeat nothing")
			}
			again += int(bits & (1<<extra - 1))
			bits >>= extra
			taken += extra
			if again > n-i {
				err = errors.New("too many deflate code lengths")
			}
			for again = min(again, n-i); again > 0; again-- {
				lens[i] = value
				i++
			}
		}
		r.take(taken)
	}
	return err
}

// bitReader takes bits off a slice, the lowest of each byte first. Bits above
// the n lowest of its buffer are zero or what follows in the slice.
type bitReader struct {
	src  []byte
	p    int // the next byte to load
	bits uint64
	n    uint // bits to be had
	over uint // bytes of them that are past the end of src
}

// fill makes at least 56 bits available. Past the end they are zeros, and
// short tells whether any of those has been taken.
func (r *bitReader) fill() {
	if r.p+8 <= len(r.src) {
		r.bits |= binary.LittleEndian.Uint64(r.src[r.p:]) << (r.n & 63)
		r.p += int(63-r.n) >> 3
		r.n |= 56
		return
	}
	for r.n < 56 {
		if r.p < len(r.src) {
			r.bits |= uint64(r.src[r.p]) << (r.n & 63)
			r.p++
		} else {
			r.over++
		}
		r.n += 8
	}
}

// take takes n bits, which fill has made available.
func (r *bitReader) take(n uint) uint {
	v := uint(r.bits) & (1<<(n&63) - 1)
	r.bits >>= n & 63
	r.n -= n
	return v
}

// short reports whether more bits were taken than there were.
func (r *bitReader) short() bool { return 8*r.over > r.n }

// pos returns how many bits have been taken.
func (r *bitReader) pos() int { return 8*(r.p+int(r.over)) - int(r.n) }

// seek goes to a place by its bits, which must be at least eight bytes before
// the end.
func (r *bitReader) seek(pos int) {
	r.p, r.bits, r.n = pos>>3, 0, 0
	r.fill()
	r.take(uint(pos & 7))
}

// place returns how many bytes have been taken, the last one perhaps in part.
func (r *bitReader) place() int {
	return min(r.p-int(r.n>>3)+int(r.over), len(r.src))
}

// stored copies a block that is not compressed.
func (r *bitReader) stored(dst []byte, d int) (int, error) {
	if r.short() {
		return d, errShort
	}
	r.p, r.bits, r.n, r.over = r.place(), 0, 0, 0
	src := r.src[r.p:]
	if len(src) < 4 {
		return d, errShort
	}
	n := int(binary.LittleEndian.Uint16(src))
	if binary.LittleEndian.Uint16(src[2:]) != ^uint16(n) {
		return d, errors.New("bad length of a stored deflate block")
	}
	src = src[4:]
	r.p += 4
	m := copy(dst[d:], src[:min(n, len(src))])
	r.p += m
	switch {
	case m == n:
		return d + m, nil
	case d+m == len(dst):
		return d + m, errFull
	}
	return d + m, errShort
}
