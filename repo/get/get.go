package get

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Method says what becomes of the source of an order.
type Method uint8

// The methods, as the package comment explains them.
const (
	FastForward Method = iota
	Append
	Pick
	ForcePick
	NewTag
	Replace
	Unnamed
)

// String returns the method as bup spells it.
func (m Method) String() string {
	return [...]string{"ff", "append", "pick", "force-pick", "new-tag", "replace", "unnamed"}[m]
}

// Order is one thing to be copied. Dest is the path of a branch, NAME, or of a tag,
// .tag/NAME; empty, it is that of the source, where that is clear.
type Order struct {
	Method        Method
	Ref, Dest     string
	IgnoreMissing bool
}

// String returns the order as it was given, for messages.
func (o *Order) String() string {
	if o.Dest == "" {
		return fmt.Sprintf("--%v %s", o.Method, o.Ref)
	}
	return fmt.Sprintf("--%v: %s %s", o.Method, o.Ref, o.Dest)
}

// OrderError says why an order cannot be carried out.
type OrderError struct {
	Order  Order
	Reason string
}

// Error names the order and says why.
func (e *OrderError) Error() string { return e.Order.String() + ": " + e.Reason }

// Options says what is copied, where from and where to. The zero value of what is
// optional is its default.
type Options struct {
	Source, Dest   repo.Repo
	Orders         []Order
	Zone           *time.Location // in which saves are named; nil: time.Local
	Who            string         // "Full Name <login@host>": the committer of copies
	Message        string         // of commits that are made of trees
	Now            time.Time
	Level          int   // zlib level of what is encoded anew
	Workers        int   // that inflate and hash; 0: one
	BytesPerSecond int64 // limit on what is added; 0: none
	Stats          repo.MoveStats

	// Replacing is called before refs are moved to where their old history is no
	// longer reached. May be nil.
	Replacing func(ctx context.Context, moves []repo.Move) error
	// Skipped is called for what IgnoreMissing passes over. May be nil.
	Skipped  func(id pack.ID)
	Progress func(objects, bytes int64) // may be nil
}

// Outcome is what an order came to.
type Outcome struct {
	Ref    string  // full name, empty for Unnamed
	ID     pack.ID // what the ref is at after this order
	Tree   pack.ID // of the commit that ID is; zero if it is none
	Commit bool    // whether ID is a commit
}

// Result is what a run did. Outcomes are those of the orders.
type Result struct {
	Outcomes       []Outcome
	Moves          []repo.Move // that were made
	Objects, Bytes int64       // copied
	Skipped        int64       // objects that the source lacks
}

// Run carries out the orders. An *OrderError means that no ref was moved.
func Run(ctx context.Context, o Options) (Result, error) {
	r := run{ctx: ctx, o: o, source: &repo.VFS{Repo: o.Source, Zone: o.Zone}, tips: map[string]pack.ID{}, first: map[string]pack.ID{}}
	refs, err := o.Dest.Refs(ctx, "refs/")
	if err != nil {
		return r.res, err
	}
	for _, ref := range refs {
		r.tips[ref.Name] = ref.ID
	}
	steps := make([]step, len(o.Orders))
	planned := make(map[string]bool) // refs that will be there
	for i := range o.Orders {
		if steps[i], err = r.plan(o.Orders[i], planned); err != nil {
			return r.res, err
		}
	}
	if err := r.copyAll(steps); err != nil {
		return r.res, err
	}
	return r.res, r.move()
}

// run is one Run.
type run struct {
	ctx    context.Context
	o      Options
	source *repo.VFS
	tips   map[string]pack.ID // of the destination, as the orders so far leave them
	first  map[string]pack.ID // where those refs were that an order moves
	moved  []string           // they, in order
	lost   []string           // refs that leave their history behind
	res    Result
}

// step is an order whose source was found.
type step struct {
	Order
	ref    string // full name in the destination
	id     pack.ID
	commit bool
	file   bool // no tree and no commit
}

