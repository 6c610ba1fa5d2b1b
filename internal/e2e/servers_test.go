package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A server keeps repositories for clients, in one of the ways that there are.
type server struct {
	root  string // of the repositories
	bin   string // directory of kedge, if a login's PATH is not ours to set
	keys  string // directory of the keys of clients and hosts
	port  int
	start func() *exec.Cmd
	cmd   *exec.Cmd
}

// A client is how kedge is called to reach a repository on a server.
type client struct {
	url  string
	home string   // its -d: the index
	env  []string // its environment
	args []string
}

// A way is a way to reach a server.
type way struct {
	name string
	ssh  string // the client's
	serv func(t testing.TB) *server
}

var ways = []way{
	{"openssh-openssh", "system", startSSHD},
	{"builtin-openssh", "builtin", startSSHD},
	{"openssh-serve", "system", startServe},
	{"builtin-serve", "builtin", startServe},
}

// newServer makes what both kinds of servers need: a root, and a key for the host.
func newServer(t testing.TB) *server {
	t.Helper()
	dir := t.TempDir()
	check(t, os.Chmod(dir, 0o755))
	s := &server{root: mkdir(t, dir, "root"), keys: mkdir(t, dir, "keys"), port: freePort(t)}
	mkdir(t, s.root, ".kedge")
	s.keygen(t, "host")
	return s
}

// keygen makes a key and returns its file.
func (s *server) keygen(t testing.TB, name string) string {
	t.Helper()
	file := filepath.Join(s.keys, name)
	must(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file)
	return file
}

func (s *server) authorized() string { return filepath.Join(s.root, ".kedge", "authorized_keys") }

// config is what a forced command takes for the config file, if a test has written it.
func (s *server) config() string { return filepath.Join(s.keys, "kedge.toml") }

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startSSHD starts OpenSSH's server, for which kedge is a forced command.
func startSSHD(t testing.TB) *server {
	t.Helper()
	needRoot(t)
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		t.Skip("needs sshd")
	}
	s := newServer(t)
	check(t, os.MkdirAll("/run/sshd", 0o755))
	config := filepath.Join(s.keys, "sshd_config")
	bin := mkdir(t, s.keys, "bin")
	s.bin = bin
	check(t, os.Symlink(binary, bin+"/kedge"))
	check(t, os.Symlink(binary, bin+"/bup"))
	// With SHLVL bash does not take itself for a login's, and reads no .bashrc, which may take long.
	write(t, config, fmt.Appendf(nil, `Port %d
ListenAddress 127.0.0.1
HostKey %s/host
AuthorizedKeysFile %s
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin forced-commands-only
MaxStartups 200
SetEnv KEDGE_ROOT=%s KEDGE_CONFIG=%s PATH=%s:%s TZ=UTC SHLVL=2
`, s.port, s.keys, s.authorized(), s.root, s.config(), bin, os.Getenv("PATH")))
	s.start = func() *exec.Cmd { return exec.Command(sshd, "-D", "-e", "-f", config) }
	s.up(t)
	return s
}

// startServe starts kedge's own SSH server.
func startServe(t testing.TB) *server {
	t.Helper()
	s := newServer(t)
	write(t, s.authorized(), nil)
	s.start = func() *exec.Cmd {
		return exec.Command(binary, "serve", "--root", s.root, "--listen", fmt.Sprintf("127.0.0.1:%d", s.port),
			"--authorized-keys", s.authorized(), "--host-key", s.keys+"/host")
	}
	s.up(t)
	return s
}

// up starts the server and waits until it answers.
func (s *server) up(t testing.TB) {
	t.Helper()
	s.cmd = s.start()
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home(t), "TZ=UTC"}
	log, err := os.OpenFile(s.keys+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(t, err)
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	check(t, s.cmd.Start())
	cmd := s.cmd
	t.Cleanup(func() { stop(cmd, syscall.SIGTERM) })
	for range 1200 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	text, _ := os.ReadFile(s.keys + "/log")
	t.Fatalf("the server does not answer\n%s", text)
}

// stop ends a server and the processes that serve its sessions.
func stop(cmd *exec.Cmd, sig syscall.Signal) {
	_ = syscall.Kill(-cmd.Process.Pid, sig)
	_ = cmd.Wait()
}

// stopAll kills a server with all that it has started, whatever group that is in: sshd
// gives each session one of its own. They are stopped before they are killed, so that none
// starts another meanwhile.
func stopAll(cmd *exec.Cmd) {
	family := map[int]bool{cmd.Process.Pid: true}
	_ = cmd.Process.Signal(syscall.SIGSTOP)
	for n := 0; n < len(family); {
		n = len(family)
		for pid, parent := range processes() {
			if family[parent] && !family[pid] {
				family[pid] = true
				_ = syscall.Kill(pid, syscall.SIGSTOP)
			}
		}
	}
	for pid := range family {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = cmd.Wait()
}

// processes returns the parents of all processes.
func processes() map[int]int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	parents := make(map[int]int, len(stats))
	for _, file := range stats {
		text, _ := os.ReadFile(file)
		name := bytes.LastIndexByte(text, ')') // it may hold anything
		var pid, parent int
		var state string
		if name < 0 {
			continue
		}
		_, err := fmt.Sscan(string(text), &pid)
		if _, err2 := fmt.Sscan(string(text[name+1:]), &state, &parent); err == nil && err2 == nil {
			parents[pid] = parent
		}
	}
	return parents
}

