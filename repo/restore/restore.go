package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/kedgebackup/kedge/repo"
)

// Overwrite says what happens to a file that is in the way.
type Overwrite uint8

// IfChanged leaves a file alone that already has the right size, mtime and, with
// Verify, content; Always writes it anew; Never leaves whatever is there.
const (
	IfChanged Overwrite = iota
	Always
	Never
)

// Options says what is restored, where and how.
type Options struct {
	Repo repo.Repo
	// Out is the directory to restore into, "" the working directory. It is made
	// if need be, with its parents.
	Out string
	// Paths are "name/latest/path": what is there is restored as Out/path. With
	// "/" behind it the children of the directory are restored into Out, with "/."
	// Out becomes that directory, its metadata included.
	Paths []string
	// Exclude leaves out what it says true of. Paths begin with "/", which is Out.
	Exclude func(path string, dir bool) bool
	// Numeric takes owners by number, not by name. The maps replace owners by
	// others, as meta.Options has it.
	Numeric           bool
	MapUser, MapGroup map[string]string
	MapUID, MapGID    map[uint32]uint32
	Sparse            bool // holes for runs of zeros of 4 KiB and more
	Overwrite         Overwrite
	// Delete removes what the save does not have from the directories that are
	// restored. Out itself counts as one only if a path ends in "/.". What is
	// mounted below is left alone.
	Delete bool
	System bool // set-id bits, devices, security.* and trusted.* also into a tree that is not fresh
	DryRun bool // change nothing, but say what would be done
	Verify bool // read back and compare what is left alone and what was written
	// Workers is the number of files that are written at a time; 0: one more than
	// there are processors.
	Workers int

	// The functions are called by one goroutine at a time, and may be nil. Paths
	// are as for Exclude, and those of directories end in "/".

	// Warn is called for what could not be restored, or not fully, and with a
	// *WithheldError for what was left off.
	Warn     func(path string, err error)
	Seen     func(path string, what byte) // '+' written, '=' left alone, '-' removed
	Progress func(Progress)
}

// Progress is how far a restore has come. The totals are what was found to do so
// far: they grow until the last directory has been read.
type Progress struct{ Files, FilesTotal, Bytes, BytesTotal int64 }

// Result is what a restore did.
type Result struct {
	Files, Dirs, Bytes int64 // written
	Kept, Removed      int64
	Withheld           int64 // metadata left off for want of System
	Errors             int64 // not, or not fully, restored: exit code 3
}

// WithheldError names what is left off for want of Options.System: "setuid",
// "setgid", "device", or the name of an extended attribute.
type WithheldError struct{ What string }

// Error says what was left off.
func (e *WithheldError) Error() string { return fmt.Sprintf("left off: %s", e.What) }

// ObjectError says that what a save holds cannot be read: which object of which
// file, and why.
type ObjectError struct {
	Path string // in the repository, "name/latest/path"
	Err  error  // names the object, and the pack if there is one
}

// Error names the file and the cause.
func (e *ObjectError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *ObjectError) Unwrap() error { return e.Err }

var errNoPaths = errors.New("nothing to restore was named")

// Run restores. An error means that it stopped; what went wrong with single items
// is in Result.Errors and was given to Warn.
func Run(ctx context.Context, o Options) (Result, error) {
	r, err := newRun(ctx, o)
	if err != nil {
		return Result{}, err
	}
	defer r.close()
	return r.restore()
}
