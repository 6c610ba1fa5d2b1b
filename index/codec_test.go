package index

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// randomStat gives stat data in which neighbours are often alike, and sometimes
// extreme.
func randomStat(r *rand.Rand, prev fsx.Stat) fsx.Stat {
	st := prev
	st.Ino += r.Uint64N(3)
	tm := func() fsx.Time {
		switch r.IntN(6) {
		case 0:
			return prev.Mtime
		case 1:
			return fsx.Time{Sec: math.MinInt64 + r.Int64N(3), Nsec: 999_999_999}
		case 2:
			return fsx.Time{Sec: math.MaxInt64 - r.Int64N(3)}
		case 3:
			return fsx.Time{Sec: -r.Int64N(1 << 40), Nsec: r.Int32N(1e9)}
		}
		return fsx.Time{Sec: 1.7e9 + r.Int64N(1000), Nsec: r.Int32N(2) * r.Int32N(1e9)}
	}
	st.Mtime, st.Ctime, st.Atime = tm(), tm(), tm()
	if r.IntN(2) == 0 {
		st.Ctime = st.Mtime
	}
	if r.IntN(2) == 0 {
		st.Atime = st.Mtime
	}
	st.Size = r.Int64N(1 << (1 + r.IntN(40)))
	st.Blocks = plainBlocksOf(st.Size)
	switch r.IntN(12) {
	case 0:
		st.Dev, st.Ino, st.Nlink = r.Uint64(), r.Uint64(), r.Uint64()
	case 1:
		st.UID, st.GID = r.Uint32(), r.Uint32()
	case 2:
		st.Mode, st.Rdev = r.Uint32(), r.Uint64()
	case 3:
		st.Size, st.Blocks = maxSize, math.MaxInt64
	case 4:
		st.Nlink, st.Rdev, st.Mode = 1, 0, 0o100644
	}
	return st
}

// randomRecords gives n records or less that make a file, but for Below and what
// directories may be valid. With id false none was ever saved.
func randomRecords(r *rand.Rand, n int, id bool) []Record {
	seen := map[string]bool{}
	var recs []Record
	for range n {
		p := randomPath(r)
		if r.IntN(2) == 0 {
			p = strings.TrimSuffix(p, "/") + "/" + strings.Repeat("x", 1+r.IntN(20)) + string(rune('0'+r.IntN(10)))
		}
		if !seen[p] {
			seen[p] = true
			recs = append(recs, Record{Path: p})
		}
	}
	slices.SortFunc(recs, func(a, b Record) int { return Compare(a.Path, b.Path) })
	var st fsx.Stat
	for i := range recs {
		rec := &recs[i]
		st = randomStat(r, st)
		rec.Stat = st
		rec.Flags = []Flags{0, Exists, Exists | Valid}[r.IntN(3)]
		if id && r.IntN(4) > 0 {
			rec.ID = pack.Sum(pack.Blob, []byte(rec.Path))
			rec.GitMode = []uint32{0o100644, 0o100644, 0o40000, math.MaxUint32}[r.IntN(4)]
			rec.Chunker = []string{"", "rabin:13", "gear:13", strings.Repeat("c", 255)}[r.IntN(4)]
		}
		if r.IntN(10) == 0 {
			rec.Target = strings.Repeat("t", 1+r.IntN(300))
		}
		if r.IntN(10) == 0 {
			rec.Extras = []byte(strings.Repeat("e", 1+r.IntN(3000)))
		}
		if r.IntN(10) == 0 {
			rec.Files, rec.Bytes = 1+r.Uint64()>>uint(r.IntN(64)), r.Uint64()>>uint(r.IntN(64))
		}
	}
	return recs
}

