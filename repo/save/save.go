// Package save is the save pipeline: from the file-system index, the files it
// names and any number of streams to one commit in a repository.
package save

import (
	"context"
	"io"
	"time"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Options says what is saved, where and how. The zero value of every optional
// field is its default.
type Options struct {
	Repo  repo.Repo
	FS    *fsx.FS
	Index *index.File // opened exclusively; may be nil if only streams are saved
	Name  string      // of the save: the ref is refs/heads/NAME; "" moves no ref (only -t/-c wanted)
	Roots []string    // absolute paths in the index
	// Strip, StripPath and Graft rewrite the paths at which sources appear in the
	// saved tree; at most one of the three is used.
	Strip          bool
	StripPath      string
	Graft          [][2]string
	Streams        []Stream
	Date           time.Time // zero: now
	Level          int       // zlib level, 0 to 9; -1: the default (1)
	Workers        int       // 0: one per processor
	MaxSize        int64     // files of this size and more are left out (--smaller); 0: none
	BytesPerSecond int64     // limit on what is added to the repository; 0: none
	DryRun         bool
	Author         string // "Full Name <login@host>"
	Host           string
	Version        string

	Warn     func(path string, err error)             // something was not saved; may be nil
	Seen     func(path string, dir bool, status byte) // 'A', 'M', ' '; may be nil
	Progress func(Progress)                           // now and then; may be nil
}

// Stream is the output of something that becomes one file in the saved tree.
type Stream struct {
	Path string // in the saved tree, absolute
	// Open starts the producer. Close must report whether it ended well: an error
	// means that the save must not be.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Progress is how far a save has come.
type Progress struct {
	Files, FilesTotal int64
	Bytes, BytesTotal int64 // read; total of the changed files by their size in the index
	Path              string
}

// Result is what a save did.
type Result struct {
	Tree, Commit               pack.ID
	Previous                   pack.ID // commit the save stands on
	Files, Dirs                int64   // in the saved tree, where known; of unchanged directories from the index
	FilesRead, FilesNew        int64
	BytesRead                  int64
	BytesNew, BytesDedup       int64 // of BytesRead: not in the repository before; there already
	ObjectsStored, BytesStored int64 // as they stand in packs
	Unreadable                 int64 // paths that were named by Warn and are missing or stale in the save
	Changed                    int64 // files that changed while they were read
	Elapsed                    time.Duration
}
