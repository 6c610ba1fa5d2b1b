package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// Records of receive-objects-v2 with a meaning of their own.
const (
	recordFinish  = 0
	recordSuspend = 0xffffffff
)

// recordHead is what stands before the entry of a record: an id and a CRC.
const recordHead = 20 + 4

// A pack of a client that never ends one is ended here. Clients of bup end theirs after
// 200,000 objects or a thousand million bytes.
const (
	maxPackObjects = 250_000
	maxPackBytes   = 2 << 30
)

// receive takes objects in until the client has no more:
//
//	u32 n, id 20 bytes, u32 crc, entry n-24 bytes     an object
//	u32 0                                             finish
//	u32 ffffffff                                      suspend
//
// Finish is answered with "NAME.idx\n" if there is a new pack, and if there are several
// with "index NAME.idx\n" for those before the last. Suspend keeps what came for the next
// call. In between, the line "index NAME.idx\n" tells the client at once about an idx
// that has an object of those that it sends; the client then suspends, gets the idx, and
// sends no more of what is in it. It is told of an idx once: bup's own server tells it in each
// call, and bup's client, which may not find what is in an idx that it has, gives up then.
//
// All objects go to the packs of trees, data too: the client expects one pack.
func receive(ctx context.Context, s *session, _ string) error {
	b := &s.bup
	if b.up == nil {
		up, err := s.begin(ctx, true)
		if err != nil {
			return err
		}
		b.up, b.objects, b.bytes = up, 0, 0
	}
	if b.told == nil {
		b.told = make(map[string]bool)
	}
	for _, name := range b.done {
		b.told[name] = true
	}
	dumb := s.repo.Dumb()
	for {
		s.conn.arm(s.o.Limits.Quiet)
		n, e, err := s.readRecord()
		if err != nil {
			return err
		}
		size := int64(n) - recordHead // of the entry, if it is one
		switch n {
		case recordFinish:
			return s.finish(ctx)
		case recordSuspend:
			return nil
		}
		if !dumb {
			if err := s.suggest(e.ID); err != nil {
				return err
			}
		}
		if size > bufferKept {
			err = s.receiveLarge(ctx, e, size)
		} else {
			err = b.up.put(repo.Trees, e)
		}
		if err != nil {
			return err
		}
		b.objects++
		b.bytes += size
		if b.objects >= maxPackObjects || b.bytes >= maxPackBytes {
			if err := s.publish(ctx); err != nil {
				return err
			}
		}
	}
}

// receiveLarge takes in an object that is too large to wait in memory until it is looked
// at: it comes into a file, as a long Add does.
func (s *session) receiveLarge(ctx context.Context, e pack.Entry, size int64) error {
	u := s.bup.up
	if err := u.failure(); err != nil {
		return err
	}
	file, err := u.session.Spool(ctx)
	if err != nil {
		return err
	}
	defer func() {
		file.Abort()
		_ = u.spool(ctx, 0) // which can only be less
	}()
	if err := u.spool(ctx, size); err != nil {
		return u.fail(err)
	}
	if _, err := io.CopyN(file, s.in, size); err != nil {
		return midway(err)
	}
	return u.storeAlone(ctx, file, size, func(b []byte) (repo.Class, []pack.Entry, error) {
		e.Bytes = b
		return repo.Trees, []pack.Entry{e}, nil
	})
}

// readRecord reads a record. The entry is valid until the next one is read; one of more
// than bufferKept bytes is left to be read.
func (s *session) readRecord() (n uint32, e pack.Entry, err error) {
	var head [4 + recordHead]byte
	if _, err := io.ReadFull(s.in, head[:4]); err != nil {
		return 0, e, midway(err)
	}
	n = binary.BigEndian.Uint32(head[:])
	switch {
	case n == recordFinish, n == recordSuspend:
		return n, e, nil
	case n <= recordHead, n > recordHead+wire.MaxObject:
		return n, e, fmt.Errorf("a record of %d bytes, there may be from %d to %d", n, recordHead+1, recordHead+wire.MaxObject)
	}
	if _, err := io.ReadFull(s.in, head[4:]); err != nil {
		return n, e, midway(err)
	}
	e.ID, _, _ = pack.CutID(head[4:])
	e.CRC = binary.BigEndian.Uint32(head[4+recordHead-4:])
	size := int(n) - recordHead
	if size > bufferKept {
		return n, e, nil
	}
	if cap(s.bup.record) < size {
		s.bup.record = make([]byte, size, max(size, 64<<10))
	}
	s.bup.record = s.bup.record[:size]
	if _, err := io.ReadFull(s.in, s.bup.record); err != nil {
		return n, e, midway(err)
	}
	e.Bytes = s.bup.record
	return n, e, nil
}

// suggest tells the client of an idx that has an object which it sent for nothing.
func (s *session) suggest(id pack.ID) error {
	name, err := s.repo.IndexOf(id)
	if err != nil || name == "" || s.bup.told[name] {
		return err
	}
	s.bup.told[name] = true
	_, _ = fmt.Fprintf(s.out, "index %s\n", name)
	return s.out.Flush()
}

// publish makes what came so far durable and visible.
func (s *session) publish(ctx context.Context) error {
	b := &s.bup
	packs, err := b.up.commit(ctx)
	if err != nil {
		return err
	}
	b.objects, b.bytes = 0, 0
	for _, p := range packs {
		name := fmt.Sprintf("pack-%v.idx", p.Name)
		b.done = append(b.done, name)
		b.told[name] = true
	}
	return nil
}

// finish ends a pack and tells the client what its idx is called.
func (s *session) finish(ctx context.Context) error {
	if err := s.publish(ctx); err != nil {
		return err
	}
	b := &s.bup
	up, done := b.up, b.done
	b.up, b.done = nil, nil
	for i, name := range done {
		if i < len(done)-1 {
			s.out.WriteString("index ")
		}
		s.out.WriteString(name + "\n")
	}
	return up.close()
}
