// Package server answers one client: bup's protocol, and from the request "kedge" on
// the frames of package wire. It trusts nothing that comes in.
//
// # What a client can reach
//
// What a connection may do follows from the grant alone. Each right has tables of its
// own, one of bup's commands and one of kinds of frames, and a connection gets those of
// its rights joined; so what reads cannot lead to what writes, whatever is sent. A
// command that is in no table ends the connection of bup's protocol, as an unknown one
// does; a frame of such a kind is answered with a *repo.RefusedError.
//
//	right       bup's protocol           frames
//	any         bupChoosing              Open Repos Refs Missing Index Ping
//	MayRead     bupReading               Get Commits Check Receipts
//	MayAppend   bupWriting               Begin Add Commit End SetRef AllowNames
//	MayMirror                            List Read State
//
// A client that may not read what it saved is still told ids: Refs (of those names only
// that it may move), Missing and Index. Without them it would have to send all its data
// each time; and as Missing answers for any content that one can guess, a list of hashes
// tells no more than that.
//
// # What is believed of what comes in
//
// Nothing. Every object is inflated, hashed and compared before it reaches the session
// that writes (see ingest); closures are looked at by the repository before a ref moves
// (I2, I9). Packs grow in the session's directory under kedge/tmp and get their names
// when they are whole; what is unfinished is removed when the connection ends, however
// it ends.
//
// # Limits
//
//	first request 20 s, idle 5 min, bup's protocol 2 h         Limits
//	a line 64 KiB, a message                                   wire.Kind.Limit
//	an object 64 MiB, packed and not; a tree too               maxObject
//	4 sessions at once on a connection                         maxUploads
//	objects above 1 MiB one after the other in all connections that share Options.Large
//
// Git allows trees of a gigabyte, and the repository reads them. Over a connection they
// are refused above 64 MiB, more than a million names in one directory: a repository
// with bup.split.trees has no use for them, and to look at one takes its size in memory.
package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// Options says whom a server answers, and with what.
type Options struct {
	FS    *fsx.FS
	Grant access.Grant
	// Default is the repository of a grant of role Owner when the client names none.
	Default string
	Limits  Limits
	// Log is told of what an operator should know: refusals, failures. One line each.
	Log func(format string, args ...any)
	// BupNames makes the server list only bup's commands, as an old server would.
	BupNames bool
	// Large is shared by the connections of a process, and holds one element while one
	// of them works on a large object: make(chan struct{}, 1). nil: one of its own.
	Large chan struct{}
}

// Limits bound what one client can cost. A zero field means the default.
type Limits struct {
	First time.Duration // until the first request: 20 s
	Idle  time.Duration // between two requests: 5 min; a Ping is one
	// Quiet is Idle for bup's protocol, whose clients have no Ping and say nothing
	// while they walk over what did not change: 2 h.
	Quiet time.Duration
}

// maxLine is the length of the longest line of bup's protocol.
const maxLine = 64 << 10

// handler answers a command of bup's protocol. It writes to s.out what stands before
// "\nok\n". A replyError is told to the client; any other error ends the connection.
type handler func(ctx context.Context, s *session, arg string) error

// replyError is a failure that bup's protocol has a word for.
type replyError struct{ error }

// errQuit ends a connection as the client wishes.
var errQuit = errors.New("quit")

