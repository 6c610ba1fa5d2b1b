package job

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// dirRun is where the state directory notes which runs began.
const dirRun = "run"

func lockFile(state, job string) string { return filepath.Join(state, dirRun, job+".lock") }
func noteFile(state, job string) string { return filepath.Join(state, dirRun, job) }

// begun is what run/JOB holds: all that is needed to make the run good, whatever becomes of
// the config file.
type begun struct {
	Job     string    `json:"job"`
	Start   time.Time `json:"start"`
	Resume  []string  `json:"resume,omitempty"`
	Finally []string  `json:"finally,omitempty"`
	Timeout Duration  `json:"timeout,omitempty"`
}

// note writes run/JOB and makes it durable, before the first hook.
func note(w *World, j *Job) error {
	text, err := json.Marshal(begun{j.Job, w.Now(), j.Hooks.Resume, j.Hooks.Finally, j.Hooks.Timeout})
	if err != nil {
		return err
	}
	return w.FS.Replace(noteFile(w.State, j.Job), append(text, '\n'), 0o600)
}

// forget removes run/JOB, and makes that durable.
func forget(w *World, job string) error {
	err := w.FS.Remove(noteFile(w.State, job))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return w.FS.SyncDir(filepath.Join(w.State, dirRun))
}

// makeGood runs resume and finally of a run that was interrupted, with the lock of the job
// held, and reports whether there was one.
func makeGood(ctx context.Context, w *World, job string) (bool, error) {
	text, err := w.FS.ReadFile(noteFile(w.State, job), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	var b begun
	if err := json.Unmarshal(text, &b); err != nil {
		return false, fmt.Errorf("%s: %w; if no hook has to be made good, remove the file", noteFile(w.State, job), err)
	}
	w.Log("the run of %s that began at %s was interrupted: its hooks resume and finally are run now", job, b.Start.Format(time.RFC3339))
	extra := func(step string) []string {
		return []string{"KEDGE_JOB=" + job, "KEDGE_STEP=" + step, fmt.Sprintf("KEDGE_STATUS=%d", exitFailed)}
	}
	err = runHook(ctx, w, "resume", b.Resume, b.Timeout, extra("resume"), nil)
	err = errors.Join(err, runHook(ctx, w, "finally", b.Finally, b.Timeout, extra("finally"), nil))
	if err != nil {
		return true, err
	}
	return true, forget(w, job)
}

// guardian is the process that makes a run good if the run dies.
type guardian struct {
	cmd  *exec.Cmd
	pipe *os.File // its end tells the guardian that the run is over
}

// startGuardian starts the guardian in a session of its own. It inherits the lock of the job,
// so nobody else gets it before the guardian is through, and reads from a pipe whose other
// end only this process has.
func startGuardian(w *World, job string, lock *fsx.Lock) (*guardian, error) {
	r, wr, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	held, err := lock.Share()
	if err != nil {
		wr.Close()
		return nil, err
	}
	defer held.Close()
	cmd := exec.Command(w.Self[0], append(w.Self[1:], "--state", w.State, job)...)
	cmd.Env, cmd.Stdin, cmd.Stderr = w.Env, r, w.Stderr
	cmd.ExtraFiles = []*os.File{held}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		wr.Close()
		return nil, fmt.Errorf("guardian: %w", err)
	}
	return &guardian{cmd, wr}, nil
}

// release tells the guardian that the run is over, and waits until it is gone.
func (g *guardian) release() {
	g.pipe.Close()
	_ = g.cmd.Wait()
}

// hook tells the guardian which process group a hook is, a line of digits; 0: it has ended. If
// the run dies before it can, at most the hook that began in that moment is not known.
func (g *guardian) hook(group int) {
	_, _ = fmt.Fprintf(g.pipe, "%d\n", group) // it is said, or there is nobody to be told
}

// Guard is what the guardian does: it waits for the end of in, which is the end of the run,
// and makes good what the run left. The lock of the job was inherited, and is given up when
// the process ends.
//
// A hook that outlives the run is ended first: a before that stops the database after resume
// has started it would leave it stopped.
func Guard(ctx context.Context, w *World, job string, in io.Reader) error {
	group := 0
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		group, _ = strconv.Atoi(lines.Text()) // a pipe takes so short a line whole or not at all
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if group > 1 {
		endGroup(group)
	}
	_, err := makeGood(ctx, w, job)
	return err
}

// dying is how long MakeGood waits for a lock: systemd starts it as soon as it has killed a run and
// its guardian, and who is killed has his files a moment longer than he can be seen.
const dying = time.Second

// MakeGood does for all jobs what their next runs would do first. Units run it at boot and
// after the service has ended. Jobs that run are left alone.
func MakeGood(ctx context.Context, w *World) (jobs []string, err error) {
	list, err := w.FS.ReadDir(filepath.Join(w.State, dirRun))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range list {
		job := e.Name()
		if strings.HasSuffix(job, ".lock") || strings.HasPrefix(job, ".") || e.IsDir() {
			continue
		}
		lock, lerr := w.FS.Lock(lockFile(w.State, job), fsx.Exclusive, dying)
		if errors.Is(lerr, fsx.ErrLocked) {
			continue
		} else if lerr != nil {
			err = errors.Join(err, lerr)
			continue
		}
		made, merr := makeGood(ctx, w, job)
		err = errors.Join(err, merr, lock.Unlock())
		if made {
			jobs = append(jobs, job)
		}
	}
	return jobs, err
}
