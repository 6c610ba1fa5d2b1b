package save

import (
	"context"
	"errors"
	"io"
	"path"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
)

// errChanged says that what was saved of a file is no state the file ever had.
var errChanged = errors.New("changed while it was read")

// file saves a regular file that changed.
func (f *feeder) file(ctx context.Context, it item) error {
	if f.o.MaxSize > 0 && it.rec.Stat.Size >= f.o.MaxSize {
		it.kind, it.racy = dropItem, true
		return f.put(ctx, it)
	}
	if it.link != nil && it.link.read {
		it.kind = linkItem
		return f.put(ctx, it)
	}
	d, err := f.at.enter(path.Dir(it.rec.Path))
	if err != nil {
		return f.fail(ctx, it, err)
	}
	src, st, err := d.OpenFile(path.Base(it.rec.Path))
	if err != nil {
		if errors.Is(err, fsx.ErrNotRegular) {
			err = errTypeChanged
		}
		return f.fail(ctx, it, err)
	}
	defer src.Close()
	it.extras = f.extras(src.Fd(), st, it.rec.Path)
	n, err := f.contents(ctx, src, st)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		f.abandon()
		return f.fail(ctx, it, err)
	}
	after, err := src.Stat()
	if err != nil {
		return f.fail(ctx, it, err)
	}
	it.kind, it.n, it.st = fileItem, n, st
	it.racy = index.Racy(st, f.began)
	if n != after.Size || st.Mtime != after.Mtime || st.Ctime != after.Ctime {
		f.change.Add(1)
		f.warn(it.rec.Path, errChanged)
		it.racy = true
	}
	if it.link != nil {
		it.link.read = true
	}
	f.files.Add(1)
	return f.put(ctx, it)
}

// abandon drops the bytes of a chunk that will never be complete.
func (f *feeder) abandon() {
	f.b.buf = f.b.buf[:f.start]
}

// contents reads a file up to the size that it had when it was opened: a log
// that grows as fast as it is read would hold the save forever. Files that claim
// no size, as those of /proc do, are read to their end.
func (f *feeder) contents(ctx context.Context, src *fsx.Source, st fsx.Stat) (int64, error) {
	if st.Size == 0 {
		return f.reader(ctx, src)
	}
	if free := int64(cap(f.b.buf) - len(f.b.buf)); free < st.Size && free < int64(cap(f.b.buf)/2) {
		if err := f.flush(ctx); err != nil {
			return 0, err
		}
	}
	if st.Blocks*512 < st.Size && st.Size >= holeMin {
		return f.sparse(ctx, src, st.Size)
	}
	n, err := f.extent(ctx, src, 0, st.Size)
	if err != nil {
		return n, err
	}
	return n, f.cut(ctx, true)
}

// extent reads from off to end, or to where the file ends now.
func (f *feeder) extent(ctx context.Context, src io.ReaderAt, off, end int64) (int64, error) {
	from := off
	for off < end {
		room, err := f.room(ctx)
		if err != nil {
			return off - from, err
		}
		if int64(len(room)) > end-off {
			room = room[:end-off]
		}
		n, err := src.ReadAt(room, off)
		f.take(n)
		off += int64(n)
		if err == io.EOF || n == 0 && err == nil {
			break
		}
		if err != nil {
			return off - from, err
		}
	}
	return off - from, nil
}

// reader reads to the end of a stream.
func (f *feeder) reader(ctx context.Context, r io.Reader) (total int64, err error) {
	for {
		room, err := f.room(ctx)
		if err != nil {
			return total, err
		}
		n, err := r.Read(room)
		f.take(n)
		total += int64(n)
		if err == io.EOF || err == nil && n == 0 && isFile(r) {
			return total, f.cut(ctx, true)
		}
		if err != nil {
			return total, err
		}
		if err := ctx.Err(); err != nil {
			return total, err
		}
	}
}

// isFile reports whether an empty read means the end, as it does of a descriptor.
func isFile(r io.Reader) bool {
	_, ok := r.(*fsx.Source)
	return ok
}

// take counts n bytes that were read into room.
func (f *feeder) take(n int) {
	f.b.buf = f.b.buf[:len(f.b.buf)+n]
	f.bytes.Add(int64(n))
}

// room returns space to read into, having cut and sent what was there if it was
// nearly full.
func (f *feeder) room(ctx context.Context) ([]byte, error) {
	if cap(f.b.buf)-len(f.b.buf) < 4096 {
		if err := f.cut(ctx, false); err != nil {
			return nil, err
		}
		if err := f.flush(ctx); err != nil {
			return nil, err
		}
	}
	return f.b.buf[len(f.b.buf):cap(f.b.buf)], nil
}

// cut turns the bytes collected so far into pieces; with last, all of them.
func (f *feeder) cut(_ context.Context, last bool) error {
	f.cuts = f.split.Split(f.cuts[:0], f.b.buf[f.start:], last)
	base := f.start
	for _, c := range f.cuts {
		f.b.pieces = append(f.b.pieces, piece{f.start, base + c.End, c.Level})
		f.start = base + c.End
	}
	f.queued += int64(len(f.cuts))
	return nil
}

// holeMin is the size from which holes are looked for: below, reading zeros is
// cheaper than asking where they are.
const holeMin = 1 << 18

// sparse reads the extents that hold data and jumps over the holes.
func (f *feeder) sparse(ctx context.Context, src *fsx.Source, size int64) (int64, error) {
	for pos := int64(0); pos < size; {
		data, hole, err := src.NextData(pos)
		if err != nil {
			return pos, err
		}
		data, hole = min(max(data, pos), size), min(hole, size)
		if err := f.zeros(ctx, data-pos); err != nil {
			return data, err
		}
		if data < hole {
			n, err := f.extent(ctx, src, data, hole)
			if err != nil || n < hole-data {
				return data + n, errors.Join(err, f.cut(ctx, true))
			}
		}
		pos = max(hole, data)
	}
	return size, f.cut(ctx, true)
}

// zeros feeds n bytes of zeros. Once the chunk being collected is nothing but
// zeros the splitter would cut the largest size from them again and again: that
// many chunks are told of in one item. Enough zeros are left over to be cut the
// ordinary way, so that the end of the run comes out as the definition has it.
func (f *feeder) zeros(ctx context.Context, n int64) error {
	step, rest := int64(f.split.Max()), int64(f.split.Max()+f.split.Min())
	f.bytes.Add(n)
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
		if err := f.cut(ctx, false); err != nil {
			return err
		}
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
