package s3sync

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Drop is a key that nobody may name any more: it is deleted when the grace is over.
type Drop struct {
	Key   string // below the repository's prefix
	Since uint64 // the generation that was the first to drop it
	// First and Last are the first prune that was allowed to delete the key, and the last one; 0:
	// none was yet. Who is allowed to delete it may do so at any time from then on. If that was
	// one prune alone, and the key is gone, then it has done so, and the key may be named again.
	// If there were several, another may yet be about to: the key has to stay dropped.
	First, Last uint64
}

// append appends the line of a drop.
func (d *Drop) append(b []byte) []byte {
	b = fmt.Appendf(b, "drop %d ", d.Since)
	if d.First > 0 {
		b = append(Span{d.First, d.Last}.append(b), ' ')
	}
	return append(append(b, d.Key...), '\n')
}

// parseDrop reads what stands after "drop " in the manifest of generation n.
func parseDrop(text string, n uint64) (d Drop, err error) {
	words := strings.Split(text, " ")
	if len(words) < 2 || len(words) > 3 {
		return d, errors.New("a drop has too few words or too many")
	}
	d.Since, err = strconv.ParseUint(words[0], 10, 64)
	d.Key = words[len(words)-1]
	if len(words) == 3 {
		var by Span
		by, err = parseSpan(words[1], err)
		d.First, d.Last = by.First, by.Last
	}
	if err == nil && max(d.Since, d.Last) > n {
		err = errors.New("a drop is of a later generation")
	}
	return d, errors.Join(err, checkFileName(d.Key))
}

// shared reports whether more than one prune was allowed to delete the key.
func (d *Drop) shared() bool { return d.First != d.Last }

// allow notes that prune n is allowed to delete the key.
func (d *Drop) allow(n uint64) {
	if d.Last = n; d.First == 0 {
		d.First = n
	}
}

// join takes in what another manifest says of the same key.
func (d *Drop) join(o Drop) {
	d.Since = max(d.Since, o.Since)
	if d.First == 0 || o.First > 0 && o.First < d.First {
		d.First = o.First
	}
	d.Last = max(d.Last, o.Last)
}

// allDrops returns what nobody may name any more, sorted by key, each once.
func (g *Generation) allDrops() []Drop {
	all := slices.Clone(g.Drops)
	for _, p := range g.over {
		all = append(all, p.Drops...)
	}
	slices.SortStableFunc(all, func(a, b Drop) int { return strings.Compare(a.Key, b.Key) })
	each := all[:0]
	for _, d := range all {
		if n := len(each); n > 0 && each[n-1].Key == d.Key {
			each[n-1].join(d)
		} else {
			each = append(each, d)
		}
	}
	return each
}

// dropsOf returns the keys that nobody may name any more.
func dropsOf(g *Generation) map[string]bool {
	dropped := make(map[string]bool)
	for _, d := range g.allDrops() {
		dropped[d.Key] = true
	}
	return dropped
}

// allFreed returns the numbers of which the manifest may have been deleted.
func (g *Generation) allFreed() Spans {
	freed := g.Freed
	for _, p := range g.over {
		freed = freed.and(p.Freed)
	}
	return freed
}

// Span are the numbers from First to Last, both of them included.
type Span struct{ First, Last uint64 }

// append appends "7" or "7-9".
func (s Span) append(b []byte) []byte {
	if b = strconv.AppendUint(b, s.First, 10); s.Last > s.First {
		b = strconv.AppendUint(append(b, '-'), s.Last, 10)
	}
	return b
}

// parseSpan reads what append writes. An error of before is passed on.
func parseSpan(text string, before error) (s Span, err error) {
	first, last, several := strings.Cut(text, "-")
	if s.First, err = strconv.ParseUint(first, 10, 64); err == nil {
		s.Last = s.First
		if several {
			s.Last, err = strconv.ParseUint(last, 10, 64)
		}
	}
	if err == nil && (s.First == 0 || s.Last < s.First) {
		err = errors.New("a span of numbers is none")
	}
	return s, errors.Join(before, err)
}

// Spans is a set of numbers: ascending, with gaps between them.
type Spans []Span

// has reports whether a number is in the set.
func (s Spans) has(n uint64) bool {
	i, found := slices.BinarySearchFunc(s, n, func(a Span, n uint64) int { return cmp.Compare(a.First, n) })
	return found || i > 0 && n <= s[i-1].Last
}

// and returns what is in either set.
func (s Spans) and(o Spans) Spans {
	if len(o) == 0 {
		return s
	}
	all := slices.Concat(s, o)
	slices.SortFunc(all, func(a, b Span) int { return cmp.Compare(a.First, b.First) })
	var sum Spans
	for _, x := range all {
		if n := len(sum); n > 0 && x.First <= sum[n-1].Last+1 {
			sum[n-1].Last = max(sum[n-1].Last, x.Last)
		} else {
			sum = append(sum, x)
		}
	}
	return sum
}

// gaps returns the numbers below n that are not taken. What is taken is sorted.
func gaps(n uint64, taken []uint64) (s Spans) {
	at := uint64(1)
	for _, x := range append(taken, n) {
		if x > at {
			s = append(s, Span{at, min(x, n) - 1})
		}
		at = max(at, x+1)
		if x >= n {
			break
		}
	}
	return s
}

// append appends the line of the set; none if it is empty.
func (s Spans) append(b []byte) []byte {
	if len(s) == 0 {
		return b
	}
	b = append(b, "freed"...)
	for _, x := range s {
		b = x.append(append(b, ' '))
	}
	return append(b, '\n')
}

// parseSpans reads what stands after "freed " in the manifest of generation n.
func parseSpans(text string, n uint64) (s Spans, err error) {
	for word := range strings.SplitSeq(text, " ") {
		var x Span
		x, err = parseSpan(word, err)
		if k := len(s); err == nil && (x.Last >= n || k > 0 && x.First <= s[k-1].Last+1) {
			err = errors.New("numbers that cannot be free")
		}
		if err != nil {
			return nil, err
		}
		s = append(s, x)
	}
	return s, nil
}
