package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
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

	protocol string // of git, as gitProtocol returned it

	running atomic.Bool // a program
}

// serve is the life of one connection. Sessions end with ctx.
func (s *Server) serve(ctx context.Context, c net.Conn) {
	w := newWire(c, s.times)
	defer func() { _ = w.Close() }()
	l := login{s: s, from: addressOf(c)}
	g, ok := s.lobby.enter(w, l.from)
	if !ok {
		return
	}
	conn, channels, requests, err := ssh.NewServerConn(w, l.config())
	there := s.lobby.leave(g)
	if err != nil {
		if there {
			s.log("%v: not let in: %s", c.RemoteAddr(), l.reason(err))
		}
		return
	}
	w.proved()
	p := &client{s: s, conn: conn, line: w}
	give, err := p.enter()
	if err != nil {
		s.log("%v: cut off: %v", c.RemoteAddr(), err)
		_ = w.Close() // what the ssh package has started ends with what follows
	} else {
		defer give()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.serve(ctx, channels, requests)
		_ = conn.Wait()
	}()
	p.bury(ended)
}

// bury waits until all that belongs to the connection has ended.
//
// With a client that breaks the protocol while much of what it sent is read already, the
// ssh package never ends what it has started: the goroutine that reads waits for one that
// is gone, or for one that waits for it. Nothing outside of the package can end them, so
// they and the packets that they hold stay. That needs a key: one that does it three times
// is not let in any more by this process. The program of the session is not among them: it
// ends, because its stream does.
func (p *client) bury(ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-p.line.gate.gone:
	}
	tick := time.NewTicker(p.s.times.bury / 10)
	defer tick.Stop()
	for idle := 0; idle < 10; idle++ {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		if p.running.Load() {
			idle = 0
		}
	}
	if p.key != nil {
		p.s.tables.broke(p.key.Fingerprint())
	}
	p.s.log("%s: it broke the protocol and left a connection that cannot be ended; a key that does so %d times is refused until the server is started again",
		p.name, p.s.tables.mostStuck)
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
	ctx, cancel := context.WithCancelCause(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel(nil)
	defer func() {
		_ = p.line.Close()
		for range channels { // else who reads from the line waits for ever to hand one over
		}
	}()
	all.Go(func() { p.line.watch(ctx, p.conn) })
	all.Go(func() { p.refuse(requests, p.prove) })
	all.Go(p.announce)
	all.Go(func() { p.revoke(ctx, cancel) })
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

// revoke ends the session when the key is not let in any more, or has other rights. While
// the file of keys cannot be read, nobody comes in and nobody is sent away.
func (p *client) revoke(ctx context.Context, end context.CancelCauseFunc) {
	if p.key == nil {
		return
	}
	tick := time.NewTicker(p.s.times.alive)
	defer tick.Stop()
	from := addressOf(p.line)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		text, err := p.s.keys.read(p.s.log)
		if err != nil {
			continue
		}
		k, err := access.Lookup(text, p.key.Public, from, time.Now())
		if err == nil && k.Grant.Command() == p.key.Grant.Command() {
			continue
		}
		if err == nil {
			err = errors.New("its rights are others now")
		}
		p.s.log("%s: cut off: %v", p.name, err)
		end(&repo.RefusedError{Reason: "the key is not let in any more, or has other rights now"})
		return
	}
}

// refuse answers requests, all in the same way but the one for proof of a host key, which
// only a connection may ask for.
func (p *client) refuse(requests <-chan *ssh.Request, prove func([]byte) []byte) {
	refused := 0
	for r := range requests {
		if r.WantReply {
			var proofs []byte
			if r.Type == proveRequest && prove != nil {
				proofs = prove(r.Payload)
			}
			_ = r.Reply(len(proofs) > 0, proofs)
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
			taken := gitProtocol(r)
			if taken != "" {
				p.protocol = taken
			}
			if r.WantReply {
				_ = r.Reply(taken != "", nil)
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
		rest.Go(func() { defer close(gone); p.refuse(asks, nil) })
		p.run(ctx, ch, exec.Command, rest.Go)
		// The channel is closed from here. The client goes, or is made to.
		select {
		case <-gone:
		case <-time.After(p.s.times.part):
		}
		return
	}
}

// run runs a command and tells the client how it ended.
func (p *client) run(ctx context.Context, ch ssh.Channel, command string, start func(func())) {
	at := time.Now()
	s := newStream(ch, p.line.gate.gone, start)
	defer s.close()
	p.running.Store(true)
	err := p.program(ctx, s, command)
	p.running.Store(false)
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
	if grant.Role == access.Append && grant.Quota == 0 {
		grant.Quota = p.s.o.Quota
	}
	if grant.Root == "" {
		grant.Root = p.s.o.Root
	}
	if grant.Store = p.s.o.Store; grant.Store == nil && strings.HasPrefix(grant.Root, "s3://") {
		return &repo.RefusedError{Reason: "the server's repositories are directories"}
	}
	if request.What == access.UploadPack {
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
	return upload.Serve(ctx, s, r, upload.Options{Protocol: p.protocol, Large: p.s.large, Idle: p.s.times.stall})
}
