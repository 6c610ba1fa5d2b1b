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
	// fastOut is what it may write without asking: three literals.
	fastOut = 3
	// beyond is how far past its end a match may be written.
	beyond = 7
)

// block decodes the symbols of a block into dst from d on and returns where it
// stopped.
func (r *bitReader) block(dst []byte, d int, t *tables) (int, error) {
	d, end, err := r.fast(dst, d, t)
	if end || err != nil {
		return d, err
	}
	return r.slow(dst, d, t)
}

// fast decodes symbols as long as there is room to spare on both sides.
//
// What it waits for is the look-up of one code after the other, and branches
// that no processor foresees. Measured on chunks of 10 KiB of a database dump,
// these did not help: a fourth literal per refill (9 % slower), first tables of
// 9 or 10 bits (11 % and 1 % slower), copying matches in line (5 % slower), and
// entries that stand for two literals, whose making costs more than it saves
// as long as every chunk brings its own code (5 % slower, on source code 20 %).
func (r *bitReader) fast(dst []byte, d int, t *tables) (nd int, end bool, err error) {
	src, p, bits, n := r.src, r.p, r.bits, uint8(r.n)
	for p <= len(src)-fastIn && d <= len(dst)-fastOut {
		bits |= binary.LittleEndian.Uint64(src[p:]) << (n & 63)
		p += int((63 - n) >> 3)
		n |= 56
		// At most 33 of 56 bits go to three literals, 20 to a length.
		e := t.lit[bits&(1<<litBits-1)]
		if e&codeLiteral != 0 {
			bits >>= e & 63
			n -= uint8(e)
			dst[d] = byte(e >> 16)
			d++
			e = t.lit[bits&(1<<litBits-1)]
			if e&codeLiteral != 0 {
				bits >>= e & 63
				n -= uint8(e)
				dst[d] = byte(e >> 16)
				d++
				e = t.lit[bits&(1<<litBits-1)]
				if e&codeLiteral != 0 {
					bits >>= e & 63
					n -= uint8(e)
					dst[d] = byte(e >> 16)
					d++
					continue
				}
			}
		}
		if e&codeSpecial != 0 {
			if e&codeSecond != 0 {
				bits >>= e & 63
				n -= uint8(e)
				e = t.lit[uint64(e>>16)+bits&(1<<(e>>8&15)-1)]
			}
			if e&(codeLiteral|codeSpecial) != 0 {
				bits >>= e & 63
				n -= uint8(e)
				if e&codeLiteral != 0 {
					dst[d] = byte(e >> 16)
					d++
					continue
				}
				end = e&codeEnd != 0
				if !end {
					err = errSymbol
				}
				break
			}
		}
		length := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		n -= uint8(e)

		bits |= binary.LittleEndian.Uint64(src[p:]) << (n & 63)
		p += int((63 - n) >> 3)
		n |= 56
		e = t.dist[bits&(1<<distBits-1)]
		if e&codeSpecial != 0 {
			if e&codeSecond != 0 {
				bits >>= e & 63
				n -= uint8(e)
				e = t.dist[uint64(e>>16)+bits&(1<<(e>>8&15)-1)]
			}
			if e&codeSpecial != 0 {
				err = errSymbol
				break
			}
		}
		back := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		n -= uint8(e)
		if d, err = copyMatch(dst, d, back, length); err != nil {
			break
		}
	}
	r.p, r.bits, r.n = p, bits, uint(n)
	return d, end, err
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
		if e&codeSecond != 0 {
			r.take(uint(e & 63))
			e = t.lit[uint64(e>>16)+r.bits&(1<<(e>>8&15)-1)]
		}
		extra := r.take(uint(e&63)) >> (e >> 8 & 15)
		switch {
		case r.short():
			return d, errShort
		case e&codeLiteral != 0:
			if d == len(dst) {
				return d, errFull
			}
			dst[d] = byte(e >> 16)
			d++
			continue
		case e&codeEnd != 0:
			return d, nil
		case e&codeInvalid != 0:
			return d, errSymbol
		}
		length := int(e>>16) + int(extra)
		r.fill()
		e = t.dist[r.bits&(1<<distBits-1)]
		if e&codeSecond != 0 {
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
