package restore

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// file is a regular file to be written.
//
// It is made without a name, or with a temporary one, filled, given its
// metadata, and only then named:
//
//	openat(O_TMPFILE) → pwrite… → fchown → fchmod → flistxattr → utimensat → linkat → close
//
// Of a file of several chunks any goroutine gathers any of them in slabs; whoever
// fills a slab writes it, and whoever writes the last one completes the file. The
// calls are the same, but for pwrites: one for each slab of slabSize that begins
// at a multiple of it, if its chunks came together,
//
//	openat(O_TMPFILE) → pwrite(slabSize)… → pwrite(rest) → fchown → …
//
// and one for each part that was filled when the slab had to make room. With
// Verify, a pread for each chunk follows the last pwrite of it. With Sparse, holes
// divide the pwrites, and where one is the end of the file ftruncate follows.
type file struct {
	item
	chunked bool
	set     *linkSet // nil if it has no other names

	// Of a chunked file: left counts the chunks that did not come yet, and one
	// until all are asked for; holds counts its slabs, and one for all of left.
	left, holds atomic.Int64

	size   atomic.Int64 // the end of the last chunk known
	end    atomic.Int64 // of what was written: there may be a hole behind it
	failed atomic.Bool
	mu     sync.Mutex  // while target is made
	target *fsx.Target // of a chunked file that was begun
}

// grow notes that the file is at least as long as size.
func (f *file) grow(size int64) { raise(&f.size, size) }

// raise makes at not less than n.
func raise(at *atomic.Int64, n int64) {
	for old := at.Load(); n > old && !at.CompareAndSwap(old, n); old = at.Load() {
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
	f.fail(r, asObject(f.saved(), ofBlob(id, err)))
	if f.chunked {
		f.release(r)
	} else {
		f.f.pins.Add(-1)
	}
}

// ofBlob names a blob in an error, unless the error is about nothing else.
func ofBlob(id pack.ID, err error) error {
	if m, ok := err.(*repo.MissingError); ok && m.ID == id {
		return err
	}
	return fmt.Errorf("blob %v: %w", id, err)
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
	if err = f.write(r, t, body, 0); err == nil && r.Verify {
		err = r.readBack(t, f.id, 0, int64(len(body)))
	}
	if err == nil {
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
	if rd.off > math.MaxInt64-int64(len(body)) {
		f.fail(r, asObject(f.saved(), &pack.CorruptError{File: "blob " + id.String(), Off: -1, Reason: fmt.Sprintf("no file has bytes behind %d", rd.off)}))
		return
	}
	f.grow(rd.off + int64(len(body)))
	if f.failed.Load() {
		return
	}
	err := f.begun(r)
	if err == nil && r.Sparse && isZero(body) {
		r.noteHole(id, len(body))
	} else if err == nil {
		err = r.gather(f, id, body, rd.off)
	}
	if err != nil {
		f.fail(r, err)
		return
	}
	r.moved(int64(len(body)))
}

// begun makes the file at the first time.
func (f *file) begun(r *run) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.target == nil {
		t, err := f.create(r)
		if err != nil {
			return err
		}
		f.target = t
		r.mu.Lock()
		r.open[f] = struct{}{}
		r.mu.Unlock()
	}
	return nil
}

// release says that a chunk came, and after the last one writes the slabs that
// are not full. Others may still be writing some.
func (f *file) release(r *run) {
	if f.left.Add(-1) > 0 {
		return
	}
	for _, sl := range r.slabs.of(f) {
		r.writeSlab(sl)
	}
	f.letGo(r)
}

// letGo says that a slab is written, or that all chunks came. After the last one
// it completes the file or throws it away.
func (f *file) letGo(r *run) {
	if f.holds.Add(-1) > 0 {
		return
	}
	defer f.f.pins.Add(-1)
	if !f.failed.Load() {
		if err := f.begun(r); err != nil { // a file of holes only is begun now
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

// complete gives a file that is written its size, its metadata and its name.
func (f *file) complete(r *run, t *fsx.Target) {
	defer func() {
		if err := t.Close(); err != nil {
			f.fail(r, err)
		}
	}()
	if size := f.size.Load(); f.end.Load() < size {
		if err := t.Truncate(size); err != nil {
			f.fail(r, err)
			return
		}
	}
	if err := r.trail.complete(t, f.end.Load()); err != nil {
		f.fail(r, err)
		return
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
