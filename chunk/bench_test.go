package chunk

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

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

// BenchmarkResticChunker is the library on the same data.
func BenchmarkResticChunker(b *testing.B) {
	c := chunker.New(nil, polynomial)
	buf := make([]byte, 64<<10)
	for _, in := range benchInputs() {
		b.Run(in.name, func(b *testing.B) {
			b.SetBytes(int64(len(in.data)))
			for b.Loop() {
				c.ResetWithBoundaries(bytes.NewReader(in.data), polynomial, 2<<10, 64<<10)
				c.SetAverageBits(13)
				for {
					if _, err := c.Next(buf); err == io.EOF {
						break
					}
				}
			}
		})
	}
}
