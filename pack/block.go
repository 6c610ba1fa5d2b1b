package pack

import (
	"encoding/binary"
	"errors"
)

var (
	errSymbol   = errors.New("bad deflate symbol")
	errDistance = errors.New("deflate distance before the beginning")
)

const (
	// fastIn is what fast may load without asking: two times eight bytes.
	fastIn = 16
	// fastOut is what it may write without asking: three pairs of literals.
	fastOut = 6
	// beyond is how far past its end a match may be written.
	beyond = 32
)

// block decodes the symbols of a block into dst from d on and returns where it
// stopped.
func (r *bitReader) block(dst []byte, d int, t *tables) (int, error) {
	r.fill() // fast looks at the first code before it fills
	d, end, err := r.fast(dst, d, t)
	if end || err != nil {
		return d, err
	}
	return r.slow(dst, d, t)
}

// load64, store16 and store64 say where the slice ends for the sake of the
// compiler, which then neither asks twice nor computes what is left of it.
func load64(b []byte, i int) uint64     { return binary.LittleEndian.Uint64(b[i : i+8 : i+8]) }
func store16(b []byte, i int, v uint16) { binary.LittleEndian.PutUint16(b[i:i+2:i+2], v) }

// copy16 copies sixteen bytes from j to i.
func copy16(b []byte, i, j int) {
	*(*[16]byte)(b[i : i+16 : i+16]) = *(*[16]byte)(b[j : j+16 : j+16])
}

// refill makes at least 56 bits available. There are eight bytes at p.
func refill(src []byte, p int, bits uint64, n uint) (uint64, int, uint) {
	return bits | load64(src, p)<<(n&63), p + int(^n>>3&7), n | 56
}

// drop takes the bits of e away.
func drop(bits uint64, n uint, e code) (uint64, uint) { return bits >> (e & 63), n - uint(e) }

// putLiterals writes the literals of e, and perhaps one byte more, and returns
// where they end.
func putLiterals(dst []byte, d int, e code) int {
	store16(dst, d, uint16(e>>16))
	return d + e.literals()
}

// fast decodes symbols as long as there is room to spare on both sides.
//
// What it waits for is the look-up of one code after the other, and branches
// that no processor foresees. So e, the next code, is looked up from the bits
// that are there before more are loaded, and a distance likewise; matches
// up to 32 bytes are copied without a loop. docs/design/inflate.md has more, and
// what did not help.
//
// Of the bits of n only the lowest six count: more than 63 there never are, and
// so e is subtracted whole.
func (r *bitReader) fast(dst []byte, d int, t *tables) (nd int, end bool, err error) {
	src, p, bits, n := r.src, r.p, r.bits, r.n
	e := t.lit[bits&(1<<litBits-1)]
	for p <= len(src)-fastIn && d <= len(dst)-fastOut {
		bits, p, n = refill(src, p, bits, n)
		// Of 56 bits three look-ups of literals leave 20, enough for the next;
		// two, and a length of 20, leave 12 for the look-up of a distance; a
		// literal from a second table leaves 17.
		if e&codeLiteral != 0 {
			bits, n = drop(bits, n, e)
			d = putLiterals(dst, d, e)
			e = t.lit[bits&(1<<litBits-1)]
			if e&codeLiteral != 0 {
				bits, n = drop(bits, n, e)
				d = putLiterals(dst, d, e)
				e = t.lit[bits&(1<<litBits-1)]
				if e&codeLiteral != 0 {
					bits, n = drop(bits, n, e)
					d = putLiterals(dst, d, e)
					e = t.lit[bits&(1<<litBits-1)]
					continue
				}
			}
		}
		if e&codeSpecial != 0 {
			if e&codeSecond == codeSecond {
				bits, n = drop(bits, n, e)
				e = t.lit[uint64(e>>16)+bits&(1<<(e>>8&15)-1)]
			}
			if e&(codeLiteral|codeSpecial) != 0 {
				bits, n = drop(bits, n, e)
				if e&codeLiteral != 0 {
					dst[d] = byte(e >> 16)
					d++
					e = t.lit[bits&(1<<litBits-1)]
					continue
				}
				r.p, r.bits, r.n = p, bits, n&63
				if e&codeEnd != codeEnd {
					return d, false, errSymbol
				}
				return d, true, nil
			}
		}
		length := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits, n = drop(bits, n, e)

		f := t.dist[bits&(1<<distBits-1)]
		bits, p, n = refill(src, p, bits, n)
		if f&codeSpecial != 0 {
			if f&codeSecond == codeSecond {
				bits, n = drop(bits, n, f)
				f = t.dist[uint64(f>>16)+bits&(1<<(f>>8&15)-1)]
			}
			if f&codeSpecial != 0 {
				r.p, r.bits, r.n = p, bits, n&63
				return d, false, errSymbol
			}
		}
		back := int(f>>16) + int(bits&(1<<(f&63)-1)>>(f>>8&15))
		bits, n = drop(bits, n, f)
		e = t.lit[bits&(1<<litBits-1)]

		if back < 16 || back > d || length > len(dst)-beyond-d {
			if d, err = copyMatch(dst, d, back, length); err != nil {
				r.p, r.bits, r.n = p, bits, n&63
				return d, false, err
			}
			continue
		}
		copy16(dst, d, d-back)
		copy16(dst, d+16, d+16-back)
		for i := 32; i < length; i += 16 {
			copy16(dst, d+i, d+i-back)
		}
		d += length
	}
	r.p, r.bits, r.n = p, bits, n&63
	return d, false, nil
}