// settle makes the counts and the validity of directories right.
func settle(recs []Record) {
	for i := range recs {
		recs[i].Below = 0
		for j := i - 1; j >= 0 && Within(recs[j].Path, recs[i].Path); j-- {
			recs[i].Below++
			if recs[j].Flags&Valid == 0 {
				recs[i].Flags &^= Valid
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 2, 50, 3000} {
		recs := randomRecords(r, n, true)
		settle(recs)
		name := filepath.Join(t.TempDir(), "index")
		writeIndex(t, name, recs)
		f, err := Open(&fsx.FS{}, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Check(); err != nil {
			t.Error(err)
		}
		if f.Len() != uint64(len(recs)) {
			t.Errorf("%d records, want %d", f.Len(), len(recs))
		}
		equalRecords(t, contents(t, f), recs)
		f.Close()
	}
}

// TestSize holds the promise of 90 bytes per record against a typical tree: the
// one this test runs in, as if all of it were saved.
func TestSize(t *testing.T) {
	name := filepath.Join(t.TempDir(), "index")
	res := update(t, Options{File: name, Roots: []string{moduleRoot(t)}, FakeValid: true})
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if perPath := info.Size() / int64(res.Paths); perPath > 90 {
		t.Errorf("%d bytes per path", perPath)
	}
}

func moduleRoot(t *testing.T) string {
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestLimits: what breaks a limit or the order is refused by the encoder, and
// leaves the block as it was.
func TestLimits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, rec := range map[string]Record{
		"order":       {Path: "/m"},
		"ancestor":    {Path: "/n/below"},
		"same":        {Path: "/n"},
		"dot":         {Path: "/o/."},
		"relative":    {Path: "o"},
		"slash":       {Path: "/o/"},
		"NUL":         {Path: "/o\x00"},
		"path":        {Path: "/" + long(maxPath-1)},
		"target":      {Path: "/o", Target: long(maxTarget + 1)},
		"extras":      {Path: "/o", Extras: []byte(long(maxExtras + 1))},
		"chunker":     {Path: "/o", Chunker: long(256)},
		"flag":        {Path: "/o", Flags: 4},
		"valid":       {Path: "/o", Flags: Valid},
		"size":        {Path: "/o", Stat: fsx.Stat{Size: -1}},
		"large":       {Path: "/o", Stat: fsx.Stat{Size: maxSize + 1}},
		"blocks":      {Path: "/o", Stat: fsx.Stat{Blocks: -1}},
		"nanoseconds": {Path: "/o", Stat: fsx.Stat{Ctime: fsx.Time{Nsec: 1e9}}},
	} {
		var e encoder
		if err := e.append(&Record{Path: "/n"}); err != nil {
			t.Fatal(err)
		}
		before := string(e.buf)
		if err := e.append(&rec); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if string(e.buf) != before || e.count != 1 {
			t.Errorf("%s: the block has changed", name)
		}
	}
	var e encoder
	if err := e.append(&Record{Path: "/" + long(maxPath-2), Target: long(maxTarget), Extras: []byte(long(maxExtras)), Chunker: long(255)}); err != nil {
		t.Errorf("a record with everything at its limit: %v", err)
	}
	if len(e.buf) > blockLimit-blockTarget {
		t.Errorf("a record of %d bytes breaks the limit of a block", len(e.buf))
	}
}

// TestNonCanonical: blocks that say the same in another way are found by Check,
// or not read at all.
func TestNonCanonical(t *testing.T) {
	rec := Record{Path: "/a", Flags: Exists, Stat: fsx.Stat{Nlink: 1, Mtime: fsx.Time{Sec: 1}, Ctime: fsx.Time{Sec: 1}, Atime: fsx.Time{Sec: 1}}}
	var e encoder
	if err := e.append(&rec); err != nil {
		t.Fatal(err)
	}
	// 00 02 "/a", state, abbreviations ×2, inode, size, mtime
	good := e.buf
	if len(good) != 10 {
		t.Fatalf("the record is % x", good)
	}
	set := func(at int, b ...byte) []byte {
		c := slices.Clone(good)
		return slices.Concat(c[:at], b, c[at+1:])
	}
	short := uint16(good[5]) | uint16(good[6])<<8
	without := func(bit uint16, at int, field ...byte) []byte {
		c := slices.Clone(good)
		c[5], c[6] = byte(short&^bit), byte((short&^bit)>>8)
		return slices.Concat(c[:at], field, c[at:])
	}
	for name, b := range map[string][]byte{
		"long number":    set(7, 0x80, 0x00),
		"longer number":  set(7, 0x80, 0x80, 0x00),
		"same device":    without(sameDev, 7, 0),
		"same mode":      without(sameMode, 8, 0),
		"same owner":     without(sameOwner, 8, 0, 0),
		"one link":       without(oneLink, 8, 1),
		"no rdev":        without(noRdev, 8, 0),
		"blocks":         without(plainBlocks, 9, 0),
		"whole mtime":    without(mtimeWhole, 10, 0, 0, 0, 0),
		"ctime":          without(ctimeIsMtime, 10, 2, 0, 0, 0, 0),
		"git mode":       without(sameGitMode, 10, 0),
		"zero files":     append(set(4, good[4]|hasTotals), 0, 0),
		"half of totals": append(set(4, good[4]|hasTotals), 1),
		"short bit":      set(6, good[6]|0x80),
		"valid not here": set(4, byte(Valid)),
		"empty target":   append(set(4, good[4]|hasTarget), 0),
		"zero below":     append(set(4, good[4]|hasBelow), 0),
		"zero id":        append(set(4, good[4]|hasID), make([]byte, 20)...),
		"no chunker":     append(set(4, good[4]|hasChunker), 0),
		"trailing":       append(slices.Clone(good), 0),
		"short block":    good[:9],
		"dot":            set(3, '.'),
	} {
		f := openBlock(t, b, "/a")
		_, err := collect(f, "/")
		if err == nil {
			err = f.Check()
		}
		if err == nil {
			t.Errorf("%s: % x is accepted", name, b)
		}
		f.Close()
	}
	f := openBlock(t, good, "/a")
	defer f.Close()
	if err := f.Check(); err != nil {
		t.Errorf("the block as it should be: %v", err)
	}
}

// openBlock opens a file with one block of one record.
func openBlock(t *testing.T, b []byte, last string) *File {
	t.Helper()
	file := header()
	file = append(file, b...)
	table := appendTableEntry(nil, &block{size: len(b), count: 1, crc: checksum(b), last: last})
	off := int64(len(file))
	file = append(file, table...)
	file = appendTail(file, off, 1, 1, table)
	name := filepath.Join(t.TempDir(), "index")
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(&fsx.FS{}, name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestIterateAllocs: no allocation per record, whatever it holds.
func TestIterateAllocs(t *testing.T) {
	recs := randomRecords(rand.New(rand.NewPCG(5, 6)), 3000, true)
	for i := range recs { // more than two names would have to be allocated again and again
		if recs[i].Chunker != "" {
			recs[i].Chunker = "rabin:13"
		}
	}
	settle(recs)
	name := filepath.Join(t.TempDir(), "index")
	writeIndex(t, name, recs)
	f, err := Open(&fsx.FS{}, name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	it := f.Records("/")
	for it.Next() { // makes the buffers
	}
	n := testing.AllocsPerRun(5, func() {
		it.SkipTo(0)
		for it.Next() {
		}
	})
	if n > 0 || it.Err() != nil {
		t.Errorf("%v allocations for %d records in %d blocks (%v)", n, len(recs), len(f.e.blocks), it.Err())
	}
}
