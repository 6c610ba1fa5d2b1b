package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/gc"
	"github.com/kedgebackup/kedge/repo/prune"
)

// Keeper does by itself what a server has to do: it reads a share of the packs, mirrors,
// prunes and collects garbage. In this order, repository by repository:
//
//	fsck     the packs that were not read for longest, so that all are within the time
//	mirror   before anything is collected: the bucket has what was there
//	prune    by the rules of the config; not while somebody saves, nor where packs are damaged
//	gc       the same
//
// Nothing that fails keeps the rest from being done.
type Keeper struct {
	FS     *fsx.FS
	Server *Server
	Clock  func() time.Time
	Zone   *time.Location // in which days begin
	Wait   time.Duration  // for locks and sessions of others
	Who    string         // for the receipts
	// Mirror makes the next generation of a repository and says what it did; "" is what the
	// server has of its own, in ROOT/.kedge.
	Mirror func(ctx context.Context, repo string) (string, error)
	// ExitCode is the exit code for an error.
	ExitCode func(ctx context.Context, err error) int
	// Log tells what goes on, one line at a time.
	Log func(format string, args ...any)
	// Found is called for each finding of fsck.
	Found func(repo string, f repo.Finding)
}

// TaskReport is how a task of a repository ended.
type TaskReport struct {
	Repo    string  `json:"repository"` // ".kedge": what the server has of its own
	Task    string  `json:"task"`
	Exit    int     `json:"exit"`
	Skipped bool    `json:"skipped,omitempty"` // it could not be done now, and is due still
	Text    string  `json:"text,omitempty"`    // what was done
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

// UpkeepReport is how a night of a server ended.
type UpkeepReport struct {
	Start   time.Time    `json:"start"`
	Seconds float64      `json:"seconds"`
	Exit    int          `json:"exit"`
	Repos   int          `json:"repositories"`
	Tasks   []TaskReport `json:"tasks"`
	Error   string       `json:"error,omitempty"` // what kept it from beginning
}

// Plea is what is to be done: those tasks of those repositories, all for none. With Now
// they are done whether they are due or not.
type Plea struct {
	Tasks, Repos []string
	Now          bool
}

// exitDamaged is the exit code for damage.
const exitDamaged = 5

// skippedError says why a task is not done now.
type skippedError struct{ why string }

// Error says why.
func (e *skippedError) Error() string { return e.why }

// damagedError says that fsck found damage.
type damagedError struct{ findings int64 }

// Error says how much.
func (e *damagedError) Error() string {
	return fmt.Sprintf("damaged: %d findings; kedge fsck says all, and until it finds none nothing is pruned or collected", e.findings)
}

// Run does what is due. What goes wrong is in the report.
func (k *Keeper) Run(ctx context.Context, plea Plea) UpkeepReport {
	r := UpkeepReport{Start: k.Clock()}
	repos, err := Repositories(k.FS, k.Server.Root)
	if err == nil {
		repos, err = pick(repos, plea.Repos)
	}
	if err != nil {
		r.Error, r.Exit = err.Error(), k.ExitCode(ctx, err)
		return r
	}
	r.Repos = len(repos)
	for _, name := range repos {
		for _, task := range Tasks() {
			k.task(ctx, &r, name, task, plea)
		}
	}
	if len(plea.Repos) == 0 {
		k.task(ctx, &r, ownDir, TaskMirror, plea)
	}
	for _, t := range r.Tasks {
		if t.Exit == exitDamaged || r.Exit == exitOK {
			r.Exit = t.Exit
		}
	}
	if err := ctx.Err(); err != nil {
		r.Error, r.Exit = "interrupted", k.ExitCode(ctx, err)
	}
	r.Seconds = seconds(k.Clock().Sub(r.Start))
	return r
}

// seconds is a time for a report: to the millisecond.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// pick returns the repositories that are meant.
func pick(all, wanted []string) ([]string, error) {
	for _, name := range wanted {
		if !slices.Contains(all, name) {
			return nil, &repo.NotFoundError{What: "repository", Name: name, Near: repo.Nearest(name, all)}
		}
	}
	if len(wanted) > 0 {
		return wanted, nil
	}
	return all, nil
}

// due reports whether a task has not been done since its day came last.
func (k *Keeper) due(name, task string) (bool, error) {
	when, err := k.Server.When(task)
	if err != nil {
		return false, err
	}
	notes, err := ReadNotes(k.FS, k.Server.Root)
	return notes[name][task].Done.Before(when.Last(k.Clock().In(k.Zone))), err
}

// task does one task of one repository, if it is wanted and due, and remembers that.
func (k *Keeper) task(ctx context.Context, r *UpkeepReport, name, task string, plea Plea) {
	if ctx.Err() != nil || !k.Server.Has(task) || len(plea.Tasks) > 0 && !slices.Contains(plea.Tasks, task) {
		return
	}
	due, err := k.due(name, task)
	if err == nil && !due && !plea.Now {
		return
	}
	start := k.Clock()
	k.Log("%s: %s", name, task)
	t := TaskReport{Repo: name, Task: task}
	if err == nil {
		t.Text, err = k.do(ctx, name, task)
	}
	t.Seconds = seconds(k.Clock().Sub(start))
	if err != nil {
		t.Error, t.Exit = err.Error(), k.ExitCode(ctx, err)
		var skipped *skippedError
		if errors.As(err, &skipped) {
			t.Skipped, t.Exit = true, exitOK
		} else if errors.As(err, new(*damagedError)) {
			t.Exit = exitDamaged
		}
	}
	if task == TaskMirror && name == ownDir && t.Text == "" && err == nil {
		return // it has nothing of its own
	}
	if ctx.Err() == nil {
		if nerr := NoteTask(k.FS, k.Server.Root, name, task, start, err); nerr != nil && err == nil {
			t.Error, t.Exit = nerr.Error(), k.ExitCode(ctx, nerr)
		}
	}
	r.Tasks = append(r.Tasks, t)
}

func (k *Keeper) do(ctx context.Context, name, task string) (string, error) {
	if task == TaskMirror {
		if name == ownDir {
			name = ""
		}
		return k.Mirror(ctx, name)
	}
	shares, err := readShares(k.FS, k.Server.Root, name)
	if err != nil {
		return "", err
	}
	for _, s := range shares {
		if s.bad && task != TaskFsck {
			return "", &skippedError{"packs are damaged: nothing is taken away until fsck finds none"}
		}
	}
	p, err := repo.OpenDir(ctx, filepath.Join(k.Server.Root, name), repo.DirOptions{FS: k.FS, Wait: cmp.Or(k.Wait, -1), Clock: k.Clock})
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Close() }()
	switch task {
	case TaskFsck:
		return k.fsck(ctx, p, name, shares)
	case TaskPrune:
		return k.prune(ctx, p, name)
	default:
		return k.gc(ctx, p)
	}
}

