package restore

import (
	"bytes"
	"fmt"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// holeSize is the size of the blocks that become holes if they are all zero. Of
// a chunk that begins or ends within a block, the part of that block counts: what
// is not written into a new file is zero whatever its size.
const holeSize = 4096

var zeroBlock [holeSize]byte

// write writes body at off, but for holes.
func (f *file) write(r *run, t *fsx.Target, body []byte, off int64) error {
	if !r.Sparse {
		return f.writeData(r, t, body, off)
	}
	for len(body) > 0 {
		n := dataLen(body, off)
		if n > 0 {
			if err := f.writeData(r, t, body[:n], off); err != nil {
				return err
			}
		}
		n += holeLen(body[n:], off+int64(n))
		body, off = body[n:], off+int64(n)
	}
	return nil
}

// writeData writes body at off.
func (f *file) writeData(r *run, t *fsx.Target, body []byte, off int64) error {
	n, err := t.WriteAt(body, off)
	raise(&f.end, off+int64(n))
	if err == nil {
		err = r.trail.wrote(t, off, int64(n))
	}
	return err
}

// readBack compares what was written with the id of the blob it came from.
func (r *run) readBack(t *fsx.Target, id pack.ID, off, size int64) error {
	c := r.hashers.Get().(*checker)
	defer r.hashers.Put(c)
	same, err := c.same(t, off, size, id)
	if err == nil && !same {
		err = fmt.Errorf("what was written at offset %d reads back differently", off)
	}
	return err
}

// block returns how many bytes of b at off belong to the same block.
func block(b []byte, off int64) int {
	return min(len(b), holeSize-int(off%holeSize))
}

// dataLen returns the length of the blocks at the front of b that are not all zero.
func dataLen(b []byte, off int64) (n int) {
	for n < len(b) {
		k := block(b[n:], off+int64(n))
		if bytes.Equal(b[n:n+k], zeroBlock[:k]) {
			break
		}
		n += k
	}
	return n
}

// holeLen returns the length of the blocks at the front of b that are all zero.
func holeLen(b []byte, off int64) (n int) {
	for n < len(b) {
		k := block(b[n:], off+int64(n))
		if !bytes.Equal(b[n:n+k], zeroBlock[:k]) {
			break
		}
		n += k
	}
	return n
}

// maxZeros bounds what is remembered of chunks that are holes: there is one for
// each size of chunk.
const maxZeros = 1024

// isZero reports whether b holds nothing but zeros.
func isZero(b []byte) bool { return holeLen(b, 0) == len(b) }

// noteHole remembers a chunk that is a hole, and its size.
func (r *run) noteHole(id pack.ID, size int) {
	r.mu.Lock()
	if len(r.zeros) < maxZeros {
		r.zeros[id] = int64(size)
	}
	r.mu.Unlock()
}

// isHole reports whether a chunk need not be written. One of another size than it
// should have is fetched, so that this is told of.
func (r *run) isHole(id pack.ID, size int64) bool {
	if !r.Sparse {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.zeros[id] == size && size > 0
}
