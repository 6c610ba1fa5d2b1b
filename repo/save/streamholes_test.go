package save

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// pieces reads a file in pieces of any size.
type pieces struct {
	*os.File
	r *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) {
	return p.File.Read(b[:min(len(b), 1+p.r.IntN(1<<(1+p.r.IntN(20))))])
}

// An image is the same object whether it is a file of the tree, a stream that knows its holes,
// or one that is read in pieces of any size.
func TestHolesInStreams(t *testing.T) {
	const k, m = 1 << 10, 1 << 20
	for _, chunker := range []string{"rabin:13", "gear:16", "rollsum:13"} {
		b := newBench(t, chunker)
		r := rand.New(rand.NewPCG(3, 4))
		sizes := []int64{0, 1, 100 * k, 5 * m, 5*m + 1, 9 * m, 3 * m}
		o := b.options()
		for i, size := range sizes {
			var extents []extent
			for off := r.Int64N(m); off < size; off += r.Int64N(2 * m) {
				n := min(1+r.Int64N(200*k), size-off)
				extents = append(extents, extent{off, n})
				off += n
			}
			b.writeExtents(fmt.Sprint("f", i), size, extents, true)
			name := filepath.Join(b.src, fmt.Sprint("f", i))
			o.Streams = append(o.Streams,
				Stream{Path: fmt.Sprint("/extents/", i), Open: func(context.Context) (io.ReadCloser, error) { return imageSource(name) }},
				Stream{Path: fmt.Sprint("/pieces/", i), Open: func(context.Context) (io.ReadCloser, error) {
					f, err := os.Open(name)
					return &pieces{f, r}, err
				}})
		}
		b.update()
		res := b.save(o)
		all := b.tree(res.Tree)
		for i, size := range sizes {
			var file, extents, pieces *saved
			for name, s := range all {
				switch {
				case strings.HasSuffix(name, fmt.Sprint("/f", i)):
					file = &s
				case strings.HasSuffix(name, fmt.Sprint("extents/", i)):
					extents = &s
				case strings.HasSuffix(name, fmt.Sprint("pieces/", i)):
					pieces = &s
				}
			}
			if file == nil || extents == nil || pieces == nil {
				t.Fatalf("%s: %d is not in the save", chunker, i)
			}
			if int64(len(file.data)) != size || extents.id != file.id || pieces.id != file.id {
				t.Errorf("%s: size %d: file %v, extents %v, pieces %v", chunker, size, file.id, extents.id, pieces.id)
			}
		}
	}
}

func imageSource(name string) (*fsx.Source, error) {
	d, err := fsx.OpenDir(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	src, _, err := d.OpenFile(filepath.Base(name))
	return src, err
}

// shrinking is an image that is cut short while it is read.
type shrinking struct {
	*fsx.Source
	name string
}

func (s *shrinking) ReadAt(b []byte, off int64) (int, error) {
	if err := os.Truncate(s.name, 300<<10); err != nil {
		return 0, err
	}
	return s.Source.ReadAt(b, off)
}

// A stream that became shorter than it was is no stream, and its name gets no save.
func TestStreamCutShort(t *testing.T) {
	b := newBench(t, "rabin:13")
	for _, sparse := range []bool{true, false} {
		b.writeExtents("img", 2<<20, []extent{{0, 400 << 10}, {1 << 20, 100 << 10}}, sparse)
		name := filepath.Join(b.src, "img")
		o := b.options()
		o.Roots = nil
		o.Streams = []Stream{{Path: "/img", Open: func(context.Context) (io.ReadCloser, error) {
			src, err := imageSource(name)
			return &shrinking{src, name}, err
		}}}
		if res, err := b.try(o); err == nil || !strings.Contains(err.Error(), "it was cut short while it was read") {
			t.Errorf("sparse %v: %+v, %v", sparse, res, err)
		}
	}
}
