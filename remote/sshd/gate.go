package sshd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"time"
)

// A gate stands between a client that has proved no key and the ssh package, and lets
// packets through no faster than they are answered.
//
// The ssh package reads ahead: it queues 16 packets for whoever handles them. If that
// gives up, as it does after three keys that fail, while the queue is full, the goroutine
// that reads waits for ever, with all that it has read: an attacker who knows no key
// could leave behind some megabytes with each connection. So no more than credits packets
// are let through that nothing was written in answer to, and none is larger than
// maxUnproved bytes.
//
// To see where packets end, the gate reads what stands in the clear:
//
//	SSH-2.0-name CR LF                               the greeting
//	uint32 length | byte padding | byte type | …     packets until NEWKEYS, whose type is 21
//	uint32 length | length bytes | 16 bytes          packets of AES-GCM
//
// That is why no other ciphers are offered: those of ChaCha20 and of AES-CTR hide the
// length. AES-GCM is in all of OpenSSH's clients since 6.2, and the attack of Terrapin,
// which takes packets away from the beginning of a line, does not touch it.
type gate struct {
	until  time.Time     // when waiting for an answer ends
	credit chan struct{} // one element for each packet that may pass
	opened chan struct{} // closed when a key was proved
	gone   chan struct{} // closed when the connection is

	stage int
	buf   []byte // was read, and is not given yet
	left  int    // bytes of the packet that is being given
}

// The stages of a gate.
const (
	greeting = iota
	clear
	sealed
)

const (
	credits     = 8
	maxGreeting = 255      // bytes, as RFC 4253 has it
	maxUnproved = 35000    // bytes of a packet, as RFC 4253 has it
	gcmTag      = 16       // bytes behind each sealed packet
	newKeys     = byte(21) // SSH_MSG_NEWKEYS
	readAhead   = 512      // bytes, to find the ends of packets
)

var errGate = errors.New("it does not speak SSH")

func newGate(until time.Time) *gate {
	g := &gate{until: until, credit: make(chan struct{}, credits), opened: make(chan struct{}), gone: make(chan struct{})}
	for range credits {
		g.credit <- struct{}{}
	}
	return g
}

// answered is called when the server has written something.
func (g *gate) answered() {
	select {
	case g.credit <- struct{}{}:
	default:
	}
}

func (g *gate) isOpen() bool {
	select {
	case <-g.opened:
		return true
	default:
		return false
	}
}

// read reads from r what may pass.
func (g *gate) read(r io.Reader, p []byte) (int, error) {
	for g.left == 0 && !g.isOpen() {
		if err := g.next(r); err != nil {
			return 0, err
		}
	}
	if g.left > 0 {
		p = p[:min(len(p), g.left)]
	}
	var n int
	var err error
	if len(g.buf) > 0 {
		n = copy(p, g.buf)
		g.buf = g.buf[n:]
	} else {
		n, err = r.Read(p)
	}
	g.left = max(0, g.left-n)
	return n, err
}

// next finds out how long the next packet is, and waits until it may pass.
func (g *gate) next(r io.Reader) error {
	switch g.stage {
	case greeting:
		end := bytes.IndexByte(g.buf, '\n')
		switch {
		case end < 0 && len(g.buf) <= maxGreeting:
			return g.fill(r)
		case end < 0 || end > maxGreeting || !bytes.HasPrefix(g.buf, []byte("SSH-")):
			return errGate
		}
		g.left, g.stage = end+1, clear
		return nil
	case clear:
		if len(g.buf) < 6 {
			return g.fill(r)
		}
		n := binary.BigEndian.Uint32(g.buf)
		if n < 2 || n > maxUnproved {
			return errGate
		}
		if g.buf[5] == newKeys {
			g.stage = sealed
		}
		g.left = 4 + int(n)
		return nil
	}
	if len(g.buf) < 4 {
		return g.fill(r)
	}
	n := binary.BigEndian.Uint32(g.buf)
	if n == 0 || n > maxUnproved {
		return errGate
	}
	late := time.NewTimer(time.Until(g.until))
	defer late.Stop()
	select {
	case <-g.credit:
		g.left = 4 + int(n) + gcmTag
	case <-g.opened:
	case <-g.gone:
		return os.ErrClosed
	case <-late.C:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// fill reads on.
func (g *gate) fill(r io.Reader) error {
	var more [readAhead]byte
	n, err := r.Read(more[:])
	g.buf = append(g.buf, more[:n]...)
	if n > 0 {
		return nil
	}
	return err
}
