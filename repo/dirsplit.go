package repo

import (
	"strconv"

	"github.com/kedgebackup/kedge/pack"
)

// A split directory (bup.split.trees) is a tree of trees, so that a change in a
// directory of a million names stores a few small trees again and not one of
// 40 MB. Its items, in byte order of their real names, are cut into parts where
// the names say so (nameRoll). If there is only one part, the directory is an
// ordinary one. Otherwise every part becomes a tree, the parts are cut into
// parts again by the names of their first items, and so on, until one tree holds
// all. A part stands in the tree above it as
//
//	<beginning of its first name>..<levels below it, at least 1>.bupd
//
// The beginning is as short as still tells the parts of that tree apart, which
// is for the eye only: nothing is searched by it. The .bupm of the uppermost
// tree holds the directory's own record and nothing else; the trees between have
// none; the lowest have one that begins with an empty record in place of the
// directory's own, or none if all their items are directories.
//
// Names A, X, Xc and z, of which X = "btn8…" ends a part, become:
//
//	.bupm   A..1.bupd/{.bupm,A,X}   b..1.bupd/{.bupm,Xc,z}

// Names are rolled with 13 bits, as in the chunker "rollsum:13".
const (
	rollMask   = 1<<13 - 1
	rollWindow = 64
	rollMost   = 4 << 13 // bytes of names after which a part ends whatever they are
)

// nameRoll decides behind which names a part ends. Its zero value is ready.
type nameRoll struct {
	s1, s2 uint32
	window [rollWindow]byte
	at     int
	ready  bool
	fed    int // bytes of names since the last end of a part
}

func (r *nameRoll) restart() {
	*r = nameRoll{s1: rollWindow * 31, s2: rollWindow * (rollWindow - 1) * 31, ready: true, fed: r.fed}
}

// feed rolls one name and reports whether a part may end behind it. The rest of
// a name in which the sum hits is not rolled, but it is counted.
func (r *nameRoll) feed(name string) bool {
	if !r.ready {
		r.restart()
	}
	hit := false
	for i := 0; i < len(name) && !hit; i++ {
		in, out := uint32(name[i]), uint32(r.window[r.at])
		r.window[r.at] = name[i]
		r.at = (r.at + 1) % rollWindow
		r.s1 += in - out
		r.s2 += r.s1 - rollWindow*(out+31)
		hit = (r.s1<<16|r.s2&0xffff)&rollMask == rollMask
	}
	if hit {
		r.restart()
		r.fed = 0
	}
	r.fed += len(name)
	if r.fed > rollMost {
		r.restart()
		r.fed = 0
		hit = true
	}
	return hit
}

// dirGroup is what is known of the part being collected.
type dirGroup struct {
	n           int
	first, last []byte // real names
	prev        []byte // mangled name of the newest entry
	prevDir     bool
}

func (g *dirGroup) add(name string) {
	if g.n == 0 {
		g.first = append(g.first[:0], name...)
	}
	g.last = append(g.last[:0], name...)
	g.n++
}

func (g *dirGroup) reset() { g.n = 0 }

// groupItem is a complete part.
type groupItem struct {
	record      string // what is rolled for it
	first, last string // real names of the first and the last item in it
	id          pack.ID
}

// endPart stores the part collected so far.
func (w *DirWriter) endPart() error {
	var first []byte
	if w.metas.total+len(w.metas.cur) > 0 {
		first = emptyMeta
	}
	id, err := w.store(first)
	if err != nil {
		return err
	}
	name := string(w.group.first)
	w.parts = append(w.parts, groupItem{name, name, string(w.group.last), id})
	w.disorder, w.cut = false, false
	w.group.reset()
	return nil
}

// join stores the trees above the parts and returns the uppermost.
func (w *DirWriter) join(self []byte) (pack.ID, error) {
	bupm, err := w.Split(self)
	if err != nil {
		return pack.ID{}, err
	}
	bupm.Name = bupmName
	for level := 1; ; level++ {
		cuts := cutParts(w.parts)
		if len(cuts) == 1 {
			_, id, err := w.storeParts(w.parts, level, bupm)
			return id, err
		}
		from := 0
		for i, end := range cuts {
			group := w.parts[from:end]
			name, id, err := w.storeParts(group, level)
			if err != nil {
				return pack.ID{}, err
			}
			w.parts[i] = groupItem{name, group[0].first, group[len(group)-1].last, id}
			from = end
		}
		w.parts = w.parts[:len(cuts)]
	}
}

// cutParts returns where groups of items end. Only the last may have one item,
// so that every level has at most about half as many.
func cutParts(items []groupItem) []int {
	var roll nameRoll
	var cuts []int
	from := 0
	for i := range items {
		if roll.feed(items[i].record) && i+1-from >= 2 || i+1 == len(items) {
			cuts = append(cuts, i+1)
			from = i + 1
		}
	}
	return cuts
}

// storeParts stores a tree of parts, with more entries if any. It returns the
// name of its first part besides.
func (w *DirWriter) storeParts(items []groupItem, level int, more ...TreeEntry) (string, pack.ID, error) {
	end := ".." + strconv.Itoa(level) + partEnd
	list := more
	for i, name := range shortNames(items) {
		list = append(list, TreeEntry{ModeDir, name + end, items[i].id})
	}
	first := list[len(more)].Name
	SortTree(list)
	id, err := w.Emit(AppendTree(nil, list))
	return first, id, err
}

// shortNames returns how the first names of items are abbreviated in one tree.
// Bytes are dropped from the end of a name while the shorter one is continued by
// one byte only in all names that bound the items, those that end there not counted.
//
// Where the last name of one item begins the first of the next, two may come out
// equal; a tree can't hold that, so the second keeps as many bytes as it takes.
func shortNames(items []groupItem) []string {
	bounds := make([]string, 0, 2*len(items))
	firsts := make([]int, len(items)) // where in bounds
	for i := range items {
		firsts[i] = len(bounds)
		bounds = append(bounds, items[i].first)
		if i+1 < len(items) && items[i].last != items[i].first {
			bounds = append(bounds, items[i].last)
		}
	}
	out := make([]string, len(items))
	used := make(map[string]bool, len(items))
	for i := range items {
		name := items[i].first
		n := shortest(bounds, firsts[i])
		for used[name[:n]] && n < len(name) {
			n++
		}
		out[i] = name[:n]
		used[out[i]] = true
	}
	return out
}

// shortest returns the length to which bounds[at] is cut.
func shortest(bounds []string, at int) int {
	name := bounds[at]
	n := 1
	for n < len(name) && (name[:n] == "." || name[:n] == "..") {
		n++
	}
	// The longest beginning shared with a name that goes on differently. Names are
	// sorted, so on either side the nearest such name shares most.
	for i := at - 1; i >= 0; i-- {
		if k := shared(name, bounds[i]); k < len(bounds[i]) {
			n = max(n, k+1)
			break
		}
	}
	for i := at + 1; i < len(bounds); i++ {
		if k := shared(name, bounds[i]); k < len(name) {
			n = max(n, k+1)
			break
		}
	}
	return min(n, len(name))
}

// shared returns how many bytes two names have in common at the beginning.
func shared(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