// copyAll copies what the steps need and makes the commits they ask for.
func (r *run) copyAll(steps []step) error {
	s, err := r.o.Dest.Begin(r.ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	c := newCopier(r, s)
	for i := range steps {
		c.ignore = steps[i].IgnoreMissing
		id, err := r.carryOut(c, &steps[i])
		if errors.As(err, new(*OrderError)) {
			return err
		} else if err != nil {
			return fmt.Errorf("%v: %w", &steps[i].Order, err)
		}
		out := Outcome{Ref: steps[i].ref, ID: id, Commit: steps[i].commit}
		if steps[i].Method == Append {
			out.Commit = true
		}
		if out.Commit && !id.IsZero() && steps[i].ref != "" {
			commit, err := c.commitOf(id)
			if err != nil {
				return err
			}
			out.Tree = commit.Tree
		}
		r.res.Outcomes = append(r.res.Outcomes, out)
		if steps[i].ref != "" {
			r.note(steps[i].ref, id)
		}
	}
	if err := c.finish(); err != nil {
		return err
	}
	r.res.Objects, r.res.Bytes, r.res.Skipped = c.objects, c.bytes, c.skipped
	return nil
}

// note remembers where a ref is to go.
func (r *run) note(ref string, id pack.ID) {
	if _, ok := r.first[ref]; !ok {
		r.first[ref] = r.tips[ref]
		r.moved = append(r.moved, ref)
	}
	r.tips[ref] = id
}

// carryOut copies what one step needs and returns where its ref goes.
func (r *run) carryOut(c *copier, s *step) (pack.ID, error) {
	switch s.Method {
	case FastForward, NewTag, Replace, Unnamed:
		if s.Method == Replace && !r.tips[s.ref].IsZero() {
			r.lost = append(r.lost, s.ref)
		}
		if s.Method == FastForward {
			if err := r.below(s); err != nil {
				return s.id, err
			}
		}
		return s.id, c.object(s)
	case Append:
		if !s.commit {
			who := repo.Signature{Who: r.o.Who, When: r.o.Now}
			tip := r.tips[s.ref]
			if _, err := c.tree(s.id); err != nil {
				return tip, err
			}
			return c.makeCommit(repo.Commit{Tree: s.id, Author: who, Committer: who, Message: r.o.Message}, tip)
		}
		ids, err := c.history(s.id)
		if err != nil {
			return s.id, err
		}
		tip := r.tips[s.ref]
		for _, id := range slices.Backward(ids) {
			if tip, err = c.pick(id, tip); err != nil {
				return tip, err
			}
		}
		return tip, nil
	default: // Pick, ForcePick
		return c.pick(s.id, r.tips[s.ref])
	}
}

// errFound ends a walk.
var errFound = errors.New("found")

// below makes sure that the destination of a fast-forward is in the history of its
// source.
func (r *run) below(s *step) error {
	tip := r.tips[s.ref]
	if tip.IsZero() {
		return nil
	}
	err := repo.WalkCommits(r.ctx, r.o.Source, s.id, func(id pack.ID, _ *repo.Commit) error {
		if id == tip {
			return errFound
		}
		return nil
	})
	switch err {
	case errFound:
		return nil
	case nil:
		return &OrderError{s.Order, "the destination has saves that the source has not: it is no fast-forward"}
	}
	return err
}

// move moves the refs. If one has gone elsewhere meanwhile the others are moved all the same.
func (r *run) move() error {
	var moves, lost []repo.Move
	for _, ref := range r.moved {
		if r.first[ref] == r.tips[ref] {
			continue
		}
		m := repo.Move{Ref: ref, Old: r.first[ref], New: r.tips[ref], Stats: r.o.Stats}
		m.Stats.Objects, m.Stats.Bytes = r.res.Objects, r.res.Bytes
		moves = append(moves, m)
		if slices.Contains(r.lost, ref) {
			lost = append(lost, m)
		}
	}
	if len(lost) > 0 && r.o.Replacing != nil {
		if err := r.o.Replacing(r.ctx, lost); err != nil {
			return err
		}
	}
	var errs []error
	for _, m := range moves {
		if _, err := r.o.Dest.SetRef(r.ctx, m); err != nil {
			errs = append(errs, err)
			continue
		}
		r.res.Moves = append(r.res.Moves, m)
	}
	return errors.Join(errs...)
}

const (
	heads = "refs/heads/"
	tags  = "refs/tags/"
)

// destination returns the full name of a ref that a path stands for.
func destination(path string) string {
	path = strings.Trim(path, "/")
	if tag, ok := strings.CutPrefix(path, ".tag/"); ok {
		return tags + tag
	}
	return heads + path
}
