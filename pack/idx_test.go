package pack

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// randomRecords returns n records with offsets below limit.
func randomRecords(n int, limit int64) []Record {
	rnd := rand.New(rand.NewPCG(11, uint64(n)))
	recs := make([]Record, n)
	for i := range recs {
		for j := range recs[i].ID.h {
			recs[i].ID.h[j] = byte(rnd.Uint32())
		}
		recs[i].CRC = rnd.Uint32()
		recs[i].Off = packHead + rnd.Int64N(limit-packHead)
	}
	return recs
}

// idxV2 returns the idx v2 file of recs.
func idxV2(t testing.TB, recs []Record) []byte {
	t.Helper()
	x, err := newIndex(slices.Clone(recs), ID{})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	n, err := x.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatal(n, err)
	}
	return b.Bytes()
}

// idxV1 returns the idx v1 file of recs.
func idxV1(recs []Record) []byte {
	recs = slices.Clone(recs)
	slices.SortFunc(recs, func(a, b Record) int { return a.ID.Compare(b.ID) })
	var b []byte
	for first := range 256 {
		n := 0
		for _, r := range recs {
			if int(r.ID.h[0]) <= first {
				n++
			}
		}
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	for _, r := range recs {
		b = binary.BigEndian.AppendUint32(b, uint32(r.Off))
		b = r.ID.AppendBytes(b)
	}
	return seal(append(b, make([]byte, idSize)...))
}

// seal appends the checksum.
func seal(b []byte) []byte {
	sum := sha1.Sum(b)
	return append(b, sum[:]...)
}

// reseal replaces the checksum.
func reseal(b []byte) []byte { return seal(b[:len(b)-idSize]) }

func openIdx(b []byte) (*Idx, error) {
	return OpenIdx("test.idx", bytes.NewReader(b), int64(len(b)))
}

// TestIdx reads every form of idx back, with few and many objects, with
// offsets on both sides of 2^31 and 2^32.
func TestIdx(t *testing.T) {
	for _, n := range []int{0, 1, 2, 255, 3000, 20000} {
		for _, limit := range []int64{1 << 20, 1 << 32, 1 << 40} {
			recs := randomRecords(n, limit)
			if n > 2 && limit > 1<<31 {
				recs[0].Off, recs[1].Off, recs[2].Off = 1<<31-1, 1<<31, 1<<32
			}
			forms := map[string][]byte{"v2": idxV2(t, recs)}
			if limit < 1<<32 {
				forms["v1"] = idxV1(recs)
			}
			for name, b := range forms {
				t.Run(fmt.Sprintf("%s, %d objects below %d", name, n, limit), func(t *testing.T) {
					checkIdx(t, b, recs, name == "v1", limit)
				})
			}
		}
	}
}

func checkIdx(t *testing.T, b []byte, recs []Record, v1 bool, limit int64) {
	x, err := openIdx(b)
	if err != nil {
		t.Fatal(err)
	}
	if x.Len() != len(recs) {
		t.Fatalf("Len is %d", x.Len())
	}
	if sum, err := x.PackSum(); err != nil || !sum.IsZero() {
		t.Error(sum, err)
	}
	if err := x.Verify(max(limit, 1<<32+1) + idSize + 1); err != nil {
		t.Error(err)
	}
	misses := randomRecords(1000, 1<<20)
	for i := range misses {
		misses[i].ID.h[19] ^= 0x55
	}
	for range 2 {
		for _, r := range recs {
			if off, ok, err := x.Find(r.ID); !ok || err != nil || off != r.Off {
				t.Fatalf("%v: %d, %v, %v, want %d", r.ID, off, ok, err, r.Off)
			}
		}
		for _, r := range misses {
			if off, ok, err := x.Find(r.ID); ok || err != nil || off != 0 {
				t.Fatalf("%v is not there: %d, %v, %v", r.ID, off, ok, err)
			}
		}
		if err := x.BuildFilter(); err != nil {
			t.Fatal(err)
		}
	}
	want := slices.Clone(recs)
	slices.SortFunc(want, func(a, b Record) int { return a.ID.Compare(b.ID) })
	for _, step := range []int{1, 7, 100000} {
		c := x.Cursor(step)
		for _, w := range want {
			if v1 {
				w.CRC = 0
			}
			if r, ok, err := c.Next(); r != w || !ok || err != nil {
				t.Fatalf("step %d: %v, %v, %v, want %v", step, r, ok, err, w)
			}
			if step == 1 && len(want) > 3000 {
				break
			}
		}
	}
	i := 0
	if err := x.Records(func(r Record) error {
		if r.ID != want[i].ID || r.Off != want[i].Off {
			return fmt.Errorf("record %d is %v", i, r)
		}
		i++
		return nil
	}); err != nil || i != len(want) {
		t.Errorf("%d records, %v", i, err)
	}
	if err := x.Records(func(Record) error { return errPlanted }); len(recs) > 0 && err != errPlanted {
		t.Error("an error of fn gets lost:", err)
	}
}

// counter counts reads.
type counter struct {
	io.ReaderAt
	reads, bytes int
}

func (c *counter) ReadAt(b []byte, off int64) (int, error) {
	c.reads++
	c.bytes += len(b)
	return c.ReaderAt.ReadAt(b, off)
}

// TestFindReads holds Find to its promise: two reads for a hit (the ids, the
// offset) nearly always, one for a miss, none for a miss behind a filter.
func TestFindReads(t *testing.T) {
	recs := randomRecords(200_000, 1<<30)
	b := idxV2(t, recs)
	c := &counter{ReaderAt: bytes.NewReader(b)}
	x, err := OpenIdx("x", c, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if c.reads > 2 || c.bytes > 2000 {
		t.Errorf("OpenIdx does %d reads of %d bytes", c.reads, c.bytes)
	}
	look := func(what string, reads, size float64, ids func(i int) ID) {
		c.reads, c.bytes = 0, 0
		const n = 5000
		for i := range n {
			if _, _, err := x.Find(ids(i)); err != nil {
				t.Fatal(err)
			}
		}
		r, s := float64(c.reads)/n, float64(c.bytes)/n
		if r > reads || s > size {
			t.Errorf("%s: %.3f reads, %.0f bytes", what, r, s)
		}
	}
	hit := func(i int) ID { return recs[i*31].ID }
	others := randomRecords(5000, 1<<20)
	miss := func(i int) ID { return others[i].ID }
	look("hit", 2.01, 4000, hit)
	look("miss", 1.01, 4000, miss)
	if err := x.BuildFilter(); err != nil {
		t.Fatal(err)
	}
	look("hit behind the filter", 2.01, 4000, hit)
	look("miss behind the filter", 0.03, 100, miss)
	for name, ids := range map[string]func(i int) ID{"hit": hit, "miss": miss} {
		if n := testing.AllocsPerRun(100, func() { x.Find(ids(7)) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestSkewedIds has ids that defy guessing.
func TestSkewedIds(t *testing.T) {
	var recs []Record
	for i := range 30000 {
		var id ID
		switch i % 3 {
		case 0: // all but the last bytes alike
			binary.BigEndian.PutUint32(id.h[16:], uint32(i))
		case 1: // crowded at the end
			binary.BigEndian.PutUint64(id.h[:], 1<<56-1-uint64(i))
		case 2: // exponential
			binary.BigEndian.PutUint64(id.h[:], uint64(1)<<(i/3%56)+uint64(i))
		}
		recs = append(recs, Record{ID: id, Off: int64(i) + packHead})
	}
	b := idxV2(t, recs)
	c := &counter{ReaderAt: bytes.NewReader(b)}
	x, err := OpenIdx("x", c, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recs {
		c.reads = 0
		if off, ok, err := x.Find(r.ID); !ok || err != nil || off != r.Off {
			t.Fatal(r, off, ok, err)
		}
		if c.reads > 22 {
			t.Fatalf("%v took %d reads", r.ID, c.reads)
		}
	}
}

// TestBadIdx has one file per way to be wrong.
func TestBadIdx(t *testing.T) {
	recs := randomRecords(1000, 1<<40)
	good := idxV2(t, recs)
	small := idxV2(t, randomRecords(1000, 1<<20))
	const packSize = 1<<40 + idSize
	ids := idxHead + fanoutSize
	offs := ids + 1000*(idSize+4)
	x, err := openIdx(good)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(b []byte, f func(b []byte) []byte) []byte { return f(bytes.Clone(b)) }
	for _, c := range []struct {
		name string
		b    []byte
		open bool // OpenIdx sees it
		want string
	}{
		{"empty", nil, true, "too short"},
		{"a header", good[:8], true, "too short"},
		{"version 3", edit(good, func(b []byte) []byte { b[7] = 3; return reseal(b) }), true, "unknown idx version 3"},
		{"fan-out falls", edit(good, func(b []byte) []byte { b[8+4*7] = 0xff; return reseal(b) }), true, "not monotonic"},
		{"count 2^32-1", edit(good, func(b []byte) []byte { copy(b[ids-4:], "\xff\xff\xff\xff"); return reseal(b) }), true, "do not fit"},
		{"one object more", edit(small, func(b []byte) []byte { b[ids-1]++; return reseal(b) }), true, "do not fit"},
		{"a byte more", append(bytes.Clone(good), 0), true, "do not fit"},
		{"cut", good[:len(good)-1], true, "do not fit"},
		{"too many large offsets", edit(small, func(b []byte) []byte { return append(b, make([]byte, 8*1001)...) }), true, "do not fit"},
		{"v1 of a wrong size", append(idxV1(randomRecords(5, 1<<20)), 0), true, "5 objects take"},
		{"checksum", edit(good, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), false, "checksum mismatch"},
		{"swapped ids", edit(good, func(b []byte) []byte {
			a, z := bytes.Clone(b[ids+20:ids+40]), b[ids+40:ids+60]
			copy(b[ids+20:], z)
			copy(b[ids+40:], a)
			return reseal(b)
		}), false, "ascending"},
		{"duplicate", edit(good, func(b []byte) []byte { copy(b[ids+20:ids+40], b[ids:]); return reseal(b) }), false, "ascending"},
		{"wrong bucket", edit(good, func(b []byte) []byte {
			n := binary.BigEndian.Uint32(b[8:])
			binary.BigEndian.PutUint32(b[8:], n-1)
			return reseal(b)
		}), false, "fan-out bucket"},
		{"place of large offset", edit(good, func(b []byte) []byte {
			copy(b[offs:], "\xff\xff\xff\xff")
			return reseal(b)
		}), false, "outside the table of large offsets"},
		{"offset above 2^63", edit(good, func(b []byte) []byte {
			for i := range x.nbig {
				b[x.bigs+8*int64(i)] = 0x80
			}
			return reseal(b)
		}), false, "offset above 2^63"},
		{"offset past the pack", edit(good, func(b []byte) []byte {
			b[x.bigs+1] = 0xff
			return reseal(b)
		}), false, "is said to be at"},
		{"offset in the header", edit(small, func(b []byte) []byte { copy(b[offs:], "\x00\x00\x00\x0b"); return reseal(b) }), false, "is said to be at 11"},
		{"offset in the trailer", edit(small, func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[offs:], 1<<30)
			return reseal(b)
		}), false, "is said to be at"},
	} {
		x, err := openIdx(c.b)
		if (err != nil) != c.open {
			t.Errorf("%s: OpenIdx says %v", c.name, err)
			continue
		}
		if err == nil {
			size := int64(packSize)
			if bytes.Contains([]byte(c.name), []byte("trailer")) {
				size = 1<<30 + idSize
			}
			err = x.Verify(size)
			lookAll(x, recs)
		}
		var ce *CorruptError
		if !errors.As(err, &ce) || ce.File != "test.idx" || !strings.Contains(ce.Reason, c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// lookAll uses an idx that is wrong: whatever it says, it must not panic.
func lookAll(x *Idx, recs []Record) {
	for _, r := range recs {
		x.Find(r.ID)
	}
	x.BuildFilter()
}

// TestIdxReadErrors lets every read fail, and the file shrink, after it was opened.
func TestIdxReadErrors(t *testing.T) {
	recs := randomRecords(5000, 1<<40)
	m := &memory{b: idxV2(t, recs)}
	size := int64(len(m.b))
	for k := 1; ; k++ {
		for _, short := range []bool{false, true} {
			m.ops, m.failAt, m.short = 0, k, short
			err := useIdx(m, size, recs)
			if m.ops < k {
				if err != nil || k < 10 {
					t.Fatalf("%d operations, %v", m.ops, err)
				}
				return
			}
			if short && !isCorrupt(err) || !short && !errors.Is(err, errPlanted) || !strings.Contains(fmt.Sprint(err), "test.idx") {
				t.Fatalf("failure %d, short %v: %v", k, short, err)
			}
		}
	}
}

// useIdx does everything an Idx can do.
func useIdx(r io.ReaderAt, size int64, recs []Record) error {
	x, err := OpenIdx("test.idx", r, size)
	if err != nil {
		return err
	}
	if _, err := x.PackSum(); err != nil {
		return err
	}
	for _, rec := range recs[:20] {
		if _, ok, err := x.Find(rec.ID); err != nil || !ok {
			return err
		}
	}
	if err := x.BuildFilter(); err != nil {
		return err
	}
	if err := x.Verify(1 << 50); err != nil {
		return err
	}
	return x.Records(func(Record) error { return nil })
}

// TestIdxTogether looks ids up from several goroutines while one builds the filter.
func TestIdxTogether(t *testing.T) {
	recs := randomRecords(2000, 1<<40)
	x, err := openIdx(idxV2(t, recs))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			if i == 0 {
				if err := x.BuildFilter(); err != nil {
					t.Error(err)
				}
			}
			for _, r := range recs {
				if off, ok, err := x.Find(r.ID); !ok || err != nil || off != r.Off {
					t.Errorf("%v: %d, %v, %v", r, off, ok, err)
				}
			}
		})
	}
	all.Wait()
}

func FuzzIdx(f *testing.F) {
	for _, n := range []int{0, 1, 300} {
		f.Add(idxV2(f, randomRecords(n, 1<<20)), int64(1<<20+idSize))
		f.Add(idxV2(f, randomRecords(n, 1<<40)), int64(1<<40+idSize))
		f.Add(idxV1(randomRecords(n, 1<<20)), int64(1<<20+idSize))
	}
	f.Fuzz(func(t *testing.T, b []byte, packSize int64) {
		x, err := openIdx(b)
		if err != nil {
			if !isCorrupt(err) {
				t.Fatal(err)
			}
			return
		}
		for i := range 256 {
			var id ID
			id.h[0], id.h[1] = byte(i), byte(i*7)
			if _, _, err := x.Find(id); err != nil && !isCorrupt(err) {
				t.Fatal(err)
			}
		}
		if err := x.Verify(packSize); err != nil {
			if !isCorrupt(err) {
				t.Fatal(err)
			}
			x.Records(func(r Record) error { _, _, err := x.Find(r.ID); return err })
			return
		}
		// What passes is found, and v2 is written again as it was.
		var recs []Record
		if err := x.Records(func(r Record) error {
			recs = append(recs, r)
			if off, ok, err := x.Find(r.ID); !ok || err != nil || off != r.Off || off < packHead || off >= packSize-idSize {
				return fmt.Errorf("%v: %d, %v, %v", r, off, ok, err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := x.BuildFilter(); err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			if _, ok, _ := x.Find(r.ID); !ok {
				t.Fatal("the filter denies")
			}
		}
	})
}
