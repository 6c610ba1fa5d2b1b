package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// DirItem is an item of a saved directory.
type DirItem struct {
	Name    string // real name; "." is the directory itself
	Mode    uint32 // of the tree entry
	Chunked bool   // a regular file stored as a tree of chunks; Mode is ModeDir
	ID      pack.ID

	// Meta is what is recorded of the item. Its Mode is 0 if nothing is, and of
	// directories other than "." nothing ever is: theirs is in their own tree
	// (DirMetas). It is valid until the function it was passed to returns.
	Meta *meta.Meta
	// Lost says that there should be metadata, but they are gone or are not to be
	// told from others'; for "." also that this is so for items. Err says why, once
	// for all the items that it befell.
	Lost bool
	Err  error
}

// IsDir reports whether the item is a directory.
func (d *DirItem) IsDir() bool { return d.Mode == ModeDir && !d.Chunked }

// StatMode returns the item's whole st_mode: what is recorded or, where nothing
// is, what suits the tree entry. Of an item whose metadata were lost, group and
// others may do nothing: it may have been a secret.
func (d *DirItem) StatMode() uint32 {
	if d.Meta != nil && d.Meta.Mode != 0 {
		return d.Meta.Mode
	}
	mode := defaultMode(d.Mode, d.Chunked)
	if d.Lost {
		mode &^= 0o077
	}
	return mode
}

// defaultMode returns the st_mode of something of which only the tree entry is known.
func defaultMode(mode uint32, chunked bool) uint32 {
	switch {
	case chunked:
		return meta.TypeFile | 0o644
	case mode == ModeDir:
		return meta.TypeDir | 0o755
	case mode == ModeSymlink:
		return meta.TypeSymlink | 0o755
	case mode == modeExec:
		return meta.TypeFile | 0o755
	}
	return meta.TypeFile | 0o644
}

// fits reports whether metadata of a mode can belong to a tree entry.
func fits(mode uint32, chunked bool, stat uint32) bool {
	switch stat & meta.TypeMask {
	case 0:
		return stat == 0
	case meta.TypeFile:
		return chunked || mode != ModeDir && mode != ModeSymlink
	case meta.TypeSymlink:
		return mode == ModeSymlink
	case meta.TypeDir:
		return mode == ModeDir && !chunked
	}
	return mode != ModeDir && mode != ModeSymlink
}

// ReadDir calls fn for the directory stored as tree, as ".", and then for each of
// its items in byte order of their names. Metadata are joined from .bupm; where
// that is missing or does not fit the items, they come without (DirItem.Lost).
// Split directories appear as one. The item may be kept, but for its Meta.
//
// A directory of a million files takes about 100 MB while it is read.
//
// Tree objects that are missing are a *MissingError; trees no writer makes, such
// as one with two items of one real name, are a *pack.CorruptError.
func ReadDir(ctx context.Context, r Repo, tree pack.ID, fn func(*DirItem) error) error {
	top, err := loadDir(ctx, r, tree)
	if err != nil {
		return err
	}
	d := dirReader{ctx: ctx, r: r, fn: fn}
	if !top.split() {
		return d.list(top, true)
	}
	leaves, err := d.leaves(tree, top)
	if err != nil {
		return err
	}
	if err := d.list(top, true); err != nil {
		return err
	}
	for _, leaf := range leaves {
		l, err := loadDir(ctx, r, leaf.id)
		if err != nil {
			return err
		}
		if err := d.list(l, false); err != nil {
			return err
		}
	}
	return nil
}

// dirList is a tree of a saved directory, taken apart: 8 bytes for each entry
// besides the tree's own.
type dirList struct {
	id    pack.ID
	body  []byte
	items []dirRef // those that are items or parts, in byte order of their real names
	bupm  TreeEntry
	has   bool // a .bupm
	parts int  // of items
}

// dirRef is where a name stands in a tree, and what it is.
type dirRef struct {
	off  uint32
	what uint32 // length of the real name << 8 | kind << 4 | mode
}

var refModes = [...]uint32{ModeFile, ModeDir, ModeSymlink, modeExec, modeGroup, modeGitlink}

func makeRef(off int, real []byte, kind entryKind, mode uint32) dirRef {
	return dirRef{uint32(off), uint32(len(real)<<8 | int(kind)<<4 | slices.Index(refModes[:], mode))}
}

func (r dirRef) kind() entryKind { return entryKind(r.what >> 4 & 15) }
func (r dirRef) mode() uint32    { return refModes[r.what&15] }
func (r dirRef) dir() bool       { return r.mode() == ModeDir && r.kind() != kindChunked }

// name returns the real name of an item, part of the tree's body.
func (l *dirList) name(r dirRef) []byte { return l.body[r.off : r.off+r.what>>8] }

