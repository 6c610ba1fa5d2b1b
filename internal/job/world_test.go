package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// The test program is also the guardian, and a run that tests may kill.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "guard": // guard --state DIR JOB
			w := &World{FS: &fsx.FS{}, Stderr: os.Stderr, Env: os.Environ(), State: os.Args[3], Now: time.Now, Log: func(string, ...any) {}}
			if err := Guard(context.Background(), w, os.Args[4], os.Stdin); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case "victim": // victim CONFIG: runs its first job, whose saves are slow
			victim(os.Args[2])
		}
	}
	os.Exit(m.Run())
}

// victim runs a job; a save writes to the file "saving" and waits to be killed.
func victim(file string) {
	c, err := Load(&fsx.FS{}, file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	w := newWorld(c.State)
	w.Save = func(ctx context.Context, _ *Job, _ *Plan) (Saved, error) {
		appendLine(filepath.Join(filepath.Dir(file), "log"), "saving")
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
		}
		return Saved{}, context.Cause(ctx)
	}
	plans, err := c.Jobs[0].Plans("h")
	if err == nil {
		_, err = Run(context.Background(), w, &c.Jobs[0], plans)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func appendLine(file, line string) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, _ = f.WriteString(line + "\n")
		f.Close()
	}
}

// newWorld is a world with this program for its guardian, in which all saves succeed.
func newWorld(state string) *World {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return &World{
		FS: &fsx.FS{}, Stderr: os.Stderr, Env: os.Environ(), Self: []string{self, "guard"}, State: state, Now: time.Now,
		Log:  func(string, ...any) {},
		Save: func(context.Context, *Job, *Plan) (Saved, error) { return Saved{Commit: "c", Files: 1}, nil },
		ExitCode: func(ctx context.Context, err error) int {
			var coded codeError
			switch {
			case err == nil:
				return 0
			case errors.As(err, &coded):
				return int(coded)
			case ctx.Err() != nil:
				return 130
			case errors.Is(err, context.DeadlineExceeded):
				return 7
			}
			return 1
		},
	}
}

// codeError is an error with an exit code of its own.
type codeError int

func (e codeError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// A stage is a directory with a job whose hooks write to a log.
type stage struct {
	t   *testing.T
	dir string
	w   *World
	job Job

	mu    sync.Mutex
	saves []string // in their order
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, dir: t.TempDir()}
	s.w = newWorld(filepath.Join(s.dir, "state"))
	s.w.Stderr = os.Stdout
	save := s.w.Save
	s.w.Save = func(ctx context.Context, j *Job, p *Plan) (Saved, error) {
		s.mu.Lock()
		s.saves = append(s.saves, p.Name)
		s.mu.Unlock()
		appendLine(s.log(), "save "+p.Name)
		return save(ctx, j, p)
	}
	s.job = Job{Job: "j", Repository: "/r", Paths: []string{"/etc"}, Hooks: Hooks{
		Before: []string{s.say("before")}, Snapshot: []string{s.say("snapshot")}, Resume: []string{s.say("resume")},
		After: []string{s.say("after $KEDGE_STATUS")}, Finally: []string{s.say("finally $KEDGE_STATUS")},
	}}
	return s
}

func (s *stage) log() string { return filepath.Join(s.dir, "log") }

// say is a command that writes a line to the log.
func (s *stage) say(line string) string { return `echo "` + line + `" >> ` + quoteWord(s.log()) }

// run runs the job.
func (s *stage) run(ctx context.Context) (Report, error) {
	s.t.Helper()
	plans, err := s.job.Plans("h")
	if err != nil {
		s.t.Fatal(err)
	}
	return Run(ctx, s.w, &s.job, plans)
}

// wants compares the log, in one line, and empties it.
func (s *stage) wants(want string) {
	s.t.Helper()
	text, err := os.ReadFile(s.log())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	if got := strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ", "); got != want {
		s.t.Errorf("what was done: %q, want %q", got, want)
	}
	_ = os.Remove(s.log())
}

// noted reports whether a run is noted as begun.
func (s *stage) noted() bool {
	_, err := os.Lstat(noteFile(s.w.State, s.job.Job))
	return err == nil
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 600 {
		if is() {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// start starts this program as something else.
func start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Stderr = os.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}
