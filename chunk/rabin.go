package chunk

import (
	"math/bits"

	"github.com/restic/chunker"
)

// polynomial is the modulus of the rabin hash. It is part of the format.
const polynomial = chunker.Pol(0x3DA3358B4DC173)

// Digests have 53 bits. They stand at the upper end of their words here, so
// that the eight bits that leave them in a shift need no mask, neither as an
// index nor to be gone afterwards.
const rabinShift = 64 - 53

// rabin holds the tables of the rabin hash for the eight bits of a byte, and
// the mask under which the digest of a candidate is zero.
type rabin struct {
	mod  [256]uint64 // b·x^53 mod P: what the bits shifted out of the digest stand for
	out  [256]uint64 // b·x^512 mod P: a byte that leaves the window as its digest is shifted
	mask uint64
	bits int
	fan  int // bits to a level
}

func newRabin(bits int) *rabin {
	r := &rabin{mask: (1<<bits - 1) << rabinShift, bits: bits, fan: usualFan}
	for b := range 256 {
		p := chunker.Pol(b)
		r.mod[b] = uint64((p << 53).Mod(polynomial)) << rabinShift
		for range window {
			p = (p << 8).Mod(polynomial)
		}
		r.out[b] = uint64(p) << rabinShift
	}
	return r
}

// scan marks the candidates of a block.
func (r *rabin) scan(c *candidates, b *block) {
	var d0, d1, d2 uint64
	for i := range window {
		d0 = d0<<8 ^ r.mod[d0>>56] ^ uint64(b[i])<<rabinShift
		d1 = d1<<8 ^ r.mod[d1>>56] ^ uint64(b[laneSize+i])<<rabinShift
		d2 = d2<<8 ^ r.mod[d2>>56] ^ uint64(b[2*laneSize+i])<<rabinShift
	}
	mask := r.mask
	for i := range laneSize {
		// The byte that comes and the byte that goes are added first: they do
		// not wait for the digest.
		d0 = d0<<8 ^ r.mod[d0>>56] ^ (uint64(b[window+i])<<rabinShift ^ r.out[b[i]])
		d1 = d1<<8 ^ r.mod[d1>>56] ^ (uint64(b[window+laneSize+i])<<rabinShift ^ r.out[b[laneSize+i]])
		d2 = d2<<8 ^ r.mod[d2>>56] ^ (uint64(b[window+2*laneSize+i])<<rabinShift ^ r.out[b[2*laneSize+i]])
		if d0&mask == 0 {
			c.easy.set(i)
		}
		if d1&mask == 0 {
			c.easy.set(laneSize + i)
		}
		if d2&mask == 0 {
			c.easy.set(2*laneSize + i)
		}
	}
}

// scanTail is scan for the end of a buffer, less than a block.
func (r *rabin) scanTail(c *candidates, b []byte) {
	d := r.digest((*[window]byte)(b))
	in := b[window:]
	out := b[:len(in)]
	for i := range in {
		d = d<<8 ^ r.mod[d>>56] ^ (uint64(in[i])<<rabinShift ^ r.out[out[i]])
		if d&r.mask == 0 {
			c.easy.set(i)
		}
	}
}

// digest returns the digest of a window, shifted.
func (r *rabin) digest(w *[window]byte) uint64 {
	var d uint64
	for _, b := range w {
		d = d<<8 ^ r.mod[d>>56] ^ uint64(b)<<rabinShift
	}
	return d
}

func (r *rabin) level(w *[window]byte) uint8 {
	d := r.digest(w)
	if d == 0 {
		return 0
	}
	return uint8(min(4, (bits.TrailingZeros64(d)-rabinShift-r.bits)/r.fan))
}
