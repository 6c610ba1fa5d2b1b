package remote

import (
	"errors"
	"io"
	"strconv"
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

// Read reads what the server writes.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.out.Read(p)
	if n > 0 && !l.heard.Load() {
		l.heard.Store(true)
	}
	if err != nil {
		l.ended.Store(true)
	}
	return n, err
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
		drained.Go(func() { _, _ = io.Copy(io.Discard, l.out) })
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
func (l *link) explain(a Address, err error) error {
	lost := new(LostError)
	if !errors.As(err, &lost) || l.heard.Load() || l.code != sshFailed {
		return err
	}
	return sshFailure(l.said.lines(), a)
}

// words is what a server says to people. It is passed on line by line, without the bytes
// that make a terminal do things, and the last lines are kept for messages.
type words struct {
	mu   sync.Mutex
	out  io.Writer
	skip func(line string) bool // lines that are not passed on
	part []byte                 // of a line
	kept []string
	size int // bytes in kept
	left int // bytes that may still be passed on
}

// Limits of what is taken from a server that does not stop talking.
const (
	maxWordsLine = 1 << 10
	maxWordsKept = 4 << 10
	maxWords     = 256 << 10
	lastLines    = 3
)

func newWords(out io.Writer) *words {
	if out == nil {
		out = io.Discard
	}
	return &words{out: out, left: maxWords, skip: func(string) bool { return false }}
}

// Write takes a piece of what is said. It never fails: nobody can be told.
func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range p {
		if c != '\n' && c != '\r' {
			w.part = append(w.part, c)
		}
		if c == '\n' || c == '\r' || len(w.part) == maxWordsLine {
			w.end()
		}
	}
	return len(p), nil
}

// flush ends a line that has no end.
func (w *words) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end()
}

func (w *words) end() {
	line := strings.TrimRight(harmless(string(w.part)), " ")
	w.part = w.part[:0]
	if line == "" {
		return
	}
	w.kept = append(w.kept, line)
	w.size += len(line)
	for w.size > maxWordsKept {
		w.size -= len(w.kept[0])
		w.kept = w.kept[1:]
	}
	if w.skip(line) || w.left < len(line) {
		return
	}
	w.left -= len(line)
	_, _ = io.WriteString(w.out, line+"\n")
}

// lines returns what is kept.
func (w *words) lines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.kept...)
}

// last returns the last lines in one.
func (w *words) last() string {
	lines := w.lines()
	return strings.Join(lines[max(0, len(lines)-lastLines):], "; ")
}

// harmless replaces what does not print: control characters, broken UTF-8, and what
// turns the direction of writing.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !strconv.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}
