package get

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const (
	groupMax    = 256       // trees that are read together
	arenaMax    = 16 << 20  // bytes of entries that wait to be compared and added
	commitEvery = 256 << 20 // bytes after which what was copied is made durable
)

// copier copies objects into a session.
type copier struct {
	r      *run
	ctx    context.Context
	s      repo.Session
	src    *reader
	enc    *pack.Encoder
	ignore bool // pass over what the source lacks
	made   map[pack.ID]repo.Commit
	names  []string // that git fsck is to accept
	start  time.Time

	objects, bytes, skipped int64
	since                   int64 // bytes since the last Commit
}

func newCopier(r *run, s repo.Session) *copier {
	return &copier{r: r, ctx: r.ctx, s: s, src: newReader(r.o), enc: pack.NewEncoder(r.o.Level),
		made: make(map[pack.ID]repo.Commit), start: time.Now()}
}

// missing returns those ids that the destination lacks.
func (c *copier) missing(ids ...pack.ID) ([]pack.ID, error) {
	return c.s.Missing(c.ctx, nil, ids)
}

// object copies what a step names, whatever it is, with all below it.
func (c *copier) object(s *step) error {
	_, err := c.any(s.id)
	return err
}

// any copies an object of any type. Like all that copies, it reports whether the object
// is in the destination then: it is not if IgnoreMissing passed over it.
func (c *copier) any(id pack.ID) (whole bool, err error) {
	gone, err := c.missing(id)
	if err != nil || len(gone) == 0 {
		return err == nil, err
	}
	got, err := c.read([]pack.ID{id})
	if err != nil || len(got) == 0 {
		return false, err
	}
	switch o := got[0]; o.kind {
	case pack.Commit:
		return c.commits(id)
	case pack.Tree:
		return c.tree(id)
	case pack.Tag:
		line, _, _ := strings.Cut(string(o.body), "\n")
		to, err := pack.ParseID(strings.TrimPrefix(line, "object "))
		if err != nil {
			return false, &pack.CorruptError{File: "tag " + id.String(), Off: 0, Reason: "tag without an object"}
		}
		if whole, err := c.any(to); err != nil || !whole {
			return whole, err
		}
		return true, c.add(repo.Trees, got)
	default:
		return true, c.add(repo.Data, got)
	}
}

// history returns the commits that a tip reaches, children before their parents.
func (c *copier) history(tip pack.ID) (ids []pack.ID, err error) {
	err = repo.WalkCommits(c.ctx, c.r.o.Source, tip, func(id pack.ID, _ *repo.Commit) error {
		ids = append(ids, id)
		return nil
	})
	return ids, err
}

// commits copies a commit with its history, the oldest first.
func (c *copier) commits(tip pack.ID) (whole bool, err error) {
	ids, err := c.history(tip)
	if err != nil {
		if m := new(repo.MissingError); c.ignore && errors.As(err, &m) {
			c.skip(m.ID)
			return false, nil // without its beginning a history is not whole
		}
		return false, err
	}
	gone, err := c.missing(ids...)
	if err != nil {
		return false, err
	}
	for i := len(gone) - 1; i >= 0; i-- {
		commit, err := c.commitOf(gone[i])
		if err != nil {
			return false, err
		}
		if whole, err := c.tree(commit.Tree); err != nil || !whole {
			return false, err
		}
		got, err := c.read(gone[i : i+1])
		if err != nil || len(got) == 0 {
			return false, err
		}
		if err := c.add(repo.Trees, got); err != nil {
			return false, err
		}
	}
	return true, nil
}

// commitOf reads a commit of the source, or one that was made here.
func (c *copier) commitOf(id pack.ID) (commit repo.Commit, err error) {
	if commit, ok := c.made[id]; ok {
		return commit, nil
	}
	err = c.r.o.Source.Get(c.ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
		if t != pack.Commit {
			return &pack.CorruptError{File: "object " + id.String(), Off: -1, Reason: fmt.Sprintf("a %v stands where a commit must be", t)}
		}
		commit, err = repo.ParseCommit(body)
		return err
	})
	return commit, err
}

// pick puts a copy of a commit on top of another one (zero: of nothing).
func (c *copier) pick(id, on pack.ID) (pack.ID, error) {
	commit, err := c.commitOf(id)
	if err != nil {
		return on, err
	}
	if _, err := c.tree(commit.Tree); err != nil {
		return on, err
	}
	commit.Extra = ""
	commit.Committer = repo.Signature{Who: c.r.o.Who, When: c.r.o.Now}
	return c.makeCommit(commit, on)
}

// makeCommit stores a commit on top of another one.
func (c *copier) makeCommit(commit repo.Commit, on pack.ID) (pack.ID, error) {
	if commit.Parents = nil; !on.IsZero() {
		commit.Parents = []pack.ID{on}
	}
	if err := commit.Check(); err != nil {
		return on, err
	}
	body := commit.Append(nil)
	id := pack.Sum(pack.Commit, body)
	entry, crc := c.enc.Append(nil, pack.Commit, body)
	c.made[id] = commit
	return id, c.s.Add(c.ctx, repo.Trees, []pack.Entry{{ID: id, CRC: crc, Bytes: entry}})
}

// read reads a few objects. Those that IgnoreMissing passes over are left out.
func (c *copier) read(ids []pack.ID) (got []object, err error) {
	err = c.src.each(c.ctx, ids, func(list []object) error {
		for _, o := range list {
			got = append(got, o.clone())
		}
		return nil
	}, c.gone)
	return got, err
}

// gone is called for an object that the source lacks.
func (c *copier) gone(id pack.ID) error {
	if !c.ignore {
		return &repo.MissingError{ID: id}
	}
	c.skip(id)
	return nil
}

func (c *copier) skip(id pack.ID) {
	c.skipped++
	if c.r.o.Skipped != nil {
		c.r.o.Skipped(id)
	}
}

// add adds objects of which all below is there.
func (c *copier) add(class repo.Class, list []object) error {
	if len(list) == 0 {
		return nil
	}
	entries := make([]pack.Entry, len(list))
	n := int64(0)
	for i, o := range list {
		entries[i] = pack.Entry{ID: o.id, CRC: o.crc, Bytes: o.entry}
		n += int64(len(o.entry))
	}
	if err := c.s.Add(c.ctx, class, entries); err != nil {
		return err
	}
	c.objects += int64(len(list))
	c.bytes += n
	c.since += n
	if c.r.o.Progress != nil {
		c.r.o.Progress(c.objects, c.bytes)
	}
	if err := c.slow(); err != nil {
		return err
	}
	if c.since < commitEvery {
		return nil
	}
	c.since = 0
	return c.s.Commit(c.ctx)
}

// slow waits as long as the limit of bytes in a second asks for.
func (c *copier) slow() error {
	if c.r.o.BytesPerSecond <= 0 {
		return nil
	}
	due := time.Duration(float64(c.bytes) / float64(c.r.o.BytesPerSecond) * float64(time.Second))
	t := time.NewTimer(due - time.Since(c.start))
	defer t.Stop()
	select {
	case <-c.ctx.Done():
		return c.ctx.Err()
	case <-t.C:
		return nil
	}
}

// finish makes all that was added durable.
func (c *copier) finish() error {
	if a, ok := c.r.o.Dest.(repo.NameAllower); ok && len(c.names) > 0 {
		if err := a.AllowNames(c.ctx, c.names); err != nil {
			return err
		}
	}
	return c.s.Commit(c.ctx)
}
