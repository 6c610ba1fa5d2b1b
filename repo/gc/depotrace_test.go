package gc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/gc"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// schedule runs actors one at a time, and another one than before only where they call pause.
// Which it is to be says plan, one actor for each pause of anybody; when the plan is at its end,
// who is running goes on as long as it can.
type schedule struct {
	plan   []int
	events chan event
	resume []chan struct{}
	locks  []sync.Mutex // an actor may have goroutines

	trace []choice // what was chosen
}

type event struct {
	actor int
	done  bool
}

type choice struct {
	from   []int // who could go on
	last   int   // who was running; -1: nobody
	chosen int
}

// preempts reports whether somebody was stopped who could have gone on.
func (c choice) preempts(actor int) bool { return actor != c.last && slices.Contains(c.from, c.last) }

// pause lets others go on.
func (s *schedule) pause(actor int) {
	s.locks[actor].Lock()
	defer s.locks[actor].Unlock()
	s.events <- event{actor, false}
	<-s.resume[actor]
}

// run runs the actors to their ends.
func (s *schedule) run(actors []func()) {
	s.events = make(chan event)
	s.resume = make([]chan struct{}, len(actors))
	s.locks = make([]sync.Mutex, len(actors))
	var ready []int
	for i, actor := range actors {
		s.resume[i] = make(chan struct{})
		ready = append(ready, i)
		go func() {
			<-s.resume[i]
			actor()
			s.events <- event{i, true}
		}()
	}
	for last := -1; len(ready) > 0; {
		c := choice{slices.Clone(ready), last, ready[0]}
		if slices.Contains(ready, last) {
			c.chosen = last
		}
		if n := len(s.trace); n < len(s.plan) && slices.Contains(ready, s.plan[n]) {
			c.chosen = s.plan[n]
		}
		s.trace = append(s.trace, c)
		last = c.chosen
		s.resume[last] <- struct{}{}
		if e := <-s.events; e.done {
			ready = slices.DeleteFunc(ready, func(i int) bool { return i == e.actor })
		}
	}
}

// explore calls try with every plan that stops somebody who could go on at most bound times. Try
// returns what was chosen. Actors that are done or not begun are no stops, so all orders are
// among them.
func explore(bound int, try func(plan []int) []choice) (n int) {
	todo := [][]int{nil}
	for len(todo) > 0 {
		plan := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		trace := try(plan)
		n++
		var chosen []int
		stops := 0
		for i, c := range trace {
			for _, other := range c.from {
				more := stops
				if c.preempts(other) {
					more++
				}
				if i >= len(plan) && other != c.chosen && more <= bound {
					todo = append(todo, append(slices.Clone(chosen), other))
				}
			}
			if c.preempts(c.chosen) {
				stops++
			}
			chosen = append(chosen, c.chosen)
		}
	}
	return n
}

// party is savers and a collector, each at a desk of its own, over one depot.
type party struct {
	t     *testing.T
	d     *repotest.Depot
	desks []string

	old, kept, fresh repotest.Save
	acknowledged     map[string][]pack.ID // trees, by refs
	collections      int                  // that were not in vain
}

// unsynced is a file system without fsync, which these tests are not about.
var unsynced = &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
	if op.Kind == fsx.KindSync || op.Kind == fsx.KindSyncDir {
		return nil
	}
	return do()
}}

