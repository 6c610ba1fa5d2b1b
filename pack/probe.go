package pack

import "encoding/binary"

const (
	probeMin = 512 // below that, trying costs less than guessing wrong
	probeRun = 64  // bytes per sample
)

// incompressible guesses from samples whether deflate would gain less than 1 in
// 64 on b. It takes 1.5 µs for a chunk that looks so, and a tenth of that for
// text, so compressed, encrypted and random data are stored at the speed of
// their checksum.
//
// Deflate lives on two things, and both are looked for: bytes that are not
// equally frequent, and strings that come again. A wrong "no" costs time, a
// wrong "yes" space. On a database dump, a source tree, /usr/lib and media files
// there was no wrong "yes".
func incompressible(b []byte) bool {
	return len(b) >= probeMin && evenBytes(b, 4) && evenBytes(b, 16) && !repeats(b)
}

// evenBytes reports whether so many runs of b look drawn from 256 equally
// frequent bytes: whether the sum of squared counts, which would be
// n + n(n-1)/256 on average with a deviation of n/11, is not far above it. (Two
// counts of 60 in 1024 bytes, or an entropy of 7.8 bits, are too much.)
func evenBytes(b []byte, runs int) bool {
	var count [256]uint16
	runs = min(runs, len(b)/probeRun)
	gap := (len(b) - probeRun) / (runs - 1)
	for i := range runs {
		for _, c := range b[i*gap:][:probeRun] {
			count[c]++
		}
	}
	sum, n := 0, runs*probeRun
	for _, c := range count {
		sum += int(c) * int(c)
	}
	return sum <= n+n*n/256+n/2
}

// repeats reports whether one of a few runs of b occurs elsewhere in b. Every
// 32nd place is remembered, and 40 places in a row are looked up, so a long
// repetition is found whatever its distance.
func repeats(b []byte) bool {
	const every, run, lookups = 32, 40, 8
	var seen [1 << 10]uint16 // place/every + 1
	for at := 0; at+4 <= len(b) && at < every<<15; at += every {
		seen[probeHash(b[at:])] = uint16(at/every + 1)
	}
	gap := max((len(b)-run-4)/lookups, 1)
	for from := 0; from+run+4 <= len(b); from += gap {
		for at := from; at < from+run; at++ {
			old := (int(seen[probeHash(b[at:])]) - 1) * every
			if old >= 0 && old != at && binary.LittleEndian.Uint32(b[old:]) == binary.LittleEndian.Uint32(b[at:]) {
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