// fsck reads tonight's share of the packs: those that are damaged once more, and those that
// were not read for longest. A new pack was read when it was written.
func (k *Keeper) fsck(ctx context.Context, p *repo.Packs, name string, shares map[pack.ID]packRead) (string, error) {
	packs, err := p.PackList(ctx)
	if err != nil {
		return "", err
	}
	now := k.Clock()
	if err := remember(p, packs, shares); err != nil {
		return "", err
	}
	share, bytes := k.share(packs, shares)
	o := repo.CheckOptions{Packs: make(map[pack.ID]bool), Zone: k.Zone}
	for _, id := range share {
		o.Packs[id] = true
	}
	bad := make(map[pack.ID]bool)
	res, err := repo.Check(ctx, p, o, func(f repo.Finding) {
		if k.Found != nil {
			k.Found(name, f)
		}
		if id, ok := packOfFile(f.File); ok && f.Damage() {
			bad[id] = true
		}
	})
	if err != nil {
		return "", err
	}
	for _, id := range share {
		shares[id] = packRead{now.Unix(), bad[id]}
	}
	if err := writeShares(k.FS, k.Server.Root, name, shares); err != nil {
		return "", err
	}
	text := fmt.Sprintf("read %d of %d packs, %s", len(share), len(packs), bytesText(bytes))
	if res.Damage > 0 {
		return text, &damagedError{res.Damage}
	}
	return text, nil
}

// remember brings what is remembered of packs up to those that there are.
func remember(p *repo.Packs, packs []repo.PackInfo, shares map[pack.ID]packRead) error {
	there := make(map[pack.ID]bool)
	for _, i := range packs {
		there[i.Name] = true
		if _, known := shares[i.Name]; known {
			continue
		}
		at, err := p.PackTime(i.Name)
		if err != nil {
			return err
		}
		shares[i.Name] = packRead{at: at.Unix()}
	}
	maps.DeleteFunc(shares, func(id pack.ID, _ packRead) bool { return !there[id] })
	return nil
}

