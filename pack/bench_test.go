package pack

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// sqlText returns n bytes like those of a database dump.
func sqlText(n int) []byte {
	rnd := rand.New(rand.NewPCG(5, 6))
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "INSERT INTO `bugs` VALUES (%d,'%08x','component %d','The %d%s run fails with status %d',%d.%02d,NULL);\n",
			i, rnd.Uint32(), rnd.IntN(40), rnd.IntN(9999), []string{"st", "nd", "rd", "th"}[rnd.IntN(4)], rnd.IntN(256), rnd.IntN(1e6), rnd.IntN(100))
	}
	return b.Bytes()[:n]
}

// noise returns n random bytes.
func noise(n int) []byte {
	rnd := rand.New(rand.NewPCG(7, 8))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// bodies are what the hot functions are measured on.
var bodies = []struct {
	name string
	body []byte
}{
	{"text10K", sqlText(10 << 10)},
	{"noise10K", noise(10 << 10)},
	{"text1K", sqlText(1 << 10)},
}

func BenchmarkSum(b *testing.B) {
	for _, h := range []struct {
		name string
		h    *Hasher
	}{{"fast", NewHasher()}, {"guard", NewGuard()}} {
		b.Run(h.name, func(b *testing.B) {
			body := bodies[0].body
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.h.Sum(Blob, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, level := range []int{0, 1, 6} {
		for _, c := range bodies {
			b.Run(fmt.Sprintf("level%d/%s", level, c.name), func(b *testing.B) {
				e := NewEncoder(level)
				dst := make([]byte, 0, EncodedLimit(len(c.body)))
				b.SetBytes(int64(len(c.body)))
				b.ReportAllocs()
				for b.Loop() {
					e.Append(dst, Blob, c.body)
				}
				out, _ := e.Append(dst, Blob, c.body)
				b.ReportMetric(float64(len(out))/float64(len(c.body)), "ratio")
			})
		}
	}
}

// BenchmarkProbe looks at many chunks in turn, since a processor remembers the
// branches of one.
func BenchmarkProbe(b *testing.B) {
	for _, c := range []struct {
		name string
		all  []byte
		size int
	}{{"text10K", sqlText(2 << 20), 10 << 10}, {"noise10K", noise(2 << 20), 10 << 10}, {"noise1K", noise(2 << 20), 1 << 10},
		{"mixed10K", append(append(sqlText(10<<10), noise(10<<10)...), sqlText(10<<10)...), 10 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			rest, p := c.all, new(probe)
			for b.Loop() {
				if rest = rest[c.size:]; len(rest) < c.size {
					rest = c.all
				}
				p.incompressible(rest[:c.size])
			}
		})
	}
}

func BenchmarkAdler32(b *testing.B) {
	body := noise(10 << 10)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		adler32(body)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, level := range []int{1, 6} {
		for _, c := range bodies {
			b.Run(fmt.Sprintf("level%d/%s", level, c.name), func(b *testing.B) {
				entry, _ := NewEncoder(level).Append(nil, Blob, c.body)
				d := NewDecoder(1 << 20)
				dst := make([]byte, 0, len(c.body))
				b.SetBytes(int64(len(c.body)))
				b.ReportAllocs()
				for b.Loop() {
					if _, _, _, err := d.Append(dst, entry); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkFind(b *testing.B) {
	recs := randomRecords(200_000, 1<<30)
	others := randomRecords(5000, 1<<20)
	x, err := openIdx(idxV2(b, recs))
	if err != nil {
		b.Fatal(err)
	}
	for _, filtered := range []bool{false, true} {
		for _, hit := range []bool{true, false} {
			b.Run(fmt.Sprintf("filter=%v/hit=%v", filtered, hit), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					id := recs[i*7%len(recs)].ID
					if !hit {
						id = others[i%len(others)].ID
					}
					if _, ok, err := x.Find(id); err != nil || ok != hit {
						b.Fatal(ok, err)
					}
				}
			})
		}
		if err := x.BuildFilter(); err != nil {
			b.Fatal(err)
		}
	}
}
