package pack

import "slices"

// bases remembers objects of one pack that deltas were built upon. The
// neighbours of a delta often share its base, and reading a chain from its base
// up, as a walk does, costs one step an object instead of the whole chain.
type bases struct {
	p     *Pack
	known map[int64]based
	order []int64 // by age
	bytes int
}

// based is an object that was a base.
type based struct {
	t     Type
	depth int // of its own chain of deltas
	body  []byte
}

const (
	basesLimit = 16 << 20 // bytes that one Scratch remembers
	basesEach  = 2 << 20  // larger ones are not worth the room
)

// get returns the object at off, if it is remembered. Its body must not be
// changed.
func (c *bases) get(p *Pack, off int64) (b based, ok bool) {
	if c.p != p {
		return based{}, false
	}
	b, ok = c.known[off]
	return b, ok
}

// put remembers a copy of the object at off.
func (c *bases) put(p *Pack, off int64, t Type, depth int, body []byte) {
	if len(body) > basesEach {
		return
	}
	if c.p != p {
		*c = bases{p: p, known: map[int64]based{}}
	}
	if _, ok := c.known[off]; ok {
		return
	}
	for c.bytes+len(body) > basesLimit {
		c.bytes -= len(c.known[c.order[0]].body)
		delete(c.known, c.order[0])
		c.order = c.order[1:]
	}
	c.known[off] = based{t, depth, slices.Clone(body)}
	c.order = append(c.order, off)
	c.bytes += len(body)
}
