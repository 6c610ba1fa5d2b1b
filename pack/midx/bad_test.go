package midx

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// records returns n records with offsets below limit, in id order.
func records(seed uint64, n int, limit int64) []pack.Record {
	rnd := rand.New(rand.NewPCG(seed, 1))
	recs := make([]pack.Record, n)
	for i := range recs {
		recs[i].ID = pack.Sum(pack.Blob, fmt.Append(nil, seed, i))
		recs[i].Off = 12 + rnd.Int64N(limit-12)
	}
	slices.SortFunc(recs, func(a, b pack.Record) int { return a.ID.Compare(b.ID) })
	return recs
}

// idxFile writes an idx v2 file as its format says. Package pack makes one only
// of a pack that it has written.
func idxFile(t testing.TB, recs []pack.Record) []byte {
	t.Helper()
	var out bytes.Buffer
	o := pack.NewSumWriter(&out)
	o.Bytes([]byte("\xfftOc\x00\x00\x00\x02"))
	n := 0
	for first := range 256 {
		for n < len(recs) && int(recs[n].ID.AppendBytes(nil)[0]) <= first {
			n++
		}
		o.Uint32(uint32(n))
	}
	for _, r := range recs {
		o.ID(r.ID)
	}
	for _, r := range recs {
		o.Uint32(r.CRC)
	}
	big := []int64{}
	for _, r := range recs {
		if r.Off < bigOffset {
			o.Uint32(uint32(r.Off))
			continue
		}
		o.Uint32(bigOffset | uint32(len(big)))
		big = append(big, r.Off)
	}
	for _, off := range big {
		o.Uint64(uint64(off))
	}
	o.ID(pack.ID{})
	if _, _, err := o.Finish(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// open opens idx files in memory and names them "pack-0.idx" and so on.
func open(t testing.TB, files ...[]byte) (names []string, packs []*pack.Idx) {
	t.Helper()
	for i, b := range files {
		name := fmt.Sprintf("pack-%d.idx", i)
		x, err := pack.OpenIdx(name, bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		names, packs = append(names, name), append(packs, x)
	}
	return names, packs
}

// made returns the multi-pack-index of idx files.
func made(t testing.TB, files ...[]byte) []byte {
	t.Helper()
	names, packs := open(t, files...)
	var b bytes.Buffer
	if err := Write(&b, names, packs); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestOffsets has offsets on both sides of 2^31 and 2^32: there is a LOFF only
// in the last case.
func TestOffsets(t *testing.T) {
	for _, c := range []struct {
		limit int64
		loff  bool
	}{{1 << 20, false}, {1 << 32, false}, {1 << 40, true}} {
		a, b := idxFile(t, records(1, 2000, c.limit)), idxFile(t, records(2, 500, c.limit))
		m := made(t, a, b, a)
		if got := bytes.Contains(m[:100], []byte("LOFF")); got != c.loff {
			t.Errorf("limit %d: LOFF %v", c.limit, got)
		}
		names, packs := open(t, a, b, a)
		check(t, m, names, packs)
	}
}

// TestNothing has no packs, and packs without objects.
func TestNothing(t *testing.T) {
	check(t, made(t), nil, nil)
	names, packs := open(t, idxFile(t, nil), idxFile(t, nil))
	check(t, made(t, idxFile(t, nil), idxFile(t, nil)), names, packs)
}

// TestLargeOffsetsWithGit lets git verify offsets that need a LOFF, in a pack
// that is one large hole, and read back what git makes of it.
func TestLargeOffsetsWithGit(t *testing.T) {
	repo := t.TempDir()
	git(t, repo, "init", "-q", "--bare", ".")
	dir := filepath.Join(repo, "objects/pack")
	for i, limit := range []int64{1 << 32, 1 << 33, 1 << 20} {
		base := filepath.Join(dir, fmt.Sprintf("pack-%040d", i))
		recs := records(uint64(i), 300, limit)
		if err := os.WriteFile(base+".idx", idxFile(t, recs), 0o666); err != nil {
			t.Fatal(err)
		}
		head := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(recs)))
		if err := os.WriteFile(base+".pack", head, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(base+".pack", limit+20); err != nil {
			t.Skip("no large sparse files here:", err)
		}
	}
	names, packs := openAll(t, dir)
	var b bytes.Buffer
	if err := Write(&b, names, packs); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "multi-pack-index")
	if err := os.WriteFile(file, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	git(t, repo, "multi-pack-index", "verify")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	git(t, repo, "multi-pack-index", "write")
	theirs, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	check(t, theirs, names, packs)
	if !bytes.Equal(theirs, b.Bytes()) {
		t.Error("git makes another multi-pack-index of packs that share nothing")
	}
}

// TestWriteRefuses covers wrong arguments, bad inputs and a full disk.
func TestWriteRefuses(t *testing.T) {
	good := idxFile(t, records(1, 100, 1<<20))
	names, packs := open(t, good, good)
	for _, bad := range [][]string{nil, {"a"}, {"b", "a"}, {"a", "a"}} {
		if err := Write(io.Discard, bad, packs); err == nil {
			t.Errorf("names %q are accepted", bad)
		}
	}
	swapped := bytes.Clone(good)
	ids := 8 + fanoutSize
	copy(swapped[ids+20:], good[ids+40:ids+60])
	copy(swapped[ids+40:], good[ids+20:ids+40])
	_, bad := open(t, good, swapped)
	if err := Write(io.Discard, names, bad); err == nil || !strings.Contains(err.Error(), "ascending") {
		t.Error(err)
	}
	for room := range 3000 {
		if err := Write(&full{room: room}, names, packs); !errors.Is(err, errFull) {
			t.Fatalf("room for %d bytes: %v", room, err)
		}
	}
	// An input that fails at read k.
	for k := 0; ; k++ {
		f := &faulty{ReaderAt: bytes.NewReader(good), left: k}
		x, err := pack.OpenIdx("f", f, int64(len(good)))
		if err == nil {
			err = Write(io.Discard, names, []*pack.Idx{x, packs[0]})
		}
		if err == nil {
			if k < 10 {
				t.Errorf("%d reads", k)
			}
			break
		}
		if !errors.Is(err, errFull) {
			t.Fatal(err)
		}
	}
}

var errFull = errors.New("planted failure")

// full is a writer with little room.
type full struct{ room int }

func (f *full) Write(p []byte) (int, error) {
	if len(p) > f.room {
		return f.room, errFull
	}
	f.room -= len(p)
	return len(p), nil
}

// faulty fails after some reads.
type faulty struct {
	io.ReaderAt
	left int
}

func (f *faulty) ReadAt(b []byte, off int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, errFull
	}
	return f.ReaderAt.ReadAt(b, off)
}

// reseal replaces the checksum.
func reseal(b []byte) []byte {
	sum := sha1.Sum(b[:len(b)-20])
	copy(b[len(b)-20:], sum[:])
	return b
}

// TestBad has one file per way to be wrong.
func TestBad(t *testing.T) {
	good := made(t, idxFile(t, records(1, 300, 1<<40)), idxFile(t, records(2, 300, 1<<40)))
	chunk := func(name string) int { return bytes.Index(good, []byte(name)) } // in the table
	start := func(name string) int { return int(binary.BigEndian.Uint64(good[chunk(name)+4:])) }
	n := 600
	edit := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return reseal(b)
	}
	set := func(at int, s string) []byte { return edit(func(b []byte) { copy(b[at:], s) }) }
	for _, c := range []struct {
		name string
		b    []byte
		open bool // Open sees it
		want string
	}{
		{"empty", nil, true, "too short"},
		{"magic", set(0, "N"), true, "not a multi-pack-index"},
		{"version 2", set(4, "\x02"), true, "version 2"},
		{"hash 2", set(5, "\x02"), true, "unknown hash 2"},
		{"base file", set(7, "\x01"), true, "builds on another"},
		{"255 chunks", set(6, "\xff"), true, "out of place"},
		{"no chunks", set(6, "\x00"), true, "does not span"},
		{"a chunk less", set(6, "\x04"), true, "does not span"},
		{"chunk twice", set(chunk("OIDF"), "PNAM"), true, "out of place"},
		{"chunk missing", set(chunk("OOFF"), "XXXX"), true, "no chunk OOFF"},
		{"chunk before the table", set(chunk("OIDL")+4, "\x00\x00\x00\x00\x00\x00\x00\x01"), true, "out of place"},
		{"chunk past the end", set(chunk("OIDL")+4, "\x00\x00\x00\x01\x00\x00\x00\x01"), true, "out of place"},
		{"chunk at 2^63", set(chunk("OIDL")+4, "\x80\x00\x00\x00\x00\x00\x00\x01"), true, "out of place"},
		{"gap after the table", edit(func(b []byte) { b[chunk("PNAM")+11] += 4 }), true, "does not span"},
		{"fan-out of another size", edit(func(b []byte) { b[chunk("OIDL")+11] ^= 4 }), true, "wrong size"},
		{"fan-out falls", set(start("OIDF")+4, "\xff"), true, "not monotonic"},
		{"one object more", edit(func(b []byte) { b[start("OIDF")+1023]++ }), true, "do not fit"},
		{"count 2^32-1", set(start("OIDF")+1020, "\xff\xff\xff\xff"), true, "do not fit"},
		{"three packs", set(11, "\x03"), true, "not the name"},
		{"2^32-1 packs", set(8, "\xff\xff\xff\xff"), true, "not the name"},
		{"three packs and no padding", edit(func(b []byte) {
			b[11] = 3
			copy(b[start("PNAM")+22:], "xx")
		}), true, "fewer pack names"},
		{"one pack", set(11, "\x01"), true, "more pack names"},
		{"names descend", set(start("PNAM")+5, "9"), true, "ascending"},
		{"name with a path", set(start("PNAM")+4, "/"), true, "not the name"},
		{"empty name", set(start("PNAM"), "\x00"), true, "not the name"},
		{"cut", good[:len(good)-1], true, "out of place"},
		{"a byte more", append(bytes.Clone(good), 0), true, "does not span"},
		{"checksum", func() []byte { b := bytes.Clone(good); b[len(b)-1] ^= 1; return b }(), false, "checksum mismatch"},
		{"ids descend", edit(func(b []byte) {
			at := start("OIDL")
			copy(b[at+20:], good[at+40:at+60])
			copy(b[at+40:], good[at+20:at+40])
		}), false, "ascending"},
		{"pack 2 of 2", set(start("OOFF")+8*(n-1), "\x00\x00\x00\x02"), false, "pack 2 of 2"},
		{"place of large offset", set(start("OOFF")+8*(n-1)+4, "\xff\xff\xff\xff"), false, "outside the table of large"},
		{"offset above 2^63", edit(func(b []byte) { b[start("LOFF")] = 0x80 }), false, "above 2^63"},
	} {
		f, err := Open("midx", bytes.NewReader(c.b), int64(len(c.b)))
		if (err != nil) != c.open {
			t.Errorf("%s: Open says %v", c.name, err)
			continue
		}
		if err == nil {
			err = f.Verify()
			for i := range 256 { // whatever it says, it must not panic
				f.Find(pack.Sum(pack.Blob, fmt.Append(nil, 1, i)))
			}
		}
		var ce *pack.CorruptError
		if !errors.As(err, &ce) || ce.File != "midx" || !strings.Contains(ce.Reason, c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestReadErrors lets every read fail in turn.
func TestReadErrors(t *testing.T) {
	recs := records(1, 300, 1<<40)
	b := made(t, idxFile(t, recs))
	use := func(r io.ReaderAt) error {
		f, err := Open("midx", r, int64(len(b)))
		if err != nil {
			return err
		}
		for _, r := range recs[:10] {
			if _, _, _, err := f.Find(r.ID); err != nil {
				return err
			}
		}
		if err := f.BuildFilter(); err != nil {
			return err
		}
		return f.Verify()
	}
	for k := 0; ; k++ {
		if err := use(&faulty{ReaderAt: bytes.NewReader(b), left: k}); err == nil {
			if k < 10 {
				t.Errorf("%d reads", k)
			}
			return
		} else if !errors.Is(err, errFull) || !strings.Contains(err.Error(), "midx") {
			t.Fatal(err)
		}
	}
}

func TestFindAllocations(t *testing.T) {
	recs := records(1, 3000, 1<<40)
	b := made(t, idxFile(t, recs))
	f, err := Open("midx", bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	miss := pack.Sum(pack.Tree, nil)
	if n := testing.AllocsPerRun(100, func() { f.Find(recs[7].ID); f.Find(miss) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(made(f))
	f.Add(made(f, idxFile(f, records(1, 30, 1<<20)), idxFile(f, records(2, 30, 1<<20))))
	f.Add(made(f, idxFile(f, records(1, 30, 1<<40)), idxFile(f, records(2, 30, 1<<40))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 20 {
			b = reseal(bytes.Clone(b))
		}
		m, err := Open("midx", bytes.NewReader(b), int64(len(b)))
		var c *pack.CorruptError
		if err != nil {
			if !errors.As(err, &c) {
				t.Fatal(err)
			}
			return
		}
		for i := range 60 {
			if _, _, _, err := m.Find(pack.Sum(pack.Blob, fmt.Append(nil, 1+i%2, i/2))); err != nil && !errors.As(err, &c) {
				t.Fatal(err)
			}
		}
		if err := m.Verify(); err != nil && !errors.As(err, &c) {
			t.Fatal(err)
		}
		if err := m.BuildFilter(); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	var files [][]byte
	for i := range 10 {
		files = append(files, idxFile(b, records(uint64(i), 20_000, 1<<30)))
	}
	names, packs := open(b, files...)
	for b.Loop() {
		if err := Write(io.Discard, names, packs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(200_000*float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}
