package server

import (
	"context"
	"fmt"
	"io"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// upload returns a session that the client began.
func (s *session) upload(id uint32) (*upload, error) {
	u := s.uploads[id]
	if u == nil {
		return nil, fmt.Errorf("there is no session %d", id)
	}
	return u, nil
}

func answerBegin(ctx context.Context, s *session, _ uint32, _ []byte) ([]byte, error) {
	u, err := s.begin(ctx, false)
	if err != nil {
		return nil, err
	}
	m := wire.Session{ID: u.id, Packs: packList(u.session.Relied())}
	return m.Append(nil), nil
}

func answerCommit(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	n, err := wire.ParseNumber(body)
	if err != nil {
		return nil, err
	}
	u, err := s.upload(uint32(n))
	if err != nil {
		return nil, err
	}
	packs, err := u.commit(ctx)
	return wire.PackList(packList(packs)).Append(nil), err
}

func answerEnd(_ context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	n, err := wire.ParseNumber(body)
	if err != nil {
		return nil, err
	}
	u, err := s.upload(uint32(n))
	if err != nil {
		return nil, err
	}
	return nil, u.close()
}

func answerSetRef(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	m, err := wire.ParseMove(body)
	if err != nil {
		return nil, err
	}
	id, err := s.setRef(ctx, m.Move)
	return wire.IDs{id}.Append(nil), err
}

// maxNameLen is how long a name in AllowNames may be. Nothing of it gets into the config
// but what git calls names that look so.
const maxNameLen = 4096

func answerAllowNames(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	names, err := wire.ParseNames(body)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if len(name) > maxNameLen {
			return nil, &repo.RefusedError{Reason: "a name that is longer than any file system allows"}
		}
	}
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	return nil, p.AllowNames(ctx, names)
}

func packList(list []repo.PackInfo) []wire.PackInfo {
	out := make([]wire.PackInfo, len(list))
	for i, p := range list {
		out[i] = wire.PackInfo(p)
	}
	return out
}

// add sends the objects of an Add on their way and returns a batch for the next message.
func (s *session) add(tag uint32, b *batch) (*batch, error) {
	m, err := wire.ParseAdd(b.entries[:0], b.buf)
	if err != nil {
		return b, err
	}
	u, err := s.upload(m.Session)
	if err == nil {
		err = u.failure()
	}
	if err != nil {
		if s.pipe != nil {
			s.pipe.drain()
		}
		if e := s.tellFailures(); e != nil {
			return b, e
		}
		return b, s.fail(tag, err)
	}
	b.up, b.tag, b.class, b.entries = u, tag, m.Class, m.Entries
	s.pipe.put(b)
	return s.pipe.take(), nil
}

// spilled is a message that was too long to be kept in memory while it came.
type spilled struct {
	ctx    context.Context // of the connection
	active bool
	up     *upload // nil: it is thrown away
	err    error   // why
	file   repo.Pending
	n      int64
}

// begin says where to put the message: beside the packs of its session. What is for no
// session is thrown away, and answered when all of it came.
func (a *spilled) begin(ctx context.Context, s *session, kind wire.Kind, first []byte) (io.Writer, error) {
	if kind != wire.Add {
		return nil, fmt.Errorf("%w: a request of kind %d that is longer than any", wire.ErrProtocol, kind)
	}
	*a = spilled{ctx: ctx, active: true}
	if _, may := s.frames[kind]; !may {
		return io.Discard, nil
	}
	var id uint32
	if id, a.err = wire.AddSession(first); a.err != nil {
		return nil, a.err
	}
	if a.up, a.err = s.upload(id); a.err == nil {
		a.err = a.up.failure()
	}
	if a.err == nil {
		a.file, a.err = a.up.session.Spool(ctx)
	}
	return a, nil
}

// Write takes a part of the message. What cannot be written is answered like a wrong
// object; the connection goes on.
func (a *spilled) Write(p []byte) (int, error) {
	a.n += int64(len(p))
	if a.err == nil {
		a.err = a.up.spool(a.ctx, a.n)
	}
	if a.err == nil {
		_, a.err = a.file.Write(p)
	}
	return len(p), nil
}

// end removes the file.
func (a *spilled) end() {
	if a.file != nil {
		a.file.Abort()
		_ = a.up.spool(a.ctx, 0) // which can only be less
	}
	*a = spilled{}
}

// addSpilled adds the objects of an Add that went to a file.
func (s *session) addSpilled(ctx context.Context, tag uint32, a *spilled) error {
	defer a.end()
	if s.pipe != nil {
		s.pipe.drain()
	}
	if err := s.tellFailures(); err != nil {
		return err
	}
	err := a.err
	if err == nil {
		var protocol error
		err = a.up.storeAlone(ctx, a.file, a.n, func(b []byte) (repo.Class, []pack.Entry, error) {
			var m wire.AddRequest
			m, protocol = wire.ParseAdd(nil, b)
			return m.Class, m.Entries, protocol
		})
		if protocol != nil {
			return protocol
		}
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if a.up != nil {
		_ = a.up.fail(err)
	}
	return s.fail(tag, err)
}
