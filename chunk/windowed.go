package chunk

import (
	"encoding/binary"
	"math/bits"
)

// The geometry of a scan. The hash of a position needs that of the position
// before it, so that one loop over the bytes waits for its own result most of
// the time. A block is therefore cut into lanes that advance together, each
// warmed up with the bytes in front of it: the processor works on all of them
// at once. docs/design/chunking.md has what other geometries cost.
const (
	window    = 64 // bytes that a hash depends on
	lanes     = 3
	laneSize  = 512
	blockSize = lanes * laneSize
)

// block is a window of context and the bytes that are scanned. Its fixed size
// lets the compiler see that no index of the lanes is out of bounds.
type block [window + blockSize]byte

// bitset holds a bit for each byte of a block, context not counted. Candidates
// are kept in one, and not in a list, because the worst of inputs, in which
// every position is a candidate, needs no more room than the best.
type bitset [blockSize / 64]uint64

func (s *bitset) set(i int) { s[i>>6] |= 1 << (i & 63) }

// next returns the first bit that is set from i on, or blockSize.
func (s *bitset) next(i int) int {
	for w := i >> 6; w < len(s); w++ {
		if x := s[w] >> (i & 63); x != 0 {
			return i + bits.TrailingZeros64(x)
		}
		i = (w + 1) << 6
	}
	return blockSize
}

// candidates are the places where a chunk may end, of all e with at < e <= to:
// bit e-at-1 stands for the end e.
type candidates struct {
	at, to int
	easy   bitset // hits from normal size on; rabin knows no other size
	hard   bitset // gear only: of these the ones that are hits below it, too
}

// hit returns where the chunk that begins at start ends by its content, up to
// limit, or 0. The chunk is not one of zeros.
func (s *Splitter) hit(m *Marks, c *candidates, buf []byte, start, limit int) int {
	from := start + s.min
	if from <= limit && zeroPrefix(buf[from-window:from]) == window {
		return from // the rule in sparse data, which then needs no scan
	}
	if s.gear != nil {
		normal := start + s.gear.normal
		if e := s.first(m, c, &c.hard, buf, from, min(normal-1, limit)); e != 0 {
			return e
		}
		from = normal
	}
	return s.first(m, c, &c.easy, buf, from, limit)
}

// first returns the first candidate in set from, from+1, … up to limit, or 0.
// It scans what it needs, in blocks, if there are no marks that say it. What a
// block holds behind the end that is returned is kept: it often is all the next
// chunk needs.
func (s *Splitter) first(m *Marks, c *candidates, set *bitset, buf []byte, from, limit int) int {
	for from <= limit {
		if from > c.to {
			if m != nil {
				m.load(c, buf, from-1)
			} else {
				s.scan(c, buf, from-1)
			}
		}
		if i := set.next(from - c.at - 1); i < blockSize {
			if e := c.at + 1 + i; e <= limit {
				return e
			}
			return 0
		}
		from = c.to + 1
	}
	return 0
}

// scan scans the block of buf that begins at offset at, or the bytes that are
// left there. At least a window of bytes stands in front of it.
func (s *Splitter) scan(c *candidates, buf []byte, at int) {
	*c = candidates{at: at, to: min(at+blockSize, len(buf))}
	whole := c.to == at+blockSize
	b := buf[at-window : c.to]
	switch {
	case s.rollsum != nil:
		s.rollsum.scan(c, b)
	case s.gear != nil && whole:
		s.gear.scan(c, (*block)(b))
	case s.gear != nil:
		s.gear.scanTail(c, b)
	case whole:
		s.rabin.scan(c, (*block)(b))
	default:
		s.rabin.scanTail(c, b)
	}
}

// level returns the level of a chunk whose last bytes are w and which ended at
// a candidate.
func (s *Splitter) level(w *[window]byte) uint8 {
	if s.gear != nil {
		return s.gear.level(w)
	}
	return s.rabin.level(w)
}

// splitWindowed is Split for the hashes that depend on the last 64 bytes alone:
// the candidates are found first, wherever they are, and then chosen in order.
func (s *Splitter) splitWindowed(m *Marks, dst []Cut, buf []byte, last bool) []Cut {
	var known candidates
	for start := 0; start < len(buf); {
		limit := min(start+s.max, len(buf))
		open := limit < start+s.max && !last
		c := Cut{End: limit}
		zeros := zeroPrefix(buf[start:limit])
		switch {
		case zeros == limit-start:
			c.Zero = true
		case zeros >= s.min:
			// 64 zeros are a candidate, so a run of zeros is cut at min size
			// until less than that is left of it, and those chunks are merged.
			c.End, c.Zero, open = start+zeros&^(s.min-1), true, false
		default:
			if e := s.hit(m, &known, buf, start, limit); e != 0 {
				c.End, open = e, false
				c.Level = s.level((*[window]byte)(buf[e-window : e]))
			}
		}
		if open {
			break
		}
		dst = append(dst, c)
		start = c.End
	}
	return dst
}

// zeroPrefix returns how many bytes at the beginning of b are zero.
func zeroPrefix(b []byte) int {
	n := 0
	for ; len(b)-n >= 32; n += 32 {
		w := (*[32]byte)(b[n:])
		if binary.NativeEndian.Uint64(w[0:])|binary.NativeEndian.Uint64(w[8:])|
			binary.NativeEndian.Uint64(w[16:])|binary.NativeEndian.Uint64(w[24:]) != 0 {
			break
		}
	}
	for ; len(b)-n >= 8; n += 8 {
		if w := binary.LittleEndian.Uint64(b[n:]); w != 0 {
			return n + bits.TrailingZeros64(w)/8
		}
	}
	for ; n < len(b) && b[n] == 0; n++ {
	}
	return n
}
