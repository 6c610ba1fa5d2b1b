package chunk

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// gear holds the table of the gear hash and what hashes are compared with.
type gear struct {
	table  [256]uint64
	normal int    // the size from which it is easier to be a hit
	easy   uint64 // a hash below this is a candidate, and a hit from normal size on
	hard   uint64 // a hash below this is a hit from min size on
	skip   int    // bits above those that make the level
	fan    int    // bits to a level
}

func newGear(bits int) *gear {
	g := &gear{
		normal: 1 << bits,
		easy:   1 << (64 - (bits - 2)),
		hard:   1 << (64 - (bits + 2)),
		skip:   bits + 2,
		fan:    usualFan,
	}
	for b := 1; b < 256; b++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "kedge gear table %02x", b))
		g.table[b] = binary.BigEndian.Uint64(sum[:])
	}
	return g
}

// scan marks the candidates of a block.
func (g *gear) scan(c *candidates, b *block) {
	var h0, h1, h2 uint64
	for i := range window {
		h0 = h0<<1 + g.table[b[i]]
		h1 = h1<<1 + g.table[b[laneSize+i]]
		h2 = h2<<1 + g.table[b[2*laneSize+i]]
	}
	easy, hard := g.easy, g.hard
	for i := range laneSize {
		h0 = h0<<1 + g.table[b[window+i]]
		h1 = h1<<1 + g.table[b[window+laneSize+i]]
		h2 = h2<<1 + g.table[b[window+2*laneSize+i]]
		if h0 < easy {
			c.easy.set(i)
			if h0 < hard {
				c.hard.set(i)
			}
		}
		if h1 < easy {
			c.easy.set(laneSize + i)
			if h1 < hard {
				c.hard.set(laneSize + i)
			}
		}
		if h2 < easy {
			c.easy.set(2*laneSize + i)
			if h2 < hard {
				c.hard.set(2*laneSize + i)
			}
		}
	}
}

// scanTail is scan for the end of a buffer, less than a block.
func (g *gear) scanTail(c *candidates, b []byte) {
	h := g.hash((*[window]byte)(b))
	for i, in := range b[window:] {
		h = h<<1 + g.table[in]
		if h < g.easy {
			c.easy.set(i)
			if h < g.hard {
				c.hard.set(i)
			}
		}
	}
}

// hash returns the hash of a window.
func (g *gear) hash(w *[window]byte) uint64 {
	var h uint64
	for _, b := range w {
		h = h<<1 + g.table[b]
	}
	return h
}

func (g *gear) level(w *[window]byte) uint8 {
	h := g.hash(w)
	if h == 0 {
		return 0
	}
	return uint8(min(4, bits.LeadingZeros64(h<<g.skip)/g.fan))
}
