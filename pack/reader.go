package pack

import "io"

// Idx looks ids up in an idx file (v2, or v1 for reading) with ranged reads;
// it keeps the fan-out table in memory and nothing else, until a filter is
// asked for. It may be used by several goroutines at once.
type Idx struct{}

// OpenIdx checks an idx file's header, fan-out and size arithmetic. It does not
// read the tables: Verify does.
func OpenIdx(name string, r io.ReaderAt, size int64) (*Idx, error) { panic("stub") }

// Len returns the number of objects.
func (x *Idx) Len() int { panic("stub") }

// PackSum returns the checksum of the pack the idx belongs to.
func (x *Idx) PackSum() (ID, error) { panic("stub") }

// Find returns the offset of an object in the pack.
func (x *Idx) Find(id ID) (off int64, ok bool, err error) { panic("stub") }

// Record is one line of an idx.
type Record struct {
	ID  ID
	CRC uint32 // 0 in a v1 idx
	Off int64
}

// Records calls fn for every object in id order, reading the tables in large steps.
func (x *Idx) Records(fn func(Record) error) error { panic("stub") }

// BuildFilter reads the id table once and makes Find answer most misses from
// memory (about 10 bits an object).
func (x *Idx) BuildFilter() error { panic("stub") }

// Verify reads the whole idx and checks order, checksum and offsets (< packSize-20).
func (x *Idx) Verify(packSize int64) error { panic("stub") }

// Pack reads objects out of a pack file. It may be used by several goroutines at once.
type Pack struct{}

// OpenPack checks a pack's header, and that its trailer equals sum.
func OpenPack(name string, r io.ReaderAt, size int64, sum ID) (*Pack, error) { panic("stub") }

// Scratch holds the buffers and the decoder of one reading goroutine.
type Scratch struct{}

// NewScratch returns a scratch that refuses objects above limit bytes.
func NewScratch(limit int64) *Scratch { panic("stub") }

// Object returns type and body of the object at off, resolving deltas (depth at
// most 50; base by offset in this pack, or by id through find, which may be
// nil). The body is valid until the next use of s. Its hash is not checked.
func (p *Pack) Object(s *Scratch, off int64, find func(ID) (int64, bool, error)) (Type, []byte, error) {
	panic("stub")
}

// Header returns the type and the size of the object at off, a delta resolved
// as far as its type, without inflating more than it must.
func (p *Pack) Header(s *Scratch, off int64, find func(ID) (int64, bool, error)) (Type, int64, error) {
	panic("stub")
}