// newParty makes a depot with a save that all of a pack is garbage of, and one of which half is.
func newParty(t *testing.T) *party {
	t.Helper()
	d, err := repotest.NewDepot(repo.InitOptions{})
	check(t, err)
	p := &party{
		t: t, d: d, old: repotest.NewSave("old", 8), kept: repotest.NewSave("kept", 8), fresh: repotest.NewSave("fresh", 8),
		acknowledged: make(map[string][]pack.ID),
	}
	for range 4 {
		p.desks = append(p.desks, t.TempDir())
	}
	r := p.open(3, nil)
	defer r.Close()
	check(t, repotest.Store(t.Context(), r, p.old, p.kept))
	for ref, s := range map[string]repotest.Save{"refs/heads/old": p.old, "refs/heads/kept": p.kept} {
		_, err := r.SetRef(t.Context(), repo.Move{Ref: ref, New: s.Commit})
		check(t, err)
	}
	_, err = r.SetRef(t.Context(), repo.Move{Ref: "refs/heads/old", Old: p.old.Commit})
	check(t, err)
	return p
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (p *party) open(i int, pause func(string) error) *repo.Packs {
	p.t.Helper()
	r, err := p.tryOpen(i, pause)
	check(p.t, err)
	return r
}

func (p *party) tryOpen(i int, pause func(string) error) (*repo.Packs, error) {
	if pause == nil {
		pause = func(string) error { return nil }
	}
	return repo.OpenDepot(context.Background(), p.desks[i], p.d.Seat(pause), repo.DirOptions{FS: unsynced})
}

// act is one run of an actor: two that save, and one that collects garbage.
func (p *party) act(i int, pause func(string) error) error {
	ctx := context.Background()
	r, err := p.tryOpen(i, pause)
	if err != nil {
		return err
	}
	defer r.Close()
	save := func(ref string, s repotest.Save) error {
		err := repotest.Store(ctx, r, s)
		if err == nil {
			_, err = r.SetRef(ctx, repo.Move{Ref: ref, New: s.Commit, Reparent: true})
		}
		if err == nil {
			p.acknowledged[ref] = append(p.acknowledged[ref], s.Tree)
		}
		return err
	}
	switch i {
	case 0: // rests on what is about to go
		return save("refs/heads/etc", p.old)
	case 1: // on that and on what stays, and races for the name
		if err := save("refs/heads/etc", p.fresh); err != nil {
			return err
		}
		return save("refs/heads/again", p.old)
	}
	result, err := gc.Run(ctx, r, gc.Options{Yes: true})
	if err == nil && result.Retired > 0 {
		p.collections++
	}
	return err
}

// named reports whether an error is one that says what to do.
func named(err error) bool {
	return errors.As(err, new(*repo.MissingError)) || errors.As(err, new(*repo.BusyError)) || errors.As(err, new(*repo.RefChangedError)) ||
		errors.Is(err, errCut)
}

var errCut = errors.New("the line is cut")

// whole fails if a ref leads to what is missing, or has lost a save that was acknowledged.
func (p *party) whole() error {
	ctx := context.Background()
	r, err := repo.OpenDepot(ctx, p.t.TempDir(), p.d, repo.DirOptions{FS: unsynced})
	if err != nil {
		return err
	}
	defer r.Close()
	refs, err := r.Refs(ctx, "refs/")
	if err != nil {
		return err
	}
	trees := make(map[string][]pack.ID)
	for _, ref := range refs {
		err := repo.WalkCommits(ctx, r, ref.ID, func(id pack.ID, c *repo.Commit) error {
			trees[ref.Name] = append(trees[ref.Name], c.Tree)
			ids := []pack.ID{id, c.Tree}
			err := repo.ReadDir(ctx, r, c.Tree, func(item *repo.DirItem) error {
				ids = append(ids, item.ID)
				return nil
			})
			return errors.Join(err, repotest.Check(ctx, r, ids))
		})
		if err != nil {
			return fmt.Errorf("%s: %w", ref.Name, err)
		}
	}
	for ref, want := range p.acknowledged {
		for _, tree := range want {
			if !slices.Contains(trees[ref], tree) {
				return fmt.Errorf("%s lost a save that was acknowledged", ref)
			}
		}
	}
	if !slices.Contains(trees["refs/heads/kept"], p.kept.Tree) {
		return errors.New("a save that nobody touched is gone")
	}
	return r.Receipts(ctx, func(repo.Receipt) error { return nil })
}

// try runs all of them by a plan. Cut, if it is not negative, is the step of the actor cut that
// fails.
func (p *party) try(plan []int, cutter, cut int) []choice {
	s := &schedule{plan: plan}
	errs := make([]error, 3)
	steps := make([]int, 3)
	var actors []func()
	for i := range errs {
		actors = append(actors, func() {
			errs[i] = p.act(i, func(string) error {
				s.pause(i)
				steps[i]++
				if i == cutter && steps[i] > cut {
					return errCut
				}
				return nil
			})
		})
	}
	s.run(actors)
	fail := func(what string, err error) {
		var order []int
		for _, c := range s.trace {
			order = append(order, c.chosen)
		}
		p.t.Errorf("%s: %v\nin the order %v, %d fails after %d steps", what, err, order, cutter, cut)
	}
	for i, err := range errs {
		if err != nil && !named(err) {
			fail(fmt.Sprint("actor ", i), err)
		}
	}
	if err := p.whole(); err != nil {
		fail("after all", err)
	}
	for i, err := range errs {
		if err == nil {
			continue
		}
		if err := p.act(i, nil); err != nil {
			fail(fmt.Sprintf("actor %d runs again", i), err)
		}
	}
	if err := p.whole(); err != nil {
		fail("after those that failed ran again", err)
	}
	return s.trace
}

// Two savers and a collector take turns at every step that each makes in the depot: in all
// orders, and with a stop amid what somebody does (two in a full sweep: 2385 orders).
func TestDepotInterleaved(t *testing.T) {
	bound := 1
	if os.Getenv("KEDGE_SWEEP") == "full" {
		bound = 2
	}
	failed, collected := 0, 0
	n := explore(bound, func(plan []int) (trace []choice) {
		t.Run("", func(t *testing.T) { // its directories go with it
			p := newParty(t)
			trace = p.try(plan, -1, 0)
			collected += p.collections
		})
		if t.Failed() {
			failed++
		}
		if failed > 3 {
			t.FailNow()
		}
		return trace
	})
	t.Logf("%d orders, in %d of them garbage was collected", n, collected)
	if n < 100 || collected < n/2 {
		t.Errorf("only %d orders, and %d collections", n, collected)
	}
}

// One of them is cut off at each of its steps for good, in all orders: the others go on, and so
// does it when it runs again.
func TestDepotInterleavedCut(t *testing.T) {
	for cutter := range 3 {
		for _, first := range [][]int{{0}, {1}, {2}} {
			for cut := 0; ; cut++ {
				done := false
				t.Run("", func(t *testing.T) {
					trace := newParty(t).try(first, cutter, cut)
					mine := 0
					for _, c := range trace {
						if c.chosen == cutter {
							mine++
						}
					}
					done = mine <= cut
				})
				if done || t.Failed() {
					break
				}
			}
		}
	}
}
