package remote

import (
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// words is what a server says to people. It is passed on line by line, without the bytes
// that make a terminal do things, and the last lines are kept for messages. Of a program
// that dies with the list of its calls, nothing is taken but what it died of: bup's server
// says in forty lines of Python what git said in one.
type words struct {
	mu   sync.Mutex
	out  io.Writer
	skip func(line string) bool // lines that are not passed on
	part []byte                 // of a line
	dies string                 // the language in whose words the list of calls is
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
	if line == "" || w.traces(line) {
		return
	}
	again := len(w.kept) > 0 && line == w.kept[len(w.kept)-1]
	if !again && !strings.HasPrefix(line, "hint:") { // git's, about anything
		w.kept = append(w.kept, line)
		w.size += len(line)
	}
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

// traces reports whether a line belongs to the list of calls of a program that dies:
//
//	Traceback (most recent call last):          goroutine 1 [running]:
//	  File "server.py", line 168, in update     main.main()
//	    git.update(name)                          /src/main.go:21 +0x145
//	GitError: 'git update-ref' returned 128
//
// What it died of stands behind in Python, and before, after "panic: ", in Go.
func (w *words) traces(line string) bool {
	switch {
	case strings.HasPrefix(line, "Traceback (most recent call last):"),
		strings.HasPrefix(line, "During handling of the above exception, another"),
		strings.HasPrefix(line, "The above exception was the direct cause of"):
		w.dies = "python"
	case strings.HasPrefix(line, "goroutine ") && strings.HasSuffix(line, "]:"):
		w.dies = "go"
	case w.dies == "":
		return false
	case line[0] == ' ':
	case w.dies == "go" && (strings.HasSuffix(line, ")") || strings.HasPrefix(line, "created by ")):
	default:
		w.dies = ""
		return false
	}
	return true
}

// lines returns what is kept.
func (w *words) lines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.kept...)
}

// last returns the last lines in one, and before them the last that git or Go calls
// fatal: what git says after that is advice.
func (w *words) last() string {
	lines := w.lines()
	end := lines[max(0, len(lines)-lastLines):]
	for i, line := range slices.Backward(lines) {
		if strings.HasPrefix(line, "fatal: ") || strings.HasPrefix(line, "panic: ") {
			if i < len(lines)-len(end) {
				end[0] = line
			}
			break
		}
	}
	return strings.Join(end, "; ")
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
