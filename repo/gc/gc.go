package gc

import (
	"context"
	"fmt"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const (
	// Grace is how long a retired pack stays in the trash.
	Grace = 72 * time.Hour
	// Young is how long a pack that no ref reaches is left alone.
	Young = 14 * 24 * time.Hour

	shrinkLimit      = 70 // percent of what was live the last time
	defaultThreshold = 10 // percent
)

// Options says how garbage is collected.
type Options struct {
	// Threshold is the percentage of garbage from which a pack of data is written anew; 0: 10.
	Threshold int
	// Yes says that it is right that much less is live than the last time; Now needs it, too.
	Yes bool
	// Now ends all graces and deletes at once. In a repository that bup made it needs Alone, too.
	Now bool
	// Alone says that no bup and no git works on the repository meanwhile: they do not say
	// what they rely on.
	Alone bool
	// Wait is how long to wait for sessions to end; 0: not at all.
	Wait time.Duration
	// DryRun changes nothing.
	DryRun   bool
	Progress func(Result)
}

// Result is what was done so far.
type Result struct {
	Trees     int64 // trees and commits looked at
	Packs     int   // in the repository when it began
	Live      int64 // bytes of entries that are reached
	Dead      int64 // and of those that are not
	Rewritten int   // packs written anew
	Retired   int   // packs taken away
	RetiredBy int64 // their bytes
	Written   int64 // bytes of the new packs
	Deleted   int   // packs deleted from the trash, or at once
	Freed     int64 // their bytes
	Rescued   int   // objects brought back from the trash
	Waiting   int   // packs in the trash
	Lost      []repo.Pruned
}

// BusyError says that sessions live that rely on what would be taken away.
type BusyError struct{ Sessions int }

// Error says what is wrong.
func (e *BusyError) Error() string {
	return fmt.Sprintf("%d sessions are working on the repository: garbage is collected when there are none", e.Sessions)
}

// RefusedError says why garbage is not collected.
type RefusedError struct {
	Reason string
	Err    error // what was met, or nil
}

// Error says why.
func (e *RefusedError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("garbage is not collected: %s: %v", e.Reason, e.Err)
	}
	return "garbage is not collected: " + e.Reason
}

// Unwrap returns what was met.
func (e *RefusedError) Unwrap() error { return e.Err }

type collector struct {
	p   *repo.Packs
	u   *repo.Upkeep
	o   Options
	now time.Time

	m       *repo.Marks
	kept    map[pack.ID]bool // packs with a .keep file
	tips    map[pack.ID]bool // refs that were marked
	uses    []repo.PackUse
	rewrite []pack.ID
	drop    []pack.ID // nothing in them is reached
	result  Result
}

// Run collects garbage.
func Run(ctx context.Context, p *repo.Packs, o Options) (Result, error) {
	if o.Threshold <= 0 {
		o.Threshold = defaultThreshold
	}
	u, err := p.Upkeep(ctx)
	if err != nil {
		return Result{}, err
	}
	defer u.Close()
	c := &collector{p: p, u: u, o: o, kept: make(map[pack.ID]bool), tips: make(map[pack.ID]bool)}
	err = c.run(ctx)
	return c.result, err
}

func (c *collector) run(ctx context.Context) error {
	if err := c.mayRun(ctx); err != nil {
		return err
	}
	m, err := c.p.MarkAll(ctx, true)
	if err != nil {
		return &RefusedError{"a pack cannot be read; kedge fsck says more", err}
	}
	defer m.Close()
	c.m = m
	if err := c.mark(ctx); err != nil {
		return err
	}
	if err := c.plan(ctx); err != nil || c.o.DryRun {
		return err
	}
	if err := c.quiet(ctx); err != nil {
		return err
	}
	rescued := len(m.Rescue())
	if err := m.BringBack(ctx); err != nil {
		return err
	}
	c.result.Rescued = rescued
	if c.o.Now {
		err = c.collectNow(ctx)
	} else {
		err = c.collect(ctx)
	}
	if err == nil && len(m.Rescue()) == rescued {
		err = c.empty(ctx)
	}
	if err == nil {
		err = c.u.NoteLive(ctx, c.result.Live)
	}
	return err
}

