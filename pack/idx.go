package pack

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
)

// Idx looks ids up in an idx file (v2, or v1 for reading) with ranged reads;
// it keeps the fan-out table in memory and nothing else, until a filter is
// asked for. It may be used by several goroutines at once.
type Idx struct {
	name string
	r    io.ReaderAt
	size int64
	v1   bool
	ids  *Table
	crcs int64 // where the CRC table begins
	offs int64 // where the offset table begins
	bigs int64 // where the table of 64-bit offsets begins
	nbig int   // and how many it holds
}

// v1Row is an offset of four bytes and an id.
const v1Row = 4 + idSize

// OpenIdx checks an idx file's header, fan-out and size arithmetic. It does not
// read the tables: Verify does.
func OpenIdx(name string, r io.ReaderAt, size int64) (*Idx, error) {
	x := &Idx{name: name, r: r, size: size}
	if size < fanoutSize+2*idSize {
		return nil, x.corrupt(-1, "too short for an idx file")
	}
	var head [idxHead]byte
	if err := readFull(name, r, head[:], 0); err != nil {
		return nil, err
	}
	x.v1 = string(head[:4]) != idxMagic
	var err error
	if x.v1 {
		// There is no magic: a fan-out table that began with it would count
		// four thousand million objects that begin with a zero byte.
		if x.ids, err = NewTable(name, r, 0, fanoutSize+4, v1Row); err != nil {
			return nil, err
		}
		if want := fanoutSize + v1Row*int64(x.Len()) + 2*idSize; size != want {
			return nil, x.corrupt(-1, fmt.Sprintf("%d objects take %d bytes, the file has %d", x.Len(), want, size))
		}
		return x, nil
	}
	if v := binary.BigEndian.Uint32(head[4:]); v != idxVersion {
		return nil, x.corrupt(4, fmt.Sprintf("unknown idx version %d", v))
	}
	if x.ids, err = NewTable(name, r, idxHead, idxHead+fanoutSize, idSize); err != nil {
		return nil, err
	}
	n := int64(x.Len())
	x.crcs = idxHead + fanoutSize + idSize*n
	x.offs = x.crcs + 4*n
	x.bigs = x.offs + 4*n
	big := size - 2*idSize - x.bigs
	if big < 0 || big%8 != 0 || big/8 > n {
		return nil, x.corrupt(-1, fmt.Sprintf("%d objects do not fit %d bytes", n, size))
	}
	x.nbig = int(big / 8)
	return x, nil
}

// Len returns the number of objects.
func (x *Idx) Len() int { return x.ids.Len() }

// PackSum returns the checksum of the pack the idx belongs to.
func (x *Idx) PackSum() (ID, error) {
	var id ID
	err := readFull(x.name, x.r, id.h[:], x.size-2*idSize)
	return id, err
}

// Place returns the place of an object in id order, from 0 to Len()-1: what one
// keeps for each object of a pack can be an array.
func (x *Idx) Place(id ID) (i int, ok bool, err error) { return x.ids.Find(id) }

// Find returns the offset of an object in the pack.
func (x *Idx) Find(id ID) (off int64, ok bool, err error) {
	i, ok, err := x.ids.Find(id)
	if err != nil || !ok {
		return 0, false, err
	}
	buf := x.ids.bufs.Get().(*[tableStep]byte)
	defer x.ids.bufs.Put(buf)
	at := x.offs + 4*int64(i)
	if x.v1 {
		at = fanoutSize + v1Row*int64(i)
	}
	if err := readFull(x.name, x.r, buf[:4], at); err != nil {
		return 0, false, err
	}
	v := binary.BigEndian.Uint32(buf[:])
	if x.v1 || v < bigOffset {
		return int64(v), true, nil
	}
	j, err := x.bigPlace(v, at)
	if err != nil {
		return 0, false, err
	}
	if err := readFull(x.name, x.r, buf[:8], x.bigs+8*int64(j)); err != nil {
		return 0, false, err
	}
	off, err = x.bigValue(buf[:8], j)
	return off, err == nil, err
}

// bigPlace returns the place in the 64-bit table that v, read at at, points to.
func (x *Idx) bigPlace(v uint32, at int64) (int, error) {
	j := int(v &^ bigOffset)
	if j >= x.nbig {
		return 0, x.corrupt(at, "offset points outside the table of large offsets")
	}
	return j, nil
}

// bigValue reads entry j of the 64-bit table.
func (x *Idx) bigValue(b []byte, j int) (int64, error) {
	v := binary.BigEndian.Uint64(b)
	if v >= 1<<63 {
		return 0, x.corrupt(x.bigs+8*int64(j), "offset above 2^63")
	}
	return int64(v), nil
}

// BuildFilter reads the id table once and makes Find answer most misses from
// memory (about 10 bits an object).
func (x *Idx) BuildFilter() error { return x.ids.BuildFilter() }

// Record is one line of an idx.
type Record struct {
	ID  ID
	CRC uint32 // 0 in a v1 idx
	Off int64
}

// Records calls fn for every object in id order, reading the tables in large steps.
func (x *Idx) Records(fn func(Record) error) error {
	c := x.Cursor(scanStep)
	for {
		r, ok, err := c.Next()
		if err != nil || !ok {
			return err
		}
		if err := fn(r); err != nil {
			return err
		}
	}
}

// Verify reads the whole idx and checks order, checksum and offsets (< packSize-20).
func (x *Idx) Verify(packSize int64) error {
	if err := x.CheckSum(); err != nil {
		return err
	}
	if err := x.ids.Check(); err != nil {
		return err
	}
	return x.Records(func(r Record) error {
		if r.Off < packHead || r.Off >= packSize-idSize {
			return x.corrupt(-1, fmt.Sprintf("object %v is said to be at %d in a pack of %d bytes", r.ID, r.Off, packSize))
		}
		return nil
	})
}

// CheckSum compares the checksum at the end with what stands before it.
func (x *Idx) CheckSum() error {
	return CheckTrailer(x.name, x.r, x.size)
}

// CheckTrailer reads a file that ends in the checksum of all before it, and
// compares.
func CheckTrailer(name string, r io.ReaderAt, size int64) error {
	if size < idSize {
		return &CorruptError{File: name, Off: -1, Reason: "too short for a checksum"}
	}
	h := sha1.New()
	buf := make([]byte, min(size-idSize, writeStep))
	for off := int64(0); off < size-idSize; {
		b := buf[:min(int64(len(buf)), size-idSize-off)]
		if err := readFull(name, r, b, off); err != nil {
			return err
		}
		h.Write(b)
		off += int64(len(b))
	}
	var want ID
	if err := readFull(name, r, want.h[:], size-idSize); err != nil {
		return err
	}
	if got := (ID{[idSize]byte(h.Sum(nil))}); got != want {
		return &CorruptError{File: name, Off: size - idSize, Reason: "checksum mismatch"}
	}
	return nil
}

func (x *Idx) corrupt(off int64, reason string) error {
	return &CorruptError{File: x.name, Off: off, Reason: reason}
}
