package repo

import (
	"context"
	"fmt"

	"github.com/kedgebackup/kedge/pack"
)

// BrokenLinks calls fn for each child of an object in a pack that is in none itself. All
// packs are read from front to end. It asks less than Check: whether what is there is
// what its id says is not looked at, and one that cannot be read is an error.
func (p *Packs) BrokenLinks(ctx context.Context, fn func(parent, child pack.ID) error) error {
	if err := p.refresh(ctx); err != nil {
		return err
	}
	t := p.table.Load()
	for _, f := range t.packs {
		if err := p.brokenIn(ctx, t, f, fn); err != nil {
			return err
		}
	}
	return nil
}

// brokenIn is BrokenLinks for one pack.
func (p *Packs) brokenIn(ctx context.Context, t *table, f *packFile, fn func(parent, child pack.ID) error) error {
	if ok, err := p.open(f); err != nil || !ok {
		return firstErr(err, fmt.Errorf("%s: %w", f.packName(), errGone))
	}
	hasher := pack.NewHasher()
	var kids []pack.ID
	return f.pack.Walk(pack.NewScratch(maxBlob), nil, f.idx.Find, func(it *pack.Item) error {
		if err := firstErr(ctx.Err(), it.Err); err != nil || it.Type == pack.Blob {
			return err
		}
		id, err := hasher.Sum(it.Type, it.Body)
		if err != nil {
			return err
		}
		if kids, err = children(kids[:0], it.Type, it.Body); err != nil {
			return fmt.Errorf("%v %v: %w", it.Type, id, err)
		}
		for _, kid := range kids {
			_, ok, err := p.find(t, kid, nil)
			if err == nil && !ok {
				err = fn(id, kid)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