// mayRun refuses to work by a clock that is wrong, and to end graces without being told so.
func (c *collector) mayRun(ctx context.Context) (err error) {
	if c.now, err = c.u.Now(ctx); err != nil {
		return err
	}
	clock := c.u.Clock()
	trash, err := c.p.Trash(ctx)
	if err != nil {
		return err
	}
	latest := c.now
	for _, h := range trash {
		if h.Since.After(latest) {
			latest = h.Since
		}
	}
	if ahead := latest.Sub(clock); ahead > time.Hour {
		return &RefusedError{Reason: fmt.Sprintf("the clock says %s, and %s was before", clock.UTC().Format(time.RFC3339), latest.UTC().Format(time.RFC3339))}
	}
	if !c.o.Now {
		return nil
	}
	if c.p.Config().Version == 0 && !c.o.Alone {
		return &RefusedError{Reason: "this repository was made by bup, whose savers do not say what they rely on: " +
			"to delete at once needs the word that none of them is at work (--unsafe)"}
	}
	pruned, err := c.p.Pruned(ctx)
	for _, l := range pruned {
		if c.now.Sub(l.Time) <= repo.UndoTime {
			c.result.Lost = append(c.result.Lost, l)
		}
	}
	if err == nil && !c.o.Yes && !c.o.DryRun {
		err = &RefusedError{Reason: fmt.Sprintf("to delete at once, and to give up %d prunes that could be undone, has to be confirmed (--yes)", len(c.result.Lost))}
	}
	return err
}

// mark marks what stays.
func (c *collector) mark(ctx context.Context) error {
	if err := c.refs(ctx); err != nil {
		return err
	}
	pruned, err := c.p.Pruned(ctx)
	if err != nil {
		return err
	}
	for _, l := range pruned {
		if c.o.Now || c.now.Sub(l.Time) > repo.UndoTime {
			continue
		}
		if err := c.m.ReachWhole(ctx, l.Old); err != nil { // unless it is past undoing
			return err
		}
	}
	packs, err := c.p.PackList(ctx)
	if err != nil {
		return err
	}
	for _, pk := range packs {
		stay, err := c.p.Kept(pk.Name)
		if err != nil {
			return err
		}
		c.kept[pk.Name] = stay
		if !stay && !c.o.Now {
			if stay, err = c.unfinished(ctx, pk.Name); err != nil {
				return err
			}
		}
		if stay {
			if err := c.m.ReachPack(ctx, pk.Name); err != nil {
				return err
			}
		}
		c.tell()
	}
	return nil
}

// refs marks from the refs that were not marked from yet.
func (c *collector) refs(ctx context.Context) error {
	refs, err := c.p.Refs(ctx, "refs/")
	if err != nil {
		return &RefusedError{"a ref cannot be read", err}
	}
	for _, r := range refs {
		if c.tips[r.ID] {
			continue
		}
		if err := c.m.Reach(ctx, r.ID); err != nil {
			if ctx.Err() != nil {
				return err
			}
			return &RefusedError{fmt.Sprintf("not everything that %s reaches can be read; kedge fsck says more", r.Name), err}
		}
		c.tips[r.ID] = true
		c.tell()
	}
	return nil
}

// unfinished reports whether a pack is young and nothing in it is reached: a save that was
// interrupted will go on with it.
func (c *collector) unfinished(ctx context.Context, name pack.ID) (bool, error) {
	at, err := c.p.PackTime(name)
	if err != nil || c.now.Sub(at) > Young {
		return false, err
	}
	u, err := c.m.UseOf(ctx, name)
	return u.Live == 0 && u.Dead > 0, err
}

func (c *collector) tell() {
	c.result.Trees = c.m.Trees()
	if c.o.Progress != nil {
		c.o.Progress(c.result)
	}
}

// quiet waits until no session lives.
func (c *collector) quiet(ctx context.Context) error {
	n, err := c.u.Quiet(ctx, c.o.Wait)
	if err == nil && n > 0 {
		err = &BusyError{n}
	}
	return err
}

// empty deletes from the trash what has been there long enough.
func (c *collector) empty(ctx context.Context) error {
	trash, err := c.p.Trash(ctx)
	if err != nil {
		return err
	}
	var old []pack.ID
	for _, h := range trash {
		if c.o.Now || c.now.Sub(h.Since) >= Grace {
			old = append(old, h.Name)
			c.result.Deleted++
			c.result.Freed += h.Size
		}
	}
	c.result.Waiting = len(trash) - len(old)
	return c.u.EmptyTrash(ctx, old)
}
