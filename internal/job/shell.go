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
	"unsafe"
)

// killAfter is how long a hook has to end by itself once it is told to.
const killAfter = 10 * time.Second

// shell runs a command under bash with pipefail, in a process group of its own, with nothing
// to read. It inherits standard error and no other file: neither the lock of the job nor the
// guardian's pipe may outlive the run in somebody else's hands. Past its time, or when the
// context ends, the whole group is told to end, and then made to. Began, if it is not nil, is
// told the group, and 0 when it has ended.
func shell(ctx context.Context, command string, limit time.Duration, env []string, out *os.File, began func(group int)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &timeoutError{strconv.Quote(command), limit})
	defer cancel()
	cmd := exec.Command("bash", "-o", "pipefail", "-c", command)
	cmd.Env = env
	if out != nil && !unheard(out) {
		cmd.Stdout, cmd.Stderr = out, out
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if began != nil {
		began(cmd.Process.Pid)
		defer began(0)
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

// unheard reports whether a file is a pipe that nobody reads any more. A hook that prints there
// dies of SIGPIPE before it has done anything, and the guardian, whose run was killed together
// with whoever read its messages, would start no database.
func unheard(f *os.File) bool {
	poll := struct {
		fd              int32
		events, revents int16
	}{fd: int32(f.Fd())}
	const broken = 0x8 // POLLERR: what a pipe without a reader has
	_, _, e := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&syscall.Timespec{})), 0, 0, 0)
	return e == 0 && poll.revents&broken != 0
}

// endGroup ends a process group that is nobody's child here: it is told to, and then made to.
func endGroup(group int) {
	if syscall.Kill(-group, syscall.SIGTERM) != nil {
		return
	}
	for end := time.Now().Add(killAfter); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if syscall.Kill(-group, 0) != nil {
			return
		}
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
}

// lower gives the process the niceness and the class of I/O that a job asks for, and returns
// what takes that back, as far as the kernel lets one: only root may become less nice. Whatever
// is started meanwhile inherits them.
//
// Linux keeps both for each thread, and which one of them starts a command is not ours to
// say: all get them. A new thread has what the one has that made it, so it goes round until
// there is none that was not seen.
func lower(j *Job) (undo func(), err error) {
	prio, err := ioPriority(j.IONice)
	if err != nil {
		return nil, err
	}
	undo = func() {}
	if j.Nice != 0 {
		raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
		if err != nil {
			return nil, fmt.Errorf("nice: %w", err)
		}
		nice := func(n int) error {
			return threads(func(id int) error { return syscall.Setpriority(syscall.PRIO_PROCESS, id, n) })
		}
		if err := nice(j.Nice); err != nil {
			return nil, fmt.Errorf("nice %d: %w", j.Nice, err)
		}
		undo = func() { _ = nice(20 - raw) } // the system call has it upside down
	}
	if prio == 0 {
		return undo, nil
	}
	if err := threads(func(id int) error { return setIOPriority(id, prio) }); err != nil {
		undo()
		return nil, fmt.Errorf("ionice %s: %w", j.IONice, err)
	}
	back := undo
	return func() {
		_ = threads(func(id int) error { return setIOPriority(id, 0) })
		back()
	}, nil
}

func setIOPriority(thread, prio int) error {
	const whoProcess = 1
	_, _, e := syscall.Syscall(syscall.SYS_IOPRIO_SET, whoProcess, uintptr(thread), uintptr(prio))
	if e != 0 && e != syscall.ENOSYS {
		return e
	}
	return nil
}

// threads calls fn for every thread of the process.
func threads(fn func(id int) error) error {
	seen := make(map[int]bool)
	for {
		list, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		more := false
		for _, e := range list {
			id, err := strconv.Atoi(e.Name())
			if err != nil || seen[id] {
				continue
			}
			seen[id], more = true, true
			if err := fn(id); err != nil && err != syscall.ESRCH {
				return err
			}
		}
		if !more {
			return nil
		}
	}
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
