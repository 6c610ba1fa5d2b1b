package fault_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// job makes a file of two parts, and is the program that the tests break.
func job(f *fsx.FS, root string) error {
	file, err := f.Create(root+"/tmp-0123abcd", 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, part := range []string{"first ", "second"} {
		if _, err := file.Write([]byte(part)); err != nil {
			return err
		}
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := f.Link(file.Name(), root+"/name"); err != nil {
		return err
	}
	return f.SyncDir(root)
}

var jobLines = []string{
	"create tmp-XXXX",
	"write tmp-XXXX 0+6",
	"write tmp-XXXX 6+6",
	"sync tmp-XXXX",
	"link tmp-XXXX name",
	"syncdir .",
	"close tmp-XXXX",
}

func TestTrace(t *testing.T) {
	var all fault.Trace
	some := fault.Trace{Match: fault.Only(fsx.KindSync, fsx.KindSyncDir), Next: all.Intercept}
	root := t.TempDir()
	must(t, job(&fsx.FS{Intercept: some.Intercept}, root))
	if got := all.Lines(root); !slices.Equal(got, jobLines) {
		t.Errorf("got %q\nwant %q", got, jobLines)
	}
	if got, want := some.Lines(root), []string{"sync tmp-XXXX", "syncdir ."}; !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if ops := all.Ops(); string(ops[2].Data) != "second" {
		t.Errorf("data %q", ops[2].Data)
	}
	all.Reset()
	if n := len(all.Ops()); n != 0 {
		t.Errorf("%d operations after Reset", n)
	}
	if line := fault.Line(fsx.Op{Kind: fsx.KindTruncate, Path: "/a/f", Off: 7}, "/b"); line != "truncate /a/f 7" {
		t.Errorf("%q", line)
	}
}

func TestMutates(t *testing.T) {
	var changes fault.Trace
	changes.Match = fault.Mutates
	root := t.TempDir()
	f := &fsx.FS{Intercept: changes.Intercept}
	must(t, job(f, root))
	_, err := f.ReadFile(root+"/name", 100)
	must(t, err)
	_, err = f.ReadDir(root)
	must(t, err)
	if got := changes.Lines(root); !slices.Equal(got, jobLines[:6]) {
		t.Errorf("got %q", got)
	}
}

// Each operation fails in turn, with its path and the wanted error, and those
// after it are not reached.
func TestSweep(t *testing.T) {
	var where []string
	n := fault.Plan{Err: syscall.ENOSPC, Match: fault.Mutates}.Sweep(func(f *fault.Fail) {
		root := t.TempDir()
		err := job(&fsx.FS{Intercept: f.Intercept}, root)
		if f.Fired() != errors.Is(err, syscall.ENOSPC) {
			t.Errorf("fired %v, error %v", f.Fired(), err)
		}
		if f.Fired() {
			where = append(where, strings.Fields(fault.Line(f.Op(), root))[0])
			if !strings.Contains(err.Error(), f.Op().Path) {
				t.Errorf("error without the path: %v", err)
			}
		} else if f.Count() != 6 || f.Op().Kind != 0 {
			t.Errorf("%d operations counted, %v failed", f.Count(), f.Op())
		}
	})
	if want := "create write write sync link syncdir"; n != 6 || strings.Join(where, " ") != want {
		t.Errorf("%d failures: %q", n, where)
	}
}

func TestFail(t *testing.T) {
	data := func(root string) string {
		b, _ := os.ReadFile(root + "/tmp-0123abcd")
		return string(b)
	}
	tests := []struct {
		name string
		plan fault.Plan
		at   int
		want string // content of the file
	}{
		{"never", fault.Plan{}, 0, "first second"},
		{"not performed", fault.Plan{Match: fault.Only(fsx.KindWrite)}, 2, "first "},
		{"performed and denied", fault.Plan{Match: fault.Only(fsx.KindWrite), After: true}, 2, "first second"},
		{"half a write", fault.Plan{Match: fault.Only(fsx.KindWrite), Short: true}, 2, "first sec"},
		{"half of the first", fault.Plan{Match: fault.Only(fsx.KindWrite), Short: true}, 1, "fir"},
		{"lost pages", fault.Plan{Match: fault.Only(fsx.KindSync), Drop: true}, 1, strings.Repeat("\x00", 12)},
		{"pages not lost", fault.Plan{Match: fault.Only(fsx.KindSync)}, 1, "first second"},
	}
	for _, tt := range tests {
		root := t.TempDir()
		f := tt.plan.At(tt.at)
		err := job(&fsx.FS{Intercept: f.Intercept}, root)
		if (tt.at > 0) != errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := data(root); got != tt.want {
			t.Errorf("%s: file holds %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A program that tries a failed sync again is told that all is well, as by
// Linux, and has lost its data.
func TestDropThenRetry(t *testing.T) {
	root := t.TempDir()
	f := fault.Plan{Drop: true, Match: fault.Only(fsx.KindSync)}.At(2)
	open := func() *fsx.File {
		file, err := (&fsx.FS{Intercept: f.Intercept}).OpenWrite(root + "/f")
		must(t, err)
		return file
	}
	must(t, os.WriteFile(root+"/f", []byte("old bytes"), 0o644))
	file := open()
	file.WriteAt([]byte("OLD"), 0)
	must(t, file.Sync())
	file.WriteAt([]byte("BY"), 4)
	file.WriteAt([]byte("longer"), 9)
	if err := file.Sync(); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	must(t, open().Sync())
	if got, _ := os.ReadFile(root + "/f"); string(got) != "OLD bytes\x00\x00\x00\x00\x00\x00" {
		t.Errorf("%q", got)
	}
}

func TestForever(t *testing.T) {
	f := fault.Plan{Forever: true}.At(3)
	fs := &fsx.FS{Intercept: f.Intercept}
	root := t.TempDir()
	for i := 1; i <= 5; i++ {
		err := fs.Mkdir(filepath.Join(root, fmt.Sprint(i)), 0o755)
		if (i >= 3) != (err != nil) {
			t.Errorf("operation %d: %v", i, err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	var trace fault.Trace
	fail := fault.Plan{Next: trace.Intercept}.At(40)
	f := &fsx.FS{Intercept: fail.Intercept}
	root := t.TempDir()
	var wg sync.WaitGroup
	failures := make(chan error, 100)
	for i := range 10 {
		wg.Go(func() {
			for j := range 10 {
				if err := f.Mkdir(fmt.Sprintf("%s/%d-%d", root, i, j), 0o755); err != nil {
					failures <- err
				}
			}
		})
	}
	wg.Wait()
	if len(failures) != 1 || len(trace.Ops()) != 99 || fail.Count() != 100 {
		t.Errorf("%d failures, %d performed, %d counted", len(failures), len(trace.Ops()), fail.Count())
	}
}

// The test runs itself as a child, which is killed at each operation in turn.
func TestKill(t *testing.T) {
	if root := os.Getenv("FAULT_TEST_ROOT"); root != "" {
		var k fault.Kill
		fmt.Sscan(os.Getenv("FAULT_TEST_KILL"), &k.At, &k.After)
		k.Match = fault.Mutates
		must(t, job(&fsx.FS{Intercept: k.Intercept}, root))
		return
	}
	self, err := os.Executable()
	must(t, err)
	states := []string{"", "tmp=", "tmp=first ", "tmp=first second", "tmp=first second", "name,tmp=first second"}
	for k := 1; k <= 7; k++ {
		for _, after := range []bool{false, true} {
			root := t.TempDir()
			cmd := exec.Command(self, "-test.run", "^TestKill$")
			cmd.Env = append(os.Environ(), "FAULT_TEST_ROOT="+root, fmt.Sprintf("FAULT_TEST_KILL=%d %v", k, after))
			err := cmd.Run()
			done := k - 1
			if after {
				done++
			}
			if k == 7 { // there are six
				must(t, err)
				continue
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Errorf("at %d: %v", k, err)
			}
			var got string
			if _, err := os.Stat(root + "/name"); err == nil {
				got = "name,"
			}
			if data, err := os.ReadFile(root + "/tmp-0123abcd"); err == nil {
				got += "tmp=" + string(data)
			}
			if want := states[min(done, 5)]; got != want {
				t.Errorf("killed at %d, after %v: %q, want %q", k, after, got, want)
			}
		}
	}
}
