package save

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/kedgebackup/kedge/chunk"
	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// window is how many records are looked at together, so that one question to
// the repository covers the unchanged files among them. A window, like the items
// of a batch, is smaller if its paths are long: those of a tree of 20,000 levels
// would come to gigabytes.
const (
	window       = 1024
	windowWeight = 256 << 10
	itemsMax     = window
	itemsWeight  = 1 << 20
)

// The feeder walks the index in order and fills batches with the bytes of what
// changed. It is one goroutine.
type feeder struct {
	o     *Options
	on    *callbacks
	sess  repo.Session
	plan  *plan
	skips *skips
	links *links
	split *chunk.Splitter
	wide  int // goroutines that may look for cuts in one batch
	marks chunk.Marks
	names meta.Names

	free chan *batch
	work chan *batch
	line chan *batch // the same batches, in order, for the sink

	at     place // the directory held open
	b      *batch
	weight int // of the items in b
	start  int // in b.buf: where the chunk being collected begins
	cuts   []chunk.Cut
	queued int64 // pieces not yet told of in an item

	recs         []item // a window
	heft         int    // their weight
	ids, missing []pack.ID
	absent       map[pack.ID]bool
}

func (f *feeder) run(ctx context.Context) error {
	defer close(f.line)
	defer close(f.work)
	defer f.at.close()
	if err := f.next(ctx); err != nil {
		return err
	}
	for _, r := range f.plan.roots {
		if err := f.root(ctx, r); err != nil {
			return err
		}
	}
	for _, s := range f.plan.streams {
		if err := f.stream(ctx, s); err != nil {
			return err
		}
	}
	return f.send(ctx)
}

