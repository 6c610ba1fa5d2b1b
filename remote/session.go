package remote

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// session adds objects through a server.
//
// Add gathers entries into messages of up to 1 MiB and does not wait for what becomes
// of them: a failure comes as the reply to some Add, is kept, and is what every later
// call fails with. Commit waits.
//
// So that a line that is cut costs at most a minute or 8 MiB, whichever is more, Add has
// the server commit what it has when both are past. Children come before parents, so
// any moment between two calls of Add is a good one.
type session struct {
	f   *frames
	id  uint32
	tag uint32 // of all its Adds

	// What Add and Commit work with; they are called by one goroutine at a time.
	buf   []byte // a message, empty if there is none
	class repo.Class
	first time.Time // when the first object since the last commit was added
	sent  int64     // bytes since then
	now   func() time.Time

	credit atomic.Int64 // bytes of idx files that what was sent so far is worth
	looked atomic.Int64 // ids looked up in the cache
	fetch  fetching

	mu      sync.RWMutex // guards what follows
	err     error        // sticky
	closed  bool
	added   *batch   // since the last commit
	past    []*batch // before, as long as the idx of their packs are not in view
	view    *view
	open    bool // a promised pack is not closed: only the server knows what it holds
	objects int64
	bytes   int64
}

// batch is what was sent between two commits.
type batch struct {
	ids     map[pack.ID]struct{} // nil: given up
	objects int64                // not in a pack that the server told of
	bytes   int64
	left    int           // idx files of its packs that are still to come
	done    chan struct{} // closed when the server has answered the commit
}

func newBatch() *batch {
	return &batch{ids: make(map[pack.ID]struct{}), done: make(chan struct{})}
}

// Begin starts a session that adds objects.
func (f *frames) Begin(ctx context.Context) (repo.Session, error) {
	body, err := f.askBegin(ctx)
	if err != nil {
		return nil, err
	}
	m, err := wire.ParseSession(body)
	if err != nil {
		return nil, err
	}
	s := &session{f: f, id: m.ID, added: newBatch(), view: new(view), now: time.Now}
	c := &call{kind: wire.Add, stands: true, done: func(_ []byte, err error) { s.fail(err) }}
	if s.tag, err = f.register(c); err != nil {
		return nil, err
	}
	s.promised(m.Packs)
	return s, nil
}

// askBegin asks for a session. If ctx ends before the reply comes, the session that
// nobody wants then is ended.
func (f *frames) askBegin(ctx context.Context) ([]byte, error) {
	reply := make(future, 1)
	var settled atomic.Bool // by the reply, or by the end of ctx
	err := f.send(ctx, &call{kind: wire.Begin, done: func(b []byte, err error) {
		if settled.CompareAndSwap(false, true) {
			reply <- answer{b, err}
		} else if m, bad := wire.ParseSession(b); err == nil && bad == nil {
			f.served.Go(func() { _ = f.end(m.ID) })
		}
	}}, nil)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		if settled.CompareAndSwap(false, true) {
			return nil, context.Cause(ctx)
		}
		a := <-reply
		return a.body, a.err
	case a := <-reply:
		return a.body, a.err
	}
}

// endWait is how long the end of a session is waited for.
const endWait = 10 * time.Second

// end ends a session of the server. If that cannot be said, the end of the line says it.
func (f *frames) end(id uint32) error {
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	_, err := f.ask(ctx, wire.End, wire.Number(id).Append(nil))
	return err
}

// failed returns the error that ended the session, if one did.
func (s *session) failed() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state()
}

// state is failed with s.mu held.
func (s *session) state() error {
	if s.closed {
		return repo.ErrClosed
	}
	return s.err
}

// fail ends the session with its first error.
func (s *session) fail(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	return err
}

// Missing is Repo.Missing, and counts as present what this session added. The server
// is asked only about what neither this session nor the cache knows, and not at all
// if the cache holds all packs that were promised.
func (s *session) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	if ctx.Err() != nil {
		return dst, context.Cause(ctx)
	}
	start := len(dst)
	s.mu.RLock()
	err, v := s.state(), s.view
	for _, id := range ids {
		if !s.has(id) {
			dst = append(dst, id)
		}
	}
	s.mu.RUnlock()
	rest := dst[start:]
	if err != nil {
		return dst[:start], err
	}
	if len(rest) == 0 {
		return dst, nil
	}
	dst, bad := v.find(dst[:start], rest, s.looked.Add(int64(len(rest))) > s.f.tune.preadIDs)
	if len(bad) > 0 {
		s.lose(bad)
	}
	rest = dst[start:]
	if len(rest) == 0 || v.whole && len(bad) == 0 {
		return dst, nil
	}
	dst, err = s.f.missing(ctx, s.id, dst[:start], rest)
	s.credit.Add(int64(len(rest)) * idBytes)
	return dst, err
}

// idBytes is what a question about an id costs.
var idBytes = int64(len(pack.ID{}.AppendBytes(nil)))

// has reports whether the session added an object, with s.mu held.
func (s *session) has(id pack.ID) bool {
	if _, ok := s.added.ids[id]; ok {
		return true
	}
	for _, b := range s.past {
		if _, ok := b.ids[id]; ok {
			return true
		}
	}
	return false
}

// Add appends objects, children before parents.
func (s *session) Add(ctx context.Context, class repo.Class, entries []pack.Entry) error {
	if err := s.failed(); err != nil {
		return err
	}
	return s.fail(s.add(ctx, class, entries))
}

