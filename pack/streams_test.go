package pack

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	kzlib "github.com/klauspost/compress/zlib"
)

// A streamMaker makes zlib streams, most of them a little wrong: streams of real
// encoders with some bytes changed, and streams put together symbol by symbol with
// codes drawn at random, complete, over-full and incomplete.
type streamMaker struct {
	rnd   *rand.Rand
	small [][]byte // of encoders
	large [][]byte
	out   []byte
	acc   uint64
	n     uint
	made  int // bytes that the blocks so far stand for, about
}

// smallStream is the size up to which a stream is taken most of the time: what an
// inflater does wrong, it does wrong in a hundred bytes.
const smallStream = 700

func newStreamMaker(t testing.TB, seed uint64) *streamMaker {
	m := &streamMaker{rnd: rand.New(rand.NewPCG(seed, 1))}
	for _, s := range encoderStreams(t) {
		if len(s) <= smallStream {
			m.small = append(m.small, s)
		} else {
			m.large = append(m.large, s)
		}
	}
	return m
}

// encoderStreams returns streams of every encoder at hand, in several sizes.
func encoderStreams(t testing.TB) (all [][]byte) {
	own := newDeflater(1)
	for _, b := range shapes() {
		for _, n := range []int{0, 1, 5, 30, 120, 400, 1500, 9000} {
			if n > len(b) {
				break
			}
			b := b[:n]
			for level := flate.HuffmanOnly; level <= 9; level++ {
				all = append(all, deflated(t, level, b))
			}
			for _, level := range []int{kzlib.HuffmanOnly, 1, 3, 6, 9} {
				all = append(all, klauspostStream(t, level, b))
			}
			all = append(all, own.append(make([]byte, 0, EncodedLimit(n)), b))
			all = append(all, severalBlocks(t, b))
		}
	}
	return append(all, zlibsStreams(t)...)
}

