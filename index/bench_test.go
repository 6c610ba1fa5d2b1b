package index

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// benchTree is a tree to walk: $KEDGE_BENCH_TREE, else 20,000 files made for it.
func benchTree(b *testing.B) string {
	if dir := os.Getenv("KEDGE_BENCH_TREE"); dir != "" {
		return dir
	}
	dir := b.TempDir()
	for i := range 200 {
		sub := filepath.Join(dir, "some", "directories", string(rune('a'+i%20)), "sub"+string(rune('a'+i/20)))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			name := filepath.Join(sub, "a file of some length "+string(rune('0'+j/10))+string(rune('0'+j%10)))
			if err := os.WriteFile(name, nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	return dir
}

func report(b *testing.B, paths uint64) {
	b.ReportMetric(float64(paths)*float64(b.N)/b.Elapsed().Seconds(), "paths/s")
}

func BenchmarkUpdate(b *testing.B) {
	o := Options{FS: &fsx.FS{}, Roots: []string{benchTree(b)}}
	run := func(b *testing.B) Result {
		res, err := Update(context.Background(), o)
		if err != nil {
			b.Fatal(err)
		}
		return res
	}
	b.Run("new", func(b *testing.B) {
		o.File = filepath.Join(b.TempDir(), "index")
		var res Result
		for b.Loop() {
			os.Remove(o.File)
			res = run(b)
		}
		info, _ := os.Stat(o.File)
		b.ReportMetric(float64(info.Size())/float64(res.Paths), "B/path")
		report(b, res.Paths)
	})
	b.Run("unchanged", func(b *testing.B) {
		o.File = filepath.Join(b.TempDir(), "index")
		run(b)
		var res Result
		for b.Loop() {
			if res = run(b); res.Rewritten {
				b.Fatal("rewritten without need")
			}
		}
		report(b, res.Paths)
	})
}

func BenchmarkIterate(b *testing.B) {
	name := filepath.Join(b.TempDir(), "index")
	if _, err := Update(context.Background(), Options{FS: &fsx.FS{}, File: name, Roots: []string{benchTree(b)}, FakeValid: true}); err != nil {
		b.Fatal(err)
	}
	f, err := Open(&fsx.FS{}, name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.ReportAllocs()
	for b.Loop() {
		it := f.Records("/")
		for it.Next() {
		}
		if it.Err() != nil {
			b.Fatal(it.Err())
		}
	}
	report(b, f.Len())
	info, _ := os.Stat(name)
	b.ReportMetric(float64(info.Size())/float64(f.Len()), "B/path")
}
