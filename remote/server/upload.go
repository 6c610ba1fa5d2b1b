package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// maxUploads is how many sessions one connection may have at once.
const maxUploads = 4

// putAt is the size at which put sends a batch on its way.
const putAt = 1 << 20

// upload is a session of the repository's that a client fills.
type upload struct {
	s       *session
	id      uint32
	session *repo.Upload
	next    *batch  // of put
	told    figures // what was counted of it

	mu  sync.Mutex
	err error // the first failure: all that follows fails with it

	claim struct {
		sync.Mutex
		spooled int64 // bytes of a message that stands in a file
	}
}

// begin starts a session; see repo.Packs.BeginUpload.
func (s *session) begin(ctx context.Context, onePack bool) (*upload, error) {
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	if s.rights&wire.MayAppend == 0 {
		return nil, &repo.RefusedError{Reason: "the key may not write"}
	}
	if len(s.uploads) >= maxUploads {
		return nil, &repo.RefusedError{Reason: fmt.Sprintf("%d sessions are open on this connection, which is the limit", maxUploads)}
	}
	// It is begun before it is looked whether there is room, because that removes what
	// uploads that died have claimed.
	session, err := p.BeginUpload(ctx, onePack)
	if err != nil {
		return nil, err
	}
	u := &upload{s: s, session: session}
	if err := u.room(ctx); err != nil {
		return nil, errors.Join(err, session.Close())
	}
	if s.pipe == nil {
		s.pipe = newPipeline(ctx, s.o.Large)
	}
	if s.counted.since.IsZero() {
		s.counted.since = time.Now()
	}
	for s.last++; s.last == 0 || s.uploads[s.last] != nil; {
		s.last++
	}
	u.id = s.last
	if s.uploads == nil {
		s.uploads = make(map[uint32]*upload)
	}
	s.uploads[u.id] = u
	return u, nil
}

// room returns an error if the packs of the repository and what all its open uploads are
// about to add are above the quota. The upload has claimed its own part before, so that
// uploads which come together cannot be above it together. While a pack is published it
// counts twice for a moment: who is that near to the limit may be refused too early.
func (u *upload) room(ctx context.Context) error {
	s := u.s
	quota := s.grant.Quota
	if quota <= 0 {
		return nil
	}
	u.claim.Lock()
	defer u.claim.Unlock()
	_, stored := u.session.Stored()
	_, published := u.session.Stats()
	if err := u.session.Claim(max(0, stored-published) + u.claim.spooled); err != nil {
		return err
	}
	more, err := u.session.Claimed(ctx)
	if err != nil {
		return err
	}
	used, err := s.repo.PackBytes(ctx)
	if err != nil {
		return err
	}
	if used+more > quota {
		err := &repo.RefusedError{Reason: fmt.Sprintf("quota: the repository has %d bytes with what is being sent, and %d are allowed", used+more, quota)}
		s.o.Log("%s: %s: %v", s.grant.Who, s.name, err)
		return err
	}
	return nil
}

// spool says how many bytes of a message stand in a file beside the packs, and returns an
// error if there is no room for them.
func (u *upload) spool(ctx context.Context, n int64) error {
	u.claim.Lock()
	u.claim.spooled = n
	u.claim.Unlock()
	return u.room(ctx)
}

// failure returns what ended the upload, nil if nothing did.
func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// fail ends the upload with its first failure, and removes what was not committed.
func (u *upload) fail(err error) error {
	if err == nil {
		return nil
	}
	u.mu.Lock()
	first := u.err == nil
	if first {
		u.err = err
	}
	u.mu.Unlock()
	if first {
		u.s.o.Log("%s: %s: upload refused: %v", u.s.grant.Who, u.s.name, err)
		_ = u.session.Close()
	}
	return err
}

// store adds objects that a worker has looked at; seen is its word. It is the only way
// into a session of the repository.
func (u *upload) store(ctx context.Context, class repo.Class, entries []pack.Entry, seen error) error {
	if err := u.failure(); err != nil {
		return err
	}
	if seen != nil {
		return u.fail(seen)
	}
	if err := u.session.Add(ctx, class, entries); err != nil {
		return u.fail(err)
	}
	return u.fail(u.room(ctx))
}

// put takes an object whose bytes may be used again afterwards. What is wrong with it is
// said by a later put, or by flush.
func (u *upload) put(class repo.Class, e pack.Entry) error {
	if err := u.failure(); err != nil {
		return err
	}
	if u.next != nil && (u.next.class != class || len(u.next.buf)+len(e.Bytes) > putAt) {
		u.send()
	}
	if u.next == nil {
		u.next = u.s.pipe.take()
		u.next.up, u.next.class = u, class
		if cap(u.next.buf) < len(e.Bytes) {
			u.next.buf = make([]byte, 0, max(putAt, len(e.Bytes)))
		}
	}
	b := u.next
	at := len(b.buf)
	b.buf = append(b.buf, e.Bytes...)
	e.Bytes = b.buf[at:]
	b.entries = append(b.entries, e)
	return nil
}

// send sends what put has gathered on its way.
func (u *upload) send() {
	if u.next != nil {
		u.s.pipe.put(u.next)
		u.next = nil
	}
}

// flush waits until all that was sent has been looked at and added, and returns what
// ended the upload, if something did.
func (u *upload) flush() error {
	u.send()
	u.s.pipe.drain()
	return u.failure()
}

// storeAlone adds what cut finds in the n bytes of a spool file, while nothing else
// large is worked on. An error of cut is no failure of the upload.
func (u *upload) storeAlone(ctx context.Context, spool io.ReaderAt, n int64, cut func([]byte) (repo.Class, []pack.Entry, error)) error {
	if err := u.flush(); err != nil {
		return err
	}
	large := u.s.o.Large
	select {
	case large <- struct{}{}:
		defer func() { <-large }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	b := make([]byte, n)
	if _, err := spool.ReadAt(b, 0); err != nil && err != io.EOF {
		return err
	}
	class, entries, err := cut(b)
	if err != nil {
		return err
	}
	seen := newVerifier(large).entries(ctx, entries, true)
	_ = u.spool(ctx, 0) // what stands in the file counts as stored from here on
	return u.store(ctx, class, entries, seen)
}

// commit makes everything durable and visible, and returns the packs that are new.
func (u *upload) commit(ctx context.Context) ([]repo.PackInfo, error) {
	if err := u.flush(); err != nil {
		return nil, err
	}
	if err := u.session.Commit(ctx); err != nil {
		return nil, u.fail(err)
	}
	_ = u.room(ctx) // what is published is no longer claimed; the next object is refused if there is no room
	return u.session.Published(), nil
}

// close ends the upload; what was not committed is gone.
func (u *upload) close() error {
	u.send()
	u.s.pipe.drain()
	u.tally()
	delete(u.s.uploads, u.id)
	return u.session.Close()
}

// tally counts what was stored since the last call for the next receipt.
func (u *upload) tally() {
	objects, bytes := u.session.Stored()
	u.s.counted.objects += objects - u.told.objects
	u.s.counted.bytes += bytes - u.told.bytes
	u.told.objects, u.told.bytes = objects, bytes
}
