package pack

import "encoding/binary"

const (
	// recentCodes is how many headers are remembered. An encoder of ours uses
	// three codes in turn, and as many encoders as there were processors wrote a
	// pack side by side.
	recentCodes = 16

	// A header is compared in pieces, which fit an unaligned load of eight bytes.
	pieceBits = 56
	// headerLimit is more bits than any header has: three numbers, the lengths
	// of the lengths' codes, and for every symbol one of these codes.
	headerLimit = 14 + 19*3 + (maxLits+maxDists)*(lenBits+1)
)

// recent keeps the codes of some headers with their tables.
//
// A header says nothing but what the codes are, and is read in one way only, so
// equal bits make equal tables. Our encoder writes the same header for many
// chunks, with a code for every symbol, and making its tables takes a fifth of
// the time that a chunk of 10 KiB takes; comparing 100 bytes takes next to none.
type recent struct {
	marks [recentCodes]uint64 // of the codes, for a first glance
	used  [recentCodes]uint64 // when
	clock uint64
	codes [recentCodes]headed
}

// headed is a header with its tables.
type headed struct {
	tables
	bits   int // of the header; 0: none
	pieces [(headerLimit + pieceBits - 1) / pieceBits]uint64
}

// piece returns the bits from pos on. There must be eight bytes.
func piece(src []byte, pos int) uint64 {
	return binary.LittleEndian.Uint64(src[pos>>3:]) >> (pos & 7) & (1<<pieceBits - 1)
}

// mark returns a number that depends on some bits of the header at pos. They
// are the lengths of the codes of some literals, which tell headers apart.
func mark(src []byte, pos int) (uint64, bool) {
	if pos>>3+3*8 > len(src) {
		return 0, false
	}
	return piece(src, pos+pieceBits)<<3 ^ piece(src, pos+2*pieceBits), true
}

// find returns the codes of the header at pos, if they are known, and otherwise
// the ones to be replaced.
func (s *recent) find(src []byte, pos int) (t *headed, known bool) {
	s.clock++
	m, ok := mark(src, pos)
	oldest := 0
	for i := range s.codes {
		if ok && s.marks[i] == m && s.codes[i].equal(src, pos) {
			s.used[i] = s.clock
			return &s.codes[i], true
		}
		if s.used[i] < s.used[oldest] {
			oldest = i
		}
	}
	s.used[oldest], s.marks[oldest] = s.clock, m
	t = &s.codes[oldest]
	t.bits = 0
	return t, false
}

// equal reports whether the bits at pos are the header of t. It says no if they
// are near the end.
func (t *headed) equal(src []byte, pos int) bool {
	left := t.bits
	if left == 0 || (pos+left)>>3+8 > len(src) {
		return false
	}
	for i := range t.pieces {
		if left < pieceBits {
			return piece(src, pos)&(1<<left-1) == t.pieces[i]
		}
		if piece(src, pos) != t.pieces[i] {
			return false
		}
		pos, left = pos+pieceBits, left-pieceBits
	}
	return false
}

// keep notes that the bits from pos to end are the header of t, unless they are
// near the end.
func (t *headed) keep(src []byte, pos, end int) {
	if end>>3+8 > len(src) {
		return
	}
	t.bits = end - pos
	for i := range t.pieces {
		if left := end - pos; left < pieceBits {
			t.pieces[i] = piece(src, pos) & (1<<left - 1)
			return
		}
		t.pieces[i] = piece(src, pos)
		pos += pieceBits
	}
}