// share chooses packs to read: as many as keep all within the time that the config gives,
// within the limit of a run.
func (k *Keeper) share(packs []repo.PackInfo, shares map[pack.ID]packRead) (share []pack.ID, bytes int64) {
	all := int64(0)
	for _, i := range packs {
		all += i.Size
	}
	const missed = 2 // nights
	runs := max(1, int64(time.Duration(k.Server.Fsck.Every)/(24*time.Hour))-missed)
	budget := all/runs + 1
	if most, err := parseBytes(k.Server.Fsck.Nightly); err == nil {
		budget = min(budget, most)
	}
	slices.SortFunc(packs, func(a, b repo.PackInfo) int {
		x, y := shares[a.Name], shares[b.Name]
		if x.bad != y.bad {
			return boolInt(y.bad) - boolInt(x.bad)
		}
		return cmp.Or(cmp.Compare(x.at, y.at), a.Name.Compare(b.Name))
	})
	for _, i := range packs {
		if !shares[i.Name].bad && bytes >= budget {
			break
		}
		share = append(share, i.Name)
		bytes += i.Size
	}
	return share, bytes
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// packOfFile returns the pack that a file of a repository belongs to.
func packOfFile(file string) (pack.ID, bool) {
	base := filepath.Base(file)
	hex, ok := strings.CutPrefix(strings.TrimSuffix(base, filepath.Ext(base)), "pack-")
	id, err := pack.ParseID(hex)
	return id, ok && err == nil
}

// prune leaves out saves by the rules of the config.
func (k *Keeper) prune(ctx context.Context, p *repo.Packs, name string) (string, error) {
	u, err := p.Upkeep(ctx)
	if err != nil {
		return "", skipBusy(err)
	}
	defer func() { _ = u.Close() }()
	if n, err := u.Quiet(ctx, k.Wait); err != nil {
		return "", err
	} else if n > 0 {
		return "", &skippedError{fmt.Sprintf("%d sessions are working on it", n)}
	}
	now, err := u.Now(ctx)
	if err != nil {
		return "", err
	}
	names, err := prune.MatchNames(ctx, p, []string{"*"})
	if err != nil {
		return "", err
	}
	removed, all := 0, 0
	var errs []error
	for _, n := range names {
		rules, key, ok, err := k.Server.Rules(name, n)
		if err == nil && ok {
			var plan *prune.Plan
			if plan, err = prune.NewPlan(ctx, p, n, k.Zone); err == nil {
				rules.Apply(plan.Saves, now, k.Zone)
				removed, all = removed+plan.Removed(), all+len(plan.Saves)
				k.Log("%s/%s: %d of %d saves are left out by the rules of %q", name, n, plan.Removed(), len(plan.Saves), key)
				_, err = plan.Apply(ctx, p, u, k.Who)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", n, err))
		}
	}
	return fmt.Sprintf("left out %d of %d saves", removed, all), errors.Join(errs...)
}

// skipBusy makes of an error that others are at work a reason to come back.
func skipBusy(err error) error {
	if busy := new(repo.BusyError); errors.As(err, &busy) {
		return &skippedError{busy.Error()}
	}
	return err
}

// gc collects garbage.
func (k *Keeper) gc(ctx context.Context, p *repo.Packs) (string, error) {
	r, err := gc.Run(ctx, p, gc.Options{Threshold: k.Server.GC.Threshold, Wait: k.Wait})
	if busy := new(gc.BusyError); errors.As(err, &busy) {
		return "", &skippedError{busy.Error()}
	}
	text := fmt.Sprintf("%s live, %d packs taken away, %d deleted, %s freed", bytesText(r.Live), r.Retired, r.Deleted, bytesText(r.Freed))
	return text, skipBusy(err)
}

// Failures is how many tasks failed.
func (r *UpkeepReport) Failures() (n int) {
	for i := range r.Tasks {
		if r.Tasks[i].Exit != exitOK {
			n++
		}
	}
	return n
}

// String says in one line what became of a task.
func (t *TaskReport) String() string {
	s := fmt.Sprintf("%s: %s: %s", t.Repo, t.Task, t.Text)
	switch {
	case t.Skipped:
		s = fmt.Sprintf("%s: %s: not now: %s", t.Repo, t.Task, t.Error)
	case t.Exit != exitOK && t.Text != "":
		s += ": " + t.Error
	case t.Exit != exitOK:
		s += t.Error
	}
	return fmt.Sprintf("%s, %.1f s", s, t.Seconds)
}

// Text is the report for people: what failed first.
func (r *UpkeepReport) Text() string {
	var bad, good strings.Builder
	if r.Error != "" {
		fmt.Fprintf(&bad, "error: %s\n", r.Error)
	}
	for i := range r.Tasks {
		b := &good
		if r.Tasks[i].Exit != exitOK {
			b = &bad
		}
		fmt.Fprintln(b, &r.Tasks[i])
	}
	if bad.Len() > 0 && good.Len() > 0 {
		bad.WriteByte('\n')
	}
	return fmt.Sprintf("upkeep: exit %d, %s, %d repositories, %d tasks, %d failed, %.1f s\n\n%s%s", r.Exit, r.Start.Format(time.RFC3339),
		r.Repos, len(r.Tasks), r.Failures(), r.Seconds, bad.String(), good.String())
}

// Notice is what those are told whom the config names.
func (r *UpkeepReport) Notice() Notice {
	n := Notice{Name: "upkeep", Failed: r.Exit != exitOK, Wrong: r.Exit != exitOK, Text: r.Text(), JSON: r, Subject: "the server's night is done"}
	if n.Wrong {
		n.Subject = "the server's night: something failed"
	}
	return n
}
