package remote

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/repo"
)

// heard is a Stderr that a test reads.
type heard struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.String()
}

// script writes a program that stands for ssh. Its arguments go to the file "args"
// beside it, a line each, a blank line behind each call.
func script(t *testing.T, text string) (program, args string) {
	t.Helper()
	dir := t.TempDir()
	program, args = filepath.Join(dir, "ssh"), filepath.Join(dir, "args")
	text = "#!/bin/sh\nfor a; do echo \"$a\"; command=$a; done >> '" + args + "'; echo >> '" + args + "'\n" + text
	if err := os.WriteFile(program, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return program, args
}

// through returns Options that take a program for ssh.
func through(program string, stderr io.Writer) Options {
	return Options{SSH: "system", Stderr: stderr, Timeout: 20 * time.Second, Env: func(name string) string {
		if name == "KEDGE_SSH" {
			return program
		}
		return ""
	}}
}

// echo is a use of a connection: what is sent must come back. A connection that breaks is
// lost, as NewClient says it.
func echo(conn io.ReadWriteCloser, _ Options) error {
	lost := func(err error) error {
		return &LostError{Server: conn.(peer).String(), Said: conn.(peer).LastWords(), Err: err}
	}
	if _, err := io.WriteString(conn, "ping\n"); err != nil {
		return lost(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return lost(err)
	}
	if line != "ping\n" {
		return fmt.Errorf("it says %q", line)
	}
	return conn.Close()
}

func TestSSHArgs(t *testing.T) {
	const usual = "-o ClearAllForwardings=yes -o Compression=no -o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=3"
	tests := []struct {
		a     Address
		o     Options
		batch bool
		want  string
	}{
		{Address{Host: "h", Path: "/p"}, Options{}, true,
			"-T -a -x " + usual + " -o BatchMode=yes h -- kedge server"},
		{Address{User: "me", Host: "::1", Port: 2222}, Options{}, false,
			"-T -a -x -p 2222 -l me " + usual + " ::1 -- kedge server"},
		{Address{Host: "h"}, Options{AcceptNew: true, KnownHosts: "/a b%", Identities: []string{"k1", "k2"}}, false,
			"-T -a -x " + usual + ` -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile="/a b%%" -o IdentitiesOnly=yes -i k1 -i k2 h -- kedge server`},
	}
	for _, tt := range tests {
		tt.o.Timeout = dialTimeout
		args, err := sshArgs(tt.a, tt.o, kedgeServer, tt.batch)
		if got := strings.Join(args, " "); err != nil || got != tt.want {
			t.Errorf("%+v:\n got %s, %v\nwant %s", tt.a, got, err, tt.want)
		}
	}
	if _, err := sshArgs(Address{Host: "h"}, Options{KnownHosts: "/${HOME}/x"}, kedgeServer, true); err == nil {
		t.Error("ssh would have expanded the name of a file")
	}
}

func TestSystemSSH(t *testing.T) {
	program, args := script(t, "echo 'from afar' >&2; exec cat")
	var stderr heard
	if err := reach(t.Context(), Address{User: "me", Host: "far"}, through(program, &stderr), echo); err != nil {
		t.Fatal(err)
	}
	if stderr.String() != "from afar\n" {
		t.Errorf("stderr: %q", stderr.String())
	}
	text, err := os.ReadFile(args)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(string(text), "\n"); !slices.Equal(lines[len(lines)-5:], []string{"far", "--", "kedge server", "", ""}) {
		t.Errorf("arguments:\n%s", text)
	}
}

// Without kedge the same host is asked for bup, in the words of bup's own clients, and
// nobody is told what was not there.
func TestSystemSSHFallsBackToBup(t *testing.T) {
	for _, code := range []int{127, 1} {
		program, args := script(t, fmt.Sprintf(
			`case "$command" in kedge*) echo "sh: 1: kedge: not found" >&2; exit %d;; esac; exec cat`, code))
		var stderr heard
		if err := reach(t.Context(), Address{Host: "far"}, through(program, &stderr), echo); err != nil {
			t.Fatal(err)
		}
		if stderr.String() != "" {
			t.Errorf("stderr: %q", stderr.String())
		}
		text, _ := os.ReadFile(args)
		if !strings.Contains(string(text), "\nkedge server\n") ||
			!strings.HasSuffix(string(text), "\nfar\n--\nsh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0  bup server'\n\n") {
			t.Errorf("arguments:\n%s", text)
		}
	}
}

func TestSystemSSHFailures(t *testing.T) {
	const changed = `@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.
Add correct host key in /k/known_hosts to get rid of this message.
Offending ED25519 key in /k/known_hosts:1
Host key verification failed.`
	tests := []struct {
		name, said string
		code       int
		check      func(err error) bool
		want       string
	}{
		{"unreachable", "ssh: connect to host far port 22: Connection refused", 255, nil, "ssh://far: ssh: connect to host far port 22: Connection refused"},
		{"login", "me@far: Permission denied (publickey).", 255,
			func(err error) bool { return errors.As(err, new(*repo.RefusedError)) }, "Permission denied"},
		{"unknown", "No ED25519 host key is known for far and you have requested strict checking.\nHost key verification failed.", 255,
			func(err error) bool {
				e := new(HostKeyError)
				return errors.As(err, &e) && !e.Changed && e.Host == "far"
			},
			"host far is not in known_hosts; to see the key that it shows: ssh-keyscan far | ssh-keygen -lf -; if that is its key"},
		{"changed", changed, 255, func(err error) bool { e := new(HostKeyError); return errors.As(err, &e) && e.Changed },
			"shows the key SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA, and /k/known_hosts has another one: somebody may be listening; if the host has a new key, forget the old one with: ssh-keygen -f /k/known_hosts -R far"},
		{"slow", "ssh: connect to host far port 22: Connection timed out", 255,
			func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, "timed out"},
		{"dumb", "", 255, nil, "did not say why"},
		{"neither", "sh: 1: x: not found", 127, nil, "neither kedge nor bup"},
		{"broken", "kedge: disk on fire", 1, nil, "connection to ssh://far lost: it hung up; it said: kedge: disk on fire"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			program, _ := script(t, fmt.Sprintf("cat >&2 <<'END'\n%s\nEND\nexit %d", tt.said, tt.code))
			err := reach(t.Context(), Address{Host: "far"}, through(program, nil), echo)
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.check != nil && !tt.check(err) {
				t.Errorf("got %T %v\nwant %s", err, err, tt.want)
			}
		})
	}
}

func TestNoProgram(t *testing.T) {
	err := reach(t.Context(), Address{Host: "far"}, through("/nowhere/ssh", nil), echo)
	if err == nil || !strings.Contains(err.Error(), "no program /nowhere/ssh") {
		t.Error(err)
	}
	err = reach(t.Context(), Address{}, Options{Server: []string{"/nowhere/kedge"}}, echo)
	if err == nil || !strings.Contains(err.Error(), "/nowhere/kedge") {
		t.Error(err)
	}
	if err = reach(t.Context(), Address{Host: "-oX"}, Options{}, echo); err == nil {
		t.Error("an address that nobody parsed was connected to")
	}
	if err = reach(t.Context(), Address{Host: "far"}, Options{SSH: "pigeon"}, echo); err == nil {
		t.Error("pigeons")
	}
}

func TestChildProcess(t *testing.T) {
	if err := reach(t.Context(), Address{}, Options{Server: []string{"cat"}}, echo); err != nil {
		t.Fatal(err)
	}
	if err := reach(t.Context(), Address{}, Options{Server: []string{"sh", "-c", "exit 127"}}, echo); err == nil {
		t.Fatal("a child that is not there was spoken to")
	}
}

// A server that minds neither the end of its input nor being asked to go is killed, with
// what it started.
func TestCloseKills(t *testing.T) {
	l := &link{name: "-:", said: newWords(nil), grace: 50 * time.Millisecond}
	err := l.start(t.Context(), []string{"sh", "-c", `trap "" TERM; echo $$; while :; do sleep 1000; done`}, true)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(l).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, err := l.Read(make([]byte, 1))
		read <- err
	}()
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Error(err)
	}
	if err := <-read; err == nil {
		t.Error("a Read outlived the connection")
	}
	var pid int
	if _, err := fmt.Sscan(line, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is alive: %v", pid, err)
	}
	if err := l.Close(); err == nil {
		t.Error("a second Close forgot what happened")
	}
}

