package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// When a pack is finished and the next one begun: at the repository's size, or
// this one; and when it is older than a minute and has some bytes, because a line that is
// cut takes with it what is in no finished pack.
const (
	bupPackSize    = 128 << 20
	bupPackObjects = 200_000
	bupPackAge     = time.Minute
	bupPackWorth   = 8 << 20
)

// figures are those of the open pack.
type figures struct {
	objects int
	bytes   int64
	since   time.Time
}

// The records of receive-objects-v2 that are no objects.
const (
	bupFinish  = 0
	bupSuspend = math.MaxUint32
)

// bupEar reads what the server says while it receives: at any moment the line
// "index NAME" about an idx that has what was sent for nothing; after finish the name of
// the new idx; at last "ok". Somebody has to read all the time: a server that cannot get
// rid of its lines stops reading, and then nobody could write either.
type bupEar struct {
	done chan struct{} // closed after "ok", or when the line is lost

	mu    sync.Mutex
	names []string // idx files to be fetched
	err   error
}

// listen reads up to the end of the answer.
func (b *bupRepo) listen(e *bupEar) {
	defer close(e.done)
	for {
		l, err := b.line()
		if err == nil && l == "ok" {
			return
		}
		e.mu.Lock()
		switch {
		case err != nil:
			e.err = err
		case l == "":
		case strings.HasPrefix(l, "error "):
			e.err = b.g.lost(errors.New(strings.TrimPrefix(l, "error ")))
		case len(e.names) >= bupLines:
			e.err = b.g.lost(fmt.Errorf("%w: it names more idx files than there can be", wire.ErrProtocol))
		default:
			e.names = append(e.names, strings.TrimPrefix(l, "index "))
		}
		stop := e.err != nil
		e.mu.Unlock()
		if stop {
			return
		}
	}
}

// heard reports whether there are idx files to be fetched, or there is no use in going on.
func (e *bupEar) heard() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.names) > 0 || e.err != nil
}

// receive makes the server receive, into the pack that is open or a new one.
func (b *bupRepo) receive() error {
	if b.ear != nil {
		return nil
	}
	if err := b.say("receive-objects-v2\n"); err != nil {
		return err
	}
	if !b.open {
		b.open, b.packing = true, figures{since: time.Now()}
	}
	b.ear = &bupEar{done: make(chan struct{})}
	go b.listen(b.ear)
	return nil
}

// suspend makes the server listen to commands again.
func (b *bupRepo) suspend() error { return b.hush(bupSuspend) }

// hush ends receiving for now or for good, and fetches the idx files that the server has
// named.
func (b *bupRepo) hush(record uint32) error {
	e := b.ear
	if e == nil {
		return nil
	}
	var r [4]byte
	binary.BigEndian.PutUint32(r[:], record)
	_, err := b.w.Write(r[:])
	if err == nil {
		err = b.w.Flush()
	}
	if err != nil { // what it said last says why
		_ = b.g.conn.Close()
	}
	<-e.done
	b.ear = nil
	if e.err != nil || err != nil {
		return cmpErr(e.err, b.sent(err))
	}
	for _, name := range e.names {
		if err := b.fetch(name); err != nil {
			return err
		}
	}
	return nil
}

// cmpErr returns the first error.
func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// finish publishes the open pack. Its objects are then found in its idx.
func (b *bupRepo) finish() error {
	if !b.open {
		return nil
	}
	if err := b.receive(); err != nil {
		return err
	}
	if err := b.hush(bupFinish); err != nil {
		return err
	}
	b.open = false
	b.idsMu.Lock()
	defer b.idsMu.Unlock()
	clear(b.ids)
	return nil
}

