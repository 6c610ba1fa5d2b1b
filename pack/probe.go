package pack

import "encoding/binary"

const (
	probeMin   = 512 // below that, trying costs less than guessing wrong
	probeRun   = 64  // bytes per sample
	probeTable = 1 << 10
)

// incompressible guesses from samples whether deflate would gain less than a
// hundredth or two on b. It costs a tenth of a nanosecond per byte of a usual
// chunk, so compressed, encrypted and random data are stored at the speed of
// their checksum instead of at the speed of a compressor that finds nothing.
//
// Deflate lives on two things, and both are looked for: bytes that are not
// equally frequent, and strings that come again. A wrong "no" costs time, a
// wrong "yes" space; the limits were chosen on a database dump, a source tree,
// /usr/lib and media files so that the space lost stays below 1 in 1000.
func incompressible(b []byte) bool {
	return len(b) >= probeMin && evenBytes(b) && !repeats(b)
}

// evenBytes reports whether a sample of b looks drawn from 256 equally frequent
// bytes: whether the sum of squared counts, which is n + n(n-1)/256 on average
// and has a deviation of n/11, stays close to it.
func evenBytes(b []byte) bool {
	var count [256]uint16
	n := min(len(b)&^(probeRun-1), 16*probeRun)
	gap := (len(b) - probeRun) / max(n/probeRun-1, 1)
	for at := range n / probeRun {
		for _, c := range b[at*gap:][:probeRun] {
			count[c]++
		}
	}
	sum := 0
	for _, c := range count {
		sum += int(c) * int(c)
	}
	return sum <= n+n*n/256+n/2
}

// repeats reports whether one of a few runs of b occurs elsewhere in b. Every
// 32nd place is remembered, and 40 places in a row are looked up, so a
// repetition is found whatever its distance.
func repeats(b []byte) bool {
	const every, run = 32, 40
	var seen [probeTable]uint16 // place/every + 1
	for at := 0; at+4 <= len(b) && at < every<<15; at += every {
		seen[probeHash(b[at:])] = uint16(at/every + 1)
	}
	gap := max((len(b)-run-4)/8, 1)
	for from := 0; from+run+4 <= len(b); from += gap {
		for at := from; at < from+run; at++ {
			w := b[at:]
			old := (int(seen[probeHash(w)]) - 1) * every
			if old >= 0 && old != at && binary.LittleEndian.Uint32(b[old:]) == binary.LittleEndian.Uint32(w) {
				return true
			}
		}
	}
	return false
}

func probeHash(b []byte) uint32 {
	return binary.LittleEndian.Uint32(b) * 2654435761 >> (32 - 10)
}
