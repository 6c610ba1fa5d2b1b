package restore

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// file is a regular file to be written.
//
// It is made without a name, or with a temporary one, filled, given its
// metadata, and only then named:
//
//	openat(O_TMPFILE) → pwrite… → fchown → fchmod → flistxattr → utimensat → linkat → close
//
// Of a file of several chunks any goroutine writes any chunk, and the one that
// writes the last one completes it.
type file struct {
	item
	chunked bool
	set     *linkSet // nil if it has no other names

	left   atomic.Int64 // chunks that are not written, of a chunked file
	size   atomic.Int64 // the end of the last chunk known
	failed atomic.Bool
	mu     sync.Mutex  // while target is made
	target *fsx.Target // of a chunked file that was begun
}

// grow notes that the file is at least as long as size.
func (f *file) grow(size int64) {
	for old := f.size.Load(); size > old && !f.size.CompareAndSwap(old, size); old = f.size.Load() {
	}
}

// fail says why the file will not be there. Only the first reason counts.
func (f *file) fail(r *run, err error) {
	if !f.failed.Swap(true) {
		r.fail(f.path(), err)
	}
}

// lost is fail and release for an object that cannot be had.
func (f *file) lost(r *run, id pack.ID, err error) {
	f.fail(r, asObject(f.saved(), fmt.Errorf("blob %v: %w", id, err)))
	if f.chunked {
		f.release(r)
	} else {
		f.f.pins.Add(-1)
	}
}

// whole writes a file of which body is all.
func (f *file) whole(r *run, body []byte) {
	defer f.f.pins.Add(-1)
	t, err := f.create(r)
	if err != nil {
		f.fail(r, err)
		return
	}
	f.grow(int64(len(body)))
	if err = f.write(r, t, body, 0, f.id); err == nil {
		f.complete(r, t)
	} else {
		f.fail(r, err)
		t.Close()
	}
}

// create makes the file without a name.
func (f *file) create(r *run) (*fsx.Target, error) {
	t, err := f.f.dir.CreateTemp()
	if err != nil {
		return nil, err
	}
	if f.meta.Extras.Attr != 0 {
		if a, err := r.applier(); err == nil {
			a.Prepare(t.Fd(), &f.meta)
			r.free(a)
		}
	}
	return t, nil
}

// chunk writes one chunk.
func (f *file) chunk(r *run, id pack.ID, rd read, body []byte) {
	defer f.release(r)
	if f.failed.Load() {
		return
	}
	if rd.size >= 0 && int64(len(body)) != rd.size || len(body) == 0 {
		f.fail(r, asObject(f.saved(), &pack.CorruptError{File: "blob " + id.String(), Off: -1,
			Reason: fmt.Sprintf("%d bytes where there should be %d", len(body), rd.size)}))
		return
	}
	f.grow(rd.off + int64(len(body)))
	if f.failed.Load() {
		return
	}
	t, err := f.begun(r)
	if err == nil {
		err = f.write(r, t, body, rd.off, id)
	}
	if err != nil {
		f.fail(r, err)
		return
	}
	r.moved(int64(len(body)))
}

// begun returns the open file, and makes it at the first time.
func (f *file) begun(r *run) (*fsx.Target, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.target == nil {
		t, err := f.create(r)
		if err != nil {
			return nil, err
		}
		f.target = t
		r.mu.Lock()
		r.open[f] = struct{}{}
		r.mu.Unlock()
	}
	return f.target, nil
}

// release says that a chunk is dealt with, and after the last one completes the
// file or throws it away.
func (f *file) release(r *run) {
	if f.left.Add(-1) > 0 {
		return
	}
	defer f.f.pins.Add(-1)
	if !f.failed.Load() {
		if _, err := f.begun(r); err != nil { // a file of holes only is begun now
			f.fail(r, err)
		}
	}
	t := f.target
	if t == nil {
		return
	}
	r.mu.Lock()
	delete(r.open, f)
	r.mu.Unlock()
	if f.failed.Load() || r.ctx.Err() != nil {
		t.Close()
		return
	}
	f.complete(r, t)
}

