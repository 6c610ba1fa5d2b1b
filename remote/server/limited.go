package server

import (
	"io"
	"sync"
	"time"
)

// step is how many bytes have to come or go before a deadline is put off.
const step = 1 << 20

// limited is a connection with limits of time. Whoever waits for a message calls arm
// before it reads the first byte of it; from then on a mebibyte has to come in each such
// time. A client that does not read what it asked for is cut off in the same way. The
// time in which the server itself is at work does not count.
type limited struct {
	rw io.ReadWriter

	mu    sync.Mutex
	ended bool

	wait  time.Duration
	until time.Time
	left  int // bytes before until is put off
}

func newLimited(rw io.ReadWriter) *limited { return &limited{rw: rw} }

// arm starts the time in which a message has to come.
func (l *limited) arm(wait time.Duration) {
	l.wait, l.until, l.left = wait, time.Now().Add(wait), step
}

// Read reads what is there.
func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		l.arm(l.wait)
	}
	d, ok := l.rw.(interface{ SetReadDeadline(time.Time) error })
	if ok {
		ok = l.set(d.SetReadDeadline, l.until) == nil
	}
	if !ok {
		defer time.AfterFunc(time.Until(l.until), l.cut).Stop()
	}
	n, err := l.rw.Read(p)
	l.left -= n
	return n, err
}

// Write writes p.
func (l *limited) Write(p []byte) (int, error) {
	until := time.Now().Add(l.wait)
	d, ok := l.rw.(interface{ SetWriteDeadline(time.Time) error })
	if ok {
		ok = l.set(d.SetWriteDeadline, until) == nil
	}
	if !ok {
		defer time.AfterFunc(l.wait, l.cut).Stop()
	}
	return l.rw.Write(p)
}

// set sets a deadline, unless the connection was cut.
func (l *limited) set(deadline func(time.Time) error, t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		t = time.Unix(1, 0)
	}
	return deadline(t)
}

// cut ends what is being read or written, and all that comes after.
func (l *limited) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	past, ok := time.Unix(1, 0), false
	if d, is := l.rw.(interface{ SetReadDeadline(time.Time) error }); is {
		ok = d.SetReadDeadline(past) == nil
	}
	if d, is := l.rw.(interface{ SetWriteDeadline(time.Time) error }); is {
		ok = d.SetWriteDeadline(past) == nil && ok
	} else {
		ok = false
	}
	if c, is := l.rw.(io.Closer); is && !ok {
		c.Close()
	}
}
