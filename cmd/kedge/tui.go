package main

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// This file is the user interface of a run. Its rules:
//
//   - What was asked for goes to standard output, and nothing else does. It is
//     buffered and written in large pieces, so that a reader who has seen enough
//     (grep -q) does not kill the command half-way.
//
//   - Everything else goes to standard error: one line each, after "kedge: ",
//     without a capital at the front or a full stop at the end.
//
//   - "kedge: error: CAUSE" is the last word of a command that failed, and there
//     is one. "kedge: hint: ADVICE" may follow it.
//
//   - "kedge: warning: PATH: CAUSE" names one item that was left out, once. Their
//     number stands in the last line, and the exit code is 3.
//
//   - Progress is drawn only on a terminal, in one line that is wiped before
//     anything else is written and at the end. Under cron a command that went
//     well is silent.
//
//   - A name from a file system or a repository is never written as it is to
//     standard error or to a terminal: see escape. To a pipe or a file, standard
//     output gets the bytes themselves.
//
//   - Nothing is ever asked. A command does what its line says, or refuses.

// tui writes what a run has to say. Its methods may be called by several
// goroutines at once.
type tui struct {
	name   string // program name in front of each line
	width  int    // of the terminal that err is; 0: no progress is wanted
	chatty bool   // note writes

	mu       sync.Mutex
	err      io.Writer
	drawn    bool // a progress line stands there
	last     time.Time
	warnings int64
	named    map[uint64]struct{} // hashes of the warnings so far
}

// line writes one line to standard error.
func (u *tui) line(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wipe()
	u.put(fmt.Sprintf("%s: %s\n", u.name, fmt.Sprintf(format, args...)))
}

// note writes a line that only somebody who watches wants to see: there is a
// terminal, or -v was given.
func (u *tui) note(format string, args ...any) {
	if u.chatty {
		u.line(format, args...)
	}
}

// raw writes bytes to standard error as they are: usage texts, and the paths
// that -v lists.
func (u *tui) raw(b []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wipe()
	u.put(string(b))
}

// Write is where cobra reports a mistake in its own business.
func (u *tui) Write(b []byte) (int, error) {
	u.raw(b)
	return len(b), nil
}

// maxNamed is how many warnings are remembered, at 16 bytes each.
const maxNamed = 1 << 18

// warn names an item that was left out and why. Backup walks and then saves, and
// both meet what cannot be read: the second time it is passed over.
func (u *tui) warn(path string, err error) {
	line := "warning: " + escape(path) + ": " + escapeText(cause(err, path))
	h := fnv.New64a()
	_, _ = io.WriteString(h, line)
	u.mu.Lock()
	_, again := u.named[h.Sum64()]
	if !again {
		u.warnings++
		if u.named == nil {
			u.named = make(map[uint64]struct{})
		}
		if len(u.named) < maxNamed {
			u.named[h.Sum64()] = struct{}{}
		}
	}
	u.mu.Unlock()
	if !again {
		u.line("%s", line)
	}
}

// warned returns the number of warnings so far.
func (u *tui) warned() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.warnings
}

// fail writes the last words of a failed command.
func (u *tui) fail(err error, hints []string) {
	u.line("error: %s", escapeText(err.Error()))
	u.hints(hints)
}

// hints writes what may help.
func (u *tui) hints(hints []string) {
	for _, h := range hints {
		u.line("hint: %s", escapeText(h))
	}
}

// cause returns the text of an error without the path that stands in front of
// it on the line already.
func cause(err error, path string) string {
	var pe *fs.PathError
	if errors.As(err, &pe) && (pe.Path == path || err == error(pe)) {
		return pe.Err.Error()
	}
	var le *os.LinkError
	if errors.As(err, &le) && err == error(le) {
		return le.Err.Error()
	}
	var se *os.SyscallError
	if errors.As(err, &se) && err == error(se) {
		return se.Err.Error()
	}
	return err.Error()
}

// put writes to standard error. If nobody reads what a command has to say, it
// does its work all the same.
func (u *tui) put(s string) { _, _ = io.WriteString(u.err, s) }

// wipe removes the progress line. The lock is held.
func (u *tui) wipe() {
	if u.drawn {
		u.put("\r\x1b[K")
		u.drawn = false
	}
}

// redraw is how often the progress line changes at most.
const redraw = 200 * time.Millisecond

// progress shows how far a command has come, if there is a terminal to show it
// on and the last time is long enough ago. text is called only then.
func (u *tui) progress(text func() string) {
	if u.width == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if now.Sub(u.last) < redraw {
		return
	}
	u.last = now
	u.put("\r\x1b[K" + clip(text(), u.width-1))
	u.drawn = true
}

// done wipes what progress left.
func (u *tui) done() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wipe()
}

// clip shortens a line to a number of characters.
func clip(s string, width int) string {
	n := 0
	for i := range s {
		if n == width {
			return s[:i]
		}
		n++
	}
	return s
}
