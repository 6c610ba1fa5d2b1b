package job

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// victimStage writes the config of a victim: before is a command of its hook.
func victimStage(t *testing.T, before string) (s *stage, config string) {
	t.Helper()
	s = newStage(t)
	config = filepath.Join(s.dir, "kedge.toml")
	text := fmt.Sprintf("repository = '/r'\nstate = %q\n[[job]]\nname = 'j'\npaths = ['/etc']\n[job.hooks]\nbefore = [%q, %q]\nresume = [%q]\nfinally = [%q]\n",
		s.w.State, s.say("before"), before, s.say("resume"), s.say("finally $KEDGE_STATUS"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return s, config
}

func (s *stage) logged(line string) func() bool {
	return func() bool {
		text, _ := os.ReadFile(s.log())
		return strings.Contains(string(text), line)
	}
}

// guardians returns the processes that guard a state directory.
func guardians(state string) (pids []int) {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range list {
		text, _ := os.ReadFile(file)
		if args := strings.Split(string(text), "\x00"); len(args) > 3 && args[1] == "guard" && args[3] == state {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && !zombie(pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// The run is killed while it saves: its guardian does what is left, and nobody gets the lock
// before it has.
func TestRunKilled(t *testing.T) {
	s, config := victimStage(t, "true")
	cmd := start(t, "victim", config)
	eventually(t, "it saves", s.logged("saving"))
	if !s.noted() || len(guardians(s.w.State)) != 1 {
		t.Fatalf("noted %v, guardians %v", s.noted(), guardians(s.w.State))
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "it is made good", func() bool { return !s.noted() && len(guardians(s.w.State)) == 0 })
	s.wants("before, resume, saving, resume, finally 1")
}

// The run is killed in the middle of a hook. What the hook would still do comes to nothing:
// otherwise the database would be stopped after it was started.
func TestRunKilledInHook(t *testing.T) {
	for _, trap := range []string{"", "trap '' TERM; "} {
		if trap != "" && testing.Short() {
			continue // ten seconds
		}
		s, config := victimStage(t, "")
		slow := trap + "touch " + quoteWord(s.dir+"/in") + "; for i in $(seq 300); do sleep 0.1; done; " + s.say("stopped too late")
		_, config = rewrite(t, s, config, slow)
		cmd := start(t, "victim", config)
		eventually(t, "the hook runs", func() bool { _, err := os.Stat(s.dir + "/in"); return err == nil })
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		eventually(t, "it is made good", func() bool { return !s.noted() && len(guardians(s.w.State)) == 0 })
		s.wants("before, resume, finally 1")
	}
}

// rewrite puts another second command into the hook before.
func rewrite(t *testing.T, s *stage, config, before string) (*stage, string) {
	t.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), `, ""]`, fmt.Sprintf(", %q]", before), 1)
	if err := os.WriteFile(config, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	return s, config
}

// All is killed, as a reboot does: the note is there, and the boot unit (make-good) or the next
// run does what is left, once.
func TestReboot(t *testing.T) {
	for _, next := range []string{"make-good", "run"} {
		s, config := victimStage(t, "true")
		cmd := start(t, "victim", config)
		eventually(t, "it saves", s.logged("saving"))
		for _, pid := range guardians(s.w.State) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		eventually(t, "the lock is given up", func() bool {
			lock, err := s.w.FS.Lock(lockFile(s.w.State, "j"), fsx.Exclusive, 0)
			return err == nil && lock.Unlock() == nil
		})
		if !s.noted() {
			t.Fatal("nothing is noted")
		}
		s.wants("before, resume, saving")
		if next == "make-good" {
			made, err := MakeGood(context.Background(), s.w)
			if err != nil || len(made) != 1 || made[0] != "j" {
				t.Errorf("%q, %v", made, err)
			}
			if made, err = MakeGood(context.Background(), s.w); err != nil || made != nil {
				t.Errorf("again: %q, %v", made, err)
			}
			s.wants("resume, finally 1")
			continue
		}
		if rep, err := s.run(context.Background()); err != nil || !rep.Made {
			t.Errorf("%+v, %v", rep, err)
		}
		s.wants("resume, finally 1, before, snapshot, resume, save j, after 0, finally 0")
	}
}

// The config may have changed by then, or be gone: what is noted is enough. What cannot be read
// is not passed over.
func TestMakeGoodNotes(t *testing.T) {
	s := newStage(t)
	dir := filepath.Join(s.w.State, dirRun)
	if made, err := MakeGood(context.Background(), s.w); made != nil || err != nil {
		t.Errorf("without a state directory: %q, %v", made, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"a": `{"job":"a","resume":["` + strings.ReplaceAll(s.say("a"), `"`, `\"`) + `"]}`, "b": `{"job"`, "c.lock": "", ".tmp": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made, err := MakeGood(context.Background(), s.w)
	if len(made) != 1 || made[0] != "a" || err == nil || !strings.Contains(err.Error(), "run/b: ") {
		t.Errorf("%q, %v", made, err)
	}
	s.wants("a")
}

// Hooks inherit neither the lock nor the pipe: what a hook leaves behind in the background does
// not keep the next run from beginning, nor the guardian from noticing.
func TestHooksInheritNothing(t *testing.T) {
	s := newStage(t)
	s.job.Hooks.Before = []string{"ls -l /proc/self/fd > " + quoteWord(s.dir+"/fds"), "sleep 60 >/dev/null 2>&1 & echo $! >" + quoteWord(s.dir+"/pid")}
	for range 2 {
		if _, err := s.run(context.Background()); err != nil {
			t.Fatal(err)
		}
		var pid int
		text, _ := os.ReadFile(s.dir + "/pid")
		if _, err := fmt.Sscan(string(text), &pid); err == nil {
			defer syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	fds, err := os.ReadFile(s.dir + "/fds")
	if err != nil || strings.Contains(string(fds), ".lock") || strings.Contains(string(fds), "pipe:") && strings.Contains(string(fds), " 3 -> pipe") {
		t.Errorf("%v\n%s", err, fds)
	}
}

// The guardian's own end: nothing to do, and a lock that it gives back.
func TestGuardIdle(t *testing.T) {
	w := newWorld(t.TempDir())
	if err := Guard(context.Background(), w, "j", strings.NewReader("17\n0\n")); err != nil {
		t.Error(err)
	}
	lock, err := (&fsx.FS{}).Lock(filepath.Join(w.State, "x"), fsx.Exclusive, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
}

// Systemd kills a run with its guardian, and runs make-good at once, when they may not have let go
// of the lock yet.
func TestMakeGoodWaitsForTheDying(t *testing.T) {
	s := newStage(t)
	lock, err := Hold(s.w.FS, s.w.State, "j")
	if err != nil {
		t.Fatal(err)
	}
	if err := note(s.w, &s.job); err != nil {
		t.Fatal(err)
	}
	unlocked := make(chan error)
	go func() {
		time.Sleep(100 * time.Millisecond)
		unlocked <- lock.Unlock()
	}()
	made, err := MakeGood(context.Background(), s.w)
	if err != nil || len(made) != 1 {
		t.Errorf("%q, %v", made, err)
	}
	if err := <-unlocked; err != nil {
		t.Error(err)
	}
	s.wants("resume, finally 1")
}

// A state directory that nobody has named is not the working directory.
func TestHoldNowhere(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, state := range []string{"", "state"} {
		if lock, err := Hold(&fsx.FS{}, state, "j"); err == nil {
			t.Errorf("%q: a lock", state)
			lock.Unlock()
		}
	}
	if list, err := os.ReadDir("."); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}
