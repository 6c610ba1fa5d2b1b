package upload

import (
	"context"
	"errors"
	"slices"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// The limits of what is remembered and read while the client says what it has.
const (
	maxCommon = 1 << 16 // commits of the client whose trees are looked at
	maxProbe  = 1 << 14 // commits read, all in all, to find out whether enough is known
)

// negotiation is the state of the haves.
type negotiation struct {
	*session
	ctx    context.Context
	wants  []pack.ID
	common []pack.ID // what both have, as the client named it
	last   pack.ID   // of these
	any    bool      // there is one
	fresh  bool      // and one since the last flush
	ready  bool      // the client was told that it may stop
	probed int
}

// negotiate hears what the client has, and returns what both have. When it returns the
// client waits for the pack.
func (s *session) negotiate(ctx context.Context, wants []pack.ID) ([]pack.ID, error) {
	n := &negotiation{session: s, ctx: ctx, wants: wants}
	s.line.rearm()
	for haves := 0; ; {
		b, err := s.next(maxLine)
		if err != nil {
			return nil, noEOF(err)
		}
		c, id, _, err := parseLine(b)
		if err != nil {
			return nil, err
		}
		switch c {
		case have:
			if haves++; haves > maxHaves {
				return nil, refused("more than %d haves", maxHaves)
			}
			err = n.have(id)
		case flush:
			var end bool
			if end, err = n.flush(); err == nil && end {
				return n.common, nil
			}
		case done:
			return n.common, n.done()
		default:
			err = refused("%.60q among the haves", b)
		}
		if err != nil {
			return nil, err
		}
	}
}

// have looks at one object of the client. A commit that is here counts with all that it
// reaches, and a tag for what it points to; trees and blobs tell nothing of a history.
func (n *negotiation) have(id pack.ID) error {
	group, err := n.sel.GroupOf(n.ctx, id)
	if errors.As(err, new(*repo.MissingError)) {
		return nil
	} else if err != nil {
		return err
	}
	if group == 0 {
		if err := n.walk.had(n.ctx, id); err != nil {
			return err
		}
		if group, err = n.sel.GroupOf(n.ctx, id); err != nil || group == 0 {
			return err
		}
		if len(n.common) < maxCommon {
			n.common = append(n.common, id)
		}
	}
	first := !n.any
	n.last, n.any, n.fresh = id, true, true
	switch {
	case n.features.acks:
		return n.out.Encodef("ACK %v common\n", id)
	case first:
		if err := n.out.Encodef("ACK %v\n", id); err != nil {
			return err
		}
		return n.w.Flush()
	}
	return nil
}

// flush answers a batch. It reports whether the client now waits for the pack.
func (n *negotiation) flush() (end bool, err error) {
	if n.features.acks && n.fresh && !n.ready {
		if n.ready, err = n.enough(); err != nil {
			return false, err
		}
		if n.ready {
			if err := n.out.Encodef("ACK %v ready\n", n.last); err != nil {
				return false, err
			}
		}
	}
	n.fresh = false
	if n.features.acks || !n.any {
		if err := n.out.EncodeString("NAK\n"); err != nil {
			return false, err
		}
	}
	if end = n.ready && n.features.noDone; end {
		err = n.out.Encodef("ACK %v\n", n.last)
	}
	n.line.rearm()
	return end, errors.Join(err, n.w.Flush())
}

// done answers the end of the haves.
func (n *negotiation) done() (err error) {
	switch {
	case !n.any:
		err = n.out.EncodeString("NAK\n")
	case n.features.acks:
		err = n.out.Encodef("ACK %v\n", n.last)
	}
	return errors.Join(err, n.w.Flush())
}

// enough reports whether every want leads to a commit that the client has. It may say no
// where that is so but far away: then the client goes on to name commits, which costs
// time and no more.
func (n *negotiation) enough() (bool, error) {
	for _, id := range n.wants {
		ok, err := n.leads(id)
		if err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// leads reports whether a want leads to a commit that the client has.
func (n *negotiation) leads(id pack.ID) (bool, error) {
	known := map[pack.ID]bool{id: true}
	for todo := []pack.ID{id}; len(todo) > 0; {
		if n.probed++; n.probed > maxProbe {
			return false, nil
		}
		at := todo[0]
		todo = todo[1:]
		group, err := n.sel.GroupOf(n.ctx, at)
		if err != nil || group == groupHad {
			return err == nil, err
		}
		kids, _, err := n.walk.above(n.ctx, at)
		if err != nil {
			return false, err
		}
		for _, kid := range kids {
			if !known[kid] {
				known[kid] = true
				todo = append(todo, kid)
			}
		}
	}
	return false, nil
}

// tagsOf returns the tags that lead to something that is sent.
func (s *session) tagsOf(ctx context.Context) (tags []pack.ID, err error) {
	for _, r := range s.shown {
		if r.peeled.IsZero() || slices.Contains(tags, r.ID) {
			continue
		}
		group, err := s.sel.GroupOf(ctx, r.peeled)
		if err != nil {
			return nil, err
		}
		if group > groupHad {
			tags = append(tags, r.ID)
		}
	}
	return tags, nil
}
