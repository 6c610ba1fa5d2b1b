package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// frameHandler answers a request. What it returns is the body of the reply, valid until
// the next request. An error becomes a reply Fail; one that is wire.ErrProtocol ends the
// connection.
type frameHandler func(ctx context.Context, s *session, tag uint32, body []byte) ([]byte, error)

// frameTable returns the requests that a client with these rights may send. Add is
// dealt with before.
func frameTable(rights wire.Rights) map[wire.Kind]frameHandler {
	t := map[wire.Kind]frameHandler{
		wire.Open: answerOpen, wire.Repos: answerRepos, wire.Refs: answerRefs,
		wire.Missing: answerMissing, wire.Index: answerIndex, wire.Ping: answerPing,
	}
	if rights&wire.MayRead != 0 {
		maps.Copy(t, map[wire.Kind]frameHandler{
			wire.Commits: answerCommits, wire.Check: answerCheck, wire.Receipts: answerReceipts,
			wire.Get: answerGet,
		})
	}
	if rights&wire.MayAppend != 0 {
		maps.Copy(t, map[wire.Kind]frameHandler{
			wire.Begin: answerBegin, wire.Add: nil, wire.Commit: answerCommit, wire.End: answerEnd,
			wire.SetRef: answerSetRef, wire.AllowNames: answerAllowNames,
		})
	}
	if rights&wire.MayMirror != 0 {
		maps.Copy(t, map[wire.Kind]frameHandler{
			wire.List: answerList, wire.Read: answerRead, wire.State: answerState,
		})
	}
	return t
}

// serveFrames answers requests until the client leaves.
func (s *session) serveFrames(ctx context.Context) error {
	s.sent = wire.NewWriter(s.conn)
	in := wire.NewReader(s.in)
	var aside spilled
	in.SpillAfter, in.Spill = bufferKept, func(kind wire.Kind, first []byte) (io.Writer, error) {
		return aside.begin(ctx, s, kind, first)
	}
	b := &batch{seen: make(chan error, 1)}
	for {
		s.conn.arm(s.o.Limits.Idle)
		kind, tag, body, err := in.Next(b.buf[:0])
		b.buf = body
		if err == io.EOF {
			return nil
		} else if err != nil {
			aside.end()
			return err
		}
		if _, may := s.frames[kind]; kind == wire.Add && may {
			if aside.active {
				err = s.addSpilled(ctx, tag, &aside)
			} else {
				b, err = s.add(tag, b)
			}
		} else {
			aside.end() // nothing else is so long, and if it were it would not be read
			err = s.answer(ctx, kind, tag, body)
		}
		if err == nil {
			err = s.tellFailures()
		}
		if err != nil {
			return err
		}
		if cap(b.buf) > bufferKept {
			b.buf = nil
		}
	}
}

// answer answers a request that has a reply.
func (s *session) answer(ctx context.Context, kind wire.Kind, tag uint32, body []byte) error {
	if s.pipe != nil { // replies come in the order of requests
		s.pipe.drain()
	}
	if err := s.tellFailures(); err != nil {
		return err
	}
	h := s.frames[kind]
	if h == nil {
		s.o.Log("%s: request of kind %d refused", s.grant.Who, kind)
		return s.fail(tag, &repo.RefusedError{Reason: fmt.Sprintf("the key may not ask for this (kind %d)", kind)})
	}
	reply, err := h(ctx, s, tag, body)
	switch {
	case errors.Is(err, wire.ErrProtocol) || errors.Is(err, errLost):
		return err
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return s.fail(tag, err)
	case reply == nil && kind == wire.Get:
		return s.sent.Flush() // sent by itself
	}
	if n := len(reply); n > wire.OK.Limit() {
		return s.fail(tag, fmt.Errorf("the answer has %d bytes, more than a message may hold", n))
	}
	if err := s.sent.Send(wire.OK, tag, reply); err != nil {
		return err
	}
	return s.sent.Flush()
}

// errLost says that the connection is lost in the middle of a reply.
var errLost = errors.New("connection lost")

// fail sends a failure.
func (s *session) fail(tag uint32, err error) error {
	if err := s.sent.Send(wire.Fail, tag, wire.Failure{Err: err}.Append(nil)); err != nil {
		return err
	}
	return s.sent.Flush()
}

// tellFailures says which batches came to nothing.
func (s *session) tellFailures() error {
	if s.pipe == nil {
		return nil
	}
	for _, f := range s.pipe.failures() {
		if err := s.fail(f.tag, f.err); err != nil {
			return err
		}
	}
	return nil
}

func answerPing(context.Context, *session, uint32, []byte) ([]byte, error) { return nil, nil }

