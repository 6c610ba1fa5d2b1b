package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kedgebackup/kedge/remote/wire"
)

const (
	greetTimeout = 30 * time.Second // for the first answers, if Options say nothing
	greetLines   = 1000             // in one answer
	greetLine    = 4 << 10          // bytes in a line
	readAhead    = 64 << 10         // of what comes in
)

// verb is the command under which a server offers frames.
const verb = "kedge"

// greet asks a server for its commands, in bup's protocol, which both kinds of
// servers speak at first:
//
//	> help\n
//	< Commands:\n    cat-batch\n    help\n    …\n\nok\n
//
// A shell that prints something at login is the common way for this to fail, so
// the error shows what came instead.
func greet(conn io.ReadWriteCloser, o Options) (*greeting, error) {
	g := &greeting{conn: conn, name: "server", lastWords: func() string { return "" }}
	if p, ok := conn.(peer); ok {
		g.name, g.lastWords = p.String(), p.LastWords
	}
	g.heard = &counter{r: conn}
	g.w = &throttle{w: conn, perSecond: o.BytesPerSecond}
	g.r = bufio.NewReaderSize(g.heard, readAhead)
	lines, err := g.command("help")
	if err != nil {
		return nil, g.lost(err)
	}
	if len(lines) == 0 || lines[0] != "Commands:" {
		return nil, g.lost(errors.New("it does not list its commands, but says " + quoteLines(lines)))
	}
	for _, l := range lines[1:] {
		g.commands = append(g.commands, strings.TrimSpace(l))
	}
	return g, nil
}

// command sends a line and returns those of the answer, up to the empty one.
func (g *greeting) command(text string) (lines []string, err error) {
	if _, err := io.WriteString(g.w, text+"\n"); err != nil {
		return nil, err
	}
	return g.answer()
}

// answer reads up to "\nok\n".
func (g *greeting) answer() (lines []string, err error) {
	for len(lines) < greetLines {
		l, err := g.line()
		if err == io.EOF && len(lines) > 0 {
			return nil, fmt.Errorf("it hung up after it said %s", quoteLines(lines))
		} else if err != nil {
			return nil, err
		}
		switch {
		case l == "":
		case l == "ok":
			return lines, nil
		case strings.HasPrefix(l, "error "):
			return nil, errors.New(strings.TrimPrefix(l, "error "))
		default:
			lines = append(lines, l)
		}
	}
	return nil, errors.New("it does not stop talking: " + quoteLines(lines))
}

// line reads a line of at most greetLine bytes.
func (g *greeting) line() (string, error) {
	b, err := g.r.ReadSlice('\n')
	switch {
	case err == io.EOF && len(b) > 0:
		return "", fmt.Errorf("%w after %.200q", io.ErrUnexpectedEOF, b)
	case errors.Is(err, bufio.ErrBufferFull) || len(b) > greetLine:
		return "", fmt.Errorf("it says %.200q…", b)
	case err != nil:
		return "", err
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// quoteLines shows the beginning of what somebody said.
func quoteLines(lines []string) string {
	s := strings.Join(lines, "\n")
	if len(s) > 200 {
		s = s[:200]
	}
	return fmt.Sprintf("%q", s)
}

// offers reports whether the server has a command.
func (g *greeting) offers(name string) bool { return slices.Contains(g.commands, name) }

// frames leaves bup's protocol for frames.
//
//	> kedge 1\n
//	< 1\n\nok\n
func (g *greeting) frames() error {
	lines, err := g.command(fmt.Sprintf("%s %d", verb, wire.Version))
	if err != nil {
		return g.lost(err)
	}
	// There is one version so far: a server that wants another one is not to
	// be had.
	if len(lines) != 1 || lines[0] != fmt.Sprint(wire.Version) {
		return g.lost(fmt.Errorf("%w: it wants to speak %s", wire.ErrProtocol, quoteLines(lines)))
	}
	return nil
}

// lost says that nothing can come of the connection.
func (g *greeting) lost(err error) error {
	return &LostError{Server: g.name, Said: g.lastWords(), Err: err}
}

// inTime runs fn, and closes the connection under it if ctx ends or fn takes longer
// than connecting may.
func inTime(ctx context.Context, conn io.Closer, o Options, fn func(ctx context.Context) error) error {
	limit := o.Timeout
	if limit <= 0 {
		limit = greetTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the server does not answer for %v", limit))
	defer cancel()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err := fn(ctx)
	if !stop() { // ctx ended: that the connection then failed is no news
		return context.Cause(ctx)
	}
	return err
}

// LostError says that a connection is of no use any more. What was sent and not
// acknowledged may have been done or not.
type LostError struct {
	Server string // as the user called it
	Said   string // the end of what it said on stderr
	Err    error  // why
}

// Error says what is wrong.
func (e *LostError) Error() string {
	why := e.Err.Error()
	if errors.Is(e.Err, io.EOF) {
		why = "it hung up"
	}
	s := fmt.Sprintf("connection to %s lost: %s", e.Server, why)
	if said := strings.TrimSpace(e.Said); said != "" {
		s += "; it said: " + said
	}
	return s
}

// Unwrap returns the cause.
func (e *LostError) Unwrap() error { return e.Err }

// counter counts what is read, as a sign of life.
type counter struct {
	r io.Reader
	n atomic.Int64
}

// Read reads.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// throttle writes no faster than a number of bytes a second, in steps of a twentieth
// of a second, so that others on the line notice little of it. It is used by one
// goroutine at a time.
type throttle struct {
	w         io.Writer
	perSecond int64 // 0: as fast as it goes
	due       time.Time
	n         atomic.Int64 // bytes written so far, as a sign of life
	hush      bool         // what is written now is no sign of life
}

// throttleStep is the most that is written at once: between two steps it is seen
// that a slow line still moves.
const throttleStep = 64 << 10

// Write writes all of p, or fails.
func (t *throttle) Write(p []byte) (n int, err error) {
	step := throttleStep
	if t.perSecond > 0 {
		step = int(max(1, min(t.perSecond/20, throttleStep)))
	}
	for len(p) > 0 {
		k := min(step, len(p))
		t.wait(k)
		k, err := t.w.Write(p[:k])
		if !t.hush {
			t.n.Add(int64(k))
		}
		n += k
		if err != nil {
			return n, err
		}
		p = p[k:]
	}
	return n, nil
}

// wait waits until it is time for n more bytes.
func (t *throttle) wait(n int) {
	if t.perSecond <= 0 {
		return
	}
	now := time.Now()
	if t.due.Before(now) {
		t.due = now
	} else {
		time.Sleep(t.due.Sub(now))
	}
	t.due = t.due.Add(time.Duration(float64(n) / float64(t.perSecond) * float64(time.Second)))
}
