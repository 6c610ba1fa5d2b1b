package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

// rawPack returns a pack of entries as they come.
func rawPack(entries ...[]byte) []byte {
	b := append([]byte(packMagic), 0, 0, 0, packVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(entries)))
	for _, e := range entries {
		b = append(b, e...)
	}
	return seal(b)
}

// openPack opens a pack under the sum that its trailer claims.
func openPack(b []byte) (*Pack, error) {
	var sum ID
	if len(b) >= idSize {
		sum, _, _ = CutID(b[len(b)-idSize:])
	}
	return OpenPack("test.pack", bytes.NewReader(b), int64(len(b)), sum)
}

func blobEntry(body string) []byte {
	b, _ := NewEncoder(1).Append(nil, Blob, []byte(body))
	return b
}

// ofsEntry is a delta whose base lies back bytes before it.
func ofsEntry(back int64, delta []byte) []byte {
	b := appendHeader(nil, ofsDelta, len(delta))
	b = appendBack(b, back)
	return appendZlib(b, delta)
}

// refEntry is a delta whose base is given by id.
func refEntry(base ID, delta []byte) []byte {
	return appendZlib(base.AppendBytes(appendHeader(nil, refDelta, len(delta))), delta)
}

func appendZlib(b, body []byte) []byte {
	d := newDeflater(1)
	return d.append(append(make([]byte, 0, len(b)+EncodedLimit(len(body))), b...), body)
}

// last returns the place of the last of entries in rawPack(entries...).
func last(entries ...[]byte) int64 {
	at := int64(packHead)
	for _, e := range entries[:len(entries)-1] {
		at += int64(len(e))
	}
	return at
}

