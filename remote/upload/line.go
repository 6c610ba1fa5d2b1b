package upload

import (
	"io"
	"sync"
	"time"
)

// step is how many bytes of the pack the client has to take in the time that it has.
const step = 1 << 20

// line is a connection that keeps limits of time. What counts is the time in which the
// server waits for the client: since rearm while reading, and for each mebibyte while
// writing. A client that sends or takes a byte now and then does not gain by it.
type line struct {
	rw   io.ReadWriter
	idle time.Duration

	mu    sync.Mutex
	ended bool

	asked time.Duration // spent in Read since rearm
	gave  time.Duration // spent in Write for the last bytes
	bytes int           // how many they are
}

// rearm gives the client time for its next message.
func (l *line) rearm() { l.asked = 0 }

// What a client may go on to say after it was refused.
const (
	drainTime  = time.Second
	drainBytes = 1 << 20
)

// drain reads what the client still says, until it hangs up. A client that writes to who
// has gone may die of that before it reads why it was refused.
func (l *line) drain() {
	l.asked = max(l.asked, l.idle-drainTime)
	_, _ = io.CopyN(io.Discard, l, drainBytes)
}

// Read reads what is there.
func (l *line) Read(p []byte) (n int, err error) {
	l.timed(l.idle-l.asked, &l.asked, false, func() { n, err = l.rw.Read(p) })
	return n, err
}

// Write writes p.
func (l *line) Write(p []byte) (n int, err error) {
	if l.bytes >= step {
		l.bytes, l.gave = 0, 0
	}
	l.timed(l.idle-l.gave, &l.gave, true, func() { n, err = l.rw.Write(p) })
	l.bytes += n
	return n, err
}

// timed calls do, for as long as left at most, and adds the time it took to spent.
func (l *line) timed(left time.Duration, spent *time.Duration, write bool, do func()) {
	from := time.Now()
	if !l.set(from.Add(left), write) {
		defer time.AfterFunc(left, l.cut).Stop()
	}
	do()
	*spent += time.Since(from)
}

// set sets a deadline, a past one if the connection was cut. It reports whether the
// connection has deadlines.
func (l *line) set(t time.Time, write bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		t = time.Unix(1, 0)
	}
	if write {
		d, ok := l.rw.(interface{ SetWriteDeadline(time.Time) error })
		return ok && d.SetWriteDeadline(t) == nil
	}
	d, ok := l.rw.(interface{ SetReadDeadline(time.Time) error })
	return ok && d.SetReadDeadline(t) == nil
}

// cut ends what is being read or written, and all that comes after.
func (l *line) cut() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	read, written := l.set(time.Time{}, false), l.set(time.Time{}, true)
	if c, ok := l.rw.(io.Closer); ok && !(read && written) {
		_ = c.Close()
	}
}
