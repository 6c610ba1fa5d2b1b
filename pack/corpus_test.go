package pack

import (
	"bytes"
	"flag"
	"fmt"
	"go/build"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zlib"
)

// With -corpus=FILE:… deflate and inflate are measured on chunks of these files, too.
var corpusFlag = flag.String("corpus", "", "list of files to measure deflate and inflate on")

// corpora returns chunks of 10 KiB of several contents.
func corpora(t testing.TB) map[string][][]byte {
	t.Helper()
	const most = 8 << 20
	all := map[string][]byte{"text": sqlText(2 << 20)}
	// A few packages of the standard library, if it is there.
	for _, dir := range []string{"net/http", "go/types", "runtime", "math/big"} {
		files, err := filepath.Glob(filepath.Join(build.Default.GOROOT, "src", dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil {
				all["source"] = append(all["source"], b...)
			}
		}
	}
	for _, f := range filepath.SplitList(*corpusFlag) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(f)] = b
	}
	sets := map[string][][]byte{}
	for name, b := range all {
		for b = b[:min(len(b), most)]; len(b) >= 10<<10; b = b[10<<10:] {
			sets[name] = append(sets[name], b[:10<<10])
		}
	}
	return sets
}

// contest holds the least times of two contestants for each of a number of chunks.
// It is what a chunk takes when nothing else happens; it comes again only after
// all others, so no processor remembers it.
type contest struct {
	least [][2]time.Duration
	size  int // of a chunk
}

func newContest(chunks, size int) *contest {
	c := &contest{make([][2]time.Duration, chunks), size}
	for i := range c.least {
		c.least[i] = [2]time.Duration{time.Hour, time.Hour}
	}
	return c
}

// run lets a contestant have chunk i.
func (c *contest) run(who, i int, f func()) {
	start := time.Now()
	f()
	c.least[i][who] = min(c.least[i][who], time.Since(start))
}

// report tells of the first contestant, ours, beside the second, the library.
func (c *contest) report(b *testing.B) {
	var took [2]time.Duration
	n := 0.0
	for _, t := range c.least {
		if t[1] < time.Hour {
			took[0] += t[0]
			took[1] += t[1]
			n += float64(c.size)
		}
	}
	b.ReportMetric(n/float64(took[0].Nanoseconds())*1e3, "ours-MB/s")
	b.ReportMetric(n/float64(took[1].Nanoseconds())*1e3, "library-MB/s")
	b.ReportMetric(float64(took[1])/float64(took[0]), "times-faster")
}

// BenchmarkDeflate compresses chunks with both compressors in turn, so that
// whatever else the machine does hits both, and reports how many times faster
// ours is, and how large its output, as a part of the library's.
func BenchmarkDeflate(b *testing.B) {
	for name, chunks := range corpora(b) {
		b.Run(name, func(b *testing.B) {
			both := [2]deflater{newDeflater(1), {lib: newLibrary(1)}}
			c := newContest(len(chunks), 10<<10)
			var size [2]int
			buf := make([]byte, 0, EncodedLimit(10<<10))
			b.SetBytes(10 << 10)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				for k := range both {
					k ^= i & 1
					c.run(k, i%len(chunks), func() { size[k] += len(both[k].append(buf, chunks[i%len(chunks)])) })
				}
			}
			c.report(b)
			b.ReportMetric(float64(size[0])/float64(size[1]), "size-ratio")
		})
	}
}

// zlibStreams returns chunks as an encoder packs them.
func zlibStreams(d *deflater, chunks [][]byte) [][]byte {
	var streams [][]byte
	for _, c := range chunks {
		streams = append(streams, d.append(make([]byte, 0, EncodedLimit(len(c))), c))
	}
	return streams
}

// BenchmarkInflate unpacks chunks that our encoder and the library packed, with
// our inflater and the library's in turn.
func BenchmarkInflate(b *testing.B) {
	for name, chunks := range corpora(b) {
		for _, from := range []struct {
			name string
			d    deflater
		}{{"ours", newDeflater(1)}, {"library1", deflater{lib: newLibrary(1)}}, {"library6", deflater{lib: newLibrary(6)}}} {
			b.Run(name+"/"+from.name, func(b *testing.B) {
				streams := zlibStreams(&from.d, chunks)
				c := newContest(len(streams), len(chunks[0]))
				var z inflater
				lib, err := zlib.NewReader(bytes.NewReader(streams[0]))
				if err != nil {
					b.Fatal(err)
				}
				in, dst := new(bytes.Reader), make([]byte, len(chunks[0]))
				b.SetBytes(int64(len(dst)))
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					k := i % len(streams)
					c.run(0, k, func() { _, err = z.run(dst, streams[k]) })
					if err != nil {
						b.Fatal(err)
					}
					c.run(1, k, func() { err = libraryInflate(lib, in, dst, streams[k]) })
					if err != nil {
						b.Fatal(err)
					}
				}
				c.report(b)
			})
		}
	}
}

// libraryInflate unpacks a stream with the library, its checksum included.
func libraryInflate(lib io.Reader, in *bytes.Reader, dst, stream []byte) error {
	in.Reset(stream)
	if err := lib.(zlib.Resetter).Reset(in, nil); err != nil {
		return err
	}
	if _, err := io.ReadFull(lib, dst); err != nil {
		return err
	}
	if _, err := lib.Read(dst[:1]); err != io.EOF { // it compares the sum here
		return fmt.Errorf("at the end of the stream: %w", err)
	}
	return nil
}
