package save

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// An extent is a part of a file that holds data.
type extent struct{ off, n int64 }

// writeExtents writes a file of a size. sparse leaves holes between the extents,
// otherwise there are zeros.
func (b *bench) writeExtents(name string, size int64, extents []extent, sparse bool) {
	b.t.Helper()
	name = b.write(name, nil)
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	must(b.t, err)
	defer f.Close()
	if !sparse {
		zeros := make([]byte, 1<<20)
		for off := int64(0); off < size; off += int64(len(zeros)) {
			_, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off)
			must(b.t, err)
		}
	}
	for i, e := range extents {
		_, err := f.WriteAt(noise(i, int(e.n)), e.off)
		must(b.t, err)
	}
	must(b.t, f.Truncate(size))
}

// A file with holes and the same file with zeros in their place are the same
// object, wherever the holes begin and end.
func TestHoles(t *testing.T) {
	type file struct {
		size    int64
		extents []extent
	}
	const block, k, m = 4096, 1 << 10, 1 << 20
	files := []file{
		{size: m},
		{size: 10*m + 1},
		{size: 3 * m, extents: []extent{{0, 1}}},
		{size: 3 * m, extents: []extent{{3*m - 1, 1}}},
		{size: 3 * m, extents: []extent{{m, m}}},
		{size: 3 * m, extents: []extent{{0, m}, {2 * m, m}}},
		{size: 300 * k, extents: []extent{{0, 70 * k}}},
		{size: m + 17, extents: []extent{{block, 5}, {500 * k, 40 * k}}},
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 24 {
		f := file{size: holeMin + r.Int64N(6*m)}
		for off := r.Int64N(m); off < f.size; off += r.Int64N(1 << (8 + r.IntN(14))) {
			e := extent{off, 1 + r.Int64N(1<<r.IntN(18))}
			e.n = min(e.n, f.size-off)
			f.extents = append(f.extents, e)
			off += e.n
		}
		files = append(files, f)
	}
	for _, chunker := range []string{"rabin:13", "gear:13", "rollsum:13", "rabin:10", "gear:10", "gear:16", "rabin:20", "rollsum:15"} {
		t.Run(chunker, func(t *testing.T) {
			b := newBench(t, chunker)
			for i, f := range files {
				b.writeExtents(fmt.Sprint("sparse/", i), f.size, f.extents, true)
				b.writeExtents(fmt.Sprint("full/", i), f.size, f.extents, false)
			}
			res := b.fresh()
			all := part(b.tree(res.Tree), b.src)
			jumped := 0
			for i, f := range files {
				a, z := all[fmt.Sprint("sparse/", i)], all[fmt.Sprint("full/", i)]
				if a.id != z.id || a.data != z.data || int64(len(a.data)) != f.size || a.meta.Size != f.size {
					t.Errorf("size %d, data at %v: %v with holes, %v with zeros", f.size, f.extents, a.id, z.id)
				}
				if holes(t, path.Join(b.src, "sparse", fmt.Sprint(i))) {
					jumped++
				}
			}
			if jumped == 0 {
				t.Skip("the file system makes no holes")
			}
			if res.BytesNew > res.BytesRead/2+m {
				t.Errorf("%d of %d bytes are new", res.BytesNew, res.BytesRead)
			}
		})
	}
}

func holes(t *testing.T, name string) bool {
	t.Helper()
	d, err := fsx.OpenDir(path.Dir(name))
	must(t, err)
	defer d.Close()
	st, err := d.Lstat(path.Base(name))
	must(t, err)
	return st.Blocks*512 < st.Size && st.Size >= holeMin
}

// A terabyte of holes costs no reading: the chunks of zeros are one object and
// so are most of the trees over them.
func TestVastHole(t *testing.T) {
	const size = 1 << 40
	b := newBench(t, "rabin:13")
	name := b.write("vast", []byte("begin"))
	if err := os.Truncate(name, size); err != nil {
		t.Skip(err)
	}
	res := b.fresh()
	if res.BytesRead != size || res.BytesNew > 200_000 || res.BytesStored > 1<<20 {
		t.Errorf("%+v", res)
	}
	if res.Bytes != size {
		t.Errorf("the save holds %d bytes", res.Bytes)
	}
}

// drive runs the pipeline with a feeder of the test's own.
func (b *bench) drive(feed func(f *feeder, ctx context.Context) error) (*run, error) {
	b.t.Helper()
	o := b.options()
	o.Roots, o.Streams = nil, []Stream{text("/never/opened", "")}
	r := &run{o: &o, on: &callbacks{o: &o}, found: &survey{}}
	ctx := context.Background()
	must(b.t, r.prepare(ctx))
	var err error
	r.sess, err = b.repo.Begin(ctx)
	must(b.t, err)
	b.t.Cleanup(func() { r.sess.Close() })
	r.sink = r.newSink()
	err = r.pump(ctx, func(f *feeder, ctx context.Context) error {
		defer close(f.line)
		defer close(f.work)
		if err := f.next(ctx); err != nil {
			return err
		}
		if err := feed(f, ctx); err != nil {
			return err
		}
		return f.send(ctx)
	})
	r.sink.begin(ctx, 0)
	if err == nil {
		r.res.Tree, err = r.sink.buildTop()
	}
	if err == nil {
		err = r.sink.store.flush()
	}
	if err == nil {
		err = r.sess.Commit(ctx)
	}
	noneLeft(b.t)
	return r, err
}

// A file that is cut short while its holes are skipped ends where it ends now.
func TestHolesCutShort(t *testing.T) {
	const m = 1 << 20
	for _, c := range []struct {
		now     int64
		extents []extent
	}{
		{now: 0}, {now: 3 * m}, {now: 3*m + 1}, {now: 5*m + 100, extents: []extent{{5 * m, 100}}},
		{now: 4 * m, extents: []extent{{0, 10}, {m, m}}},
	} {
		b := newBench(t, "rabin:13")
		b.writeExtents("f", c.now, c.extents, true)
		d, err := fsx.OpenDir(b.src)
		must(t, err)
		defer d.Close()
		src, _, err := d.OpenFile("f")
		must(t, err)
		defer src.Close()
		r, err := b.drive(func(f *feeder, ctx context.Context) error {
			n, err := f.sparse(ctx, src, 10*m) // what it had when it was opened
			if n != c.now {
				t.Errorf("%+v: read %d bytes", c, n)
			}
			if err != nil {
				return err
			}
			return f.put(ctx, item{kind: flowItem, stream: "/f"})
		})
		must(t, err)
		got := b.tree(r.res.Tree)["f"].data
		if want, err := os.ReadFile(b.src + "/f"); err != nil || got != string(want) {
			t.Errorf("%+v: %d bytes came back", c, len(got))
		}
	}
}

// The zero chunk is the object that the worker would have made.
func TestZeroChunk(t *testing.T) {
	b := newBench(t, "gear:10")
	r, err := b.drive(func(f *feeder, ctx context.Context) error {
		if err := f.zeros(ctx, 100_000); err != nil {
			return err
		}
		f.cut(true)
		return f.put(ctx, item{kind: flowItem, stream: "/f"})
	})
	must(t, err)
	if id := pack.Sum(pack.Blob, make([]byte, 8192)); r.sink.zero != id {
		t.Errorf("the chunk of zeros is %v", id)
	}
	if got := b.tree(r.res.Tree)["f"].data; got != string(make([]byte, 100_000)) {
		t.Errorf("%d bytes came back", len(got))
	}
}
