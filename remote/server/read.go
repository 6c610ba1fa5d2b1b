package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// replySize is about how long a reply becomes that is one of several.
const replySize = 1 << 20

// answerGet sends objects as they are stored, those of ids from the first on for which
// one reply has room.
func answerGet(ctx context.Context, s *session, tag uint32, body []byte) ([]byte, error) {
	ids, err := wire.ParseIDs(nil, body)
	if err != nil {
		return nil, err
	}
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return []byte{}, nil
	}
	if s.reader == nil {
		s.reader = repo.NewEntryReader(p)
	}
	run, err := s.reader.Locate(ctx, ids, replySize)
	if err != nil {
		return nil, err
	}
	if run.Size() > replySize { // it is one object
		if r, n, ok := run.Large(ctx); ok && n <= wire.MaxObject {
			if err := s.sent.SendFrom(wire.OK, tag, wire.AppendEntryHead(nil, n), r, n); err != nil {
				return nil, fmt.Errorf("%w: %w", errLost, err)
			}
			return nil, nil
		}
	}
	reply := make([]byte, 0, min(run.Size(), wire.MaxObject)+int64(run.Len())*8)
	_, err = run.Read(ctx, func(i int, entry []byte, err error) error {
		switch {
		case err == nil && len(entry) > wire.MaxObject:
			reply = wire.AppendDamaged(reply, fmt.Sprintf("its %d bytes are more than a message may hold", len(entry)))
		case err == nil:
			reply = wire.AppendEntry(reply, entry)
		case errors.As(err, new(*repo.MissingError)):
			reply = wire.AppendNone(reply)
		case errors.As(err, new(*pack.CorruptError)), errors.Is(err, pack.ErrTooLarge):
			s.o.Log("%s: %s: object %v: %v", s.grant.Who, s.name, ids[i], err)
			reply = wire.AppendDamaged(reply, err.Error())
		default:
			return err
		}
		return nil
	})
	return reply, err
}

// commitPages is a walk from a tip that goes on from one request to the next, so that
// asking for all pages takes no longer than one walk.
type commitPages struct {
	tip  pack.ID
	at   int // commits returned so far
	next func() (page, error, bool)
	stop func()
	held []byte // the body that the last reply had no room for; nil: none
}

type page []byte

// pages starts a walk.
func pages(ctx context.Context, p *repo.Packs, tip pack.ID) *commitPages {
	w := &commitPages{tip: tip}
	w.next, w.stop = iter.Pull2(func(yield func(page, error) bool) {
		stopped := errors.New("stopped")
		err := p.CommitBodies(ctx, tip, func(_ pack.ID, body []byte) error {
			if !yield(body, nil) {
				return stopped
			}
			return nil
		})
		if err != nil && err != stopped {
			yield(nil, err)
		}
	})
	return w
}

// body returns the next commit, io.EOF behind the last one. It is valid until the next call.
func (w *commitPages) body() ([]byte, error) {
	if b := w.held; b != nil {
		w.held = nil
		w.at++
		return b, nil
	}
	b, err, ok := w.next()
	if !ok {
		return nil, io.EOF
	}
	if err == nil {
		w.at++
	}
	return b, err
}

// hold gives the last body back.
func (w *commitPages) hold(b []byte) {
	w.held = append([]byte{}, b...)
	w.at--
}

func answerCommits(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	m, err := wire.ParseCommits(body)
	if err != nil {
		return nil, err
	}
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	if w := s.walk; w == nil || w.tip != m.Tip || w.at > m.Skip {
		if w != nil {
			w.stop()
		}
		s.walk = pages(ctx, p, m.Tip)
	}
	reply, err := s.walk.page(m.Skip)
	if err != nil {
		s.walk.stop()
		s.walk = nil
	}
	return reply, err
}

// page returns the commits from skip on for which one reply has room.
func (w *commitPages) page(skip int) ([]byte, error) {
	reply := []byte{}
	for {
		b, err := w.body()
		if err == io.EOF {
			return reply, nil
		} else if err != nil {
			return nil, err
		}
		if w.at <= skip {
			continue
		}
		if len(reply) > 0 && len(reply)+len(b) > replySize {
			w.hold(b)
			return reply, nil
		}
		reply = wire.AppendBody(reply, b)
	}
}
