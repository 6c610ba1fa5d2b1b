package pack

import "math/bits"

// A decoding table maps the next bits of a stream to an entry that says all
// there is to know about the symbol they begin with:
//
//	bits  0–7   how many bits to take, extra bits included
//	bits  8–11  how many of them are the code; the extra bits follow
//	bits 12–15  what it is, if not a length or a distance
//	bits 16–30  the literal, or the least length or distance of the symbol, or
//	            where the second table begins
//	bit  31     it is a literal
//
// Codes longer than the index of the table lead to a second table behind it;
// their entry there counts only the bits that the first table did not take,
// and bits 8–11 of the entry in the first table are the index bits of the second.
type code uint32

const (
	codeLiteral code = 1 << 31
	codeSpecial code = 1 << 15 // none of literal, length, distance; and one of:
	codeSecond  code = 1 << 14
	codeEnd     code = 1 << 13
	codeInvalid code = 1 << 12
)

const (
	litBits  = 11
	distBits = 8
	lenBits  = 7 // lengths of the codes' lengths have no longer codes

	maxCode  = 15
	maxLits  = 286
	maxDists = 30

	// The largest tables that complete codes of 288 and 32 symbols can need.
	litTable  = 2342
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
	return codeSpecial | codeInvalid
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
	return codeSpecial | codeInvalid
}

// litCode returns the entry of a symbol of the literal and length alphabet.
func litCode(i int) code {
	switch {
	case i < 256:
		return codeLiteral | code(i)<<16
	case i == 256:
		return codeSpecial | codeEnd
	}
	return lengthCode(i - 257)
}

// What the symbols of the three alphabets are.
var (
	litCodes  = alphabet(288, litCode)
	distCodes = alphabet(32, distCode)
	lenCodes  = alphabet(19, func(i int) code { return codeLiteral | code(i)<<16 })
)

func alphabet(n int, entry func(i int) code) []code {
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
	buildCodes(t.lit[:], litBits, lens[:], litCodes, false)
	for i := range lens[:32] {
		lens[i] = 5
	}
	buildCodes(t.dist[:], distBits, lens[:32], distCodes, false)
	return t
}()

// buildCodes fills table, whose first 1<<index entries are looked up by the
// next bits of a stream, for the canonical code with the given lengths; entry
// says what the symbols are. It reports whether the code is one: lengths that
// need more codes than there are, or leave some unused, are refused as zlib
// refuses them. A code of one symbol of one bit is accepted if single is set,
// and so is one without any symbol.
func buildCodes(table []code, index int, lens []uint8, entry []code, single bool) bool {
	var count, next [maxCode + 1]int
	for _, n := range lens {
		count[n]++
	}
	count[0] = 0
	left, total, longest := 1, 0, 0
	for n := 1; n <= maxCode; n++ {
		next[n] = total
		total += count[n]
		left = left<<1 - count[n]
		if left < 0 {
			return false
		}
		if count[n] > 0 {
			longest = n
		}
	}
	if left > 0 && !(single && longest <= 1) {
		return false
	}
	var sorted [288]uint16 // symbols in the order of their codes
	for i, n := range lens {
		if n > 0 {
			sorted[next[n]] = uint16(i)
			next[n]++
		}
	}
	if left > 0 {
		for i := range table[:1<<index] {
			table[i] = codeSpecial | codeInvalid | 1
		}
		if total == 1 {
			for i := 0; i < 1<<index; i += 2 {
				table[i] = entry[sorted[0]] + 1<<8 + 1
			}
		}
		return true
	}
	fillCodes(table, index, sorted[:total], &count, entry)
	return true
}

// fillCodes enters a complete code. Deflate sends codes with their first bit
// lowest, so code words run through the table in bit-reversed order: as the
// lengths grow, what has been filled so far is doubled.
func fillCodes(table []code, index int, sorted []uint16, count *[maxCode + 1]int, entry []code) {
	word, n := 0, 1
	for ; n <= index; n++ {
		for range count[n] {
			table[word] = entry[sorted[0]] + code(n)<<8 + code(n)
			sorted = sorted[1:]
			word = nextWord(word, n)
		}
		if n < index {
			copy(table[1<<n:], table[:1<<n])
		}
	}
	end := 1 << index
	prefix, start, sub := -1, 0, 0
	for ; n <= maxCode; n++ {
		for left := count[n]; left > 0; left-- {
			if p := word & (1<<index - 1); p != prefix {
				prefix, start = p, end
				// The second table takes the longest codes that fit its prefix.
				sub = n - index
				for room := 1<<sub - left; room > 0 && sub+index < maxCode; {
					sub++
					room = room<<1 - count[sub+index]
				}
				end += 1 << sub
				table[p] = codeSpecial | codeSecond | code(start)<<16 | code(sub)<<8 | code(index)
			}
			e := entry[sorted[0]] + code(n-index)<<8 + code(n-index)
			sorted = sorted[1:]
			for i := word >> index; i < 1<<sub; i += 1 << (n - index) {
				table[start+i] = e
			}
			word = nextWord(word, n)
		}
	}
}

// nextWord adds one to a code word of n bits whose first bit is lowest. The
// last word of a length is all ones, and becomes itself.
func nextWord(word, n int) int {
	up := bits.Len(uint(word ^ (1<<n - 1))) // the highest zero bit, from one
	if up == 0 {
		return word
	}
	return word&(1<<(up-1)-1) | 1<<(up-1)
}
