package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

func TestRunOrder(t *testing.T) {
	s := newStage(t)
	rep, err := s.run(context.Background())
	if err != nil || rep.Exit != 0 || len(rep.Parts) != 1 || rep.Parts[0].Commit != "c" {
		t.Errorf("%+v, %v", rep, err)
	}
	s.wants("before, snapshot, resume, save j, after 0, finally 0")
	if s.noted() {
		t.Error("a run that is over is noted as begun")
	}
}

// What each hook's failure keeps from being done, and what it does not.
func TestHookFails(t *testing.T) {
	for _, tt := range []struct{ step, want string }{
		{"before", "resume, finally 1"},
		{"snapshot", "before, resume, finally 1"},
		{"resume", "before, snapshot, finally 1, finally 1"}, // the guardian tries again, and fails as well
		{"after", "before, snapshot, resume, save j, finally 1"},
		{"finally", "before, snapshot, resume, save j, after 0, resume"},
	} {
		for _, how := range []string{"exit 3", "kill -KILL $$", "no-such-command-here", "false | cat"} {
			s := newStage(t)
			s.w.Stderr = nil
			hook := map[string]*[]string{"before": &s.job.Hooks.Before, "snapshot": &s.job.Hooks.Snapshot, "resume": &s.job.Hooks.Resume,
				"after": &s.job.Hooks.After, "finally": &s.job.Hooks.Finally}[tt.step]
			*hook = []string{how, s.say("not reached")}
			rep, err := s.run(context.Background())
			var step *StepError
			if !errors.As(err, &step) || step.Step != tt.step || rep.Exit != 1 || !strings.Contains(rep.Error, "hook "+tt.step) {
				t.Errorf("%s: %s: %+v, %v", tt.step, how, rep, err)
			}
			s.wants(tt.want)
			// What has to be made good and was not stays noted, and is done again.
			if again := tt.step == "resume" || tt.step == "finally"; s.noted() != again {
				t.Errorf("%s: %s: noted: %v", tt.step, how, s.noted())
			}
		}
	}
}

// A resume that failed is tried again: by the guardian as soon as the run is over, and by the
// next run.
func TestResumeFailsAndIsRunAgain(t *testing.T) {
	s := newStage(t)
	s.w.Stderr = nil
	s.job.Hooks.Resume = []string{s.say("resume"), "test -e " + quoteWord(s.dir+"/up")}
	if _, err := s.run(context.Background()); err == nil || !s.noted() {
		t.Fatalf("%v, noted %v", err, s.noted())
	}
	s.wants("before, snapshot, resume, finally 1, resume, finally 1") // the second time by the guardian
	if err := os.WriteFile(s.dir+"/up", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	rep, err := s.run(context.Background())
	if err != nil || !rep.Made {
		t.Errorf("%+v, %v", rep, err)
	}
	s.wants("resume, finally 1, before, snapshot, resume, save j, after 0, finally 0")
}

// A hook that hangs is told to end, and then made to, with all that it started.
func TestHookHangs(t *testing.T) {
	s := newStage(t)
	s.job.Hooks.Timeout = Duration(300 * time.Millisecond)
	s.job.Hooks.Before = []string{"sleep 1000 & echo $! > " + quoteWord(s.dir+"/pid") + "; wait"}
	_, err := s.run(context.Background())
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "took longer than 300ms") {
		t.Errorf("%v", err)
	}
	s.wants("resume, finally 7")
	var pid int
	text, _ := os.ReadFile(s.dir + "/pid")
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the hook's child is gone", func() bool { return syscall.Kill(pid, 0) != nil || zombie(pid) })
}

func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

// Out of time, or called off: the database is up in the morning all the same.
func TestRunTimeout(t *testing.T) {
	s := newStage(t)
	s.job.Timeout = Duration(200 * time.Millisecond)
	s.w.Save = func(ctx context.Context, _ *Job, _ *Plan) (Saved, error) {
		<-ctx.Done()
		return Saved{}, context.Cause(ctx)
	}
	rep, err := s.run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "job j took longer than 200ms") || rep.Exit != 7 || rep.Parts[0].Exit != 7 {
		t.Errorf("%+v, %v", rep, err)
	}
	s.wants("before, snapshot, resume, finally 7")

	s = newStage(t)
	ctx, cancel := context.WithCancel(context.Background())
	s.w.Save = func(ctx context.Context, _ *Job, _ *Plan) (Saved, error) { cancel(); return Saved{}, ctx.Err() }
	if rep, err = s.run(ctx); !errors.Is(err, context.Canceled) || rep.Exit != 130 {
		t.Errorf("%+v, %v", rep, err)
	}
	s.wants("before, snapshot, resume, finally 130")
}

// A part that fails does not stop the others, unless the job says so; the worst is the exit code.
func TestPartsFail(t *testing.T) {
	for _, tt := range []struct {
		codes string
		stop  bool
		saves int
		exit  int
	}{
		{"000", false, 3, 0}, {"030", false, 3, 3}, {"010", false, 3, 1}, {"013", false, 3, 1}, {"310", false, 3, 1},
		{"010", true, 2, 1}, {"300", true, 3, 3}, {"056", false, 3, 5},
	} {
		s := newStage(t)
		s.job.Paths, s.job.Save, s.job.StopOnFailure = []string{"/a", "/b", "/c"}, "{path}", tt.stop
		s.w.Save = func(_ context.Context, _ *Job, p *Plan) (Saved, error) {
			i := len(s.saves)
			s.saves = append(s.saves, p.Name)
			if code := int(tt.codes[i] - '0'); code > 0 {
				return Saved{}, codeError(code)
			}
			return Saved{}, nil
		}
		rep, err := s.run(context.Background())
		if err != nil || rep.Exit != tt.exit || len(rep.Parts) != tt.saves {
			t.Errorf("%+v: %+v, %v", tt, rep, err)
		}
		after := "after 0, "
		if tt.exit != 0 {
			after = ""
		}
		s.wants(fmt.Sprintf("before, snapshot, resume, %sfinally %d", after, tt.exit))
	}
}

