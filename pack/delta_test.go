package pack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
)

// appendBack is the inverse of parseBack.
func appendBack(b []byte, back int64) []byte {
	digits := []byte{byte(back & 0x7f)}
	for back >>= 7; back > 0; back >>= 7 {
		back--
		digits = append(digits, byte(back&0x7f)|0x80)
	}
	for i := range digits {
		b = append(b, digits[len(digits)-1-i])
	}
	return b
}

// delta writes a delta: numbers are varints, strings insertions, pairs copies.
func delta(parts ...any) (d []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			d = binary.AppendUvarint(d, uint64(p))
		case string:
			d = append(append(d, byte(len(p))), p...)
		case [2]int: // offset, length
			at := len(d)
			d = append(d, 0x80)
			for i := range 7 {
				v := p[0] >> (8 * i) & 0xff
				if i >= 4 {
					v = p[1] >> (8 * (i - 4)) & 0xff
				}
				if v != 0 {
					d[at] |= 1 << i
					d = append(d, byte(v))
				}
			}
		}
	}
	return d
}

func TestDelta(t *testing.T) {
	base := "0123456789"
	long := strings.Repeat("x", 70000)
	for name, c := range map[string]struct {
		base  string
		delta []byte
		want  string // the result, or
		bad   string // the reason
	}{
		"copy and insert":    {base, delta(10, 7, [2]int{0, 3}, "ab", [2]int{8, 2}), "012ab89", ""},
		"whole":              {base, delta(10, 10, [2]int{0, 10}), base, ""},
		"nothing":            {base, delta(10, 0), "", ""},
		"64 KiB":             {long, delta(70000, 65536, [2]int{1, 0}), long[:65536], ""},
		"three bytes":        {long, delta(70000, 0x11101, [2]int{0x0, 0x11101}), long[:0x11101], ""},
		"empty":              {base, nil, "", "cut short"},
		"one length":         {base, delta(10), "", "cut short"},
		"other base":         {base, delta(9, 1, "a"), "", "another size"},
		"makes less":         {base, delta(10, 2, "a"), "", "makes another size"},
		"makes more":         {base, delta(10, 1, "ab"), "", "makes another size"},
		"result 2^63-1":      {base, delta(10, math.MaxInt64, "a"), "", "makes another size"},
		"result 2^63":        {base, append(delta(10), 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1), "", "above 2^63"},
		"length of 11":       {base, append(bytes.Repeat([]byte{0x80}, 10), 0, 1), "", "above 2^63"},
		"copy past the end":  {base, delta(10, 5, [2]int{6, 5}), "", "past the end"},
		"copy after the end": {base, delta(10, 1, [2]int{11, 1}), "", "past the end"},
		"copy 16 MiB":        {base, delta(10, 0xffffff, [2]int{0, 0xffffff}), "", "past the end"},
		"copy at 4 GiB":      {base, delta(10, 1, [2]int{0xffffffff, 1}), "", "past the end"},
		"reserved":           {base, append(delta(10, 1), 0), "", "reserved"},
		"insert cut short":   {base, delta(10, 3, "abc")[:5], "", "cut short"},
		"copy cut short":     {base, delta(10, 300, [2]int{257, 300})[:5], "", "cut short"},
	} {
		size, err := deltaSize(c.delta, len(c.base))
		if c.bad != "" {
			if !isCorrupt(err) || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s: %v, want %q", name, err, c.bad)
			}
		} else if err != nil || size != int64(len(c.want)) {
			t.Errorf("%s: %d, %v", name, size, err)
		} else if got := applyDelta([]byte("before"), []byte(c.base), c.delta); string(got) != "before"+c.want {
			t.Errorf("%s: %.100q", name, got)
		}
	}
}

