package save

import (
	"context"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// store adds objects to the session for the sink: what it builds itself it
// hashes and encodes here, what workers encoded passes through.
type store struct {
	ctx  context.Context
	sess repo.Session
	hash *pack.Hasher
	enc  *pack.Encoder
	rate *rate

	buf     []byte
	one     []pack.ID
	gone    []pack.ID
	last    []byte // the body of the last tree: runs of equal trees are common in sparse files
	lastID  pack.ID
	haveNil bool
	nilID   pack.ID
	zeros   bool
}

func (s *store) addData(entries []pack.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	if err := s.rate.take(s.ctx, entries); err != nil {
		return err
	}
	return s.sess.Add(s.ctx, repo.Data, entries)
}

// add stores an object and returns its id.
func (s *store) add(class repo.Class, t pack.Type, body []byte) (pack.ID, error) {
	id, err := s.hash.Sum(t, body)
	if err != nil {
		return id, err
	}
	s.one = append(s.one[:0], id)
	if s.gone, err = s.sess.Missing(s.ctx, s.gone[:0], s.one); err != nil || len(s.gone) == 0 {
		return id, err
	}
	var crc uint32
	s.buf, crc = s.enc.Append(s.buf[:0], t, body)
	e := [1]pack.Entry{{ID: id, CRC: crc, Bytes: s.buf}}
	if err := s.rate.take(s.ctx, e[:]); err != nil {
		return id, err
	}
	return id, s.sess.Add(s.ctx, class, e[:])
}

// addTree stores a tree.
func (s *store) addTree(body []byte) (pack.ID, error) {
	if len(body) > 0 && string(body) == string(s.last) {
		return s.lastID, nil
	}
	id, err := s.add(repo.Trees, pack.Tree, body)
	if err == nil && len(body) < 1<<16 {
		s.last, s.lastID = append(s.last[:0], body...), id
	}
	return id, err
}

// addEmpty stores the empty blob, once.
func (s *store) addEmpty() (pack.ID, error) {
	if s.haveNil {
		return s.nilID, nil
	}
	id, err := s.add(repo.Data, pack.Blob, nil)
	s.nilID, s.haveNil = id, err == nil
	return id, err
}

// addZero stores the largest chunk of zeros, once.
func (s *store) addZero(id pack.ID, size int64) error {
	if s.zeros {
		return nil
	}
	_, err := s.add(repo.Data, pack.Blob, make([]byte, size))
	s.zeros = err == nil
	return err
}

// rate holds what is added to a number of bytes a second.
type rate struct {
	perSecond int64
	due       time.Time
}

func (r *rate) take(ctx context.Context, entries []pack.Entry) error {
	if r.perSecond <= 0 {
		return nil
	}
	n := 0
	for i := range entries {
		n += len(entries[i].Bytes)
	}
	now := time.Now()
	if r.due.Before(now) {
		r.due = now
	}
	r.due = r.due.Add(time.Duration(float64(n) / float64(r.perSecond) * float64(time.Second)))
	select {
	case <-time.After(time.Until(r.due)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dryRun is a session that finds out what a save would store and stores nothing.
type dryRun struct {
	repo.Session
	objects, bytes int64
	added          map[pack.ID]bool
}

func (d *dryRun) Add(_ context.Context, _ repo.Class, entries []pack.Entry) error {
	for i := range entries {
		if !d.added[entries[i].ID] {
			d.added[entries[i].ID] = true
			d.objects++
			d.bytes += int64(len(entries[i].Bytes))
		}
	}
	return nil
}

func (d *dryRun) Commit(context.Context) error { return nil }

func (d *dryRun) Stats() (objects, bytes int64) { return d.objects, d.bytes }
