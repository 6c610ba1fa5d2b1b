package pack

import (
	"encoding/binary"
	"math/bits"
)

// Filter remembers a set of ids in about ten bits each. It never denies an id
// that was added, and confirms about one in a hundred that was not.
//
// It is a blocked Bloom filter: an id chooses one cache line and seven bits in
// it, so that a look-up costs one cache miss. Ids are hashes already; their
// bytes are used as they are. An attacker who picks ids can at worst make the
// filter useless, never wrong.
type Filter struct {
	lines []filterLine
}

type filterLine [8]uint64 // 64 bytes

const (
	filterBits = 10 // per id
	filterKeys = 7  // bits set per id
)

// NewFilter returns an empty filter made for n ids.
func NewFilter(n int) *Filter {
	return &Filter{lines: make([]filterLine, n*filterBits/512+1)}
}

// place returns the line of an id, and the bits that choose its places there.
// The table of an idx is searched by the first bytes of an id, so ids that
// share a part of the file also share lines; nothing depends on it.
func (f *Filter) place(id *ID) (*filterLine, uint64) {
	hi, _ := bits.Mul64(binary.BigEndian.Uint64(id.h[:8]), uint64(len(f.lines)))
	return &f.lines[hi], binary.BigEndian.Uint64(id.h[8:16])
}

// Add adds an id.
func (f *Filter) Add(id ID) {
	line, k := f.place(&id)
	for range filterKeys {
		line[k>>6&7] |= 1 << (k & 63)
		k >>= 9
	}
}

// Has reports whether the id may have been added.
func (f *Filter) Has(id ID) bool {
	line, k := f.place(&id)
	for range filterKeys {
		if line[k>>6&7]&(1<<(k&63)) == 0 {
			return false
		}
		k >>= 9
	}
	return true
}
