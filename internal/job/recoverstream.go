package job

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kedgebackup/kedge/repo"
)

// streams loads the streams of all saves. One that fails does not keep the others from being
// loaded.
func (r *Recovery) streams(ctx context.Context) error {
	for i := range r.units {
		u := &r.units[i]
		for j := range u.kit.Streams {
			rep := RecoveredStream{Name: u.kit.Streams[j].Name}
			if err := r.stream(ctx, u, &u.kit.Streams[j], &rep); err != nil {
				rep.Done, rep.Error = doneFailed, err.Error()
			}
			u.rep.Streams = append(u.rep.Streams, rep)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// stream loads one stream, unless it is what was loaded last.
func (r *Recovery) stream(ctx context.Context, u *unit, ks *KitStream, rep *RecoveredStream) error {
	chain, err := (&repo.VFS{Repo: r.Repo}).Resolve(ctx, u.at+ks.Path, repo.ResolveOptions{})
	if err != nil {
		return err
	}
	n := &chain[len(chain)-1]
	rep.ID = n.ID.String()
	key := u.kit.Host + " " + u.kit.Name + " " + ks.Name
	mark := r.marker.Streams[key]
	known := mark != nil
	switch {
	case known && !mark.Loading && mark.ID == rep.ID:
		rep.Done = "unchanged"
		return nil
	case r.NoStreams:
		rep.Done = "skipped"
		return nil
	case r.DryRun:
		rep.Done = "would be loaded"
		return nil
	case strings.Contains(strings.Join(append(slices.Clone(ks.Args), ks.Restore), " "), LeftOut):
		return fmt.Errorf("a secret was left out of its command when it was saved")
	}
	r.World.Log("%s: stream %s", u.kit.Name, ks.Name)
	ours := known && mark.Ours
	r.marker.Streams[key] = &streamMark{ID: rep.ID, Loading: true, Ours: ours}
	if err := r.marker.write(); err != nil {
		return err
	}
	s := ks.Stream()
	if err := r.Load(ctx, &u.kit, &s, repo.OpenFile(ctx, r.Repo, n.ID, n.Chunked), ours); err != nil {
		return err
	}
	r.marker.Streams[key] = &streamMark{ID: rep.ID, Ours: true}
	rep.Done = "loaded"
	return r.marker.write()
}