// next takes an empty batch.
func (f *feeder) next(ctx context.Context) error {
	select {
	case f.b = <-f.free:
		f.b.reset()
		f.start, f.weight = 0, 0
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send hands the batch on: to a worker, and to the sink for its turn.
func (f *feeder) send(ctx context.Context) error {
	f.tell()
	for _, c := range []chan *batch{f.line, f.work} {
		select {
		case c <- f.b:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// flush hands the batch on and takes another. The bytes of a chunk that is not
// yet decided move along.
func (f *feeder) flush(ctx context.Context) error {
	old, from := f.b, f.start
	tail := old.buf[from:]
	f.tell()
	if err := f.next(ctx); err != nil {
		return err
	}
	fresh := f.b
	fresh.buf = append(fresh.buf, tail...)
	old.buf = old.buf[:from]
	f.b = old
	err := f.send(ctx)
	f.b = fresh
	return err
}

// tell accounts for the pieces since the last item, which belong to the current file.
func (f *feeder) tell() {
	if f.queued > 0 {
		f.b.items = append(f.b.items, item{kind: dataItem, n: f.queued})
		f.queued = 0
	}
}

// put appends an item; a batch of nothing but items is sent on before it grows large.
func (f *feeder) put(ctx context.Context, it item) error {
	f.tell()
	f.b.items = append(f.b.items, it)
	f.weight += it.weight()
	if len(f.b.items) >= itemsMax || f.weight >= itemsWeight {
		return f.flush(ctx)
	}
	return nil
}

// root feeds the records at and below one root.
func (f *feeder) root(ctx context.Context, r *source) error {
	if rec, ok := f.skips.whole[r.src]; ok {
		return f.put(ctx, item{kind: keepItem, src: r, ord: rec.ord, rec: rec.Record})
	}
	f.at.begin(r.src, isDir(f.plan.records[r.src].Stat.Mode))
	it := f.o.Index.Records(r.src)
	for it.Next() {
		var kind itemKind
		if skip, ok := f.skips.at(it.Ordinal()); ok {
			it.SkipTo(skip.dir)
			if !it.Next() {
				break
			}
			kind = keepItem
		}
		rec := item{kind: kind, ord: it.Ordinal(), rec: it.Record().Clone()}
		f.recs = append(f.recs, rec)
		f.heft += rec.weight()
		if len(f.recs) == window || f.heft >= windowWeight {
			if err := f.records(ctx, r); err != nil {
				return err
			}
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	return f.records(ctx, r)
}

// records feeds the window, after one question about the ids that the index
// offers for those that did not change.
func (f *feeder) records(ctx context.Context, root *source) error {
	f.ids, f.missing = f.ids[:0], f.missing[:0]
	for i := range f.recs {
		if r := &f.recs[i].rec; f.recs[i].kind == 0 && usable(r, f.split) && !isDir(r.Stat.Mode) {
			f.ids = append(f.ids, r.ID)
		}
	}
	clear(f.absent)
	if len(f.ids) > 0 {
		var err error
		if f.missing, err = f.sess.Missing(ctx, f.missing, f.ids); err != nil {
			return err
		}
		for _, id := range f.missing {
			f.absent[id] = true
		}
	}
	for i := range f.recs {
		if err := ctx.Err(); err != nil {
			return err
		}
		f.recs[i].src = f.plan.find(root, f.recs[i].rec.Path)
		if err := f.record(ctx, f.recs[i]); err != nil {
			return err
		}
	}
	clear(f.recs)
	f.recs, f.heft = f.recs[:0], 0
	return nil
}

func (f *feeder) record(ctx context.Context, it item) error {
	r := &it.rec
	switch {
	case it.kind == keepItem:
		return f.put(ctx, it)
	case r.Flags&index.Exists == 0:
		it.kind = goneItem
		return f.put(ctx, it)
	case isDir(r.Stat.Mode):
		return f.dir(ctx, it)
	}
	set := f.links.take(r)
	if set != nil {
		it.first = f.links.first(set)
	}
	switch {
	case isRegular(r.Stat.Mode) && f.o.over(r.Stat.Size):
		it.kind = overItem
		return f.put(ctx, it)
	case usable(r, f.split) && !f.absent[r.ID]:
		it.kind, it.st, it.extras = keepItem, r.Stat, r.Extras
		return f.put(ctx, it)
	case !isRegular(r.Stat.Mode):
		return f.node(ctx, it)
	case set != nil && set.got != nil:
		return f.further(ctx, it, set)
	}
	return f.file(ctx, it, set)
}

// fail names a path that cannot be saved and leaves it out.
func (f *feeder) fail(ctx context.Context, it item, err error) error {
	f.on.unread(it.rec.Path, err)
	it.kind = dropItem
	return f.put(ctx, it)
}

// dir reads the metadata of a directory again: what lies below it changed, and
// its own attributes are not worth a record that says whether they did.
func (f *feeder) dir(ctx context.Context, it item) error {
	it.kind = dirItem
	start := time.Now()
	d, err := f.at.enter(it.rec.Path)
	if err == nil {
		it.st, err = d.Stat()
	}
	if err != nil {
		// What was read below it, or taken over from when it could be read, stands.
		f.on.unread(it.rec.Path, err)
		it.st, it.extras, it.racy = it.rec.Stat, it.rec.Extras, true
		it.lost = errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
		return f.put(ctx, it)
	}
	var whole bool
	it.extras, whole = f.extras(d.Fd(), it.st, it.rec.Path)
	it.racy = !whole || it.st.Mtime != it.rec.Stat.Mtime || it.st.Ctime != it.rec.Stat.Ctime ||
		index.Racy(it.st, start)
	return f.put(ctx, it)
}

// extras reads ACLs and attributes. What cannot be read is named and left out,
// and whole is false: the next save has to try again.
func (f *feeder) extras(fd int, st fsx.Stat, name string) (b []byte, whole bool) {
	x, err := meta.ReadExtras(fd, st, &f.names)
	if err != nil {
		f.on.unread(name, err)
	}
	return x.AppendExtras(nil), err == nil
}

var errTypeChanged = errors.New("is not what it was when it was indexed")

// node saves a symbolic link or a special file.
func (f *feeder) node(ctx context.Context, it item) error {
	start := time.Now()
	dir, base := split(it.rec.Path)
	d, err := f.at.enter(dir)
	if err != nil {
		return f.fail(ctx, it, err)
	}
	n, st, err := d.OpenNode(base)
	if err != nil {
		return f.fail(ctx, it, err)
	}
	defer n.Close()
	if st.Mode&fmtMask != it.rec.Stat.Mode&fmtMask {
		return f.fail(ctx, it, errTypeChanged)
	}
	if isSymlink(st.Mode) {
		if it.rec.Target, err = n.Readlink(); err != nil {
			return f.fail(ctx, it, err)
		}
		if err := f.blob(ctx, it.rec.Target); err != nil {
			return err
		}
	}
	var whole bool
	it.extras, whole = f.extras(n.Fd(), st, it.rec.Path)
	it.kind, it.st, it.racy = nodeItem, st, !whole || index.Racy(st, start)
	return f.put(ctx, it)
}

// blob queues a short string as one piece.
func (f *feeder) blob(ctx context.Context, s string) error {
	if s == "" {
		return nil
	}
	if cap(f.b.buf)-len(f.b.buf) < len(s) {
		if err := f.flush(ctx); err != nil {
			return err
		}
	}
	f.b.buf = append(f.b.buf, s...)
	f.b.pieces = append(f.b.pieces, piece{f.start, len(f.b.buf), 0})
	f.start = len(f.b.buf)
	f.queued++
	return nil
}

// stream saves the output of a producer. However it ends, the producer is told.
func (f *feeder) stream(ctx context.Context, s Stream) error {
	f.on.reading(s.Path)
	r, err := s.Open(ctx)
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.Path, err)
	}
	if src, ok := r.(Extents); ok {
		err = f.image(ctx, src)
	} else {
		_, err = f.reader(ctx, r)
	}
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.Path, err)
	}
	f.on.read(1, 0)
	return f.put(ctx, item{kind: flowItem, stream: s.Path})
}

const fmtMask = 0o170000

func isDir(mode uint32) bool     { return mode&fmtMask == 0o040000 }
func isRegular(mode uint32) bool { return mode&fmtMask == 0o100000 }
func isSymlink(mode uint32) bool { return mode&fmtMask == 0o120000 }
