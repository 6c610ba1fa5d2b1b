package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/server"
	"github.com/kedgebackup/kedge/remote/upload"
	"github.com/kedgebackup/kedge/repo"
)

// client is one connection that has proved a key.
type client struct {
	s    *Server
	name string // in the log
	key  *access.Key
	conn *ssh.ServerConn
	line *wire
	full string // why it gets no session
}

// serve is the life of one connection. The handshake ends with life, sessions with
// sessions.
func (s *Server) serve(life, sessions context.Context, c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(s.times.handshake))
	l := login{s: s, from: addressOf(c)}
	s.waiting.enter(c, l.from)
	if life.Err() != nil {
		s.waiting.leave(c)
		return
	}
	w := &wire{Conn: c, times: s.times}
	conn, channels, requests, err := ssh.NewServerConn(w, l.config())
	there := s.waiting.leave(c)
	if err != nil {
		if there {
			s.log("%v: not let in: %s", c.RemoteAddr(), l.reason(err))
		}
		return
	}
	w.proved.Store(true)
	_ = c.SetDeadline(time.Time{})
	p := &client{s: s, conn: conn, line: w}
	give, err := p.enter()
	if err != nil {
		s.log("%v: cut off: %v", c.RemoteAddr(), err)
		_ = c.Close() // what the ssh package has started ends with what follows
	} else {
		defer give()
	}
	p.serve(sessions, channels, requests)
}

// enter finds out who the client is and takes a place for its session.
func (p *client) enter() (give func(), err error) {
	if p.key, err = keyOf(p.conn.Permissions); err != nil {
		p.full = err.Error()
		return nil, err
	}
	who := p.key.Fingerprint()
	p.name = fmt.Sprintf("%v %s %q", p.conn.RemoteAddr(), who, p.key.Comment)
	if give, p.full = p.s.tables.take(who); give == nil {
		return nil, errors.New(p.full)
	}
	return give, nil
}

// serve answers what a client asks for until the connection ends, which it does when the
// client goes, ctx ends, the one session has ended, or the client asks for nothing.
func (p *client) serve(ctx context.Context, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	defer func() {
		_ = p.line.Close()
		for range channels { // else who reads from the line waits for ever to hand one over
		}
	}()
	all.Go(func() { p.line.watch(ctx, p.conn) })
	all.Go(func() { p.refuse(requests) })
	idle := time.AfterFunc(p.s.times.command, func() { _ = p.line.Close() })
	defer idle.Stop()
	// When ctx ends the program is told first; it has a second for its last words.
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(p.s.times.part, func() { _ = p.line.Close() })
	})()
	opened := 0
	for c := range channels {
		opened++
		switch {
		case opened > maxChannels:
			p.s.log("%s: cut off: it opened %d channels", p.name, opened)
			return
		case c.ChannelType() != "session":
			p.s.log("%s: refused: a channel of the type %q", p.name, c.ChannelType())
			_ = c.Reject(ssh.UnknownChannelType, "there is nothing here but sessions")
		case opened > 1:
			_ = c.Reject(ssh.ResourceShortage, "one session a connection")
		default:
			ch, asks, err := c.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.session(ctx, ch, asks, idle) })
		}
	}
}

// refuse answers requests, all in the same way.
func (p *client) refuse(requests <-chan *ssh.Request) {
	refused := 0
	for r := range requests {
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
		// What keeps a connection alive may come for days.
		if r.Type != "keepalive@openssh.com" {
			refused++
		}
		if refused > maxRefused {
			_ = p.line.Close()
		}
	}
}

// session waits for the command of a session and runs it.
func (p *client) session(ctx context.Context, ch ssh.Channel, asks <-chan *ssh.Request, idle *time.Timer) {
	var rest sync.WaitGroup
	defer func() {
		_ = p.line.Close()
		for range asks {
		}
		rest.Wait()
	}()
	refused := 0
	for r := range asks {
		if r.Type != "exec" {
			if r.WantReply {
				_ = r.Reply(false, nil)
			}
			if refused++; refused > maxRefused {
				p.s.log("%s: cut off: it asked for too much", p.name)
				return
			}
			continue
		}
		var exec struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &exec); err != nil {
			return
		}
		if !idle.Stop() {
			return
		}
		if r.WantReply {
			_ = r.Reply(true, nil)
		}
		gone := make(chan struct{})
		rest.Go(func() { defer close(gone); p.refuse(asks) })
		p.run(ctx, ch, exec.Command)
		// The channel is closed from here. The client goes, or is made to.
		select {
		case <-gone:
		case <-time.After(p.s.times.part):
		}
		return
	}
}

// run runs a command and tells the client how it ended.
func (p *client) run(ctx context.Context, ch ssh.Channel, command string) {
	at := time.Now()
	s := &stream{Channel: ch, line: p.line, part: p.s.times.part}
	err := p.program(ctx, s, command)
	var refused *repo.RefusedError
	switch {
	case err == nil:
		p.s.log("%s: %q: done after %v", p.name, command, time.Since(at).Round(time.Millisecond))
	case errors.As(err, &refused):
		p.s.log("%s: %q: %v", p.name, command, err)
	default:
		p.s.log("%s: %q: %v after %v", p.name, command, err, time.Since(at).Round(time.Millisecond))
	}
	// A client that takes none of this is cut off.
	late := time.AfterFunc(p.s.times.part, func() { _ = p.line.Close() })
	defer late.Stop()
	if err != nil {
		_, _ = io.WriteString(ch.Stderr(), "kedge: "+forClient(err)+"\n")
	}
	_ = ch.CloseWrite()
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{exitStatus(err)}))
	_ = ch.Close()
}

// program does what a command asks for.
func (p *client) program(ctx context.Context, s *stream, command string) error {
	if p.full != "" {
		return &repo.BusyError{What: "server", Hint: p.full}
	}
	request, err := access.ParseRequest(command)
	if err != nil {
		return err
	}
	grant := p.key.Grant
	if grant.Root == "" {
		grant.Root = p.s.o.Root
	}
	if request.What == access.UploadPack {
		s.limit = p.s.times.stall
		return p.upload(ctx, s, &grant, request.Path)
	}
	return server.Serve(ctx, s, server.Options{
		FS: p.s.o.FS, Grant: grant, Limits: p.s.o.Session, Log: p.s.log, Large: p.s.large,
	})
}

// upload serves git. What a client may not have is not there.
func (p *client) upload(ctx context.Context, s *stream, grant *access.Grant, path string) error {
	r, err := grant.OpenToRead(ctx, p.s.o.FS, path)
	if err != nil {
		return err
	}
	defer r.Close()
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	return upload.Serve(ctx, s, r, upload.Options{Large: p.s.large})
}