// A process that is left behind with our stderr, as ssh leaves the master of a shared
// connection, does not hold up the end.
func TestCloseDoesNotWaitForStrangers(t *testing.T) {
	program, _ := script(t, "sleep 1000 </dev/null >/dev/null & echo $!; exit 0")
	o := through(program, nil)
	var pid int
	err := reach(t.Context(), Address{Host: "far"}, o, func(conn io.ReadWriteCloser, _ Options) error {
		_, err := fmt.Fscan(bufio.NewReader(conn), &pid)
		_ = conn.Close()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the process did not outlive ssh: %v", err)
	}
}

// With a terminal ^C reaches ssh as well, which must go on so that a client can say
// goodbye.
func TestInterruptIsIgnored(t *testing.T) {
	l := &link{name: "-:", said: newWords(nil)}
	argv := append(deafSh(), "sh", "-c", `echo $$; read x; echo "got $x"`)
	if err := l.start(t.Context(), argv, true); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := bufio.NewReader(l)
	var pid int
	if _, err := fmt.Fscanln(r, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(l, "goodbye\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); line != "got goodbye\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestConnectingEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	program, _ := script(t, "exec cat")
	for _, o := range []Options{through(program, nil), {SSH: "builtin"}} {
		if err := reach(ctx, Address{Host: "127.0.0.1", Port: 1}, o, echo); !errors.Is(err, context.Canceled) {
			t.Errorf("%q: %v", o.SSH, err)
		}
	}
}
