package index

import (
	"context"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// File is an index file, open and locked: shared for reading, exclusive for
// Rewrite and Update. The lock dies with the process.
type File struct{}

// Open opens an index for reading only (shared lock). It fails with an error
// that matches fs.ErrNotExist if there is none, *pack.CorruptError if damaged.
func Open(fs *fsx.FS, name string) (*File, error) { panic("stub") }

// OpenExclusive opens an index so that Rewrite may replace it, waiting for other
// users for at most wait (then fsx.ErrLocked).
func OpenExclusive(fs *fsx.FS, name string, wait time.Duration) (*File, error) { panic("stub") }

// Len returns the number of records.
func (f *File) Len() uint64 { panic("stub") }

// Records iterates over the records at and below root ("/" for all), in order.
func (f *File) Records(root string) *Iter { panic("stub") }

// Check reads the whole file and verifies checksums, order and the Below counts.
func (f *File) Check() error { panic("stub") }

// Close gives up the lock.
func (f *File) Close() error { panic("stub") }

// Iter is a position in an index file.
type Iter struct{}

// Next advances to the next record.
func (it *Iter) Next() bool { panic("stub") }

// Record returns the current record, valid until the next call of Next (strings
// and slices included: clone what is kept).
func (it *Iter) Record() *Record { panic("stub") }

// Ordinal returns the number of the current record in the whole file, from 0.
func (it *Iter) Ordinal() uint64 { panic("stub") }

// SkipTo moves so that the next call of Next gives the record with this ordinal,
// without decoding what lies between where it can (whole blocks).
func (it *Iter) SkipTo(ordinal uint64) { panic("stub") }

// Err returns the error that ended the iteration, if any.
func (it *Iter) Err() error { panic("stub") }

// Rewrite makes the next version of the file: the records as they are, but for
// those that were Set or Dropped. Blocks without a change are copied whole.
type Rewrite struct{}

// Rewrite begins a new version of an index opened exclusively.
func (f *File) Rewrite() *Rewrite { panic("stub") }

// Set replaces a record. Ordinals must ascend over all calls of Set and Drop.
func (w *Rewrite) Set(ordinal uint64, rec *Record) error { panic("stub") }

// Drop leaves a record out.
func (w *Rewrite) Drop(ordinal uint64) error { panic("stub") }

// Commit puts the new version in place, durably. If nothing was set or dropped
// the file is not touched.
func (w *Rewrite) Commit() error { panic("stub") }

// Abort throws the new version away; after Commit it does nothing.
func (w *Rewrite) Abort() { panic("stub") }

// Options says what Update walks and how.
type Options struct {
	FS            *fsx.FS
	File          string   // path of the index file; its directory is made if need be
	Roots         []string // absolute, resolved but for a final symbolic link
	OneFileSystem bool     // list mount points, do not enter them
	NoCheckDevice bool     // a changed device number alone is no change
	Exclude       *Exclude // nil: nothing
	Skip          []string // directories that are not listed at all: the repository, the cache, the index
	FakeValid     bool
	FakeInvalid   bool
	Wait          time.Duration // for the lock
	Now           func() time.Time

	// Warn is called for everything that could not be read; Seen for every path
	// with its status: 'A' new, 'M' changed, 'D' gone, ' ' as it was. Either may be nil.
	Warn func(path string, err error)
	Seen func(path string, st *fsx.Stat, status byte)
	// Progress is called now and then with the number of paths so far.
	Progress func(paths uint64)
}

// Result is what an update found.
type Result struct {
	Paths, New, Changed, Gone uint64
	Errors                    uint64
	Rewritten                 bool // false: nothing changed, the file was not touched
}

// Update walks the roots and brings the index up to date. An interrupted or
// failed update leaves the old index.
func Update(ctx context.Context, o Options) (Result, error) { panic("stub") }

// Exclude decides which paths an update passes over. The zero value excludes nothing.
type Exclude struct{}

// Match reports whether an absolute path is excluded.
func (x *Exclude) Match(path string, isDir bool) bool { panic("stub") }
