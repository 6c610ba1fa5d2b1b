package pack

import "math/bits"

// A word is a code, perhaps with extra bits, in the form that a wordWriter
// takes: the bits at the top, the first one lowest, their number in the lowest
// byte. A word of 0 is no bits.
type word uint64

func newWord(bits uint64, n uint) word { return word(bits<<((64-n)&63)) | word(n) }

// split returns the bits of a word and their number.
func (w word) split() (bits uint64, n uint) {
	n = uint(w & 0xff)
	return uint64(w&^0xff) >> (64 - n), n
}

const (
	symbols     = maxLits + maxDists // distances follow literals and lengths
	symbolsMask = 1<<9 - 1
)

// counts says how often each symbol of a segment occurs. Its length is a power
// of two for the sake of the loops that use it.
type counts [symbolsMask + 1]uint32

// codes are the codes of a block and its header.
type codes struct {
	lits    [256]word
	lengths [256]word // by length - 3, extra bits included
	dists   [32]word
	end     word
	lens    [symbolsMask + 1]uint8 // lengths of the symbols' codes
	header  [headerMax]word        // of the block, without its first bit
	headers int                    // words of it
	bits    int                    // bits of it and of the first one
	used    int                    // when it was used last
}

// build makes codes for freq, in which every symbol must occur.
func (t *codes) build(freq *counts) {
	codeLengths(t.lens[:maxLits], freq[:maxLits], maxCode)
	codeLengths(t.lens[maxLits:symbols], freq[maxLits:symbols], maxCode)
	t.words(t.lens[:maxLits], t.lens[maxLits:symbols])
	t.writeHeader()
}

// fixed makes the codes that deflate defines.
func (t *codes) fixed() {
	var lits [288]uint8
	for i := range lits {
		switch {
		case i < 144 || i >= 280:
			lits[i] = 8
		case i < 256:
			lits[i] = 9
		default:
			lits[i] = 7
		}
	}
	copy(t.lens[:maxLits], lits[:])
	for i := maxLits; i < symbols; i++ {
		t.lens[i] = 5
	}
	t.words(lits[:], t.lens[maxLits:symbols])
	t.header[0], t.headers, t.bits = newWord(1, 2), 1, 3
}

// words makes the words of codes with the given lengths.
func (t *codes) words(lits, dists []uint8) {
	var all [288]word
	codeWords(all[:], lits)
	copy(t.lits[:], all[:256])
	t.end = all[256]
	for i, w := range all[257:maxLits] {
		e := lengthCode(i)
		first, extra := int(e>>16)-matchLeast, uint(e&0xff)
		code, n := w.split()
		for x := range min(1<<extra, len(t.lengths)-first) {
			t.lengths[first+x] = newWord(code|uint64(x)<<n, n+extra)
		}
	}
	codeWords(t.dists[:], dists)
}

// codeWords makes the words of the canonical code with the given lengths.
func codeWords(words []word, lens []uint8) {
	var next [maxCode + 2]uint // first how many codes have a bit less
	for _, n := range lens {
		next[n+1]++
	}
	next[1] = 0
	for n := 2; n < len(next); n++ {
		next[n] = (next[n] + next[n-1]) << 1
	}
	for i, n := range lens {
		words[i] = 0
		if n > 0 {
			c := bits.Reverse16(uint16(next[n])) >> (16 - n)
			words[i] = newWord(uint64(c), uint(n))
			next[n]++
		}
	}
}

// codeLengths finds the lengths of an optimal prefix code for symbols that
// occur so often, and then sees to it that none exceeds limit. At least two
// symbols must occur; those that do not get 0.
//
// The symbols, sorted, are joined in place (Moffat and Katajainen): a holds
// how often symbols occur that are yet to be joined, behind the pairs made so
// far, which in turn become the places of their parents, then their depths.
func codeLengths(lens []uint8, freq []uint32, limit int) {
	var sorted [maxLits]uint16
	n := byFrequency(&sorted, freq)
	var a [maxLits]uint32
	for i, s := range sorted[:n] {
		a[i] = freq[s]
	}
	leaf, pair := 0, 0
	for next := range n - 1 {
		sum := uint32(0)
		for range 2 {
			if leaf == n || pair < next && a[pair] < a[leaf] {
				sum += a[pair]
				a[pair] = uint32(next)
				pair++
			} else {
				sum += a[leaf]
				leaf++
			}
		}
		a[next] = sum
	}
	a[n-2] = 0
	for i := n - 3; i >= 0; i-- {
		a[i] = a[a[i]] + 1
	}
	var count [maxCode + 1]int // symbols by length
	for depth, left, i := 0, 1, n-2; left > 0; depth++ {
		pairs := 0
		for ; i >= 0 && int(a[i]) == depth; i-- {
			pairs++
		}
		count[min(depth, limit)] += left - pairs
		left = 2 * pairs
	}
	shorten(&count, limit)
	clear(lens)
	i := 0
	for l := limit; l > 0; l-- {
		for range count[l] {
			lens[sorted[i]] = uint8(l)
			i++
		}
	}
}

// shorten repairs a code whose symbols of more than limit bits were given limit
// bits. As long as it is over-full, one of them moves beside a shorter code,
// which grows by a bit.
func shorten(count *[maxCode + 1]int, limit int) {
	total := 0
	for l := 1; l <= limit; l++ {
		total += count[l] << (limit - l)
	}
	for ; total > 1<<limit; total-- {
		l := limit - 1
		for count[l] == 0 {
			l--
		}
		count[limit]--
		count[l]--
		count[l+1] += 2
	}
}

// byFrequency sorts the symbols that occur, the rarest first, and returns their
// number. Those that occur less than 256 times, nearly all, are sorted by
// counting, the others by insertion.
func byFrequency(sorted *[maxLits]uint16, freq []uint32) int {
	const often = 256
	var start [often + 2]int
	for _, f := range freq {
		start[min(f, often)+1]++
	}
	start[1] = 0 // those that do not occur
	for i := 1; i < len(start); i++ {
		start[i] += start[i-1]
	}
	first := start[often]
	for i, f := range freq {
		if f == 0 {
			continue
		}
		at := start[min(f, often)]
		start[min(f, often)]++
		for ; at > first && freq[sorted[at-1]] > f; at-- {
			sorted[at] = sorted[at-1]
		}
		sorted[at] = uint16(i)
	}
	return start[often]
}
