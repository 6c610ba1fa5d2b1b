package pack

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// histograms are hard for makers of codes. They have the frequencies of all
// symbols; build wants none of them to be 0.
func histograms() map[string]*counts {
	hs := map[string]*counts{}
	add := func(name string, f func(i int) uint32) {
		h := new(counts)
		for i := range h[:symbols] {
			h[i] = f(i)
		}
		hs[name] = h
	}
	fib := [24]uint32{1, 1}
	for i := 2; i < len(fib); i++ {
		fib[i] = fib[i-1] + fib[i-2]
	}
	rnd := rand.New(rand.NewPCG(15, 16))
	add("all alike", func(int) uint32 { return 1 })
	add("all alike and many", func(int) uint32 { return 1 << 20 })
	add("one", func(i int) uint32 { return 1 + b2n(i == 'x')<<20 })
	add("two", func(i int) uint32 { return 1 + b2n(i == 'x' || i == 256)<<20 })
	add("the end", func(i int) uint32 { return 1 + b2n(i == 256)<<20 })
	add("fibonacci", func(i int) uint32 { return fib[i%24] })
	add("fibonacci at last", func(i int) uint32 { return fib[max(0, i-262)%24] })
	add("doubling", func(i int) uint32 { return 1 << (i % 16) })
	add("around 256", func(i int) uint32 { return 240 + uint32(i*7%32) })
	add("rising", func(i int) uint32 { return 1 + uint32(i) })
	add("falling", func(i int) uint32 { return symbols - uint32(i) })
	for _, k := range []string{"a", "b", "c", "d"} {
		add("random "+k, func(int) uint32 { return 1 + rnd.Uint32N(1<<rnd.IntN(16)) })
	}
	return hs
}

