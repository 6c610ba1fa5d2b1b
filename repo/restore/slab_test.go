package restore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// TestSpans fills slabs in random order, in units of a kilobyte.
func TestSpans(t *testing.T) {
	const unit, units = 1024, slabSize / 1024
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		var all []span
		for at := 0; at < units; {
			to := min(units, at+1+rnd.IntN(1+rnd.IntN(20)))
			all = append(all, span{at * unit, to * unit})
			at = to
		}
		rnd.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
		var sl slab
		var set [units]bool
		for n, sp := range all {
			sl.add(sp)
			for i := sp.from / unit; i < sp.to/unit; i++ {
				set[i] = true
			}
			var want []span
			for i := range set {
				if set[i] && (i == 0 || !set[i-1]) {
					want = append(want, span{from: i * unit})
				}
				if set[i] && (i == units-1 || !set[i+1]) {
					want[len(want)-1].to = (i + 1) * unit
				}
			}
			if !slices.Equal(sl.spans, want) {
				t.Fatalf("after %v there are %v, want %v", all[:n+1], sl.spans, want)
			}
		}
		if sl.filled != slabSize {
			t.Fatalf("full, and has %d bytes", sl.filled)
		}
	}
}

// shuffledRepo gives objects out in random order, from several goroutines.
type shuffledRepo struct {
	repo.Repo
	mu  sync.Mutex
	rnd *rand.Rand
}

