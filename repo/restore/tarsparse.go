package restore

import (
	"io"
	"strconv"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// A file with holes is written in GNU tar's form 1.0 of sparse files in pax
// archives, which bsdtar, Python and Go read as well. What follows the header is
// a map, in lines of decimal digits filled up to whole blocks, and then the parts
// of the file that are no holes, without a gap:
//
//	2\n             number of parts
//	0\n             where the first begins,
//	65536\n         and its length
//	1099511627776\n the last one is empty
//	0\n             if the file ends in a hole
//
// GNU tar begins each part at a block, other readers do not: so all but the last
// have to be whole blocks.
//
// The name and the size of the file stand in records; the header has a name for
// those who do not know the form, and the size of what follows.

// What counts as a hole of an archive: a run of one chunk of zeros, over and over,
// of some length. A saved hole is one, but for what shares a chunk with data at
// its ends. A file has a limited number of them; behind the last one zeros are
// written out.
const (
	tarHole  = 256 << 10
	tarHoles = 1 << 16
)

// tarPart is a part of a file that is no hole.
type tarPart struct{ off, size int64 }

// holed is a file with holes.
type holed struct {
	file  *repo.File
	parts []tarPart
	head  []byte // the map
	size  int64  // of what is written
}

// holed finds the holes of a file; nil if it is to be written as it is.
func (t *archive) holed(file *repo.File, size int64) (*holed, error) {
	if !t.r.Sparse || size < tarHole {
		return nil, nil
	}
	h := &holed{file: file}
	data, holes := int64(0), 0
	var run repo.Chunk // the first of a chunk that comes over and over
	var stop int64     // where that ends
	end := func() error {
		if stop-run.Off < tarHole || holes == tarHoles {
			return nil
		}
		zero, err := t.isZeros(run)
		if !zero || err != nil {
			return err
		}
		from, to := (run.Off+holeSize-1)&^(holeSize-1), stop&^(holeSize-1)
		if stop == size {
			to = size
		}
		h.add(data, from)
		holes++
		data = to
		return nil
	}
	err := file.Chunks(0, func(c repo.Chunk) error {
		if c.Size < 0 {
			c.Size = size - c.Off
		}
		var err error
		if c.ID != run.ID || c.Size != run.Size || c.Off != stop {
			err = end()
			run = c
		}
		stop = c.Off + c.Size
		return err
	})
	if err == nil {
		err = end()
	}
	if err != nil || holes == 0 {
		return nil, err
	}
	h.add(data, size)
	if data == size { // it ends in a hole
		h.parts = append(h.parts, tarPart{size, 0})
	}
	h.finish()
	return h, nil
}

// add adds the part from one offset to another.
func (h *holed) add(from, to int64) {
	if to > from {
		h.parts = append(h.parts, tarPart{from, to - from})
		h.size += to - from
	}
}

// finish makes the map.
func (h *holed) finish() {
	line := func(n int64) { h.head = append(strconv.AppendInt(h.head, n, 10), '\n') }
	line(int64(len(h.parts)))
	for _, p := range h.parts {
		line(p.off)
		line(p.size)
	}
	h.head = append(h.head, zeroTar[:tarPadding(int64(len(h.head)))]...)
	h.size += int64(len(h.head))
}

// WriteTo writes the map and the parts.
func (h *holed) WriteTo(w io.Writer) (n int64, err error) {
	k, err := w.Write(h.head)
	n = int64(k)
	for _, p := range h.parts {
		if err != nil {
			break
		}
		var more int64
		more, err = h.file.WriteRange(w, p.off, p.size)
		n += more
	}
	return n, err
}

// dress turns the header of a file into that of a file with holes.
func (h *holed) dress(th *tarHeader, size int64) {
	th.add("GNU.sparse.major", "1")
	th.add("GNU.sparse.minor", "0")
	th.add("GNU.sparse.name", th.name)
	th.add("GNU.sparse.realsize", strconv.FormatInt(size, 10))
	th.name = beside(th.name, "GNUSparseFile.0")
	th.size = h.size
}

// isZeros reports whether a chunk holds nothing but zeros, as many as it should.
func (t *archive) isZeros(c repo.Chunk) (zero bool, err error) {
	if t.r.isHole(c.ID, c.Size) {
		return true, nil
	}
	err = t.r.Repo.Get(t.r.ctx, []pack.ID{c.ID}, func(_ int, kind pack.Type, body []byte) error {
		if zero = kind == pack.Blob && int64(len(body)) == c.Size && isZero(body); zero {
			t.r.noteHole(c.ID, len(body))
		}
		return nil
	})
	return zero, err
}