func TestParseBack(t *testing.T) {
	for _, back := range []int64{1, 127, 128, 255, 16511, 16512, 1 << 31, 1 << 40, 1 << 55} {
		b := appendBack(nil, back)
		if got, n, err := parseBack(append(b, 0xff)); got != back || n != len(b) || err != nil {
			t.Errorf("%d: %d in %d of %d bytes, %v", back, got, n, len(b), err)
		}
	}
	for _, bad := range [][]byte{nil, {0}, {0x80}, bytes.Repeat([]byte{0xff}, 30)} {
		if _, _, err := parseBack(bad); !isCorrupt(err) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

// chain returns the entries of a blob and n deltas upon each other, and what
// they make.
func chain(n int) (es [][]byte, body string) {
	body = strings.Repeat("kedge ", 20)
	es = append(es, blobEntry(body))
	for i := range n {
		word := fmt.Sprint(i)
		d := delta(len(body), len(body)+len(word), [2]int{0, len(body)}, word)
		es = append(es, ofsEntry(int64(len(es[len(es)-1])), d))
		body += word
	}
	return es, body
}

// TestDepth reads 50 deltas upon each other, refuses 51, and does so whatever
// is remembered.
func TestDepth(t *testing.T) {
	es, body := chain(maxDepth)
	p, err := openPack(rawPack(es...))
	if err != nil {
		t.Fatal(err)
	}
	typ, got, err := p.Object(NewScratch(1<<20), last(es...), nil)
	if err != nil || typ != Blob || string(got) != body {
		t.Fatalf("%v %q, %v", typ, got, err)
	}
	es, _ = chain(1000)
	p, err = openPack(rawPack(es...))
	if err != nil {
		t.Fatal(err)
	}
	warm := NewScratch(1 << 20)
	at := int64(packHead)
	for i, e := range es[:200] {
		for _, s := range []*Scratch{warm, NewScratch(1 << 20)} {
			_, _, err := p.Object(s, at, nil)
			_, _, err2 := p.Header(s, at, nil)
			if deep := i > maxDepth; isCorrupt(err) != deep || isCorrupt(err2) != deep {
				t.Fatalf("object %d, %d bases known: %v, %v", i, len(s.bases.known), err, err2)
			}
		}
		at += int64(len(e))
	}
	n := 0
	if err := p.Walk(warm, nil, nil, func(it *Item) error {
		if deep := n > maxDepth; isCorrupt(it.Err) != deep || (it.Body == nil) != deep {
			return fmt.Errorf("object %d: %v", n, it.Err)
		}
		n++
		return nil
	}); err != nil || n != len(es) {
		t.Fatal(n, err)
	}
}

// bigDelta copies its base of ten bytes until it has made n.
func bigDelta(n int) []byte {
	d := delta(10, n)
	for ; n >= 10; n -= 10 {
		d = append(d, delta([2]int{0, 10})...)
	}
	if n > 0 {
		d = append(d, delta([2]int{0, n})...)
	}
	return d
}

// TestBases fills the memory for bases beyond its limit.
func TestBases(t *testing.T) {
	var c bases
	p, q := new(Pack), new(Pack)
	body := make([]byte, basesEach)
	for i := range int64(20) {
		body[0] = byte(i)
		c.put(p, i, Blob, int(i), body)
		if b, ok := c.get(p, i); !ok || b.body[0] != byte(i) || b.depth != int(i) || b.t != Blob {
			t.Fatal("an object is forgotten at once")
		}
		c.put(p, i, Tree, 0, nil) // known already
	}
	if c.bytes > basesLimit || len(c.known) != basesLimit/basesEach || len(c.order) != len(c.known) {
		t.Errorf("%d bytes in %d objects", c.bytes, len(c.known))
	}
	if _, ok := c.get(p, 0); ok {
		t.Error("the oldest is still there")
	}
	if _, ok := c.get(q, 19); ok {
		t.Error("an object of another pack")
	}
	c.put(p, 99, Blob, 0, make([]byte, basesEach+1))
	if _, ok := c.get(p, 99); ok {
		t.Error("too large an object")
	}
	c.put(q, 19, Tag, 1, nil)
	if _, ok := c.get(p, 19); ok || c.bytes != 0 {
		t.Error("the objects of another pack are kept")
	}
}

func FuzzDelta(f *testing.F) {
	f.Add([]byte("0123456789"), delta(10, 7, [2]int{0, 3}, "ab", [2]int{8, 2}))
	f.Add([]byte("0123456789"), delta(10, 0))
	f.Add(make([]byte, 70000), delta(70000, 65536, [2]int{1, 0}))
	f.Add([]byte(nil), delta(0, 3, "abc"))
	f.Fuzz(func(t *testing.T, base, d []byte) {
		size, err := deltaSize(d, len(base))
		if err != nil {
			if !isCorrupt(err) {
				t.Fatal(err)
			}
			return
		}
		if size > int64(len(d))<<24 {
			t.Fatalf("%d bytes of delta make %d", len(d), size)
		}
		if size > 1<<24 {
			return
		}
		if out := applyDelta(nil, base, d); int64(len(out)) != size {
			t.Fatalf("made %d bytes, said %d", len(out), size)
		}
	})
}