// TestBadPack has one pack per way to be wrong. Object, Header and Walk are
// asked for the last entry.
func TestBadPack(t *testing.T) {
	blob := blobEntry("0123456789")
	id := Sum(Blob, []byte("0123456789"))
	one := delta(10, 1, "x")
	bomb, _ := NewEncoder(9).Append(nil, Blob, make([]byte, 5<<20))
	small := appendHeader(nil, uint8(Blob), 9)
	large := appendHeader(nil, uint8(Blob), 11)
	for name, c := range map[string]struct {
		entries [][]byte
		want    string // of Object
		walk    string // of Walk, if it is not the same
		header  bool   // whether Header sees it
	}{
		"type 0":             {[][]byte{blob, {0x00, 1, 2}}, "unknown type 0", "", true},
		"type 5":             {[][]byte{blob, {0x50, 1, 2}}, "unknown type 5", "", true},
		"no zlib":            {[][]byte{blob, {0x35, 1, 2}}, "zlib", "", false},
		"size too small":     {[][]byte{append(small, blob[1:]...)}, "more than its declared", "", false},
		"size too large":     {[][]byte{append(large, blob[1:]...)}, "less than its declared", "", false},
		"size 2^63-1":        {[][]byte{append(appendHeader(nil, uint8(Blob), math.MaxInt64), blob[1:]...)}, ErrTooLarge.Error(), "", false},
		"size of 20 bytes":   {[][]byte{append(bytes.Repeat([]byte{0xb0}, 20), blob...)}, "more than 2^63-1", "", true},
		"claims too much":    {[][]byte{append(appendHeader(nil, uint8(Blob), 1<<20), blob[1:]...)}, "more than its pack can hold", "", false},
		"cut short":          {[][]byte{blob[:len(blob)-1]}, "cut short", "", false},
		"bomb":               {[][]byte{bomb}, ErrTooLarge.Error(), "", false},
		"base before all":    {[][]byte{blob, ofsEntry(int64(len(blob))+1, one)}, "before the first", "", true},
		"base in no entry":   {[][]byte{blob, ofsEntry(int64(len(blob))-1, one)}, "", "", false},
		"base is itself":     {[][]byte{blob, append(appendHeader(nil, ofsDelta, 4), 0, 1, 2, 3)}, "its own base", "", true},
		"base 2^60 before":   {[][]byte{blob, ofsEntry(1<<60, one)}, "before the first", "", true},
		"base not found":     {[][]byte{blob, refEntry(ID{}, one)}, "is not in the pack", "", true},
		"base is this delta": {[][]byte{blob, refEntry(Sum(Tree, nil), one)}, "more than 50 deltas", "", true},
		"base out of pack":   {[][]byte{blob, refEntry(Sum(Commit, nil), one)}, "outside the pack", "", true},
		"base in the header": {[][]byte{blob, refEntry(Sum(Tag, nil), one)}, "outside the pack", "", true},
		"copy past the end":  {[][]byte{blob, refEntry(id, delta(10, 2, [2]int{9, 2}))}, "past the end", "", false},
		"delta of another":   {[][]byte{blob, refEntry(id, delta(11, 1, "x"))}, "another size", "", false},
		"result too large":   {[][]byte{blob, refEntry(id, bigDelta(2<<20))}, ErrTooLarge.Error(), "", false},
		"empty delta":        {[][]byte{blob, refEntry(id, nil)}, "cut short", "", true},
		"delta 2^63":         {[][]byte{blob, refEntry(id, bytes.Repeat([]byte{0xff}, 20))}, "2^63", "", true},
	} {
		b := rawPack(c.entries...)
		p, err := openPack(b)
		if err != nil {
			t.Fatal(err)
		}
		at := last(c.entries...)
		find := func(want ID) (int64, bool, error) {
			switch want {
			case id:
				return packHead, true, nil
			case Sum(Tree, nil):
				return at, true, nil
			case Sum(Commit, nil):
				return int64(len(b)) - idSize, true, nil
			case Sum(Tag, nil):
				return 11, true, nil
			}
			return 0, false, nil
		}
		s := NewScratch(1 << 20)
		typ, body, err := p.Object(s, at, find)
		if err == nil || typ != 0 || body != nil || !strings.Contains(err.Error(), c.want) || !named(err) {
			t.Errorf("%s: %v %q, %v, want %q", name, typ, body, err, c.want)
		}
		if _, _, err := p.Header(s, at, find); c.header != (err != nil) && c.want != "" || err != nil && !named(err) {
			t.Errorf("%s: Header says %v", name, err)
		}
		offs := places(c.entries)
		var errs []error
		if err := p.Walk(s, offs, find, func(it *Item) error {
			errs = append(errs, it.Err)
			return nil
		}); err != nil || len(errs) != len(offs) || errs[len(errs)-1] == nil || !strings.Contains(errs[len(errs)-1].Error(), c.want) {
			t.Errorf("%s: Walk says %v, %v, want %q", name, errs, err, c.want)
		}
		if err := p.Walk(s, nil, find, func(it *Item) error { return it.Err }); err == nil || !named(err) {
			t.Errorf("%s: Walk without offsets says %v", name, err)
		}
	}
}

// places returns where the entries of rawPack(entries...) begin.
func places(entries [][]byte) (offs []int64) {
	off := int64(packHead)
	for _, e := range entries {
		offs = append(offs, off)
		off += int64(len(e))
	}
	return offs
}

// named reports whether err is one of those that callers know, and names the file.
func named(err error) bool {
	return (isCorrupt(err) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrDelta)) && strings.Contains(err.Error(), "test.pack")
}

