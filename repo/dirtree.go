package repo

import "github.com/kedgebackup/kedge/pack"

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
