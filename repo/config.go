package repo

import (
	"context"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Config is what a repository says of itself.
type Config struct {
	Version       int    // of kedge's format: [kedge] version; 0: bup made it
	ID            string // bup.repo.id
	Chunker       string // [kedge] chunker, or "rollsum:N" after bup.split.files
	SplitTrees    bool   // bup.split.trees
	PackSizeLimit int64  // bytes; 0: the default
	PackObjects   int    // objects in a pack; 0: the default
	Compression   int    // zlib level; -1: the default
}

// Configured is what a Repo implements whose config can be asked for.
type Configured interface{ Config() Config }

// InitOptions says what a new repository is like.
type InitOptions struct {
	FS      *fsx.FS
	Chunker string // "": rabin:13
	Expect  int64  // bytes the repository is expected to grow to; picks N if Chunker is ""
}

// InitDir makes a directory a repository. On a repository it is harmless: what
// is missing is added, nothing that is there is changed, and a bup repository
// stays one.
func InitDir(ctx context.Context, dir string, o InitOptions) (Config, error) { panic("stub") }

// DirOptions says how a directory is opened.
type DirOptions struct {
	FS       *fsx.FS
	ReadOnly bool // Begin and SetRef are refused; nothing is cleaned up
}

// OpenDir opens a repository in a directory: dir itself, or dir/.git if that is there.
func OpenDir(ctx context.Context, dir string, o DirOptions) (*Packs, error) { panic("stub") }

// Packs is a Repo over a Store: all the logic of a repository, whatever holds its files.
type Packs struct{}