func (s *shuffledRepo) Get(ctx context.Context, ids []pack.ID, fn func(int, pack.Type, []byte) error) error {
	bodies, types := make([][]byte, len(ids)), make([]pack.Type, len(ids))
	err := s.Repo.Get(ctx, ids, func(i int, t pack.Type, body []byte) error {
		bodies[i], types[i] = bytes.Clone(body), t
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	order := s.rnd.Perm(len(ids))
	s.mu.Unlock()
	const workers = 4
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for k := w; k < len(order); k += workers {
				if err := fn(order[k], types[order[k]], bodies[order[k]]); err != nil {
					errs[w] = err
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// manySlabs are chunked files of all kinds of sizes, with holes in them.
func manySlabs() ([]entry, map[string]string) {
	rnd := rand.New(rand.NewPCG(7, 8))
	var kids []entry
	want := make(map[string]string)
	for i := range 12 {
		var chunks []string
		for range 2 + rnd.IntN(40) {
			n := 1 + rnd.IntN(40_000)
			switch rnd.IntN(10) {
			case 0:
				chunks = append(chunks, strings.Repeat("\x00", n))
			case 1:
				chunks = append(chunks, randomBytes(rnd, n+rnd.IntN(700_000))) // fills slabs alone
			default:
				chunks = append(chunks, randomBytes(rnd, n))
			}
		}
		name := fmt.Sprint(i)
		kids = append(kids, entry{name: name, chunks: chunks})
		want[name] = strings.Join(chunks, "")
	}
	return kids, want
}

// runWith restores with a bound on the slabs, and looks that all come back.
func runWith(t *testing.T, o Options, most int) (Result, []string) {
	t.Helper()
	var warned []string
	o.Warn = func(path string, err error) { warned = append(warned, path) }
	r, err := newRun(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	r.slabs.most = most
	res, err := r.restore()
	if err != nil {
		t.Fatal(err)
	}
	s := &r.slabs
	if len(s.open) > 0 || len(s.free) != s.made || s.made > most {
		t.Errorf("%d slabs are open, %d free, of %d", len(s.open), len(s.free), s.made)
	}
	for _, sl := range s.free {
		if sl.f != nil || len(sl.spans) > 0 || sl.filled > 0 || sl.busy > 0 || len(sl.proofs) > 0 {
			t.Errorf("a free slab is %+v", sl.slabPlace)
		}
	}
	slices.Sort(warned)
	return res, warned
}

// TestSlabs restores chunks that come in any order, with few slabs and many.
func TestSlabs(t *testing.T) {
	kids, want := manySlabs()
	r := &shuffledRepo{Repo: saved(t, kids...), rnd: rand.New(rand.NewPCG(1, 1))}
	for _, most := range []int{1, 3, 8, maxSlabs} {
		for _, o := range []Options{{}, {Sparse: true}, {Verify: true}, {Sparse: true, Verify: true}} {
			o.Repo, o.Out, o.Paths = r, scratch(t), []string{"s/latest/"}
			res, warned := runWith(t, o, most)
			if res.Files != int64(len(want)) || len(warned) > 0 {
				t.Errorf("%+v, warned of %q", res, warned)
			}
			for name, body := range want {
				if content(t, filepath.Join(o.Out, name)) != body {
					t.Errorf("%d slabs, sparse %v, verify %v: %s has other content", most, o.Sparse, o.Verify, name)
				}
			}
		}
	}
}

// TestSlabsOfFailed: files that fail give their slabs back and get no name; the
// others are whole.
func TestSlabsOfFailed(t *testing.T) {
	kids, want := manySlabs()
	s := newSaver(t)
	s.save("s", kids...)
	repo := s.done()
	bad := make(map[pack.ID]error)
	var lost []string
	for i, e := range kids {
		if i%3 == 0 {
			id := pack.Sum(pack.Blob, []byte(e.chunks[len(e.chunks)/2]))
			bad[id] = corrupt(id)
			lost = append(lost, "/"+e.name)
			delete(want, e.name)
		}
	}
	slices.Sort(lost)
	r := &brokenRepo{Repo: &shuffledRepo{Repo: repo, rnd: rand.New(rand.NewPCG(1, 1))}, bad: bad}
	out := scratch(t)
	_, warned := runWith(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/"}}, 5)
	if !slices.Equal(warned, lost) {
		t.Errorf("warned of %q, want %q", warned, lost)
	}
	there := snapshot(t, out)
	if delete(there, "."); len(there) != len(want) {
		t.Errorf("there are %d files, want %d", len(there), len(want))
	}
	for name, body := range want {
		if content(t, filepath.Join(out, name)) != body {
			t.Errorf("%s has other content", name)
		}
	}
}

// TestReadBack: with Verify, a chunk is compared with its id when all of it was
// written, also if it is in two slabs; a wrong one fails its file.
func TestReadBack(t *testing.T) {
	for _, c := range []struct {
		name  string
		off   int64
		size  int
		spoil int64 // the slab that gets a wrong byte, -1: none
	}{
		{"right", slabSize - 50, 100, -1},
		{"in one slab", 1000, 100, 0},
		{"in the first of two", slabSize - 50, 100, 0},
		{"in the second of two", slabSize - 50, 100, 1},
		{"beside whole slabs", 5, 3*slabSize + 1, 3},
	} {
		var warned []error
		r, err := newRun(context.Background(), Options{Verify: true, Warn: func(_ string, err error) { warned = append(warned, err) }})
		if err != nil {
			t.Fatal(err)
		}
		dir, err := fsx.OpenDir(scratch(t))
		if err != nil {
			t.Fatal(err)
		}
		f := &file{item: item{f: &folder{root: &root{}, dir: dir}, name: "f", mode: 0o100644}, chunked: true}
		f.left.Store(2)
		f.holds.Store(1)
		body := []byte(randomBytes(rand.New(rand.NewPCG(1, 1)), c.size))
		f.chunk(r, pack.Sum(pack.Blob, body), read{f, c.off, int64(c.size)}, body)
		if c.spoil >= 0 {
			sl := r.slabs.open[slabPlace{f, c.spoil}]
			sl.buf[sl.spans[0].from] ^= 1
		}
		f.release(r)
		if _, err := dir.Lstat("f"); (err == nil) != (c.spoil < 0) || (len(warned) == 0) != (c.spoil < 0) {
			t.Errorf("%s: named: %v, warned %v", c.name, err == nil, warned)
		}
		if len(warned) > 0 && !strings.Contains(warned[0].Error(), "reads back differently") {
			t.Errorf("%s: %v", c.name, warned[0])
		}
		r.close()
		dir.Close()
	}
}

// TestFarChunk: a chunk that would end behind what a file can hold is refused.
func TestFarChunk(t *testing.T) {
	var warned []error
	r, err := newRun(context.Background(), Options{Verify: true, Warn: func(_ string, err error) { warned = append(warned, err) }})
	if err != nil {
		t.Fatal(err)
	}
	f := &file{item: item{f: &folder{root: &root{path: "s"}}, name: "f"}, chunked: true}
	f.left.Store(1)
	f.holds.Store(1)
	f.chunk(r, pack.Sum(pack.Blob, []byte("abc")), read{f, 1<<63 - 3, -1}, []byte("abc"))
	if len(warned) != 1 || !damage(warned[0]) {
		t.Errorf("warned %v", warned)
	}
}