func answerOpen(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	m, err := wire.ParseOpen(body)
	if err != nil {
		return nil, err
	}
	var create *repo.InitOptions
	if m.Create {
		create = &repo.InitOptions{Chunker: m.Chunker, Expect: m.Expect}
		if m.Chunker == wire.BupChunker {
			create = &repo.InitOptions{Bup: true}
		}
	}
	created, err := s.open(ctx, m.Path, create)
	if err != nil {
		return nil, err
	}
	info := wire.Info{
		Path: s.name, Rights: s.rights, Principal: s.grant.Who, Created: created, Config: s.repo.Config(),
		Globs: s.grant.Names,
	}
	return info.Append(nil), nil
}

func answerRepos(ctx context.Context, s *session, _ uint32, _ []byte) ([]byte, error) {
	names, err := s.grant.Repositories(ctx)
	return wire.Names(names).Append(nil), err
}

// answerRefs lists refs. Who may not read is told of those only that it may move.
func answerRefs(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	refs, err := p.Refs(ctx, string(body))
	if s.rights&wire.MayRead == 0 {
		var own []repo.Ref
		for _, r := range refs {
			if s.grant.Allowed(r.Name) == nil {
				own = append(own, r)
			}
		}
		refs = own
	}
	return wire.RefList(refs).Append(nil), err
}

func answerMissing(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	m, err := wire.ParseMissing(body)
	if err != nil {
		return nil, err
	}
	var from interface {
		Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error)
	}
	if m.Session != 0 {
		u, err := s.upload(m.Session)
		if err != nil {
			return nil, err
		}
		from = u.session
	} else if from, err = s.opened(ctx); err != nil {
		return nil, err
	}
	missing, err := from.Missing(ctx, nil, m.IDs)
	if err != nil {
		return nil, err
	}
	reply := wire.NewMissingReply(len(m.IDs))
	for i, id := range m.IDs {
		if len(missing) > 0 && id == missing[0] {
			reply.Set(i)
			missing = missing[1:]
		}
	}
	return reply.Bits, nil
}

func answerIndex(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	m, err := wire.ParseRead(body)
	if err != nil {
		return nil, err
	}
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	name, err := pack.ParseID(m.Name)
	if err != nil {
		return nil, &repo.NotFoundError{What: "pack", Name: m.Name}
	}
	return p.ReadIdx(ctx, nil, name, m.Off, m.N)
}

// answerCheck has findings sent as they come. When they cannot be sent any more the
// check is given up.
func answerCheck(ctx context.Context, s *session, tag uint32, body []byte) ([]byte, error) {
	m, err := wire.ParseCheck(body)
	if err != nil {
		return nil, err
	}
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	result, err := repo.Check(ctx, p, repo.CheckOptions{Quick: m.Quick, Names: m.Names}, func(f repo.Finding) {
		note, err := json.Marshal(f)
		if err == nil && len(note) <= wire.Note.Limit() {
			err = s.sent.Send(wire.Note, tag, note)
		}
		if err == nil {
			err = s.sent.Flush()
		}
		if err != nil {
			cancel(errLost)
		}
	})
	if context.Cause(ctx) == errLost {
		return nil, errLost
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(result)
}

// answerReceipts returns the lines about one ref, or all for "".
func answerReceipts(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	var reply []byte
	err = p.Receipts(ctx, func(r repo.Receipt) error {
		if len(body) > 0 && r.Ref != string(body) {
			return nil
		}
		if reply = wire.AppendBody(reply, r.Append(nil)); len(reply) > wire.OK.Limit() {
			return errors.New("there are more receipts than a message may hold")
		}
		return nil
	})
	return reply, err
}

func answerList(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	dir := string(body)
	if dir == "." {
		dir = ""
	}
	var list wire.FileList
	err = p.ServedFiles(ctx, dir, func(name string, size int64) error {
		list = append(list, wire.FileInfo{Name: name, Size: size})
		return nil
	})
	return list.Append(nil), err
}

// openFile is the file that Read asked for last.
type openFile struct {
	repo.Blob
	name string
}

func answerRead(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	m, err := wire.ParseRead(body)
	if err != nil {
		return nil, err
	}
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	// A file that changes is not the one that is open; a pack is, as long as it has
	// that name.
	if s.file == nil || s.file.name != m.Name || m.Off == 0 {
		b, err := p.OpenServed(ctx, m.Name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &repo.NotFoundError{What: "file", Name: m.Name}
		} else if err != nil {
			return nil, err
		}
		if s.file != nil {
			s.file.Close()
		}
		s.file = &openFile{b, m.Name}
	}
	n := int(min(int64(m.N), max(0, s.file.Size()-m.Off)))
	reply := make([]byte, n)
	n, err = s.file.ReadAt(reply, m.Off)
	if err == io.EOF {
		err = nil
	}
	return reply[:n], err
}
