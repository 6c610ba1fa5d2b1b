package pack

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
)

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		hex  string
		t    Type
		size int64
	}{
		{"30", Blob, 0},
		{"3f", Blob, 15},
		{"b001", Blob, 16},
		{"2a", Tree, 10},
		{"9501", Commit, 21},
		{"c0808001", Tag, 1 << 18},
		{"bfffffffffffffffff07", Blob, math.MaxInt64},
	} {
		b, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatal(err)
		}
		typ, size, n, err := ParseHeader(append(b, "tail"...))
		if err != nil || typ != c.t || size != c.size || n != len(b) {
			t.Errorf("%s: %v of %d bytes in %d, %v", c.hex, typ, size, n, err)
		}
		if got := appendHeader(nil, uint8(c.t), int(c.size)); !bytes.Equal(got, b) {
			t.Errorf("%v of %d bytes: header %x, want %s", c.t, c.size, got, c.hex)
		}
		for i := range b {
			if _, _, _, err := ParseHeader(b[:i]); !isCorrupt(err) {
				t.Errorf("%s cut to %d bytes: %v", c.hex, i, err)
			}
		}
	}
}

// isCorrupt reports whether err is a *CorruptError.
func isCorrupt(err error) bool {
	var c *CorruptError
	return errors.As(err, &c)
}

func TestBadHeader(t *testing.T) {
	for _, c := range []struct {
		hex   string
		delta bool
	}{
		{hex: "00"},                             // type 0
		{hex: "50"},                             // type 5
		{hex: "bfffffffffffffffff08"},           // 2^63
		{hex: "bfffffffffffffffff7f"},           // 2^67
		{hex: "bfffffffffffffffff8701"},         // eleven bytes
		{hex: "b0808080808080808080808000"},     // thirteen, of zeros
		{hex: "ffffffffffffffffffffffffffffff"}, // without an end
		{hex: "6f", delta: true},
		{hex: "7f", delta: true},
	} {
		b, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := ParseHeader(b); c.delta && err != ErrDelta || !c.delta && !isCorrupt(err) {
			t.Errorf("%s: %v", c.hex, err)
		}
		if out, _, _, err := NewDecoder(1<<62).Append([]byte("x"), b); err == nil || string(out) != "x" {
			t.Errorf("%s: decoder: %v, %q", c.hex, err, out)
		}
	}
}

// TestRoundTrip encodes and decodes everything, with what libraries read and
// write on the other side in FuzzEntry and the tests with git.
func TestRoundTrip(t *testing.T) {
	bodies := shapes()
	for n := range 600 {
		bodies[fmt.Sprint("text ", n)] = sqlText(n)
	}
	for _, n := range []int{65534, 65535, 65536, 131069, 131070, 131071} {
		bodies[fmt.Sprint("noise ", n)] = noise(n)
		bodies[fmt.Sprint("long text ", n)] = sqlText(n)
	}
	d := NewDecoder(1 << 20)
	for level := range 10 {
		e := NewEncoder(level)
		for name, body := range bodies {
			if level > 1 && len(body) > 1000 && level%4 != 1 {
				continue
			}
			before := []byte("before")
			b, crc := e.Append(before, Tree, body)
			if !bytes.HasPrefix(b, before) || crc != crc32.ChecksumIEEE(b[len(before):]) {
				t.Fatalf("level %d, %s: what stood before, or the CRC, is wrong", level, name)
			}
			b = b[len(before):]
			if len(b) > EncodedLimit(len(body)) {
				t.Fatalf("level %d, %s: %d bytes became %d, limit %d", level, name, len(body), len(b), EncodedLimit(len(body)))
			}
			out, typ, n, err := d.Append(before, append(b, "after"...))
			if err != nil || typ != Tree || n != len(b) || string(out) != "before"+string(body) {
				t.Fatalf("level %d, %s: took %d of %d: %v", level, name, n, len(b), err)
			}
			head := len(appendHeader(nil, uint8(Tree), len(body)))
			want, n, err := reference(b[head:], 1<<20)
			if err != nil || n != len(b)-head || !bytes.Equal(want, body) {
				t.Fatalf("level %d, %s: the standard library: %v", level, name, err)
			}
		}
	}
}

