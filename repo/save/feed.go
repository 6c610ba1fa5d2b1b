package save

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync/atomic"
	"time"

	"github.com/kedgebackup/kedge/chunk"
	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// window is how many records are looked at together, so that one question to
// the repository covers the unchanged files among them.
const window = 1024

// windowBytes is how long the paths of such records may be together: at twenty
// thousand levels, one is as long as a file.
const windowBytes = 1 << 18

// An inode is a set of hard links within the index. The first of its paths, in
// index order, names the set in the metadata of all members.
type inode struct {
	path string
	read bool // a member is in the pipeline: the others need not be read
	mode uint32
	tree bool // stored as a chunk tree
	id   pack.ID
	ok   bool
	size int64
	bits []byte // encoded extras
}

type inodeKey struct{ dev, ino uint64 }

// The feeder walks the index in order and fills batches with the bytes of what
// changed. It is one goroutine.
type feeder struct {
	o     *Options
	sess  repo.Session
	plan  *plan
	skips *skips
	links map[inodeKey]*inode
	split *chunk.Splitter
	names meta.Names

	free chan *batch
	work chan *batch
	line chan *batch // the same batches, in order, for the sink

	at     place // the directory held open
	b      *batch
	start  int // in b.buf: where the chunk being collected begins
	cuts   []chunk.Cut
	queued int64 // pieces not yet told of in an item

	itemBytes int // of paths and attributes in the items since the last such flush

	ids, missing []pack.ID
	absent       map[pack.ID]bool
	ext          meta.Extras

	began              time.Time
	files, bytes       atomic.Int64
	unreadable, change atomic.Int64
	warn               func(path string, err error)
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
		f.start = 0
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
	f.b = nil
	return nil
}