// Two runs of a job at once: the second does nothing, not even a hook.
func TestTwoRuns(t *testing.T) {
	s := newStage(t)
	inside, done := make(chan bool), make(chan bool)
	save := s.w.Save
	s.w.Save = func(ctx context.Context, j *Job, p *Plan) (Saved, error) {
		inside <- true
		<-done
		return save(ctx, j, p)
	}
	go func() {
		_, _ = s.run(context.Background())
		done <- true
	}()
	<-inside
	rep, err := s.run(context.Background())
	var busy *BusyError
	if !errors.As(err, &busy) || busy.Job != "j" || !errors.Is(err, fsx.ErrLocked) || rep.Exit == 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	if made, err := MakeGood(context.Background(), s.w); made != nil || err != nil {
		t.Errorf("a job that runs was made good: %q, %v", made, err)
	}
	done <- true
	<-done
	s.wants("before, snapshot, resume, save j, after 0, finally 0")
}

// A clock that was set back makes no report of a negative time.
func TestClockSetBack(t *testing.T) {
	s := newStage(t)
	now := time.Date(2026, 7, 22, 23, 0, 0, 0, time.UTC)
	s.w.Now = func() time.Time { now = now.Add(-time.Hour); return now }
	rep, err := s.run(context.Background())
	if err != nil || rep.Seconds != 0 || rep.Parts[0].Seconds != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// Before the note is durable no hook has run: what fails until then changed nothing. And once
// it is there, what fails leaves it there or has made all good.
func TestFaults(t *testing.T) {
	for k := 1; ; k++ {
		s := newStage(t)
		n := 0
		s.w.FS = &fsx.FS{Intercept: func(_ fsx.Op, do func() error) error {
			if n++; n == k {
				return syscall.ENOSPC
			}
			return do()
		}}
		_, err := s.run(context.Background())
		if n < k {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		text, _ := os.ReadFile(s.log())
		ran := strings.Contains(string(text), "before")
		if ran != strings.Contains(string(text), "resume") || ran != strings.Contains(string(text), "finally") {
			t.Errorf("fault %d: %v: %q", k, err, text)
		}
		if err == nil && s.noted() {
			t.Errorf("fault %d was not told, and the run is noted as begun", k)
		}
		if k > 200 {
			t.Fatal("there is no end")
		}
	}
}

// A state directory on a disk that is really full.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	s := newStage(t)
	full := filepath.Join(s.dir, "full")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", full, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip(err)
	}
	defer syscall.Unmount(full, 0)
	if err := os.MkdirAll(full+"/run", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full+"/run/j.lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(full+"/filler", make([]byte, 1<<20), 0o600) // as much as there is room for
	s.w.State = full
	if rep, err := s.run(context.Background()); !errors.Is(err, syscall.ENOSPC) || rep.Exit == 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	s.wants("") // nothing was stopped that nobody could have started again
}

// The run's niceness is that of all its threads, and is over with it.
func TestLower(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can take it back")
	}
	s := newStage(t)
	s.job.Nice, s.job.IONice = 7, "best-effort:6"
	was, _ := os.ReadFile("/proc/self/stat")
	for range 5 { // a thread of its own each, some of which Linux keeps
		s.job.Hooks.Before = append(s.job.Hooks.Before, "awk '{print $19}' /proc/self/stat >> "+quoteWord(s.dir+"/nice"), "ionice >> "+quoteWord(s.dir+"/nice"))
	}
	if _, err := s.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(s.dir + "/nice")
	if want := strings.Repeat("7\nbest-effort: prio 6\n", 5); string(text) != want {
		t.Errorf("hooks ran with %q", text)
	}
	nice := func(stat []byte) string { return strings.Fields(string(stat))[18] }
	if now, _ := os.ReadFile("/proc/self/stat"); nice(now) != nice(was) {
		t.Errorf("niceness %s stays, before it was %s", nice(now), nice(was))
	}
}

func TestIOPriority(t *testing.T) {
	for in, want := range map[string]int{"": 0, "idle": 3 << 13, "best-effort": 2<<13 | 4, "best-effort:0": 2 << 13, "best-effort:7": 2<<13 | 7} {
		if got, err := ioPriority(in); got != want || err != nil {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"idle:1", "best-effort:8", "best-effort:-1", "best-effort:", "realtime", "Idle"} {
		if got, err := ioPriority(in); err == nil {
			t.Errorf("%q is %d", in, got)
		}
	}
}

// Whoever read the messages is gone, as the far end of a terminal may be: hooks print to nobody,
// and do not die of it.
func TestHookNobodyListens(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if unheard(w) {
		t.Error("a pipe with a reader is taken for one without")
	}
	r.Close()
	if !unheard(w) {
		t.Error("a pipe without a reader is taken for one with")
	}
	s := newStage(t)
	s.w.Stderr = w
	s.job.Hooks.Resume = []string{"echo starting; " + s.say("resume")}
	if _, err := s.run(context.Background()); err != nil {
		t.Error(err)
	}
	s.wants("before, snapshot, resume, save j, after 0, finally 0")
}
