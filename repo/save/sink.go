package save

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// dirItems are the items of a directory whose end has not come yet.
type dirItems struct {
	path  string // in the index
	items []repo.DirEntry
	bits  []byte // the metadata of the items stand in here
	pure  bool   // all below it is saved and marked: the directory may be marked
}

// The sink takes batches in order and builds the saved tree from the bottom up.
// It is one goroutine, and the only one that adds objects.
type sink struct {
	o       *Options
	ctx     context.Context
	store   *store
	plan    *plan
	top     *topTree
	names   meta.Names
	marks   *index.Rewrite
	chunker string

	file   repo.ChunkTree // of the file that is being collected
	size   int64          // its bytes so far
	dir    repo.DirWriter
	spare  []*dirItems
	zero   pack.ID // the largest chunk of zeros
	step   int64   // its size
	newest time.Time
	frown  []string // names that git frowns on

	res  *Result
	warn func(path string, err error)
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
	s.res.BytesNew += b.fresh
	next := 0
	for i := range b.items {
		it := &b.items[i]
		if it.kind == dataItem {
			for range it.n {
				p := b.pieces[next]
				if err := s.file.Add(b.ids[next], int64(p.end-p.off), p.level); err != nil {
					return err
				}
				s.size += int64(p.end - p.off)
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

func (s *sink) item(it *item) error {
	switch it.kind {
	case zeroItem:
		return s.zeros(it.n)
	case fileItem:
		return s.fileEnd(it)
	case dropItem:
		s.file.Reset()
		s.size = 0
		if d := s.parent(it.src, it.rec.Path); d != nil {
			d.pure = false
		}
		return s.unmark(it)
	case goneItem:
		if s.marks != nil {
			return s.marks.Drop(it.ord)
		}
		return nil
	case keepItem:
		return s.keep(it)
	case linkItem:
		return s.further(it)
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
	if err := s.store.addZero(s.zero, s.step); err != nil {
		return err
	}
	for range n {
		if err := s.file.Add(s.zero, s.step, 0); err != nil {
			return err
		}
	}
	s.size += n * s.step
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
	s.res.BytesRead += size
	s.res.Files++
	if it.rec.ID.IsZero() {
		s.res.FilesNew++
	}
	if l := it.link; l != nil {
		l.mode, l.tree, l.id, l.size, l.bits, l.ok = e.Mode, e.Mode == repo.ModeDir, e.ID, size, it.extras, true
	}
	s.seen(it)
	return s.add(it, e.Mode, e.ID, size)
}

// further adds another name of a file that this save has read already.
func (s *sink) further(it *item) error {
	l := it.link
	if !l.ok {
		it.kind = dropItem
		s.res.Unreadable++
		s.warn(it.rec.Path, fmt.Errorf("is a hard link to %s, which could not be read", l.path))
		return s.item(it)
	}
	it.st, it.extras = it.rec.Stat, l.bits
	it.racy = index.Racy(it.st, s.newest)
	s.res.Files++
	s.seen(it)
	return s.add(it, l.mode, l.id, l.size)
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
	s.res.Files++
	s.seen(it)
	return s.add(it, mode, e.ID, size)
}

// keep takes over what the index knows of a path that did not change.
func (s *sink) keep(it *item) error {
	r := &it.rec
	if isDir(r.Stat.Mode) {
		s.res.Dirs++
		s.res.Files += int64(r.Below)
		return s.place(it.src, r.Path, repo.DirEntry{Name: path.Base(r.Path), Mode: repo.ModeDir, ID: r.ID})
	}
	s.res.Files++
	size := r.Stat.Size
	if !isRegular(r.Stat.Mode) && !isSymlink(r.Stat.Mode) {
		size = -1
	}
	return s.place(it.src, r.Path, s.entry(it, r.GitMode, r.ID, size))
}

// add puts a path that was read into its directory, and marks it in the index.
func (s *sink) add(it *item, mode uint32, id pack.ID, size int64) error {
	if err := s.place(it.src, it.rec.Path, s.entry(it, mode, id, size)); err != nil {
		return err
	}
	if it.racy {
		if d := s.parent(it.src, it.rec.Path); d != nil {
			d.pure = false
		}
	}
	return s.mark(it, mode, id)
}

// entry makes the directory entry of a file, symbolic link or special file.
func (s *sink) entry(it *item, mode uint32, id pack.ID, size int64) repo.DirEntry {
	m := meta.FromStat(it.st, &s.names)
	m.Size = size
	if isSymlink(it.st.Mode) {
		m.Symlink = it.rec.Target
	}
	if it.link != nil {
		m.Hardlink = it.link.path
	}
	d := s.parent(it.src, it.rec.Path)
	if d == nil {
		return fileEntry(it.rec.Path, it.st.Mode, mode, id, m.AppendWith(nil, it.extras))
	}
	// Metadata of a directory's items stand together: one allocation for many.
	if cap(d.bits)-len(d.bits) < 256+len(it.extras)+len(m.Symlink)+len(m.Hardlink)+len(m.User)+len(m.Group) {
		d.bits = make([]byte, 0, max(min(2*cap(d.bits), 1<<16), 2048+2*len(it.extras)))
	}
	from := len(d.bits)
	d.bits = m.AppendWith(d.bits, it.extras)
	return fileEntry(it.rec.Path, it.st.Mode, mode, id, d.bits[from:len(d.bits):len(d.bits)])
}

func fileEntry(name string, stMode, mode uint32, id pack.ID, bits []byte) repo.DirEntry {
	return repo.DirEntry{Name: path.Base(name), Mode: mode, ID: id, Meta: bits,
		Chunked: isRegular(stMode) && mode == repo.ModeDir}
}

// parent returns the open directory that a path of the source belongs to, making
// it and those above it if they are new; nil for the source's own root.
func (s *sink) parent(src *source, name string) *dirItems {
	if name == src.src {
		return nil
	}
	dir := path.Dir(name)
	for n := len(src.open); n == 0 || src.open[n-1].path != dir; n = len(src.open) {
		next := src.src
		if n > 0 {
			next = below(src.open[n-1].path, dir)
		}
		src.open = append(src.open, s.newDir(next))
	}
	return src.open[len(src.open)-1]
}

// below returns the directory one step from dir towards name, which lies below
// it. It is cut out of name: the directories of a deep path share its bytes.
func below(dir, name string) string {
	from := len(strings.TrimSuffix(dir, "/")) + 1
	if i := strings.IndexByte(name[from:], '/'); i >= 0 {
		return name[:from+i]
	}
	return name
}

func (s *sink) newDir(name string) *dirItems {
	var d *dirItems
	if n := len(s.spare); n > 0 {
		d, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		d = &dirItems{}
	}
	d.path, d.pure, d.items = name, true, d.items[:0]
	return d
}

// place puts an entry into its directory, or at the top of the saved tree.
func (s *sink) place(src *source, name string, e repo.DirEntry) error {
	if n := repo.MangleName(e.Name, e.Chunked); len(repo.FsckIDs(n)) > 0 && !slices.Contains(s.frown, n) {
		s.frown = append(s.frown, n)
	}
	if d := s.parent(src, name); d != nil {
		d.items = append(d.items, e)
		return nil
	}
	return s.top.put(src.dst, e)
}

// dirEnd stores a directory: everything below it has come.
func (s *sink) dirEnd(it *item) error {
	src, name := it.src, it.rec.Path
	var d *dirItems
	if n := len(src.open); n > 0 && src.open[n-1].path == name {
		d, src.open = src.open[n-1], src.open[:n-1]
	} else {
		s.parent(src, name)
		d = s.newDir(name)
	}
	s.res.Dirs++
	m := meta.FromStat(it.st, &s.names)
	m.Size = -1
	self := m.AppendWith(nil, it.extras)
	if name == src.src && !src.alone {
		s.top.merge(src.dst, self, d.items)
		return nil
	}
	id, err := s.dir.Write(self, d.items)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	it.racy = it.racy || !d.pure || !s.plan.pure(src, name)
	s.seen(it)
	s.recycle(d)
	if p := s.parent(src, name); p != nil && it.racy {
		p.pure = false
	}
	if err := s.place(src, name, repo.DirEntry{Name: path.Base(name), Mode: repo.ModeDir, ID: id}); err != nil {
		return err
	}
	// The stat stays that of the index run: what changed since must be seen again.
	it.st = it.rec.Stat
	return s.mark(it, repo.ModeDir, id)
}

func (s *sink) recycle(d *dirItems) {
	if cap(d.items) > 1<<14 || cap(d.bits) > 1<<16 {
		return
	}
	clear(d.items)
	d.bits = nil // the metadata of other directories may stand in what is left of it
	s.spare = append(s.spare, d)
}

func (s *sink) flow(it *item) error {
	e, size, err := s.contents()
	if err != nil {
		return err
	}
	s.res.FilesRead++
	s.res.Files++
	s.res.BytesRead += size
	now := fsx.Time{Sec: s.o.Date.Unix(), Nsec: int32(s.o.Date.Nanosecond())}
	m := meta.Meta{Mode: 0o100600, Size: size, Atime: now, Mtime: now, Ctime: now}
	m.UID, m.GID = int64(os.Geteuid()), int64(os.Getegid())
	m.User, m.Group = s.names.User(uint32(m.UID)), s.names.Group(uint32(m.GID))
	return s.top.put(it.stream, repo.DirEntry{Name: path.Base(it.stream), Mode: e.Mode, ID: e.ID,
		Chunked: e.Mode == repo.ModeDir, Meta: m.Append(nil)})
}

// mark notes in the index what was saved, so that the next run need not read it.
// What may have changed since it was read gets its id, but is not vouched for.
func (s *sink) mark(it *item, mode uint32, id pack.ID) error {
	if s.marks == nil {
		return nil
	}
	r := it.rec
	r.GitMode, r.ID, r.Extras, r.Stat, r.Chunker = mode, id, it.extras, it.st, s.chunker
	r.Flags = index.Exists
	if !it.racy {
		r.Flags |= index.Valid
	}
	return s.marks.Set(it.ord, &r)
}

// unmark takes back the index's word for a path that was left out.
func (s *sink) unmark(it *item) error {
	if s.marks == nil || it.rec.Flags&index.Valid == 0 {
		return nil
	}
	r := it.rec
	r.Flags &^= index.Valid
	return s.marks.Set(it.ord, &r)
}

func (s *sink) seen(it *item) {
	if s.o.Seen == nil {
		return
	}
	status := byte('M')
	if it.rec.ID.IsZero() {
		status = 'A'
	}
	s.o.Seen(it.rec.Path, isDir(it.st.Mode), status)
}
