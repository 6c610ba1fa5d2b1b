package repo

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

// CommitWalker is what a Repo implements that can follow parents by itself, as a
// client of a server does: a branch of ten thousand saves would otherwise take as
// many round trips.
type CommitWalker interface {
	// Commits calls fn for the commit tip and all that it reaches, children before
	// their parents, the latest first by committer date where that leaves a choice.
	Commits(ctx context.Context, tip pack.ID, fn func(id pack.ID, body []byte) error) error
}

// saveLayout names saves, in the time zone of the reader.
const saveLayout = "2006-01-02-150405"

// WalkCommits calls fn for the commit tip and all that it reaches, in the order
// of CommitWalker.
func WalkCommits(ctx context.Context, r Repo, tip pack.ID, fn func(id pack.ID, c *Commit) error) error {
	if w, ok := r.(CommitWalker); ok {
		return w.Commits(ctx, tip, func(id pack.ID, body []byte) error {
			c, err := parseCommitOf(id, body)
			if err != nil {
				return err
			}
			return fn(id, &c)
		})
	}
	w := commitWalk{r: r}
	if err := w.add(ctx, []pack.ID{tip}); err != nil {
		return err
	}
	for len(w.front) > 0 {
		c := w.pop()
		if err := fn(c.id, &c.Commit); err != nil {
			return err
		}
		if err := w.add(ctx, c.Parents); err != nil {
			return err
		}
	}
	return nil
}

// parseCommitOf is ParseCommit with the commit named in the error.
func parseCommitOf(id pack.ID, body []byte) (Commit, error) {
	c, err := ParseCommit(body)
	if corrupt, ok := err.(*pack.CorruptError); ok {
		err = &pack.CorruptError{File: "commit " + id.String(), Off: corrupt.Off, Reason: corrupt.Reason}
	}
	return c, err
}

// commitWalk goes from children to parents. Saves stand in a row, so there is one
// commit in front nearly always, and nothing needs to be remembered of those
// behind; after a merge, made by git, the parents may meet again.
type commitWalk struct {
	r     Repo
	front []walkedCommit // sorted, the next one last
	seen  map[pack.ID]bool
}

type walkedCommit struct {
	id pack.ID
	Commit
}

func (w *commitWalk) pop() walkedCommit {
	c := w.front[len(w.front)-1]
	w.front = w.front[:len(w.front)-1]
	return c
}

// add gets parents that were not seen yet.
func (w *commitWalk) add(ctx context.Context, parents []pack.ID) error {
	if len(parents) > 1 && w.seen == nil {
		w.seen = make(map[pack.ID]bool)
	}
	var ids []pack.ID
	for _, id := range parents {
		if w.seen[id] {
			continue
		}
		if w.seen != nil {
			w.seen[id] = true
		}
		ids = append(ids, id)
	}
	got := make([]walkedCommit, len(ids))
	err := w.r.Get(ctx, ids, func(i int, t pack.Type, body []byte) (err error) {
		if t != pack.Commit {
			return wrongType(ids[i], t, pack.Commit)
		}
		got[i].id = ids[i]
		got[i].Commit, err = parseCommitOf(ids[i], body)
		return err
	})
	for _, c := range got {
		i, _ := slices.BinarySearchFunc(w.front, c, func(a, b walkedCommit) int {
			if a.Committer.When.Before(b.Committer.When) {
				return -1
			}
			return 1 // of equal ones the first found is the next
		})
		w.front = slices.Insert(w.front, i, c)
	}
	return err
}

// branch is the saves of one name, the newest first.
type branch []savedAt

type savedAt struct {
	commit, tree pack.ID
	author       int64 // seconds since the epoch
}

// saveCache remembers branches by their tips.
type saveCache struct {
	mu    sync.Mutex
	known map[pack.ID]branch
}

// maxBranches is how many are remembered. When there are more, all are forgotten.
const maxBranches = 256

// branch returns the saves that a tip reaches.
func (v *VFS) branch(ctx context.Context, tip pack.ID) (branch, error) {
	v.saves.mu.Lock()
	b, ok := v.saves.known[tip]
	v.saves.mu.Unlock()
	if ok {
		return b, nil
	}
	err := WalkCommits(ctx, v.Repo, tip, func(id pack.ID, c *Commit) error {
		b = append(b, savedAt{id, c.Tree, c.Author.When.Unix()})
		return nil
	})
	if err != nil {
		return nil, err
	}
	v.saves.mu.Lock()
	defer v.saves.mu.Unlock()
	if v.saves.known == nil || len(v.saves.known) >= maxBranches {
		v.saves.known = make(map[pack.ID]branch)
	}
	v.saves.known[tip] = b
	return b, nil
}

// name returns the name of save i.
func (b branch) name(i int, zone *time.Location) string {
	want := b.date(i, zone).Format(saveLayout)
	same, before := 0, 0
	for k := range b {
		// Names repeat where seconds do, and where a clock was put back.
		if k == i || b[k].author == b[i].author || b.date(k, zone).Format(saveLayout) == want {
			same++
			if k < i {
				before++
			}
		}
	}
	return numbered(want, before, same)
}

// numbered returns the name of one of n saves with a date, of which before are newer.
func numbered(name string, before, n int) string {
	if n == 1 {
		return name
	}
	width := len(strconv.Itoa(n - 1))
	return fmt.Sprintf("%s-%0*d", name, width, n-1-before)
}

// names returns the names of all saves, the newest first.
func (b branch) names(zone *time.Location) []string {
	out := make([]string, len(b))
	count := make(map[string]int, len(b))
	for i := range b {
		out[i] = b.date(i, zone).Format(saveLayout)
		count[out[i]]++
	}
	before := make(map[string]int)
	for i, name := range out {
		if n := count[name]; n > 1 {
			out[i] = numbered(name, before[name], n)
			before[name]++
		}
	}
	return out
}

func (b branch) date(i int, zone *time.Location) time.Time {
	return time.Unix(b[i].author, 0).In(zone)
}

// node returns save i.
func (b branch) node(i int, name string, zone *time.Location) *Node {
	return &Node{
		Kind:    NodeSave,
		DirItem: DirItem{Name: name, Mode: ModeDir, ID: b[i].tree},
		Commit:  b[i].commit,
		Date:    b.date(i, zone),
	}
}

// save returns a commit as a save.
func (v *VFS) save(ctx context.Context, id pack.ID, name string) (*Node, error) {
	var c Commit
	err := getTyped(ctx, v.Repo, id, pack.Commit, func(body []byte) (err error) {
		c, err = parseCommitOf(id, body)
		return err
	})
	if err != nil {
		return nil, err
	}
	b := branch{{id, c.Tree, c.Author.When.Unix()}}
	return b.node(0, name, v.zone()), nil
}
