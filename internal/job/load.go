package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// A Loading reads a dump again into what it was made from. Look says what that would do, and
// refuses what would cost somebody data; Run does it. What is there already is never removed:
// it is moved aside to a name that ends in ".before-restore-" and the time, or, where a server
// cannot rename, dumped to a file in the state directory.
type Loading struct {
	Stream *Stream
	FS     *fsx.FS
	State  string
	Env    []string
	Stderr *os.File  // of the commands
	Force  bool      // what is there may be replaced
	At     time.Time // in the names of what is moved aside
	// Discard says that what is there was loaded before, and need not be kept: it is removed
	// when the dump has been read.
	Discard bool

	kind   *preset // nil: the config has a command of its own
	path   string  // of the target if it is a file or directory; symbolic links are followed
	block  bool    // it is a block device
	count  string  // what there is, as the preset's there says: "0", "absent", a number
	unsure error   // why nobody knows
}

// NotEmptyError says that there is something where a dump was to be read.
type NotEmptyError struct {
	Stream string
	What   string
}

// Error names the stream and what is there.
func (e *NotEmptyError) Error() string { return "stream " + e.Stream + ": " + e.What }

// Look finds out what is there, and returns what Run will do, a line for each step.
func (l *Loading) Look(ctx context.Context) ([]string, error) {
	s := l.Stream
	if _, err := s.command(true, ""); err != nil {
		return nil, err
	}
	if s.Restore == "" {
		l.kind, _ = findPreset(s.Preset) // command has found it
	}
	if err := l.find(ctx); err != nil {
		return nil, err
	}
	if !l.Force {
		if err := l.refusal(); err != nil {
			return nil, err
		}
	}
	return l.steps()
}

// find finds out what is there.
func (l *Loading) find(ctx context.Context) error {
	s := l.Stream
	if l.kind != nil && l.kind.into != intoServer {
		if l.kind.up != nil {
			if _, err := l.ask(ctx, l.kind.up(s)); err == nil {
				return fmt.Errorf("stream %s: its server runs, and would write the file again when it ends: stop it first", s.Name)
			}
		}
		return l.findFile()
	}
	there := []string(nil)
	switch {
	case l.kind == nil && s.Empty != "":
		there = []string{s.Empty}
	case l.kind != nil:
		there = l.kind.there(s)
	}
	if there == nil {
		l.unsure = errors.New("the config does not say how to find out (empty)")
		if l.kind != nil {
			l.unsure = errors.New("the tool cannot be asked with a password")
		}
		return nil
	}
	answer, err := l.ask(ctx, there)
	if err != nil {
		l.unsure = err
		return nil
	}
	if l.count = strings.TrimSpace(answer); l.count == "" {
		l.count = "0"
	}
	if _, err := strconv.ParseInt(l.count, 10, 64); err != nil && l.count != "absent" && l.kind != nil {
		l.unsure = fmt.Errorf("the answer is %q", l.count)
	}
	return nil
}

// empty reports whether there is nothing that could be lost.
func (l *Loading) empty() bool { return l.unsure == nil && (l.count == "0" || l.count == "absent") }

// refusal says what is in the way.
func (l *Loading) refusal() error {
	switch {
	case l.unsure != nil:
		return &NotEmptyError{l.Stream.Name, fmt.Sprintf("whether %s is empty is not known: %v", l.target(), l.unsure)}
	case !l.empty():
		return &NotEmptyError{l.Stream.Name, l.target() + " is not empty"}
	}
	return nil
}

// target names what is read into.
func (l *Loading) target() string {
	s := l.Stream
	switch {
	case l.path != "":
		return l.path
	case l.kind == nil:
		return "what its command writes to"
	case s.Database != "":
		return "the database " + s.Database
	}
	return "the server"
}

// Replaces reports, after Look, whether Run would put something in the place of what is there.
// Then the whole dump should be read once before, so that a damaged one costs nothing.
func (l *Loading) Replaces() bool { return !l.empty() }

// steps says what Run will do.
func (l *Loading) steps() (lines []string, err error) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch {
	case l.block:
		add("overwrite %s: what is on it is lost", l.path)
	case l.path != "" && !l.empty():
		for _, name := range l.old() {
			add("move %s aside, to %s", name, name+l.suffix())
		}
	case l.kind != nil && l.kind.keep && !l.empty():
		add("dump what is in %s to %s, and replace it", l.target(), l.keptFile())
	case l.kind != nil && l.kind.ready != nil && l.count == "absent":
		add("make %s", l.target())
	case l.kind != nil && l.kind.ready != nil && !l.empty():
		add("move %s aside, to a name that ends in %s", l.target(), l.suffix())
	}
	command := l.Stream.Restore
	if l.kind != nil {
		command = script(l.loadWords(), secretWord(l.Stream), l.newFile())
	}
	add("read it with: %s", command)
	return lines, nil
}

// secretWord is what a command will be told about its secret.
func secretWord(s *Stream) string {
	if s.Secret == "" {
		return ""
	}
	return secretFile
}

// loadWords is the command that reads the dump.
func (l *Loading) loadWords() []string {
	if l.block { // not sparse: what is on the device would show where the dump has zeros
		return []string{"dd", "of={file}", "bs=1M", "iflag=fullblock", "conv=nocreat,fsync", "status=none"}
	}
	return l.kind.load(l.Stream, !l.empty())
}

