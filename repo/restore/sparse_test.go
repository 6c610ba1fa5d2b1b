package restore

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func blocks(t testing.TB, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestSparse(t *testing.T) {
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	data := func(n int) string { return strings.Repeat("x", n) }
	files := map[string][]string{
		"whole":     {data(100) + zeros(60_000) + data(100)},
		"chunks":    {data(5000), zeros(65536), zeros(65536), zeros(65536), data(10), zeros(9000)},
		"zeros":     {zeros(65536), zeros(65536), zeros(100)},
		"one hole":  {zeros(50_000)},
		"no hole":   {data(4000) + zeros(4096) + data(4000)},
		"unaligned": {data(1), zeros(4096), data(4095), zeros(8191), data(1)},
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range 20 {
		var chunks []string
		for range 1 + rnd.IntN(5) {
			if rnd.IntN(2) == 0 {
				chunks = append(chunks, zeros(1+rnd.IntN(20_000)))
			} else {
				chunks = append(chunks, data(rnd.IntN(3000))+zeros(1+rnd.IntN(10_000))+data(rnd.IntN(3000)))
			}
		}
		files[fmt.Sprint(i)] = chunks
	}
	var kids []entry
	for name, chunks := range files {
		if len(chunks) == 1 {
			kids = append(kids, file1(name, chunks[0]))
		} else {
			kids = append(kids, entry{name: name, chunks: chunks})
		}
	}
	r := saved(t, kids...)
	for _, verify := range []bool{false, true} {
		for _, sparse := range []bool{true, false} {
			out := scratch(t)
			o := Options{Repo: r, Out: out, Paths: []string{"s/latest/."}, Sparse: sparse, Verify: verify}
			res, e := restored(t, o)
			clean(t, res, e)
			for name, chunks := range files {
				if content(t, filepath.Join(out, name)) != strings.Join(chunks, "") {
					t.Errorf("sparse %v: %s has other content", sparse, name)
				}
			}
			for name, most := range map[string]int64{"whole": 12288, "chunks": 3 * 4096, "zeros": 0, "one hole": 0} {
				if got := blocks(t, filepath.Join(out, name)); sparse && got > most {
					t.Errorf("%s takes %d bytes, not %d", name, got, most)
				} else if !sparse && got < 32768 {
					t.Errorf("%s has holes", name)
				}
			}
			if again, e := restored(t, o); again.Files != 0 {
				t.Errorf("again: %+v %q", again, e.seen)
			}
		}
	}
}

// TestHugeHole restores 64 GiB, most of which is not there: the same chunk
// is asked for once.
func TestHugeHole(t *testing.T) {
	if testing.Short() {
		t.Skip("walks many chunks")
	}
	const chunk, n = 1 << 20, 64 << 10 // 64 GiB
	zero := strings.Repeat("\x00", chunk)
	chunks := make([]string, 0, n+2)
	chunks = append(chunks, "begin"+zero[:chunk-5])
	for range n {
		chunks = append(chunks, zero)
	}
	chunks = append(chunks, "end")
	r := saved(t, entry{name: "huge", chunks: chunks})
	out := scratch(t)
	b := broken(t, r)
	res, e := restored(t, Options{Repo: b, Out: out, Paths: []string{"s/latest/huge"}, Sparse: true})
	clean(t, res, e)
	path := filepath.Join(out, "huge")
	fi, err := os.Stat(path)
	if err != nil || fi.Size() != chunk*(n+1)+3 {
		t.Fatalf("size %d, error %v", fi.Size(), err)
	}
	if got := blocks(t, path); got > 64<<10 {
		t.Errorf("takes %d bytes", got)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tail := make([]byte, 10)
	if _, err := f.ReadAt(tail, fi.Size()-10); err != nil || string(tail) != "\x00\x00\x00\x00\x00\x00\x00end" {
		t.Errorf("ends in %q, error %v", tail, err)
	}
}
