package repo

import (
	"context"
	"errors"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

// SaveTimes tells when the saves of one ref came into the repository, by the
// clock of the repository and not by the dates that a client wrote into its
// commits. It is used by one goroutine at a time.
type SaveTimes struct {
	p     *Packs
	moves []Receipt
	first map[saveKey]int64 // of the first line with that tree and author date
	came  map[pack.ID]int64 // of the move that brought a commit without a line; nil until it is asked for
}

// saveKey is what a prune keeps of a commit when it writes it anew.
type saveKey struct {
	tree   pack.ID
	author string
}

// SaveTimes reads the receipts of a ref.
func (p *Packs) SaveTimes(ctx context.Context, ref string) (*SaveTimes, error) {
	s := &SaveTimes{p: p, first: make(map[saveKey]int64)}
	err := p.Receipts(ctx, func(r Receipt) error {
		if r.Ref != ref {
			return nil
		}
		s.moves = append(s.moves, r)
		if key := (saveKey{r.Tree, r.Author}); s.first[key] == 0 && r.Author != "" {
			s.first[key] = r.Time
		}
		return nil
	})
	return s, err
}

// Time returns the time of a save: that of the first receipt with its tree and
// author date. A commit without one that came along with a move has the time
// of that move, and one that was there before the first receipt its committer
// date.
func (s *SaveTimes) Time(ctx context.Context, id pack.ID, c *Commit) (time.Time, error) {
	if at, ok := s.first[saveKey{c.Tree, c.Author.stamp()}]; ok {
		return time.Unix(at, 0), nil
	}
	if s.came == nil {
		if err := s.walk(ctx); err != nil {
			return time.Time{}, err
		}
	}
	if at, ok := s.came[id]; ok && at != 0 {
		return time.Unix(at, 0), nil
	}
	return c.Committer.When, nil
}

// stamp returns seconds and zone as a receipt has them.
func (s Signature) stamp() string {
	return string(appendStamp(nil, s.When))
}

// walk finds for every commit the first move that brought it. What the first
// move began with was there before: it gets no time.
func (s *SaveTimes) walk(ctx context.Context) error {
	came := make(map[pack.ID]int64)
	if len(s.moves) > 0 {
		if err := s.mark(ctx, came, s.moves[0].Old, 0); err != nil {
			return err
		}
	}
	for _, m := range s.moves {
		if err := s.mark(ctx, came, m.New, m.Time); err != nil {
			return err
		}
	}
	s.came = came
	return nil
}

// mark gives a time to those commits that id reaches and that have none.
func (s *SaveTimes) mark(ctx context.Context, came map[pack.ID]int64, id pack.ID, at int64) error {
	for todo := []pack.ID{id}; len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if _, seen := came[id]; seen || id.IsZero() {
			continue
		}
		came[id] = at
		var c Commit
		_, err := s.p.commit(ctx, id, &c)
		if errors.As(err, new(*MissingError)) {
			continue // pruned, and so of no interest
		} else if err != nil {
			return err
		}
		todo = append(todo, c.Parents...)
	}
	return nil
}
