package job

import (
	"context"
	"fmt"
	"io"
	"os"
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
	s := ks.Stream()
	l := r.loading(&s, known && mark.Ours)
	if _, err := l.Look(ctx); err != nil {
		return err
	}
	in := repo.OpenFile(ctx, r.Repo, n.ID, n.Chunked)
	if l.Replaces() { // a damaged dump must not cost anybody what there is
		if _, err := in.WriteTo(io.Discard); err != nil {
			return fmt.Errorf("nothing was done: %w", err)
		}
	}
	r.marker.Streams[key] = &streamMark{ID: rep.ID, Loading: true, Ours: l.Discard || !l.Replaces()}
	if err := r.marker.write(); err != nil {
		return err
	}
	if err := l.Run(ctx, func(w io.Writer) error { _, err := in.WriteTo(w); return err }); err != nil {
		return err
	}
	r.marker.Streams[key] = &streamMark{ID: rep.ID, Ours: true}
	rep.Done = "loaded"
	return r.marker.write()
}

// loading returns what loads a stream. What is there is moved aside, unless an earlier
// recovery has loaded it. What cannot be moved, a device or whatever a command of the
// config writes to, has to be empty; if the config does not say how to find out, the command
// is taken to know what it does.
func (r *Recovery) loading(s *Stream, ours bool) *Loading {
	force := true
	if info, err := os.Stat(s.File); s.Preset == "device" && s.Restore == "" && err == nil && info.Mode()&os.ModeDevice != 0 {
		force = r.Devices
	}
	if s.Restore != "" {
		force = s.Empty == ""
	}
	return &Loading{
		Stream: s, FS: r.World.FS, State: r.World.State, Env: r.World.Env, Stderr: r.World.Stderr, At: r.World.Now(),
		Force: force || ours, Discard: ours,
	}
}
