package restore

import (
	"sync"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Large files are sent to the disk while they are written, and what is there is
// dropped from the page cache, so that a restore of a terabyte goes round in some
// hundred megabytes of it. A restore of 2.6 GB on a virtual machine whose free memory had
// to be fetched from the host took 8.7 s, and 4.7 s with this; where
// memory was at hand it makes no difference.
//
// A disk that is slower than we are is left to the kernel, which writes when it likes: a
// restore is not to wait for it. It is asked again after a while, and then later and later.
const (
	trailStep  = 8 << 20               // that is sent at once
	trailMin   = 1 << 20               // of a file; below it is not worth the calls
	trailNear  = 64 << 20              // that is left behind before it is dropped
	trailFar   = 512 << 20             // and once more, if it was still on its way then
	trailParts = 256                   // of the trail, each of which holds a file open
	trailSlow  = 50 * time.Millisecond // that it may take to send something
)

// trail is what was written last, the oldest first.
type trail struct {
	mu      sync.Mutex
	parts   []trailPart
	dropped int   // of parts, once
	near    int64 // bytes of the others
	far     int64 // of all
	pause   int64 // bytes that were not sent after the disk was found slow the last time
	skip    int64 // and that are still not to be sent
}

// trailPart is n bytes at off of a file.
type trailPart struct {
	file   *fsx.Written
	off, n int64
}

// wrote says that n bytes were written at off. If they end a step of the file, or more,
// that is sent. Of one that is filled in another order some comes later, and stays in
// the cache.
func (l *trail) wrote(t *fsx.Target, off, n int64) error {
	from, to := off/trailStep*trailStep, (off+n)/trailStep*trailStep
	if from == to {
		return nil
	}
	return l.send(t, from, to-from)
}

// complete says that a file of some size is written: what is behind its last step is sent.
func (l *trail) complete(t *fsx.Target, size int64) error {
	if at := size / trailStep * trailStep; size >= trailMin && at < size {
		return l.send(t, at, size-at)
	}
	return nil
}

// send sends a part of a file and drops those that were sent long ago.
func (l *trail) send(t *fsx.Target, off, n int64) error {
	if l.skips(n) {
		return nil
	}
	start := time.Now()
	if err := t.StartSync(off, n); err != nil {
		return err
	}
	slow := time.Since(start) > trailSlow
	w, err := t.Written()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took(slow)
	if err == nil { // else there are too many open files, and it stays in the cache
		l.add(trailPart{w, off, n})
	}
	return nil
}

// skips reports whether n bytes are to be left to the kernel.
func (l *trail) skips(n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.skip <= 0 {
		return false
	}
	l.skip -= n
	return true
}

// took says how it went to send something.
func (l *trail) took(slow bool) {
	if !slow {
		l.pause = 0
		return
	}
	l.pause = max(2*l.pause, trailNear)
	l.skip = l.pause
}

// add appends a part and drops others.
func (l *trail) add(p trailPart) {
	l.parts = append(l.parts, p)
	l.near += p.n
	l.far += p.n
	for l.near > trailNear {
		l.near -= l.parts[l.dropped].drop()
		l.dropped++
	}
	for l.dropped > 0 && (l.far > trailFar || len(l.parts) > trailParts) {
		l.far -= l.parts[0].drop()
		_ = l.parts[0].file.Close()
		l.parts = l.parts[1:]
		l.dropped--
	}
}

func (p *trailPart) drop() int64 {
	p.file.DropCache(p.off, p.n)
	return p.n
}

// close lets go of the files. What is left of them stays in the cache.
func (l *trail) close() {
	for _, p := range l.parts {
		_ = p.file.Close()
	}
	l.parts = nil
}
