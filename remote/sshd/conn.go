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
// deadline of the handshake holds, and what comes in passes a gate.
type wire struct {
	net.Conn
	times times
	gate  *gate
	once  sync.Once
	heard atomic.Int64
	waits atomic.Int64 // since when it is waited for; 0: it is not
}

func newWire(c net.Conn, t times) *wire {
	until := time.Now().Add(t.handshake)
	_ = c.SetDeadline(until)
	return &wire{Conn: c, times: t, gate: newGate(until)}
}

// proved lets everything through: the other side has proved a key.
func (w *wire) proved() {
	_ = w.SetDeadline(time.Time{})
	close(w.gate.opened)
}

// Read reads what has come.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.gate.read((*ungated)(w), p)
	w.heard.Store(time.Now().UnixNano())
	return n, err
}

// ungated is what the gate reads: the connection, and how long that takes.
type ungated wire

// Read reads from the connection.
func (w *ungated) Read(p []byte) (int, error) {
	w.waits.Store(time.Now().UnixNano())
	defer w.waits.Store(0)
	return w.Conn.Read(p)
}

// Write writes p.
func (w *wire) Write(p []byte) (int, error) {
	if w.gate.isOpen() {
		if err := w.SetWriteDeadline(time.Now().Add(w.times.write)); err != nil {
			return 0, err
		}
	}
	n, err := w.Conn.Write(p)
	w.gate.answered()
	return n, err
}

// Close ends what is being read or written.
func (w *wire) Close() error {
	w.once.Do(func() { close(w.gate.gone) })
	return w.Conn.Close()
}

// silent returns how long the other side lets the server wait. While the server itself is
// busy nobody is silent.
func (w *wire) silent(now time.Time) time.Duration {
	since := w.waits.Load()
	if since == 0 {
		return 0
	}
	return now.Sub(time.Unix(0, since))
}

// watch asks the other side again and again whether it is there, and cuts the connection
// when nothing has come for too long, or no answer for very long: who sends much may be
// late with answers, who has stopped to agree on keys gives none. It returns when ctx ends.
func (w *wire) watch(ctx context.Context, c ssh.Conn) {
	var asked sync.WaitGroup
	defer asked.Wait()
	var since atomic.Int64 // when the answer that is awaited was asked for; 0: none is
	tick := time.NewTicker(w.times.alive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		late := since.Load() != 0 && now.Sub(time.Unix(0, since.Load())) > w.times.stall
		if late || now.Sub(time.Unix(0, w.heard.Load())) > w.times.dead {
			_ = w.Close()
			return
		}
		// The answer, even a refusal, is a sign of life. While one is awaited none is asked for.
		if since.CompareAndSwap(0, now.UnixNano()) {
			asked.Go(func() {
				_, _, _ = c.SendRequest("keepalive@openssh.com", true, nil)
				since.Store(0)
			})
		}
	}
}