// list fetches the idx files that the server lists and that are not in the cache.
func (b *bupRepo) list() error {
	if err := b.begin("list-indexes\n"); err != nil {
		return err
	}
	var packs []wire.PackInfo
	var names []string
	err := b.lines(func(l string) error {
		name := strings.TrimSuffix(l, " load")
		if id, ok := packOfIdx(name); ok {
			p := wire.PackInfo{Name: id, Size: math.MaxInt64, Closed: true}
			if info, err := b.cache.fs.Lstat(b.cache.path(id)); err == nil {
				p.IdxSize = info.Size()
			}
			packs, names = append(packs, p), append(names, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.named = b.named[:0]
	for i := range packs {
		b.named = append(b.named, packs[i].Name)
	}
	b.view.Store(&view{idx: b.cache.load(packs), whole: true})
	for _, name := range names {
		if err := b.fetch(name); err != nil {
			return err
		}
	}
	b.listed = true
	return nil
}

// packOfIdx returns the pack of an idx; ok is false for a name of somebody's own making.
func packOfIdx(name string) (id pack.ID, ok bool) {
	hex, is := strings.CutPrefix(strings.TrimSuffix(name, idxSuffix), idxPrefix)
	id, err := pack.ParseID(hex)
	return id, is && err == nil && strings.HasSuffix(name, idxSuffix)
}

// fetch gets an idx, if it is not at hand. One that is damaged is passed over: what is in
// it is sent again.
func (b *bupRepo) fetch(name string) error {
	id, ok := packOfIdx(name)
	if !ok || strings.Contains(name, "/") {
		return nil
	}
	v := b.view.Load()
	for _, x := range v.idx {
		if x.pack.Name == id && !x.bad.Load() {
			return nil
		}
	}
	if err := b.begin("send-index " + name + "\n"); err != nil {
		return err
	}
	n, err := b.readUint32()
	if err != nil {
		return err
	}
	in, err := b.cache.create(wire.PackInfo{Name: id, Size: math.MaxInt64, IdxSize: int64(n), Closed: true})
	if err != nil {
		_ = b.g.conn.Close() // the answer is in the line
		return b.g.lost(err)
	}
	if _, err := io.CopyN(in.f, b.g.r, int64(n)); err != nil {
		in.abort()
		return b.g.lost(err)
	}
	if err := b.end(); err != nil {
		in.abort()
		return err
	}
	x, err := in.finish()
	if corrupt := new(pack.CorruptError); errors.As(err, &corrupt) {
		return nil
	} else if err != nil {
		return err
	}
	b.view.Store(&view{idx: append(slices.Clone(v.idx), x), whole: true})
	return nil
}

// Missing appends to dst those ids that are in no idx of the server's.
func (b *bupRepo) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	err := b.do(ctx, func() error {
		if b.listed {
			return nil
		}
		return b.list()
	})
	if err != nil {
		return dst, err
	}
	return b.missing(dst, ids), nil
}

// bupFilterFrom is after how many look-ups it pays to have filters.
const bupFilterFrom = 20_000

// missing looks into the idx files. dst may be the memory before ids.
func (b *bupRepo) missing(dst, ids []pack.ID) []pack.ID {
	dst, bad := b.view.Load().find(dst, ids, b.looked.Add(int64(len(ids))) > bupFilterFrom)
	for _, x := range bad {
		x.drop()
	}
	return dst
}

// Begin starts a session that adds objects. All sessions of a connection fill one pack,
// and whoever commits first publishes what the others have sent as well: it is complete
// as far as it goes.
func (b *bupRepo) Begin(ctx context.Context) (repo.Session, error) {
	if b.info.Rights&wire.MayAppend == 0 {
		return nil, &repo.RefusedError{Reason: "the server lists no commands that write"}
	}
	if err := b.do(ctx, b.list); err != nil {
		return nil, err
	}
	return &bupSession{b: b, dec: pack.NewDecoder(maxTree), hasher: pack.NewHasher()}, nil
}

// bupSession is a session.
type bupSession struct {
	b      *bupRepo
	dec    *pack.Decoder
	hasher *pack.Hasher
	body   []byte
	lacks  []pack.ID

	mu      sync.Mutex
	err     error // sticky
	closed  bool
	objects int64
	bytes   int64
}

// Missing is Repo.Missing, and counts as present what this session added.
func (s *bupSession) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	if err := s.failed(ctx); err != nil {
		return dst, err
	}
	return s.missing(dst, ids), nil
}

func (s *bupSession) missing(dst, ids []pack.ID) []pack.ID {
	start := len(dst)
	// In this order, because what is finished leaves the set after it came to the view.
	s.b.idsMu.RLock()
	for _, id := range ids {
		if _, ok := s.b.ids[id]; !ok {
			dst = append(dst, id)
		}
	}
	s.b.idsMu.RUnlock()
	return s.b.missing(dst[:start], dst[start:])
}

// failed returns what ended the session.
func (s *bupSession) failed(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return repo.ErrClosed
	}
	if s.err == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.err
}

func (s *bupSession) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	return err
}

