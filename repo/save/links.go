package save

import (
	"path"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// links are the sets of hard links within the index. Trees made of hard links
// (rotated snapshots) have a set for every file, so a set is small, and its name
// is not a string of its own. It is used by the feeder alone.
type links struct {
	// last is how bup has it: a set is named by that of its paths which is the last in
	// plain byte order. Bup walks backwards, and names a set by what it comes to first.
	last  bool
	at    map[inodeKey]uint32 // inode → number of its set
	sets  []linkSet
	dirs  []string // directories of names
	names []byte   // names in them, one after another
	path  []byte   // scratch
	tidy  int      // compact when names and dirs are more than this
}

type inodeKey struct{ dev, ino uint64 }

// A linkSet is one inode with all of its names that are in the index. The first
// of them, in index order, names the set in the metadata of all, unless links.last.
type linkSet struct {
	dir       uint32 // in links.dirs
	name, end uint32 // in links.names
	left      uint32 // names that the feeder has not come to
	got       *linked
}

// linked is an inode that was read, for those of its names that come later. The
// feeder fills in the first three fields and the sink the others, which only
// the sink reads.
type linked struct {
	dev, ino uint64
	racy     bool
	extras   []byte
	mode     uint32
	id       pack.ID
	size     int64
}

// note takes a record of the index.
func (l *links) note(r *index.Record) {
	if r.Stat.Nlink < 2 || isDir(r.Stat.Mode) {
		return
	}
	k := inodeKey{r.Stat.Dev, r.Stat.Ino}
	if n, ok := l.at[k]; ok {
		s := &l.sets[n]
		s.left++
		if l.last && l.before(s, r.Path) {
			l.call(s, r.Path)
			l.compact()
		}
		return
	}
	if l.at == nil {
		l.at = map[inodeKey]uint32{}
	}
	l.at[k] = uint32(len(l.sets))
	l.sets = append(l.sets, linkSet{left: 1})
	l.call(&l.sets[len(l.sets)-1], r.Path)
}

// before reports whether the name of a set comes before a path, byte by byte. That is not
// the order of the index, in which a '/' comes before all else.
func (l *links) before(s *linkSet, path string) bool {
	l.path = append(l.path[:0], l.dirs[s.dir]...)
	if len(l.path) > 1 {
		l.path = append(l.path, '/')
	}
	l.path = append(l.path, l.names[s.name:s.end]...)
	return string(l.path) < path
}

// call names a set.
func (l *links) call(s *linkSet, path string) {
	dir, name := split(path)
	if n := len(l.dirs); n == 0 || l.dirs[n-1] != dir {
		l.dirs = append(l.dirs, string([]byte(dir))) // the record's strings are not ours
	}
	s.dir, s.name = uint32(len(l.dirs)-1), uint32(len(l.names))
	l.names = append(l.names, name...)
	s.end = uint32(len(l.names))
}

// compact drops the names that no set has any more, when they may be the half of all: with
// thirty snapshots that share their files there would be thirty times as many as needed.
func (l *links) compact() {
	const entry = 32 // about what one of dirs takes besides its bytes
	if len(l.names)+entry*len(l.dirs) <= max(l.tidy, 1<<16) {
		return
	}
	old := *l
	l.names, l.dirs = nil, nil
	moved := make([]uint32, len(old.dirs)) // old number → new one, and 1
	for i := range l.sets {
		s := &l.sets[i]
		if moved[s.dir] == 0 {
			l.dirs = append(l.dirs, old.dirs[s.dir])
			moved[s.dir] = uint32(len(l.dirs))
		}
		s.dir = moved[s.dir] - 1
		name := old.names[s.name:s.end]
		s.name = uint32(len(l.names))
		l.names = append(l.names, name...)
		s.end = uint32(len(l.names))
	}
	l.tidy = 2 * (len(l.names) + entry*len(l.dirs))
}

// take returns the set that a record belongs to, nil if it has only one name.
func (l *links) take(r *index.Record) *linkSet {
	if r.Stat.Nlink < 2 {
		return nil
	}
	n, ok := l.at[inodeKey{r.Stat.Dev, r.Stat.Ino}]
	if !ok {
		return nil
	}
	s := &l.sets[n]
	s.left--
	return s
}

// first returns the name of a set.
func (l *links) first(s *linkSet) string {
	return path.Join(l.dirs[s.dir], string(l.names[s.name:s.end]))
}

// keep notes that the inode is being read, if that is of use to any other name.
func (s *linkSet) keep(st *fsx.Stat) *linked {
	if s == nil || s.left == 0 {
		return nil
	}
	s.got = &linked{dev: st.Dev, ino: st.Ino}
	return s.got
}

// split cuts a path into its directory and its last name.
func split(name string) (dir, base string) {
	i := len(name) - 1
	for i >= 0 && name[i] != '/' {
		i--
	}
	if i <= 0 {
		return "/", name[i+1:]
	}
	return name[:i], name[i+1:]
}

// dirOf returns the directory of a path.
func dirOf(name string) string {
	dir, _ := split(name)
	return dir
}

// baseOf returns the last name of a path; of "/" it is "/".
func baseOf(name string) string {
	if name == "/" {
		return name
	}
	_, base := split(name)
	return base
}
