package pack

import "math/bits"

// A decoding table maps the next bits of a stream to an entry that says all
// there is to know about the symbol they begin with:
//
//	bits  0–7   how many bits to take, extra bits included
//	bits  8–11  how many of them are the code; the extra bits follow
//	bits 12–15  what it is, if not a length or a distance
//	bits 16–31  the literal, or the least length or distance of the symbol, or
//	            where the second table begins
//
// Where the bits that choose an entry hold two whole literals, the entry stands
// for both, the first one in bits 16–23. Half of the look-ups of a text are
// saved that way, and each costs the processor seven cycles that it cannot
// spend otherwise, because the next one waits for it.
//
// Codes longer than the index of the table lead to a second table behind it;
// their entry there counts only the bits that the first table did not take,
// and bits 8–11 of the entry in the first table are the index bits of the second.
type code uint32

const (
	codeLiteral code = 1 << 15             // literals, as many as literals says
	codeSpecial code = 1 << 14             // none of literal, length, distance:
	codeSecond  code = codeSpecial | 2<<12 // more bits choose
	codeEnd     code = codeSpecial | 1<<12 // the block ends
	codeInvalid code = codeSpecial         // no stream has this symbol

	codeOne code = 1 << 12 // counts literals
)

// literals returns how many literals an entry for literals stands for.
func (e code) literals() int { return int(e >> 12 & 3) }

const (
	litBits  = 12
	distBits = 8
	lenBits  = 7 // lengths of the codes' lengths have no longer codes

	maxCode  = 15
	maxLits  = 286
	maxDists = 30

	// The largest tables that complete codes of 288 and 32 symbols can need.
	litTable  = 4382
	distTable = 402
)

// lengthCode returns the entry of length symbol 257+i, its code length left out.
func lengthCode(i int) code {
	switch {
	case i < 8:
		return code(3+i) << 16
	case i < 28:
		extra := i/4 - 1
		return code(3+(4+i&3)<<extra)<<16 | code(extra)
	case i == 28:
		return 258 << 16
	}
	return codeInvalid
}

// distCode returns the entry of distance symbol i, its code length left out.
func distCode(i int) code {
	switch {
	case i < 4:
		return code(1+i) << 16
	case i < maxDists:
		extra := i/2 - 1
		return code(1+(2+i&1)<<extra)<<16 | code(extra)
	}
	return codeInvalid
}

// litCode returns the entry of a symbol of the literal and length alphabet.
func litCode(i int) code {
	switch {
	case i < 256:
		return codeLiteral | codeOne | code(i)<<16
	case i == 256:
		return codeEnd
	}
	return lengthCode(i - 257)
}

// An alphabet is what the symbols of a code mean.
type alphabet struct {
	entries  []code
	index    int  // how many bits choose an entry of the first table
	literals int  // symbols before this one are put in pairs
	single   bool // a code of one symbol of one bit, or of none, will do
}

// The three alphabets.
var (
	litCodes  = alphabet{entries: meanings(288, litCode), index: litBits, literals: 256, single: true}
	distCodes = alphabet{entries: meanings(32, distCode), index: distBits, single: true}
	lenCodes  = alphabet{entries: meanings(19, func(i int) code { return code(i) << 16 }), index: lenBits}
)

func meanings(n int, entry func(i int) code) []code {
	a := make([]code, n)
	for i := range a {
		a[i] = entry(i)
	}
	return a
}

// tables are the decoding tables of one block.
type tables struct {
	lit  [litTable]code
	dist [distTable]code
}

// fixedCodes are the tables of blocks that bring none.
var fixedCodes = func() *tables {
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	t := new(tables)
	litCodes.build(t.lit[:], lens[:])
	for i := range lens[:32] {
		lens[i] = 5
	}
	distCodes.build(t.dist[:], lens[:32])
	return t
}()

// A coder is what build makes tables of.
type coder struct {
	count  [maxCode + 1]int // codes by length
	sorted [288]codeWord    // the symbols in the order of their codes
	first  [maxCode + 1]int // where in sorted the codes of a length begin
	lits   [maxCode + 1]int // where the literals among them end
}

// A codeWord is a symbol, in the upper half, and its code word, the first bit
// lowest.
type codeWord uint32

