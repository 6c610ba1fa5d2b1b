package save

import (
	"context"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// store adds objects to the session for the sink: what it builds itself it
// hashes and encodes here, what workers encoded passes through.
//
// Trees and what else is small are gathered and added together, in their order:
// a question to the repository costs a look at its directory.
type store struct {
	ctx  context.Context
	sess repo.Session
	hash *pack.Hasher
	enc  *pack.Encoder
	rate *rate

	waiting []object // not added yet
	bodies  []byte   // of those, back to back
	buf     []byte   // encoded
	entries []pack.Entry
	ids     []pack.ID
	gone    []pack.ID

	last   []byte // the body of the last tree: runs of equal trees are common in sparse files
	lastID pack.ID
	empty  pack.ID // the empty blob, once it is stored
	zeros  bool    // the chunk of zeros is stored
}

// object is one that waits: size bytes of bodies.
type object struct {
	id   pack.ID
	kind pack.Type
	size int
}

const (
	waitingMax = 256       // objects
	bodiesMax  = 256 << 10 // bytes
	bufKept    = 1 << 20   // of a buffer that one large object made grow
	lastMax    = 64 << 10  // of a tree that is remembered as the last
)

func (s *store) addData(entries []pack.Entry) error { return s.addEntries(repo.Data, entries) }

func (s *store) addEntries(class repo.Class, entries []pack.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	n := 0
	for i := range entries {
		n += len(entries[i].Bytes)
	}
	if err := s.rate.take(s.ctx, n); err != nil {
		return err
	}
	return s.sess.Add(s.ctx, class, entries)
}

// add stores an object of the class Trees, sooner or later, and returns its id.
func (s *store) add(t pack.Type, body []byte) (pack.ID, error) {
	id, err := s.hash.Sum(t, body)
	if err != nil {
		return id, err
	}
	if len(s.waiting) == waitingMax || len(s.bodies)+len(body) > bodiesMax {
		if err := s.flush(); err != nil {
			return id, err
		}
	}
	o := object{id, t, len(body)}
	if len(body) > bodiesMax {
		return id, s.addNow(repo.Trees, []object{o}, body)
	}
	s.waiting = append(s.waiting, o)
	s.bodies = append(s.bodies, body...)
	return id, nil
}

// flush adds what waits.
func (s *store) flush() error {
	err := s.addNow(repo.Trees, s.waiting, s.bodies)
	s.waiting, s.bodies = s.waiting[:0], s.bodies[:0]
	return err
}

// addNow adds those of the objects that the repository does not have. Their
// bodies stand back to back.
func (s *store) addNow(class repo.Class, objects []object, bodies []byte) error {
	if len(objects) == 0 {
		return nil
	}
	s.ids = s.ids[:0]
	for i := range objects {
		s.ids = append(s.ids, objects[i].id)
	}
	var err error
	if s.gone, err = s.sess.Missing(s.ctx, s.gone[:0], s.ids); err != nil {
		return err
	}
	s.buf, s.entries = s.buf[:0], s.entries[:0]
	for i, o := range objects {
		body := bodies[:o.size]
		bodies = bodies[o.size:]
		if n := len(s.entries); n == len(s.gone) || s.gone[n] != objects[i].id {
			continue
		}
		from := len(s.buf)
		var crc uint32
		s.buf, crc = s.enc.Append(s.buf, o.kind, body)
		s.entries = append(s.entries, pack.Entry{ID: o.id, CRC: crc, Bytes: s.buf[from:]})
	}
	cutEntries(s.entries, s.buf)
	err = s.addEntries(class, s.entries)
	clear(s.entries)
	if cap(s.buf) > bufKept {
		s.buf = nil
	}
	return err
}

// addTree stores a tree. A large body must not be looked at once it is handed
// on: its memory is needed to store it.
func (s *store) addTree(body []byte) (pack.ID, error) {
	if len(body) > lastMax {
		return s.add(pack.Tree, body)
	}
	if len(body) > 0 && string(body) == string(s.last) {
		return s.lastID, nil
	}
	id, err := s.add(pack.Tree, body)
	if err == nil {
		s.last, s.lastID = append(s.last[:0], body...), id
	}
	return id, err
}

// addEmpty stores the empty blob, once.
func (s *store) addEmpty() (pack.ID, error) {
	if !s.empty.IsZero() {
		return s.empty, nil
	}
	id := pack.Sum(pack.Blob, nil)
	err := s.addNow(repo.Data, []object{{id, pack.Blob, 0}}, nil)
	if err == nil {
		s.empty = id
	}
	return id, err
}

// addZero stores the largest chunk of zeros, once, and reports whether it was
// new to the repository.
func (s *store) addZero(id pack.ID, size int64) (isNew bool, err error) {
	if s.zeros {
		return false, nil
	}
	err = s.addNow(repo.Data, []object{{id, pack.Blob, int(size)}}, make([]byte, size))
	s.zeros = err == nil
	return len(s.gone) > 0, err
}

// rate holds what is added to a number of bytes a second.
type rate struct {
	perSecond int64
	due       time.Time // when what was added so far would be through
}

// delay returns how long to wait before n bytes more are added at a time.
func (r *rate) delay(now time.Time, n int) time.Duration {
	if r.due.Before(now) {
		r.due = now
	}
	r.due = r.due.Add(time.Duration(float64(n) / float64(r.perSecond) * float64(time.Second)))
	return r.due.Sub(now)
}

func (r *rate) take(ctx context.Context, n int) error {
	if r.perSecond <= 0 {
		return nil
	}
	wait := time.NewTimer(r.delay(time.Now(), n))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
