package pack

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"testing"
)

// entries encodes n small objects, at sizes that make a pack of a few steps if
// size is large.
func entries(t testing.TB, n, size int) []Entry {
	t.Helper()
	e, h := NewEncoder(1), NewHasher()
	out := make([]Entry, n)
	body := noise(size)
	for i := range out {
		copy(body, fmt.Sprint("object ", i, "    "))
		id, err := h.Sum(Blob, body)
		if err != nil {
			t.Fatal(err)
		}
		b, crc := e.Append(nil, Blob, body)
		out[i] = Entry{ID: id, CRC: crc, Bytes: b}
	}
	return out
}

// TestWriterSequence compares what Writer does with what its doc says.
func TestWriterSequence(t *testing.T) {
	m := &memory{traced: true}
	w := NewWriter(m)
	es := entries(t, 2000, 9000)
	for part := range slices.Chunk(es, 7) {
		if err := w.Add(part); err != nil {
			t.Fatal(err)
		}
	}
	size := w.Size()
	if w.Len() != len(es) {
		t.Errorf("Len is %d", w.Len())
	}
	if _, _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	if size+idSize != int64(len(m.b)) {
		t.Errorf("Size was %d, the file has %d", size, len(m.b))
	}
	const step = 1 << 20
	var want []string
	for off := size; off > 0; off -= step {
		want = append(want, fmt.Sprint("write ", min(off, step)))
		if done := size - off + step; done%(8<<20) == 0 {
			want = append(want, fmt.Sprint("start 8388608 at ", done-8<<20))
		}
	}
	want = append(want, "pwrite 4 at 8")
	for off := int64(0); off < size; off += step {
		want = append(want, fmt.Sprintf("pread %d at %d", min(step, size-off), off))
	}
	want = append(want, "write 20")
	if !slices.Equal(m.trace, want) {
		t.Errorf("did\n%s\nwant\n%s", strings.Join(m.trace, "\n"), strings.Join(want, "\n"))
	}
	if err := w.Add(es[:1]); err == nil {
		t.Error("a finished writer accepts more")
	}
	if _, _, err := w.Finish(); err == nil {
		t.Error("a finished writer finishes again")
	}
}

// TestWriterFaults lets every operation fail in turn: the writer must say so,
// and refuse everything afterwards.
func TestWriterFaults(t *testing.T) {
	es := entries(t, 1000, 9000)
	for _, short := range []bool{false, true} {
		for k := 1; ; k++ {
			m := &memory{failAt: k, short: short}
			w := NewWriter(m)
			err := w.Add(es)
			if err == nil {
				_, _, err = w.Finish()
			}
			if m.ops < k {
				if err != nil || k < 5 {
					t.Fatalf("%d operations: %v", m.ops, err)
				}
				break
			}
			if err == nil || !short && !errors.Is(err, errPlanted) {
				t.Fatalf("failure %d, short %v: %v", k, short, err)
			}
			ops := m.ops
			if err := w.Add(es[:1]); err == nil {
				t.Fatalf("failure %d: Add goes on", k)
			}
			if _, _, err := w.Finish(); err == nil || m.ops != ops {
				t.Fatalf("failure %d: Finish goes on, %v", k, err)
			}
		}
	}
}

// TestReadBack damages what Finish reads back, at every byte of a pack.
func TestReadBack(t *testing.T) {
	es := entries(t, 3, 400)
	write := func(m *memory) error {
		w := NewWriter(m)
		if err := w.Add(es); err != nil {
			t.Fatal(err)
		}
		_, _, err := w.Finish()
		return err
	}
	m := &memory{}
	if err := write(m); err != nil {
		t.Fatal(err)
	}
	for at := range len(m.b) - idSize {
		bad := &memory{damage: func(b []byte, off int64) { b[int64(at)-off] ^= 1 }}
		if err := write(bad); err == nil {
			t.Fatalf("a flipped bit in byte %d is not seen", at)
		}
	}
}

