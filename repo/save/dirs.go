package save

import (
	"fmt"
	"slices"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// An openDir is a directory whose end has not come yet. Its items go to a writer
// as they come, so that a directory of a million names takes the room of its
// tree and its metadata, and no more.
type openDir struct {
	path string // in the index
	w    *repo.DirWriter
	top  *topDir // instead of w, if other sources or streams go to this directory too
	any  bool    // there are items
	pure bool    // all below it is saved and marked: the directory may be marked
	totals
}

// totals add up what a part of the saved tree holds.
type totals struct{ dirs, files, bytes int64 }

func (t *totals) add(o totals) {
	t.dirs += o.dirs
	t.files += o.files
	t.bytes += o.bytes
}

// parent returns the open directory that a path of the source belongs to, making
// it and those above it if they are new; nil for the source's own root.
func (s *sink) parent(src *source, name string) *openDir {
	if name == src.src {
		return nil
	}
	dir := dirOf(name)
	for n := len(src.open); n == 0 || len(src.open[n-1].path) != len(dir); n = len(src.open) {
		next := src.src
		if n > 0 {
			next = below(src.open[n-1].path, dir)
		}
		src.open = append(src.open, s.newDir(src, next))
	}
	return src.open[len(src.open)-1]
}

func (s *sink) newDir(src *source, name string) *openDir {
	d := &openDir{}
	if n := len(s.spare); n > 0 {
		d, s.spare = s.spare[n-1], s.spare[:n-1]
	}
	*d = openDir{path: name, pure: true, w: d.w}
	switch {
	case s.plan.shared(src, name):
		d.top = s.top.at(src.place(name))
	case d.w == nil:
		d.w = new(repo.DirWriter)
		*d.w = s.write
	}
	return d
}

// sparesMax is how many writers are kept for further directories. Each keeps
// what memory its largest directory needed, up to two megabytes.
const sparesMax = 16

// recycle takes back a directory that is stored.
func (s *sink) recycle(d *openDir) {
	if len(s.spare) < sparesMax {
		s.spare = append(s.spare, d)
	}
}

// place puts an entry into its directory, or at the top of the saved tree.
func (s *sink) place(src *source, name string, e repo.DirEntry, t totals) error {
	s.res.Dirs += t.dirs
	s.res.Files += t.files
	s.res.Bytes += t.bytes
	d := s.parent(src, name)
	if d == nil {
		s.top.put(src.dst, e)
		return nil
	}
	d.any = true
	d.totals.add(t)
	if d.top != nil {
		d.top.add(e)
		return nil
	}
	s.frown.note(e.Name, e.Chunked)
	return d.w.Add(e)
}

// taint notes that something in a directory is not saved, or not for good: the
// directory may not be marked.
func (s *sink) taint(src *source, name string) {
	if d := s.parent(src, name); d != nil {
		d.pure = false
	}
}

// dirEnd stores a directory: everything below it has come.
func (s *sink) dirEnd(it *item) error {
	src, name := it.src, it.rec.Path
	var d *openDir
	if n := len(src.open); n > 0 && len(src.open[n-1].path) == len(name) {
		d, src.open = src.open[n-1], src.open[:n-1]
	} else {
		d = s.newDir(src, name)
	}
	up := s.parent(src, name)
	it.racy = it.racy || !d.pure || !s.plan.pure(src, name)
	if up != nil && it.racy {
		up.pure = false
	}
	if it.lost && !d.any {
		s.unmark(it)
		s.recycle(d)
		return nil
	}
	s.seen(it)
	m := meta.FromStat(it.st, &s.names)
	m.Size = -1
	s.bits = m.AppendWith(s.bits[:0], it.extras)
	below := d.totals
	if up != nil {
		up.add(below)
	}
	if d.top != nil {
		d.top.bring(name, s.bits)
		s.recycle(d)
		return nil
	}
	id, err := d.w.Finish(s.bits)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.recycle(d)
	e := repo.DirEntry{Name: baseOf(name), Mode: repo.ModeDir, ID: id}
	if err := s.place(src, name, e, totals{dirs: 1}); err != nil {
		return err
	}
	// The stat stays that of the index run: what changed since must be seen again.
	it.st = it.rec.Stat
	s.mark(it, repo.ModeDir, id, below)
	return nil
}

// check refuses an index that has records below a directory and none of it: what
// was collected for that one would never be stored.
func (s *sink) check(src *source, name string) error {
	if n := len(src.open); n > 0 && !index.Within(name, src.open[n-1].path) {
		return noRecord(src.open[n-1].path)
	}
	return nil
}

// checkClosed does the same at the end.
func (s *sink) checkClosed() error {
	for _, src := range slices.Concat(s.plan.roots, s.plan.cuts) {
		if n := len(src.open); n > 0 {
			return noRecord(src.open[n-1].path)
		}
	}
	return nil
}

func noRecord(dir string) error {
	return fmt.Errorf("the index has no record of %s, which it has records below", dir)
}

// frowned collects names that git frowns on. A few are enough to know all that
// git has to be told.
type frowned struct {
	ids   map[string]bool
	names []string // as they stand in trees
}

// note takes a name that is about to be stored.
func (f *frowned) note(name string, chunked bool) {
	mangled := repo.MangleName(name, chunked)
	for _, id := range repo.FsckIDs(mangled) {
		if f.ids[id] {
			continue
		}
		if f.ids == nil {
			f.ids = map[string]bool{}
		}
		f.ids[id] = true
		if n := len(f.names); n == 0 || f.names[n-1] != mangled {
			f.names = append(f.names, mangled)
		}
	}
}
