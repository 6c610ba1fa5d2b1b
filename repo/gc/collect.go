package gc

import (
	"context"
	"slices"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// collect writes packs anew and retires the old ones.
func (c *collector) collect(ctx context.Context) error {
	old := slices.Concat(c.rewrite, c.drop)
	if len(old) == 0 {
		return nil
	}
	written, err := c.write(ctx, c.rewrite, old)
	if err != nil {
		return err
	}
	return c.u.Decide(ctx, func(live int, relied map[pack.ID]bool) error {
		return c.retire(ctx, old, written, relied, false)
	})
}

// collectNow frees room as it goes: the trash first, then packs with nothing live, then one
// pack after the other, those with dead trees before those of data.
func (c *collector) collectNow(ctx context.Context) error {
	if err := c.empty(ctx); err != nil {
		return err
	}
	slices.SortStableFunc(c.rewrite, func(a, b pack.ID) int {
		return c.use(b).Browse - c.use(a).Browse
	})
	steps := [][]pack.ID{c.drop}
	for _, name := range c.rewrite {
		steps = append(steps, []pack.ID{name})
	}
	var all []repo.PackInfo
	for i, old := range steps {
		if len(old) == 0 {
			continue
		}
		if i > 0 {
			written, err := c.write(ctx, old, old)
			if err != nil {
				return err
			}
			all = append(all, written...)
		}
		err := c.u.Decide(ctx, func(live int, relied map[pack.ID]bool) error {
			if live > 0 {
				return &BusyError{live}
			}
			return c.retire(ctx, old, all, relied, true)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// write copies what is live in packs to new ones, but for what is also in packs that stay.
func (c *collector) write(ctx context.Context, from, old []pack.ID) ([]repo.PackInfo, error) {
	if len(from) == 0 {
		return nil, nil
	}
	gone := make(map[pack.ID]bool)
	for _, name := range old {
		gone[name] = true
	}
	written, err := c.m.Rewrite(ctx, from, func(name pack.ID) bool { return !gone[name] })
	if err != nil {
		return nil, &RefusedError{"a pack cannot be written anew", err}
	}
	c.result.Rewritten += len(from)
	for _, pk := range written {
		c.result.Written += pk.Size
	}
	c.tell()
	return written, nil
}

// retire takes packs away, but for those that somebody relies on, or that refs reach into
// which moved since they were marked.
func (c *collector) retire(ctx context.Context, old []pack.ID, written []repo.PackInfo, relied map[pack.ID]bool, forGood bool) error {
	if err := c.markNews(ctx, written); err != nil {
		return err
	}
	r := repo.Retirement{Closed: c.closed, Delete: forGood}
	for _, name := range old {
		was := c.use(name)
		is, err := c.m.UseOf(ctx, name)
		if err != nil {
			return err
		}
		switch {
		case relied[name] || is.Live != was.Live:
			continue
		case is.Browse > 0 || is.DeadTree || is.Live == 0:
			r.Trees = append(r.Trees, name)
		default:
			r.Data = append(r.Data, name)
		}
		c.result.Retired++
		c.result.RetiredBy += is.Size + is.IdxSize
		if forGood {
			c.result.Deleted++
			c.result.Freed += is.Size + is.IdxSize
		}
	}
	if len(r.Trees)+len(r.Data) == 0 {
		return nil
	}
	if err := c.u.TrimReflogs(ctx, c.m.Has); err != nil {
		return err
	}
	return c.u.Retire(ctx, r)
}

// markNews marks what came since: refs that moved, and packs that sessions published, whose
// refs may not have moved yet.
func (c *collector) markNews(ctx context.Context, written []repo.PackInfo) error {
	if err := c.refs(ctx); err != nil {
		return err
	}
	later, err := c.m.Later(ctx)
	if err != nil {
		return err
	}
	for _, name := range later {
		if slices.ContainsFunc(written, func(pk repo.PackInfo) bool { return pk.Name == name }) {
			continue
		}
		if err := c.m.ReachPack(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