// id returns the id behind a name.
func (l *dirList) idOf(r dirRef) pack.ID {
	end := int(r.off + r.what>>8)
	end += bytes.IndexByte(l.body[end:], 0)
	id, _, _ := pack.CutID(l.body[end+1:])
	return id
}

// split reports whether the tree holds parts of a directory.
func (l *dirList) split() bool { return l.parts > 0 }

// limits of one tree object that is read as a directory.
const (
	maxDirTree  = 1 << 30
	maxDirEntry = 1 << 24 // bytes of a name
)

// loadDir gets a tree and takes it apart.
func loadDir(ctx context.Context, r Repo, id pack.ID) (*dirList, error) {
	l := &dirList{id: id}
	err := getTyped(ctx, r, id, pack.Tree, func(body []byte) error {
		if len(body) > maxDirTree {
			return corruptTree(id, "tree of %d bytes", len(body))
		}
		l.body = bytes.Clone(body)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, l.scan()
}

// scan finds the items and puts them in order.
func (l *dirList) scan() error {
	s := NewTreeScanner(l.body)
	inOrder := true
	for s.Next() {
		real, kind := unmangle(s.Mode, s.Name)
		if len(real) >= maxDirEntry {
			return corruptTree(l.id, "name of %d bytes", len(real))
		}
		switch kind {
		case kindMeta:
			l.has, l.bupm = true, s.Entry()
			continue
		case kindPart:
			l.parts++
		}
		if reason := checkTreeName(real); reason != "" {
			return corruptTree(l.id, "%q: %s", s.Name, reason)
		}
		ref := makeRef(s.at, real, kind, s.Mode)
		if n := len(l.items); n > 0 && bytes.Compare(l.name(l.items[n-1]), real) >= 0 {
			inOrder = false
		}
		l.items = append(l.items, ref)
	}
	if s.Err() != nil {
		return corruptTree(l.id, "%s", s.Err().(*pack.CorruptError).Reason)
	}
	if l.parts > 0 && l.parts < len(l.items) {
		return corruptTree(l.id, "parts of a directory beside items")
	}
	if inOrder {
		return nil
	}
	slices.SortFunc(l.items, func(a, b dirRef) int { return bytes.Compare(l.name(a), l.name(b)) })
	for i := 1; i < len(l.items); i++ {
		if bytes.Equal(l.name(l.items[i-1]), l.name(l.items[i])) {
			return corruptTree(l.id, "%q twice", l.name(l.items[i]))
		}
	}
	return nil
}

// leafRef is one of the lowest trees of a split directory.
type leafRef struct {
	first string
	id    pack.ID
}

// leaves finds the lowest trees of a split directory, in the order of their first
// names. The names of the parts do not tell: they are abbreviated too far at times.
func (d *dirReader) leaves(id pack.ID, top *dirList) ([]leafRef, error) {
	var out []leafRef
	seen := map[pack.ID]bool{id: true}
	type part struct {
		list  *dirList
		next  int
		level int // of the items; 0: any
	}
	stack := []part{{list: top}}
	for len(stack) > 0 {
		p := &stack[len(stack)-1]
		if p.next == len(p.list.items) {
			stack = stack[:len(stack)-1]
			continue
		}
		ref := p.list.items[p.next]
		p.next++
		level, err := partLevel(p.list.name(ref))
		if err != nil || p.level > 0 && level != p.level {
			return nil, corruptTree(p.list.id, "%q is no part of level %d", p.list.name(ref), p.level)
		}
		p.level = level
		id := p.list.idOf(ref)
		if seen[id] {
			return nil, corruptTree(p.list.id, "part %v twice", id)
		}
		seen[id] = true
		l, err := loadDir(d.ctx, d.r, id)
		if err != nil {
			return nil, err
		}
		switch {
		case len(l.items) == 0, l.split() != (level > 1):
			return nil, corruptTree(id, "is no part of level %d", level)
		case level > 1:
			stack = append(stack, part{list: l, level: level - 1})
		default:
			out = append(out, leafRef{string(l.name(l.items[0])), id})
		}
	}
	slices.SortFunc(out, func(a, b leafRef) int { return strings.Compare(a.first, b.first) })
	return out, nil
}

// maxPartLevel is far above what any directory comes to: every level has at most
// half as many parts as the one below, and the names of one part fill kilobytes.
const maxPartLevel = 32

var (
	errNoPart = errors.New("no part of a directory")
	errNotDir = errors.New("record of the directory is no directory's")
)

// partLevel returns the number in "abbreviation..2.bupd".
func partLevel(name []byte) (int, error) {
	s := strings.TrimSuffix(string(name), partEnd)
	n, err := strconv.Atoi(s[strings.LastIndexByte(s, '.')+1:])
	if err != nil || n < 1 || n > maxPartLevel || !strings.Contains(s, "..") {
		return 0, errNoPart
	}
	return n, nil
}

// dirReader gives out the items of one directory.
type dirReader struct {
	ctx    context.Context
	r      Repo
	fn     func(*DirItem) error
	hasTop bool  // the directory has a .bupm: then its items had metadata
	why    error // not yet given out: why the metadata of the items that follow are lost
	n      int   // items given out
	item   DirItem
	meta   meta.Meta
}

// list gives out the items of one tree and, if it is the uppermost, the directory.
func (d *dirReader) list(l *dirList, top bool) error {
	m, state, err := d.openMeta(l)
	if err != nil {
		return err
	}
	last := d.item.Name
	d.why = state.err
	if top {
		d.hasTop = l.has
		d.item = DirItem{Name: ".", Mode: ModeDir, ID: l.id, Lost: state.lost}
		if err := d.give(m); err != nil {
			return err
		}
	} else if m != nil {
		if _, _, err := m.next(); err != nil { // the record in place of the directory's own
			return err
		}
	}
	if l.split() {
		return nil
	}
	if state.lost {
		m = nil
	}
	for _, ref := range l.items {
		d.item = l.item(ref)
		if d.n > 0 && d.item.Name <= last {
			return corruptTree(l.id, "%q after %q in a split directory", d.item.Name, last)
		}
		last = d.item.Name
		d.n++
		if err := d.give(m); err != nil {
			return err
		}
	}
	return nil
}

// item returns what an entry of the tree is.
func (l *dirList) item(ref dirRef) DirItem {
	return DirItem{Name: string(l.name(ref)), Mode: ref.mode(), Chunked: ref.kind() == kindChunked, ID: l.idOf(ref)}
}

// give gives out d.item with the next record of m, if it is one that has a record.
func (d *dirReader) give(m *bupm) error {
	d.meta = meta.Meta{Size: -1}
	d.item.Meta = &d.meta
	if !d.item.IsDir() || d.item.Name == "." {
		d.item.Err, d.why = d.why, nil
		if err := d.join(m); err != nil {
			return err
		}
	}
	return d.fn(&d.item)
}

// join takes the next record for d.item.
func (d *dirReader) join(m *bupm) error {
	if m != nil {
		record, _, err := m.next()
		if err != nil {
			return err
		}
		got, _, err := meta.Parse(record)
		if err == nil {
			d.meta = got
		} else if d.item.Err == nil {
			d.item.Err = m.corrupt(fmt.Errorf("record of %q: %w", d.item.Name, err))
		}
	}
	if d.meta.Mode == 0 && d.hasTop {
		d.item.Lost = true
	}
	return nil
}

// metaState says whether the records of a tree can be given to its items.
type metaState struct {
	lost bool
	err  error
}

// openMeta opens the .bupm of a tree, nil if it has none or cannot be used at
// all, and counts its records.
func (d *dirReader) openMeta(l *dirList) (*bupm, metaState, error) {
	if !l.has {
		return nil, metaState{}, nil
	}
	m, err := openBupm(d.ctx, d.r, l.bupm)
	if err == nil {
		err = m.keep()
	}
	var selfOK bool
	if err == nil {
		selfOK, err = l.checkMeta(m, nil)
	}
	state := metaState{lost: err != nil, err: err}
	if err != nil && !damaged(err) {
		return nil, state, err
	}
	if !selfOK {
		return nil, state, nil
	}
	return m, state, m.rewind()
}

// damaged reports whether an error says that something of the repository is
// wrong or gone, and not that it could not be asked.
func damaged(err error) bool {
	var missing *MissingError
	var corrupt *pack.CorruptError
	return errors.As(err, &missing) || errors.As(err, &corrupt)
}

// checkMeta compares number and types of the records with the items, and gives
// the records to each if that is not nil. SelfOK says that the first record, the
// directory's own, can be used whatever err is.
func (l *dirList) checkMeta(m *bupm, each func(name string, record []byte) error) (selfOK bool, err error) {
	if each == nil {
		each = func(string, []byte) error { return nil }
	}
	record, mode, err := m.next()
	if err != nil {
		return false, err
	}
	if record == nil {
		return false, m.corrupt(errors.New("no records"))
	}
	if !fits(ModeDir, false, mode) {
		return false, m.corrupt(fmt.Errorf("first record is of mode %o", mode))
	}
	if err := each(".", record); err != nil {
		return true, err
	}
	for _, ref := range l.items {
		if ref.dir() {
			continue
		}
		record, mode, err := m.next()
		switch {
		case err != nil:
			return true, err
		case record == nil:
			return true, m.corrupt(errors.New("too few records"))
		case !fits(ref.mode(), ref.kind() == kindChunked, mode):
			return true, m.corrupt(fmt.Errorf("record of mode %o for %q", mode, l.name(ref)))
		}
		if err := each(string(l.name(ref)), record); err != nil {
			return true, err
		}
	}
	record, _, err = m.next()
	if err == nil && record != nil {
		err = m.corrupt(errors.New("too many records"))
	}
	return true, err
}
