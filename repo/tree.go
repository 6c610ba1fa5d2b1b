package repo

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/kedgebackup/kedge/pack"
)

// A tree object is its entries, one after another with nothing between:
//
//	mode in octal, no padding   blank   name   NUL   id in binary
//	"100644"                    " "     "a"    00    20 bytes
//
// in an order of git's own: bytewise by name, except that the name of a
// directory (mode 40000) counts as if it ended in '/'. So a file "a.b" stands
// before a directory "a", which stands before a file "a0".

// The modes of tree entries. Saves use the first three; the others are git's.
const (
	ModeFile    = 0o100644
	ModeDir     = 0o040000
	ModeSymlink = 0o120000
	modeExec    = 0o100755
	modeGroup   = 0o100664 // git wrote it in its first months, and reads it still
	modeGitlink = 0o160000 // a commit of another repository, never followed
)

// TreeEntry is one line of a git tree object.
type TreeEntry struct {
	Mode uint32
	Name string // as it stands in the tree, mangled
	ID   pack.ID
}

// SortTree puts entries in git's order, in which a directory's name ends in '/'.
func SortTree(e []TreeEntry) {
	slices.SortFunc(e, func(a, b TreeEntry) int {
		return compareTreeNames(a.Name, a.Mode == ModeDir, b.Name, b.Mode == ModeDir)
	})
}

// compareTreeNames is git's order. Two entries of one name are equal only if
// both are directories or neither is: a tree may hold neither pair.
func compareTreeNames[T ~string | ~[]byte](a T, aDir bool, b T, bDir bool) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return int(a[i]) - int(b[i])
		}
	}
	return int(nameEnd(a, aDir, n)) - int(nameEnd(b, bDir, n))
}

// nameEnd returns the byte at n, counting the '/' of a directory.
func nameEnd[T ~string | ~[]byte](name T, dir bool, n int) byte {
	switch {
	case n < len(name):
		return name[n]
	case dir:
		return '/'
	}
	return 0
}

// AppendTree appends the body of a tree object. The entries must be in git's
// order, with no name twice. It does not allocate if dst is large enough.
func AppendTree(dst []byte, e []TreeEntry) []byte {
	for i := range e {
		dst = appendTreeEntry(dst, e[i].Mode, e[i].Name, e[i].ID)
	}
	return dst
}

func appendTreeEntry[T ~string | ~[]byte](dst []byte, mode uint32, name T, id pack.ID) []byte {
	dst = appendMode(dst, mode)
	dst = append(dst, ' ')
	dst = append(dst, name...)
	dst = append(dst, 0)
	return id.AppendBytes(dst)
}

func appendMode(dst []byte, mode uint32) []byte {
	shift := 15
	for shift > 0 && mode>>shift == 0 {
		shift -= 3
	}
	for ; shift >= 0; shift -= 3 {
		dst = append(dst, '0'+byte(mode>>shift&7))
	}
	return dst
}

// ParseTree calls fn for each entry of a tree object. An order or a mode git
// would not write is an error (*pack.CorruptError with File ""), and so is a
// mode with leading zeros: what is accepted, AppendTree gives back byte for byte.
func ParseTree(body []byte, fn func(TreeEntry) error) error {
	s := NewTreeScanner(body)
	for s.Next() {
		if err := fn(s.Entry()); err != nil {
			return err
		}
	}
	return s.Err()
}

// TreeScanner is ParseTree for hot loops: it pulls, and allocates nothing per entry.
//
//	for s := NewTreeScanner(body); s.Next(); { use(s.Mode, s.Name, s.ID) }
//
// and Err afterwards.
type TreeScanner struct {
	Mode uint32
	Name []byte // part of the body
	ID   pack.ID

	body []byte
	at   int // of the name in the body
	off  int // of the next entry
	err  error
	// open are the names of files that a directory further on could repeat: a
	// file "a" may be followed by "a.b" before the directory "a" would come.
	// Each is a prefix of the next.
	open [][]byte
}

// NewTreeScanner returns a scanner before the first entry of a tree object.
func NewTreeScanner(body []byte) TreeScanner { return TreeScanner{body: body} }

// Err returns what stopped Next, nil at the end of the body.
func (s *TreeScanner) Err() error { return s.err }

// Entry returns the entry with a name of its own.
func (s *TreeScanner) Entry() TreeEntry {
	return TreeEntry{Mode: s.Mode, Name: string(s.Name), ID: s.ID}
}

// Next moves to the next entry. It returns false at the end and at the first
// entry that git would not have written.
func (s *TreeScanner) Next() bool {
	if s.err != nil || s.off == len(s.body) {
		return false
	}
	mode, name, id, n, reason := cutTreeEntry(s.body[s.off:])
	if reason == "" && s.Name != nil {
		reason = s.checkOrder(mode, name)
	}
	if reason != "" {
		s.err = &pack.CorruptError{Off: int64(s.off), Reason: "tree: " + reason}
		return false
	}
	s.Mode, s.Name, s.ID = mode, name, id
	s.at = s.off + bytes.IndexByte(s.body[s.off:], ' ') + 1
	s.off += n
	return true
}

