package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/job"
)

func TestProducer(t *testing.T) {
	for _, tt := range []struct{ command, out, err string }{
		{"printf 'hello\\n'", "hello\n", ""},
		{"cat", "", ""}, // standard input is empty
		{"seq 3 | tac", "3\n2\n1\n", ""},
		{"false | cat", "", "exit status 1"},
		{"echo half; exit 3", "half\n", "exit status 3"},
		{"echo half; kill -9 $$", "half\n", "signal: killed"},
		{"yes | head -1", "y\n", "exit status 141"}, // yes dies of SIGPIPE: pipefail says so
		{"(yes || true) | head -1", "y\n", ""},
		{"no-such-command-here", "", "exit status 127"},
		{"echo out >&2; sleep 100 2>/dev/null >/dev/null &", "", ""}, // what it leaves behind is its own business
	} {
		p, err := startProducer(context.Background(), &job.Prepared{Command: tt.command}, nil)
		if err != nil {
			t.Fatal(err)
		}
		out, rerr := io.ReadAll(p)
		err = p.Close()
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		if rerr != nil || string(out) != tt.out {
			t.Errorf("%s: %q, %v", tt.command, out, rerr)
		}
		if err != nil {
			if want := "command " + quote(tt.command) + " failed: " + tt.err; err.Error() != want {
				t.Errorf("%s: %v, want %s", tt.command, err, want)
			}
		} else if tt.err != "" {
			t.Errorf("%s: succeeded, want %s", tt.command, tt.err)
		}
	}
}

// Whatever a command started dies with it when the save is cancelled, whether
// it heeds SIGTERM or not.
func TestProducerCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	p, err := startProducer(ctx, &job.Prepared{Command: "sleep 1000 & echo $!; sleep 1000"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, err := p.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	io.Copy(io.Discard, p) // ends, because all writers are dead
	if err := p.Close(); err == nil || !strings.Contains(err.Error(), "was stopped before its end") {
		t.Errorf("Close: %v", err)
	}
	waitDead(t, child)
}

// A stream that is closed before its end is stopped, and never a success.
func TestProducerClosedEarly(t *testing.T) {
	p, err := startProducer(context.Background(), &job.Prepared{Command: "trap '' TERM PIPE; while :; do echo x; done 2>/dev/null"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	p.grace = 50 * time.Millisecond
	if err := p.Close(); err == nil || !strings.Contains(err.Error(), "was stopped before its end") {
		t.Errorf("Close: %v", err)
	}
	waitDead(t, p.cmd.Process.Pid)
}

func TestProducerCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := startProducer(ctx, &job.Prepared{Command: "echo x"}, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// waitDead waits until a process is gone, or nobody's child any more.
func waitDead(t *testing.T, pid int) {
	t.Helper()
	for range 1200 {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("process %d lives", pid)
}

func TestStreamPath(t *testing.T) {
	for in, want := range map[string]string{
		"dump.sql": "/dump.sql", "/a/b": "/a/b", "a//b": "/a/b", "./a": "/a", "/.hidden": "/.hidden", "a/...": "/a/...",
	} {
		if got, err := streamPath(in); got != want || err != nil {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "/", ".", "..", "a/..", "../a", "a/../b", "a/", "a\x00b"} {
		if got, err := streamPath(in); err == nil {
			t.Errorf("%q is %q", in, got)
		}
	}
}
