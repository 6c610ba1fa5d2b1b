package sshd

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// What a client that has proved a key may not ask for is refused, and the session that
// it may have is none the worse for it.
func TestRefusedRequests(t *testing.T) {
	h := newHouse(t, nil)
	c := h.dial(h.a)
	for _, kind := range []string{"tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com",
		"hostkeys-prove-00@openssh.com", "no-more-sessions@openssh.com", "keepalive@openssh.com", "", "\x00", strings.Repeat("x", 10000)} {
		if ok, reply, err := c.SendRequest(kind, true, []byte(str("")+num(0))); ok || len(reply) > 0 || err != nil {
			t.Errorf("global request %.40q: %v %q %v", kind, ok, reply, err)
		}
		if _, _, err := c.SendRequest(kind, false, nil); err != nil {
			t.Errorf("global request %.40q: %v", kind, err)
		}
	}
	for _, kind := range []string{"direct-tcpip", "forwarded-tcpip", "direct-streamlocal@openssh.com", "forwarded-streamlocal@openssh.com", "x11",
		"auth-agent@openssh.com", "tun@openssh.com", "", "Session", "session\x00", "\x1b[2J", strings.Repeat("x", 10000)} {
		ch, _, err := c.OpenChannel(kind, []byte(str("127.0.0.1")+num(22)+str("127.0.0.1")+num(1)))
		if err == nil {
			ch.Close()
			t.Errorf("a channel %.40q is opened", kind)
		}
	}
	if err := h.served(h.a, "a"); err != nil {
		t.Errorf("beside it: %v", err)
	}

	c = h.dial(h.a)
	ch, _, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	refused := []struct{ kind, payload string }{
		{"pty-req", str("xterm") + num(80) + num(24) + num(0) + num(0) + str("")}, {"shell", ""}, {"subsystem", str("sftp")}, {"subsystem", str("kedge server")},
		{"x11-req", "\x00" + str("MIT-MAGIC-COOKIE-1") + str("00") + num(0)}, {"auth-agent-req@openssh.com", ""}, {"env", str("LD_PRELOAD") + str("/tmp/x.so")},
		{"env", str("GIT_PROTOCOL") + str("version=2")}, {"env", str("SSH_ORIGINAL_COMMAND") + str("sh")}, {"window-change", num(1) + num(1) + num(1) + num(1)},
		{"signal", str("KILL")}, {"break", num(1)}, {"exit-status", num(0)}, {"exit-signal", str("KILL") + "\x00" + str("") + str("")}, {"xon-xoff", "\x01"},
		{"eow@openssh.com", ""}, {"", ""}, {strings.Repeat("x", 10000), ""},
	}
	for _, r := range refused {
		if ok, err := ch.SendRequest(r.kind, true, []byte(r.payload)); ok || err != nil {
			t.Errorf("%.40q: %v, %v", r.kind, ok, err)
		}
	}
	if second, _, err := c.OpenChannel("session", nil); err == nil {
		second.Close()
		t.Error("a second session is opened")
	}
	if ok, err := ch.SendRequest("exec", true, []byte(str("kedge server"))); !ok || err != nil {
		t.Fatalf("exec: %v, %v", ok, err)
	}
	for _, r := range append(refused, struct{ kind, payload string }{"exec", str("kedge server")}) {
		if ok, err := ch.SendRequest(r.kind, true, []byte(r.payload)); ok || err != nil {
			t.Errorf("after exec: %.40q: %v, %v", r.kind, ok, err)
		}
	}
	if _, err := io.WriteString(ch, "help\nquit\n"); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(ch)
	if err != nil || !bytes.HasSuffix(out, []byte("\nok\n")) {
		t.Errorf("%q, %v", out, err)
	}
	h.good()
}

// runs runs a command and returns all that it says.
func (h *house) runs(key ssh.Signer, command string) (out, errs string, code int) {
	h.t.Helper()
	c, err := ssh.Dial("tcp", h.addr, h.config(key))
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		h.t.Fatal(err)
	}
	var o, e bytes.Buffer
	s.Stdout, s.Stderr = &o, &e
	if err := s.Run(command); err != nil {
		code = exitCode(err)
	}
	return o.String(), e.String(), code
}

