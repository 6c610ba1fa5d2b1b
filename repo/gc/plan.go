package gc

import (
	"context"
	"fmt"
	"math/bits"
	"slices"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const (
	small    = 64 << 20 // bytes; larger packs are not merged
	perClass = 8        // small packs in one class of size that are left alone
)

// sizeClass puts packs in classes by powers of eight.
func sizeClass(size int64) int { return bits.Len64(uint64(size)) / 3 }

// plan decides which packs are written anew and which dropped.
func (c *collector) plan(ctx context.Context) (err error) {
	if c.uses, err = c.m.Use(ctx); err != nil {
		return err
	}
	c.result.Packs = len(c.uses)
	for _, u := range c.uses {
		c.result.Live += u.LiveBytes
		c.result.Dead += u.DeadBytes
	}
	last, err := c.u.LastLive(ctx)
	if err != nil {
		return err
	}
	if !c.o.Yes && c.result.Live < last/100*shrinkLimit {
		return &RefusedError{Reason: fmt.Sprintf("%d bytes are live, and %d were the last time; if that is right, say so (--yes)", c.result.Live, last)}
	}
	c.rewrite, c.drop = choose(c.uses, c.kept, c.o.Threshold, !c.o.Now)
	return nil
}

// choose decides which packs are written anew and which dropped; merge says that many small
// ones are a reason.
func choose(uses []repo.PackUse, kept map[pack.ID]bool, threshold int, merge bool) (rewrite, drop []pack.ID) {
	type class struct {
		browse bool
		size   int
	}
	few := make(map[class][]pack.ID)
	for _, u := range uses {
		switch {
		case kept[u.Name]:
		case u.Live == 0 && u.Dead > 0:
			drop = append(drop, u.Name)
		case u.DeadTree, u.Dead > 0 && u.DeadBytes*100 >= u.Size*int64(threshold):
			rewrite = append(rewrite, u.Name)
		case u.Size < small && (u.Browse == 0 || u.Browse == u.Live):
			k := class{u.Browse > 0, sizeClass(u.Size)}
			few[k] = append(few[k], u.Name)
		}
	}
	for _, names := range few {
		if merge && len(names) > perClass {
			rewrite = append(rewrite, names...)
		}
	}
	slices.SortFunc(rewrite, pack.ID.Compare)
	return rewrite, drop
}

// use returns what was found of a pack, nil if it came later.
func (c *collector) use(name pack.ID) *repo.PackUse {
	i := slices.IndexFunc(c.uses, func(u repo.PackUse) bool { return u.Name == name })
	if i < 0 {
		return nil
	}
	return &c.uses[i]
}

// closed reports whether a pack that stays names nothing that is gone (I9).
func (c *collector) closed(name pack.ID) bool {
	u := c.use(name)
	if u == nil {
		return true // it came later, and all below it was marked
	}
	return u.Dead == 0 || !u.DeadTree && u.DeadBytes < u.Size/10
}