// cutTreeEntry takes the entry at the front of b apart; n is its length.
func cutTreeEntry(b []byte) (mode uint32, name []byte, id pack.ID, n int, reason string) {
	mode, n, reason = cutMode(b)
	if reason != "" {
		return 0, nil, id, 0, reason
	}
	b = b[n:]
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		return 0, nil, id, 0, "name without an end"
	}
	name = b[:end:end]
	if reason = checkTreeName(name); reason != "" {
		return 0, nil, id, 0, reason
	}
	id, rest, ok := pack.CutID(b[end+1:])
	if !ok {
		return 0, nil, id, 0, "id cut off"
	}
	return mode, name, id, n + len(b) - len(rest), ""
}

// cutMode reads the mode and the blank after it.
func cutMode(b []byte) (mode uint32, n int, reason string) {
	const longest = len("100644 ")
	for i, c := range b[:min(len(b), longest)] {
		switch {
		case c == ' ' && knownMode(mode):
			return mode, i + 1, ""
		case c == ' ':
			return 0, 0, fmt.Sprintf("mode %o", mode)
		case c == '0' && i == 0:
			return 0, 0, "mode with leading zeros"
		case c < '0' || c > '7':
			return 0, 0, "mode is not octal"
		}
		mode = mode<<3 | uint32(c-'0')
	}
	return 0, 0, "mode without an end"
}

func knownMode(mode uint32) bool {
	switch mode {
	case ModeFile, ModeDir, ModeSymlink, modeExec, modeGroup, modeGitlink:
		return true
	}
	return false
}

// checkTreeName says why a name cannot be one of a directory, or "".
func checkTreeName(name []byte) string {
	switch {
	case len(name) == 0:
		return "empty name"
	case name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.'):
		return "name is . or .."
	case bytes.IndexByte(name, '/') >= 0:
		return "name with a slash"
	}
	return ""
}

// checkOrder says why an entry may not follow the current one, or "".
func (s *TreeScanner) checkOrder(mode uint32, name []byte) string {
	dir := mode == ModeDir
	if compareTreeNames(s.Name, s.Mode == ModeDir, name, dir) >= 0 {
		return fmt.Sprintf("%q out of order", name)
	}
	for len(s.open) > 0 && !bytes.HasPrefix(name, s.open[len(s.open)-1]) {
		s.open = s.open[:len(s.open)-1]
	}
	if s.Mode != ModeDir && bytes.HasPrefix(name, s.Name) && nameEnd(name, dir, len(s.Name)) <= '/' {
		s.open = append(s.open, s.Name)
	}
	if n := len(s.open); dir && n > 0 && len(s.open[n-1]) == len(name) {
		return fmt.Sprintf("%q twice", name)
	}
	return ""
}

// The ends of names with a meaning. A regular file stored as a tree of chunks is
// called name.bup; what has such an end by itself gets .bupl behind it; .bupm is
// the metadata of a directory, and name..N.bupd a part of a split one.
const (
	chunkedEnd = ".bup"
	literalEnd = ".bupl"
	partEnd    = ".bupd"
	bupmName   = ".bupm"
)

// MangleName returns the name under which something stands in a saved tree.
// Every name that ends in .bup and at most one more byte is mangled, so that
// letters not given a meaning yet are free for one.
func MangleName(name string, chunked bool) string {
	switch {
	case chunked:
		return name + chunkedEnd
	case literal(name):
		return name + literalEnd
	}
	return name
}

// literal reports whether a name needs literalEnd to stand for itself.
func literal[T ~string | ~[]byte](name T) bool {
	n := len(name)
	return n >= 4 && string(name[n-4:]) == chunkedEnd || n >= 5 && string(name[n-5:n-1]) == chunkedEnd
}

// entryKind is what an entry of a saved tree stands for.
type entryKind uint8

const (
	kindPlain   entryKind = iota // file, directory or link under its real name
	kindChunked                  // regular file stored as a tree of chunks
	kindPart                     // part of a split directory
	kindMeta                     // the .bupm of the directory
)

// unmangle returns the real name behind an entry of a saved tree. A tree that
// git made by itself can hold a blob called x.bup: only a directory of that
// name is a chunked file.
func unmangle[T ~string | ~[]byte](mode uint32, name T) (T, entryKind) {
	n := len(name)
	if n < 4 {
		return name, kindPlain
	}
	if string(name) == bupmName {
		return name, kindMeta
	}
	if n > len(literalEnd) && string(name[n-5:]) == literalEnd {
		return name[:n-5], kindPlain
	}
	if mode != ModeDir {
		return name, kindPlain
	}
	if n > len(chunkedEnd) && string(name[n-4:]) == chunkedEnd {
		return name[:n-4], kindChunked
	}
	if n > len(partEnd) && string(name[n-5:]) == partEnd {
		return name, kindPart
	}
	return name, kindPlain
}

// UnmangleName returns the real name of an entry of a saved tree, and whether
// it is a regular file stored as a tree of chunks.
func UnmangleName(mode uint32, name string) (real string, chunked bool) {
	real, kind := unmangle(mode, name)
	return real, kind == kindChunked
}

// validName says why something cannot be the real name of an item, or nil.
func validName(name string) error {
	if reason := checkTreeName([]byte(name)); reason != "" {
		return fmt.Errorf("%q: %s", name, reason)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("%q: name with a NUL", name)
	}
	return nil
}
