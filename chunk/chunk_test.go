package chunk

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestParse(t *testing.T) {
	for _, v := range []struct {
		name     string
		min, max int
	}{
		{"rabin:10", 256, 8 << 10},
		{"rabin:13", 2 << 10, 64 << 10},
		{"rabin:20", 256 << 10, 8 << 20},
		{"gear:10", 256, 8 << 10},
		{"gear:13", 2 << 10, 64 << 10},
		{"gear:20", 256 << 10, 8 << 20},
		{"rollsum:13", 1, 32 << 10},
		{"rollsum:21", 1, 8 << 20},
	} {
		s := mustParse(t, v.name)
		if s.String() != v.name || s.Min() != v.min || s.Max() != v.max {
			t.Errorf("%s: got %s, min %d, max %d", v.name, s, s.Min(), s.Max())
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, name := range []string{
		"", ":", ":13", "rabin", "rabin:", "rabin:9", "rabin:21", "gear:9", "gear:21", "rollsum:12", "rollsum:22",
		"rabin:013", "rabin:+13", "rabin:-13", "rabin:13 ", " rabin:13", "rabin: 13", "rabin:13:1", "rabin:0xd",
		"Rabin:13", "legacy:13", "rabin:99999999999999999999", "gear:-9223372036854775808",
	} {
		s, err := Parse(name)
		if err == nil {
			t.Errorf("%q: parsed as %s", name, s)
			continue
		}
		const known = "known: rabin:10..20, gear:10..20, rollsum:13..21"
		if !strings.Contains(err.Error(), known) || !strings.Contains(err.Error(), `"`+name+`"`) {
			t.Errorf("%q: error is %q", name, err)
		}
	}
}

// cutInSlices gives data to Split as a caller that reads it in pieces of the
// sizes that next returns, and holds Split to what it promises for each call.
func cutInSlices(t testing.TB, s *Splitter, data []byte, next func() int) []Cut {
	t.Helper()
	var all, cuts []Cut
	start, end := 0, 0
	for last := false; !last; {
		if end == len(data) {
			last = true // the end is found by reading nothing, as from a file
		}
		end = min(end+next(), len(data))
		cuts = s.Split(cuts[:0], data[start:end], last)
		from := start
		for _, c := range cuts {
			c.End += from
			if c.End <= start || c.End > end {
				t.Fatalf("%s: cut at %d after one at %d, with bytes up to %d", s, c.End, start, end)
			}
			all = append(all, c)
			start = c.End
		}
		if left := end - start; left > s.Max()+s.Min() || last && left > 0 {
			t.Fatalf("%s: %d bytes left uncut; last is %v", s, left, last)
		}
	}
	return all
}

// samples are inputs of some hundred KiB, each of them awkward in its own way.
func samples() map[string][]byte {
	text := sqlText(300 << 10)
	mixed := slices.Concat(randomBytes(1, 20000), make([]byte, 100000), []byte{1}, make([]byte, 2047), []byte{1},
		make([]byte, 2048), []byte{1}, make([]byte, 70001), text[:5000], bytes.Repeat([]byte{0x42}, 80000), make([]byte, 65536))
	return map[string][]byte{
		"empty":    nil,
		"one byte": {0},
		"random":   randomBytes(2, 300<<10),
		"text":     text,
		"zeros":    make([]byte, 300<<10),
		"sparse":   sparse(300 << 10),
		"mixed":    mixed,
		"period":   bytes.Repeat([]byte("0123456"), 40<<10),
		"vector E": append(make([]byte, 32704), randomBytes(3, 100<<10)...),
	}
}

// TestSlicing checks that cuts do not depend on how the input comes.
func TestSlicing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	ways := map[string]func() int{
		"small":  func() int { return 100 + r.IntN(400) },
		"medium": func() int { return r.IntN(8 << 10) },
		"large":  func() int { return r.IntN(128 << 10) },
		"mixed":  func() int { return r.IntN(1 << r.IntN(18)) },
	}
	for _, name := range []string{"rabin:10", "rabin:13", "gear:10", "gear:13", "rollsum:13"} {
		s := mustParse(t, name)
		for what, data := range samples() {
			want := s.Split(nil, data, true)
			for way, next := range ways {
				if got := cutInSlices(t, s, data, next); !reflect.DeepEqual(got, want) {
					t.Errorf("%s, %s: in %s slices\n got %s\nwant %s", name, what, way, list(got), list(want))
				}
			}
		}
	}
}

// TestByteByByte is TestSlicing at its finest, on less.
func TestByteByByte(t *testing.T) {
	data := slices.Concat(randomBytes(4, 5000), make([]byte, 3000), randomBytes(5, 1000))
	for _, name := range []string{"rabin:10", "gear:10", "rollsum:13"} {
		s := mustParse(t, name)
		want := s.Split(nil, data, true)
		if got := cutInSlices(t, s, data, func() int { return 1 }); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", name, list(got), list(want))
		}
	}
}

