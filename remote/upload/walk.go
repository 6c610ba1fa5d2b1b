package upload

import (
	"context"
	"errors"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// The groups into which objects are put. What is in one stays there.
const (
	groupHad     repo.Group = 1 + iota // the client has it
	groupHistory                       // to be sent: commits, tags, and what else is wanted by its id
	groupTree
	groupBlob
)

const (
	batch    = 256       // objects that are read together
	maxStack = 128 << 10 // the usual walk.most
	maxEdges = 1 << 16   // commits of the client that new ones stand on, whose trees are looked at

	modeGitlink = 0o160000
)

// walk puts objects into groups.
type walk struct {
	r    *repo.Packs
	sel  *repo.Selection
	tick func() error // called now and then; nil: never
	most int          // trees that are known and not read; others are put off

	edges []pack.ID
}

// lenient reports whether an error may be passed over: the client has what cannot be read
// here, so that only too much is sent.
func lenient(g repo.Group, err error) bool {
	return g == groupHad && (errors.As(err, new(*repo.MissingError)) || errors.As(err, new(*pack.CorruptError)))
}

// read gets objects of a group for fn. Of those that the client has some may be missing.
func (w *walk) read(ctx context.Context, g repo.Group, ids []pack.ID, fn func(i int, t pack.Type, body []byte) error) error {
	err := w.r.Get(ctx, ids, fn)
	if lenient(g, err) {
		for i := range ids { // one of them is to blame; to see others twice does no harm
			err = w.r.Get(ctx, ids[i:i+1], func(_ int, t pack.Type, body []byte) error { return fn(i, t, body) })
			if err != nil && !lenient(g, err) {
				return err
			}
		}
		err = nil
	}
	if err == nil && w.tick != nil {
		err = w.tick()
	}
	return err
}

// above returns the objects of the history that a commit or a tag names.
func (w *walk) above(ctx context.Context, id pack.ID) (kids []pack.ID, t pack.Type, err error) {
	err = w.r.Get(ctx, []pack.ID{id}, func(_ int, kind pack.Type, body []byte) (err error) {
		t = kind
		kids, err = named(kind, body)
		return err
	})
	return kids, t, err
}

// named returns the commits and tags that an object of a history names.
func named(t pack.Type, body []byte) ([]pack.ID, error) {
	switch t {
	case pack.Commit:
		c, err := repo.ParseCommit(body)
		return c.Parents, err
	case pack.Tag:
		id, err := tagged(body)
		return []pack.ID{id}, err
	}
	return nil, nil
}

// had puts an object that the client has into its group, with its history, if it is a
// commit or a tag.
func (w *walk) had(ctx context.Context, id pack.ID) error {
	_, t, err := w.above(ctx, id)
	if lenient(groupHad, err) || err == nil && t != pack.Commit && t != pack.Tag {
		return nil
	} else if err != nil {
		return err
	}
	return w.history(ctx, groupHad, []pack.ID{id})
}

// history puts objects into a group with all commits and tags that they reach. Where it
// meets what the client has it notes the commit as an edge.
func (w *walk) history(ctx context.Context, g repo.Group, tips []pack.ID) error {
	var todo []pack.ID
	meet := func(id pack.ID) error {
		had, err := w.sel.Put(ctx, id, g)
		switch {
		case lenient(g, err):
		case err != nil:
			return err
		case had == 0:
			todo = append(todo, id)
		case had == groupHad && g != groupHad && len(w.edges) < maxEdges:
			w.edges = append(w.edges, id)
		}
		return nil
	}
	for _, id := range tips {
		if err := meet(id); err != nil {
			return err
		}
	}
	var some []pack.ID
	for len(todo) > 0 {
		from := max(0, len(todo)-batch)
		some, todo = append(some[:0], todo[from:]...), todo[:from]
		kids := make([][]pack.ID, len(some)) // one for each, as Get has several goroutines
		err := w.read(ctx, g, some, func(i int, t pack.Type, body []byte) (err error) {
			kids[i], err = named(t, body)
			return err
		})
		if err != nil {
			return err
		}
		for _, list := range kids {
			for _, id := range list {
				if err := meet(id); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// contents puts the trees of commits into the groups tree and blob, with all below them. It
// takes any object that history takes.
func (w *walk) contents(ctx context.Context, ids []pack.ID, tree, blob repo.Group) error {
	for from := 0; from < len(ids); from += batch {
		some := ids[from:min(from+batch, len(ids))]
		roots := make([]pack.ID, len(some))
		err := w.read(ctx, tree, some, func(i int, t pack.Type, body []byte) error {
			switch t {
			case pack.Commit:
				c, err := repo.ParseCommit(body)
				roots[i] = c.Tree
				return err
			case pack.Tree:
				roots[i] = some[i]
			}
			return nil
		})
		if err != nil {
			return err
		}
		s := &stack{walk: w, ctx: ctx, tree: tree, blob: blob}
		for i, id := range roots {
			switch {
			case id == some[i]: // it is in a group already, for another reason
				s.trees = append(s.trees, id)
			case !id.IsZero():
				if err := s.meet(repo.ModeDir, id); err != nil {
					return err
				}
			}
		}
		if err := s.run(); err != nil {
			return err
		}
	}
	return nil
}

// stack is the trees that are known and not read.
type stack struct {
	*walk
	ctx        context.Context
	tree, blob repo.Group

	mu    sync.Mutex
	trees []pack.ID
	off   bool // some were put off
}

// meet puts an entry of a tree into its group, and a tree that is new on the stack.
func (s *stack) meet(mode uint32, id pack.ID) error {
	g := s.blob
	switch mode {
	case repo.ModeDir:
		g = s.tree
	case modeGitlink: // a commit of another repository
		return nil
	}
	had, err := s.sel.Put(s.ctx, id, g)
	if lenient(g, err) {
		return nil
	}
	if err != nil || had != 0 || mode != repo.ModeDir {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.trees) < s.most {
		s.trees = append(s.trees, id)
		return nil
	}
	s.off = true
	return s.sel.PutOff(s.ctx, id)
}

// run reads trees until there are none left.
func (s *stack) run() (err error) {
	var some []pack.ID
	for {
		if len(s.trees) == 0 && s.off {
			if s.trees, err = s.sel.TakePutOff(s.trees, s.most); err != nil {
				return err
			}
			s.off = len(s.trees) == s.most
		}
		if len(s.trees) == 0 {
			return nil
		}
		from := max(0, len(s.trees)-batch)
		some = append(some[:0], s.trees[from:]...)
		s.trees = s.trees[:from]
		err := s.read(s.ctx, s.tree, some, func(i int, t pack.Type, body []byte) error {
			if t != pack.Tree {
				return &pack.CorruptError{File: "object " + some[i].String(), Off: -1, Reason: "is a " + t.String() + " and no tree"}
			}
			scan := repo.NewTreeScanner(body)
			for scan.Next() {
				if err := s.meet(scan.Mode, scan.ID); err != nil {
					return err
				}
			}
			return scan.Err()
		})
		if err != nil {
			return err
		}
	}
}
