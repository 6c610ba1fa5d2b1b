package restore

import (
	"context"
	"errors"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// fetch gets the chunks of a window. An object that cannot be had is an error of
// its files; other errors stop the run.
func (e *executor) fetch(w *window) error {
	if len(w.ids) == 0 {
		return nil
	}
	g := getter{e: e, w: w, got: make([]bool, len(w.ids))}
	all := make([]int32, len(w.ids))
	for i := range all {
		all[i] = int32(i)
	}
	return g.get(all)
}

// getter gets the objects of a window although some may be damaged.
type getter struct {
	e   *executor
	w   *window
	got []bool
}

// get gets the objects with these places in w.ids. If one cannot be had Get gives
// no more of them, so the rest is asked for again: without all that are missing,
// or in halves until those that are damaged stand alone.
func (g *getter) get(which []int32) error {
	ctx, r := g.e.r.ctx, g.e.r
	ids := make([]pack.ID, len(which))
	for k, i := range which {
		ids[k] = g.w.ids[i]
	}
	err := r.Repo.Get(ctx, ids, func(k int, t pack.Type, body []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		g.got[which[k]] = true
		g.e.deliver(g.w, int(which[k]), t, body)
		return nil
	})
	if err == nil || ctx.Err() != nil || !damage(err) {
		return err
	}
	var rest []int32
	for _, i := range which {
		if !g.got[i] {
			rest = append(rest, i)
		}
	}
	if len(rest) == 0 {
		return err
	}
	if len(rest) == 1 {
		g.lost(rest[0], err)
		return nil
	}
	if errors.As(err, new(*repo.MissingError)) {
		if rest, err = g.dropMissing(rest); err != nil || len(rest) == 0 {
			return err
		}
		if len(rest) == 1 {
			return g.get(rest)
		}
	}
	half := len(rest) / 2
	if err := g.get(rest[:half]); err != nil {
		return err
	}
	return g.get(rest[half:])
}

// dropMissing fails those files of which an object is not there, and returns
// the others.
func (g *getter) dropMissing(which []int32) (rest []int32, err error) {
	ids := make([]pack.ID, len(which))
	for k, i := range which {
		ids[k] = g.w.ids[i]
	}
	missing, err := g.e.r.Repo.Missing(g.e.r.ctx, nil, ids)
	if err != nil {
		if damage(err) {
			return which, nil
		}
		return nil, err
	}
	gone := make(map[pack.ID]bool, len(missing))
	for _, id := range missing {
		gone[id] = true
	}
	for _, i := range which {
		if id := g.w.ids[i]; gone[id] {
			g.lost(i, &repo.MissingError{ID: id})
		} else {
			rest = append(rest, i)
		}
	}
	return rest, nil
}

// lost fails the files that need an object.
func (g *getter) lost(i int32, err error) {
	g.got[i] = true
	for _, rd := range g.w.readsOf(int(i)) {
		rd.f.lost(g.e.r, g.w.ids[i], err)
	}
}
