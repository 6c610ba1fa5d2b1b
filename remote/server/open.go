package server

import (
	"context"
	"errors"

	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// holdIdx is how many bytes of idx files a session keeps in memory: what 32 MiB for all
// of it leave, in which an upload has 12.
const holdIdx = 4 << 20

// open chooses the repository that the client calls path, in place of one chosen
// before. With create one that is not there is made, if the client may write; created
// says whether. A repository that the grant does not name and one that does not exist
// get the same answer.
func (s *session) open(ctx context.Context, path string, create *repo.InitOptions) (created bool, err error) {
	if len(s.uploads) > 0 {
		return false, errors.New("the repository cannot change while a session is open")
	}
	none := &repo.NotFoundError{What: "repository", Name: path}
	if path == "" && s.grant.Role == access.Owner {
		path = s.o.Default
	}
	dir, name, err := s.grant.Resolve(path)
	if errors.Is(err, access.ErrNoRepo) {
		s.o.Log("%s: no such repository, or not for this key: %.200q", s.grant.Who, path)
		return false, none
	} else if err != nil {
		return false, err
	}
	mayWrite := s.rights&wire.MayAppend != 0
	p, created, err := s.grant.Open(ctx, s.o.FS, dir, !mayWrite, create)
	if errors.As(err, new(*repo.NotFoundError)) {
		return false, none
	} else if err != nil {
		return false, err
	}
	if err := s.leave(); err != nil {
		p.Close()
		return false, err
	}
	p.HoldIdx(holdIdx)
	s.repo, s.name = p, name
	return created, nil
}

// opened returns the repository, the default one if the client chose none.
func (s *session) opened(ctx context.Context) (*repo.Packs, error) {
	if s.repo == nil {
		if _, err := s.open(ctx, "", nil); err != nil {
			return nil, err
		}
	}
	return s.repo, nil
}