func TestOpenPack(t *testing.T) {
	good := rawPack(blobEntry("x"))
	edit := func(at int, c byte) []byte {
		b := bytes.Clone(good)
		b[at] = c
		return reseal(b)
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":      {nil, "too short"},
		"31 bytes":   {good[:31], "too short"},
		"magic":      {edit(0, 'Q'), "not a pack"},
		"version 3":  {edit(7, 3), "unknown pack version 3"},
		"version 2⁸": {edit(6, 1), "unknown pack version 258"},
	} {
		if _, err := openPack(c.b); !isCorrupt(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	sum, _, _ := CutID(good[len(good)-idSize:])
	sum.h[0]++
	if _, err := OpenPack("x", bytes.NewReader(good), int64(len(good)), sum); !isCorrupt(err) || !strings.Contains(err.Error(), "trailer") {
		t.Error(err)
	}
	p, err := openPack(good)
	if err != nil {
		t.Fatal(err)
	}
	s := NewScratch(100)
	for _, off := range []int64{-1, 0, 11, int64(len(good)) - idSize, math.MaxInt64, math.MinInt64} {
		if _, _, err := p.Object(s, off, nil); !isCorrupt(err) {
			t.Errorf("object at %d: %v", off, err)
		}
	}
	for _, r := range [][2]int64{{0, 20}, {11, 1}, {12, int64(len(good))}, {12, -1}, {math.MaxInt64, 1}, {int64(len(good)) - idSize, 1}} {
		if _, err := p.Range(nil, r[0], int(r[1])); !isCorrupt(err) {
			t.Errorf("range %v: %v", r, err)
		}
	}
	b, err := p.Range(nil, packHead, len(good)-idSize-packHead)
	if err != nil || !bytes.Equal(b, blobEntry("x")) {
		t.Errorf("%x, %v", b, err)
	}
}

// TestPackReadErrors lets every read fail, and the file shrink, after it was opened.
func TestPackReadErrors(t *testing.T) {
	es, _ := chain(5)
	es = append(es, blobEntry(string(noise(200_000))))
	m := &memory{b: rawPack(es...)}
	size := int64(len(m.b))
	sum, _, _ := CutID(m.b[size-idSize:])
	use := func() error {
		p, err := OpenPack("test.pack", m, size, sum)
		if err != nil {
			return err
		}
		s := NewScratch(1 << 20)
		for _, off := range []int64{last(es...), last(es[:6]...)} {
			if _, _, err := p.Header(s, off, nil); err != nil {
				return err
			}
			if _, _, err := p.Object(s, off, nil); err != nil {
				return err
			}
		}
		return p.Walk(s, nil, nil, func(it *Item) error { return it.Err })
	}
	for k := 1; ; k++ {
		for _, short := range []bool{false, true} {
			m.ops, m.failAt, m.short = 0, k, short
			err := use()
			if m.ops < k {
				if err != nil || k < 6 {
					t.Fatalf("%d operations: %v", m.ops, err)
				}
				return
			}
			if short && !isCorrupt(err) || !short && !errors.Is(err, errPlanted) || !strings.Contains(fmt.Sprint(err), "test.pack") {
				t.Fatalf("failure %d, short %v: %v", k, short, err)
			}
		}
	}
}

// TestReads counts the reads of a Scratch: one for a small object, none for
// its neighbours, two for a large one.
func TestReads(t *testing.T) {
	var es [][]byte
	for i := range 10 {
		es = append(es, blobEntry(string(noise(2000))+fmt.Sprint(i)))
	}
	es = append(es, blobEntry(string(noise(100_000))))
	b := rawPack(es...)
	c := &counter{ReaderAt: bytes.NewReader(b)}
	sum, _, _ := CutID(b[len(b)-idSize:])
	p, err := OpenPack("x", c, int64(len(b)), sum)
	if err != nil {
		t.Fatal(err)
	}
	s := NewScratch(1 << 20)
	read := func(i, want int) {
		t.Helper()
		c.reads = 0
		if _, _, err := p.Object(s, last(es[:i+1]...), nil); err != nil || c.reads != want {
			t.Errorf("object %d: %d reads, want %d; %v", i, c.reads, want, err)
		}
	}
	read(3, 1)
	read(4, 0)
	read(3, 0)
	read(0, 1)
	read(10, 2)
	off := last(es[:4]...)
	if n := testing.AllocsPerRun(100, func() { s.winPack = nil; p.Object(s, off, nil) }); n != 0 {
		t.Errorf("Object: %v allocations", n)
	}
	c.reads = 0
	if err := p.Walk(s, nil, nil, func(*Item) error { return nil }); err != nil || c.reads != 2 {
		t.Errorf("Walk: %d reads, want 2; %v", c.reads, err)
	}
}
