package repo

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/pack"
)

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
