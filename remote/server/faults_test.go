package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// script is the messages of a client that saves, each as it goes over the line.
func script(p place, save repotest.Save) (messages [][]byte) {
	var buf bytes.Buffer
	w := wire.NewWriter(&buf)
	tag := uint32(0)
	say := func(kind wire.Kind, body []byte) {
		tag++
		_ = w.Send(kind, tag, body)
		_ = w.Flush()
		messages = append(messages, bytes.Clone(buf.Bytes()))
		buf.Reset()
	}
	messages = append(messages, []byte("kedge 1\n"))
	say(wire.Open, (&wire.OpenRequest{Create: true}).Append(nil))
	say(wire.Begin, nil)
	say(wire.Add, addBody(1, repo.Data, save.Data[:4]...))
	say(wire.Add, addBody(1, repo.Data, save.Data[4:]...))
	say(wire.Commit, wire.Number(1).Append(nil))
	say(wire.Add, addBody(1, repo.Trees, save.Trees...))
	say(wire.Commit, wire.Number(1).Append(nil))
	say(wire.End, wire.Number(1).Append(nil))
	move := wire.MoveRequest{Move: repo.Move{Ref: "refs/heads/main", Old: p.two.Commit, New: save.Commit, Reparent: true}}
	say(wire.SetRef, move.Append(nil))
	return messages
}

// TestCuts cuts the connection behind every message of a save, and within it. The
// repository is sound, nothing is left behind, the ref is where it was or where it
// should be, and the same save then succeeds.
func TestCuts(t *testing.T) {
	p := newPlace(t)
	for try := 0; ; try++ {
		// Other contents each time, so that there is something to send.
		save := repotest.NewSave(strings.Repeat("x", try), 8, p.two.Commit)
		messages := script(p, save)
		if try/2 > len(messages) {
			break
		}
		sent := bytes.Join(messages[:try/2], nil)
		if try%2 == 1 && try/2 < len(messages) {
			next := messages[try/2]
			sent = append(sent, next[:len(next)/2]...)
		}
		conn, served := serveRaw(t, p.options(t, access.Append))
		go io.Copy(io.Discard, conn)
		conn.Write(sent)
		if try%4 < 2 { // otherwise the client is gone before the server has answered
			time.Sleep(time.Millisecond)
		}
		conn.Close()
		soon(t, served)
		state(t, p.root)
		r := p.open(t)
		refs, err := r.Refs(t.Context(), "refs/heads/main")
		if err != nil || len(refs) != 1 {
			t.Fatal(refs, err)
		}
		if missing, err := r.Missing(t.Context(), nil, []pack.ID{refs[0].ID}); err != nil || len(missing) > 0 {
			t.Fatalf("cut %d: the ref leads to nothing: %v, %v", try, missing, err)
		}
		conn, served = serveRaw(t, p.options(t, access.Append))
		go conn.Write(append(bytes.Join(messages, nil), frame(wire.Ping, 999)...))
		tags, failed := drainReplies(t, conn, 999)
		if failed != nil || tags < 6 {
			t.Fatalf("cut %d: the save does not succeed then: %d replies, %v", try, tags, failed)
		}
		conn.Close()
		if err := soon(t, served); err != nil {
			t.Error(err)
		}
		state(t, p.root)
	}
	fsck(t, p.dir())
}

// TestFaults lets every operation on files fail in turn while a save comes in. What was
// acknowledged is there, and the same save succeeds afterwards.
func TestFaults(t *testing.T) {
	for at := 0; ; at++ {
		p := newPlace(t)
		save := repotest.NewSave("faults", 8, p.two.Commit)
		failed := false
		n := 0
		o := p.options(t, access.Append)
		o.FS = &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
			if n++; n == at+1 {
				failed = true
				return &os.PathError{Op: "fault", Path: op.Path, Err: syscall.ENOSPC}
			}
			return do()
		}}
		conn, served := serveRaw(t, o)
		go conn.Write(append(bytes.Join(script(p, save), nil), frame(wire.Ping, 999)...))
		_, err := drainReplies(t, conn, 999)
		conn.Close()
		soon(t, served)
		r := p.open(t)
		refs, e := r.Refs(t.Context(), "refs/heads/main")
		if e != nil || len(refs) != 1 {
			t.Fatal(refs, e)
		}
		if err == nil && refs[0].ID != save.Commit {
			t.Errorf("fault %d: the save was acknowledged and is not there", at)
		}
		if missing, e := r.Missing(t.Context(), nil, []pack.ID{refs[0].ID}); e != nil || len(missing) > 0 {
			t.Errorf("fault %d: the ref leads to nothing: %v", at, e)
		}
		o.FS = nil
		conn, served = serveRaw(t, o)
		go conn.Write(append(bytes.Join(script(p, save), nil), frame(wire.Ping, 999)...))
		if _, err := drainReplies(t, conn, 999); err != nil {
			t.Errorf("fault %d: the save does not succeed then: %v", at, err)
		}
		conn.Close()
		soon(t, served)
		state(t, p.root)
		if !failed {
			break
		}
	}
}

