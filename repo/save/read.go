package save

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
)

// errChanged says that what was saved of a file is no state the file ever had.
var errChanged = errors.New("changed while it was read")

// file saves a regular file that changed. set is the set of hard links that it
// belongs to, nil if it has no other name.
func (f *feeder) file(ctx context.Context, it item, set *linkSet) error {
	f.on.reading(it.rec.Path)
	dir, base := split(it.rec.Path)
	d, err := f.at.enter(dir)
	if err != nil {
		return f.fail(ctx, it, err)
	}
	start := time.Now()
	src, st, err := d.OpenFile(base)
	if err != nil {
		if errors.Is(err, fsx.ErrNotRegular) {
			err = errTypeChanged
		}
		return f.fail(ctx, it, err)
	}
	defer src.Close()
	if f.o.over(st.Size) {
		it.kind = overItem // it grew since it was indexed
		return f.put(ctx, it)
	}
	if set != nil && st.Ino != it.rec.Stat.Ino {
		set, it.first = nil, "" // another file has this name by now
	}
	extras, whole := f.extras(src.Fd(), st, it.rec.Path)
	n, err := f.contents(ctx, src, st)
	if err != nil {
		return f.broken(ctx, it, err)
	}
	after, err := src.Stat()
	if err != nil {
		return f.broken(ctx, it, err)
	}
	it.kind, it.st, it.extras = fileItem, st, extras
	it.racy = !whole || index.Racy(st, start)
	if torn(n, &st, &after) {
		f.on.torn(it.rec.Path)
		it.racy = true
	}
	if it.link = set.keep(&st); it.link != nil {
		it.link.racy = it.racy
	}
	f.on.read(1, 0)
	return f.put(ctx, it)
}

// broken leaves a file out of which some was read already: what was sent of it
// is forgotten by the sink, the bytes of a chunk that will never be complete here.
func (f *feeder) broken(ctx context.Context, it item, err error) error {
	if ctx.Err() != nil {
		return err
	}
	f.b.buf = f.b.buf[:f.start]
	return f.fail(ctx, it, err)
}

// torn reports whether a file of which n bytes were read may have changed
// meanwhile. Files that are made up as they are read, those of /proc and /sys,
// have no blocks, and any size; their times have to do.
func torn(n int64, before, after *fsx.Stat) bool {
	return before.Mtime != after.Mtime || before.Ctime != after.Ctime || before.Size != after.Size ||
		n != after.Size && after.Blocks > 0
}

// further saves another name of an inode that this save has read already, if it
// still is a name of that.
func (f *feeder) further(ctx context.Context, it item, set *linkSet) error {
	start := time.Now()
	dir, base := split(it.rec.Path)
	d, err := f.at.enter(dir)
	if err != nil {
		return f.fail(ctx, it, err)
	}
	st, err := d.Lstat(base)
	if err != nil {
		return f.fail(ctx, it, err)
	}
	if st.Dev != set.got.dev || st.Ino != set.got.ino {
		it.first = ""
		return f.file(ctx, it, nil)
	}
	it.kind, it.st, it.link = linkItem, st, set.got
	it.racy = set.got.racy || index.Racy(st, start)
	if set.left == 0 {
		set.got = nil // nobody asks for it any more
	}
	return f.put(ctx, it)
}

// contents reads a file up to the size that it had when it was opened: a log
// that grows as fast as it is read would hold the save forever. Files that claim
// no size, as those of /proc do, are read to their end.
func (f *feeder) contents(ctx context.Context, src Extents, st fsx.Stat) (int64, error) {
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
	if err == nil {
		f.cut(true)
	}
	return n, err
}

// prefetchStep is how much of a large file the kernel is asked for at once, half of it at
// least before it is read. The kernel itself reads 128 KiB ahead of us, and lets us wait for a disk
// that could do more: of a file that was not in memory a save took a quarter longer.
const prefetchStep = 4 << 20

// prefetcher is what can be asked for what is read soon. An fsx.Source is one.
type prefetcher interface{ Prefetch(off, n int64) }

// extent reads from off to end, or to where the file ends now.
func (f *feeder) extent(ctx context.Context, src io.ReaderAt, off, end int64) (int64, error) {
	from, ahead := off, off
	disk, ok := src.(prefetcher)
	if !ok || end-off < prefetchStep/2 {
		ahead = end
	}
	for off < end {
		if ahead < end && off+prefetchStep/2 >= ahead {
			n := min(prefetchStep, end-ahead)
			disk.Prefetch(ahead, n)
			ahead += n
		}
		room, err := f.room(ctx)
		if err != nil {
			return off - from, err
		}
		if int64(len(room)) > end-off {
			room = room[:end-off]
		}
		n, err := src.ReadAt(room, off)
		f.took(n)
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
		total += int64(n)
		if n >= zeroRun && allZero(room[:n]) {
			if err := f.zeros(ctx, int64(n)); err != nil {
				return total, err
			}
		} else {
			f.took(n)
		}
		if err == io.EOF {
			f.cut(true)
			return total, nil
		}
		if err != nil {
			return total, err
		}
		if err := ctx.Err(); err != nil {
			return total, err
		}
	}
}

// took counts n bytes that were read into room.
func (f *feeder) took(n int) {
	f.b.buf = f.b.buf[:len(f.b.buf)+n]
	f.on.read(0, int64(n))
}

// room returns space to read into, having cut and sent what was there if it was
// nearly full.
func (f *feeder) room(ctx context.Context) ([]byte, error) {
	if cap(f.b.buf)-len(f.b.buf) < 4096 {
		f.cut(false)
		if err := f.flush(ctx); err != nil {
			return nil, err
		}
	}
	return f.b.buf[len(f.b.buf):cap(f.b.buf)], nil
}

// cut turns the bytes collected so far into pieces; with last, all of them.
func (f *feeder) cut(last bool) {
	f.cuts = f.split.SplitWide(f.wide, &f.marks, f.cuts[:0], f.b.buf[f.start:], last)
	base := f.start
	for _, c := range f.cuts {
		f.b.pieces = append(f.b.pieces, piece{f.start, base + c.End, c.Level})
		f.start = base + c.End
	}
	f.queued += int64(len(f.cuts))
}
