package remote

import (
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// link is the standard input and output of a server that runs somewhere: behind the
// system's ssh, behind the builtin client, or as a child process. It is what a Client
// speaks over.
type link struct {
	name string
	in   io.WriteCloser // of the server
	out  io.ReadCloser  // of the server; Close ends a Read that is under way
	said *words         // its stderr
	stop func(hard bool)
	over chan struct{} // closed when the server has ended and said its last word; code is valid then
	code int           // its exit status, -1 if there is none

	grace time.Duration // for the server to end after it was told to; 0: linkGrace

	reading      sync.Mutex  // of out: of two who wait, a channel of the ssh package wakes one at its end
	heard, ended atomic.Bool // something, or the end, came from the server
	closing      sync.Once
	failed       error // of Close
}

// A server ends when its input does. What is still there after linkGrace is asked to go,
// and killed after killGrace.
const (
	linkGrace = 5 * time.Second
	killGrace = time.Second
)

// newLink returns a link to another host, where a command is to run. That kedge is not
// there is no news if bup is.
func newLink(a Address, o Options, command string) *link {
	l := &link{name: a.String(), said: newWords(o.Stderr)}
	if command == kedgeServer {
		l.said.skip = func(line string) bool { return !l.heard.Load() && strings.Contains(line, "kedge") && notFound(line) }
	}
	return l
}

// Read reads what the server writes.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.read(p)
	if n > 0 && !l.heard.Load() {
		l.heard.Store(true)
	}
	if err != nil {
		l.ended.Store(true)
	}
	return n, err
}

func (l *link) read(p []byte) (int, error) {
	l.reading.Lock()
	defer l.reading.Unlock()
	return l.out.Read(p)
}

// Write writes to the server.
func (l *link) Write(p []byte) (int, error) {
	n, err := l.in.Write(p)
	if err != nil {
		l.ended.Store(true)
	}
	return n, err
}

// String names the server.
func (l *link) String() string { return l.name }

// LastWords returns the last lines of the server's stderr, and of ssh's, which come on
// the same way. After the connection broke it waits a moment for them.
func (l *link) LastWords() string {
	if l.ended.Load() {
		select {
		case <-l.over:
		case <-time.After(killGrace):
		}
	}
	return l.said.last()
}

// Close tells the server that nothing more will come, waits for it to end, and kills it
// if it does not. A Read under way elsewhere ends. What the server still sends is thrown
// away, so that it does not die of it. An error says that the server did not end well; a
// client that was told that all was done need not care.
func (l *link) Close() error {
	l.closing.Do(func() {
		_ = l.in.Close()
		var drained sync.WaitGroup
		drained.Go(func() {
			var err error
			for buf := make([]byte, 8<<10); err == nil; {
				_, err = l.read(buf)
			}
		})
		grace := l.grace
		if grace == 0 {
			grace = linkGrace
		}
		select {
		case <-l.over:
			if l.code != 0 {
				l.failed = errors.New("the server failed: " + l.said.last())
			}
		case <-time.After(grace):
			l.failed = errors.New("the server did not end and was killed")
			l.stop(false)
			select {
			case <-l.over:
			case <-time.After(killGrace):
				l.stop(true)
			}
		}
		_ = l.out.Close()
		drained.Wait()
		<-l.over
	})
	return l.failed
}

// absent reports, after Close, whether the program that was asked for is not there: a
// shell says so by its exit status, or only by a message.
func (l *link) absent() bool {
	if l.heard.Load() || l.code == 0 || l.code == sshFailed {
		return false
	}
	return l.code == 127 || notFound(l.said.last())
}

func notFound(text string) bool {
	return strings.Contains(text, "not found") || strings.Contains(text, "No such file")
}

// sshFailed is the exit status of ssh if it was itself that failed.
const sshFailed = 255

// explain returns, after Close, why nothing came of a connection to a that broke with err.
func (l *link) explain(a Address, o *Options, err error) error {
	lost := new(LostError)
	if !errors.As(err, &lost) || l.heard.Load() || l.code != sshFailed {
		return err
	}
	return sshFailure(l.said.lines(), a, o)
}