// Add appends objects, children before parents. What is already there is passed over.
func (s *bupSession) Add(ctx context.Context, _ repo.Class, entries []pack.Entry) error {
	if err := s.failed(ctx); err != nil {
		return err
	}
	return s.fail(s.b.do(ctx, func() error {
		for i := range entries {
			if err := s.add(&entries[i]); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (s *bupSession) add(e *pack.Entry) error {
	if s.lacks = s.missing(s.lacks[:0], []pack.ID{e.ID}); len(s.lacks) == 0 {
		return nil
	}
	if err := s.check(e); err != nil {
		return fmt.Errorf("object %v cannot be stored: %w", e.ID, err)
	}
	b := s.b
	if err := b.receive(); err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(e.ID.AppendBytes(nil))+4+len(e.Bytes)))
	head = binary.BigEndian.AppendUint32(e.ID.AppendBytes(head), e.CRC)
	_, err := b.w.Write(head)
	if err == nil {
		_, err = b.w.Write(e.Bytes)
	}
	if err != nil {
		e := b.ear
		_ = b.g.conn.Close()
		<-e.done
		b.ear = nil
		return cmpErr(e.err, b.sent(err))
	}
	b.idsMu.Lock()
	b.ids[e.ID] = struct{}{}
	b.idsMu.Unlock()
	b.packing.objects++
	b.packing.bytes += int64(len(e.Bytes))
	s.mu.Lock()
	s.objects++
	s.bytes += int64(len(e.Bytes))
	s.mu.Unlock()
	switch {
	case b.full():
		return b.finish()
	case b.ear.heard():
		return b.suspend()
	}
	return nil
}

// full reports whether it is time to finish the open pack.
func (b *bupRepo) full() bool {
	limit := b.info.Config.PackSizeLimit
	if limit <= 0 {
		limit = bupPackSize
	}
	p := &b.packing
	return p.bytes >= limit || p.objects >= bupPackObjects || p.bytes >= bupPackWorth && time.Since(p.since) > bupPackAge
}

// check makes sure that an object which names others is what its id says, and that those
// are there: nobody else does.
func (s *bupSession) check(e *pack.Entry) error {
	t, _, _, err := pack.ParseHeader(e.Bytes)
	if err != nil || t == pack.Blob {
		return err
	}
	body, t, used, err := s.dec.Append(s.body[:0], e.Bytes)
	if s.body = body; cap(body) > readerKept {
		s.body = nil
	}
	if err != nil {
		return err
	}
	id, err := s.hasher.Sum(t, body)
	if err != nil {
		return err
	}
	if id != e.ID || used != len(e.Bytes) {
		return &pack.CorruptError{File: "entry", Off: -1, Reason: fmt.Sprintf("it is %v %v", t, id)}
	}
	kids, err := below(t, body)
	if err != nil {
		return err
	}
	if s.lacks = s.missing(s.lacks[:0], kids); len(s.lacks) > 0 {
		return &repo.MissingError{ID: s.lacks[0]}
	}
	return nil
}

// modeGitlink is the mode of a commit of another repository's, which need not be there.
const modeGitlink = 0o160000

// below returns the ids that an object names.
func below(t pack.Type, body []byte) (kids []pack.ID, err error) {
	switch t {
	case pack.Tree:
		scan := repo.NewTreeScanner(body)
		for scan.Next() {
			if scan.Mode != modeGitlink {
				kids = append(kids, scan.ID)
			}
		}
		return kids, scan.Err()
	case pack.Commit:
		c, err := repo.ParseCommit(body)
		return append(c.Parents, c.Tree), err
	}
	line, _, _ := strings.Cut(string(body[:min(len(body), 64)]), "\n")
	id, err := pack.ParseID(strings.TrimPrefix(line, "object "))
	return []pack.ID{id}, err
}

// Commit has the server publish what was sent.
func (s *bupSession) Commit(ctx context.Context) error {
	if err := s.failed(ctx); err != nil {
		return err
	}
	return s.fail(s.b.do(ctx, s.b.finish))
}

// Stats returns what was sent so far.
func (s *bupSession) Stats() (objects, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects, s.bytes
}

// Close ends the session. What was not committed stays in the open pack, which nobody
// sees before somebody else commits, or the connection ends.
func (s *bupSession) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
