package save

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"path"
	"slices"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// topTree is the upper part of the saved tree: the directories that lead to the
// sources and streams, and those in which several of them meet. It is kept whole
// until everything else is stored.
type topTree struct {
	root topDir
	tree *pack.ID // the whole tree, if a single directory takes the place of the root
}

type topDir struct {
	dirs  map[string]*topDir
	items []repo.DirEntry // complete
	self  []byte          // metadata, if a source brought it
	from  string          // which one
	mixed bool            // several did
}

// emptyMeta is the metadata of a directory that exists nowhere, or in several places.
var emptyMeta = []byte{0}

// errMeet says that two things go to the same place.
var errMeet = errors.New("two sources meet at this path of the saved tree; the first is kept")

func (t *topTree) at(dir string) *topDir {
	if dir == "/" {
		return &t.root
	}
	above, name := split(dir)
	up := t.at(above)
	d := up.dirs[name]
	if d == nil {
		if up.dirs == nil {
			up.dirs = map[string]*topDir{}
		}
		d = &topDir{}
		up.dirs[name] = d
	}
	return d
}

// put places something complete at a path of the saved tree. A directory at "/"
// is the whole tree.
func (t *topTree) put(dst string, e repo.DirEntry) {
	if dst == "/" {
		t.tree = &e.ID
		return
	}
	dir, name := split(dst)
	e.Name = name
	t.at(dir).add(e)
}

// add adds an item, whose metadata may be reused afterwards.
func (d *topDir) add(e repo.DirEntry) {
	e.Meta = bytes.Clone(e.Meta)
	d.items = append(d.items, e)
}

// bring gives the directory the metadata of one in the index.
func (d *topDir) bring(from string, self []byte) {
	d.mixed = d.mixed || d.from != "" && d.from != from
	d.from, d.self = from, bytes.Clone(self)
}

// buildTop stores the upper directories and returns the root tree.
func (s *sink) buildTop() (pack.ID, error) {
	if t := s.top.tree; t != nil {
		return *t, nil
	}
	return s.buildDir(&s.top.root, "/")
}

func (s *sink) buildDir(d *topDir, name string) (pack.ID, error) {
	var items []repo.DirEntry
	for _, n := range slices.Sorted(maps.Keys(d.dirs)) {
		id, err := s.buildDir(d.dirs[n], path.Join(name, n))
		if err != nil {
			return id, err
		}
		items = append(items, repo.DirEntry{Name: n, Mode: repo.ModeDir, ID: id})
	}
	// What leads to something comes first: it would take that along.
	items = append(items, d.items...)
	slices.SortStableFunc(items, func(a, b repo.DirEntry) int { return cmp.Compare(a.Name, b.Name) })
	w := s.write
	for i := range items {
		e := items[i]
		if i > 0 && items[i-1].Name == e.Name {
			s.on.unread(path.Join(name, e.Name), errMeet)
			continue
		}
		s.frown.note(e.Name, e.Chunked)
		if err := w.Add(e); err != nil {
			return pack.ID{}, err
		}
	}
	s.res.Dirs++
	return w.Finish(s.topMeta(d, name))
}

// topMeta returns the metadata of a directory of the upper part.
func (s *sink) topMeta(d *topDir, name string) []byte {
	src, claimed := s.plan.real[name]
	switch {
	case d.mixed || claimed && src != d.from && d.from != "":
		return emptyMeta
	case d.from != "":
		return d.self
	case src == "":
		return emptyMeta
	}
	return leadingMeta(src)
}

// leadingMeta reads the metadata of a directory that leads to the sources from
// where it is now. What cannot be read of it is left off: it is not what was to
// be saved.
func leadingMeta(dir string) []byte {
	d, err := fsx.OpenDir(dir)
	if err != nil {
		return emptyMeta
	}
	defer d.Close()
	st, err := d.Stat()
	if err != nil {
		return emptyMeta
	}
	var names meta.Names
	m := meta.FromStat(st, &names)
	m.Size = -1
	m.Extras, _ = meta.ReadExtras(d.Fd(), st, &names)
	return m.Append(nil)
}
