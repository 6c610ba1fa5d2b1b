package restore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/repo"
)

// benchBase is where benchmarks write: KEDGE_BENCH_DIR, or a temporary directory.
func benchBase(b *testing.B) string {
	if dir := os.Getenv("KEDGE_BENCH_DIR"); dir != "" {
		dir, err := os.MkdirTemp(dir, "restore-")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	return b.TempDir()
}

func benchRun(b *testing.B, r repo.Repo) {
	base := benchBase(b)
	b.ResetTimer()
	var res Result
	var spent time.Duration
	for i := 0; b.Loop(); i++ {
		out := filepath.Join(base, fmt.Sprint(i))
		var err error
		start := time.Now()
		if res, err = Run(context.Background(), Options{Repo: r, Out: out, Paths: []string{"s/latest/."}}); err != nil || res.Errors > 0 {
			b.Fatal(res, err)
		}
		spent += time.Since(start)
		b.StopTimer()
		os.RemoveAll(out)
		b.StartTimer()
	}
	b.ReportMetric(float64(res.Files)*float64(b.N)/spent.Seconds(), "files/s")
	b.ReportMetric(float64(res.Bytes)*float64(b.N)/1e6/spent.Seconds(), "MB/s")
}

func randomBytes(rnd *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return string(b)
}

// textBytes is a line of a dump, over and over: it deflates to a third or so.
func textBytes(rnd *rand.Rand, n int) string {
	var b []byte
	for len(b) < n {
		b = fmt.Appendf(b, "INSERT INTO `orders` VALUES (%d,'%08x',%d.%02d,'2024-0%d-1%d');\n", rnd.IntN(1e7), rnd.Uint32(), rnd.IntN(1000), rnd.IntN(100), 1+rnd.IntN(9), rnd.IntN(10))
	}
	return string(b[:n])
}

// BenchmarkSmallFiles restores files of 1 KB.
func BenchmarkSmallFiles(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var top []entry
	for d := range 200 {
		var kids []entry
		for f := range 250 {
			kids = append(kids, file1(fmt.Sprintf("file%04d", f), textBytes(rnd, 1000)))
		}
		top = append(top, dir(fmt.Sprintf("dir%03d", d), kids...))
	}
	benchRun(b, saved(b, top...))
}

// BenchmarkLargeFile restores one file of 10 KiB chunks.
func BenchmarkLargeFile(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var chunks []string
	for range 20_000 {
		chunks = append(chunks, textBytes(rnd, 4096+rnd.IntN(12288)))
	}
	benchRun(b, saved(b, entry{name: "dump", chunks: chunks}))
}
