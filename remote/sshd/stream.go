package sshd

import (
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// stream is the channel of a session as its program sees it. It has deadlines, which the
// ssh package does not know, so that a program can be ended and the client still be told
// why; and it ends when the connection does, which with a client that breaks the protocol
// the ssh package does not promise (see client.bury).
//
// What waits for the ssh package is therefore a goroutine for each direction, and what
// they work on is copied: memory is copied at a hundred times the speed of a cipher.
type stream struct {
	gone    <-chan struct{} // closed when the connection is
	in, out direction
	left    []byte // was read, and is not given yet
}

// direction is one of the two of a stream.
type direction struct {
	limit deadline
	buf   []byte
	asked chan []byte // to be read into, or written
	done  chan result
	busy  bool  // buf is with the goroutine
	err   error // the last word
}

type result struct {
	n   int
	err error
}

// streamBuffer is the size of what is read or written at once.
const streamBuffer = 64 << 10

// newStream makes a stream. It starts goroutines by start, which end after close, when the
// ssh package lets go of them.
func newStream(ch ssh.Channel, gone <-chan struct{}, start func(func())) *stream {
	s := &stream{gone: gone}
	for d, do := range map[*direction]func([]byte) (int, error){&s.in: ch.Read, &s.out: ch.Write} {
		d.buf, d.asked, d.done = make([]byte, streamBuffer), make(chan []byte), make(chan result, 1)
		d.limit.set(time.Time{})
		start(func() {
			for p := range d.asked {
				n, err := do(p)
				d.done <- result{n, err}
			}
		})
	}
	return s
}

// close ends the goroutines. Nothing is read or written any more.
func (s *stream) close() {
	close(s.in.asked)
	close(s.out.asked)
}

// Read reads what the client has sent. It may go on after a deadline has passed.
func (s *stream) Read(p []byte) (int, error) {
	d := &s.in
	if len(s.left) == 0 && d.err == nil {
		if !d.busy {
			d.busy = true
			d.asked <- d.buf
		}
		r := s.wait(d)
		if d.busy { // nothing has come in time
			return 0, r.err
		}
		s.left, d.err = d.buf[:r.n], r.err
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	if n == 0 && len(p) > 0 {
		return 0, d.err
	}
	return n, nil
}

// Write sends to the client. After a deadline has passed nothing more is written, because
// nobody knows how much was.
func (s *stream) Write(p []byte) (n int, err error) {
	d := &s.out
	for len(p) > 0 && d.err == nil {
		part := d.buf[:copy(d.buf, p)]
		d.busy = true
		d.asked <- part
		r := s.wait(d)
		n, p = n+r.n, p[len(part):]
		d.err = r.err
	}
	return n, d.err
}

// wait waits for the goroutine of a direction, and not longer than it may.
func (s *stream) wait(d *direction) result {
	select {
	case r := <-d.done:
		d.busy = false
		return r
	case <-s.gone:
		return result{0, net.ErrClosed}
	case <-d.limit.passed():
		return result{0, os.ErrDeadlineExceeded}
	}
}

// SetReadDeadline says when reading ends; it ends what is being read, too.
func (s *stream) SetReadDeadline(t time.Time) error {
	s.in.limit.set(t)
	return nil
}

// SetWriteDeadline says when writing ends; it ends what is being written, too.
func (s *stream) SetWriteDeadline(t time.Time) error {
	s.out.limit.set(t)
	return nil
}

// deadline is a time that passes, or is moved before it does.
type deadline struct {
	mu    sync.Mutex
	turn  int // counts moves, so that a timer knows whether it is still meant
	timer *time.Timer
	c     chan struct{} // closed when the time has passed
}

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.c
}

// set moves the deadline; the zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn++
	if d.timer != nil {
		d.timer.Stop()
	}
	select {
	case <-d.c:
		d.c = nil
	default:
	}
	if d.c == nil {
		d.c = make(chan struct{})
	}
	switch left := time.Until(t); {
	case t.IsZero():
	case left <= 0:
		close(d.c)
	default:
		turn := d.turn
		d.timer = time.AfterFunc(left, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.turn == turn {
				close(d.c)
			}
		})
	}
}
