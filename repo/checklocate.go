package repo

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

// The limits of looking for the paths that damage is behind. A lost pack can be
// behind every path of ten thousand saves.
const (
	maxAffected = 100_000   // paths named
	maxLooked   = 4_000_000 // trees looked at
	maxNested   = 1 << 16   // directories in one another
)

// locator finds the paths of one ref's saves that damage is behind.
type locator struct {
	*checker
	ref    string
	save   int // which one is being looked at, counted from the newest
	byPath map[string]*affected
	order  []*affected
	looked int
}

// affected is a path and the saves in which it is.
type affected struct {
	path string
	culprit
	first, last int // of the saves
	saves       int
}

// culprit is an object that is no good, and why; the zero culprit is none. It need not be
// among those that are lost: an object can be right in one place and of the wrong type in
// another, and of more than maxBad the others are only counted.
type culprit struct {
	id   pack.ID
	what string
}

func (c culprit) isNone() bool { return c == culprit{} }

const tooDeep = "trees are nested too deeply"

// errEnough ends a search that has found more than anybody wants to read.
var errEnough = errors.New("enough was found")

// locate names damaged objects by the paths of saves that reach them. A tree
// below which nothing is damaged is looked at once, whatever reaches it.
func (c *checker) locate() error {
	if len(c.lost) == 0 {
		return nil
	}
	if c.unnamed > 0 {
		c.find(Finding{Kind: Note, Reason: fmt.Sprintf("%d more damaged objects are not traced to paths", c.unnamed)})
	}
	c.fine, c.fineLoose = makeBitmap(c.n), make(map[pack.ID]struct{})
	looked := 0
	for _, t := range c.tips {
		l := &locator{checker: c, ref: t.ref, byPath: make(map[string]*affected), looked: looked}
		saves, err := l.saves(t)
		if err != nil {
			return err
		}
		for i, s := range saves {
			l.save = i
			_, err = l.dir(s.tree, "", 0)
			if err != nil {
				break
			}
		}
		looked = l.looked
		l.tell(saves)
		if err == errEnough {
			c.find(Finding{Kind: Note, Ref: t.ref, Reason: "more paths are affected than are named"})
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// saves returns the saves of a ref, the newest first, as far as they can be read.
func (l *locator) saves(t tip) (branch, error) {
	var b branch
	next := []pack.ID{t.id} // those that were come to last
	err := WalkCommits(l.ctx, l.p, t.id, func(id pack.ID, c *Commit) error {
		b = append(b, savedAt{id, c.Tree, c.Author.When.Unix()})
		if !t.parents {
			return errEnough
		}
		next = c.Parents
		return nil
	})
	if err != nil && err != errEnough && !damaged(err) {
		return nil, err
	}
	if damaged(err) {
		for _, id := range next {
			if _, ok := l.lost[id]; ok {
				l.find(Finding{Kind: Affected, Ref: l.ref, Object: id, Reason: "the commit of a save; it and the saves before it are not reached"})
			}
		}
	}
	return b, nil
}

// tell reports what was found in a ref.
func (l *locator) tell(saves branch) {
	zone := l.o.Zone
	if zone == nil {
		zone = time.Local
	}
	names := saves.names(zone)
	for _, a := range l.order {
		l.find(Finding{Kind: Affected, Ref: l.ref, Newest: names[a.first], Oldest: names[a.last], Saves: a.saves,
			Path: a.path, Object: a.id, Reason: a.what})
	}
}

// name notes that a path is affected in the save at hand.
func (l *locator) name(path string, bad culprit) error {
	if path == "" {
		path = "/"
	}
	a := l.byPath[path]
	if a == nil {
		if len(l.byPath) == maxAffected {
			return errEnough
		}
		a = &affected{path: path, culprit: bad, first: l.save, last: l.save - 1}
		l.byPath[path] = a
		l.order = append(l.order, a)
	}
	if a.last < l.save || a.saves == 0 {
		a.saves++
	}
	a.last = l.save
	return nil
}

// known reports whether a tree was found to be fine before.
func (l *locator) known(id pack.ID) (num int, fine bool, err error) {
	if l.looked++; l.looked > maxLooked {
		return -1, false, errEnough
	}
	num, err = l.number(l.p, id, true)
	if damaged(err) {
		num, err = -1, nil
	}
	if num < 0 {
		_, fine = l.fineLoose[id]
		return num, fine, err
	}
	return num, l.fine.has(num), err
}

// settle remembers what was found out of a tree.
func (l *locator) settle(num int, id pack.ID, hit bool) {
	switch {
	case hit:
	case num < 0:
		l.fineLoose[id] = struct{}{}
	default:
		l.fine.add(num)
	}
}

// dir names what is affected in a directory, and reports whether anything is.
func (l *locator) dir(id pack.ID, path string, depth int) (hit bool, err error) {
	if bad, ok := l.lost[id]; ok {
		if err := l.name(path, culprit{id, bad.what}); err != nil || bad.kind != BadMeta {
			return true, err
		}
		hit = true // what is in it can be read all the same
	}
	num, fine, err := l.known(id)
	if fine || err != nil {
		return hit, err
	}
	list, err := loadDir(l.ctx, l.p, id)
	switch {
	case damaged(err):
		return true, l.name(path, culprit{id, err.Error()})
	case err != nil:
		return true, err
	case depth == maxNested:
		return true, l.name(path, culprit{id, tooDeep})
	}
	if bad, err := l.content(list.bupm.ID, list.has && list.bupm.Mode == ModeDir); err != nil {
		return true, err
	} else if list.has && !bad.isNone() {
		if hit = true; l.name(path, bad) != nil {
			return true, errEnough
		}
	}
	for _, ref := range list.items {
		below, err := l.item(list, ref, path, depth)
		if err != nil {
			return true, err
		}
		hit = hit || below
	}
	l.settle(num, id, hit)
	return hit, nil
}

// item names what is affected in an item of a directory.
func (l *locator) item(list *dirList, ref dirRef, path string, depth int) (hit bool, err error) {
	id := list.idOf(ref)
	full := path
	if ref.kind() != kindPart {
		full = fmt.Sprintf("%s/%s", path, list.name(ref))
	}
	if ref.dir() {
		return l.dir(id, full, depth+1)
	}
	bad, err := l.content(id, ref.kind() == kindChunked)
	if err != nil || bad.isNone() {
		return false, err
	}
	return true, l.name(full, bad)
}

// content returns a damaged object of a file.
func (l *locator) content(id pack.ID, chunked bool) (culprit, error) {
	if bad, ok := l.lost[id]; ok {
		return culprit{id, bad.what}, nil
	}
	if !chunked {
		return culprit{}, nil
	}
	return l.chunks(id, 0)
}

// chunks returns a damaged object below a tree of chunks, or the tree itself.
func (l *locator) chunks(id pack.ID, depth int) (culprit, error) {
	if bad, ok := l.lost[id]; ok {
		return culprit{id, bad.what}, nil
	} else if depth == maxChunkDepth {
		return culprit{id, tooDeep}, nil
	}
	num, fine, err := l.known(id)
	if fine || err != nil {
		return culprit{}, err
	}
	var refs []chunkRef
	err = getTyped(l.ctx, l.p, id, pack.Tree, func(body []byte) (err error) {
		refs, err = parseChunks(id, body, 0, -1)
		return err
	})
	if damaged(err) {
		return culprit{id, err.Error()}, nil
	} else if err != nil {
		return culprit{}, err
	}
	i := slices.IndexFunc(refs, func(ref chunkRef) bool {
		_, ok := l.lost[ref.id]
		return ok
	})
	if i >= 0 {
		return culprit{refs[i].id, l.lost[refs[i].id].what}, nil
	}
	for _, ref := range refs {
		if !ref.tree {
			continue
		}
		if bad, err := l.chunks(ref.id, depth+1); err != nil || !bad.isNone() {
			return bad, err
		}
	}
	l.settle(num, id, false)
	return culprit{}, nil
}