// TestFinishProves covers what a right CRC does not prove.
func TestFinishProves(t *testing.T) {
	good := entries(t, 130, 50)
	for name, c := range map[string]struct {
		at     int
		change func(e *Entry)
		want   string
	}{
		"CRC":            {77, func(e *Entry) { e.CRC++ }, "CRC mismatch"},
		"id of a sample": {64, func(e *Entry) { e.ID.h[3]++ }, "its bytes are those of blob"},
		"sample with more": {128, func(e *Entry) {
			e.Bytes = append(bytes.Clone(e.Bytes), 0)
			e.CRC = crcOf(e.Bytes)
		}, errNotEntry.Error()},
		"sample that is no entry": {0, func(e *Entry) { e.Bytes = []byte("\x50"); e.CRC = crcOf(e.Bytes) }, "unknown type 5"},
		"empty":                   {129, func(e *Entry) { e.Bytes, e.CRC = nil, 0 }, "entry of no bytes"},
		"duplicate":               {5, func(e *Entry) { *e = good[17] }, "twice"},
	} {
		es := slices.Clone(good)
		c.change(&es[c.at])
		w := NewWriter(&memory{})
		err := w.Add(es)
		if err == nil {
			_, _, err = w.Finish()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func crcOf(b []byte) uint32 { return crc32.ChecksumIEEE(b) }

// TestEmptyPack is what git makes of no objects.
func TestEmptyPack(t *testing.T) {
	m := &memory{}
	name, idx, err := NewWriter(m).Finish()
	if err != nil || idx.Len() != 0 {
		t.Fatal(err)
	}
	if want := "029d08823bd8a8eab510ad6ac75c823cfd3ed31e"; name.String() != want {
		t.Errorf("name is %v, want %s", name, want)
	}
	p, err := OpenPack("empty", bytes.NewReader(m.b), int64(len(m.b)), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Walk(NewScratch(1), nil, nil, func(*Item) error { return errPlanted }); err != nil {
		t.Error(err)
	}
}

// TestLargeEntries writes entries that span several steps.
func TestLargeEntries(t *testing.T) {
	dir := t.TempDir()
	objs := []object{{Blob, noise(3 << 20)}, {Blob, []byte("small")}, {Blob, noise(1<<20 - 12)}, {Blob, sqlText(9 << 20)}}
	base := writePack(t, dir, 1, objs)
	git(t, dir, nil, "index-pack", "--strict", "-o", dir+"/out.idx", base+".pack")
	checkPair(t, base, objs)
}

func TestSumWriter(t *testing.T) {
	var out bytes.Buffer
	s := NewSumWriter(&out)
	long := noise(3*sumStep + 5)
	s.Uint32(1)
	s.Bytes(long)
	s.Uint64(2)
	s.ID(ID{})
	sum, n, err := s.Finish()
	if err != nil || n != int64(out.Len()) || n != int64(4+len(long)+8+idSize+idSize) {
		t.Fatal(n, err)
	}
	if err := CheckTrailer("x", bytes.NewReader(out.Bytes()), n); err != nil {
		t.Error(err)
	}
	if !bytes.HasSuffix(out.Bytes(), sum.h[:]) || !bytes.Contains(out.Bytes(), long) {
		t.Error("bytes are missing")
	}
	for k := 1; k < 6; k++ {
		for _, short := range []bool{false, true} {
			m := &memory{failAt: k, short: short}
			s := NewSumWriter(m)
			s.Bytes(long)
			if _, _, err := s.Finish(); m.ops >= k && err == nil || short && m.ops >= k && err != io.ErrShortWrite {
				t.Errorf("failure %d: %v", k, err)
			}
		}
	}
}

func BenchmarkWriterAdd(b *testing.B) {
	es := entries(b, 100, 10<<10)
	b.SetBytes(int64(len(es[0].Bytes)))
	b.ReportAllocs()
	w := NewWriter(discard{})
	for i := 0; b.Loop(); i++ {
		if len(w.recs) > 100_000 {
			w.recs = w.recs[:0]
		}
		if err := w.Add(es[i%100 : i%100+1]); err != nil {
			b.Fatal(err)
		}
	}
}

// discard is an Output that takes everything and gives nothing.
type discard struct{}

func (discard) Write(p []byte) (int, error)            { return len(p), nil }
func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (discard) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }
