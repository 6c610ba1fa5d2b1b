package remote

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

const (
	stateMost  = 1 << 30 // bytes of the files of a state
	stateTries = 100     // messages in which it comes
)

// State returns what changes in the repository, as it was at one moment, for a key of role
// mirror. Of known, an earlier state, what did not change is not fetched again: files that
// grew come from there on where they grew.
func (c *Client) State(ctx context.Context, known repo.State) (repo.State, error) {
	f, ok := c.driver.(*frames)
	if !ok {
		return repo.State{}, fmt.Errorf("state: %w", wire.ErrUnsupported)
	}
	for range stateTries {
		body, err := f.ask(ctx, wire.State, haveState(&known).Append(nil))
		if err != nil {
			return repo.State{}, err
		}
		m, err := wire.ParseStateReply(body)
		if err != nil {
			return repo.State{}, err
		}
		var whole bool
		if known, whole, err = joinState(&known, &m); err != nil || whole {
			return known, err
		}
	}
	return repo.State{}, fmt.Errorf("%w: the state of the repository has no end", wire.ErrProtocol)
}

// haveState says what there is of the files of a state.
func haveState(s *repo.State) (m wire.StateRequest) {
	files := s.Files()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if text := *files[name]; len(text) > 0 {
			m = append(m, wire.Beginning{Name: name, Size: int64(len(text)), Sum: sha256.Sum256(text)})
		}
	}
	return m
}

// joinState returns the state that follows from an earlier one and a reply; whole is false
// if files do not end yet.
func joinState(known *repo.State, m *wire.StateReply) (s repo.State, whole bool, err error) {
	s, whole = repo.State{Head: m.Head, Refs: m.Refs}, true
	old, files := known.Files(), s.Files()
	sum := int64(0)
	for i := range m.Files {
		f := &m.Files[i]
		to := files[f.Name]
		if to == nil || *to != nil || f.From > 0 && f.From != int64(len(*old[f.Name])) {
			return s, false, fmt.Errorf("%w: state: %q is no file of it, or begins elsewhere", wire.ErrProtocol, f.Name)
		}
		if sum += f.Size; f.Size > stateMost || sum > stateMost {
			return s, false, fmt.Errorf("state: %s has %d bytes, with what there is before it more than %d", f.Name, f.Size, stateMost)
		}
		*to = append((*old[f.Name])[:f.From:f.From], f.Bytes...)
		whole = whole && int64(len(*to)) == f.Size
	}
	return s, whole, nil
}