func TestAgainstReference(t *testing.T) {
	for _, name := range []string{
		"rabin:10", "rabin:11", "rabin:12", "rabin:13", "rabin:14", "rabin:15", "rabin:20",
		"gear:10", "gear:11", "gear:12", "gear:13", "gear:14", "gear:15", "gear:20",
		"rollsum:13", "rollsum:14", "rollsum:15", "rollsum:16", "rollsum:17", "rollsum:18", "rollsum:21",
	} {
		s := mustParse(t, name)
		for what, data := range samples() {
			got, want := s.Split(nil, data, true), reference(t, name, data)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s:\n got %s\nwant %s", name, what, list(got), list(want))
			}
		}
	}
}

// TestLengths cuts the input off around the lengths where the splitters change
// their way of work.
func TestLengths(t *testing.T) {
	data := slices.Concat(make([]byte, 600), randomBytes(6, 20000))
	for _, name := range []string{"rabin:10", "gear:10", "rollsum:13"} {
		s := mustParse(t, name)
		for _, edge := range []int{3, window, s.Min(), s.Min() + window, 1024, s.Min() + blockSize, s.Min() + blockSize + window,
			s.Min() + 2*blockSize, 600 + s.Min() + blockSize, 512 + s.Min() + blockSize, 8192, 8192 + s.Min()} {
			for n := edge - 3; n <= edge+3; n++ {
				for _, d := range [][]byte{data[:max(0, n)], data[600:][:max(0, n)]} {
					if got, want := s.Split(nil, d, true), reference(t, name, d); !reflect.DeepEqual(got, want) {
						t.Errorf("%s, %d bytes:\n got %s\nwant %s", name, len(d), list(got), list(want))
					}
				}
			}
		}
	}
}

// TestHitAtTheEdge has hits on the last byte that a chunk may have, and on the
// last byte of the input.
func TestHitAtTheEdge(t *testing.T) {
	for _, name := range []string{"rabin:10", "gear:10", "rollsum:13"} {
		s := mustParse(t, name)
		s1 := streamS(200000)
		var w []byte // the first window that ends a chunk of level 1
		for _, c := range s.Split(nil, s1, true) {
			if c.Level == 1 {
				w = s1[c.End-window : c.End]
				break
			}
		}
		if w == nil {
			t.Fatal("no chunk of level 1")
		}
		fill := bytes.Repeat([]byte{1}, s.Max()-window) // has no hits
		for _, n := range []int{s.Max() - window, 1500} {
			data := append(fill[:n:n], w...)
			want := []Cut{{End: n + window, Level: 1}}
			for _, last := range []bool{true, false} {
				if got := s.Split(nil, data, last); !reflect.DeepEqual(got, want) {
					t.Errorf("%s, hit at %d, last is %v: got %+v", name, n+window, last, got)
				}
			}
			if got := reference(t, name, data); !reflect.DeepEqual(got, want) {
				t.Errorf("%s, hit at %d: the reference has %+v", name, n+window, got)
			}
		}
	}
}

// TestEarlyHits has hits of rollsum while its window still fills, with more
// bits than its second counter has.
func TestEarlyHits(t *testing.T) {
	s := mustParse(t, "rollsum:17")
	hits := 0
	for i := range 8000 {
		data := randomBytes(uint64(i), window)
		got := s.Split(nil, data, true)
		if want := reference(t, "rollsum:17", data); !reflect.DeepEqual(got, want) {
			t.Errorf("%x:\n got %s\nwant %s", data, list(got), list(want))
		}
		hits += len(got) - 1
	}
	if hits == 0 {
		t.Error("no hits: the test tests nothing")
	}
}