func b2n(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// TestBuild makes codes and lets our reader read their headers.
func TestBuild(t *testing.T) {
	for name, h := range histograms() {
		c := new(codes)
		c.build(h)
		for _, a := range [][2]int{{0, maxLits}, {maxLits, symbols}} {
			lens, freq := c.lens[a[0]:a[1]], h[a[0]:a[1]]
			if sum := kraft(lens); sum != 1<<maxCode {
				t.Errorf("%s: the code is not complete: %x", name, sum)
			}
			if slices.Max(lens) < maxCode && cost(lens, freq) != least(freq) {
				t.Errorf("%s: the code takes %d bits, %d would do", name, cost(lens, freq), least(freq))
			}
			if float64(cost(lens, freq)) > 1.01*float64(least(freq)) {
				t.Errorf("%s: the code takes %d bits, a longer one %d", name, cost(lens, freq), least(freq))
			}
		}
		b := make([]byte, 1000)
		w := wordWriter{b: b}
		w.put(newWord(1, 1))
		for _, v := range c.header[:c.headers] {
			w.put(v)
		}
		if got := w.p*8 + int(w.n); got != c.bits {
			t.Errorf("%s: the header has %d bits, not %d", name, got, c.bits)
		}
		r := bitReader{src: b}
		r.fill()
		r.take(3)
		var z inflater
		if err := z.codes(&r, new(tables)); err != nil || !bytes.Equal(z.lens[:], c.lens[:symbols]) {
			t.Errorf("%s: the header is read as something else: %v", name, err)
		}
		if got := r.p*8 - int(r.n); got != c.bits {
			t.Errorf("%s: %d bits of header are read, %d were written", name, got, c.bits)
		}
	}
}

// TestLimits forces codes below the length that they want.
func TestLimits(t *testing.T) {
	for name, h := range histograms() {
		for limit := 9; limit <= maxCode; limit++ {
			var lens [maxLits]uint8
			codeLengths(lens[:], h[:maxLits], limit)
			if sum := kraft(lens[:]); sum != 1<<maxCode || int(slices.Max(lens[:])) > limit {
				t.Errorf("%s: limit %d: longest %d, sum %x", name, limit, slices.Max(lens[:]), sum)
			}
		}
	}
	// Few symbols, many that do not occur.
	for n := 2; n < 19; n++ {
		freq := make([]uint32, 19)
		for i := range n {
			freq[i*7%19] = 1 << i
		}
		lens := make([]uint8, 19)
		codeLengths(lens, freq, lenBits)
		used := 0
		for i, l := range lens {
			used += int(b2n(l > 0))
			if (l > 0) != (freq[i] > 0) || l > lenBits {
				t.Errorf("%d symbols: one that occurs %d times has %d bits", n, freq[i], l)
			}
		}
		if kraft(lens) != 1<<maxCode || used != n {
			t.Errorf("%d symbols: %v", n, lens)
		}
	}
}

func kraft(lens []uint8) (sum int) {
	for _, l := range lens {
		if l > 0 {
			sum += 1 << (maxCode - l)
		}
	}
	return sum
}

func cost(lens []uint8, freq []uint32) (n uint64) {
	for i, l := range lens {
		n += uint64(l) * uint64(freq[i])
	}
	return n
}

// least returns what an optimal code of any length takes: the sum of all pairs
// that Huffman's algorithm makes.
func least(freq []uint32) (n uint64) {
	var heap []uint64
	for _, f := range freq {
		heap = append(heap, uint64(f))
	}
	for len(heap) > 1 {
		slices.Sort(heap)
		pair := heap[0] + heap[1]
		n += pair
		heap = append(heap[2:], pair)
	}
	return n
}

// TestFixed compares with the codes of the reader.
func TestFixed(t *testing.T) {
	c := new(codes)
	c.fixed()
	put := func(v word) *bitReader {
		b := make([]byte, 16)
		w := wordWriter{b: b}
		w.put(v)
		r := &bitReader{src: b}
		r.fill()
		return r
	}
	for i, v := range c.lits {
		e := fixedCodes.lit[put(v).bits&(1<<litBits-1)]
		if e&codeLiteral == 0 || byte(e>>16) != byte(i) || word(e&0xff) != v&0xff || c.lens[i] != uint8(v) {
			t.Errorf("literal %d is read as %x", i, e)
		}
	}
	if e := fixedCodes.lit[put(c.end).bits&(1<<litBits-1)]; e&codeEnd != codeEnd {
		t.Errorf("the end is read as %x", e)
	}
	for i, v := range c.dists[:maxDists] {
		e := fixedCodes.dist[put(v).bits&(1<<distBits-1)]
		if e>>16 != distCode(i)>>16 || e>>8&15 != 5 || v&0xff != 5 {
			t.Errorf("distance %d is read as %x", i, e)
		}
	}
}

// TestSymbols compares the symbols of lengths and distances, and the words of
// lengths, with the tables of the reader.
func TestSymbols(t *testing.T) {
	for _, h := range histograms() {
		c := new(codes)
		c.build(h)
		for n := matchLeast; n <= matchMost; n++ {
			s := int(lengthSymbol[n-matchLeast])
			e := lengthCode(s)
			code, bits := c.lengths[n-matchLeast].split()
			l := uint(c.lens[257+s])
			if extra := uint(e & 0xff); bits != l+extra || uint(e>>16)+uint(code>>l) != uint(n) {
				t.Fatalf("length %d has symbol %d and %d of %d bits", n, s, code>>l, bits-l)
			}
		}
	}
	for d := range distMost {
		extra := distExtra(uint(d))
		s := distSymbol(uint(d), extra)
		e := distCode(int(s))
		if uint(e&0xff) != extra || int(e>>16)+d&(1<<extra-1) != d+1 {
			t.Fatalf("distance %d has symbol %d and %d bits", d+1, s, extra)
		}
	}
}

func TestEntropy(t *testing.T) {
	for n := uint32(1); n < 1<<21; n += 1 + n/50 {
		want := 256 * math.Log2(float64(n))
		if got := float64(log2(n)); got > want+1e-9 || got < want-4 {
			t.Fatalf("log2(%d) is %v, want %v", n, got, want)
		}
	}
	for name, h := range histograms() {
		q := newQuick()
		q.freq = *h
		got, want, all := float64(q.entropy(q.occurring())), 0.0, 0.0
		for _, a := range [][]uint32{h[:maxLits], h[maxLits:symbols]} {
			total := 0.0
			for _, f := range a {
				total += float64(f)
			}
			for _, f := range a {
				want += float64(f) * math.Log2(total/float64(f))
			}
			all += total
		}
		// log2 is off by at most 4 in 256.
		if got < want-all/64-1 || got > want+all/64+symbols {
			t.Errorf("%s: %v bits, want %v", name, got, want)
		}
	}
}

// TestCount compares a count of all steps with one that goes by their meaning.
func TestCount(t *testing.T) {
	for name, body := range shapes() {
		q := newQuick()
		q.m.find(body)
		q.count(1)
		var want counts
		want[256] = 1
		m := &q.m
		for _, s := range m.steps[:m.n] {
			n := 4
			if s&stepMatch != 0 {
				n = int(s.literals())
				i := 0
				for i < 28 && int(lengthCode(i+1)>>16) <= int(s.length())+matchLeast {
					i++
				}
				want[257+i]++
				i = 0
				for i < maxDists-1 && uint(distCode(i+1)>>16) <= s.distance()+1 {
					i++
				}
				want[maxLits+i]++
			}
			for _, c := range m.win[s.place():][:n] {
				want[c]++
			}
		}
		for _, c := range m.rest() {
			want[c]++
		}
		if q.freq != want {
			t.Errorf("%s: counts differ", name)
		}
		used := map[uint16]bool{}
		for _, k := range q.occurring() {
			used[k] = true
		}
		for i, f := range want {
			if used[uint16(i)] != (f > 0) {
				t.Errorf("%s: symbol %d occurs %d times, listed %v", name, i, f, used[uint16(i)])
			}
		}
	}
}

// TestLiteralsThatDoNotFit writes symbols for which the codes were not made.
func TestLiteralsThatDoNotFit(t *testing.T) {
	var freq counts
	for i := range freq[:symbols] {
		freq[i] = 1
	}
	for i, n := uint32(0), uint32(1); i < 15; i, n = i+1, n*2 {
		freq[i] = 300 * n
	}
	codes := new(codes)
	codes.build(&freq)
	longest := slices.Max(codes.lens[:256])
	if 4*longest <= waiting {
		t.Fatalf("the longest code has %d bits", longest)
	}
	body := noise(20000)
	m := new(matcher)
	m.find(body)
	b := make([]byte, 2*len(body))
	w := wordWriter{b: b, p: copy(b, []byte{0x78, 0x01}), limit: len(b) - quickSlack}
	w.put(newWord(1, 1))
	for _, h := range codes.header[:codes.headers] {
		w.put(h)
	}
	if !w.segment(m, codes) {
		t.Fatal("no room")
	}
	w.put(newWord(0, -w.n&7))
	out, _, err := reference(append(b[:w.p], make([]byte, 4)...), len(body)+1)
	if !bytes.Equal(out, body) {
		t.Errorf("%d bytes of %d, %v", len(out), len(body), err)
	}
}
