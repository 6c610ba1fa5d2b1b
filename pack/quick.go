package pack

import (
	"math"
	"math/bits"
)

const (
	// quickCodes is how many codes are kept, deflate's own included. With
	// eight, source code is not smaller and everything slower.
	quickCodes = 4
	// From manySteps on, one in countEvery is counted.
	manySteps  = 512
	countEvery = 4

	// A segment gets codes of its own if the best ones at hand make it longer
	// by a part in gainMuch. Every freshAfter segments a part in gainLittle is
	// enough, lest one code serves gigabytes that it fits worse and worse.
	gainMuch   = 8
	gainLittle = 40
	freshAfter = 16
	// headerGuess is how many bits their header takes, about.
	headerGuess = 800

	// quickSlack is how many bytes behind its limit quick may write to.
	quickSlack = 16
)

// quick makes deflate streams from slice to slice, for chunks of about 10 KiB.
//
// A library finds matches, counts symbols, makes two codes, and then writes.
// The codes take it a quarter of the time, for chunks that are much like those
// before them. Here the codes that served lately are kept, with a code for
// every symbol so that they serve anything. A sample of the symbols says which
// is best, and whether it is so bad that this segment must get codes of its own.
// docs/design/deflate.md has the figures.
//
// So what a body becomes depends on those before it, and on nothing else.
type quick struct {
	m     matcher
	freq  counts
	used  [symbolsMask + 1]uint16 // the symbols in freq
	codes [quickCodes]codes       // the first ones are deflate's own
	made  int
	clock int // counts segments
	fresh int // when codes were made last
}

func newQuick() *quick {
	q := &quick{made: 1}
	q.codes[0].fixed()
	return q
}

// append appends the deflate stream of body to dst and reports whether it took
// no more than room bytes; dst must have room for quickSlack more.
func (q *quick) append(dst, body []byte, room int) ([]byte, bool) {
	w := wordWriter{b: dst[:cap(dst)], p: len(dst), limit: min(len(dst)+room, cap(dst)-quickSlack)}
	for last := uint64(0); last == 0; {
		if body = q.m.find(body); len(body) == 0 {
			last = 1
		}
		t := q.choose()
		if w.p+t.bits>>3 >= w.limit {
			return dst, false
		}
		w.put(newWord(last, 1))
		for _, h := range t.header[:t.headers] {
			w.put(h)
		}
		if !w.segment(&q.m, t) {
			return dst, false
		}
	}
	w.put(newWord(0, -w.n&7)) // to the end of the byte
	if w.p > w.limit {
		return dst, false
	}
	return w.b[:w.p], true
}

// choose returns the codes for the segment that was searched.
func (q *quick) choose() *codes {
	every := uint32(1)
	if q.m.n >= manySteps {
		every = countEvery
	}
	q.count(int(every))
	used := q.occurring()
	best, least := 0, uint32(math.MaxUint32)
	for i := range q.codes[:q.made] {
		t := &q.codes[i]
		n := uint32(0)
		for _, k := range used {
			n += q.freq[k&symbolsMask] * uint32(t.lens[k&symbolsMask])
		}
		if n = n*every + uint32(t.bits); n < least {
			best, least = i, n
		}
	}
	own := q.entropy(used)*every + headerGuess
	gain := own / gainMuch
	if q.clock-q.fresh >= freshAfter {
		gain = own / gainLittle
	}
	q.clock++
	if least > own+gain {
		best, q.fresh = q.oldest(), q.clock
		for i := range q.freq[:symbols] {
			// What did not occur counts as a sixteenth of an occurrence.
			q.freq[i] = q.freq[i]<<4 + 1
		}
		q.codes[best].build(&q.freq)
	}
	q.codes[best].used = q.clock
	return &q.codes[best]
}

// oldest returns which codes are to be replaced.
func (q *quick) oldest() int {
	if q.made < quickCodes {
		q.made++
		return q.made - 1
	}
	best := 1
	for i := 2; i < quickCodes; i++ {
		if q.codes[i].used < q.codes[best].used {
			best = i
		}
	}
	return best
}

// count counts the symbols of one step in every, and of the rest.
func (q *quick) count(every int) {
	f, m := &q.freq, &q.m
	clear(f[:])
	f[256] = 1
	for i := 0; i < m.n; i += every {
		s := m.steps[i&(stepsMax-1)]
		v := m.load32(s.place())
		if s&stepMatch == 0 {
			f[v&255]++
			f[v>>8&255]++
			f[v>>16&255]++
			f[v>>24]++
			continue
		}
		n := uint32(s.literals())
		f[v&255] += -n >> 31 // 1 if n > 0
		f[v>>8&255] += (1 - n) >> 31
		f[v>>16&255] += (2 - n) >> 31
		f[257+uint(lengthSymbol[s.length()]&31)]++
		d := s.distance()
		f[maxLits+distSymbol(d, distExtra(d))]++
	}
	for _, c := range m.rest() {
		f[c]++
	}
}

// occurring lists the symbols in q.freq.
func (q *quick) occurring() []uint16 {
	n := 0
	for i, f := range q.freq[:symbols] {
		q.used[n&symbolsMask] = uint16(i)
		n += int(-f >> 31) // no branch: none could be foreseen
	}
	return q.used[:n]
}

// entropy returns how many bits the symbols in q.freq take at least, extra bits
// left out. A sample looks more regular than what it was taken from, by about
// 0.7 bits for every symbol.
func (q *quick) entropy(used []uint16) uint32 {
	var total [2]uint32
	var sum uint64
	for _, k := range used {
		f := q.freq[k&symbolsMask]
		alphabet := 0
		if k >= maxLits {
			alphabet = 1
		}
		total[alphabet] += f
		sum += uint64(f) * log2(f)
	}
	e := uint64(total[0])*log2(total[0]) - sum
	if total[1] > 0 {
		e += uint64(total[1]) * log2(total[1])
	}
	return uint32(e>>8) + uint32(len(used))*3/4
}

// log2 returns 256 times the logarithm of n, which must not be 0, to the base 2.
func log2(n uint32) uint64 {
	b := bits.Len32(n) - 1
	return uint64(b)<<8 + uint64(logTable[uint64(n)<<7>>(b&31)&127])
}

// logTable has 256 times the logarithms of the numbers from 1 to 2.
var logTable = func() (t [128]uint8) {
	for i := range t {
		t[i] = uint8(256 * math.Log2(1+float64(i)/128))
	}
	return t
}()

// lengthSymbol has the symbols of lengths - 3, less 257.
var lengthSymbol = func() (t [256]uint8) {
	symbol := 0
	for i := range t {
		for symbol < 28 && int(lengthCode(symbol+1)>>16) <= i+matchLeast {
			symbol++
		}
		t[i] = uint8(symbol)
	}
	return t
}()

// distExtra returns how many extra bits a distance - 1 takes.
func distExtra(d uint) uint { return uint(bits.Len(d|3)) - 2 }

// distSymbol returns the symbol of a distance - 1.
func distSymbol(d, extra uint) uint { return (d>>(extra&63) + 2*extra) & 31 }
