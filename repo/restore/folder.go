package restore

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// folder is a directory of the target that is being filled.
type folder struct {
	root   *root
	parent *folder // nil for Out
	name   string
	tree   pack.ID  // of the saved directory
	dir    *fsx.Dir // nil while it is parked, and in a dry run if it is not there

	meta  meta.Meta // of the saved directory; Mode 0 if not known
	mode  uint32    // what suits it then
	dress bool      // it gets the metadata
	fresh bool      // made by this run: nothing of others is in it
	clean bool      // what the save does not have is to be removed

	// What was there before, in byte order of the names, up to next dealt with.
	listed []string
	next   int

	links    []item   // symbolic links, to be made last
	moreFrom string   // those behind this name were not kept: read the directory again
	surplus  []string // to be removed

	shared atomic.Pointer[string] // path, if several will keep it

	// pins is the number of files on the way into it, for which dir must stay open.
	pins     atomic.Int32
	dev, ino uint64 // while it is parked
}

// item is something to be made in a folder.
type item struct {
	f      *folder
	name   string
	id     pack.ID
	mode   uint32    // the whole st_mode
	meta   meta.Meta // Mode 0 if nothing is known but mode
	exists bool      // the name is, or may be, taken
}

// path returns where it is in the target, "/" being Out.
func (it *item) path() string { return it.f.path() + it.name }

// saved returns where it is in the repository.
func (it *item) saved() string { return it.f.root.saved(it.path()) }

// saved translates a path of the target.
func (rt *root) saved(path string) string {
	base := rt.path
	if !rt.into { // the first name of path is the last of base
		base = base[:strings.LastIndexByte(base, '/')+1]
		return strings.TrimSuffix(base, "/") + path
	}
	return base + path
}

// path returns where the folder is in the target, with a "/" at its end.
func (f *folder) path() string {
	n := 1
	for p := f; p.parent != nil; p = p.parent {
		n += len(p.name) + 1
	}
	b := make([]byte, n)
	for p := f; p.parent != nil; p = p.parent {
		n--
		b[n] = '/'
		n -= len(p.name)
		copy(b[n:], p.name)
	}
	b[0] = '/'
	return string(b)
}

// sharedPath is path for those who keep it: they get the same string.
func (f *folder) sharedPath() string {
	if p := f.shared.Load(); p != nil {
		return *p
	}
	p := f.path()
	f.shared.Store(&p)
	return p
}

// list reads what is in a folder that was there before.
func (f *folder) list() error {
	if f.dir == nil || f.fresh {
		return nil
	}
	err := f.dir.Read(func(n fsx.DirName) error {
		f.listed = append(f.listed, n.Name)
		return nil
	})
	slices.Sort(f.listed)
	return err
}

// meets reports whether there is something called name. It is asked in byte
// order, and notes what it is not asked for as surplus.
func (f *folder) meets(name string) bool {
	for f.next < len(f.listed) {
		have := f.listed[f.next]
		if have > name {
			break
		}
		f.next++
		if have == name {
			return true
		}
		f.pass(have)
	}
	return false
}

// rest notes what is behind the last name that was asked for.
func (f *folder) rest() {
	for _, name := range f.listed[f.next:] {
		f.pass(name)
	}
	f.listed, f.next = nil, 0
}

// pass decides about a name that the save does not have: it is removed if it is
// a temporary one that an earlier run left behind, and otherwise if that is wanted.
func (f *folder) pass(name string) {
	if f.clean || fsx.IsTempName(name) {
		f.surplus = append(f.surplus, name)
	}
}

// park closes a folder for a while. It reports whether it could.
func (f *folder) park() bool {
	if f.dir == nil || f.pins.Load() > 0 {
		return false
	}
	st, err := f.dir.Stat()
	if err != nil {
		return false
	}
	f.dev, f.ino = st.Dev, st.Ino
	f.dir.Close()
	f.dir = nil
	return true
}

// unpark opens a folder again, from a directory below it. It must be the same
// one: somebody may have moved the tree.
func (f *folder) unpark(below *fsx.Dir) error {
	dir, err := below.Parent()
	if err != nil {
		return err
	}
	st, err := dir.Stat()
	if err == nil && (st.Dev != f.dev || st.Ino != f.ino) {
		err = fsx.ErrMoved
	}
	if err != nil {
		dir.Close()
		return err
	}
	f.dir = dir
	return nil
}

// close gives the descriptor back.
func (f *folder) close() {
	if f.dir != nil {
		f.dir.Close()
		f.dir = nil
	}
}
