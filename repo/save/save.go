// Package save is the save pipeline: from the file-system index, the files it
// names and any number of streams to one commit in a repository.
//
// One goroutine, the feeder, walks the index in order and fills batches with the
// bytes of what changed, cut into chunks; workers hash them and deflate what the
// repository lacks; one goroutine, the sink, takes the batches in the order in
// which they were filled, adds objects, and builds trees from the bottom up. So
// every object is added after all it refers to.
//
//	feeder ──work──▶ workers
//	   │                │ done
//	   └─────line───▶ sink ──free──▶ feeder
//
// The package knows no formats: records of metadata, trees and commits are made
// by packages repo and repo/meta.
package save

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Options says what is saved, where and how. The zero value of every optional
// field but Level is its default.
type Options struct {
	Repo  repo.Repo
	FS    *fsx.FS
	Index *index.File // opened exclusively; may be nil if only streams are saved
	Name  string      // of the save: the ref is refs/heads/NAME; "" moves no ref (only -t/-c wanted)
	Roots []string    // absolute paths; of one that is not in the index, all that is below it
	// Strip, StripPath and Graft rewrite the paths at which sources appear in the
	// saved tree; at most one of the three is used. They move directories: a path
	// that is a file stays where it is.
	Strip          bool
	StripPath      string
	Graft          [][2]string
	Streams        []Stream
	Date           time.Time // zero: now
	Level          int       // zlib level, 0 to 9; -1: the repository's, else 1
	Workers        int       // 0: one per processor
	MaxSize        int64     // files of this size and more are left out (--smaller), stored before or not; 0: none
	BytesPerSecond int64     // limit on what is added to the repository; 0: none
	DryRun         bool      // read and count, and change neither repository nor index
	Author         string    // "Full Name <login@host>"
	Host           string
	Version        string

	// The functions are called from several goroutines, but one at a time, and
	// must not wait for the save. Each may be nil.
	Warn     func(path string, err error)             // something was not saved, or not as it should be
	Seen     func(path string, dir bool, status byte) // 'A' new, 'M' changed, 'D' gone, ' ' taken over
	Progress func(Progress)                           // twice a second
}

// Stream is the output of something that becomes one file in the saved tree.
type Stream struct {
	Path string // in the saved tree, absolute
	// Open starts the producer. Close must report whether it ended well: an error
	// means that the save must not be. A Read must come back soon after ctx is
	// done: the save waits for it.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Progress is how far a save has come.
type Progress struct {
	Files, FilesTotal int64
	Bytes, BytesTotal int64  // read; total of the changed files by their size in the index
	Path              string // being read
}

// Result is what a save did.
type Result struct {
	Tree, Commit pack.ID
	Previous     pack.ID // commit the save stands on
	// The whole saved tree: items that are no directories, directories, and the
	// sum of the sizes of files and streams.
	Files, Dirs, Bytes         int64
	FilesRead, FilesNew        int64 // files and streams that were read; of these, never saved before
	BytesRead                  int64 // of them, and of the targets of symbolic links
	BytesNew, BytesDedup       int64 // of BytesRead: not in the repository before; there already
	ObjectsStored, BytesStored int64 // as they stand in packs
	Unreadable                 int64 // paths that were named by Warn and are missing or stale in the save
	Changed                    int64 // files that changed while they were read
	Elapsed                    time.Duration
}

// A NotIndexedError says that of a path to be saved the index knows nothing.
type NotIndexedError struct{ Path string }

// Error names the path.
func (e *NotIndexedError) Error() string { return fmt.Sprintf("%s is not in the index", e.Path) }

// A CollisionError says that a stream was to be saved where something else
// goes. It comes before anything is read.
type CollisionError struct {
	Stream string // where the stream was to go
	Path   string // what is in the way: a path in the index, or another stream
}

// Error names both.
func (e *CollisionError) Error() string {
	return fmt.Sprintf("stream %s: %s is saved at that place", e.Stream, e.Path)
}