// copyMatch copies length bytes from back before d to d and returns where they
// end. In front of the end of dst it may write up to seven bytes more.
func copyMatch(dst []byte, d, back, length int) (int, error) {
	if back > d {
		return d, errDistance
	}
	if length > len(dst)-beyond-d {
		return copyLast(dst, d, back, length)
	}
	b := dst[d-back : d+length+beyond]
	if back >= 8 {
		for i := 0; i < length; i += 8 {
			binary.LittleEndian.PutUint64(b[back+i:], binary.LittleEndian.Uint64(b[i:]))
		}
		return d + length, nil
	}
	// The match is a pattern of less than eight bytes over and over.
	for i := range 8 {
		b[back+i] = b[i]
	}
	w := binary.LittleEndian.Uint64(b)
	step := 8 - 8%back
	for i := step; i < length; i += step {
		binary.LittleEndian.PutUint64(b[back+i:], w)
	}
	return d + length, nil
}

// slow decodes symbols with every step checked, to the end of the block.
func (r *bitReader) slow(dst []byte, d int, t *tables) (int, error) {
	for {
		r.fill()
		e := t.lit[r.bits&(1<<litBits-1)]
		if e&codeSecond == codeSecond {
			r.take(uint(e & 63))
			e = t.lit[uint64(e>>16)+r.bits&(1<<(e>>8&15)-1)]
		}
		extra := r.take(uint(e&63)) >> (e >> 8 & 15)
		switch {
		case r.short():
			return d, errShort
		case e&codeLiteral != 0:
			for k := e.literals(); k > 0; k-- {
				if d == len(dst) {
					return d, errFull
				}
				dst[d] = byte(e >> 16)
				d, e = d+1, e>>8
			}
			continue
		case e&codeEnd == codeEnd:
			return d, nil
		case e&codeSpecial != 0:
			return d, errSymbol
		}
		length := int(e>>16) + int(extra)
		r.fill()
		e = t.dist[r.bits&(1<<distBits-1)]
		if e&codeSecond == codeSecond {
			r.take(uint(e & 63))
			e = t.dist[uint64(e>>16)+r.bits&(1<<(e>>8&15)-1)]
		}
		extra = r.take(uint(e&63)) >> (e >> 8 & 15)
		back := int(e>>16) + int(extra)
		switch {
		case r.short():
			return d, errShort
		case e&codeSpecial != 0:
			return d, errSymbol
		case back > d:
			return d, errDistance
		}
		var err error
		if d, err = copyLast(dst, d, back, length); err != nil {
			return d, err
		}
	}
}

// copyLast copies a match at the end of dst, where it may not fit.
func copyLast(dst []byte, d, back, length int) (int, error) {
	for ; length > 0 && d < len(dst); length-- {
		dst[d] = dst[d-back]
		d++
	}
	if length > 0 {
		return d, errFull
	}
	return d, nil
}
