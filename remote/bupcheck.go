package remote

import (
	"context"
	"fmt"
	"slices"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Check checks what can be checked from here: bup's server has no command for it and does
// not give packs away. Every idx is fetched, if it is not in the cache, and compared with
// its checksum, which is all that Quick asks for. Then all that the refs reach is fetched
// once and compared with its id. What no ref reaches stays unread, metadata is not looked
// into, and no paths are found for what is damaged.
//
// An object that git on the other side finds damaged itself ends the connection: then
// git's words are in the error.
func (b *bupRepo) Check(ctx context.Context, o repo.CheckOptions, report func(repo.Finding)) (repo.CheckResult, error) {
	c := &bupCheck{b: b, o: o, report: report, extra: make(map[pack.ID]struct{}), hasher: pack.NewHasher()}
	if err := c.indexes(ctx); err != nil || o.Quick {
		return c.res, err
	}
	c.find(repo.Finding{Kind: repo.Note, Reason: b.g.name + " has bup and no kedge: only what saves reach is read"})
	from := c.refs
	if len(o.Names) > 0 {
		from = c.names
	}
	err := from(ctx)
	return c.res, err
}

// bupCheck is one call of Check.
type bupCheck struct {
	b      *bupRepo
	o      repo.CheckOptions
	report func(repo.Finding)
	res    repo.CheckResult
	hasher *pack.Hasher

	idx    []*cachedIdx
	seen   [][]uint64           // of each idx a bit for each object
	extra  map[pack.ID]struct{} // seen, and in no idx
	todo   []pack.ID            // seen, not read yet; the last is the next
	single bool                 // the parents of commits are not asked for
}

func (c *bupCheck) find(f repo.Finding) {
	if f.Damage() {
		c.res.Damage++
	} else {
		c.res.Notes++
	}
	c.report(f)
}

// indexes fetches and compares the idx files.
func (c *bupCheck) indexes(ctx context.Context) error {
	for again := true; again; {
		if err := c.b.do(ctx, c.b.list); err != nil {
			return err
		}
		again = false
		c.idx = c.b.view.Load().idx
		for _, x := range c.idx {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if x.check() != nil { // in the cache, as what comes is checked before
				x.drop()
				again = true
			}
		}
	}
	there := make(map[pack.ID]bool, len(c.idx))
	for _, x := range c.idx {
		there[x.pack.Name] = true
		c.seen = append(c.seen, make([]uint64, (x.idx.Len()+63)/64))
		c.res.Packs++
	}
	for _, id := range c.b.named {
		if !there[id] {
			c.find(repo.Finding{Kind: repo.BadIdx, File: "objects/pack/" + idxName(id), Reason: "as it came it is damaged"})
		}
	}
	c.progress()
	return nil
}

func (c *bupCheck) progress() {
	if c.o.Progress != nil {
		c.o.Progress(c.res)
	}
}

// refs reads all that the refs reach.
func (c *bupCheck) refs(ctx context.Context) error {
	refs, err := c.b.Refs(ctx, "refs/")
	if err != nil {
		return err
	}
	for _, ref := range refs {
		c.reach(ref.ID)
	}
	return c.walk(ctx)
}

// names reads what some saves reach: first those that go on to their parents.
func (c *bupCheck) names(ctx context.Context) error {
	v := &repo.VFS{Repo: c.b, Zone: c.o.Zone}
	var saves []pack.ID
	for _, name := range c.o.Names {
		chain, err := v.Resolve(ctx, name, repo.ResolveOptions{Follow: true})
		if err != nil {
			return err
		}
		switch n := chain[len(chain)-1]; n.Kind {
		case repo.NodeName:
			c.reach(n.Commit)
		case repo.NodeSave:
			saves = append(saves, n.Commit)
		default:
			return &repo.NotFoundError{What: "save", Name: name}
		}
	}
	if err := c.walk(ctx); err != nil {
		return err
	}
	c.single = true
	for _, id := range saves {
		c.reach(id)
	}
	return c.walk(ctx)
}

// reach puts an object among those to be read, unless it was there.
func (c *bupCheck) reach(id pack.ID) {
	for i, x := range c.idx {
		at, ok, err := x.idx.Place(id)
		if err != nil || !ok {
			continue
		}
		if bit := uint64(1) << (at % 64); c.seen[i][at/64]&bit == 0 {
			c.seen[i][at/64] |= bit
			c.todo = append(c.todo, id)
		}
		return
	}
	if _, ok := c.extra[id]; ok {
		return
	}
	c.extra[id] = struct{}{}
	c.todo = append(c.todo, id)
}

// walk reads what is to be read, and what that names.
func (c *bupCheck) walk(ctx context.Context) error {
	for len(c.todo) > 0 {
		var got []bupObject
		err := c.b.do(ctx, func() (err error) {
			ids := c.todo[max(0, len(c.todo)-c.b.atOnce()):]
			got, err = c.b.catBatch(ids)
			return err
		})
		if err != nil {
			return err
		}
		at := len(c.todo) - len(got)
		ids := slices.Clone(c.todo[at:])
		c.todo = c.todo[:at]
		for i := range got {
			c.object(ids[i], &got[i])
		}
		c.progress()
	}
	return nil
}

// object looks at one object.
func (c *bupCheck) object(id pack.ID, o *bupObject) {
	if o.none {
		c.find(repo.Finding{Kind: repo.Missing, Object: id, Reason: "it is not there"})
		return
	}
	c.res.Objects++
	c.res.Bytes += int64(len(o.body))
	if sum, err := c.hasher.Sum(o.t, o.body); err != nil || sum != id {
		c.find(repo.Finding{Kind: repo.BadObject, Object: id, Reason: fmt.Sprintf("as it came it is %v %v", o.t, sum)})
		return
	}
	if o.t == pack.Blob {
		return
	}
	if o.t == pack.Tree {
		c.res.Trees++
	}
	kids, err := below(o.t, o.body)
	if err != nil {
		c.find(repo.Finding{Kind: repo.BadTree, Object: id, Reason: err.Error()})
		return
	}
	if o.t == pack.Commit && c.single { // the tree is the last
		kids = kids[len(kids)-1:]
	}
	for _, kid := range kids {
		c.reach(kid)
	}
}
