package pack

const (
	// headerBits is how many bits a word of a header has at most.
	headerBits = 48
	// headerMax words hold any header: 16 bits, 19 lengths of three bits, and
	// for each symbol seven at most, since the nine that repeat a length stand
	// for three of them or more.
	headerMax = 2 + (2+14+19*3+7*symbols)/(headerBits-6)
)

// repeat is the symbol of a header that repeats the length before it three to
// six times. Two more, 17 and 18, repeat zeros, of which there are none here.
const repeat = 16

// writeHeader makes the header of a block with codes of its own: the lengths of
// all codes, run-length coded, in a code that comes first.
func (t *codes) writeHeader() {
	var tokens [symbols]uint8
	var freq [19]uint32
	n := runs(&tokens, t.lens[:symbols])
	for _, k := range tokens[:n] {
		freq[k&31]++
	}
	var lens [19]uint8
	var words [19]word
	codeLengths(lens[:], freq[:], lenBits)
	codeWords(words[:], lens[:])
	nlen := len(lensOrder)
	for lens[lensOrder[nlen-1]] == 0 {
		nlen--
	}

	t.headers, t.bits = 0, 1
	w := headerWriter{t: t}
	w.put(2, 2)
	w.put(maxLits-257|(maxDists-1)<<5|uint64(nlen-4)<<10, 14)
	for _, i := range lensOrder[:nlen] {
		w.put(uint64(lens[i]), 3)
	}
	for _, k := range tokens[:n] {
		w.put(words[k&31].split())
		if k&31 == repeat {
			w.put(uint64(k>>5), 2)
		}
	}
	w.flush()
}

// runs turns lengths of codes into the symbols of a header, with their extra
// bits, how often more than three times to repeat, from bit 5 on.
func runs(tokens *[symbols]uint8, lens []uint8) int {
	n := 0
	for i := 0; i < len(lens); {
		l := lens[i]
		tokens[n] = l
		n++
		i++
		again := 0
		for ; i < len(lens) && lens[i] == l; i++ {
			again++
		}
		for ; again >= 3; n++ {
			k := min(again, 6)
			tokens[n] = repeat | uint8(k-3)<<5
			again -= k
		}
		for ; again > 0; again-- {
			tokens[n] = l
			n++
		}
	}
	return n
}

// headerWriter gathers the bits of a header in few words.
type headerWriter struct {
	t    *codes
	bits uint64
	n    uint
}

func (w *headerWriter) put(v uint64, n uint) {
	if w.n+n > headerBits {
		w.flush()
	}
	w.bits |= v << w.n
	w.n += n
}

func (w *headerWriter) flush() {
	w.t.header[w.t.headers] = newWord(w.bits, w.n)
	w.t.headers++
	w.t.bits += int(w.n)
	w.bits, w.n = 0, 0
}