// holeSize is the size of the blocks that become holes if they are all zero. Of
// a chunk that begins or ends within a block, the part of that block counts: what
// is not written into a new file is zero whatever its size.
const holeSize = 4096

var zeroBlock [holeSize]byte

// write writes body at off, and reads it back if that is wanted.
func (f *file) write(r *run, t *fsx.Target, body []byte, off int64, id pack.ID) error {
	if r.Sparse {
		if err := writeSparse(t, body, off); err != nil {
			return err
		}
		r.noteHole(id, body)
	} else if _, err := t.WriteAt(body, off); err != nil {
		return err
	}
	if !r.Verify {
		return nil
	}
	c := r.hashers.Get().(*checker)
	defer r.hashers.Put(c)
	same, err := c.same(t, off, int64(len(body)), id)
	if err == nil && !same {
		err = fmt.Errorf("what was written at offset %d reads back differently", off)
	}
	return err
}

// writeSparse writes what is not zero.
func writeSparse(t *fsx.Target, body []byte, off int64) error {
	for len(body) > 0 {
		n := dataLen(body, off)
		if n > 0 {
			if _, err := t.WriteAt(body[:n], off); err != nil {
				return err
			}
		}
		n += holeLen(body[n:], off+int64(n))
		body, off = body[n:], off+int64(n)
	}
	return nil
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

// noteHole remembers a chunk if it holds nothing but zeros.
func (r *run) noteHole(id pack.ID, body []byte) {
	for b := body; len(b) > 0; {
		n := min(len(b), holeSize)
		if !bytes.Equal(b[:n], zeroBlock[:n]) {
			return
		}
		b = b[n:]
	}
	r.mu.Lock()
	if len(r.zeros) < maxZeros {
		r.zeros[id] = true
	}
	r.mu.Unlock()
}

// isHole reports whether a chunk need not be written.
func (r *run) isHole(id pack.ID) bool {
	if !r.Sparse {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.zeros[id]
}

// complete gives a file that is written its size, its metadata and its name.
func (f *file) complete(r *run, t *fsx.Target) {
	defer func() {
		if err := t.Close(); err != nil {
			f.fail(r, err)
		}
	}()
	if r.Sparse {
		if err := t.Truncate(f.size.Load()); err != nil {
			f.fail(r, err)
			return
		}
	}
	a, err := r.applier()
	if err != nil {
		f.fail(r, err)
		return
	}
	defer r.free(a)
	out := f.dress(a, t.Fd())
	if err = t.LinkAs(f.name, r.Overwrite != Never); err != nil {
		f.fail(r, err)
		return
	}
	if f.set != nil {
		if err = f.set.made(r, f, t); err != nil {
			out.Errs = append(out.Errs, err)
		}
	} else if err = a.Seal(t.Fd(), &f.meta); err != nil {
		out.Errs = append(out.Errs, err)
	}
	if !f.chunked {
		r.moved(f.size.Load())
	}
	f.report(r, out, f.size.Load())
}

// dress applies the metadata; if there are none, what suits the type.
func (it *item) dress(a *meta.Applier, fd int) meta.Outcome {
	if it.meta.Mode != 0 {
		return a.Apply(fd, &it.meta)
	}
	var out meta.Outcome
	if it.mode&meta.TypeMask != meta.TypeSymlink {
		if err := fsx.Fchmod(fd, it.mode&0o777); err != nil {
			out.Errs = append(out.Errs, err)
		}
	}
	return out
}

// report counts an item that is there now, and what of its metadata is not.
func (it *item) report(r *run, out meta.Outcome, bytes int64) {
	if len(out.Withheld) > 0 {
		r.withhold(it.path(), out.Withheld...)
	}
	if len(out.Errs) > 0 {
		r.fail(it.path(), out.Errs...)
	}
	r.done(it.f, it.name, written, bytes)
}
