package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// apart is a client and a server in network namespaces of their own: two hosts that can
// reach one another only through a gap, whose one end listens on the client's loopback
// and whose other end dials on the server's.
type apart struct {
	*server
	client
	gap
	there, here string // namespaces
}

// gap is a line that takes its time, stalls and breaks.
type gap struct {
	delay     time.Duration // in each direction
	sent, got atomic.Int64  // bytes that came through, up and down
	stallAt   atomic.Int64  // bytes up after which nothing moves any more; 0: never
	cutAt     atomic.Int64  // bytes up after which the connection is cut; 0: never

	mu   sync.Mutex
	open []net.Conn
}

// newApart starts a server on one host, and gives the other one a key for it.
func newApart(t *testing.T, w way, delay time.Duration) *apart {
	t.Helper()
	needRoot(t)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip")
	}
	a := &apart{server: w.serv(t), gap: gap{delay: delay}}
	a.there, a.here = namespace(t, "there"), namespace(t, "here")
	stop(a.cmd, syscall.SIGTERM)
	cmd := a.start()
	a.cmd = exec.Command("ip", append([]string{"netns", "exec", a.there}, cmd.Args...)...)
	a.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home(t), "TZ=UTC"}
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	check(t, a.cmd.Start())
	t.Cleanup(func() { stop(a.cmd, syscall.SIGTERM) })
	a.client = a.addClient(t, w.ssh, "build", "append")
	at := fmt.Sprintf("127.0.0.1:%d", a.port)
	dial := func() (c net.Conn, err error) {
		within(a.there, func() { c, err = net.Dial("tcp", at) })
		return c, err
	}
	for range 1200 {
		if c, err := dial(); err == nil {
			c.Close()
			a.listen(t, at, dial)
			return a
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal("the server does not answer")
	return nil
}

// namespace makes a network namespace with nothing but a loopback in it.
func namespace(t *testing.T, name string) string {
	t.Helper()
	name = fmt.Sprintf("kedge-%s-%d-%d", name, os.Getpid(), time.Now().UnixNano()%1e6)
	if r := command(t, nil, "ip", "netns", "add", name); r.code != 0 {
		t.Skipf("no network namespaces here: %s", r.err)
	}
	t.Cleanup(func() { command(t, nil, "ip", "netns", "del", name) })
	must(t, "ip", "-n", name, "link", "set", "lo", "up")
	return name
}

// within calls fn on a thread in a namespace: the sockets that it makes belong there for
// good. The thread ends with it.
func within(namespace string, fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f, err := os.Open("/run/netns/" + namespace)
		if err == nil {
			defer f.Close()
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			fn()
		}
	}()
	<-done
}

func (a *apart) listen(t *testing.T, at string, dial func() (net.Conn, error)) {
	t.Helper()
	var l net.Listener
	within(a.here, func() { l, _ = net.Listen("tcp", at) })
	if l == nil {
		t.Fatal("no listener in the namespace")
	}
	t.Cleanup(func() { l.Close(); a.cut() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			time.Sleep(2 * a.delay) // as connecting takes
			out, err := dial()
			if err != nil {
				in.Close()
				continue
			}
			a.mu.Lock()
			a.open = append(a.open, in, out)
			a.mu.Unlock()
			go a.carry(out, in, &a.sent)
			go a.carry(in, out, &a.got)
		}
	}()
}

// cut cuts all connections.
func (g *gap) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.open {
		c.Close()
	}
	g.open = nil
}

// carry copies from one end to the other, each piece delay later than it came. What has
// not arrived when the line stalls never does.
func (g *gap) carry(to, from net.Conn, n *atomic.Int64) {
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
				pieces <- piece{time.Now().Add(g.delay), b[:n]}
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
		if at := g.stallAt.Load(); at > 0 && g.sent.Load() >= at {
			for range pieces { // until somebody gives up
			}
			return
		}
		if at := g.cutAt.Load(); at > 0 && g.sent.Load() >= at {
			g.cut()
			return
		}
		if _, err := to.Write(x.b); err != nil {
			_, _ = io.Copy(io.Discard, from)
			return
		}
		n.Add(int64(len(x.b)))
	}
}

