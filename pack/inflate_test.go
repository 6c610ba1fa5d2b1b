package pack

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"errors"
	"io"
	"strings"
	"testing"
)

// deflated returns b as a zlib stream of the standard library.
func deflated(t testing.TB, level int, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := writers[level-flate.HuffmanOnly]
	w.Reset(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// writers are kept because making one costs more than most tests.
var writers = func() (ws []*zlib.Writer) {
	for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
		w, err := zlib.NewWriterLevel(io.Discard, level)
		if err != nil {
			panic(err)
		}
		ws = append(ws, w)
	}
	return ws
}()

// reference inflates the stream at the front of src with the standard library.
func reference(src []byte, limit int) (out []byte, n int, err error) {
	r := bytes.NewReader(src)
	z, err := zlib.NewReader(r)
	if err != nil {
		return nil, 0, err
	}
	out, err = io.ReadAll(io.LimitReader(z, int64(limit)))
	if err == nil && len(out) == limit {
		err = errFull
	}
	return out, len(src) - r.Len(), err
}

// shapes are contents that make encoders use all that deflate has.
func shapes() map[string][]byte {
	every := make([]byte, 0, 70000)
	for i := range cap(every) {
		every = append(every, byte(i*i>>5))
	}
	sparse := make([]byte, 40000)
	for i := 0; i < len(sparse); i += 997 {
		sparse[i] = byte(i)
	}
	fib := []byte{} // frequencies that lead to the longest codes
	for i, a, b := 0, 1, 1; i < 20; i, a, b = i+1, b, a+b {
		fib = append(fib, bytes.Repeat([]byte{byte(i)}, a)...)
	}
	for i := range fib { // far from any match
		j := i * 7919 % len(fib)
		fib[i], fib[j] = fib[j], fib[i]
	}
	return map[string][]byte{
		"empty":    nil,
		"one":      {7},
		"zeros":    make([]byte, 100000),
		"text":     sqlText(70000),
		"noise":    noise(70000),
		"mixed":    append(append(sqlText(9000), noise(9000)...), sqlText(9000)...),
		"every":    every,
		"sparse":   sparse,
		"fib":      fib,
		"pattern2": bytes.Repeat([]byte("ab"), 5000),
		"pattern3": bytes.Repeat([]byte("abc"), 5000),
		"pattern5": bytes.Repeat([]byte("abcde"), 5000),
		"pattern6": bytes.Repeat([]byte("abcdef"), 5000),
		"pattern7": bytes.Repeat([]byte("abcdefg"), 5000),
		"pattern9": bytes.Repeat([]byte("abcdefghi"), 5000),
	}
}

func TestInflate(t *testing.T) {
	var z inflater
	for name, b := range shapes() {
		for level := flate.HuffmanOnly; level <= 9; level++ {
			src := deflated(t, level, b)
			for _, tail := range []string{"", "tail of any kind, longer than a load"} {
				in := append(bytes.Clone(src), tail...)
				dst := make([]byte, len(b))
				n, err := z.run(dst, in)
				if err != nil || n != len(src) || !bytes.Equal(dst, b) {
					t.Fatalf("%s, level %d, tail %d: took %d of %d, %v", name, level, len(tail), n, len(src), err)
				}
				if _, err := z.run(make([]byte, len(b)+1), in); err == nil {
					t.Fatalf("%s, level %d: one byte less than declared was accepted", name, level)
				}
				if len(b) > 0 {
					if _, err := z.run(make([]byte, len(b)-1), in); err == nil {
						t.Fatalf("%s, level %d: one byte more than declared was accepted", name, level)
					}
				}
			}
			for _, n := range []int{0, 1, 20, 300, 5000} {
				dst := make([]byte, min(n, len(b)))
				if n, err := z.prefix(dst, src); err != nil || n != len(dst) || !bytes.Equal(dst, b[:n]) {
					t.Fatalf("%s, level %d: prefix of %d: got %d, %v", name, level, len(dst), n, err)
				}
			}
		}
	}
}

// TestInflateAllLengths covers the seam between the fast and the careful loop.
func TestInflateAllLengths(t *testing.T) {
	var z inflater
	for _, b := range [][]byte{sqlText(1200), noise(1200), make([]byte, 1200), bytes.Repeat([]byte("abc"), 400)} {
		for n := range b {
			for _, level := range []int{flate.HuffmanOnly, 1, 9} {
				src := deflated(t, level, b[:n])
				dst := make([]byte, n)
				if got, err := z.run(dst, src); err != nil || got != len(src) || !bytes.Equal(dst, b[:n]) {
					t.Fatalf("length %d, level %d: took %d of %d, %v", n, level, got, len(src), err)
				}
			}
		}
	}
}

// TestInflateCutShort cuts a stream at every length: more must always be asked for.
func TestInflateCutShort(t *testing.T) {
	var z inflater
	for name, b := range map[string][]byte{"text": sqlText(3000), "noise": noise(3000), "short": []byte("abc")} {
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 9} {
			src := deflated(t, level, b)
			for n := range src {
				if _, err := z.run(make([]byte, len(b)), src[:n]); err != errShort {
					t.Fatalf("%s, level %d, %d of %d bytes: %v", name, level, n, len(src), err)
				}
			}
		}
	}
}

