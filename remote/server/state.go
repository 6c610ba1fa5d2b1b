package server

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"

	"github.com/kedgebackup/kedge/remote/wire"
)

// stateSize is about how many bytes of files one reply to State has.
const stateSize = 32 << 20

// answerState tells what changes in the repository, as it was while no ref could move. Of
// files that only grow, and of those that did not change, the client has the beginning.
func answerState(ctx context.Context, s *session, _ uint32, body []byte) ([]byte, error) {
	have, err := wire.ParseStateRequest(body)
	if err != nil {
		return nil, err
	}
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	state, err := p.State(ctx)
	if err != nil {
		return nil, err
	}
	m := wire.StateReply{Head: state.Head, Refs: state.Refs}
	files, left := state.Files(), stateSize
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := *files[name]
		f := wire.Part{Name: name, Size: int64(len(text))}
		for _, h := range have {
			if h.Name == name && h.Size <= f.Size && sha256.Sum256(text[:h.Size]) == h.Sum {
				f.From = h.Size
			}
		}
		f.Bytes = text[f.From:][:min(f.Size-f.From, int64(left))]
		left -= len(f.Bytes)
		m.Files = append(m.Files, f)
	}
	return m.Append(nil), nil
}
