// Package index keeps the file-system index: every path that kedge was told to
// watch, what lstat said of it, and the id of what was last saved from it.
package index

import (
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// Record is what the index knows of one path.
//
// Records stand in post-order: the names of a directory in byte order, each
// directory after everything below it. "/a/b" comes before "/a", and "/a-c"
// after "/a".
type Record struct {
	Path    string // absolute, cleaned; "/" is the root
	Stat    fsx.Stat
	Flags   Flags
	GitMode uint32  // of what was last saved: 0100644, 040000, 0120000; 0 if never
	ID      pack.ID // of what was last saved; zero if never
	Chunker string  // the chunker that ID was made with; "" if ID does not depend on it
	Target  string  // of a symbolic link
	Extras  []byte  // encoded meta.Extras, as read when ID was saved
	Below   uint64  // of a directory: the number of records below it
}

// Flags are the states of a record.
type Flags uint8

const (
	// Exists says that the path was there at the last index run.
	Exists Flags = 1 << iota
	// Valid says that ID is what a save of the path would store: nothing in it or
	// below it changed since.
	Valid
)