// try runs kedge on the client's host. That it ends within limit is part of what is tried.
func (a *apart) try(t *testing.T, limit time.Duration, args ...string) result {
	t.Helper()
	a.sent.Store(0)
	a.got.Store(0)
	argv := []string{"netns", "exec", a.here, "timeout", "-s", "KILL", fmt.Sprint(limit.Seconds()), binary, "-d", a.home, args[0]}
	if args[0] != "index" {
		argv = append(append(argv, "-r", a.url), a.args...)
	}
	at := time.Now()
	r := command(t, a.env, "ip", append(argv, args[1:]...)...)
	t.Logf("%-10s %6.2f s, %d bytes up, %d down", args[0], time.Since(at).Seconds(), a.sent.Load(), a.got.Load())
	if r.code == 137 {
		t.Fatalf("kedge %q did not end within %v\n%s", args, limit, r.err)
	}
	return r
}

// run is try, and expects it to succeed with at most so many bytes moved.
func (a *apart) run(t *testing.T, most int64, args ...string) string {
	t.Helper()
	r := a.try(t, 5*time.Minute, args...)
	if r.code != 0 {
		t.Fatalf("kedge %q: exit %d\n%s%s", args, r.code, r.out, r.err)
	}
	if n := a.sent.Load() + a.got.Load(); n > most {
		t.Errorf("kedge %q moved %d bytes, more than %d", args, n, most)
	}
	return r.out
}

// apartWays are the two ways that share nothing but the protocol.
func apartWays() []way { return []way{ways[0], ways[3]} }

// Two hosts 100 ms apart: everything works, and reading a little moves little. (How many
// round trips it takes is counted in package remote, on a clock that knows.)
func TestDelay(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(11, 11)), src, 120)
	write(t, src+"/big", []byte(must(t, "seq", "1", "3000000")))
	write(t, src+"/small", []byte("small\n"))
	for _, w := range apartWays() {
		t.Run(w.name, func(t *testing.T) {
			a := newApart(t, w, 50*time.Millisecond)
			save := []string{"save", "-n", "x", src}
			a.run(t, 32<<10, "init")
			a.run(t, 1<<10, "index", src)
			a.run(t, 256<<20, save...)
			a.run(t, 1<<10, "index", src)
			a.run(t, 64<<10, save...)
			a.run(t, 32<<10, "ls")
			if got := a.run(t, 64<<10, "cat-file", "x/latest"+src+"/small"); got != "small\n" {
				t.Errorf("cat-file: %q", got)
			}
			out := target(t)
			a.run(t, 64<<10, "restore", "-C", out, "x/latest"+src+"/small")
			if got, err := os.ReadFile(out + "/small"); err != nil || string(got) != "small\n" {
				t.Errorf("restored: %q, %v", got, err)
			}
			out = target(t)
			a.run(t, 256<<20, "restore", "-C", out, "x/latest"+src+"/.")
			same(t, take(t, src), take(t, out))
		})
	}
}

// A line that is cut or stalls in the middle of a save ends in an error that says so, in
// bounded time; the server lets go of the session, and the next save succeeds.
func TestDelayBreaks(t *testing.T) {
	src := mkdir(t, t.TempDir(), "src")
	write(t, src+"/big", []byte(must(t, "seq", "1", "2500000")))
	stalls := []bool{false}
	if full {
		stalls = append(stalls, true) // it takes as long as the keepalives
	}
	for _, w := range apartWays() {
		for _, stall := range stalls {
			t.Run(fmt.Sprintf("%s/stall=%v", w.name, stall), func(t *testing.T) {
				t.Parallel()
				breaks(t, newApart(t, w, 5*time.Millisecond), stall, src)
			})
		}
	}
}

func breaks(t *testing.T, a *apart, stall bool, src string) {
	a.run(t, 1<<20, "init")
	a.run(t, 1<<10, "index", src)
	at := &a.cutAt
	if stall {
		at = &a.stallAt
	}
	at.Store(300_000)
	r := a.try(t, 2*time.Minute, "save", "-n", "x", src)
	if r.code != 1 && r.code != 7 || !strings.Contains(r.err, "connection to") || !strings.Contains(r.err, "lost") {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
	repo := filepath.Join(a.root, "build")
	var left []string
	for range 240 {
		if left, _ = filepath.Glob(repo + "/kedge/sessions/*"); len(left) == 0 {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	if len(left) > 0 {
		t.Errorf("the server holds on to %q", left)
	}
	at.Store(0)
	a.run(t, 256<<20, "save", "-n", "x", src)
	out := target(t)
	a.run(t, 256<<20, "restore", "-C", out, "x/latest"+src+"/.")
	same(t, take(t, src), take(t, out))
	gitClean(t, repo)
}
