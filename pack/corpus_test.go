package pack

import (
	"flag"
	"go/build"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// With -corpus=FILE:… the compressor is measured on chunks of these files, too.
var corpusFlag = flag.String("corpus", "", "list of files to measure deflate on")

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