// Only the fixed forms are commands; no shell sees any.
func TestCommands(t *testing.T) {
	h := newHouse(t, nil)
	trap := filepath.Join(t.TempDir(), "trap")
	for _, command := range []string{
		"", " ", "sh", "kedge", "kedge server ", " kedge server", "kedge server\n", "kedge\nserver", "kedge server; touch " + trap, "kedge server $(touch " + trap + ")",
		"kedge server`touch " + trap + "`", "kedge server | sh", "kedge server && touch " + trap, "kedge server --repo b --role append", "kedge server --root /", "kedge server --role mirror --repo '*'",
		"kedge gc", "kedge serve", "kedge client add x y", "kedge init", "/bin/sh", "./kedge server", "bup on--server", "bup save", "bup server --upload-pack=sh", "sftp", "scp -t /", "rsync --server .",
		"git-receive-pack '/a'", "git receive-pack 'a'", "git-upload-archive 'a'", "git-upload-pack", "git-upload-pack a", "git-upload-pack --upload-pack=sh 'a'", "git-upload-pack 'a' 'b'", "git-upload-pack 'a';sh",
		"git-upload-pack 'a\x00'", "git-upload-pack \"a\"", "sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0 bup server; touch " + trap + "'", "sh -c 'BUP_DEBUG=$(touch " + trap + ") BUP_FORCE_TTY=0 bup server'",
		"\x00", "\x1b[2J", "%s%n", strings.Repeat("a", 200000), strings.Repeat("'", 1000), "kedge server\x00", "ｋedge server",
	} {
		out, errs, code := h.runs(h.a, command)
		if out != "" || code != 6 || !strings.HasPrefix(errs, "kedge: refused: ") || strings.Count(errs, "\n") != 1 || strings.ContainsAny(errs, "\x00\x1b") || len(errs) > 500 {
			t.Errorf("%.60q: exit %d %.200q %.200q", command, code, out, errs)
		}
	}
	if _, err := os.Stat(trap); err == nil {
		t.Error("a shell ran")
	}
	for _, command := range []string{"kedge server", "bup server", "sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0  bup server'", `sh -c "BUP_DEBUG=0 BUP_FORCE_TTY=0 bup server"`} {
		if out, errs, code := h.runs(h.a, command); code != 0 || out+errs != "" {
			t.Errorf("%s: exit %d %q %q", command, code, out, errs)
		}
	}
	h.good()
}

