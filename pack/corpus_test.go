package pack

import (
	"bytes"
	"flag"
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

// BenchmarkDeflate compresses chunks with both compressors in turn, so that
// whatever else the machine does hits both, and reports how many times faster
// ours is, and how large its output, as a part of the library's.
func BenchmarkDeflate(b *testing.B) {
	for name, chunks := range corpora(b) {
		b.Run(name, func(b *testing.B) {
			both := [2]deflater{newDeflater(1), {lib: newLibrary(1)}}
			var took [2]time.Duration
			var size [2]int
			buf := make([]byte, 0, EncodedLimit(10<<10))
			b.SetBytes(10 << 10)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c := chunks[i%len(chunks)]
				for k := range both {
					k ^= i & 1
					start := time.Now()
					size[k] += len(both[k].append(buf, c))
					took[k] += time.Since(start)
				}
			}
			n := float64(b.N)
			b.ReportMetric(n*(10<<10)/float64(took[0].Nanoseconds())*1e3, "ours-MB/s")
			b.ReportMetric(n*(10<<10)/float64(took[1].Nanoseconds())*1e3, "library-MB/s")
			b.ReportMetric(float64(took[1])/float64(took[0]), "times-faster")
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
// our inflater and the library's in turn. Each chunk counts with the shortest
// of its times, which is what it takes when nothing else happens; it comes
// again only after all others, so no processor remembers it.
func BenchmarkInflate(b *testing.B) {
	for name, chunks := range corpora(b) {
		for _, from := range []struct {
			name string
			d    deflater
		}{{"ours", newDeflater(1)}, {"library1", deflater{lib: newLibrary(1)}}, {"library6", deflater{lib: newLibrary(6)}}} {
			b.Run(name+"/"+from.name, func(b *testing.B) {
				streams := zlibStreams(&from.d, chunks)
				least := make([][2]time.Duration, len(streams))
				for i := range least {
					least[i] = [2]time.Duration{time.Hour, time.Hour}
				}
				var z inflater
				lib, err := zlib.NewReader(bytes.NewReader(streams[0]))
				if err != nil {
					b.Fatal(err)
				}
				in, dst := new(bytes.Reader), make([]byte, len(chunks[0]))
				b.SetBytes(int64(len(dst)))
				for i := 0; b.Loop(); i++ {
					k := i % len(streams)
					start := time.Now()
					if _, err := z.run(dst, streams[k]); err != nil {
						b.Fatal(err)
					}
					least[k][0] = min(least[k][0], time.Since(start))
					start = time.Now()
					in.Reset(streams[k])
					if err := lib.(zlib.Resetter).Reset(in, nil); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(lib, dst); err != nil {
						b.Fatal(err)
					}
					if _, err := lib.Read(dst[:1]); err != io.EOF { // it checks the sum here
						b.Fatal(err)
					}
					least[k][1] = min(least[k][1], time.Since(start))
				}
				var took [2]time.Duration
				n := 0.0
				for _, t := range least {
					if t[0] < time.Hour {
						took[0] += t[0]
						took[1] += t[1]
						n += float64(len(dst))
					}
				}
				b.ReportMetric(n/float64(took[0].Nanoseconds())*1e3, "ours-MB/s")
				b.ReportMetric(n/float64(took[1].Nanoseconds())*1e3, "library-MB/s")
				b.ReportMetric(float64(took[1])/float64(took[0]), "times-faster")
			})
		}
	}
}
