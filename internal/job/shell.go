package job

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// killAfter is how long a hook has to end by itself once it is told to.
const killAfter = 10 * time.Second

// shell runs a command under bash with pipefail, in a process group of its own, with nothing
// to read. It inherits standard error and no other file: neither the lock of the job nor the
// guardian's pipe may outlive the run in somebody else's hands. Past its time, or when the
// context ends, the whole group is told to end, and then made to.
func shell(ctx context.Context, command string, limit time.Duration, env []string, out *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%q took longer than %v", command, limit))
	defer cancel()
	cmd := exec.Command("bash", "-o", "pipefail", "-c", command)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	signal := func(s syscall.Signal) { _ = syscall.Kill(-cmd.Process.Pid, s) }
	ended := make(chan struct{})
	var err error
	go func() {
		defer close(ended)
		err = cmd.Wait()
	}()
	select {
	case <-ended:
		if err != nil {
			return fmt.Errorf("%q: %w", command, err)
		}
		return nil
	case <-ctx.Done():
	}
	signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(killAfter):
	}
	signal(syscall.SIGKILL) // it, or what it left in the background
	<-ended
	return context.Cause(ctx)
}

// lower gives the process the niceness and the class of I/O that a job asks for. Whatever it
// starts inherits them.
func lower(j *Job) error {
	if j.Nice != 0 {
		if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, j.Nice); err != nil {
			return fmt.Errorf("nice %d: %w", j.Nice, err)
		}
	}
	prio, err := ioPriority(j.IONice)
	if err != nil || prio == 0 {
		return err
	}
	const whoProcess = 1
	if _, _, e := syscall.Syscall(syscall.SYS_IOPRIO_SET, whoProcess, 0, uintptr(prio)); e != 0 && e != syscall.ENOSYS {
		return fmt.Errorf("ionice %s: %w", j.IONice, e)
	}
	return nil
}

// ioPriority reads "idle", "best-effort" or "best-effort:7", as ionice(1) has them; 0: none.
func ioPriority(s string) (int, error) {
	const classShift, bestEffort, idle = 13, 2, 3
	class, level, leveled := strings.Cut(s, ":")
	n := 4
	if leveled {
		var err error
		if n, err = strconv.Atoi(level); err != nil || n < 0 || n > 7 {
			return 0, fmt.Errorf("ionice %q: levels are 0 to 7", s)
		}
	}
	switch {
	case s == "":
		return 0, nil
	case class == "best-effort":
		return bestEffort<<classShift | n, nil
	case class == "idle" && !leveled:
		return idle << classShift, nil
	}
	return 0, fmt.Errorf("ionice %q: idle, best-effort and best-effort:0 to :7 are known", s)
}