// Git is told the same of every repository that a key may not read, whether it is
// there, and no more of one that is not there than of one that is.
func TestUploadPackPaths(t *testing.T) {
	h := newHouse(t, nil)
	if err := os.Symlink("/etc", filepath.Join(h.root, "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"b", "/b", "c", "nope", "/nope", "..", "../a", "/", "~", "~root/a", "a/../b", "./b", "/etc", "/etc/passwd", ".kedge", "/.kedge/host_key", "link", "/link/passwd",
		"%2e%2e", "b/", "b.git", "--upload-pack=sh", "-b", "$(id)", "b\n", "\xff", h.root, h.root + "/b", h.root + "/../b", strings.Repeat("../", 1000)} {
		out, errs, code := h.runs(h.a, "git-upload-pack '"+path+"'")
		want := fmt.Sprintf("kedge: no such repository: %q\n", path)
		if len(path) > 256 {
			want = fmt.Sprintf("kedge: no such repository: %q\n", path[:256]+"...")
		}
		if out != "" || errs != want || code != 4 {
			t.Errorf("%.40q: exit %d %q %q", path, code, out, errs)
		}
	}
	for _, path := range []string{"a", "b", "nope"} {
		if out, errs, code := h.runs(h.blind, "git-upload-pack '"+path+"'"); out != "" || errs != "kedge: refused: this key may not read\n" || code != 6 {
			t.Errorf("without the right to read: %s: exit %d %q %q", path, code, out, errs)
		}
	}
	if err := os.RemoveAll(filepath.Join(h.root, "b")); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := h.runs(h.reader, "git-upload-pack 'b'"); errs != "kedge: no such repository: \"b\"\n" || code != 4 {
		t.Errorf("a repository that is gone: exit %d %q", code, errs)
	}
}

// Whoever has a key and misuses it harms nobody but itself.
func TestAttacksAfterLogin(t *testing.T) {
	h := newHouse(t, func(s *Server) { s.tables.mostStuck = 1000 }) // see TestBrokenProtocol
	flood := func(n int, packet func(i int) string) func(*raw) {
		return func(r *raw) {
			go io.Copy(io.Discard, r.in) // that it does not read is another attack
			for i := range n {
				if r.send(packet(i)) != nil {
					return
				}
			}
		}
	}
	open := func(kind string, id, window, packet uint32) string {
		return "\x5a" + str(kind) + num(id) + num(window) + num(packet)
	}
	in := func(window uint32, do func(*raw)) func(*raw) {
		return func(r *raw) {
			if r.open(window) == nil && r.send(request(0, "exec", false, str("kedge server"))) == nil {
				do(r)
			}
		}
	}
	data := func(s string) string { return "\x5e" + num(0) + str(s) }
	type attack struct {
		name string
		do   func(*raw)
	}
	together([]attack{
		{"silence", func(*raw) {}},
		{"a session and silence", func(r *raw) { _ = r.open(1 << 20) }},
		{"a command and silence", in(1<<20, func(*raw) {})},
		{"100,000 channels", flood(100000, func(i int) string { return open("direct-tcpip", uint32(i), 1<<20, 32768) })},
		{"100,000 sessions", flood(100000, func(i int) string { return open("session", uint32(i), 1<<20, 32768) })},
		{"100,000 sessions of one number", flood(100000, func(i int) string { return open("session", 0, 1<<20, 32768) })},
		{"100,000 global requests", flood(100000, func(int) string { return "\x50" + str("tcpip-forward") + "\x01" })},
		{"100,000 global requests without answers", flood(100000, func(int) string { return "\x50" + str("x") + "\x00" })},
		{"100,000 answers that nobody asked for", flood(100000, func(i int) string { return string(rune(81+i%2)) + "x" })},
		{"100,000 requests on a channel", func(r *raw) {
			_ = r.open(1 << 20)
			flood(100000, func(int) string { return request(0, "env", true, str("A")+str("B")) })(r)
		}},
		{"100,000 requests after the command", in(1<<20, flood(100000, func(int) string { return request(0, "signal", false, str("KILL")) }))},
		{"requests on a channel that is none", flood(10000, func(i int) string { return request(uint32(i), "exec", true, str("kedge server")) })},
		{"200,000 pings", flood(200000, func(int) string { return "\xc0" + str("x") })},
		{"requests and no reading", func(r *raw) {
			for range 100000 {
				_ = r.conn.SetWriteDeadline(time.Now().Add(4 * time.Second))
				if r.send("\xc0"+str(strings.Repeat("x", 1000))) != nil {
					return
				}
			}
		}},
		{"data for a channel that is none", func(r *raw) { _ = r.send("\x5e" + num(99) + str("x")) }},
		{"end of a channel that is none", func(r *raw) { _ = r.send("\x61" + num(99)) }},
		{"confirmation of a channel that is none", func(r *raw) { _ = r.send("\x5b" + num(0) + num(0) + num(1) + num(32768)) }},
		{"confirmation of a channel of its own", func(r *raw) { _ = r.open(1); _ = r.send("\x5b" + num(0) + num(0) + num(1) + num(32768)) }},
		{"a channel of packets of 0 bytes", func(r *raw) { _ = r.send(open("session", 1, 1<<20, 0)) }},
		{"a channel of packets of 4 GiB", func(r *raw) { _ = r.send(open("session", 1, 1<<20, 1<<32-1)) }},
		{"a window of 0", in(0, func(r *raw) { _ = r.send(data("help\n")); _ = r.send(data("help\n")) })},
		{"a window of 1", in(1, func(r *raw) { _ = r.send(data("help\n")); _ = r.send(data("help\n")) })},
		{"a window of 4 GiB", in(1<<32-1, func(r *raw) { _ = r.send(data("help\n")) })},
		{"a window beyond 4 GiB", in(1<<32-1, func(r *raw) { _ = r.send("\x5d" + num(0) + num(1<<32-1)) })},
		{"a refused command and a window of 0", func(r *raw) { _ = r.open(0); _ = r.send(request(0, "exec", true, str("sh"))) }},
		{"git and a window of 0", func(r *raw) { _ = r.open(0); _ = r.send(request(0, "exec", true, str("git-upload-pack 'a'"))) }},
		{"git and silence", func(r *raw) { _ = r.open(1 << 20); _ = r.send(request(0, "exec", true, str("git-upload-pack 'a'"))) }},
		{"more data than the window", func(r *raw) {
			_ = r.open(1 << 20)
			flood(200, func(int) string { return data(strings.Repeat("x", 32768)) })(r)
		}},
		{"more messages than the window", in(1<<20, flood(200, func(int) string { return "\x5f" + num(0) + num(1) + str(strings.Repeat("x", 32768)) }))},
		{"a packet of data that is too long", in(1<<20, func(r *raw) { _ = r.send(data(strings.Repeat("x", 100000))) })},
		{"a packet of data of a wrong length", in(1<<20, func(r *raw) { _ = r.send("\x5e" + num(0) + num(1000) + "x") })},
		{"messages of an unknown kind", in(1<<20, flood(100, func(i int) string { return "\x5f" + num(0) + num(uint32(i)) + str("x") }))},
		{"a line without an end", in(1<<20, flood(100, func(int) string { return data(strings.Repeat("x", 10000)) }))},
		{"an unknown command", in(1<<20, func(r *raw) { _ = r.send(data("rm -rf /\n")) })},
		{"nonsense", in(1<<20, func(r *raw) { _ = r.send(data(strings.Repeat("\x00\xff\n", 1000))) })},
		{"the end of what it sends", in(1<<20, func(r *raw) { _ = r.send("\x60" + num(0)) })},
		{"the end twice", in(1<<20, func(r *raw) { _ = r.send("\x60" + num(0)); _ = r.send("\x60" + num(0)) })},
		{"data after the end", in(1<<20, func(r *raw) { _ = r.send("\x60" + num(0)); _ = r.send(data("help\n")) })},
		{"the end of the channel", in(1<<20, func(r *raw) { _ = r.send("\x61" + num(0)) })},
		{"the end of the channel twice", in(1<<20, func(r *raw) { _ = r.send("\x61" + num(0)); _ = r.send("\x61" + num(0)) })},
		{"exec cut short", func(r *raw) { _ = r.open(1 << 20); _ = r.send(request(0, "exec", true, num(100)+"kedge")) }},
		{"exec with bytes behind it", func(r *raw) { _ = r.open(1 << 20); _ = r.send(request(0, "exec", true, str("kedge server")+"x")) }},
		{"exec that wants no answer", func(r *raw) { _ = r.open(1 << 20); _ = r.send(request(0, "exec", false, str("sh"))) }},
		{"another login", flood(1000, func(int) string { return authRequest("root", "none") })},
		{"a service", flood(10, func(int) string { return "\x05" + str("ssh-userauth") })},
		{"success", flood(10, func(int) string { return "\x34" })},
		{"an empty packet", func(r *raw) { _ = r.send("") }},
		{"an unknown message", flood(10, func(int) string { return "\xff" })},
		{"new keys", func(r *raw) { _ = r.send("\x15") }},
		{"a new exchange that stops", in(1<<20, func(r *raw) { _ = r.send(usualInit()) })},
		{"a new exchange with data in it", in(1<<20, func(r *raw) { _ = r.send(usualInit()); flood(10000, func(int) string { return data("help\n") })(r) })},
		{"a new exchange of weak algorithms", in(1<<20, func(r *raw) {
			_ = r.send(kexInit("diffie-hellman-group1-sha1", "ssh-dss", "none", "none", "none", "none", "none", "none", "", ""))
		})},
		{"a broken seal", in(1<<20, func(r *raw) { _ = r.write(num(32) + strings.Repeat("x", 48)) })},
		{"a disconnect", in(1<<20, func(r *raw) { _ = r.send("\x01" + num(11) + str("bye\x1b[2J") + str("")) })},
		{"a disconnect and more", in(1<<20, func(r *raw) { _ = r.send("\x01" + num(11)); _ = r.send(data("help\n")) })},
		{"half a packet", in(1<<20, func(r *raw) { _ = r.write(num(1000) + "x") })},
		{"a sealed packet of 4 GiB", in(1<<20, func(r *raw) { _ = r.write(num(1<<32 - 1)) })},
		{"a sealed packet of 256 KiB and more", in(1<<20, func(r *raw) { _ = r.write(num(256<<10 + 1)) })},
		{"a stop in the middle of a line", in(1<<20, func(r *raw) { _ = r.send(data("set-d")) })},
		{"a stop in the middle of a packet", in(1<<20, func(r *raw) { _ = r.send(data("help\n")); s := r.seal(data("help\n")); _ = r.write(s[:len(s)/2]) })},
		{"a window that is opened a byte at a time", in(0, func(r *raw) {
			_ = r.send(data("help\n"))
			for range 100 {
				if r.send("\x5d"+num(0)+num(1)) != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})},
	}, 4, func(tt attack) {
		r, err := rawDial(h.addr)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			return
		}
		defer r.conn.Close()
		if err := r.login(h.a); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			return
		}
		tt.do(r)
		if err := h.served(h.b, "b"); err != nil {
			t.Errorf("%s: meanwhile: %v", tt.name, err)
		}
		// It answers no keepalives, and is gone when these have failed, at the latest.
		if err := r.gone(6 * time.Second); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	})
	h.taken(0, 0)
	h.good()
}

