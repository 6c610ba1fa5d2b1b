// Package restore writes what a repository holds back to a file system, or to a
// tar stream.
package restore

import (
	"context"
	"io"

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
	Repo              repo.Repo
	Out               string   // directory to restore into; "" is the working directory
	Paths             []string // "name/latest/path"; trailing "/" and "/." as in bup
	Exclude           func(path string, dir bool) bool
	Numeric           bool
	MapUser, MapGroup map[string]string
	MapUID, MapGID    map[uint32]uint32
	Sparse            bool
	Overwrite         Overwrite
	Delete            bool // remove what the save does not have, below each restored directory
	System            bool // set-id bits, devices, security.* and trusted.* also into a tree that is not fresh
	DryRun            bool
	Verify            bool // read back and compare what is left alone and what was written
	Workers           int

	Warn     func(path string, err error)
	Seen     func(path string, what byte) // '+' written, '=' left alone, '-' removed
	Progress func(Progress)
}

// Progress is how far a restore has come.
type Progress struct{ Files, FilesTotal, Bytes, BytesTotal int64 }

// Result is what a restore did.
type Result struct {
	Files, Dirs, Bytes int64 // written
	Kept, Removed      int64
	Withheld           int64 // metadata left off for want of System
	Errors             int64 // not, or not fully, restored: exit code 3
}

// Run restores.
func Run(ctx context.Context, o Options) (Result, error) { panic("stub") }

// Tar writes the paths as a PAX archive, with extended attributes and ACLs.
func Tar(ctx context.Context, o Options, w io.Writer) (Result, error) { panic("stub") }