func (w codeWord) symbol() uint32 { return uint32(w >> 16) }
func (w codeWord) word() uint     { return uint(w & 0xffff) }

// build fills table, whose first entries are looked up by the next bits of a
// stream, for the canonical code with the given lengths. It reports whether the
// code is one: lengths that need more codes than there are, or leave some
// unused, are refused as zlib refuses them.
func (a *alphabet) build(table []code, lens []uint8) bool {
	var c coder
	for _, n := range lens {
		c.count[n]++
	}
	c.count[0] = 0
	var next [maxCode + 1]uint16 // code words, the first bit highest
	left, total, longest := 1, 0, 0
	for n := 1; n <= maxCode; n++ {
		next[n] = uint16(1<<n - left<<1)
		c.first[n] = total
		total += c.count[n]
		left = left<<1 - c.count[n]
		if left < 0 {
			return false
		}
		if c.count[n] > 0 {
			longest = n
		}
	}
	if left > 0 && !(a.single && longest <= 1) {
		return false
	}
	ends := c.first
	for i, n := range lens {
		if i == a.literals {
			c.lits = ends
		}
		if n > 0 {
			c.sorted[ends[n]] = codeWord(i)<<16 | codeWord(bits.Reverse16(next[n])>>(16-n))
			ends[n]++
			next[n]++
		}
	}
	if left > 0 {
		a.fillSingle(table, c.sorted[:total])
		return true
	}
	a.fillSecond(table, &c, a.fill(table, &c))
	return true
}

// fillSingle enters a code of one symbol of one bit, or of none.
func (a *alphabet) fillSingle(table []code, sorted []codeWord) {
	for i := range table[:1<<a.index] {
		table[i] = codeInvalid + 1
	}
	for _, w := range sorted {
		for i := 0; i < 1<<a.index; i += 2 {
			table[i] = a.entries[w.symbol()] + 1<<8 + 1
		}
	}
}

// fill enters a complete code in the first table, and returns the symbols whose
// codes are longer. Deflate sends codes with their first bit lowest, so as the
// lengths grow, what has been filled so far is doubled.
func (a *alphabet) fill(table []code, c *coder) (longer []codeWord) {
	table = table[:1<<a.index]
	longer = c.sorted[:]
	for n := 1; n <= a.index; n++ {
		for _, w := range longer[:c.count[n]] {
			table[w.word()] = a.entries[w.symbol()] + code(n)<<8 + code(n)
		}
		longer = longer[c.count[n]:]
		if a.literals > 0 {
			c.fillPairs(table, n)
		}
		if n < a.index {
			copy(table[1<<n:], table[:1<<n])
		}
	}
	return longer
}

// fillPairs enters all pairs of literals that take n bits together, in place of
// the first one of each.
func (c *coder) fillPairs(table []code, n int) {
	for l := 1; l < n; l++ {
		second := c.sorted[c.first[n-l]:c.lits[n-l]]
		for _, v := range c.sorted[c.first[l]:c.lits[l]] {
			e := codeLiteral | 2*codeOne | code(v.symbol())<<16 | code(n)
			for _, w := range second {
				table[v.word()|w.word()<<l] = e | code(w)<<8&(0xff<<24)
			}
		}
	}
}

// fillSecond enters the codes that are longer than the index of the first table.
func (a *alphabet) fillSecond(table []code, c *coder, longer []codeWord) {
	end := uint(1) << a.index
	prefix, start, sub := end, uint(0), 0
	for n := a.index + 1; n <= maxCode; n++ {
		for left := c.count[n]; left > 0; left-- {
			w := longer[0]
			longer = longer[1:]
			if p := w.word() & (1<<a.index - 1); p != prefix {
				prefix, start = p, end
				// The second table takes the longest codes that fit its prefix.
				sub = n - a.index
				for room := 1<<sub - left; room > 0 && sub+a.index < maxCode; {
					sub++
					room = room<<1 - c.count[sub+a.index]
				}
				end += 1 << sub
				table[p] = codeSecond | code(start)<<16 | code(sub)<<8 | code(a.index)
			}
			k := n - a.index
			for i := w.word() >> a.index; i < 1<<sub; i += 1 << k {
				table[start+i] = a.entries[w.symbol()] + code(k)<<8 + code(k)
			}
		}
	}
}