// bitWriter writes deflate streams by hand.
type bitWriter struct {
	b []byte
	n uint
}

// put writes the low n bits of v, lowest first.
func (w *bitWriter) put(v, n uint) *bitWriter {
	for ; n > 0; n-- {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[len(w.b)-1] |= byte(v&1) << (w.n % 8)
		v >>= 1
		w.n++
	}
	return w
}

// code writes a Huffman code word of n bits, highest bit first.
func (w *bitWriter) code(v, n uint) *bitWriter {
	for i := range n {
		w.put(v>>(n-1-i), 1)
	}
	return w
}

// dynamic begins a last block with dynamic codes; lens are the lengths' lengths
// in the order of their symbols.
func dynamic(nlit, ndist uint, lens [19]uint) *bitWriter {
	w := new(bitWriter).put(1, 1).put(2, 2).put(nlit-257, 5).put(ndist-1, 5).put(15, 4)
	for _, i := range lensOrder {
		w.put(lens[i], 3)
	}
	return w
}

// TestInflateRefuses feeds streams that zlib refuses too, each with its reason.
func TestInflateRefuses(t *testing.T) {
	// Lengths' codes: 0 is "0", 1 is "10", 18 is "11".
	two := [19]uint{0: 1, 1: 2, 18: 2}
	// Here 0 is "00", 1 "01", 2 "10" and 18 "11".
	four := [19]uint{0: 2, 1: 2, 2: 2, 18: 2}
	zeros := func(w *bitWriter, n uint) *bitWriter { // n zero lengths, 11 to 138
		return w.code(3, 2).put(n-11, 7)
	}
	for _, c := range []struct {
		name string
		body *bitWriter
		want string
	}{
		{"block type 3", new(bitWriter).put(1, 1).put(3, 2), "unknown deflate block type"},
		{"stored length", new(bitWriter).put(1, 1).put(0, 7).put(5, 16).put(5, 16), "bad length of a stored"},
		{"287 literals", dynamic(287, 1, two), "too many deflate symbols"},
		{"31 distances", dynamic(257, 31, two), "too many deflate symbols"},
		{"no lengths", dynamic(257, 1, [19]uint{}), "code lengths have no code"},
		{"over-full lengths", dynamic(257, 1, [19]uint{1, 1, 1}), "code lengths have no code"},
		{"incomplete lengths", dynamic(257, 1, [19]uint{0: 1}), "code lengths have no code"},
		{"repeats nothing", dynamic(257, 1, [19]uint{0: 1, 16: 1}).code(1, 1).put(0, 2), "repeat nothing"},
		{"too many lengths", zeros(zeros(dynamic(257, 1, two), 138), 138), "too many deflate code lengths"},
		{"no end", zeros(zeros(dynamic(257, 1, two).code(2, 2).code(2, 2), 138), 117).code(2, 2), "without an end"},
		{"over-full literals", zeros(zeros(dynamic(257, 1, two).code(2, 2).code(2, 2), 138), 116).code(2, 2).code(0, 1), "bad deflate literal code"},
		{"incomplete literals", zeros(zeros(dynamic(257, 2, four).code(2, 2), 138), 117).code(2, 2).code(1, 2).code(1, 2), "bad deflate literal code"},
		{"over-full distances", zeros(zeros(dynamic(257, 3, four).code(1, 2), 138), 117).code(1, 2).code(1, 2).code(1, 2).code(1, 2), "bad deflate distance code"},
		{"incomplete distances", zeros(zeros(dynamic(257, 2, four).code(1, 2), 138), 117).code(1, 2).code(2, 2).code(2, 2), "bad deflate distance code"},
		{"fixed length 286", new(bitWriter).put(1, 1).put(1, 2).code(0xc6, 8), "bad deflate symbol"},
		{"fixed distance 30", new(bitWriter).put(1, 1).put(1, 2).code(0x30, 8).code(1, 7).code(30, 5), "bad deflate symbol"},
		{"distance too far", new(bitWriter).put(1, 1).put(1, 2).code(0x30, 8).code(1, 7).code(1, 5), "before the beginning"},
	} {
		for _, pad := range []int{0, 300} {
			src := append([]byte{0x78, 0x01}, c.body.b...)
			src = append(src, make([]byte, 8+pad)...)
			_, err := new(inflater).run(make([]byte, 5+pad*10), src)
			var ce *CorruptError
			if !errors.As(err, &ce) || !strings.Contains(ce.Reason, c.want) {
				t.Errorf("%s, pad %d: %v, want %q", c.name, pad, err, c.want)
			}
			if _, _, err := reference(src, 1<<20); err == nil {
				t.Logf("%s: the standard library accepts it", c.name)
			}
		}
	}
}

