package pack

import "encoding/binary"

const (
	probeMin = 512 // below that, trying costs less than guessing wrong
	probeRun = 64  // bytes per sample
)

// A probe guesses whether deflate would gain less than 1 in 64 on a body, so
// that compressed, encrypted and random data are stored at the speed of their
// checksum.
//
// Deflate lives on two things, and both are looked for: bytes that are not
// equally frequent, and strings that come again. A wrong "no" costs time, a
// wrong "yes" space. On a database dump, a source tree, /usr/lib and media files
// there was no wrong "yes".
//
// Bodies that cannot be compressed come in rows. After a few of them all but
// every fourth get a glance, which notices text and tables and costs a tenth.
type probe struct {
	row int // bodies before this one that looked incompressible
}

const (
	probeTrust = 4 // in so many bodies one is looked at closely
	probeFew   = 4 // runs of a glance
	probeMany  = 16
)

// incompressible guesses for the next body. Short ones are worth trying.
func (p *probe) incompressible(b []byte) bool {
	if len(b) < probeMin {
		return false
	}
	var dull bool
	if p.row < probeTrust || p.row%probeTrust == 0 {
		dull = evenBytes(b, probeMany) && !repeats(b)
	} else {
		dull = evenBytes(b, probeFew)
	}
	p.row++
	if !dull {
		p.row = 0
	}
	return dull
}

// evenBytes reports whether so many runs of b, a power of two, look drawn from
// 256 equally frequent bytes, and probeFew of them already: whether the sum of
// squared counts, which would be n + n(n-1)/256 on average with a deviation of
// n/11, is not far above it. (Two counts of 60 in 1024 bytes, or an entropy of
// 7.8 bits, are too much.) A byte that was counted k times before adds 2k+1 to
// that sum, which is so had without a second loop.
func evenBytes(b []byte, runs int) bool {
	var count [256]uint16
	for runs > len(b)/probeRun {
		runs >>= 1
	}
	gap := (len(b) - probeRun) / (runs - 1)
	n, again := uint32(0), uint32(0)
	for i := range runs {
		at := (i * 5 & (runs - 1)) * gap // the first few are far from each other, too
		for _, c := range b[at:][:probeRun] {
			again += uint32(count[c])
			count[c]++
		}
		n += probeRun
		if (i == probeFew-1 || i == runs-1) && 2*again > n*n/256+n/2 {
			return false
		}
	}
	return true
}

// repeats reports whether one of a few runs of b occurs elsewhere in b. Every
// 32nd place is remembered, and 40 places in a row are looked up, so a long
// repetition is found whatever its distance.
//
// A third of the look-ups find a place, and nobody could foresee which: so all
// of them compare, those that find none with the beginning.
func repeats(b []byte) bool {
	const every, run, lookups = 32, 40, 8
	var seen [1 << 10]uint16 // place/every
	for at := 0; at+4 <= len(b) && at < every<<16; at += every {
		seen[probeHash(b[at:])] = uint16(at / every)
	}
	gap := max((len(b)-run-4)/lookups, 1)
	for from := 0; from+run+4 <= len(b); from += gap {
		for at := from; at < from+run; at++ {
			old := int(seen[probeHash(b[at:])]) * every
			same := uint32((uint64(at^old) - 1) >> 63) // 1 if it found itself
			if binary.LittleEndian.Uint32(b[old:])^binary.LittleEndian.Uint32(b[at:])|same == 0 {
				return true
			}
		}
	}
	return false
}

// probeHash returns ten bits that depend on the first four bytes of b.
func probeHash(b []byte) uint32 {
	return binary.LittleEndian.Uint32(b) * 2654435761 >> 22
}
