package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// served is the kedge serve that a script has started, in its value of this key.
type servedKey struct{}

// scriptServe starts kedge serve, or stops it:
//
//	serve ARGS...   at a free port of 127.0.0.1; $SERVER is then its HOST:PORT, and
//	                known_hosts, serve.out and serve.err are in $WORK
//	serve -stop     with SIGTERM; it must end with exit code 0
func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: serve ARGS... or serve -stop")
	}
	running, _ := ts.Value(servedKey{}).(*exec.Cmd)
	if len(args) == 1 && args[0] == "-stop" {
		if running == nil || running.Process == nil {
			ts.Fatalf("nothing is served")
		}
		ts.Check(running.Process.Signal(syscall.SIGTERM))
		ts.Check(running.Wait())
		return
	}
	if running.Process != nil && running.ProcessState == nil {
		ts.Fatalf("it is served already")
	}
	out, err := os.Create(ts.MkAbs("serve.out"))
	ts.Check(err)
	defer out.Close()
	log, err := os.Create(ts.MkAbs("serve.err"))
	ts.Check(err)
	defer log.Close()
	*running = *exec.Command("sh", append([]string{"-c", `exec kedge serve --listen 127.0.0.1:0 "$@"`, "sh"}, args...)...)
	running.Dir, running.Stdout, running.Stderr = ts.MkAbs("."), out, log
	for _, name := range []string{"PATH", "HOME", "TZ", "KEDGE_ROOT"} {
		running.Env = append(running.Env, name+"="+ts.Getenv(name))
	}
	ts.Check(running.Start())
	ts.Defer(func() {
		if running.ProcessState == nil {
			_ = running.Process.Kill()
			_ = running.Wait()
		}
	})
	ts.Setenv("SERVER", awaitListening(ts))
	key, err := os.ReadFile(ts.MkAbs("serve.out"))
	ts.Check(err)
	if _, line, ok := strings.Cut(string(key), "known_hosts line "); ok {
		line, _, _ = strings.Cut(line, "\n")
		ts.Check(os.WriteFile(ts.MkAbs("known_hosts"), []byte(line+"\n"), 0o600))
	}
}

// awaitListening returns the address that the server says it listens at.
func awaitListening(ts *testscript.TestScript) string {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		f, err := os.Open(filepath.Join(ts.MkAbs("."), "serve.out"))
		ts.Check(err)
		line, err := bufio.NewReader(f).ReadString('\n')
		f.Close()
		var at string
		if _, e := fmt.Sscanf(line, "listening on %s", &at); e == nil && err == nil {
			return at
		}
	}
	text, _ := os.ReadFile(ts.MkAbs("serve.err"))
	ts.Fatalf("the server does not listen\n%s", text)
	return ""
}
