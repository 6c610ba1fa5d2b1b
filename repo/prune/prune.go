package prune

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const (
	heads = "refs/heads/"
	tags  = "refs/tags/"
)

// Plan is what a prune of one name will do.
type Plan struct {
	Ref   string  // "refs/heads/etc"
	Tip   pack.ID // where it was
	Saves []Save  // the newest first
	Tags  []repo.Ref
}

// NewPlan reads the saves of a name. All are to be left out until Rules.Apply, or the
// caller, says why one is kept. A history with merges, which git can make and kedge does
// not, is refused.
func NewPlan(ctx context.Context, p *repo.Packs, name string, zone *time.Location) (*Plan, error) {
	plan := &Plan{Ref: heads + name}
	refs, err := p.Refs(ctx, "refs/")
	if err != nil {
		return nil, err
	}
	byID := make(map[pack.ID][]string)
	for _, r := range refs {
		if r.Name == plan.Ref {
			plan.Tip = r.ID
		}
		if tag, ok := strings.CutPrefix(r.Name, tags); ok {
			byID[r.ID] = append(byID[r.ID], tag)
		}
	}
	if plan.Tip.IsZero() {
		return nil, &repo.NotFoundError{What: "name", Name: name}
	}
	times, err := p.SaveTimes(ctx, plan.Ref)
	if err != nil {
		return nil, err
	}
	pins, err := p.Pins(ctx)
	if err != nil {
		return nil, err
	}
	err = repo.WalkCommits(ctx, p, plan.Tip, func(id pack.ID, c *repo.Commit) error {
		if len(c.Parents) > 1 {
			return fmt.Errorf("%s: commit %v has %d parents: a history with merges cannot be pruned", name, id, len(c.Parents))
		}
		at, err := times.Time(ctx, id, c)
		if err != nil {
			return err
		}
		pin := repo.PinOf(plan.Ref, c)
		s := Save{ID: id, Commit: *c, Time: at, Tags: byID[id], Partly: unreadable(c.Message) > 0}
		s.Pinned = slices.ContainsFunc(pins, pin.Same)
		for _, tag := range s.Tags {
			plan.Tags = append(plan.Tags, repo.Ref{Name: tags + tag, ID: id})
		}
		plan.Saves = append(plan.Saves, s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return plan, plan.name(ctx, p, name, zone)
}

// name gives saves the names under which they are listed.
func (pl *Plan) name(ctx context.Context, p *repo.Packs, name string, zone *time.Location) error {
	v := &repo.VFS{Repo: p, Zone: zone}
	chain, err := v.Resolve(ctx, name, repo.ResolveOptions{Follow: true})
	if err != nil {
		return err
	}
	byID := make(map[pack.ID]string)
	err = v.ReadDir(ctx, &chain[len(chain)-1], false, func(n *repo.Node) error {
		if n.Kind == repo.NodeSave {
			byID[n.Commit] = n.Name
		}
		return nil
	})
	for i := range pl.Saves {
		pl.Saves[i].Name = byID[pl.Saves[i].ID]
	}
	return err
}

// unreadable returns how many files a save could not read, as its message says.
func unreadable(message string) int64 {
	for line := range strings.Lines(message) {
		if v, ok := strings.CutPrefix(line, "Kedge-Unreadable: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// Removed returns how many saves will be left out.
func (pl *Plan) Removed() (n int) {
	for i := range pl.Saves {
		if !pl.Saves[i].Kept() {
			n++
		}
	}
	return n
}

// Apply writes the history of the saves that are kept anew and moves the ref and the tags
// to it:
//
//	publish the new commits, kedge/pruned, refs/heads/NAME, refs/tags/...
//
// A ref that has moved since the plan was made is a *repo.RefChangedError, and nothing is
// changed. If no save is kept the ref is deleted. It returns the new tip.
func (pl *Plan) Apply(ctx context.Context, p *repo.Packs, u *repo.Upkeep, who string) (pack.ID, error) {
	if pl.Removed() == 0 {
		return pl.Tip, nil
	}
	now := make(map[pack.ID]pack.ID) // the new id of each commit that is kept
	tip, err := rewrite(ctx, p, pl.kept(), pack.ID{}, now)
	if err != nil {
		return tip, err
	}
	moves := []repo.Move{{Ref: pl.Ref, Old: pl.Tip, New: tip}}
	for _, tag := range pl.Tags {
		if to := now[tag.ID]; !to.IsZero() && to != tag.ID {
			moves = append(moves, repo.Move{Ref: tag.Name, Old: tag.ID, New: to})
		}
	}
	return tip, move(ctx, p, u, who, moves)
}

// kept returns the saves that are kept, the oldest first.
func (pl *Plan) kept() []Save {
	list := slices.DeleteFunc(slices.Clone(pl.Saves), func(s Save) bool { return !s.Kept() })
	slices.Reverse(list)
	return list
}

// rewrite puts saves, the oldest first, on top of a commit (zero: of nothing), and returns
// the last one. Those whose parents are right already stay as they are. A signature in a
// header would not fit other parents and is left off.
func rewrite(ctx context.Context, p *repo.Packs, saves []Save, on pack.ID, now map[pack.ID]pack.ID) (pack.ID, error) {
	s, err := p.Begin(ctx)
	if err != nil {
		return on, err
	}
	defer s.Close()
	enc := pack.NewEncoder(1)
	for _, save := range saves {
		c := save.Commit
		var parents []pack.ID
		if !on.IsZero() {
			parents = []pack.ID{on}
		}
		if slices.Equal(parents, c.Parents) {
			on = save.ID
			now[save.ID] = on
			continue
		}
		c.Parents, c.Extra = parents, ""
		body := c.Append(nil)
		on = pack.Sum(pack.Commit, body)
		entry, crc := enc.Append(nil, pack.Commit, body)
		if err := s.Add(ctx, repo.Trees, []pack.Entry{{ID: on, CRC: crc, Bytes: entry}}); err != nil {
			return on, err
		}
		now[save.ID] = on
	}
	return on, s.Commit(ctx)
}

// move notes moves in kedge/pruned and makes them, the name itself first.
func move(ctx context.Context, p *repo.Packs, u *repo.Upkeep, who string, moves []repo.Move) error {
	var notes []repo.Pruned
	for _, m := range moves {
		notes = append(notes, repo.Pruned{Ref: m.Ref, Old: m.Old, New: m.New})
	}
	if err := u.NotePruned(ctx, notes...); err != nil {
		return err
	}
	for _, m := range moves {
		m.Stats.Principal = who
		if _, err := p.SetRef(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// ErrNothingToUndo says that no prune of a name is remembered that its ref came from.
var ErrNothingToUndo = errors.New("nothing to undo: no prune of the last 14 days led to where it is")

// ErrCollected says that gc has taken what a prune left out, as gc --now does. That is no damage.
var ErrCollected = errors.New("nothing to undo: what was left out has been collected since")

// Undo brings back what the last prune of a name left out, with the saves made since on
// top, and returns how many saves came back. Tags that had followed go back, too.
func Undo(ctx context.Context, p *repo.Packs, u *repo.Upkeep, name string, who string) (int, error) {
	ref := heads + name
	tip, err := tipOf(ctx, p, ref)
	if err != nil {
		return 0, err
	}
	done, err := p.Pruned(ctx)
	if err != nil {
		return 0, err
	}
	now, err := u.Now(ctx)
	if err != nil {
		return 0, err
	}
	for i := len(done) - 1; i >= 0; i-- {
		l := done[i]
		if l.Ref != ref || now.Sub(l.Time) > repo.UndoTime {
			continue
		}
		since, ok, err := savesSince(ctx, p, tip, l.New)
		if err != nil {
			return 0, err
		}
		if !ok {
			continue
		}
		if lacks, err := p.Missing(ctx, nil, []pack.ID{l.Old}); err != nil {
			return 0, err
		} else if len(lacks) > 0 {
			return 0, fmt.Errorf("%s: %w", name, ErrCollected)
		}
		return undo(ctx, p, l, done[i+1:], tip, since, who)
	}
	return 0, fmt.Errorf("%s: %w", name, ErrNothingToUndo)
}

// undo goes back to where a ref was before a prune; later are the lines after that.
func undo(ctx context.Context, p *repo.Packs, l repo.Pruned, later []repo.Pruned, tip pack.ID, since []Save, who string) (int, error) {
	before, err := count(ctx, p, tip)
	if err != nil {
		return 0, err
	}
	now := make(map[pack.ID]pack.ID)
	to, err := rewrite(ctx, p, since, l.Old, now)
	if err != nil {
		return 0, err
	}
	after, err := count(ctx, p, to)
	if err != nil {
		return 0, err
	}
	stats := repo.MoveStats{Principal: who}
	if _, err := p.SetRef(ctx, repo.Move{Ref: l.Ref, Old: tip, New: to, Stats: stats}); err != nil {
		return 0, err
	}
	for _, t := range later {
		if !strings.HasPrefix(t.Ref, tags) || !t.Time.Equal(l.Time) {
			break
		}
		_, err := p.SetRef(ctx, repo.Move{Ref: t.Ref, Old: t.New, New: t.Old, Stats: stats})
		if err != nil && !errors.As(err, new(*repo.RefChangedError)) { // moved by hand since
			return 0, err
		}
	}
	return after - before, nil
}

// tipOf returns where a ref is, zero if there is none.
func tipOf(ctx context.Context, p *repo.Packs, ref string) (pack.ID, error) {
	refs, err := p.Refs(ctx, ref)
	for _, r := range refs {
		if r.Name == ref {
			return r.ID, err
		}
	}
	return pack.ID{}, err
}

// errFound ends a walk.
var errFound = errors.New("found")

// savesSince returns the commits from base (not included) to tip, the oldest first; ok says
// that tip reaches base.
func savesSince(ctx context.Context, p *repo.Packs, tip, base pack.ID) (list []Save, ok bool, err error) {
	if tip.IsZero() {
		return nil, base.IsZero(), nil
	}
	err = repo.WalkCommits(ctx, p, tip, func(id pack.ID, c *repo.Commit) error {
		if id == base {
			return errFound
		}
		list = append(list, Save{ID: id, Commit: *c})
		return nil
	})
	ok = err == errFound || base.IsZero() && err == nil
	if err == errFound {
		err = nil
	}
	slices.Reverse(list)
	return list, ok, err
}

// count returns how many commits a tip reaches.
func count(ctx context.Context, p *repo.Packs, tip pack.ID) (n int, err error) {
	if tip.IsZero() {
		return 0, nil
	}
	err = repo.WalkCommits(ctx, p, tip, func(pack.ID, *repo.Commit) error {
		n++
		return nil
	})
	return n, err
}

// Freed returns how many bytes of packs only those saves reach that plans leave out.
func Freed(ctx context.Context, p *repo.Packs, plans []*Plan) (int64, error) {
	m, err := p.MarkAll(ctx, false)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	planned := make(map[string]bool)
	var stay, kept []pack.ID
	for _, pl := range plans {
		planned[pl.Ref] = true
		for _, s := range pl.Saves {
			if s.Kept() {
				stay, kept = append(stay, s.Commit.Tree), append(kept, s.ID)
			}
		}
		for _, t := range pl.Tags {
			planned[t.Name] = slices.Contains(kept, t.ID) // it will follow its save
		}
	}
	refs, err := p.Refs(ctx, "refs/")
	if err != nil {
		return 0, err
	}
	for _, r := range refs {
		if !planned[r.Name] {
			stay = append(stay, r.ID)
		}
	}
	if err := m.Reach(ctx, stay...); err != nil {
		return 0, err
	}
	if err := m.Have(kept...); err != nil {
		return 0, err
	}
	before, err := m.Bytes(ctx)
	if err != nil {
		return 0, err
	}
	for _, pl := range plans {
		for _, s := range pl.Saves {
			if err := m.Reach(ctx, s.ID, s.Commit.Tree); err != nil {
				return 0, err
			}
		}
	}
	after, err := m.Bytes(ctx)
	return after - before, err
}

// MatchNames returns the names of a repository that match any of the patterns (path.Match,
// a pattern that is a name stands for it, and "*" for all), in order.
func MatchNames(ctx context.Context, p *repo.Packs, patterns []string) ([]string, error) {
	refs, err := p.Refs(ctx, heads)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range refs {
		name := strings.TrimPrefix(r.Name, heads)
		for _, pattern := range patterns {
			ok, err := path.Match(pattern, name)
			if err != nil {
				return nil, fmt.Errorf("pattern %q: %w", pattern, err)
			}
			if ok || pattern == name || pattern == "*" {
				names = append(names, name)
				break
			}
		}
	}
	return names, nil
}
