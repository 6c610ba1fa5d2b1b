package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/restore"
)

// Recovery brings an instance back: the directories of its saves to their places, the streams
// into their databases, then the recover-hooks. It can be killed at any moment, and goes on
// where it was when it is started again; what it has done stands in the marker, recover.json
// in the state directory (marker.go).
//
// # A directory
//
// A place that no recovery has filled yet is replaced as a whole:
//
//	stage    restore to .kedge-recover/NAME beside it, a directory that nobody else can enter
//	aside    rename what is there to NAME.before-restore-TIME
//	swap     rename what was restored into place
//
// so there is hardly a moment without /etc, and none with half of one. Where a place cannot be
// renamed, because it is a mount point, or one or the state directory lies below it, what is
// in it is moved aside piece by piece, and then it is filled in place.
//
// A place that the marker knows, or that lies in one, is brought up to date: what the save
// does not have is moved aside, unless the job excludes it; the rest is restored in place, and
// files that are as they should be are not touched.
//
// # What stays
//
// Nothing is deleted. The state directory is neither moved nor restored: it says what kedge
// did on this machine.
type Recovery struct {
	World *World // Save is not used
	Repo  repo.Repo
	From  string   // the address of the repository, for messages
	Names []string // NAME or NAME/SAVE; none: every NAME that has a kit
	Map   [][2]string
	// Keep are directories that are neither moved nor restored, besides the state directory.
	Keep []string
	// Kit returns the kit of a NAME if it is not to be taken from the save.
	Kit func(name string) (Kit, bool)
	// Options are those of each restore: owners, workers, progress. Warn is told of what could
	// not be restored, with the path where it belongs.
	Options restore.Options
	// Excluded makes what tells whether a path was excluded from a save.
	Excluded  func(x *KitExclude) (func(path string, dir bool) bool, error)
	NoHooks   bool
	NoStreams bool
	Devices   bool // block devices may be overwritten
	DryRun    bool
	Mounts    func() ([]string, error) // mount points; nil: those of this process

	marker *marker
	units  []unit
	report RecoverReport
}

// unit is a save that is recovered.
type unit struct {
	kit  Kit
	at   string // NAME/SAVE
	save repo.Node
	rep  *RecoveredName
}

// RecoverReport is what a recovery did.
type RecoverReport struct {
	From    string          `json:"from"`
	Start   time.Time       `json:"start"`
	Seconds float64         `json:"seconds"`
	DryRun  bool            `json:"dry_run,omitempty"`
	Names   []RecoveredName `json:"names"`
	Hooks   []RecoveredHook `json:"hooks"`
}

// RecoveredName is what became of a NAME.
type RecoveredName struct {
	Name    string            `json:"name"`
	Save    time.Time         `json:"save,omitzero"`
	Commit  string            `json:"commit,omitempty"`
	Error   string            `json:"error,omitempty"`
	Paths   []RecoveredPath   `json:"paths"`
	Streams []RecoveredStream `json:"streams"`
}

// RecoveredPath is what became of a path.
type RecoveredPath struct {
	Path        string `json:"path"`  // in the save
	Place       string `json:"place"` // where it was restored to
	Done        string `json:"done"`  // "restored", "updated", "failed", with a dry run what would be
	Aside       string `json:"aside,omitempty"`
	Moved       int64  `json:"moved,omitempty"` // pieces that were moved aside
	Files       int64  `json:"files"`
	Bytes       int64  `json:"bytes"`
	Kept        int64  `json:"kept"`
	NotRestored int64  `json:"not_restored,omitempty"`
	Error       string `json:"error,omitempty"`
}

// RecoveredStream is what became of a stream.
type RecoveredStream struct {
	Name  string `json:"name"`
	ID    string `json:"id,omitempty"`
	Done  string `json:"done"` // "loaded", "unchanged", "failed", with a dry run what would be
	Error string `json:"error,omitempty"`
}

// RecoveredHook is what became of a job's recover-hook.
type RecoveredHook struct {
	Job   string `json:"job"`
	Done  string `json:"done"` // "run", "skipped", "failed"
	Error string `json:"error,omitempty"`
}

// Complete reports whether everything is back.
func (r *RecoverReport) Complete() bool {
	for i := range r.Names {
		if !r.Names[i].complete(true) {
			return false
		}
	}
	return !slices.ContainsFunc(r.Hooks, func(h RecoveredHook) bool { return h.Error != "" })
}

// complete reports whether a NAME is back. Single items count only if strict.
func (n *RecoveredName) complete(strict bool) bool {
	return n.Error == "" &&
		!slices.ContainsFunc(n.Paths, func(p RecoveredPath) bool { return p.Error != "" || strict && p.NotRestored > 0 }) &&
		!slices.ContainsFunc(n.Streams, func(s RecoveredStream) bool { return s.Error != "" })
}