// TestInflateHeaders covers the two bytes in front and the four behind.
func TestInflateHeaders(t *testing.T) {
	good := deflated(t, 6, []byte("kedge"))
	for name, change := range map[string]func(b []byte){
		"header checksum": func(b []byte) { b[1] ^= 1 },
		"method":          func(b []byte) { b[0], b[1] = 0x77, 0x85&^0x20 },
		"window":          func(b []byte) { b[0], b[1] = 0x88, 0x1c },
		"dictionary":      func(b []byte) { b[1] = 0xbb },
		"adler":           func(b []byte) { b[len(b)-1] ^= 0x80 },
	} {
		src := bytes.Clone(good)
		change(src)
		_, err := new(inflater).run(make([]byte, 5), src)
		var ce *CorruptError
		if !errors.As(err, &ce) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSingleCodes accepts the incomplete codes that zlib accepts: one distance
// of one bit, and no distance at all.
func TestSingleCodes(t *testing.T) {
	two := [19]uint{0: 1, 1: 2, 18: 2}
	w := dynamic(257, 1, two).code(2, 2) // symbol 0: one bit
	w.code(3, 2).put(138-11, 7).code(3, 2).put(117-11, 7)
	w.code(2, 2) // symbol 256: one bit
	w.code(0, 1) // no distance
	w.code(0, 1).code(0, 1).code(1, 1)
	src := append([]byte{0x78, 0x01}, w.b...)
	src = append(src, 0, 2, 0, 1)
	dst := []byte{9, 9}
	if _, err := new(inflater).run(dst, src); err != nil || dst[0]|dst[1] != 0 {
		t.Error(dst, err)
	}
	if out, _, err := reference(src, 100); err != nil || len(out) != 2 {
		t.Error("the standard library:", out, err)
	}
}

func TestAdler32(t *testing.T) {
	for name, b := range map[string][]byte{"high": bytes.Repeat([]byte{255}, 1<<17), "noise": noise(1 << 17)} {
		for n := 0; n < len(b); n += 1 + n/64 {
			want := referenceAdler(b[:n])
			if got := adler32(b[:n]); got != want {
				t.Fatalf("%s, %d bytes: %08x, want %08x", name, n, got, want)
			}
		}
	}
}

// referenceAdler is the definition.
func referenceAdler(b []byte) uint32 {
	s1, s2 := uint32(1), uint32(0)
	for _, c := range b {
		s1 = (s1 + uint32(c)) % 65521
		s2 = (s2 + s1) % 65521
	}
	return s2<<16 | s1
}

// FuzzInflate compares with the standard library. TestInflateSweep does so a
// thousand times as fast, with what it can think of itself.
func FuzzInflate(f *testing.F) {
	for _, b := range shapes() {
		b = b[:min(len(b), 2000)]
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 6} {
			f.Add(deflated(f, level, b))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		const limit = 1 << 18
		want, wantN, wantErr := reference(src, limit)
		if wantErr == errFull {
			return
		}
		dst := make([]byte, len(want))
		var z inflater
		n, err := z.run(dst, src)
		switch {
		case err == nil && wantErr != nil:
			t.Fatalf("accepted, but the standard library says %v", wantErr)
		case err == nil && (n != wantN || !bytes.Equal(dst, want)):
			t.Fatal("other bytes than the standard library's")
		case err != nil && wantErr == nil:
			t.Fatalf("%v, but the standard library accepts it", err)
		}
		if err == nil {
			half := make([]byte, len(want)/2)
			if m, err := z.prefix(half, src); err != nil || m != len(half) || !bytes.Equal(half, want[:m]) {
				t.Fatalf("prefix of %d: %d, %v", len(half), m, err)
			}
		}
		var c *CorruptError
		if err != nil && err != errShort && !errors.As(err, &c) {
			t.Fatalf("error of type %T", err)
		}
	})
}