// TestDecidesEarly checks that a cut is made as soon as its place is known.
func TestDecidesEarly(t *testing.T) {
	for _, name := range []string{"rabin:10", "gear:10"} {
		s := mustParse(t, name)
		got := s.Split(nil, append(make([]byte, 700), 1), false)
		if want := []Cut{{End: 512, Zero: true}}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s, zeros and a one: got %+v", name, got)
		}
		got = s.Split(nil, append([]byte{1}, make([]byte, 255)...), false)
		if want := []Cut{{End: 256}}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s, a one and zeros: got %+v", name, got)
		}
		if got := s.Split(nil, make([]byte, 8191), false); len(got) != 0 {
			t.Errorf("%s, zeros that may go on: got %+v", name, got)
		}
	}
}

// TestHighLevels has windows that were searched for, or made, because random
// data has them once in gigabytes.
func TestHighLevels(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil || len(b) != window {
			t.Fatal(len(b), err)
		}
		return b
	}
	one := func(i int) []byte { // its digest is x^8i
		b := make([]byte, window)
		b[window-1-i] = 1
		return b
	}
	const (
		zeros29 = "50e8560a358afc0ccbc634ca046b9c562a093c2ffedaee7d2641e0e2ea54a75fb65a6a143d9e43e134a66e471a14387cd29f8114458c61cec73a36b2ea5cad11"
		zeros33 = "10c4fc51631af0ad760596d0784203e1080d6f64862c301a25c0b9fa17af462d67a7210a1d0e359e890856841d5e25a57a9fd1234a5fc40a093207c0d2b0412e"
	)
	for _, v := range []struct {
		name   string
		window []byte
		level  uint8
	}{
		{"rabin:10", one(2), 1},
		{"rabin:10", one(3), 3},
		{"rabin:10", one(4), 4},
		{"rabin:10", one(6), 4},
		{"rabin:10", make([]byte, window), 0},
		{"gear:10", unhex(zeros29), 4},
		{"gear:10", unhex(zeros33), 4},
		{"gear:13", unhex(zeros29), 3},
		{"gear:20", unhex(zeros29), 1},
		{"gear:10", make([]byte, window), 0},
	} {
		s := mustParse(t, v.name)
		data := append(bytes.Repeat([]byte{1}, s.Min()-window), v.window...)
		got := s.Split(nil, data, false)
		if want := []Cut{{End: s.Min(), Level: v.level}}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s, window %x: got %+v, want %+v", v.name, v.window, got, want)
		}
		data = append(data, 1)
		if want := reference(t, v.name, data); !reflect.DeepEqual(s.Split(nil, data, true), want) {
			t.Errorf("%s, window %x: the reference has %+v", v.name, v.window, want)
		}
	}
}

// TestConstantRuns checks what the documentation says of runs of one byte value.
func TestConstantRuns(t *testing.T) {
	for _, name := range []string{"gear:10", "gear:13", "rollsum:13"} {
		s := mustParse(t, name)
		for b := 1; b < 256; b++ {
			cuts := s.Split(nil, bytes.Repeat([]byte{byte(b)}, s.Max()+1), false)
			if want := []Cut{{End: s.Max()}}; !reflect.DeepEqual(cuts, want) {
				t.Errorf("%s: run of %02x is cut at %+v", name, b, cuts)
			}
		}
	}
}

// TestAppends checks that Split leaves alone what stands in dst.
func TestAppends(t *testing.T) {
	data := randomBytes(7, 100<<10)
	for _, name := range []string{"rabin:13", "gear:13", "rollsum:13"} {
		s := mustParse(t, name)
		before := []Cut{{End: -1, Level: 9}}
		got := s.Split(before, data, true)
		if want := append(before, s.Split(nil, data, true)...); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func TestSplitDoesNotAllocate(t *testing.T) {
	dst := make([]Cut, 0, 4096)
	for _, name := range []string{"rabin:10", "gear:10", "rollsum:13", "rollsum:21"} {
		s := mustParse(t, name)
		for what, data := range samples() {
			for _, last := range []bool{true, false} {
				if n := testing.AllocsPerRun(5, func() { s.Split(dst, data, last) }); n != 0 {
					t.Errorf("%s, %s, last is %v: %v allocations", name, what, last, n)
				}
			}
		}
	}
}

// TestConcurrent shares splitters between goroutines, for the race detector.
func TestConcurrent(t *testing.T) {
	data := randomBytes(8, 256<<10)
	for _, name := range []string{"rabin:13", "gear:13", "rollsum:13"} {
		s := mustParse(t, name)
		want := s.Split(nil, data, true)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if got := s.Split(nil, data, true); !reflect.DeepEqual(got, want) {
					t.Errorf("%s: got %s", name, list(got))
				}
			})
		}
		wg.Wait()
	}
}
