package repo

import (
	"context"

	"github.com/kedgebackup/kedge/pack"
)

// Missing appends to dst those ids that are not present with everything below
// them, in their order. An id that is found in a closed pack is present (I9).
// One that is found elsewhere is, if reading it and all below it proves so.
func (p *Packs) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	if err := p.refresh(ctx); err != nil {
		return dst, err
	}
	return p.missing(ctx, dst, ids)
}

// missing is Missing on the packs as they were found last.
func (p *Packs) missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	t := p.table.Load()
	trust, open := p.distrusts.Load(), hasOpen(t)
	if p.far != nil {
		return p.missingFar(ctx, dst, ids, open)
	}
	for i, id := range ids {
		if i&0xfff == 0xfff && ctx.Err() != nil {
			return dst, ctx.Err()
		}
		_, ok, err := p.find(t, id, isClosed)
		if now := p.distrusts.Load(); now != trust { // a damaged pack was met just now
			trust, open = now, true
		}
		if err == nil && !ok && open {
			ok, err = p.prove(ctx, id)
		}
		if err != nil {
			return dst, err
		}
		if !ok {
			dst = append(dst, id)
		}
	}
	return dst, nil
}

// isClosed is the condition under which a pack proves that an object is there.
func isClosed(f *packFile) bool { return f.closed.Load() }

// hasOpen reports whether there are packs that are not closed.
func hasOpen(t *table) bool {
	for _, f := range t.packs {
		if !f.closed.Load() && !f.gone.Load() {
			return true
		}
	}
	return false
}
