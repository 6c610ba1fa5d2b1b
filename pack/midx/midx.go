// Package midx reads and writes git's multi-pack-index: one sorted table of the
// objects of many packs, so that a look-up costs one search instead of one per pack.
package midx

import (
	"io"

	"github.com/kedgebackup/kedge/pack"
)

// File looks ids up in a multi-pack-index by ranged reads. It may be used by
// several goroutines at once.
type File struct{}

// Open checks header, chunk table and size arithmetic of a multi-pack-index.
func Open(name string, r io.ReaderAt, size int64) (*File, error) { panic("stub") }

// Packs returns the names of the idx files it covers, sorted, e.g. "pack-….idx".
func (f *File) Packs() []string { panic("stub") }

// Len returns the number of objects.
func (f *File) Len() int { panic("stub") }

// Find returns the pack (an index into Packs) and the offset of an object.
func (f *File) Find(id pack.ID) (p int, off int64, ok bool, err error) { panic("stub") }

// BuildFilter makes Find answer most misses from memory.
func (f *File) BuildFilter() error { panic("stub") }

// Verify checks the whole file: order, checksum, pack numbers.
func (f *File) Verify() error { panic("stub") }

// Write merges the idx files of packs, which are sorted by name, into a
// multi-pack-index. Memory does not grow with the number of objects: the
// inputs are read in step and the tables are written in one pass each.
func Write(w io.Writer, names []string, packs []*pack.Idx) error { panic("stub") }
