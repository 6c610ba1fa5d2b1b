package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/restore"
)

// target is a path of a save and the place where it goes.
type target struct {
	unit  *unit
	path  KitPath
	place string
	node  repo.Node
	rep   *RecoveredPath
}

// asideMark is in the names of what was moved aside, stagePrefix begins those of directories
// in which something is restored before it gets its place.
const (
	asideMark   = ".before-restore-"
	stagePrefix = ".kedge-recover-"
)

// directories recovers the paths of all saves. One that fails does not keep the others from
// being recovered.
func (r *Recovery) directories(ctx context.Context) error {
	pins, err := r.pins()
	if err != nil {
		return err
	}
	for _, t := range r.targets() {
		rep := RecoveredPath{Path: t.path.Place, Place: t.place}
		t.rep = &rep
		if err := r.directory(ctx, &t, pins); err != nil {
			rep.Done, rep.Error = doneFailed, err.Error()
		}
		t.unit.rep.Paths = append(t.unit.rep.Paths, rep)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// directory recovers one path.
func (r *Recovery) directory(ctx context.Context, t *target, pins pins) error {
	if t.place == "/" {
		return errors.New("a system that runs is not replaced under its own feet: --map /=DIR restores it elsewhere")
	}
	chain, err := (&repo.VFS{Repo: r.Repo}).Resolve(ctx, t.unit.at+t.path.Place, repo.ResolveOptions{})
	if err != nil {
		return err
	}
	t.node = chain[len(chain)-1]
	mark := r.marker.Places[t.place]
	known := mark == nil && r.marker.ours(t.place) || mark != nil && mark.Phase == phaseDone
	whole := !t.node.IsDir() || !pins.holds(t.place) && (mark == nil || mark.Phase == phaseStage || mark.Phase == phaseSwap)
	if known && t.node.IsDir() {
		whole = false
	}
	if r.DryRun {
		return r.foresee(t, known)
	}
	r.World.Log("%s: %s", t.unit.kit.Name, t.place)
	if err := r.parents(ctx, t); err != nil {
		return err
	}
	if mark == nil {
		mark = &placeMark{Phase: phaseDone}
		if !known {
			mark.Phase = phaseStage
			mark.Aside = r.suffix(t.place)
		}
		r.marker.Places[t.place] = mark
	}
	mark.Commit = t.unit.save.Commit.String()
	switch {
	case whole:
		err = r.replace(ctx, t, mark, known)
	case known:
		err = r.update(ctx, t, mark, pins)
	default:
		err = r.refill(ctx, t, mark, pins)
	}
	if err != nil {
		return err
	}
	mark.Phase = phaseDone
	return r.marker.write()
}

// foresee says what would be done.
func (r *Recovery) foresee(t *target, known bool) error {
	switch _, err := r.World.FS.Lstat(t.place); {
	case known:
		t.rep.Done = "would be updated"
	case err == nil && !r.empty(t.place):
		t.rep.Done, t.rep.Aside = "would be restored", t.place+asideMark+"TIME"
	case err == nil || errors.Is(err, fs.ErrNotExist):
		t.rep.Done = "would be restored"
	default:
		return err
	}
	return nil
}

// empty reports whether a place is an empty directory.
func (r *Recovery) empty(place string) bool {
	info, err := r.World.FS.Lstat(place)
	if err != nil || !info.IsDir() {
		return false
	}
	list, err := r.World.FS.ReadDir(place)
	return err == nil && len(list) == 0
}

// parents makes the directories above a place that are missing, like those of the save if
// the place is where it was.
func (r *Recovery) parents(ctx context.Context, t *target) error {
	var missing []string // innermost first
	for dir := path.Dir(t.place); dir != "/"; dir = path.Dir(dir) {
		if _, err := r.World.FS.Lstat(dir); err == nil {
			break
		}
		missing = append(missing, dir)
	}
	if err := r.World.FS.MkdirAll(path.Dir(t.place), 0o755); err != nil {
		return err
	}
	if t.place != t.path.Place {
		return nil
	}
	slices.Reverse(missing)
	for _, dir := range missing {
		o := r.Options
		o.Repo, o.Out, o.Paths, o.System, o.Progress = r.Repo, dir, []string{t.unit.at + dir + "/."}, true, nil
		o.Exclude = func(string, bool) bool { return true }
		if _, err := restore.Run(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// replace restores a path beside its place, and then puts it there.
func (r *Recovery) replace(ctx context.Context, t *target, mark *placeMark, known bool) error {
	dir := path.Join(path.Dir(t.place), stagePrefix+path.Base(t.place))
	staged := path.Join(dir, path.Base(t.path.Place))
	if mark.Phase != phaseSwap {
		if known {
			mark.Aside = "" // a file of ours is replaced as one that is restored in place is
		}
		mark.Phase = phaseStage
		if err := r.marker.write(); err != nil {
			return err
		}
		if err := r.World.FS.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := r.restore(ctx, t, dir, t.unit.at+t.path.Place, path.Join("/", path.Base(t.path.Place))); err != nil {
			return err
		}
		syscall.Sync() // what gets the place is on the disk
		mark.Phase = phaseSwap
		if err := r.marker.write(); err != nil {
			return err
		}
	}
	t.rep.Done = doneRestored
	if known {
		t.rep.Done = doneUpdated
	}
	if _, err := r.World.FS.Lstat(staged); errors.Is(err, fs.ErrNotExist) {
		return r.swapped(dir, t, mark) // before this run
	} else if err != nil {
		return err
	}
	if err := r.makeRoom(t, mark); err != nil {
		return err
	}
	if err := r.World.FS.Rename(staged, t.place); err != nil {
		return err
	}
	return r.swapped(dir, t, mark)
}

// swapped ends a swap.
func (r *Recovery) swapped(dir string, t *target, mark *placeMark) error {
	if mark.Aside != "" {
		if aside := t.place + mark.Aside; r.exists(aside) {
			t.rep.Aside = aside
		}
	}
	if err := r.World.FS.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.World.FS.SyncDir(path.Dir(t.place))
}

func (r *Recovery) exists(name string) bool {
	_, err := r.World.FS.Lstat(name)
	return err == nil
}

// makeRoom moves aside what is in a place. The name is in the marker before it is given.
func (r *Recovery) makeRoom(t *target, mark *placeMark) error {
	info, err := r.World.FS.Lstat(t.place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if r.empty(t.place) {
		return r.World.FS.Remove(t.place)
	}
	if mark.Aside == "" && !info.IsDir() {
		return nil // the rename replaces it
	}
	if mark.Aside == "" || r.exists(t.place+mark.Aside) { // or somebody made the place again meanwhile
		mark.Aside = r.suffix(t.place)
	}
	if err := r.marker.write(); err != nil {
		return err
	}
	t.rep.Moved++
	return r.World.FS.Rename(t.place, t.place+mark.Aside)
}

// suffix returns what is put behind the name of a place when it is moved aside.
func (r *Recovery) suffix(place string) string {
	first := asideMark + r.report.Start.Format("20060102-150405")
	suffix := first
	for n := 2; r.exists(place+suffix) || r.exists(path.Join(place, path.Base(place)+suffix)); n++ {
		suffix = fmt.Sprintf("%s-%d", first, n)
	}
	return suffix
}

// refill empties a place that cannot be renamed, and fills it.
func (r *Recovery) refill(ctx context.Context, t *target, mark *placeMark, pins pins) error {
	if mark.Phase == phaseStage || mark.Phase == phaseSwap { // nothing has been moved
		stale := path.Join(path.Dir(t.place), stagePrefix+path.Base(t.place))
		if err := r.World.FS.RemoveAll(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		mark.Phase = phaseClear
	}
	if err := r.World.FS.MkdirAll(t.place, 0o755); err != nil {
		return err
	}
	if mark.Phase == phaseClear {
		if err := r.marker.write(); err != nil {
			return err
		}
		if err := r.surplus(ctx, t, pins, mark.Aside, true); err != nil {
			return err
		}
		mark.Phase = phaseFill
		if err := r.marker.write(); err != nil {
			return err
		}
	}
	t.rep.Done = doneRestored
	return r.restore(ctx, t, t.place, t.unit.at+t.path.Place+"/.", "/")
}

// update brings a place that is a recovery's up to date.
func (r *Recovery) update(ctx context.Context, t *target, mark *placeMark, pins pins) error {
	if err := r.World.FS.MkdirAll(t.place, 0o755); err != nil {
		return err
	}
	mark.Aside = ""
	if err := r.surplus(ctx, t, pins, r.suffix(t.place), false); err != nil {
		return err
	}
	t.rep.Done = doneUpdated
	return r.restore(ctx, t, t.place, t.unit.at+t.path.Place+"/.", "/")
}

// restore restores what a path of the repository names into out. top is what the place is
// below out.
func (r *Recovery) restore(ctx context.Context, t *target, out, from, top string) error {
	o := r.Options
	o.Repo, o.Out, o.Paths, o.System, o.Sparse = r.Repo, out, []string{from}, true, true
	o.Delete = top != "/" // what a run left there that restored another save
	below := func(p string) string {
		return strings.TrimPrefix(strings.TrimPrefix(p, strings.TrimSuffix(top, "/")), "/")
	}
	o.Exclude = func(p string, _ bool) bool {
		rel := below(strings.TrimSuffix(p, "/"))
		return r.stays(path.Join(t.place, rel)) || t.unit.made(path.Join(t.path.Place, rel))
	}
	if warn := r.Options.Warn; warn != nil {
		o.Warn = func(p string, err error) { warn(path.Join(t.place, below(p)), err) }
	}
	if seen := r.Options.Seen; seen != nil {
		o.Seen = func(p string, what byte) { seen(path.Join(t.place, below(p)), what) }
	}
	res, err := restore.Run(ctx, o)
	t.rep.Files, t.rep.Bytes, t.rep.Kept, t.rep.NotRestored = res.Files, res.Bytes, res.Kept, res.Errors
	return err
}

// stays reports whether a place is one of those that are neither moved nor restored.
func (r *Recovery) stays(place string) bool {
	return within(place, r.World.State) || slices.ContainsFunc(r.Keep, func(dir string) bool { return within(place, dir) })
}

// made reports whether a path of a save was no file of the host: a stream, or the kit.
func (u *unit) made(p string) bool {
	return within(p, KitDir) || p == "/.streams" || slices.ContainsFunc(u.kit.Streams, func(s KitStream) bool { return s.Path == p })
}

// pins are what a rename of a directory above would tear away.
type pins struct {
	all    []string
	mounts map[string]bool
}

// holds reports whether a place is a pin, or holds one.
func (p *pins) holds(place string) bool {
	return slices.ContainsFunc(p.all, func(pin string) bool { return within(pin, place) })
}

// pins lists what cannot be moved: mount points, the state directory, and what the caller
// wants to keep.
func (r *Recovery) pins() (pins, error) {
	list := r.Mounts
	if list == nil {
		list = func() ([]string, error) {
			text, err := r.World.FS.ReadFile("/proc/self/mountinfo", 64<<20)
			return mountPoints(string(text)), err
		}
	}
	mounts, err := list()
	p := pins{all: slices.Clone(mounts), mounts: make(map[string]bool)}
	for _, m := range mounts {
		p.mounts[m] = true
	}
	for _, dir := range append([]string{r.World.State}, r.Keep...) {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			p.all = append(p.all, dir, real)
		}
	}
	return p, err
}

// mountPoints reads the fifth field of mountinfo, in which blanks are octal.
func mountPoints(text string) (list []string) {
	plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 4 {
			list = append(list, plain.Replace(f[4]))
		}
	}
	return list
}