// Keys are exchanged as often as a client likes, and the session goes on.
func TestRekeyStorm(t *testing.T) {
	h := newHouse(t, calm)
	config := h.config(h.a)
	config.RekeyThreshold = 256
	c, err := ssh.Dial("tcp", h.addr, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	s.Stdin = strings.NewReader(strings.Repeat("help\n", 500) + "quit\n")
	out, err := s.Output("kedge server")
	if n := bytes.Count(out, []byte("\nok\n")); err != nil || n != 500 {
		t.Errorf("%d answers, %v", n, err)
	}
	h.good()
}

// A client that is silent but alive stays; one that no longer answers goes.
func TestKeepalive(t *testing.T) {
	h := newHouse(t, calm)
	s, err := h.dial(h.a).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	var out bytes.Buffer
	s.Stdout = &out
	if err := s.Start("kedge server"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(h.s.times.dead + time.Second)
	if _, err := io.WriteString(in, "help\nquit\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil || !bytes.Contains(out.Bytes(), []byte("\nok\n")) {
		t.Errorf("%v %q", err, out.Bytes())
	}
}

// A crowd of clients that come and go leaves nothing.
func TestCrowd(t *testing.T) {
	h := newHouse(t, func(s *Server) { s.tables.perKey = 64; s.times = usualTimes() })
	var wg sync.WaitGroup
	for i := range 128 {
		wg.Go(func() {
			key, name := h.a, "a"
			if i%2 == 1 {
				key, name = h.b, "b"
			}
			if err := h.served(key, name); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
	h.taken(0, 0)
	runtime.GC()
}

// OpenSSH's client takes the server for one of its own.
func TestOpenSSHClient(t *testing.T) {
	program, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("no ssh")
	}
	h := newHouse(t, calm)
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.s.o.AuthorizedKeys, []byte(`restrict,command="kedge server --repo b --role append" `+string(pub)), 0o600); err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(h.addr, ":")
	known := filepath.Join(dir, "known")
	if err := os.WriteFile(known, []byte("["+host+"]:"+port+" "+h.s.HostKeys()[0].Line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(stdin string, args ...string) (out, errs string, code int) {
		cmd := exec.Command(program, append([]string{"-F", "none", "-p", port, "-i", key, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + known,
			"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"}, args...)...)
		var o, e bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &o, &e
		err := cmd.Run()
		if exit := (*exec.ExitError)(nil); err != nil && !asExit(err, &exit) {
			t.Fatal(err)
		}
		return o.String(), e.String(), cmd.ProcessState.ExitCode()
	}
	for _, command := range []string{"kedge server", "sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0  bup server'"} {
		out, errs, code := run("help\nset-dir b\nquit\n", host, command)
		if code != 0 || !strings.HasSuffix(out, "\nok\n\nok\n") || errs != "" {
			t.Errorf("%s: exit %d %q %q", command, code, out, errs)
		}
	}
	if out, errs, code := run("", host, "kedge gc"); code != 6 || out != "" || !strings.Contains(errs, "refused") {
		t.Errorf("exit %d %q %q", code, out, errs)
	}
	for name, args := range map[string][]string{
		"a shell": {host}, "a terminal": {"-tt", host}, "a subsystem": {"-s", host, "sftp"},
		"a port": {"-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", host, "sh"}, "a line to elsewhere": {"-W", "127.0.0.1:22", host},
	} {
		if out, _, code := run("", args...); code == 0 || out != "" {
			t.Errorf("%s: exit %d %q", name, code, out)
		}
	}
	h.taken(0, 0)
}

func asExit(err error, exit **exec.ExitError) (ok bool) {
	*exit, ok = err.(*exec.ExitError)
	return ok
}
