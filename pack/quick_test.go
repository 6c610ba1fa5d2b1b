package pack

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zlib"
)

// canary stands behind the room that an encoder is given.
const canary = 0xa5

// inflaters inflate with everything there is.
type inflaters struct {
	own inflater
	lib io.ReadCloser
	buf []byte
}

// check fails unless all readers make body of the zlib stream z.
func (f *inflaters) check(t testing.TB, z, body []byte) {
	t.Helper()
	f.checkOwn(t, z, body)
	out, n, err := reference(z, len(body)+1)
	if err != nil || n != len(z) || !bytes.Equal(out, body) {
		t.Fatalf("the standard library makes %d bytes of %d, from %d of %d: %v", len(out), len(body), n, len(z), err)
	}
	if f.lib == nil {
		f.lib, err = zlib.NewReader(bytes.NewReader(z))
	} else {
		err = f.lib.(zlib.Resetter).Reset(bytes.NewReader(z), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err = io.ReadAll(f.lib); err != nil || !bytes.Equal(out, body) {
		t.Fatalf("klauspost makes %d bytes of %d: %v", len(out), len(body), err)
	}
}

// checkOwn is check with our own reader only.
func (f *inflaters) checkOwn(t testing.TB, z, body []byte) {
	t.Helper()
	f.buf = slices.Grow(f.buf[:0], len(body))[:len(body)]
	n, err := f.own.run(f.buf, z)
	if err != nil || n != len(z) || !bytes.Equal(f.buf, body) {
		t.Fatalf("took %d of %d bytes for %d: %v", n, len(z), len(body), err)
	}
}

// zip makes the zlib stream of body in exactly the room that it is promised.
func zip(t testing.TB, d *deflater, buf *[]byte, body []byte) []byte {
	t.Helper()
	const before = 3
	limit := before + EncodedLimit(len(body)) - maxVarint
	*buf = slices.Grow((*buf)[:0], limit+64)[:limit+64]
	b := *buf
	for i := range b {
		b[i] = canary
	}
	z := d.append(b[:before:limit], body)
	if &z[0] != &b[0] || len(z) > limit {
		t.Fatalf("%d bytes become %d, the limit is %d", len(body), len(z)-before, limit-before)
	}
	for _, part := range [][]byte{b[:before], b[limit:]} {
		if bytes.Count(part, []byte{canary}) != len(part) {
			t.Fatalf("%d bytes: wrote outside of its room", len(body))
		}
	}
	return z[before:]
}

// TestQuickShapes feeds one encoder with everything, twice, so that codes made
// for one content are used for others.
func TestQuickShapes(t *testing.T) {
	d := newDeflater(1)
	var f inflaters
	var buf []byte
	for range 2 {
		for name, body := range shapes() {
			for n := len(body); n > 0; n /= 3 {
				t.Log(name, n)
				f.check(t, zip(t, &d, &buf, body[:n]), body[:n])
			}
		}
	}
}

// TestQuickAllLengths covers every length from 0 to 64 KiB and a bit: the short
// ones as text, the longer ones as text that comes again with changes, which
// takes less time. Readers of others see one in some.
func TestQuickAllLengths(t *testing.T) {
	const short = 3000
	d := newDeflater(1)
	var f inflaters
	var buf []byte
	text := sqlText(short)
	again := bytes.Repeat(sqlText(5000), 14)
	rnd := rand.New(rand.NewPCG(11, 12))
	for i := 0; i < len(again); i += rnd.IntN(1000) {
		again[i] = byte(rnd.Uint32())
	}
	step := 1
	if testing.Short() {
		step = 61
	}
	for n := 0; n <= 1<<16+20; n += step {
		body := again[:n]
		if n < short {
			body = text[len(text)-n:]
		}
		z := zip(t, &d, &buf, body)
		if n < short || n%257 == 0 {
			f.check(t, z, body)
		} else {
			f.checkOwn(t, z, body)
		}
	}
}

// TestQuickRoom gives less room than is needed, down to none.
func TestQuickRoom(t *testing.T) {
	for _, size := range []int{1, 7, 20, 100, 1000, 70000} {
		body := sqlText(size)
		ref := newQuick()
		full, ok := ref.append(make([]byte, 0, 2*size+1000), body, 2*size+900)
		if !ok {
			t.Fatalf("%d bytes do not fit", size)
		}
		step := max(1, len(full)/500)
		for room := -40; room < len(full)+2; room += step {
			dst := make([]byte, 5, max(5, 5+room+quickSlack))
			z, ok := newQuick().append(dst, body, room)
			if ok && (len(z)-5 > room || !bytes.Equal(z[5:], full)) || !ok && len(z) != 5 {
				t.Fatalf("%d bytes, room %d of %d: ok %v, %d bytes", size, room, len(full), ok, len(z)-5)
			}
			if !ok && room >= len(full)+8 {
				t.Fatalf("%d bytes, room %d: %d would do", size, room, len(full))
			}
		}
		if z, ok := newQuick().append(make([]byte, 0, 2*size+1000), body, len(full)+8); !ok || !bytes.Equal(z, full) {
			t.Fatalf("%d bytes do not fit %d", size, len(full)+8)
		}
	}
}

// TestQuickRepeats holds an encoder to its word that what it makes depends on
// what it was given, and on nothing else.
func TestQuickRepeats(t *testing.T) {
	var bodies [][]byte
	for _, b := range shapes() {
		for ; len(b) > 0; b = b[min(len(b), 7000):] {
			bodies = append(bodies, b[:min(len(b), 7000)])
		}
	}
	var buf []byte
	d := newDeflater(1)
	var want [][]byte
	for _, b := range bodies {
		want = append(want, bytes.Clone(zip(t, &d, &buf, b)))
	}
	d = newDeflater(1)
	for i, b := range bodies {
		if !bytes.Equal(zip(t, &d, &buf, b), want[i]) {
			t.Fatalf("body %d becomes something else the second time", i)
		}
	}
}

// TestQuickShares wants few headers for many chunks of a kind.
func TestQuickShares(t *testing.T) {
	const chunk, n = 10 << 10, 160
	d := newDeflater(1)
	var buf []byte
	heads := map[string]bool{}
	for text := sqlText(chunk * n); len(text) > 0; text = text[chunk:] {
		z := zip(t, &d, &buf, text[:chunk])
		for i := range d.quick.codes {
			if c := &d.quick.codes[i]; c.used == d.quick.clock {
				heads[string(z[:2+c.bits>>3])] = true
			}
		}
	}
	if len(heads) == 0 || len(heads) > n/freshAfter {
		t.Errorf("%d chunks have %d headers", n, len(heads))
	}
}

// TestQuickNoAllocations makes codes at every turn.
func TestQuickNoAllocations(t *testing.T) {
	d := newDeflater(1)
	bodies := [][]byte{sqlText(9000), bytes.Repeat([]byte("kedge"), 2000), shapes()["fib"], shapes()["sparse"], make([]byte, 9000)}
	buf := make([]byte, 0, EncodedLimit(1<<16))
	made := d.quick.clock
	if n := testing.AllocsPerRun(50, func() {
		for _, b := range bodies {
			d.append(buf, b)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if d.quick.clock == made || d.quick.made != quickCodes {
		t.Error("no codes were made")
	}
}

// TestQuickSize compares with the library's level 1 on chunks of 10 KiB.
func TestQuickSize(t *testing.T) {
	for name, chunks := range corpora(t) {
		d, lib := newDeflater(1), deflater{lib: newLibrary(1)}
		var buf []byte
		ours, theirs := 0, 0
		for _, c := range chunks {
			ours += len(zip(t, &d, &buf, c))
			theirs += len(zip(t, &lib, &buf, c))
		}
		t.Logf("%s: %d chunks, %d bytes, the library makes %d: %.4f", name, len(chunks), ours, theirs, float64(ours)/float64(theirs))
		if float64(ours) > 1.03*float64(theirs) {
			t.Errorf("%s: %d bytes, the library makes %d", name, ours, theirs)
		}
	}
}

// TestGitReadsQuick packs what makes encoders use all that deflate has.
func TestGitReadsQuick(t *testing.T) {
	repo := t.TempDir()
	git(t, repo, nil, "init", "-q", "--bare", ".")
	var objs []object
	for _, b := range shapes() {
		objs = append(objs, object{Blob, b})
	}
	rnd := rand.New(rand.NewPCG(13, 14))
	for text := sqlText(600_000); len(text) > 0; {
		n := min(len(text), 1+rnd.IntN(20000))
		objs = append(objs, object{Blob, text[:n]}, object{Blob, append(bytes.Clone(text[:n/2]), noise(rnd.IntN(100))...)})
		text = text[n:]
	}
	base := writePack(t, filepath.Join(repo, "objects/pack"), 1, objs)
	git(t, repo, nil, "fsck", "--full", "--strict")
	git(t, repo, nil, "index-pack", "--strict", "-o", filepath.Join(repo, "out.idx"), base+".pack")
	want := map[ID]bool{}
	for _, o := range objs {
		want[Sum(o.t, o.body)] = true
	}
	for _, o := range gitObjects(t, repo) {
		delete(want, Sum(o.t, o.body))
	}
	if len(want) != 0 {
		t.Errorf("git misses %d objects", len(want))
	}
	checkPair(t, base, objs)
}

// FuzzQuick encodes one body after the other, and lets three readers read.
func FuzzQuick(f *testing.F) {
	for _, b := range shapes() {
		f.Add(b[:min(len(b), 3000)], b[len(b)/2:][:min(len(b)/2, 1000)], uint8(1))
	}
	f.Add([]byte("abcdabcdabcd"), []byte{}, uint8(200))
	var in inflaters
	var buf []byte
	f.Fuzz(func(t *testing.T, a, b []byte, times uint8) {
		d := newDeflater(1)
		b = bytes.Repeat(b, min(1+int(times), 1+70000/(len(b)+1)))
		for _, body := range [][]byte{a, b, a, append(bytes.Clone(a), b...)} {
			in.check(t, zip(t, &d, &buf, body), body)
		}
		// The probe does not see this one.
		z := make([]byte, 2, 2*len(b)+1000)
		copy(z, "\x78\x01")
		z, ok := d.quick.append(z, b, cap(z)-2-quickSlack)
		if !ok {
			t.Fatalf("%d bytes do not fit twice their size", len(b))
		}
		in.check(t, binary.BigEndian.AppendUint32(z, adler32(b)), b)
	})
}
