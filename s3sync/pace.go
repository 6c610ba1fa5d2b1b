package s3sync

import (
	"context"
	"io"
	"sync"
	"time"
)

// pace holds what is sent to a number of bytes a second, whoever sends it.
type pace struct {
	perSecond int64 // 0: as fast as it goes

	mu   sync.Mutex
	free time.Time // when what was taken so far will have been sent
}

// delay returns how long to wait before n bytes are sent. What was not used for a while is not
// made up for.
func (p *pace) delay(now time.Time, n int) time.Duration {
	if p.perSecond <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free.Before(now) {
		p.free = now
	}
	wait := p.free.Sub(now)
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.perSecond) * float64(time.Second)))
	return wait
}

// paced is a file that is read no faster than it may be sent.
type paced struct {
	ctx context.Context
	io.ReaderAt
	pace *pace
}

// ReadAt reads len(p) bytes at off.
func (r *paced) ReadAt(p []byte, off int64) (int, error) {
	if wait := r.pace.delay(time.Now(), len(p)); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
	return r.ReaderAt.ReadAt(p, off)
}