// Serve answers the client on conn until it leaves, ctx ends, or a limit is met. It
// returns nil if the client left between two requests. If conn has a SetReadDeadline,
// as connections and pipes have, limits of time are kept with it; else by closing conn,
// if that is an io.Closer.
func Serve(ctx context.Context, conn io.ReadWriter, o Options) error {
	o = o.withDefaults()
	if o.Grant.Role == access.None {
		return &repo.RefusedError{Reason: "the key may do nothing"}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	line := newLimited(conn)
	uncut := context.AfterFunc(ctx, line.cut)
	defer uncut()
	s := &session{
		o: o, grant: o.Grant, rights: o.Grant.Rights(), conn: line,
		in: bufio.NewReaderSize(line, 64<<10), out: bufio.NewWriterSize(line, 64<<10),
		frames: frameTable(o.Grant.Rights()),
	}
	err := s.serve(ctx)
	if err == nil {
		err = s.bupLeft(ctx)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	uncut() // the line is the caller's again, for what it has to say at the end
	cancel()
	if e := s.close(); err == nil {
		err = e
	}
	if err != nil {
		o.Log("%s: connection ended: %v", o.Grant.Who, err)
	}
	return err
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Large == nil {
		o.Large = make(chan struct{}, 1)
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&o.Limits.First, 20 * time.Second}, {&o.Limits.Idle, 5 * time.Minute}, {&o.Limits.Quiet, 2 * time.Hour}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return o
}

// session is one connection. One goroutine reads requests and answers them, in order.
type session struct {
	o      Options
	grant  access.Grant
	rights wire.Rights
	conn   *limited
	sent   *wire.Writer // frames
	in     *bufio.Reader
	out    *bufio.Writer // bup's protocol
	frames map[wire.Kind]frameHandler

	repo *repo.Packs // nil until one is chosen
	name string      // of the repository, in messages

	pipe    *pipeline // nil until something is received
	uploads map[uint32]*upload
	last    uint32 // the id of the upload that was begun last
	counted figures
	walk    *commitPages      // of Commits
	file    *openFile         // of Read
	reader  *repo.EntryReader // of Get

	bup bupState
}

// close gives back all that the connection holds.
func (s *session) close() error {
	var errs []error
	if s.pipe != nil {
		s.pipe.stop()
	}
	for _, u := range s.uploads {
		errs = append(errs, u.session.Close())
	}
	s.uploads = nil
	errs = append(errs, s.leave())
	return errors.Join(errs...)
}

// leave closes the repository.
func (s *session) leave() error {
	if s.walk != nil {
		s.walk.stop()
		s.walk = nil
	}
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	if s.repo == nil {
		return nil
	}
	err := s.repo.Close()
	s.repo, s.reader, s.bup.told = nil, nil, nil
	return err
}

// serve answers bup's commands, and frames once they are asked for.
func (s *session) serve(ctx context.Context) error {
	verbs := s.verbs()
	for wait := s.o.Limits.First; ; wait = s.o.Limits.Quiet {
		s.conn.arm(wait)
		text, err := s.line()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		verb, arg, _ := strings.Cut(text, " ")
		h := verbs[verb]
		if h == nil {
			return fmt.Errorf("unknown command, or one that is not allowed: %.40q", verb)
		}
		err = h(ctx, s, strings.TrimSpace(arg))
		var told replyError
		switch {
		case err == errQuit:
			return nil
		case errors.As(err, &told):
			s.o.Log("%s: %s: %v", s.grant.Who, verb, told.error)
			s.out.WriteString("\nerror " + strings.Join(strings.Fields(told.Error()), " ") + "\n")
		case err != nil:
			return fmt.Errorf("%s: %w", verb, err)
		default:
			s.out.WriteString("\nok\n")
		}
		if err := s.out.Flush(); err != nil {
			return err
		}
		if verb == "kedge" {
			return s.serveFrames(ctx)
		}
	}
}

// line reads a line and returns it without its end.
func (s *session) line() (string, error) {
	b, err := s.in.ReadSlice('\n')
	switch {
	case err == io.EOF && len(b) > 0:
		return "", io.ErrUnexpectedEOF
	case err == bufio.ErrBufferFull || len(b) > maxLine:
		return "", fmt.Errorf("a line of more than %d bytes", maxLine)
	case err != nil:
		return "", err
	}
	return string(b[:len(b)-1]), nil
}

// verbs returns the commands that the client may send.
func (s *session) verbs() map[string]handler {
	v := map[string]handler{"quit": func(context.Context, *session, string) error { return errQuit }}
	maps.Copy(v, bupChoosing())
	if s.rights&wire.MayRead != 0 {
		maps.Copy(v, bupReading())
	}
	if s.rights&wire.MayAppend != 0 {
		maps.Copy(v, bupWriting())
	}
	if s.o.BupNames {
		delete(v, "config-get") // which an old server does not have
	} else {
		v["kedge"] = startFrames
	}
	v["help"] = nil
	names := slices.Sorted(maps.Keys(v))
	v["help"] = func(_ context.Context, s *session, _ string) error {
		s.out.WriteString("Commands:\n")
		for _, name := range names {
			s.out.WriteString("    " + name + "\n")
		}
		return nil
	}
	return v
}

// startFrames answers "kedge N": the version that both speak.
func startFrames(_ context.Context, s *session, arg string) error {
	n, err := strconv.ParseUint(arg, 10, 31)
	if err != nil || n == 0 {
		return fmt.Errorf("%.20q is no version of a protocol", arg)
	}
	_, err = fmt.Fprintf(s.out, "%d\n", min(n, wire.Version))
	return err
}