// frame returns a message without a body.
func frame(kind wire.Kind, tag uint32) []byte {
	var buf bytes.Buffer
	w := wire.NewWriter(&buf)
	_ = w.Send(kind, tag, nil)
	_ = w.Flush()
	return buf.Bytes()
}

// drainReplies reads until the reply to the request with the last tag, and returns how
// many came and the first failure.
func drainReplies(t *testing.T, conn net.Conn, last uint32) (n int, failed error) {
	t.Helper()
	in := bufio.NewReader(conn)
	hello := make([]byte, len("1\n\nok\n"))
	if _, err := io.ReadFull(in, hello); err != nil {
		return 0, err
	}
	for r := wire.NewReader(in); ; n++ {
		kind, tag, body, err := r.Next(nil)
		if err != nil {
			return n, err
		}
		if tag == last {
			return n, failed
		}
		if kind == wire.Fail && failed == nil {
			if failed, err = wire.ParseFailure(body); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// halfConn is a connection without deadlines, as the standard streams of a process may be.
type halfConn struct {
	r io.Reader
	w io.Writer
	c io.Closer
}

func (c *halfConn) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c *halfConn) Write(p []byte) (int, error) { return c.w.Write(p) }
func (c *halfConn) Close() error                { return c.c.Close() }

// TestStalls: a client that says nothing, stops in the middle, or does not read is cut
// off, on connections with deadlines and without.
func TestStalls(t *testing.T) {
	p := newPlace(t)
	before := state(t, p.root)
	save := repotest.NewSave("stall", 8, p.two.Commit)
	messages := script(p, save)
	get := frameOf(wire.Refs, nil)
	stalls := map[string][]byte{
		"nothing":                 nil,
		"half a line":             []byte("ked"),
		"nothing after the line":  []byte("kedge 1\n"),
		"half a head":             append([]byte("kedge 1\n"), frame(wire.Ping, 1)[:5]...),
		"in the middle of an Add": append(bytes.Join(messages[:3], nil), messages[3][:40]...),
		"no reading":              append([]byte("kedge 1\n"), bytes.Repeat(get, 2000)...),
		"nothing after a command": []byte("help\n"),
		"receive":                 []byte("receive-objects-v2\n\x00\x00\x10"),
	}
	for name, sent := range stalls {
		for _, deadlines := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				o := p.options(t, access.Append)
				o.Limits = Limits{First: 100 * time.Millisecond, Idle: 100 * time.Millisecond, Quiet: 100 * time.Millisecond}
				near, far := net.Pipe()
				defer near.Close()
				var conn io.ReadWriter = far
				if !deadlines {
					conn = &halfConn{far, far, far}
				}
				served := make(chan error, 1)
				go func() { served <- Serve(context.Background(), conn, o) }()
				go near.Write(sent)
				if name != "no reading" {
					go io.Copy(io.Discard, near)
				}
				if err := soon(t, served); err == nil {
					t.Error("it ended as if the client had left")
				}
				same(t, before, state(t, p.root))
			})
		}
	}
}

// frameOf returns a message.
func frameOf(kind wire.Kind, body []byte) []byte {
	var buf bytes.Buffer
	w := wire.NewWriter(&buf)
	_ = w.Send(kind, 1, body)
	_ = w.Flush()
	return buf.Bytes()
}

// TestPatience: a client that is slow but goes on is not cut off.
func TestPatience(t *testing.T) {
	p := newPlace(t)
	synctest.Test(t, func(t *testing.T) {
		o := p.options(t, access.Append)
		o.Limits = Limits{First: 5 * time.Second, Idle: time.Second}
		c := dialRaw(t, o)
		for range 6 {
			time.Sleep(900 * time.Millisecond)
			c.must(wire.Ping)
		}
		if err := c.leave(); err != nil {
			t.Error(err)
		}
	})
}

// TestCancel: the end of the context ends a connection that waits, and one that works;
// no goroutine is left.
func TestCancel(t *testing.T) {
	p := newPlace(t)
	start := runtime.NumGoroutine()
	for i := range 10 {
		ctx, cancel := context.WithCancelCause(t.Context())
		near, far := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- Serve(ctx, far, p.options(t, access.Append)) }()
		go io.Copy(io.Discard, near)
		go near.Write(bytes.Join(script(p, repotest.NewSave("cancel", 8, p.two.Commit))[:i], nil))
		time.Sleep(10 * time.Millisecond)
		why := errors.New("shutting down")
		cancel(why)
		if err := soon(t, served); !errors.Is(err, why) {
			t.Error(err)
		}
		near.Close()
		far.Close()
		state(t, p.root)
	}
	for range 1000 {
		if runtime.NumGoroutine() <= start {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), start)
}
