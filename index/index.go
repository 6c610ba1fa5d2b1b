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
	// Of a directory, what ID holds at any depth: items that are no directories,
	// and the sum of their sizes. A save that takes ID over unread can count them.
	Files, Bytes uint64
}

// Flags are the states of a record.
type Flags uint8

const (
	// Exists says that the path was there at the last index run.
	Exists Flags = 1 << iota
	// Valid says that ID is what a save of the path would store: nothing in it or
	// below it changed since. A valid record exists, and everything below it is
	// valid too.
	Valid
)

// Status returns how a listing marks the record: 'D' gone, 'A' never saved,
// 'M' changed since it was saved, ' ' as it was saved.
func (r *Record) Status() byte {
	switch {
	case r.Flags&Exists == 0:
		return 'D'
	case r.Flags&Valid != 0:
		return ' '
	case r.ID.IsZero():
		return 'A'
	}
	return 'M'
}

// IsDir reports whether the path was a directory when it was last looked at.
func (r *Record) IsDir() bool { return isDir(r.Stat.Mode) }

// Clone returns a copy that shares no memory with the iterator r came from.
func (r *Record) Clone() Record {
	c := *r
	c.Path = string(bytesOf(r.Path))
	c.Target = string(bytesOf(r.Target))
	c.Extras = append([]byte(nil), r.Extras...)
	return c
}

const (
	modeType    = 0o170000
	modeDir     = 0o040000
	modeRegular = 0o100000
	modeSymlink = 0o120000
)

func isDir(mode uint32) bool { return mode&modeType == modeDir }
