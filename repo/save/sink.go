package save

import (
	"context"
	"fmt"
	"os"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// The sink takes batches in order and builds the saved tree from the bottom up.
// It is one goroutine, and the only one that adds objects.
type sink struct {
	o       *Options
	on      *callbacks
	ctx     context.Context
	store   *store
	plan    *plan
	top     *topTree
	names   meta.Names
	chunker string

	marks    *index.Rewrite // nil: nothing is marked
	marksErr error          // why not, if it was to be

	file  repo.ChunkTree // of the file that is being collected
	size  int64          // its bytes so far
	write repo.DirWriter // what every writer of a directory begins as
	spare []*openDir
	bits  []byte // scratch for metadata
	frown frowned
	fresh recent

	blobs func(pack.ID) error // of Split: told of every chunk, of which no trees are made

	zero pack.ID // the largest chunk of zeros
	step int64   // its size

	res *Result
}

// begin says under which context the sink works from here on, and how many
// batches may be under way at once.
func (s *sink) begin(ctx context.Context, flight int) {
	s.ctx, s.store.ctx, s.fresh.flight = ctx, ctx, flight
}

// dropMarks leaves the index as it is, unless the marks were committed.
func (s *sink) dropMarks() {
	if s.marks != nil {
		s.marks.Abort()
	}
}

// run takes batches until there are none.
func (s *sink) run(line <-chan *batch, free chan<- *batch) error {
	for b := range line {
		select {
		case <-b.done:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
		if b.err != nil {
			return b.err
		}
		if err := s.batch(b); err != nil {
			return err
		}
		free <- b
	}
	return s.ctx.Err()
}

func (s *sink) batch(b *batch) error {
	if err := s.store.addData(b.entries); err != nil {
		return err
	}
	s.res.BytesNew += s.fresh.count(b)
	next := 0
	for i := range b.items {
		it := &b.items[i]
		if it.kind == dataItem {
			for range it.n {
				p := b.pieces[next]
				if err := s.chunk(b.ids[next], int64(p.end-p.off), p.level); err != nil {
					return err
				}
				s.size += int64(p.end - p.off)
				s.res.BytesRead += int64(p.end - p.off)
				next++
			}
			continue
		}
		if err := s.item(it); err != nil {
			return err
		}
	}
	return nil
}

// chunk takes a chunk of the current file.
func (s *sink) chunk(id pack.ID, size int64, level uint8) error {
	if s.blobs != nil {
		return s.blobs(id)
	}
	return s.file.Add(id, size, level)
}

func (s *sink) item(it *item) error {
	if it.src != nil && it.kind != goneItem {
		if err := s.check(it.src, it.rec.Path); err != nil {
			return err
		}
	}
	switch it.kind {
	case zeroItem:
		return s.zeros(it.n)
	case fileItem:
		return s.fileEnd(it)
	case dropItem:
		s.file.Reset()
		s.size = 0
		s.taint(it.src, it.rec.Path)
		s.unmark(it)
		return nil
	case overItem: // what the index knows of it stays as true as it was
		s.taint(it.src, it.rec.Path)
		return nil
	case goneItem:
		s.on.seen(it.rec.Path, isDir(it.rec.Stat.Mode), 'D')
		if s.marks != nil {
			s.marked(s.marks.Drop(it.ord))
		}
		return nil
	case keepItem:
		return s.keep(it)
	case linkItem:
		s.seen(it)
		return s.add(it, it.link.mode, it.link.id, it.link.size)
	case nodeItem:
		return s.node(it)
	case dirItem:
		return s.dirEnd(it)
	case flowItem:
		return s.flow(it)
	}
	return fmt.Errorf("save: item of unknown kind %d", it.kind)
}

func (s *sink) zeros(n int64) error {
	isNew, err := s.store.addZero(s.zero, s.step)
	if err != nil {
		return err
	}
	if isNew {
		s.res.BytesNew += s.step
	}
	for range n {
		if err := s.chunk(s.zero, s.step, 0); err != nil {
			return err
		}
	}
	s.size += n * s.step
	s.res.BytesRead += n * s.step
	return nil
}

// contents ends the current file and returns what stands for it in a tree.
func (s *sink) contents() (e repo.TreeEntry, size int64, err error) {
	e, ok, err := s.file.Finish()
	if err == nil && !ok {
		e.Mode = repo.ModeFile
		e.ID, err = s.store.addEmpty()
	}
	size, s.size = s.size, 0
	s.file.Reset()
	return e, size, err
}

func (s *sink) fileEnd(it *item) error {
	e, size, err := s.contents()
	if err != nil {
		return err
	}
	s.res.FilesRead++
	if it.rec.ID.IsZero() {
		s.res.FilesNew++
	}
	if l := it.link; l != nil {
		l.mode, l.id, l.size, l.extras = e.Mode, e.ID, size, it.extras
	}
	s.seen(it)
	return s.add(it, e.Mode, e.ID, size)
}

func (s *sink) node(it *item) error {
	e, size, err := s.contents()
	if err != nil {
		return err
	}
	mode := uint32(repo.ModeFile)
	if isSymlink(it.st.Mode) {
		mode = repo.ModeSymlink
	} else {
		size = -1
	}
	s.seen(it)
	return s.add(it, mode, e.ID, size)
}

// keep takes over what the index knows of a path that did not change.
func (s *sink) keep(it *item) error {
	r := &it.rec
	s.on.seen(r.Path, isDir(r.Stat.Mode), ' ')
	if isDir(r.Stat.Mode) {
		dirs := 1 + max(0, int64(r.Below)-int64(r.Files))
		e := repo.DirEntry{Name: baseOf(r.Path), Mode: repo.ModeDir, ID: r.ID}
		return s.place(it.src, r.Path, e, totals{dirs: dirs, files: int64(r.Files), bytes: int64(r.Bytes)})
	}
	size := r.Stat.Size
	if !isRegular(r.Stat.Mode) && !isSymlink(r.Stat.Mode) {
		size = -1
	}
	return s.placeFile(it, r.GitMode, r.ID, size)
}

// add puts a path that was read into its directory, and marks it in the index.
func (s *sink) add(it *item, mode uint32, id pack.ID, size int64) error {
	if it.kind == linkItem {
		it.extras = it.link.extras
	}
	if err := s.placeFile(it, mode, id, size); err != nil {
		return err
	}
	if it.racy {
		s.taint(it.src, it.rec.Path)
	}
	s.mark(it, mode, id, totals{})
	return nil
}

// placeFile puts a file, symbolic link or special file into its directory.
func (s *sink) placeFile(it *item, mode uint32, id pack.ID, size int64) error {
	m := meta.FromStat(it.st, &s.names)
	m.Size, m.Hardlink = size, it.first
	if isSymlink(it.st.Mode) {
		m.Symlink = it.rec.Target
	}
	s.bits = m.AppendWith(s.bits[:0], it.extras)
	e := repo.DirEntry{Name: baseOf(it.rec.Path), Mode: mode, ID: id, Meta: s.bits,
		Chunked: isRegular(it.st.Mode) && mode == repo.ModeDir}
	t := totals{files: 1}
	if isRegular(it.st.Mode) {
		t.bytes = size
	}
	return s.place(it.src, it.rec.Path, e, t)
}

// flow puts a stream into the saved tree, as a file of whoever runs the save.
func (s *sink) flow(it *item) error {
	e, size, err := s.contents()
	if err != nil {
		return err
	}
	s.res.FilesRead++
	s.res.FilesNew++
	s.res.Files++
	s.res.Bytes += size
	now := fsx.Time{Sec: s.o.Date.Unix(), Nsec: int32(s.o.Date.Nanosecond())}
	m := meta.Meta{Mode: 0o100600, Size: size, Atime: now, Mtime: now, Ctime: now}
	m.UID, m.GID = int64(os.Geteuid()), int64(os.Getegid())
	m.User, m.Group = s.names.User(uint32(m.UID)), s.names.Group(uint32(m.GID))
	s.top.put(it.stream, repo.DirEntry{Mode: e.Mode, ID: e.ID, Chunked: e.Mode == repo.ModeDir, Meta: m.Append(nil)})
	return nil
}

// mark notes in the index what was saved, so that the next run need not read it.
// What may have changed since it was read gets its id, but is not vouched for.
func (s *sink) mark(it *item, mode uint32, id pack.ID, t totals) {
	if s.marks == nil {
		return
	}
	r := it.rec
	r.GitMode, r.ID, r.Extras, r.Stat, r.Chunker = mode, id, it.extras, it.st, s.chunker
	r.Files, r.Bytes = uint64(t.files), uint64(t.bytes)
	r.Flags = index.Exists
	if !it.racy {
		r.Flags |= index.Valid
	}
	s.marked(s.marks.Set(it.ord, &r))
}

// unmark takes back the index's word for a path that was left out.
func (s *sink) unmark(it *item) {
	if s.marks == nil || it.rec.Flags&index.Valid == 0 {
		return
	}
	r := it.rec
	r.Flags &^= index.Valid
	s.marked(s.marks.Set(it.ord, &r))
}

// marked takes the outcome of a mark. The index is a help for the next save and
// no part of this one: without marks, that one only reads more.
func (s *sink) marked(err error) {
	if err != nil {
		s.marks.Abort()
		s.marks, s.marksErr = nil, err
	}
}

// seen tells of a path that was read.
func (s *sink) seen(it *item) {
	status := byte('M')
	if it.rec.ID.IsZero() {
		status = 'A'
	}
	s.on.seen(it.rec.Path, isDir(it.st.Mode), status)
}

// recent tells new chunks from those that are in two batches, or twice in one:
// workers that run side by side take both for missing. Ids are remembered until
// as many batches have come as can be in flight.
type recent struct {
	ids     [2]map[pack.ID]struct{}
	flight  int // batches in flight
	batches int // since the maps changed places
}

// count returns how many bytes of a batch the repository did not have.
func (r *recent) count(b *batch) (n int64) {
	if r.ids[0] == nil {
		r.ids = [2]map[pack.ID]struct{}{{}, {}}
	}
	if r.batches++; r.batches > r.flight {
		r.ids[0], r.ids[1], r.batches = r.ids[1], r.ids[0], 1
		clear(r.ids[0])
	}
	for i := range b.entries {
		id := b.entries[i].ID
		_, now := r.ids[0][id]
		_, before := r.ids[1][id]
		if !now && !before {
			r.ids[0][id] = struct{}{}
			n += int64(b.sizes[i])
		}
	}
	return n
}
