package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/repo/save"
)

// This file runs the commands whose output --stream saves.

// killAfter is how long a command has to end by itself once it is told to.
const killAfter = 5 * time.Second

// streamPath reads the path of a stream in the saved tree. It is absolute, even
// if the slash in front is left off.
func streamPath(s string) (string, error) {
	p := path.Clean("/" + s)
	for _, part := range strings.Split(s, "/") {
		if part == ".." {
			return "", usagef("%s: a path in the saved tree has no ..", quote(s))
		}
	}
	if p == "/" || strings.HasSuffix(s, "/") || strings.IndexByte(s, 0) >= 0 {
		return "", usagef("%s is no path of a file in the saved tree", quote(s))
	}
	return p, nil
}

// commandStream returns the stream that CMD's output is.
func (a *app) commandStream(treePath, command string) save.Stream {
	return save.Stream{Path: treePath, Open: func(ctx context.Context) (io.ReadCloser, error) {
		return startProducer(ctx, &job.Prepared{Command: command}, a.Stderr)
	}}
}

// stdinStream returns the stream that standard input is.
func (a *app) stdinStream(treePath string) save.Stream {
	return save.Stream{Path: treePath, Open: func(ctx context.Context) (io.ReadCloser, error) {
		return readInput(ctx, a.Stdin), nil
	}}
}

// readInput reads standard input until it ends or the context does. A read of a
// terminal or a pipe cannot be interrupted: it is left behind, in a goroutine
// that ends with the program.
func readInput(ctx context.Context, in io.Reader) io.ReadCloser {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { _ = w.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{in}, make([]byte, 1<<20))
		_ = w.CloseWithError(err) // nil is the end of the input
	}()
	return r
}

// producer is a running command whose output is being saved.
type producer struct {
	command string
	cmd     *exec.Cmd
	out     io.ReadCloser
	ended   bool          // its output was read to the end
	ends    string        // what that has to be
	tail    []byte        // as much of it as was read
	release func() bool   // gives up watching the context
	grace   time.Duration // between SIGTERM and SIGKILL
}

// startProducer starts CMD under bash, with pipefail, because "dump | gzip"
// must not look like a success when dump failed. It gets a process group of
// its own: to stop it means to stop all it started. Its standard error is
// kedge's, its standard input is empty.
//
// Standard error is handed over as the file it is: through a pipe of ours, the
// command would not be over before everything it left in the background (an ssh
// master connection, say) has closed it.
func startProducer(ctx context.Context, what *job.Prepared, stderr io.Writer) (*producer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cmd := exec.Command("bash", "-o", "pipefail", "-c", what.Command)
	cmd.Stderr, cmd.ExtraFiles = stderr, what.Files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: what.As}
	if len(what.Env) > 0 {
		cmd.Env = what.Environ(os.Environ())
		cmd.Dir = "/"
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("command %s: %w", quote(what.Command), err)
	}
	p := &producer{command: what.Command, cmd: cmd, out: out, ends: what.Ends, grace: killAfter}
	p.release = context.AfterFunc(ctx, func() { p.stop() })
	return p, nil
}

// stop tells the whole process group to end, and makes it after a while.
func (p *producer) stop() *time.Timer {
	p.signal(syscall.SIGTERM)
	return time.AfterFunc(p.grace, func() {
		p.signal(syscall.SIGKILL)
		p.out.Close() // whoever still holds the other end, nobody waits for it here
	})
}

// signal signals the process group.
func (p *producer) signal(s syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, s) }

// Read reads what the command prints.
func (p *producer) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if k := len(p.ends); k > 0 && n > 0 {
		p.tail = append(p.tail, b[max(0, n-k):n]...)
		p.tail = p.tail[max(0, len(p.tail)-k):]
	}
	if err == io.EOF {
		p.ended = true
	}
	return n, err
}

// Close waits for the command and reports whether it ended well: read to the
// end, exit code 0, not killed. Closed before its end, it is stopped.
func (p *producer) Close() error {
	wanted := p.release()
	if !p.ended && wanted {
		defer p.stop().Stop()
		p.out.Close()
	}
	err := p.cmd.Wait()
	switch {
	case !p.ended || !wanted:
		p.signal(syscall.SIGKILL) // what did not heed SIGTERM
		return fmt.Errorf("command %s was stopped before its end", quote(p.command))
	case err != nil:
		return fmt.Errorf("command %s failed: %w", quote(p.command), err)
	case string(p.tail) != p.ends:
		return fmt.Errorf("command %s: the dump does not end as a whole one does, with %q", quote(p.command), p.ends)
	}
	return nil
}