func TestLevels(t *testing.T) {
	text := sqlText(20000)
	last := math.MaxInt
	for _, level := range []int{-5, 0, 1, 6, 9, 12} {
		b, _ := NewEncoder(level).Append(nil, Blob, text)
		if level <= 0 != (len(b) > len(text)) || len(b) > last {
			t.Errorf("level %d: %d bytes become %d", level, len(text), len(b))
		}
		last = len(b)
	}
	for _, level := range []int{1, 9} {
		b, _ := NewEncoder(level).Append(nil, Blob, noise(20000))
		if want := 20000 + 3 + 2 + storedHead + 4; len(b) != want {
			t.Errorf("level %d: noise takes %d bytes, stored it takes %d", level, len(b), want)
		}
	}
}

// TestProbe holds the probe to what it may call incompressible.
func TestProbe(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	twice := noise(8192)
	copy(twice[5000:], twice[1001:3001])
	hex16 := make([]byte, 8192)
	for i := range hex16 {
		hex16[i] = "0123456789abcdef"[rnd.IntN(16)]
	}
	halves := append(noise(4096), make([]byte, 4096)...)
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"noise":             {noise(10000), true},
		"short noise":       {noise(probeMin), true},
		"long noise":        {noise(100000), true},
		"too short":         {noise(probeMin - 1), false},
		"empty":             {nil, false},
		"text":              {sqlText(10000), false},
		"zeros":             {make([]byte, 10000), false},
		"hexadecimal":       {hex16, false},
		"noise that recurs": {twice, false},
		"noise, then zeros": {halves, false},
	} {
		if got := new(probe).incompressible(c.b); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
		// The same after a long row of noise: at a glance, or soon after.
		p, soon := probe{row: 99}, false
		for range probeTrust {
			soon = p.incompressible(c.b)
			if len(c.b) >= probeMin && !soon {
				break
			}
		}
		if soon != c.want {
			t.Errorf("%s, after a row of noise: %v", name, soon)
		}
	}
	for n := probeMin; n < 3000; n++ {
		for _, row := range []int{0, probeTrust + 1} {
			p := probe{row: row}
			p.incompressible(noise(n))
		}
	}
}

// TestProbeNotices turns from noise to other contents in the middle of a stream.
func TestProbeNotices(t *testing.T) {
	recurs := bytes.Repeat(noise(512), 20)
	for name, c := range map[string]struct {
		next []byte
		late int // bodies that may be stored
	}{
		"text":              {sqlText(10000), 0},
		"zeros":             {make([]byte, 10000), 0},
		"noise that recurs": {recurs, probeTrust - 1},
	} {
		for before := range 20 {
			e := NewEncoder(1)
			for range before {
				e.Append(nil, Blob, noise(10000))
			}
			late := 0
			for range 20 {
				if b, _ := e.Append(nil, Blob, c.next); len(b) > len(c.next) {
					late++
				}
			}
			if late > c.late {
				t.Errorf("%s after %d bodies of noise: %d were stored", name, before, late)
			}
		}
	}
}

