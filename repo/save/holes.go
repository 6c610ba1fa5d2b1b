package save

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// holeMin is the size from which holes are looked for: below, reading zeros is
// cheaper than asking where they are.
const holeMin = 1 << 18

// Extents is a stream that is a file: what knows where its holes are need not read them. An
// fsx.Source is one.
type Extents interface {
	io.Reader
	io.ReaderAt
	Stat() (fsx.Stat, error)
	NextData(off int64) (data, hole int64, err error)
}

// image reads a stream that is a file, all of it or it fails.
func (f *feeder) image(ctx context.Context, src Extents) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	n, err := f.contents(ctx, src, st)
	if err == nil && n != st.Size {
		err = fmt.Errorf("it was cut short while it was read, from %d bytes to %d", st.Size, n)
	}
	return err
}

// sparse reads the extents that hold data and jumps over the holes, up to size
// or to where the file ends now.
func (f *feeder) sparse(ctx context.Context, src Extents, size int64) (int64, error) {
	pos := int64(0)
	for pos < size {
		data, hole, err := src.NextData(pos)
		if err != nil {
			return pos, err
		}
		if hole <= pos {
			break // the file was cut short
		}
		data, hole = min(max(data, pos), size), min(hole, size)
		if err := f.zeros(ctx, data-pos); err != nil {
			return data, err
		}
		n, err := f.extent(ctx, src, data, hole)
		pos = data + n
		if err != nil {
			return pos, err
		}
		if pos < hole {
			break
		}
	}
	f.cut(true)
	return pos, nil
}

// zeros feeds n bytes of zeros. Once the chunk being collected is nothing but
// zeros the splitter would cut the largest size from them again and again: that
// many chunks are told of in one item. Enough zeros are left over to be cut the
// ordinary way, so that the end of the run comes out as the definition has it.
func (f *feeder) zeros(ctx context.Context, n int64) error {
	step, rest := int64(f.split.Max()), int64(f.split.Max()+f.split.Min())
	f.on.read(0, n)
	for n > 0 {
		tail := f.b.buf[f.start:]
		if total := int64(len(tail)) + n; total-rest >= step && allZero(tail) {
			k := (total - rest) / step
			f.b.buf = f.b.buf[:f.start]
			n = total - k*step
			if err := f.put(ctx, item{kind: zeroItem, n: k}); err != nil {
				return err
			}
		}
		room, err := f.room(ctx)
		if err != nil {
			return err
		}
		room = room[:min(int64(len(room)), n, rest)]
		clear(room)
		f.b.buf = f.b.buf[:len(f.b.buf)+len(room)]
		n -= int64(len(room))
		f.cut(false)
	}
	return nil
}

// zeroRun is the size of reads from which a stream is looked at for runs of zeros: a device, or
// an image that comes through a pipe, cannot tell where it has holes.
const zeroRun = 16 << 10

// zeroPage is what runs of zeros are compared with.
var zeroPage [4096]byte

// allZero reports whether there is nothing but zeros in b. Data are told in the first bytes, so
// that it costs nothing to look.
func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroPage))
		if !bytes.Equal(b[:n], zeroPage[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
