package pack

import (
	"fmt"
	"io"
	"slices"
)

const (
	idxMagic   = "\xfftOc"
	idxVersion = 2
	idxHead    = 8       // magic and version
	fanoutSize = 4 * 256 // bytes
	bigOffset  = 1 << 31 // offsets from here on stand in the 64-bit table
)

// Index is the contents of an idx v2 file being made.
type Index struct {
	recs []Record // by id
	pack ID
}

// newIndex sorts recs, which become its own.
func newIndex(recs []Record, pack ID) (*Index, error) {
	slices.SortFunc(recs, func(a, b Record) int { return a.ID.Compare(b.ID) })
	for i := 1; i < len(recs); i++ {
		if recs[i].ID == recs[i-1].ID {
			return nil, fmt.Errorf("object %v is twice in one pack, at offsets %d and %d",
				recs[i].ID, recs[i-1].Off, recs[i].Off)
		}
	}
	return &Index{recs: recs, pack: pack}, nil
}

// Len returns the number of objects.
func (x *Index) Len() int { return len(x.recs) }

// WriteTo writes the idx v2 file.
func (x *Index) WriteTo(w io.Writer) (int64, error) {
	o := NewSumWriter(w)
	o.Bytes([]byte(idxMagic))
	o.Uint32(idxVersion)
	i := 0
	for b := range 256 {
		for i < len(x.recs) && int(x.recs[i].ID.h[0]) <= b {
			i++
		}
		o.Uint32(uint32(i))
	}
	for i := range x.recs {
		o.ID(x.recs[i].ID)
	}
	for i := range x.recs {
		o.Uint32(x.recs[i].CRC)
	}
	big := uint32(0)
	for i := range x.recs {
		if off := x.recs[i].Off; off < bigOffset {
			o.Uint32(uint32(off))
		} else {
			o.Uint32(big | bigOffset)
			big++
		}
	}
	for i := range x.recs {
		if off := x.recs[i].Off; off >= bigOffset {
			o.Uint64(uint64(off))
		}
	}
	o.ID(x.pack)
	_, n, err := o.Finish()
	return n, err
}
