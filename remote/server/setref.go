package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// figures are what a connection stored since a ref moved last, for its receipt.
type figures struct {
	objects, bytes int64
	since          time.Time
}

// setRef moves a ref if the client may, in whatever protocol it asked. It is the one
// place of the server that moves refs.
//
// Under a right to append and no more, a ref below refs/heads moves to a commit that
// descends from where the client says that it is, which the repository compares under
// its lock; so nobody can come between. A tag is made and never moved. Nothing is
// deleted.
//
// Who moved it, how much came, and how long that took is the server's own knowledge;
// of the client's figures only its clock goes into the receipt, as what it is.
func (s *session) setRef(ctx context.Context, m repo.Move) (pack.ID, error) {
	p, err := s.opened(ctx)
	if err != nil {
		return pack.ID{}, err
	}
	if err := s.mayMove(ctx, p, &m); err != nil {
		return pack.ID{}, err
	}
	if s.pipe != nil {
		s.pipe.drain()
	}
	for _, u := range s.uploads {
		u.tally()
	}
	m.Stats = repo.MoveStats{
		Objects: s.counted.objects, Bytes: s.counted.bytes,
		ClientTime: m.Stats.ClientTime, Principal: s.grant.Who,
	}
	if !s.counted.since.IsZero() {
		m.Stats.Seconds = time.Since(s.counted.since).Seconds()
	}
	id, err := p.SetRef(ctx, m)
	if err == nil {
		s.counted = figures{since: time.Now()}
	}
	return id, err
}

// mayMove returns nil if the client may move a ref so. It makes a move stricter where
// that is what the client may do.
func (s *session) mayMove(ctx context.Context, p *repo.Packs, m *repo.Move) error {
	refuse := func(format string, args ...any) error {
		err := &repo.RefusedError{Reason: m.Ref + ": " + fmt.Sprintf(format, args...)}
		s.o.Log("%s: %s: %v", s.grant.Who, s.name, err)
		return err
	}
	if err := repo.CheckRefName(m.Ref); err != nil {
		return err
	}
	if s.rights&wire.MayAppend == 0 {
		return refuse("the key may not write")
	}
	if err := s.grant.Allowed(m.Ref); err != nil {
		return err
	}
	if s.rights&wire.MayRewind != 0 {
		return nil
	}
	if m.New.IsZero() {
		return refuse("the key may not delete refs")
	}
	switch {
	case strings.HasPrefix(m.Ref, "refs/tags/"):
		if !m.Old.IsZero() && m.Old != m.New {
			return refuse("the key may not move tags")
		}
		m.Old, m.Reparent = pack.ID{}, false
		return nil
	case !strings.HasPrefix(m.Ref, "refs/heads/"):
		return refuse("the key may write below refs/heads and refs/tags only")
	}
	ok, err := descends(ctx, p, m.New, m.Old)
	if err != nil {
		return err
	}
	if !ok {
		return refuse("%v does not descend from %v", m.New, m.Old)
	}
	return nil
}

// descends reports whether id is a commit that reaches old by its parents. Every commit
// reaches the zero id.
func descends(ctx context.Context, p *repo.Packs, id, old pack.ID) (bool, error) {
	found := errors.New("found")
	err := repo.WalkCommits(ctx, p, id, func(at pack.ID, _ *repo.Commit) error {
		if old.IsZero() || at == old {
			return found
		}
		return nil
	})
	if err == found {
		return true, nil
	}
	return false, err
}