// flush hands the batch on and takes another; tail, the bytes of a chunk not yet
// decided, moves along.
func (f *feeder) flush(ctx context.Context) error {
	old, tail := f.b, f.b.buf[f.start:]
	f.tell()
	var fresh *batch
	select {
	case fresh = <-f.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	fresh.reset()
	fresh.buf = append(fresh.buf, tail...)
	old.buf = old.buf[:f.start]
	if err := f.send(ctx); err != nil {
		return err
	}
	f.b, f.start = fresh, 0
	return nil
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
	f.itemBytes += len(it.rec.Path) + len(it.extras)
	if len(f.b.items) >= 4*window || f.itemBytes >= 2*windowBytes {
		f.itemBytes = 0
		return f.flush(ctx)
	}
	return nil
}

// root feeds the records at and below one root.
func (f *feeder) root(ctx context.Context, r *source) error {
	if s, ok := f.skips.whole[r.src]; ok {
		return f.put(ctx, item{kind: keepItem, src: r, ord: s.dir, rec: s.rec})
	}
	it := f.o.Index.Records(r.src)
	var recs []item
	size := 0
	for it.Next() {
		ord := it.Ordinal()
		if skip, ok := f.skips.at(ord); ok {
			it.SkipTo(skip.dir)
			if !it.Next() {
				break
			}
			ord = it.Ordinal()
			recs = append(recs, item{kind: keepItem, ord: ord, rec: it.Record().Clone()})
		} else {
			recs = append(recs, item{ord: ord, rec: it.Record().Clone()})
		}
		size += len(recs[len(recs)-1].rec.Path)
		if len(recs) == window || size >= windowBytes {
			if err := f.records(ctx, r, recs); err != nil {
				return err
			}
			recs, size = recs[:0], 0
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	return f.records(ctx, r, recs)
}

// records feeds a window of records, after one question about the ids that the
// index offers for those that did not change.
func (f *feeder) records(ctx context.Context, root *source, recs []item) error {
	f.ids, f.missing = f.ids[:0], f.missing[:0]
	for i := range recs {
		if recs[i].kind == 0 && f.usable(&recs[i].rec) && !isDir(recs[i].rec.Stat.Mode) {
			f.ids = append(f.ids, recs[i].rec.ID)
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
	for i := range recs {
		if err := ctx.Err(); err != nil {
			return err
		}
		recs[i].src = f.plan.find(root, recs[i].rec.Path)
		if err := f.record(ctx, recs[i]); err != nil {
			return err
		}
	}
	return nil
}

// usable reports whether the index vouches for the record's id: whether the
// repository has it is another question.
func (f *feeder) usable(r *index.Record) bool {
	return usable(r, f.split)
}

func usable(r *index.Record, s *chunk.Splitter) bool {
	return r.Flags&index.Valid != 0 && r.Flags&index.Exists != 0 && !r.ID.IsZero() &&
		(r.Chunker == "" || r.Chunker == s.String())
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
	if r.Stat.Nlink > 1 {
		it.link = f.links[inodeKey{r.Stat.Dev, r.Stat.Ino}]
	}
	if f.usable(r) && !f.absent[r.ID] {
		it.kind, it.st, it.extras = keepItem, r.Stat, r.Extras
		return f.put(ctx, it)
	}
	if isRegular(r.Stat.Mode) {
		return f.file(ctx, it)
	}
	return f.node(ctx, it)
}

// fail names a path that cannot be saved and leaves it out.
func (f *feeder) fail(ctx context.Context, it item, err error) error {
	f.unreadable.Add(1)
	f.warn(it.rec.Path, err)
	it.kind = dropItem
	return f.put(ctx, it)
}

// dir reads the metadata of a directory again: what lies below it changed, and
// its own attributes are not worth a record that says whether they did.
func (f *feeder) dir(ctx context.Context, it item) error {
	d, err := f.at.enter(it.rec.Path)
	if err == nil {
		it.st, err = d.Stat()
	}
	if err != nil {
		// The directory went away under our feet. What was read below it stands.
		f.unreadable.Add(1)
		f.warn(it.rec.Path, err)
		it.kind, it.st, it.extras, it.racy = dirItem, it.rec.Stat, it.rec.Extras, true
		return f.put(ctx, it)
	}
	it.extras = f.extras(d.Fd(), it.st, it.rec.Path)
	it.kind = dirItem
	it.racy = it.st.Mtime != it.rec.Stat.Mtime || it.st.Ctime != it.rec.Stat.Ctime ||
		index.Racy(it.st, f.began)
	return f.put(ctx, it)
}

// extras reads ACLs and attributes; what cannot be read is named and left out.
func (f *feeder) extras(fd int, st fsx.Stat, name string) []byte {
	x, err := meta.ReadExtras(fd, st, &f.names)
	if err != nil {
		f.unreadable.Add(1)
		f.warn(name, err)
	}
	f.ext = x
	return f.ext.AppendExtras(nil)
}

var errTypeChanged = errors.New("is not what it was when it was indexed")

// node saves a symbolic link or a special file.
func (f *feeder) node(ctx context.Context, it item) error {
	d, err := f.at.enter(path.Dir(it.rec.Path))
	if err != nil {
		return f.fail(ctx, it, err)
	}
	n, st, err := d.OpenNode(path.Base(it.rec.Path))
	if err != nil {
		return f.fail(ctx, it, err)
	}
	defer n.Close()
	if st.Mode&fmtMask != it.rec.Stat.Mode&fmtMask {
		return f.fail(ctx, it, errTypeChanged)
	}
	if isSymlink(st.Mode) {
		target, err := d.Readlink(path.Base(it.rec.Path))
		if err != nil {
			return f.fail(ctx, it, err)
		}
		it.rec.Target = target
		if err := f.blob(ctx, target); err != nil {
			return err
		}
	}
	it.st, it.extras = st, f.extras(n.Fd(), st, it.rec.Path)
	it.kind, it.racy = nodeItem, index.Racy(st, f.began)
	return f.put(ctx, it)
}

// blob queues a short string as one piece.
func (f *feeder) blob(ctx context.Context, s string) error {
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

func (f *feeder) stream(ctx context.Context, s Stream) (err error) {
	r, err := s.Open(ctx)
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.Path, err)
	}
	n, err := f.reader(ctx, r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.Path, err)
	}
	return f.put(ctx, item{kind: flowItem, stream: s.Path, n: n})
}

const fmtMask = 0o170000

func isDir(mode uint32) bool     { return mode&fmtMask == 0o040000 }
func isRegular(mode uint32) bool { return mode&fmtMask == 0o100000 }
func isSymlink(mode uint32) bool { return mode&fmtMask == 0o120000 }
