package pack

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// TestBadWalk covers what concerns the pack as a whole.
func TestBadWalk(t *testing.T) {
	es := [][]byte{blobEntry("one"), blobEntry("two"), blobEntry("three")}
	good := rawPack(es...)
	two := packHead + int64(len(es[0]))
	three := two + int64(len(es[1]))
	end := three + int64(len(es[2]))
	for name, c := range map[string]struct {
		b    []byte
		offs []int64
		want string
	}{
		"count too low":       {reseal(edited(good, 11, 2)), nil, "after the last object"},
		"count too high":      {reseal(edited(good, 11, 4)), nil, "outside the pack"},
		"count 2^32-1":        {reseal(edited(edited(good, 11, 255), 8, 255)), nil, "outside the pack"},
		"count and idx":       {reseal(edited(good, 11, 4)), []int64{12, two, three}, "header claims 4"},
		"trailer":             {edited(good, int(end)+3, good[end+3]^1), nil, "checksum mismatch"},
		"byte after the last": {seal(append(bytes.Clone(good[:end]), 0)), nil, "after the last object"},
		"gap at the front":    {good, []int64{two, two, three}, "leaves a gap"},
		"twice":               {good, []int64{12, 12, three}, "or two"},
		"descending":          {good, []int64{12, three, two}, ""},
		"past the end":        {good, []int64{12, two, end + 5}, "or two"},
	} {
		p, err := openPack(c.b)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Walk(NewScratch(1<<20), c.offs, nil, func(it *Item) error { return nil }); !isCorrupt(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// An idx that misses the second object, and one whose second is off by one.
	p, err := openPack(reseal(edited(good, 11, 2)))
	if err != nil {
		t.Fatal(err)
	}
	var errs []error
	collect := func(it *Item) error { errs = append(errs, it.Err); return nil }
	if err := p.Walk(NewScratch(1<<20), []int64{12, three}, nil, collect); err != nil || len(errs) != 2 || !isCorrupt(errs[0]) || errs[1] != nil {
		t.Error(errs, err)
	}
	p, _ = openPack(good)
	errs = nil
	if err := p.Walk(NewScratch(1<<20), []int64{12, two + 1, three}, nil, collect); err != nil || len(errs) != 3 || !isCorrupt(errs[0]) || !isCorrupt(errs[1]) || errs[2] != nil {
		t.Error(errs, err)
	}
	if err := p.Walk(NewScratch(1<<20), nil, nil, func(*Item) error { return errPlanted }); err != errPlanted {
		t.Error(err)
	}
}

func edited(b []byte, at int, c byte) []byte {
	b = bytes.Clone(b)
	b[at] = c
	return b
}

// TestWalkDamage flips every byte of a pack in turn. With offsets, every other
// object is still read; the damage is always seen.
func TestWalkDamage(t *testing.T) {
	var es [][]byte
	var offs []int64
	at := int64(packHead)
	for i := range 5 {
		es = append(es, blobEntry(strings.Repeat(fmt.Sprint("object ", i), 10)))
		offs = append(offs, at)
		at += int64(len(es[i]))
	}
	good := rawPack(es...)
	s := NewScratch(1 << 20)
	for i := packHead; i < len(good)-idSize; i++ {
		p, err := openPack(edited(good, i, good[i]^0x10))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		err = p.Walk(s, offs, nil, func(it *Item) error {
			hurt := it.Off <= int64(i) && int64(i) < it.Off+it.Len
			if it.Err != nil && !hurt {
				return fmt.Errorf("byte %d hurts object at %d: %w", i, it.Off, it.Err)
			}
			n++
			return nil
		})
		if n != len(es) || !isCorrupt(err) || !strings.Contains(err.Error(), "checksum mismatch") {
			t.Fatalf("byte %d: %d objects, %v", i, n, err)
		}
	}
}

// FuzzPack reads whole packs; the trailer is set right so that fuzzing gets past it.
func FuzzPack(f *testing.F) {
	es, _ := chain(3)
	f.Add(rawPack(es...))
	f.Add(rawPack())
	f.Add(rawPack(blobEntry("0123456789"), refEntry(Sum(Blob, []byte("0123456789")), delta(10, 1, "x"))))
	f.Add(rawPack(blobEntry(string(noise(700))), blobEntry(string(sqlText(3000))), blobEntry("")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < idSize {
			b = make([]byte, idSize)
		}
		b = reseal(bytes.Clone(b))
		p, err := openPack(b)
		if err != nil {
			if !isCorrupt(err) {
				t.Fatal(err)
			}
			return
		}
		known := map[ID]int64{}
		find := func(id ID) (int64, bool, error) { off, ok := known[id]; return off, ok, nil }
		s, s2 := NewScratch(1<<20), NewScratch(1<<20)
		var offs []int64
		err = p.Walk(s, nil, find, func(it *Item) error {
			offs = append(offs, it.Off)
			typ, body, err := p.Object(s2, it.Off, find)
			if it.Err != nil {
				if err == nil || !named(it.Err) {
					return fmt.Errorf("at %d: %v, and %v", it.Off, it.Err, err)
				}
				return nil
			}
			if err != nil || typ != it.Type || !bytes.Equal(body, it.Body) {
				return fmt.Errorf("at %d: %w", it.Off, err)
			}
			known[Sum(typ, body)] = it.Off
			if ht, size, err := p.Header(s2, it.Off, find); err != nil || ht != typ || size != int64(len(body)) {
				return fmt.Errorf("at %d: header says %v, %d, %w", it.Off, ht, size, err)
			}
			return nil
		})
		if err != nil {
			if !named(err) {
				t.Fatal(err)
			}
			return
		}
		if offs == nil {
			return
		}
		if err := p.Walk(s, offs, find, func(it *Item) error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
}