func klauspostStream(t testing.TB, level int, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := kzlib.NewWriterLevel(&out, level)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// severalBlocks writes b in blocks of different kinds, empty stored ones between.
func severalBlocks(t testing.TB, b []byte) []byte {
	t.Helper()
	out := bytes.NewBuffer([]byte{0x78, 0x01})
	for i, level := range []int{6, flate.HuffmanOnly, 0, 1} {
		w, err := flate.NewWriter(out, level)
		if err != nil {
			t.Fatal(err)
		}
		part := b[len(b)*i/4 : len(b)*(i+1)/4]
		if _, err = w.Write(part); err == nil {
			err = w.Flush()
		}
		if err == nil && i == 3 {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return binary.BigEndian.AppendUint32(out.Bytes(), adler32(b))
}

// next returns a stream, which is valid until the next one is made.
func (m *streamMaker) next() []byte {
	switch k := m.rnd.IntN(64); {
	case k < 28:
		m.blocks()
	case k < 30:
		m.copyOf(m.large)
		m.mutate()
	case k < 38 && len(m.out) > 0: // the last one changed, with its codes, perhaps
		m.out[len(m.out)-1-m.rnd.IntN((len(m.out)+1)/2)] ^= 1 << m.rnd.IntN(8)
	default:
		m.copyOf(m.small)
		m.mutate()
	}
	return m.out
}

func (m *streamMaker) copyOf(set [][]byte) {
	m.out = append(m.out[:0], set[m.rnd.IntN(len(set))]...)
}

// mutate changes the stream in a few places, near the front more often than not.
func (m *streamMaker) mutate() {
	for range m.rnd.IntN(4) {
		if len(m.out) < 3 {
			return
		}
		reach := len(m.out)
		if m.rnd.IntN(3) > 0 {
			reach = min(reach, 90) // codes stand there
		}
		i := m.rnd.IntN(reach)
		switch m.rnd.IntN(8) {
		case 0, 1, 2:
			m.out[i] ^= 1 << m.rnd.IntN(8)
		case 3:
			m.out[i] = byte(m.rnd.Uint32())
		case 4:
			m.out = append(m.out[:i], m.out[i+1:]...)
		case 5:
			m.out = append(m.out, 0)
			copy(m.out[i+1:], m.out[i:])
		case 6: // goes on as another one
			other := m.small[m.rnd.IntN(len(m.small))]
			m.out = append(m.out[:i], other[min(i, len(other)):]...)
		case 7:
			if m.rnd.IntN(2) == 0 {
				m.out = m.out[:i]
			} else {
				m.out = append(m.out, "what follows the stream in its pack"...)
			}
		}
	}
}

// blocks makes a stream of one to three blocks. Its checksum is rarely right.
func (m *streamMaker) blocks() {
	m.out, m.acc, m.n, m.made = append(m.out[:0], 0x78, 0x9c), 0, 0, 0
	for k := m.rnd.IntN(3); k >= 0; k-- {
		last := uint64(1)
		if k > 0 {
			last = 0
		}
		m.put(last, 1)
		switch m.rnd.IntN(6) {
		case 0:
			m.stored()
		case 1:
			m.put(1, 2)
			m.symbols(fixedLits[:], fixedDists[:])
		default:
			m.put(2, 2)
			m.symbols(m.header())
		}
	}
	m.put(0, -m.n&7)
	for range m.rnd.IntN(24) {
		m.out = append(m.out, byte(m.rnd.Uint32()))
	}
}

// put writes bits, the lowest first.
func (m *streamMaker) put(v uint64, n uint) {
	m.acc |= v & (1<<n - 1) << m.n
	for m.n += n; m.n >= 8; m.n -= 8 {
		m.out = append(m.out, byte(m.acc))
		m.acc >>= 8
	}
}

func (m *streamMaker) stored() {
	m.put(0, 2)
	m.put(0, -m.n&7)
	n := m.rnd.IntN(60)
	m.out = append(m.out, byte(n), byte(n>>8), ^byte(n), ^byte(n>>8))
	for range n {
		m.out = append(m.out, byte(m.rnd.Uint32()>>(m.rnd.Uint32()&7)))
	}
	m.made += n
}

// lengths draws a complete code of some of n symbols, always among them must,
// and then, one time in six, spoils it.
func (m *streamMaker) lengths(lens []uint8, longest int, must []uint8) {
	clear(lens)
	want := 1 + m.rnd.IntN(1+m.rnd.IntN(len(lens)))
	want = max(min(want, 1<<longest), len(must))
	var leaves [288]uint8 // depths
	n := 1
	for tries := 0; n < want && tries < 4*want; tries++ {
		if i := m.rnd.IntN(n); int(leaves[i]) < longest {
			leaves[i]++
			leaves[n] = leaves[i]
			n++
		}
	}
	if n == 1 { // a single code has one bit, or, wrongly, more
		leaves[0] = 1
		if m.rnd.IntN(8) == 0 {
			leaves[0] = uint8(1 + m.rnd.IntN(longest))
		}
	}
	for i, s := range must {
		if i < n {
			lens[s] = leaves[i]
		}
	}
	for _, depth := range leaves[min(len(must), n):n] {
		at := m.rnd.IntN(len(lens))
		for lens[at] != 0 {
			at = (at + 1) % len(lens)
		}
		lens[at] = depth
	}
	if m.rnd.IntN(6) == 0 {
		lens[m.rnd.IntN(len(lens))] = uint8(m.rnd.IntN(longest + 1))
	}
}

var fixedLits, fixedDists = func() (lits [288]uint8, dists [32]uint8) {
	for i := range lits {
		lits[i] = 8
	}
	for i := 144; i < 256; i++ {
		lits[i] = 9
	}
	for i := 256; i < 280; i++ {
		lits[i] = 7
	}
	for i := range dists {
		dists[i] = 5
	}
	return lits, dists
}()

// header writes the codes of a block and returns their lengths.
func (m *streamMaker) header() (lits, dists []uint8) {
	var all [maxLits + maxDists]uint8
	nlit, ndist := 257+m.rnd.IntN(maxLits-256), 1+m.rnd.IntN(maxDists)
	m.lengths(all[:256], maxCode, nil)
	if m.rnd.IntN(3) > 0 { // literals, and lengths beside them
		m.lengths(all[:nlit], maxCode, nil)
	}
	if m.rnd.IntN(30) > 0 && all[256] == 0 { // takes the place of another one
		for i := range all[:nlit] {
			if all[i] != 0 {
				all[256], all[i] = all[i], 0
				break
			}
		}
	}
	m.lengths(all[nlit:nlit+ndist], maxCode, nil)
	var tokens [maxLits + maxDists]uint8
	var extra [maxLits + maxDists]uint8
	n := m.tokens(&tokens, &extra, all[:nlit+ndist])
	var must []uint8
	var seen [19]bool
	for _, k := range tokens[:n] {
		if !seen[k] {
			must, seen[k] = append(must, k), true
		}
	}
	var lens [19]uint8
	var words [19]word
	m.lengths(lens[:], lenBits, must)
	codeWords(words[:], lens[:])
	m.put(uint64(nlit-257), 5)
	m.put(uint64(ndist-1), 5)
	m.put(15, 4)
	for _, i := range lensOrder {
		m.put(uint64(lens[i]), 3)
	}
	for i, k := range tokens[:n] {
		m.put(words[k].split())
		m.put(uint64(extra[i]), [3]uint{2, 3, 7}[max(k, 16)-16]*uint(k>>4))
	}
	return all[:nlit], all[nlit : nlit+ndist]
}

// tokens turns lengths into the symbols of a header, not always the fewest.
func (m *streamMaker) tokens(tokens, extra *[maxLits + maxDists]uint8, lens []uint8) (n int) {
	for i := 0; i < len(lens); n++ {
		run := 1
		for i+run < len(lens) && lens[i+run] == lens[i] {
			run++
		}
		k, least, most := uint8(16), 3, 6
		switch {
		case lens[i] == 0 && run > 10:
			k, least, most = 18, 11, 138
		case lens[i] == 0:
			k, least, most = 17, 3, 10
		}
		repeats := run >= least && (k != 16 || i > 0 && lens[i-1] == lens[i])
		if !repeats || m.rnd.IntN(20) == 0 {
			tokens[n], extra[n] = lens[i], 0
			i++
			continue
		}
		run = min(run, most)
		if m.rnd.IntN(200) == 0 {
			run = least + m.rnd.IntN(most-least+1)
		}
		tokens[n], extra[n] = k, uint8(run-least)
		i += run
	}
	return n
}

// symbols writes what the codes can say, most of it possible, and the end.
func (m *streamMaker) symbols(lits, dists []uint8) {
	var lw [288]word
	var dw [32]word
	codeWords(lw[:], lits)
	codeWords(dw[:], dists)
	for range m.rnd.IntN(60) {
		s := m.rnd.IntN(len(lits))
		for lits[s] == 0 && s > 0 {
			s--
		}
		if s == 256 {
			continue
		}
		if s < 256 {
			m.put(lw[s].split())
			m.made++
			continue
		}
		d := m.rnd.IntN(len(dists))
		for d > 0 && (dists[d] == 0 || int(distCode(d)>>16) > m.made) && m.rnd.IntN(40) > 0 {
			d--
		}
		if m.made == 0 && m.rnd.IntN(20) > 0 {
			continue
		}
		m.put(lw[s].split())
		m.put(m.rnd.Uint64(), uint(lengthCode(s-257)&15))
		m.put(dw[d].split())
		m.put(m.rnd.Uint64()&m.rnd.Uint64(), uint(distCode(d)&15))
		m.made += int(lengthCode(s-257) >> 16)
	}
	if len(lits) > 256 && m.rnd.IntN(50) > 0 {
		m.put(lw[256].split())
	}
}