// suffix is what the names of things that are moved aside end in.
func (l *Loading) suffix() string { return ".before-restore-" + l.At.Format("20060102-150405") }

// keptFile is where what is there is dumped to.
func (l *Loading) keptFile() string {
	return filepath.Join(l.State, "before-restore", l.Stream.Name+l.suffix())
}

// read makes room, and reads the dump.
func (l *Loading) read(ctx context.Context, body func(io.Writer) error) error {
	if err := l.makeRoom(ctx); err != nil {
		return err
	}
	words := []string{l.Stream.Restore}
	if l.kind != nil {
		words = l.loadWords()
	}
	if l.kind != nil && l.kind.skip != nil {
		lines, err := l.ask(ctx, l.kind.skip(l.Stream))
		if err != nil {
			return err
		}
		inner, skip := body, strings.Split(strings.TrimSuffix(lines, "\n"), "\n")
		body = func(w io.Writer) error {
			h := &headFilter{w: w, skip: skip, end: l.kind.headEnd}
			return errors.Join(inner(h), h.flush())
		}
	}
	err := l.command(ctx, words, body, l.Stderr)
	if l.kind == nil || l.kind.into != intoFile || l.block {
		return err
	}
	if err != nil {
		return errors.Join(err, l.giveUp())
	}
	return l.place()
}

// makeRoom moves aside what is there, or keeps a dump of it.
func (l *Loading) makeRoom(ctx context.Context) error {
	switch {
	case l.kind == nil:
		return nil
	case l.kind.into == intoDir && !l.empty():
		return l.FS.Rename(l.path, l.path+l.suffix())
	case l.kind.into != intoServer:
		return nil
	}
	if l.kind.keep && !l.empty() && !l.Discard {
		if err := l.keepDump(ctx); err != nil {
			return fmt.Errorf("what is in %s could not be kept, and was left alone: %w", l.target(), err)
		}
	}
	if l.kind.ready == nil || l.unsure == nil && l.count == "0" {
		return nil
	}
	words := l.kind.ready(l.Stream, l.count == "absent", l.suffix())
	if words == nil {
		return nil
	}
	return l.command(ctx, words, nil, l.Stderr)
}

// keepDump dumps what is there to a file.
func (l *Loading) keepDump(ctx context.Context) error {
	if err := l.FS.MkdirAll(filepath.Dir(l.keptFile()), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(l.keptFile(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = l.command(ctx, l.kind.dump(l.Stream), nil, f)
	return errors.Join(err, f.Sync(), f.Close())
}

// ask runs a command and returns what it prints.
func (l *Loading) ask(ctx context.Context, words []string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	answer := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(r, 1<<20))
		_, _ = io.Copy(io.Discard, r)
		answer <- string(text)
	}()
	err = l.command(ctx, words, nil, w)
	w.Close()
	return <-answer, err
}

// command runs a command, with body for its standard input.
func (l *Loading) command(ctx context.Context, words []string, body func(io.Writer) error, out *os.File) error {
	p, err := l.Stream.prepare(l.FS)
	if err != nil {
		return err
	}
	defer p.Close()
	text := script(words, p.secret(), l.newFile())
	cmd := exec.Command("bash", "-o", "pipefail", "-c", text)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = p.Environ(l.Env), "/", out, l.Stderr, p.Files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: p.As}
	var in *os.File // an *os.File, so that Wait waits for the command and for nothing else
	if body != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		defer w.Close()
		cmd.Stdin, in = r, w
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	kill := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	defer context.AfterFunc(ctx, kill)()
	var failed error
	if body != nil {
		_ = cmd.Stdin.(*os.File).Close()
		if failed = body(in); failed != nil && !errors.Is(failed, syscall.EPIPE) {
			kill()
		}
		in.Close()
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case failed != nil && (err == nil || !errors.Is(failed, syscall.EPIPE)):
		return fmt.Errorf("stream %s: %w", l.Stream.Name, failed)
	case err != nil:
		return fmt.Errorf("stream %s: %s: %w", l.Stream.Name, text, err)
	}
	return nil
}

// headFilter leaves lines out of the head of a text, which goes to the line that begins with
// end. Behind it nothing is looked at.
type headFilter struct {
	w    io.Writer
	skip []string
	end  string
	line []byte
	past bool
}

// Write passes on what is not left out.
func (h *headFilter) Write(b []byte) (int, error) {
	n := len(b)
	for !h.past {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			h.line = append(h.line, b...)
			return n, nil
		}
		h.line, b = append(h.line, b[:i+1]...), b[i+1:]
		if err := h.flush(); err != nil {
			return 0, err
		}
	}
	if _, err := h.w.Write(b); err != nil {
		return 0, err
	}
	return n, nil
}

// flush passes on the line that was collected.
func (h *headFilter) flush() error {
	line := h.line
	h.line = nil
	h.past = h.past || strings.HasPrefix(string(line), h.end)
	if len(line) == 0 || slices.Contains(h.skip, strings.TrimSuffix(string(line), "\n")) {
		return nil
	}
	_, err := h.w.Write(line)
	return err
}