// addClient gives a new key a role for a repository and returns how to use it.
func (s *server) addClient(t testing.TB, ssh, repo, role string, more ...string) client {
	t.Helper()
	name := fmt.Sprintf("%s-%s-%d", strings.ReplaceAll(repo, "*", "all"), role, time.Now().UnixNano())
	key := s.keygen(t, name)
	must(t, binary, append([]string{"client", "add", "--root", s.root, "--authorized-keys", s.authorized(), repo, key + ".pub", "--role", role}, more...)...)
	if s.bin != "" {
		must(t, "sed", "-i", `s|command="kedge |command="`+s.bin+`/kedge |`, s.authorized())
	}
	known := filepath.Join(s.keys, "known_hosts")
	pub, err := os.ReadFile(s.keys + "/host.pub")
	check(t, err)
	write(t, known, fmt.Appendf(nil, "[127.0.0.1]:%d %s", s.port, pub))
	script := filepath.Join(mkdir(t, s.keys, "bin-"+name), "ssh")
	write(t, script, fmt.Appendf(nil, `#!/bin/sh
exec /usr/bin/ssh -F none -p %d -i %s -o IdentitiesOnly=yes -o UserKnownHostsFile=%s -o StrictHostKeyChecking=yes -o BatchMode=yes "$@"
`, s.port, key, known))
	check(t, os.Chmod(script, 0o755))
	c := client{
		url: fmt.Sprintf("ssh://root@127.0.0.1:%d/%s", s.port, repo), home: mkdir(t, s.keys, "home-"+name),
		env: []string{"PATH=" + filepath.Dir(script) + ":" + os.Getenv("PATH"), "KEDGE_CACHE_DIR=" + s.keys + "/cache-" + name},
	}
	if ssh == "builtin" {
		c.args = []string{"--ssh", "builtin", "--ssh-key", key, "--known-hosts", known}
	} else {
		c.args = []string{"--ssh", "system"}
	}
	return c
}

// try runs kedge on the repository of the client.
func (c client) try(t testing.TB, args ...string) result {
	t.Helper()
	all := append([]string{"-d", c.home, args[0], "-r", c.url}, c.args...)
	return command(t, c.env, binary, append(all, args[1:]...)...)
}

// run is try, and expects it to succeed.
func (c client) run(t testing.TB, args ...string) string {
	t.Helper()
	r := c.try(t, args...)
	if r.code != 0 {
		t.Fatalf("kedge %q on %s: exit %d\n%s%s", args, c.url, r.code, r.out, r.err)
	}
	return r.out
}

// save indexes and saves src as x.
func (c client) save(t testing.TB, src string) result {
	t.Helper()
	kedge(t, c.home, "index", src)
	return c.try(t, "save", "-n", "x", src)
}

// restored restores the latest save of src and describes it.
func (c client) restored(t testing.TB, src string) snapshot {
	t.Helper()
	out := target(t)
	c.run(t, "restore", "-C", out, "x/latest"+src+"/.")
	return take(t, out)
}

// proxy passes connections on to a port and counts what goes through it.
type proxy struct {
	port     int
	up, down atomic.Int64 // bytes
	delay    time.Duration
	cut      func(n int64) bool // whether to cut when n bytes went up
}

func (p *proxy) listen(t testing.TB, to int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	p.port = l.Addr().(*net.TCPAddr).Port
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to))
			if err != nil {
				in.Close()
				continue
			}
			go p.pipe(out, in, &p.up)
			go p.pipe(in, out, &p.down)
		}
	}()
}

// pipe copies from one end to the other, each piece delay later than it came.
func (p *proxy) pipe(to, from net.Conn, c *atomic.Int64) {
	type piece struct {
		at time.Time
		b  []byte
	}
	pieces := make(chan piece, 4096)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 64<<10)
			n, err := from.Read(b)
			if n > 0 {
				pieces <- piece{time.Now().Add(p.delay), b[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	defer to.Close()
	defer from.Close()
	for x := range pieces {
		time.Sleep(time.Until(x.at))
		if n := c.Add(int64(len(x.b))); p.cut != nil && c == &p.up && p.cut(n) {
			return
		}
		if _, err := to.Write(x.b); err != nil {
			_, _ = io.Copy(io.Discard, from)
			return
		}
	}
}

// through returns the client with its connections through the proxy.
func (c client) through(p *proxy) client {
	at := strings.LastIndex(c.url, ":")
	slash := strings.Index(c.url[at:], "/")
	c.url = fmt.Sprintf("%s:%d%s", c.url[:at], p.port, c.url[at+slash:])
	return c
}