func TestDecoderLimits(t *testing.T) {
	bomb, _ := NewEncoder(9).Append(nil, Blob, make([]byte, 1<<20))
	d := NewDecoder(1<<20 - 1)
	if out, _, _, err := d.Append(nil, bomb); !errors.Is(err, ErrTooLarge) || cap(out) != 0 {
		t.Error(err, cap(out))
	}
	if _, _, _, err := NewDecoder(1<<20).Append(nil, bomb); err != nil {
		t.Error(err)
	}
	// A claim that the bytes cannot hold costs nothing.
	claim := append(appendHeader(nil, uint8(Blob), 1<<40), bomb[4:]...)
	if out, _, _, err := NewDecoder(math.MaxInt64).Append(nil, claim); !isCorrupt(err) || cap(out) != 0 {
		t.Error(err, cap(out))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 {
		if _, _, _, err := d.Append(nil, claim); err == nil {
			t.Fatal("accepted")
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("1000 refusals took %d bytes", got)
	}
}

// TestDecoderErrors checks that places are counted from the front of the entry.
func TestDecoderErrors(t *testing.T) {
	entry, _ := NewEncoder(1).Append(nil, Blob, sqlText(5000))
	for at := range entry {
		for _, flip := range []byte{1, 0x80, 0xff} {
			b := bytes.Clone(entry)
			b[at] ^= flip
			out, typ, n, err := NewDecoder(1<<30).Append(nil, b)
			if err == nil {
				if typ == Blob && !bytes.Equal(out, sqlText(5000)) {
					t.Fatalf("byte %d ^ %#x: other bytes were accepted", at, flip)
				}
				continue // another type or zlib level
			}
			var c *CorruptError
			if errors.As(err, &c) && (c.Off < 0 || c.Off > int64(len(b)) || c.File != "") {
				t.Fatalf("byte %d ^ %#x: %#v", at, flip, c)
			} else if c == nil && !errors.Is(err, ErrDelta) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("byte %d ^ %#x: %v", at, flip, err)
			}
			if n < 0 || n > len(b) || len(out) != 0 {
				t.Fatalf("byte %d ^ %#x: took %d, gave %d", at, flip, n, len(out))
			}
		}
	}
}

// TestNoAllocations holds the hot functions to their word.
func TestNoAllocations(t *testing.T) {
	for _, c := range bodies {
		fast, guard := NewHasher(), NewGuard()
		e0, e1, e6 := NewEncoder(0), NewEncoder(1), NewEncoder(6)
		dst := make([]byte, 0, EncodedLimit(len(c.body)))
		entry, _ := e1.Append(nil, Blob, c.body)
		d := NewDecoder(1 << 20)
		out := make([]byte, 0, len(c.body))
		w := NewWriter(&memory{b: make([]byte, 0, 64<<20)})
		w.recs = make([]Record, 0, 1<<16)
		entries := []Entry{{ID: Sum(Blob, c.body), Bytes: entry}}
		for name, f := range map[string]func(){
			"Hasher.Sum":        func() { fast.Sum(Blob, c.body) },
			"Guard.Sum":         func() { guard.Sum(Blob, c.body) },
			"Encoder 0":         func() { e0.Append(dst, Blob, c.body) },
			"Encoder 1":         func() { e1.Append(dst, Blob, c.body) },
			"Encoder 6":         func() { e6.Append(dst, Blob, c.body) },
			"Decoder.Append":    func() { d.Append(out, entry) },
			"ParseHeader":       func() { ParseHeader(entry) },
			"Writer.Add":        func() { w.Add(entries) },
			"ID.AppendHex":      func() { entries[0].ID.AppendHex(dst) },
			"ID.Compare, CutID": func() { id, _, _ := CutID(entry); id.Compare(entries[0].ID) },
		} {
			f()
			if n := testing.AllocsPerRun(100, f); n != 0 {
				t.Errorf("%s, %s: %v allocations", name, c.name, n)
			}
		}
	}
}

// FuzzEntry decodes what it is given; what it accepts is encoded and decoded again.
func FuzzEntry(f *testing.F) {
	for _, b := range shapes() {
		for _, level := range []int{0, 1, 9} {
			e, _ := NewEncoder(level).Append(nil, Blob, b[:min(len(b), 1000)])
			f.Add(e)
		}
	}
	f.Add([]byte{0x6f, 1, 2, 3})
	d := NewDecoder(1 << 20)
	f.Fuzz(func(t *testing.T, b []byte) {
		out, typ, n, err := d.Append(nil, b)
		if err != nil {
			if !isCorrupt(err) && !errors.Is(err, ErrDelta) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if n > len(b) {
			t.Fatalf("took %d of %d bytes", n, len(b))
		}
		again, _ := NewEncoder(1).Append(nil, typ, out)
		back, typ2, m, err := d.Append(nil, again)
		if err != nil || m != len(again) || typ2 != typ || !bytes.Equal(back, out) {
			t.Fatalf("took %d of %d bytes: %v", m, len(again), err)
		}
	})
}
