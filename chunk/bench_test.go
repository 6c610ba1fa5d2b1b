package chunk

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/restic/chunker"
)

// sqlText returns n bytes of what a database dump looks like.
func sqlText(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett"}
	var b bytes.Buffer
	for id := 1; b.Len() < n; {
		b.WriteString("INSERT INTO `orders` VALUES ")
		for i := range 200 {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "(%d,'%s %s','%s@example.org',%d.%02d,'2024-%02d-%02d %02d:%02d:%02d',NULL,%d)", id,
				words[r.IntN(10)], words[r.IntN(10)], words[r.IntN(10)], r.IntN(10000), r.IntN(100),
				1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(3))
			id++
		}
		b.WriteString(";\n")
	}
	return b.Bytes()[:n]
}

func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

// sparse returns n bytes of zeros with a few others in every 4 KiB.
func sparse(n int) []byte {
	b := make([]byte, n)
	for i := 0; i+16 < n; i += 4096 {
		copy(b[i:], randomBytes(uint64(i>>12), 16))
	}
	return b
}

func benchInputs() []struct {
	name string
	data []byte
} {
	const n = 1 << 20
	return []struct {
		name string
		data []byte
	}{
		{"random", randomBytes(1, n)},
		{"text", sqlText(n)},
		{"zeros", make([]byte, n)},
		{"ones", bytes.Repeat([]byte{1}, n)},
		{"sparse", sparse(n)},
	}
}

func BenchmarkSplit(b *testing.B) {
	for _, name := range []string{"rabin:13", "gear:13", "rollsum:13", "rabin:16", "gear:16"} {
		s, err := Parse(name)
		if err != nil {
			b.Fatal(err)
		}
		for _, in := range benchInputs() {
			b.Run(name+"/"+in.name, func(b *testing.B) {
				cuts := s.Split(nil, in.data, true)
				b.SetBytes(int64(len(in.data)))
				b.ReportAllocs()
				for b.Loop() {
					cuts = s.Split(cuts[:0], in.data, true)
				}
			})
		}
	}
}

// corpusFlag: with -corpus=FILE:… the splitters are measured on these files, too.
var corpusFlag = flag.String("corpus", "", "list of files to measure splitters on")

// BenchmarkBeside splits 1 MiB after the other with rabin:13 and with the library
// in turn, which cuts the same. The least time that each took for each counts.
func BenchmarkBeside(b *testing.B) {
	const size, most = 1 << 20, 16 << 20
	inputs := map[string][]byte{"random": randomBytes(1, 4<<20), "text": sqlText(4 << 20)}
	for _, f := range filepath.SplitList(*corpusFlag) {
		data, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		inputs[filepath.Base(f)] = data[:min(len(data), most)]
	}
	for name, data := range inputs {
		b.Run(name, func(b *testing.B) {
			least := make([][2]time.Duration, len(data)/size)
			for i := range least {
				least[i] = [2]time.Duration{time.Hour, time.Hour}
			}
			s := mustParse(b, "rabin:13")
			lib, buf := chunker.New(nil, polynomial), make([]byte, 64<<10)
			var cuts []Cut
			b.SetBytes(size)
			n := 0
			for ; b.Loop(); n++ {
				k := n % len(least)
				part := data[k*size:][:size]
				start := time.Now()
				cuts = s.Split(cuts[:0], part, true)
				least[k][0] = min(least[k][0], time.Since(start))
				start = time.Now()
				splitWithLibrary(lib, buf, part)
				least[k][1] = min(least[k][1], time.Since(start))
			}
			var took [2]time.Duration
			for _, t := range least[:min(n, len(least))] {
				took[0] += t[0]
				took[1] += t[1]
			}
			bytes := float64(size * min(n, len(least)))
			b.ReportMetric(bytes/float64(took[0].Nanoseconds())*1e3, "ours-MB/s")
			b.ReportMetric(bytes/float64(took[1].Nanoseconds())*1e3, "library-MB/s")
			b.ReportMetric(float64(took[1])/float64(took[0]), "times-faster")
		})
	}
}

// splitWithLibrary splits data with restic/chunker, as rabin:13 does.
func splitWithLibrary(c *chunker.Chunker, buf, data []byte) {
	c.ResetWithBoundaries(bytes.NewReader(data), polynomial, 2<<10, 64<<10)
	c.SetAverageBits(13)
	for {
		if _, err := c.Next(buf); err == io.EOF {
			return
		}
	}
}

// BenchmarkResticChunker is the library on the same data.
func BenchmarkResticChunker(b *testing.B) {
	c := chunker.New(nil, polynomial)
	buf := make([]byte, 64<<10)
	for _, in := range benchInputs() {
		b.Run(in.name, func(b *testing.B) {
			b.SetBytes(int64(len(in.data)))
			for b.Loop() {
				splitWithLibrary(c, buf, in.data)
			}
		})
	}
}
