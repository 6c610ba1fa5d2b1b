package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// bupMoves is how often a save is put on top of a ref that moves on all the time.
const bupMoves = 20

// SetRef moves one ref; see repo.Repo. The server compares, but what it has to say about
// a ref that is elsewhere is the end of the connection. So the ref is looked at before,
// and a save is made anew on top of where it is.
func (b *bupRepo) SetRef(ctx context.Context, m repo.Move) (pack.ID, error) {
	if err := repo.CheckRefName(m.Ref); err != nil {
		return pack.ID{}, err
	}
	if b.info.Rights&wire.MayAppend == 0 {
		return pack.ID{}, &repo.RefusedError{Reason: "the server lists no commands that write"}
	}
	c, err := b.moveTarget(ctx, m)
	if err != nil {
		return pack.ID{}, err
	}
	for try := 1; ; try++ {
		err := b.do(ctx, func() error { return b.move(m) })
		changed := new(repo.RefChangedError)
		if err == nil {
			return m.New, nil
		} else if !m.Reparent || !errors.As(err, &changed) {
			return pack.ID{}, err
		}
		if try == bupMoves {
			return pack.ID{}, &repo.BusyError{What: m.Ref, Hint: fmt.Sprintf("others moved it %d times", try)}
		}
		done, err := b.reaches(ctx, changed.Got, m, &c)
		if err != nil {
			return pack.ID{}, err
		} else if done {
			return changed.Got, nil
		}
		m.Old = changed.Got
		if m.New, err = b.reparent(ctx, &c, m.Old); err != nil {
			return pack.ID{}, err
		}
	}
}

// moveTarget reads what a ref is to move to. The server would move one to anything that
// git finds, and die of what git does not like; so it is made sure here that it is there
// with what it names, and that a branch gets a commit.
func (b *bupRepo) moveTarget(ctx context.Context, m repo.Move) (c repo.Commit, err error) {
	if m.New.IsZero() {
		return c, nil
	}
	if err := b.present(ctx, m.New); err != nil {
		return c, err
	}
	err = b.Get(ctx, []pack.ID{m.New}, func(_ int, t pack.Type, body []byte) error {
		if err := repo.CheckRefTarget(m.Ref, m.New, t); err != nil {
			return err
		}
		switch {
		case t == pack.Commit:
			if c, err = repo.ParseCommit(body); err != nil {
				return err
			}
		case m.Reparent:
			return fmt.Errorf("%s: %v is no commit", m.Ref, m.New)
		case t == pack.Blob:
			return nil
		}
		kids, err := below(t, body)
		if err != nil {
			return err
		}
		return b.present(ctx, kids...)
	})
	return c, err
}

// present returns a *repo.MissingError for the first of some objects that is not there.
func (b *bupRepo) present(ctx context.Context, ids ...pack.ID) error {
	lacks, err := b.Missing(ctx, nil, ids)
	if err == nil && len(lacks) > 0 {
		err = &repo.MissingError{ID: lacks[0]}
	}
	return err
}

// move moves a ref if it is where it should be. One that is at New already is no error. An
// id of zeros deletes the ref, as it does for git.
func (b *bupRepo) move(m repo.Move) error {
	refs, err := b.refs("refs 0 0\n"+m.Ref+"\n\n", func(name string) bool { return name == m.Ref })
	if err != nil {
		return err
	}
	var at pack.ID
	if len(refs) > 0 {
		at = refs[0].ID
	}
	switch at {
	case m.New:
		return nil
	case m.Old:
	default:
		return &repo.RefChangedError{Ref: m.Ref, Want: m.Old, Got: at}
	}
	old := ""
	if !m.Old.IsZero() {
		old = m.Old.String()
	}
	return b.ask(fmt.Sprintf("update-ref %s\n%v\n%s", m.Ref, m.New, old))
}

// commit reads a commit.
func (b *bupRepo) commit(ctx context.Context, id pack.ID, c *repo.Commit) error {
	return b.Get(ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) (err error) {
		if t != pack.Commit {
			return fmt.Errorf("%v is no commit", id)
		}
		*c, err = repo.ParseCommit(body)
		return err
	})
}

// reaches looks for the save, or one with the same tree, author and message, in the
// history of tip, down to where the save itself begins.
func (b *bupRepo) reaches(ctx context.Context, tip pack.ID, m repo.Move, want *repo.Commit) (bool, error) {
	who := func(s repo.Signature) string { return s.Who + s.When.Format(time.RFC3339) }
	for at := tip; !at.IsZero() && at != m.Old; {
		if at == m.New {
			return true, nil
		}
		var c repo.Commit
		if err := b.commit(ctx, at, &c); err != nil {
			return false, err
		}
		if c.Tree == want.Tree && c.Message == want.Message && who(c.Author) == who(want.Author) {
			return true, nil
		}
		if len(c.Parents) == 0 {
			return false, nil
		}
		at = c.Parents[0]
	}
	return false, nil
}

// reparent stores a copy of a commit on top of another one.
func (b *bupRepo) reparent(ctx context.Context, c *repo.Commit, parent pack.ID) (pack.ID, error) {
	c.Parents, c.Extra = nil, ""
	if !parent.IsZero() {
		c.Parents = []pack.ID{parent}
	}
	body := c.Append(nil)
	id := pack.Sum(pack.Commit, body)
	entry, crc := pack.NewEncoder(1).Append(nil, pack.Commit, body)
	s, err := b.Begin(ctx)
	if err != nil {
		return id, err
	}
	defer s.Close()
	if err := s.Add(ctx, repo.Trees, []pack.Entry{{ID: id, CRC: crc, Bytes: entry}}); err != nil {
		return id, err
	}
	return id, s.Commit(ctx)
}
