package save

import (
	"cmp"
	"fmt"
	"path"
	"slices"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// topTree is the upper part of the saved tree: the directories that lead to the
// sources and streams, and those in which several of them meet. It is small and
// kept whole until everything else is stored.
type topTree struct {
	root *topDir
	warn func(path string, err error)
}

type topDir struct {
	dirs  map[string]*topDir
	items []repo.DirEntry // complete
	self  []byte          // metadata, if one source brought it
	selfs int             // how many did
}

// emptyMeta is the metadata of a directory that exists nowhere.
var emptyMeta = []byte{0}

func newTopTree(warn func(string, error)) *topTree {
	return &topTree{root: &topDir{}, warn: warn}
}

func (t *topTree) at(dir string) *topDir {
	if dir == "/" {
		return t.root
	}
	up := t.at(path.Dir(dir))
	name := path.Base(dir)
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
func (t *topTree) put(dst string, e repo.DirEntry) error {
	if dst == "/" {
		if e.Mode != repo.ModeDir || e.Chunked {
			return fmt.Errorf("a file cannot take the place of the root of the saved tree: leave out --strip")
		}
		e.Name = "/"
		t.root.items = append(t.root.items, e)
		return nil
	}
	e.Name = path.Base(dst)
	d := t.at(path.Dir(dst))
	d.items = append(d.items, e)
	return nil
}

// merge adds the contents of a directory to those of others at the same path.
func (t *topTree) merge(dst string, self []byte, items []repo.DirEntry) {
	d := t.at(dst)
	d.items = append(d.items, items...)
	d.self = self
	d.selfs++
}

// build stores the upper directories and returns the root tree. parentMeta
// returns the metadata of a directory of the saved tree that no source brought.
func (t *topTree) build(w *repo.DirWriter, parentMeta func(dir string) []byte) (pack.ID, error) {
	if i := t.root.items; len(i) == 1 && i[0].Name == "/" && t.root.dirs == nil {
		return i[0].ID, nil
	}
	return t.buildDir(t.root, "/", w, parentMeta)
}

func (t *topTree) buildDir(d *topDir, name string, w *repo.DirWriter, parentMeta func(string) []byte) (pack.ID, error) {
	for _, n := range sortedKeys(d.dirs) {
		id, err := t.buildDir(d.dirs[n], path.Join(name, n), w, parentMeta)
		if err != nil {
			return id, err
		}
		// First wins: what was put at this very path before loses to what lies below it.
		d.items = append([]repo.DirEntry{{Name: n, Mode: repo.ModeDir, ID: id}}, d.items...)
	}
	slices.SortStableFunc(d.items, func(a, b repo.DirEntry) int { return cmp.Compare(a.Name, b.Name) })
	d.items = slices.CompactFunc(d.items, func(a, b repo.DirEntry) bool {
		if a.Name == b.Name {
			t.warn(path.Join(name, a.Name), fmt.Errorf("two sources meet at this path of the saved tree; the first is kept"))
		}
		return a.Name == b.Name
	})
	self := d.self
	switch d.selfs {
	case 0:
		self = parentMeta(name)
	case 1:
	default:
		self = emptyMeta
	}
	return w.Write(self, d.items)
}

func sortedKeys(m map[string]*topDir) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// parentMeta reads the metadata of the directories above the sources from where
// they are now; those that exist only in the saved tree have none.
func (p *plan) parentMeta(dir string) []byte {
	src := p.real[dir]
	if src == "" {
		return emptyMeta
	}
	d, err := fsx.OpenDir(src)
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
	// Attributes that cannot be read are left off: the directory is not what was
	// to be saved, it only leads there.
	x, _ := meta.ReadExtras(d.Fd(), st, &names)
	m.Extras = x
	return m.Append(nil)
}
