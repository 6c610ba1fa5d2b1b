package chunk

import (
	"fmt"
	"math/bits"
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
	n, err := strconv.Atoi(digits)
	if err == nil && strconv.Itoa(n) == digits {
		switch {
		case kind == "rabin" && n >= 10 && n <= 20:
			return &Splitter{name: name, min: 1 << (n - 2), max: 1 << (n + 3), rabin: newRabin(n)}, nil
		case kind == "gear" && n >= 10 && n <= 20:
			return &Splitter{name: name, min: 1 << (n - 2), max: 1 << (n + 3), gear: newGear(n)}, nil
		case kind == "rollsum" && n >= 13 && n <= 21:
			return &Splitter{name: name, min: 1, max: 4 << n, rollsum: newRollsum(n)}, nil
		}
	}
	return nil, fmt.Errorf("unknown chunker %q; known: rabin:10..20, gear:10..20, rollsum:13..21", name)
}

// String returns the name that Parse takes.
func (s *Splitter) String() string { return s.name }

// usualFan is the number of bits that one more level of a chunk takes: a tree has about
// 2^usualFan entries.
const usualFan = 4

// WithFanout returns a splitter that makes the same chunks, and levels such that a tree
// has about n entries: a level takes as many bits as n has behind its first one, where it
// takes 4 otherwise. It has the same name, as chunks are what files share.
func (s *Splitter) WithFanout(n int) (*Splitter, error) {
	fan := bits.Len(uint(max(n, 0))) - 1
	if fan < 1 {
		return nil, fmt.Errorf("a fan-out of %d: a tree has two entries at least", n)
	}
	c := *s
	switch {
	case s.rabin != nil:
		r := *s.rabin
		r.fan, c.rabin = fan, &r
	case s.gear != nil:
		g := *s.gear
		g.fan, c.gear = fan, &g
	default:
		r := *s.rollsum
		r.fan, c.rollsum = fan, &r
	}
	return &c, nil
}

// Rollsum reports whether files are split as bup does it, and so share their chunks with
// what bup saved.
func (s *Splitter) Rollsum() bool { return s.rollsum != nil }

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
