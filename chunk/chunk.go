package chunk

import (
	"fmt"
	"strconv"
	"strings"
)

// Cut is the end of a chunk in a slice.
type Cut struct {
	End   int   // offset of the first byte after the chunk
	Level uint8 // 0, or how many tree levels the chunk closes (see package repo)
	Zero  bool  // every byte of the chunk is zero
}

// Splitter finds the ends of chunks. It holds tables and no state between
// calls: the same bytes give the same cuts. It may be used by several
// goroutines at once. Only Parse makes one.
type Splitter struct {
	name     string
	min, max int

	// One of the three is set. They are no interface because a call through one
	// would move the marks of a scan from the stack to the heap.
	rabin   *rabin
	gear    *gear
	rollsum *rollsum
}

// Parse returns the splitter a repository names: "rabin:N", "gear:N" or
// "rollsum:N". N is written in decimal without sign or leading zeros, so that
// one splitter has one name.
func Parse(name string) (*Splitter, error) {
	kind, digits, _ := strings.Cut(name, ":")
	bits, err := strconv.Atoi(digits)
	if err == nil && strconv.Itoa(bits) == digits {
		switch {
		case kind == "rabin" && bits >= 10 && bits <= 20:
			return &Splitter{name: name, min: 1 << (bits - 2), max: 1 << (bits + 3), rabin: newRabin(bits)}, nil
		case kind == "gear" && bits >= 10 && bits <= 20:
			return &Splitter{name: name, min: 1 << (bits - 2), max: 1 << (bits + 3), gear: newGear(bits)}, nil
		case kind == "rollsum" && bits >= 13 && bits <= 21:
			return &Splitter{name: name, min: 1, max: 4 << bits, rollsum: newRollsum(bits)}, nil
		}
	}
	return nil, fmt.Errorf("unknown chunker %q; known: rabin:10..20, gear:10..20, rollsum:13..21", name)
}

// String returns the name that Parse takes.
func (s *Splitter) String() string { return s.name }

// Min returns the smallest size of a chunk that is not the last of its input.
func (s *Splitter) Min() int { return s.min }

// Max returns the largest size of a chunk.
func (s *Splitter) Max() int { return s.max }

// Split appends to dst the cuts of buf, which begins where a chunk begins.
// With last, buf ends where the input ends, and all of it is cut. Without,
// bytes stay behind the last cut whose chunk is not yet decided: the caller
// gives them again, in front of more input. They are never more than
// Max()+Min() bytes, so a buffer larger than that always makes progress.
//
// Where the input is sliced into calls has no influence on the cuts. Split
// does not allocate while dst has room.
func (s *Splitter) Split(dst []Cut, buf []byte, last bool) []Cut {
	return s.split(nil, dst, buf, last)
}

// split is Split, and takes candidates that were found before, if there are any,
// from m.
func (s *Splitter) split(m *Marks, dst []Cut, buf []byte, last bool) []Cut {
	if s.rollsum != nil {
		return s.splitRollsum(m, dst, buf, last)
	}
	return s.splitWindowed(m, dst, buf, last)
}