const (
	dirRecover   = "recover"
	doneFailed   = "failed"
	doneRestored = "restored"
	doneUpdated  = "updated"
)

// Run recovers. The report says what came of it even if there is an error; what could not be
// recovered is no error but is in the report.
func (r *Recovery) Run(ctx context.Context) (RecoverReport, error) {
	r.report = RecoverReport{From: r.From, Start: r.World.Now(), DryRun: r.DryRun, Names: []RecoveredName{}, Hooks: []RecoveredHook{}}
	err := r.locked(ctx)
	r.report.Seconds = r.World.Now().Sub(r.report.Start).Seconds()
	return r.report, err
}

// locked does the work as the only recovery on this machine.
func (r *Recovery) locked(ctx context.Context) error {
	dir := filepath.Join(r.World.State, dirRecover)
	if !r.DryRun {
		if err := r.World.FS.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		lock, err := r.World.FS.Lock(filepath.Join(dir, "lock"), fsx.Exclusive, 0)
		if errors.Is(err, fsx.ErrLocked) {
			return &BusyError{"recover"}
		} else if err != nil {
			return err
		}
		defer lock.Unlock()
	}
	var err error
	if r.marker, err = readMarker(r.World.FS, filepath.Join(dir, "recover.json")); err != nil {
		return err
	}
	if err := r.find(ctx); err != nil {
		return err
	}
	if err := r.directories(ctx); err != nil {
		return err
	}
	if err := r.streams(ctx); err != nil {
		return err
	}
	if err := r.hooks(ctx); err != nil {
		return err
	}
	if !r.DryRun {
		syscall.Sync() // a restore syncs nothing by itself
	}
	return nil
}

