package pack

import "encoding/binary"

// waiting is how many bits may wait to be written.
const waiting = 56

// wordWriter writes words to a slice.
//
// New bits come in from above: bits holds those that wait in its topmost n, and
// below them what was written already and the lengths of the last words, all
// of it of no concern. So a word takes a shift and an or, and the whole of it can
// be added to n, of which only the lowest byte counts.
type wordWriter struct {
	b     []byte
	p     int // where the next byte goes
	limit int // p must not pass it; there is quickSlack behind it
	bits  uint64
	n     uint // below 8 between calls
}

// put writes a word.
func (w *wordWriter) put(v word) {
	w.bits, w.n = push(w.bits, w.n, v)
	w.p, w.n = flush(w.b, w.p, w.bits, w.n)
}

// push adds a word to bits.
func push(bits uint64, n uint, v word) (uint64, uint) {
	return bits>>(v&63) | uint64(v), n + uint(v)
}

// flush writes the whole bytes of bits to b[p:], and up to eight bytes of
// anything, and returns the new p and n.
func flush(b []byte, p int, bits uint64, n uint) (int, uint) {
	binary.LittleEndian.PutUint64(b[p:], bits>>(-n&63))
	return p + int(n&0xff>>3), n & 7
}

// segment writes what m found, and the end of the block, and reports whether
// there was room. It stops soon after the limit, and not always at it.
func (w *wordWriter) segment(m *matcher, t *codes) bool {
	b, p, bits, n := w.b, w.p, w.bits, w.n
	for _, s := range m.steps[:m.n] {
		if p > w.limit {
			return false
		}
		v := m.load32(s.place())
		if s&stepMatch == 0 {
			// Four literals have 28 bits or so; only ones that the codes were
			// not made for do not fit together.
			w0, w1, w2, w3 := t.lits[v&255], t.lits[v>>8&255], t.lits[v>>16&255], t.lits[v>>24]
			if (n+uint(w0+w1+w2+w3))&0xff > waiting {
				bits, n = push(bits, n, w0)
				bits, n = push(bits, n, w1)
				p, n = flush(b, p, bits, n)
				w0, w1 = 0, 0
			}
			bits, n = push(bits, n, w0)
			bits, n = push(bits, n, w1)
			bits, n = push(bits, n, w2)
			bits, n = push(bits, n, w3)
			p, n = flush(b, p, bits, n)
			continue
		}
		// Literals beyond the number there is become words of no bits.
		k := int64(s.literals())
		bits, n = push(bits, n, t.lits[v&255]&word(-k>>63))
		bits, n = push(bits, n, t.lits[v>>8&255]&word((1-k)>>63))
		bits, n = push(bits, n, t.lits[v>>16&255]&word((2-k)>>63))
		p, n = flush(b, p, bits, n)

		d := s.distance()
		extra := distExtra(d)
		bits, n = push(bits, n, t.lengths[s.length()])
		bits, n = push(bits, n, t.dists[distSymbol(d, extra)])
		bits, n = bits>>(extra&63)|uint64(d)<<(-extra&63), n+extra
		p, n = flush(b, p, bits, n)
	}
	w.p, w.bits, w.n = p, bits, n
	for _, c := range m.rest() {
		if w.p > w.limit {
			return false
		}
		w.put(t.lits[c])
	}
	if w.p > w.limit {
		return false
	}
	w.put(t.end)
	return true
}