// A message is sent when it has sendFrom bytes after a call of Add: an idle line
// gets something to do, and what comes next makes another message.
const sendFrom = 128 << 10

// entryHead bounds what stands before the bytes of an entry.
const entryHead = 40

func (s *session) add(ctx context.Context, class repo.Class, entries []pack.Entry) error {
	if class > repo.Trees {
		return fmt.Errorf("unknown class %d", class)
	}
	if err := s.checkpoint(ctx); err != nil {
		return err
	}
	if class != s.class { // the order of messages is that of the objects
		if err := s.flush(ctx); err != nil {
			return err
		}
		s.class = class
	}
	for i := range entries {
		e := &entries[i]
		if len(e.Bytes) > wire.MaxObject {
			return fmt.Errorf("object %v takes %d bytes packed, more than the %d that can be sent", e.ID, len(e.Bytes), wire.MaxObject)
		}
		if !s.note(e) {
			continue
		}
		if len(s.buf) > 0 && len(s.buf)+len(e.Bytes)+entryHead > wire.MaxFrame {
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
		if len(s.buf) == 0 {
			if s.buf = s.f.bufs.get(); s.buf == nil {
				s.buf = make([]byte, 0, bufSize)
			}
			s.buf = wire.AppendAdd(s.buf, s.id, class)
		}
		s.buf = append(wire.AppendAdded(s.buf, e), e.Bytes...)
	}
	if len(s.buf) >= sendFrom {
		return s.flush(ctx)
	}
	return nil
}

// note takes note of an object, and reports whether it is to be sent.
func (s *session) note(e *pack.Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.has(e.ID) {
		return false
	}
	s.added.ids[e.ID] = struct{}{}
	s.added.objects++
	s.added.bytes += int64(len(e.Bytes))
	if s.sent == 0 {
		s.first = s.now()
	}
	s.sent += int64(len(e.Bytes))
	if !s.fetch.real {
		t, _, _, err := pack.ParseHeader(e.Bytes)
		s.fetch.real = err != nil || t != pack.Commit
	}
	return true
}

// flush sends what was gathered.
func (s *session) flush(ctx context.Context) error {
	if len(s.buf) == 0 {
		return nil
	}
	n := len(s.buf)
	if err := s.f.post(ctx, message{wire.Add, s.tag, s.buf}); err != nil {
		return err
	}
	s.buf = nil
	s.credit.Add(int64(n))
	s.fetch.kick()
	return nil
}

// checkpoint has the server commit what it has, if that is worth it, and does not wait.
func (s *session) checkpoint(ctx context.Context) error {
	t := &s.f.tune
	s.mu.RLock()
	many := len(s.added.ids) >= t.idsKept
	busy := len(s.past) > 0 && !isClosed(s.past[len(s.past)-1].done)
	s.mu.RUnlock()
	if busy || !many && (s.sent < t.checkpointBytes || s.now().Sub(s.first) < t.checkpointAge) {
		return nil
	}
	_, err := s.commit(ctx)
	return err
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// commit sends all that was added and has the server commit it.
func (s *session) commit(ctx context.Context) (*batch, error) {
	if err := s.flush(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	b := s.added
	s.added = newBatch()
	s.past = append(s.past, b)
	s.mu.Unlock()
	s.sent = 0
	c := &call{kind: wire.Commit, done: func(body []byte, err error) {
		s.committed(b, body, err)
		close(b.done)
	}}
	return b, s.f.send(ctx, c, wire.Number(s.id).Append(nil))
}

// committed takes the reply to a commit. It is called by the goroutine that reads.
func (s *session) committed(b *batch, body []byte, err error) {
	var packs wire.PackList
	if err == nil {
		packs, err = wire.ParsePacks(body)
	}
	if s.fail(err) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range packs {
		s.objects += objectsOf(packs[i], b.objects)
		s.bytes += packs[i].Size
	}
	b.objects, b.bytes = 0, 0
	s.published(b, packs)
}

// The size of an idx says how many objects it lists: each takes an id, a CRC and an
// offset. Only a pack above 2 GiB has offsets that take more.
const (
	idxFixed = 8 + 256*4 + 2*20
	idxEach  = 20 + 4 + 4
)

// objectsOf returns how many objects a pack holds, of which sent were sent.
func objectsOf(p wire.PackInfo, sent int64) int64 {
	n := max(0, p.IdxSize-idxFixed) / idxEach
	if p.Size > 1<<31 {
		n = min(n, sent)
	}
	return n
}

// Commit makes everything added durable and visible.
func (s *session) Commit(ctx context.Context) error {
	if err := s.failed(); err != nil {
		return err
	}
	b, err := s.commit(ctx)
	if err == nil {
		select {
		case <-b.done:
			return s.failed()
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return s.fail(err)
}

// Stats returns what was stored so far: packs that the server told of, and what was
// sent since then, some of which it may turn out to have.
func (s *session) Stats() (objects, bytes int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	objects, bytes = s.objects+s.added.objects, s.bytes+s.added.bytes
	for _, b := range s.past {
		objects += b.objects
		bytes += b.bytes
	}
	return objects, bytes
}

// Close ends the session and throws away what was not committed.
func (s *session) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return nil
	}
	s.stopFetching()
	if s.f.end(s.id) == nil { // no more failures will come
		s.f.forget(s.tag)
	}
	return nil
}
