package sshd

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// wire is a connection that knows when it last heard of the other side, and, once that
// has proved a key, does not wait for ever until something is taken. Before, the one
// deadline of the handshake holds.
type wire struct {
	net.Conn
	times  times
	heard  atomic.Int64
	proved atomic.Bool
}

// Read reads what has come.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.heard.Store(time.Now().UnixNano())
	return n, err
}

// Write writes p.
func (w *wire) Write(p []byte) (int, error) {
	if w.proved.Load() {
		if err := w.SetWriteDeadline(time.Now().Add(w.times.write)); err != nil {
			return 0, err
		}
	}
	return w.Conn.Write(p)
}

// watch asks the other side again and again whether it is there, and cuts the connection
// when nothing has come for too long. It returns when ctx ends.
func (w *wire) watch(ctx context.Context, c ssh.Conn) {
	var asking atomic.Bool
	var asked sync.WaitGroup
	defer asked.Wait()
	tick := time.NewTicker(w.times.alive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if time.Since(time.Unix(0, w.heard.Load())) > w.times.dead {
			_ = w.Close()
			return
		}
		// The answer, even a refusal, is a sign of life. While one is awaited none is asked for.
		if asking.CompareAndSwap(false, true) {
			asked.Go(func() {
				_, _, _ = c.SendRequest("keepalive@openssh.com", true, nil)
				asking.Store(false)
			})
		}
	}
}

// stream is the channel of a session as its program sees it.
type stream struct {
	ssh.Channel
	line  net.Conn
	part  time.Duration // for the client to answer Close
	limit time.Duration // of one Read or Write; 0: the program has limits of its own
}

// Read reads what the client has sent.
func (s *stream) Read(p []byte) (int, error) {
	defer s.arm().stop()
	return s.Channel.Read(p)
}

// Write sends to the client.
func (s *stream) Write(p []byte) (int, error) {
	defer s.arm().stop()
	return s.Channel.Write(p)
}

// alarm is a timer, or none.
type alarm struct{ *time.Timer }

func (a alarm) stop() {
	if a.Timer != nil {
		a.Stop()
	}
}

func (s *stream) arm() alarm {
	if s.limit == 0 {
		return alarm{}
	}
	return alarm{time.AfterFunc(s.limit, func() { _ = s.Close() })}
}

// Close ends whatever is being read or written. A client that obeys answers the end of the
// channel at once, and has time to read what came before; one that does not is cut off.
func (s *stream) Close() error {
	time.AfterFunc(s.part, func() { _ = s.line.Close() })
	go s.Channel.Close() // it waits while what was written before is not taken
	return nil
}
