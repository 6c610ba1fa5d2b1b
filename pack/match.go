package pack

import (
	"encoding/binary"
	"math/bits"
)

const (
	matchLeast = 3 // what deflate has codes for; find wants four
	matchMost  = 258
	distMost   = 1 << 15

	// origin is where a segment begins in the window: the 0 of an empty table
	// is no place of it.
	origin = 1
	// segmentMax is how many bytes are looked at together. Their places, and
	// the one behind them, fit 16 bits.
	segmentMax = 1<<16 - 1 - origin

	hashBits = 13
	hashMul  = 0x9e3779b185ebca87
)

// A step is a part of a segment as find leaves it: four literals, or a match
// and up to three literals before it.
//
//	bits  0–1   literals before the match
//	bits  3–10  length of the match - 3
//	bit   11    there is a match
//	bits 16–30  distance - 1
//	bits 32–47  place of the first byte in the window
type step uint64

const (
	stepMatch step = 1 << 11
	stepsMax       = 1 << 14 // each is four bytes at least
)

func (s step) literals() uint { return uint(s & 3) }
func (s step) length() uint8  { return uint8(s >> 3) }
func (s step) distance() uint { return uint(s >> 16 & 0x7fff) }
func (s step) place() uint    { return uint(s >> 32 & 0xffff) }

// matcher finds strings that come again in a segment.
type matcher struct {
	win   [1<<16 + 8]byte
	table [1 << hashBits]uint16
	steps [stepsMax]step
	n     int  // steps found
	tail  uint // the literals that follow them in the window
	end   uint
}

// load64 returns the eight bytes at i, the first one lowest. No bound is
// checked, because the window is longer than all that 16 bits can say.
func (m *matcher) load64(i uint) uint64 {
	return binary.LittleEndian.Uint64(m.win[i&0xffff:][:8])
}

func (m *matcher) load32(i uint) uint32 {
	return binary.LittleEndian.Uint32(m.win[i&0xffff:][:4])
}

// bucket returns where in the table the place of the first five bytes of v is
// kept. By four bytes a third more matches would be found, short ones, which
// save little and cost branches that no processor foresees.
func bucket(v uint64) uint64 { return v << 24 * hashMul >> (64 - hashBits) }

// find cuts the first segmentMax bytes of src, or all, into steps and a tail,
// and returns the rest of src.
//
// The bytes are copied, and the table is cleared, for every segment. That takes
// a fortieth of the search, and the loop has neither bounds to check nor old
// places to tell from new ones. What the window holds behind the segment makes
// no difference: the last eight bytes are not looked up, and matches are cut off.
//
// Four places are looked up at once: one load has all the bytes that they
// depend on, and the look-ups do not wait for each other.
func (m *matcher) find(src []byte) []byte {
	end := origin + uint(copy(m.win[origin:][:segmentMax], src))
	clear(m.table[:])
	s, n, misses := uint(origin), uint(0), uint(0)
	for s+8 < end {
		v := m.load64(s)
		h0, h1, h2, h3 := bucket(v), bucket(v>>8), bucket(v>>16), bucket(v>>24)
		c := uint(m.table[h0])
		m.table[h0] = uint16(s)
		c1 := uint(m.table[h1])
		m.table[h1] = uint16(s + 1)
		c2 := uint(m.table[h2])
		m.table[h2] = uint16(s + 2)
		c3 := uint(m.table[h3])
		m.table[h3] = uint16(s + 3)

		at := s
		if m.load32(c) != uint32(v) {
			c, at = c1, s+1
			if m.load32(c) != uint32(v>>8) {
				c, at = c2, s+2
				if m.load32(c) != uint32(v>>16) {
					c, at = c3, s+3
					if m.load32(c) != uint32(v>>24) {
						// Where nothing was found for long, look less often.
						misses++
						for k := misses >> 5; ; k-- {
							m.steps[n&(stepsMax-1)] = step(s) << 32
							n++
							s += 4
							if k == 0 || s+8 >= end {
								break
							}
						}
						continue
					}
				}
			}
		}
		d := at - c
		if c < origin || d > distMost {
			m.steps[n&(stepsMax-1)] = step(s) << 32
			n++
			s += 4
			continue
		}
		misses = 0
		length := uint(4)
		if x := m.load64(at+4) ^ m.load64(c+4); x != 0 {
			length += uint(bits.TrailingZeros64(x)) >> 3
		} else {
			length += m.more(at+12, c+12, end)
		}
		length = min(length, matchMost, end-at)
		m.steps[n&(stepsMax-1)] = step(at-s) | step(length-matchLeast)<<3 | stepMatch | step(d-1)<<16 | step(s)<<32
		n++
		s = at + length
		m.table[bucket(m.load64(s-2))] = uint16(s - 2)
	}
	m.n, m.tail, m.end = int(n), s, end
	return src[end-origin:]
}

// more returns how much of a match follows, if eight bytes before i and c are
// the same; they count. It looks no further than what a match can have.
func (m *matcher) more(i, c, end uint) uint {
	n := uint(8)
	for n < matchMost && i < end {
		if x := m.load64(i) ^ m.load64(c); x != 0 {
			return n + uint(bits.TrailingZeros64(x))>>3
		}
		n, i, c = n+8, i+8, c+8
	}
	return n
}

// rest returns the literals that follow the steps.
func (m *matcher) rest() []byte { return m.win[m.tail:m.end] }
