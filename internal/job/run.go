package job

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// World is what a run needs of the program around it.
type World struct {
	FS     *fsx.FS
	Stderr *os.File // hooks and dumps write to it
	Env    []string // of hooks and dumps
	Self   []string // this program, as the guardian is started: command and arguments before its own
	State  string   // directory of what is remembered
	Now    func() time.Time
	// Save walks and saves one part: index and save in one.
	Save func(ctx context.Context, j *Job, p *Plan) (Saved, error)
	// ExitCode is the exit code for an error.
	ExitCode func(ctx context.Context, err error) int
	// Log tells what goes on, one line at a time.
	Log func(format string, args ...any)
}

// Plan is one part as it will be saved.
type Plan struct {
	Name    string // NAME, with its prefix
	Paths   []string
	Scope   Scope
	Streams []Stream
}

// Saved is what a save of a part did.
type Saved struct {
	Commit     string `json:"commit,omitempty"`
	Files      int64  `json:"files"`
	Bytes      int64  `json:"bytes"`
	BytesRead  int64  `json:"bytes_read"`
	BytesNew   int64  `json:"bytes_new"`
	Stored     int64  `json:"bytes_stored"`
	Unreadable int64  `json:"unreadable"`
}

// PartReport is how the save of a part ended.
type PartReport struct {
	Name    string  `json:"name"`
	Exit    int     `json:"exit"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
	Saved
}

// Report is how a run ended.
type Report struct {
	Job     string       `json:"job"`
	Start   time.Time    `json:"start"`
	Seconds float64      `json:"seconds"`
	Exit    int          `json:"exit"`
	Error   string       `json:"error,omitempty"` // of a hook, or what kept the run from beginning
	Parts   []PartReport `json:"parts"`
	Made    bool         `json:"made_good,omitempty"` // an interrupted run was made good first
}

// The exit codes that a run decides about by itself.
const (
	exitOK      = 0
	exitFailed  = 1
	exitPartial = 3
)

// A StepError says which hook failed.
type StepError struct {
	Step string
	Err  error
}

// Error names the step.
func (e *StepError) Error() string { return fmt.Sprintf("hook %s: %v", e.Step, e.Err) }

// Unwrap returns what went wrong.
func (e *StepError) Unwrap() error { return e.Err }

// BusyError says that the job runs already.
type BusyError struct{ Job string }

// Error names the job.
func (e *BusyError) Error() string { return fmt.Sprintf("job %s is running already", e.Job) }

// Is tells programs that somebody else holds the lock.
func (e *BusyError) Is(target error) bool { return target == fsx.ErrLocked }

// timeoutError says that something was not done in its time.
type timeoutError struct {
	what  string
	limit time.Duration
}

// Error names what it was.
func (e *timeoutError) Error() string { return fmt.Sprintf("%s took longer than %v", e.what, e.limit) }

// Is tells programs that time ran out.
func (e *timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// run is one run of a job.
type run struct {
	w      *World
	j      *Job
	plans  []Plan
	report Report
	guard  *guardian
	ctx    context.Context // of Run, without the job's own timeout: to be out of time is not to be interrupted
}

// Run does a night's work of a job, whose parts are plans. The report says what came of it
// even if there is an error.
func Run(ctx context.Context, w *World, j *Job, plans []Plan) (Report, error) {
	r := &run{w: w, j: j, plans: plans, ctx: ctx}
	r.report = Report{Job: j.Job, Start: w.Now()}
	err := r.locked(ctx)
	r.report.Seconds = since(w, r.report.Start)
	r.report.Exit = r.exit(ctx, err)
	if err != nil {
		r.report.Error = err.Error()
	}
	return r.report, err
}

// since returns the seconds from start on, none if the clock was set back meanwhile.
func since(w *World, start time.Time) float64 { return max(0, w.Now().Sub(start).Seconds()) }

// exit is the exit code of the whole run: that of the error, else the worst of the parts.
func (r *run) exit(ctx context.Context, err error) int {
	if err != nil {
		return r.w.ExitCode(ctx, err)
	}
	code := exitOK
	for _, p := range r.report.Parts {
		switch {
		case p.Exit == exitOK:
		case p.Exit == exitPartial && code == exitOK:
			code = exitPartial
		case p.Exit != exitPartial && (code == exitOK || code == exitPartial):
			code = p.Exit
		}
	}
	return code
}

// locked takes the lock of the job, makes good what an interrupted run left, and does the
// work under the eyes of the guardian.
func (r *run) locked(ctx context.Context) error {
	lock, err := Hold(r.w.FS, r.w.State, r.j.Job)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if r.report.Made, err = makeGood(ctx, r.w, r.j.Job); err != nil {
		return err
	}
	if err := pause(ctx, time.Duration(r.j.Jitter)); err != nil {
		return err
	}
	if d := time.Duration(r.j.Timeout); d > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeoutCause(ctx, d, &timeoutError{"job " + r.j.Job, d})
		defer cancel()
	}
	undo, err := lower(r.j)
	if err != nil {
		return err
	}
	defer undo()
	// The guardian comes first: there is no moment at which something is noted and nobody watches.
	if r.guard, err = startGuardian(r.w, r.j.Job, lock); err != nil {
		return err
	}
	defer r.guard.release()
	if err := note(r.w, r.j); err != nil {
		return errors.Join(err, forget(r.w, r.j.Job)) // no hook has run: there is nothing to make good
	}
	return r.work(ctx)
}

// Hold takes the lock of a job: nothing is dumped while somebody reads a dump again, and the
// other way round. A *BusyError says that it runs.
func Hold(fsys *fsx.FS, state, job string) (*fsx.Lock, error) {
	if !filepath.IsAbs(state) { // "", too: it would be somewhere below the working directory
		return nil, fmt.Errorf("the state directory %q is not absolute", state)
	}
	if err := fsys.MkdirAll(filepath.Join(state, dirRun), 0o700); err != nil {
		return nil, err
	}
	lock, err := fsys.Lock(lockFile(state, job), fsx.Exclusive, 0)
	if errors.Is(err, fsx.ErrLocked) {
		return nil, &BusyError{job}
	}
	return lock, err
}

// pause waits for a random part of a time, so that a fleet does not come all at once.
func pause(ctx context.Context, most time.Duration) error {
	if most <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(rand.N(most))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// work does the steps. Resume and finally are done whatever happens, and once only unless
// the process dies in between.
func (r *run) work(ctx context.Context) error {
	h := &r.j.Hooks
	err := r.step(ctx, "before", h.Before, nil)
	if err == nil {
		err = r.step(ctx, "snapshot", h.Snapshot, nil)
	}
	// Even if the night was called off: the database has to be up in the morning.
	always := context.WithoutCancel(ctx)
	resumed := r.step(always, "resume", h.Resume, nil)
	if err == nil {
		err = resumed
	}
	if err == nil {
		err = r.parts(ctx)
	}
	if err == nil && r.exit(ctx, nil) == exitOK {
		err = r.step(ctx, "after", h.After, nil)
	}
	finally := r.step(always, "finally", h.Finally, err)
	if resumed == nil && finally == nil {
		err = errors.Join(err, forget(r.w, r.j.Job))
	}
	return errors.Join(err, other(finally, err), other(resumed, err))
}

// other returns err if it is not said already.
func other(err, said error) error {
	if err == nil || errors.Is(said, err) {
		return nil
	}
	return err
}

// parts saves one part after the other.
func (r *run) parts(ctx context.Context) error {
	for i := range r.plans {
		p := &r.plans[i]
		start := r.w.Now()
		saved, err := r.w.Save(ctx, r.j, p)
		rep := PartReport{Name: p.Name, Saved: saved, Seconds: since(r.w, start)}
		if err != nil {
			if ctx.Err() != nil { // whatever that made fail
				err = context.Cause(ctx)
			}
			rep.Exit, rep.Error = r.w.ExitCode(r.ctx, err), err.Error()
			r.w.Log("%s: %v", p.Name, err)
		}
		r.report.Parts = append(r.report.Parts, rep)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if rep.Exit != exitOK && rep.Exit != exitPartial && r.j.StopOnFailure {
			return nil
		}
	}
	return nil
}

// step runs the commands of a hook one after the other; the first that fails ends it. What has
// gone wrong until then is in the status that it gets.
func (r *run) step(ctx context.Context, name string, commands []string, wrong error) error {
	extra := []string{"KEDGE_JOB=" + r.j.Job, "KEDGE_STEP=" + name}
	if name == "after" || name == "finally" {
		extra = append(extra, fmt.Sprintf("KEDGE_STATUS=%d", r.exit(r.ctx, wrong)))
	}
	return runHook(ctx, r.w, name, commands, r.j.Hooks.Timeout, extra, r.guard.hook)
}

// runHook runs the commands of a hook. Began is told of each.
func runHook(ctx context.Context, w *World, name string, commands []string, limit Duration, extra []string, began func(group int)) error {
	if limit == 0 {
		limit = Duration(time.Hour)
	}
	for _, c := range commands {
		if ctx.Err() != nil {
			return &StepError{name, context.Cause(ctx)}
		}
		w.Log("%s: %s", name, c)
		err := shell(ctx, c, time.Duration(limit), slices.Concat(w.Env, extra), w.Stderr, began)
		if err != nil {
			return &StepError{name, err}
		}
	}
	return nil
}
