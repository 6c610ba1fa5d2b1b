package save

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/kedgebackup/kedge/chunk"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Files of every size around the bounds of batches and chunks, behind one
// another in one batch, are cut as if each were alone.
func TestBatchBounds(t *testing.T) {
	for _, chunker := range []string{"rabin:13", "gear:10", "rollsum:13"} {
		t.Run(chunker, func(t *testing.T) {
			b := newBench(t, chunker)
			s, err := chunk.Parse(chunker)
			must(t, err)
			_, batch := flight(runtime.GOMAXPROCS(0), s)
			sizes := []int{0, 1, 2, 63, 64, 65}
			for _, at := range []int{4096, s.Min(), s.Max(), s.Max() + s.Min(), batch / 2, batch - 4096, batch, batch + s.Max(), 2 * batch} {
				sizes = append(sizes, at-1, at, at+1)
			}
			for i, n := range sizes {
				b.write(fmt.Sprintf("%03d-%d", i, n), noise(i, n))
			}
			res := b.fresh()
			all := part(b.tree(res.Tree), b.src)
			for i, n := range sizes {
				data := noise(i, n)
				got := all[fmt.Sprintf("%03d-%d", i, n)]
				if got.data != string(data) || got.id != fileID(t, s, data) {
					t.Errorf("%d bytes: %d came back as %v", n, len(got.data), got.id)
				}
			}
		})
	}
}

// fileID computes what a file is stored as, all at once.
func fileID(t *testing.T, s *chunk.Splitter, data []byte) pack.ID {
	t.Helper()
	tree := repo.ChunkTree{Emit: func(body []byte) (pack.ID, error) { return pack.Sum(pack.Tree, body), nil }}
	from := 0
	for _, c := range s.Split(nil, data, true) {
		must(t, tree.Add(pack.Sum(pack.Blob, data[from:c.End]), int64(c.End-from), c.Level))
		from = c.End
	}
	e, ok, err := tree.Finish()
	must(t, err)
	if !ok {
		return pack.Sum(pack.Blob, nil)
	}
	return e.ID
}

// The memory of a save does not depend on the number of processors, and only
// for the largest chunkers on the chunker; there is always room to go on.
func TestFlight(t *testing.T) {
	for _, chunker := range []string{"rabin:10", "rabin:13", "gear:16", "rabin:20", "rollsum:21"} {
		s, err := chunk.Parse(chunker)
		must(t, err)
		for _, workers := range []int{1, 2, 3, 8, 64, 1000} {
			n, size := flight(workers, s)
			if n < 3 || size < s.Max()+s.Min()+4096 {
				t.Errorf("%s, %d workers: %d batches of %d", chunker, workers, n, size)
			}
			if total := n * size; total > 72<<20 {
				t.Errorf("%s, %d workers: %d batches of %d are %d", chunker, workers, n, size, total)
			}
		}
	}
}

// A chunk that several batches in flight hold counts once.
func TestRecent(t *testing.T) {
	r := recent{flight: 3}
	id := func(i int) pack.Entry { return pack.Entry{ID: pack.Sum(pack.Blob, []byte{byte(i)})} }
	var got []int64
	for _, b := range []batch{
		{entries: []pack.Entry{id(1), id(2), id(1)}, sizes: []int{1, 10, 1}},
		{entries: []pack.Entry{id(2), id(3)}, sizes: []int{10, 100}},
		{},
		{entries: []pack.Entry{id(1), id(4)}, sizes: []int{1, 1000}},
	} {
		got = append(got, r.count(&b))
	}
	if want := []int64{11, 100, 0, 1000}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("new bytes %v, want %v", got, want)
	}
	if len(r.ids[0])+len(r.ids[1]) > 4 {
		t.Error("what is long through is remembered")
	}
}
