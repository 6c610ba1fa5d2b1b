package save

import (
	"context"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// holeMin is the size from which holes are looked for: below, reading zeros is
// cheaper than asking where they are.
const holeMin = 1 << 18

// sparse reads the extents that hold data and jumps over the holes, up to size
// or to where the file ends now.
func (f *feeder) sparse(ctx context.Context, src *fsx.Source, size int64) (int64, error) {
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

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
