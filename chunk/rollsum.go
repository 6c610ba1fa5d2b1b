package chunk

import "math/bits"

// The counters of an empty window. The second one is not what pushing 64 zeros
// would make it, 31·64·65/2, and is part of the format.
const (
	rollS1 = 64 * 31
	rollS2 = 64 * 63 * 31
)

// rollsum is what a digest is compared with.
type rollsum struct {
	bits int
	low  uint32 // of the bits that must be 1, those in the lower half, s2
	high uint32 // and those in the upper half, s1
	fan  int    // bits to a level
}

func newRollsum(bits int) *rollsum {
	ones := uint32(1)<<bits - 1
	return &rollsum{bits: bits, low: ones & 0xffff, high: ones >> 16, fan: usualFan}
}

// splitRollsum is Split for rollsum. There is no minimum size, and the window
// starts anew in every chunk, so that chunks are found one after the other; with
// marks only the first bytes of each are looked at.
func (s *Splitter) splitRollsum(m *Marks, dst []Cut, buf []byte, last bool) []Cut {
	for start := 0; start < len(buf); {
		limit := min(start+s.max, len(buf))
		b := buf[start:limit]
		c := Cut{End: limit}
		// A byte of zero changes nothing in a window of zeros, and the digest
		// of that is no hit: zeros at the start can be passed over.
		zeros := zeroPrefix(b)
		var end int
		var digest uint32
		if m == nil {
			end, digest = s.rollsum.find(b, zeros)
		} else {
			end, digest = s.rollsum.findMarked(m, buf[:limit], start, zeros)
		}
		switch {
		case end > 0:
			c.End, c.Level = start+end, s.rollsum.level(digest)
		case limit < start+s.max && !last:
			return dst
		default:
			c.Zero = zeros == len(b)
		}
		dst = append(dst, c)
		start = c.End
	}
	return dst
}

// find returns the end of the first hit in a chunk and its digest, or 0. The
// first zeros bytes of the chunk are known to be zero.
//
// The counters are kept in a form that needs the fewest steps: sum is the plain
// sum of the bytes in the window, s1-64·31, so that s2 grows by sum-64·d for a
// byte d that leaves; next is s2+1, of which the low bits are 0 where those of
// s2 are all 1.
func (r *rollsum) find(b []byte, zeros int) (end int, digest uint32) {
	sum, next := uint32(0), uint32(rollS2+1)
	low, high := r.low, r.high
	fill := min(zeros+window, len(b))
	for i := zeros; i < fill; i++ {
		sum += uint32(b[i])
		next += sum
		if next&low == 0 && (sum+rollS1)&high == high {
			return i + 1, (sum+rollS1)<<16 | (next-1)&0xffff
		}
	}
	in := b[fill:]
	out := b[zeros:][:len(in)]
	for i, c := range in {
		d := uint32(out[i])
		sum += uint32(c) - d
		next += sum - d<<6
		if next&low == 0 && (sum+rollS1)&high == high {
			return fill + i + 1, (sum+rollS1)<<16 | (next-1)&0xffff
		}
	}
	return 0, 0
}

// findMarked is find for the chunk of buf that begins at start. A mark says that
// the last 64 bytes are a hit, and is right where they all belong to the chunk.
func (r *rollsum) findMarked(m *Marks, buf []byte, start, zeros int) (end int, digest uint32) {
	b := buf[start:]
	own := min(zeros+window, len(b))
	if end, digest = r.find(b[:own], zeros); end > 0 || own == len(b) {
		return end, digest
	}
	var c candidates
	for from := start + own + 1; from <= len(buf); from = c.to + 1 {
		m.load(&c, buf, from-1)
		if i := c.easy.next(from - c.at - 1); i < blockSize {
			if end = c.at + 1 + i; end > len(buf) {
				break
			}
			sum, next := window64((*[window]byte)(buf[end-window : end]))
			return end - start, (sum+rollS1)<<16 | (next-1)&0xffff
		}
	}
	return 0, 0
}

// window64 returns the counters of a window, in the form that find keeps.
func window64(w *[window]byte) (sum, next uint32) {
	next = rollS2 + 1
	for _, b := range w {
		sum += uint32(b)
		next += sum
	}
	return sum, next
}

// scan marks the hits of a block, or of less, a window of bytes in front of it.
func (r *rollsum) scan(c *candidates, b []byte) {
	sum, next := window64((*[window]byte)(b))
	low, high := r.low, r.high
	in := b[window:]
	out := b[:len(in)]
	for i, b := range in {
		d := uint32(out[i])
		sum += uint32(b) - d
		next += sum - d<<6
		if next&low == 0 && (sum+rollS1)&high == high {
			c.easy.set(i)
		}
	}
}

// level returns the level of a chunk that a hit ended. That the bit above those
// of the hit has no part in it is an accident of history and part of the format.
func (r *rollsum) level(digest uint32) uint8 {
	return uint8(bits.TrailingZeros32(^(digest >> (r.bits + 1))) / r.fan)
}
