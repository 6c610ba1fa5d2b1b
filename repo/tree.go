package repo

import "github.com/kedgebackup/kedge/pack"

// The modes of tree entries.
const (
	ModeFile    = 0o100644
	ModeDir     = 0o040000
	ModeSymlink = 0o120000
)

// TreeEntry is one line of a git tree object.
type TreeEntry struct {
	Mode uint32
	Name string // as it stands in the tree, mangled
	ID   pack.ID
}

// SortTree puts entries in git's order, in which a directory's name ends in '/'.
func SortTree(e []TreeEntry) { panic("stub") }

// AppendTree appends the body of a tree object. The entries must be in git's
// order, with no name twice.
func AppendTree(dst []byte, e []TreeEntry) []byte { panic("stub") }

// ParseTree calls fn for each entry of a tree object. An order or a mode git
// would not write is an error (*pack.CorruptError with File "").
func ParseTree(body []byte, fn func(TreeEntry) error) error { panic("stub") }

// MangleName returns the name under which something stands in a saved tree.
func MangleName(name string, chunked bool) string { panic("stub") }

// ChunkTree turns the chunks of one file into trees (BUP-COMPAT 2.3's rule):
// a level closes lists of entries from the bottom up, and no tree has more than
// 256 entries. It is reused with Reset.
type ChunkTree struct {
	// Emit stores a tree and returns its id. Body is valid during the call.
	Emit func(body []byte) (pack.ID, error)
}

// Reset forgets everything but Emit.
func (t *ChunkTree) Reset() { panic("stub") }

// Add appends a chunk.
func (t *ChunkTree) Add(id pack.ID, size int64, level uint8) error { panic("stub") }

// Finish returns what a directory entry holds for the file: a blob for one
// chunk, a tree for more. With no chunk at all ok is false: the entry is the
// empty blob, which the caller stores.
func (t *ChunkTree) Finish() (e TreeEntry, ok bool, err error) { panic("stub") }

// DirEntry is one item of a directory about to be stored.
type DirEntry struct {
	Name    string // real name
	Mode    uint32 // ModeFile, ModeDir, ModeSymlink
	Chunked bool   // a regular file stored as a tree: Mode is ModeDir
	ID      pack.ID
	Meta    []byte // encoded metadata; nil for directories
}

// DirWriter turns the items of one directory into its tree, .bupm included, and
// into several where the repository splits directories (bup.split.trees).
type DirWriter struct {
	Split      func(body []byte) (TreeEntry, error) // stores .bupm bytes: a blob or a chunk tree
	Emit       func(body []byte) (pack.ID, error)   // stores a tree
	SplitTrees bool
}

// Write stores a directory whose items are in byte order of their real names;
// self is the encoded metadata of the directory.
func (w *DirWriter) Write(self []byte, items []DirEntry) (pack.ID, error) { panic("stub") }