// find looks for the saves and reads their kits.
func (r *Recovery) find(ctx context.Context) error {
	v := &repo.VFS{Repo: r.Repo}
	names := r.Names
	if len(names) == 0 {
		root := repo.Node{Kind: repo.NodeRoot, DirItem: repo.DirItem{Mode: repo.ModeDir}}
		err := v.ReadDir(ctx, &root, false, func(n *repo.Node) error {
			if n.Kind == repo.NodeName {
				names = append(names, n.Name)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	r.report.Names = make([]RecoveredName, 0, len(names))
	var units []unit
	for _, name := range names {
		u, err := r.findOne(ctx, v, name)
		if err != nil && (len(r.Names) > 0 || ctx.Err() != nil) {
			return err // what was asked for by name has to be there
		}
		rep := RecoveredName{Name: name, Paths: []RecoveredPath{}, Streams: []RecoveredStream{}}
		if err != nil {
			rep.Error = err.Error()
		} else {
			rep.Name, rep.Save, rep.Commit = u.kit.Name, u.save.Date, u.save.Commit.String()
		}
		r.report.Names = append(r.report.Names, rep)
		u.rep = &r.report.Names[len(r.report.Names)-1]
		if err == nil {
			units = append(units, u)
		}
	}
	if len(units) == 0 {
		return &repo.NotFoundError{What: "save with a kit", Name: r.From}
	}
	r.units = units
	return nil
}

// findOne finds NAME or NAME/SAVE.
func (r *Recovery) findOne(ctx context.Context, v *repo.VFS, name string) (unit, error) {
	chain, err := v.Resolve(ctx, name, repo.ResolveOptions{})
	if err != nil {
		return unit{}, err
	}
	at := strings.TrimRight(name, "/")
	if chain[len(chain)-1].Kind == repo.NodeName {
		at += "/latest"
	}
	if chain, err = v.Resolve(ctx, at+"/", repo.ResolveOptions{}); err != nil {
		return unit{}, err
	}
	u := unit{at: at, save: chain[len(chain)-1]}
	if u.save.Kind != repo.NodeSave {
		return u, &repo.NotFoundError{What: "save", Name: name}
	}
	if r.Kit != nil {
		saved, _, _ := cutLast(at)
		if k, ok := r.Kit(saved); ok {
			u.kit = k
			return u, nil
		}
		return u, fmt.Errorf("%s: the config file has no job that saves it", saved)
	}
	u.kit, err = readKit(ctx, r.Repo, v, at)
	return u, err
}

func cutLast(p string) (dir, name string, ok bool) {
	i := strings.LastIndexByte(p, '/')
	return p[:max(i, 0)], p[i+1:], i >= 0
}

// readKit reads the kit of a save.
func readKit(ctx context.Context, r repo.Repo, v *repo.VFS, at string) (Kit, error) {
	text, err := readSaved(ctx, r, v, at+KitFile)
	var none *repo.NotFoundError
	if errors.As(err, &none) {
		return Kit{}, &NoKitError{at}
	} else if err != nil {
		return Kit{}, err
	}
	k, err := ParseKit(text)
	if err != nil {
		return k, fmt.Errorf("%s%s: %w", at, KitFile, err)
	}
	return k, nil
}

// NoKitError says that a save has no kit: kedge run did not make it.
type NoKitError struct{ At string }

// Error names the save.
func (e *NoKitError) Error() string {
	return fmt.Sprintf("%s: it has no kit that says where things belong; 'kedge run' saves one", e.At)
}

// readSaved reads a small file of a save.
func readSaved(ctx context.Context, r repo.Repo, v *repo.VFS, at string) ([]byte, error) {
	chain, err := v.Resolve(ctx, at, repo.ResolveOptions{})
	if err != nil {
		return nil, err
	}
	n := &chain[len(chain)-1]
	if n.IsDir() || n.Mode == repo.ModeSymlink {
		return nil, &repo.NotFoundError{What: "file", Name: at}
	}
	var b limited
	_, err = repo.OpenFile(ctx, r, n.ID, n.Chunked).WriteTo(&b)
	return b.text, err
}

// limited takes as much as a kit may have.
type limited struct{ text []byte }

// Write takes what comes.
func (l *limited) Write(p []byte) (int, error) {
	if len(l.text)+len(p) > maxKit {
		return 0, fmt.Errorf("it has more than %d bytes", maxKit)
	}
	l.text = append(l.text, p...)
	return len(p), nil
}

// ReadKit reads the kit of NAME or NAME/SAVE.
func ReadKit(ctx context.Context, r repo.Repo, name string) (Kit, error) {
	v := &repo.VFS{Repo: r}
	u, err := (&Recovery{Repo: r}).findOne(ctx, v, name)
	return u.kit, err
}

// place returns where a path goes.
func (r *Recovery) place(p string) string {
	best := -1
	to := p
	for _, m := range r.Map {
		if within(p, m[0]) && len(m[0]) > best {
			best, to = len(m[0]), path.Join(m[1], strings.TrimPrefix(p, strings.TrimSuffix(m[0], "/")))
		}
	}
	return to
}

// hooks runs the recover-hook of every job of which all parts are back.
func (r *Recovery) hooks(ctx context.Context) error {
	var jobs []string
	for i := range r.units {
		if k := &r.units[i].kit; len(k.Recover) > 0 && !slices.Contains(jobs, k.Host+"/"+k.Job) {
			jobs = append(jobs, k.Host+"/"+k.Job)
			r.report.Hooks = append(r.report.Hooks, r.hook(ctx, k))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// hook runs the recover-hook of one job.
func (r *Recovery) hook(ctx context.Context, k *Kit) RecoveredHook {
	h := RecoveredHook{Job: k.Job, Done: "run"}
	status := exitOK
	var missing []string
	for i := range r.units {
		switch u := &r.units[i]; {
		case u.kit.Job != k.Job || u.kit.Host != k.Host:
		case !u.rep.complete(false):
			missing = append(missing, u.kit.Name)
		case !u.rep.complete(true):
			status = exitPartial
		}
	}
	secret := slices.IndexFunc(k.Recover, func(c string) bool { return strings.Contains(c, LeftOut) })
	switch {
	case r.DryRun:
		h.Done = "would be run"
	case r.NoHooks:
		h.Done = "skipped"
	case len(missing) > 0:
		h.Done, h.Error = "skipped", "not everything is back of "+strings.Join(missing, ", ")
	case secret >= 0:
		h.Done, h.Error = "skipped", fmt.Sprintf("a secret was left out of the command %q when it was saved", k.Recover[secret])
	default:
		extra := []string{"KEDGE_JOB=" + k.Job, "KEDGE_STEP=recover", fmt.Sprintf("KEDGE_STATUS=%d", status)}
		if err := runHook(ctx, r.World, "recover", k.Recover, k.Timeout, extra, nil); err != nil {
			h.Done, h.Error = doneFailed, err.Error()
		}
	}
	return h
}

// targets returns the paths of all units, in the order in which they are recovered: /etc
// first, which says who owns the rest, and what holds others before those.
func (r *Recovery) targets() []target {
	var list []target
	for i := range r.units {
		for _, p := range r.units[i].kit.Paths {
			list = append(list, target{unit: &r.units[i], path: p, place: r.place(p.Place)})
		}
	}
	rank := func(t target) int {
		if t.path.Place == "/etc" {
			return -1
		}
		return strings.Count(t.place, "/")
	}
	slices.SortStableFunc(list, func(a, b target) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.place, b.place)) })
	return list
}
