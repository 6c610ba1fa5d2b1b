package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Blobs are read some at a time. Those that are larger than the usual chunk are read
// again, one by one, when their turn comes.
const (
	blobsAtOnce = 32
	blobKept    = 256 << 10 // bytes
)

// Trees in one another are held while what is below them is sent. Whoever may add objects
// can nest large ones, or a million small ones: what they take together has a limit, the
// largest tree twice.
const (
	maxHeld  = 2 * maxObject
	treeHead = 256 // bytes that one takes beside its own

	// Sixty trees that each name the next one twice are 2^60 on the way through; a directory
	// of a save always has metadata, which is sent. As long as something is sent, a client
	// that has left is noticed; without, this is the end.
	maxEmpty = 100_000
)

// revision finds the object that a revision names, as repo.Revision does.
func (s *session) revision(ctx context.Context, rev string) (pack.ID, error) {
	p, err := s.opened(ctx)
	if err != nil {
		return pack.ID{}, err
	}
	return repo.Revision(ctx, p, rev)
}

// gone reports whether an error says that an object is not there.
func gone(err error) bool {
	return errors.As(err, new(*repo.MissingError)) || errors.As(err, new(*repo.NotFoundError))
}

// join sends all blobs below a revision, in the order of their trees: of a chunked file
// that is its content. If something is not there the reply ends early, with an error.
func join(ctx context.Context, s *session, rev string) error {
	p, err := s.opened(ctx)
	if err != nil {
		return err
	}
	j := joiner{ctx: ctx, s: s, p: p}
	id, err := s.revision(ctx, rev)
	if err == nil {
		err = j.top(id)
	}
	if err == nil {
		err = j.flush()
	}
	if err != nil && !gone(err) {
		return err
	}
	s.putUint32(0)
	if err != nil {
		return replyError{err}
	}
	return nil
}

// joiner walks over trees and sends blobs.
type joiner struct {
	ctx   context.Context
	s     *session
	p     *repo.Packs
	trees []repo.TreeScanner // those that are being read, the innermost last
	held  []int              // bytes that each of them takes
	total int                // of held
	empty int                // trees that were come to since something was sent
	ids   []pack.ID          // of blobs to be sent
}

// top begins at an object of any type.
func (j *joiner) top(id pack.ID) error {
	id, err := repo.Peel(j.ctx, j.p, id, "")
	if err != nil {
		return err
	}
	kind := pack.Blob
	err = j.p.Get(j.ctx, []pack.ID{id}, func(_ int, t pack.Type, _ []byte) error {
		kind = t
		return nil
	})
	switch {
	case err != nil:
		return err
	case kind == pack.Blob:
		j.ids = append(j.ids, id)
		return nil
	}
	if id, err = repo.Peel(j.ctx, j.p, id, "tree"); err != nil {
		return err
	}
	return j.walk(id)
}

// walk goes down into a tree.
func (j *joiner) walk(id pack.ID) error {
	if err := j.enter(id); err != nil {
		return err
	}
	for len(j.trees) > 0 {
		t := &j.trees[len(j.trees)-1]
		if !t.Next() {
			if err := t.Err(); err != nil {
				return err
			}
			j.leave()
			continue
		}
		switch {
		case t.Mode == repo.ModeDir:
			if err := j.enter(t.ID); err != nil {
				return err
			}
		case t.Mode == repo.ModeFile, t.Mode == repo.ModeSymlink, t.Mode&0o170000 == 0o100000:
			if j.ids = append(j.ids, t.ID); len(j.ids) == blobsAtOnce {
				if err := j.flush(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (j *joiner) enter(id pack.ID) error {
	if j.empty++; j.empty > maxEmpty {
		return fmt.Errorf("%d trees, with nothing in them", maxEmpty)
	}
	return j.p.Get(j.ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
		if t != pack.Tree {
			return &pack.CorruptError{File: "object " + id.String(), Off: -1, Reason: fmt.Sprintf("is a %v and not a tree", t)}
		}
		n := len(body) + treeHead
		if j.total+n > maxHeld {
			return fmt.Errorf("tree %v: with those that it is in it has more than %d bytes", id, maxHeld)
		}
		j.trees = append(j.trees, repo.NewTreeScanner(bytes.Clone(body)))
		j.held = append(j.held, n)
		j.total += n
		return nil
	})
}

// leave goes back to the tree that the innermost is in.
func (j *joiner) leave() {
	last := len(j.trees) - 1
	j.total -= j.held[last]
	j.trees[last] = repo.TreeScanner{}
	j.trees, j.held = j.trees[:last], j.held[:last]
}

// flush sends the blobs that were found.
func (j *joiner) flush() error {
	bodies := make([][]byte, len(j.ids))
	large := make([]bool, len(j.ids))
	err := j.p.Get(j.ctx, j.ids, func(i int, t pack.Type, body []byte) error {
		if t != pack.Blob {
			return &pack.CorruptError{File: "object " + j.ids[i].String(), Off: -1, Reason: fmt.Sprintf("is a %v and not a blob", t)}
		}
		if large[i] = len(body) > blobKept; !large[i] {
			bodies[i] = bytes.Clone(body)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, id := range j.ids {
		if !large[i] {
			err = j.send(bodies[i])
		} else {
			err = j.p.Get(j.ctx, []pack.ID{id}, func(_ int, _ pack.Type, body []byte) error { return j.send(body) })
		}
		if err != nil {
			return err
		}
	}
	j.ids = j.ids[:0]
	return nil
}

// send sends a blob. An empty one would look like the end.
func (j *joiner) send(body []byte) error {
	if len(body) == 0 {
		return nil
	}
	j.empty = 0
	j.s.putUint32(uint32(len(body)))
	_, err := j.s.out.Write(body)
	return err
}

// catBatch sends objects as they are. All that is asked for is read first, because a
// client may not read before it has asked.
func catBatch(ctx context.Context, s *session, _ string) error {
	revs, err := s.readLines()
	if err != nil {
		return err
	}
	p, err := s.opened(ctx)
	if err != nil {
		return err
	}
	for _, rev := range revs {
		id, err := s.revision(ctx, rev)
		if err == nil {
			err = p.Get(ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
				_, _ = fmt.Fprintf(s.out, "%v %v %d\n", id, t, len(body))
				_, err := s.out.Write(body)
				return err
			})
		}
		if gone(err) {
			_, err = s.out.WriteString("missing\n")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
