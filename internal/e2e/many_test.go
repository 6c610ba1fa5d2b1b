package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Many clients at once, into repositories of their own and into one that they share:
// nobody is sent away, no save is lost, and a session costs at most 32 MiB.
func TestRemoteMany(t *testing.T) {
	own, shared := 24, 8
	if full {
		own = 64
	}
	common := filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(5, 5)), common, 40)
	s := startServe(t)
	base := peak(t, s.cmd.Process.Pid)
	var clients []client
	var sources []string
	for i := range own + shared {
		repo := fmt.Sprintf("host%d", i)
		if i >= own {
			repo = "shared"
		}
		clients = append(clients, s.addClient(t, "builtin", repo, "append"))
		src := filepath.Join(t.TempDir(), "src")
		must(t, "cp", "-a", common, src)
		noise := make([]byte, 4<<20)
		r := rand.NewChaCha8([32]byte{byte(i)})
		_, _ = r.Read(noise)
		write(t, src+"/own", noise)
		sources = append(sources, src)
	}
	at := time.Now()
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			if r := c.try(t, "init"); r.code != 0 {
				t.Errorf("init of client %d: exit %d\n%s", i, r.code, r.err)
				return
			}
			if r := c.save(t, sources[i]); r.code != 0 {
				t.Errorf("save of client %d: exit %d\n%s", i, r.code, r.err)
			}
		})
	}
	wg.Wait()
	took := time.Since(at)
	if t.Failed() {
		log, _ := os.ReadFile(s.keys + "/log")
		t.Fatalf("the server says\n%s", log)
	}
	rss := peak(t, s.cmd.Process.Pid) - base
	t.Logf("%d clients in %v, %d KiB a session", len(clients), took.Round(time.Millisecond), rss/int64(len(clients)))
	if rss > int64(len(clients))*32<<10 {
		t.Errorf("the server took %d KiB for %d sessions", rss, len(clients))
	}
	for i := range own {
		repo := filepath.Join(s.root, fmt.Sprintf("host%d", i))
		same(t, take(t, sources[i]), restored(t, repo, sources[i]))
	}
	repo := filepath.Join(s.root, "shared")
	gitClean(t, repo)
	kedge(t, repo, "fsck")
	saves := strings.Fields(must(t, "git", "-C", repo, "rev-list", "x"))
	if len(saves) != shared {
		t.Fatalf("%d saves of %d arrived in the shared repository", len(saves), shared)
	}
	for i := own; i < own+shared; i++ { // whoever came last, each save is that of one client
		want, err := os.ReadFile(sources[i] + "/own")
		check(t, err)
		found := 0
		for n := range saves {
			out := t.TempDir()
			name := strings.TrimSuffix(strings.Split(kedge(t, repo, "ls", "x"), "\n")[n], "/")
			if r := tryKedge(t, repo, "restore", "-C", out, "x/"+name+sources[i]+"/own"); r.code != 0 {
				continue
			}
			if got, err := os.ReadFile(out + "/own"); err == nil && bytes.Equal(got, want) {
				found++
			}
		}
		if found != 1 {
			t.Errorf("the save of client %d is there %d times", i, found)
		}
	}
}

// As many as there are places log in at the same moment, from one address: all are served,
// by both clients.
func TestRemoteLogins(t *testing.T) {
	n := 24
	if full {
		n = 64
	}
	for _, ssh := range []string{"builtin", "system"} {
		t.Run(ssh, func(t *testing.T) {
			s := startServe(t)
			var clients []client
			for i := range n {
				clients = append(clients, s.addClient(t, ssh, "host"+strconv.Itoa(i), "append"))
			}
			var wg sync.WaitGroup
			for i, c := range clients {
				wg.Go(func() {
					if r := c.try(t, "init"); r.code != 0 {
						t.Errorf("client %d: exit %d\n%s", i, r.code, r.err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// A server that is told to stop lets saves end and takes no new ones; one that has to be
// cut costs nothing that was acknowledged.
func TestRemoteStop(t *testing.T) {
	src := mkdir(t, t.TempDir(), "src")
	for i := range 40 {
		noise := make([]byte, 1<<20)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(noise)
		write(t, fmt.Sprintf("%s/%d", src, i), noise)
	}
	s := startServe(t)
	c := s.addClient(t, "builtin", "build", "append")
	c.run(t, "init")
	kedge(t, c.home, "index", src)
	saved := make(chan result, 1)
	go func() { saved <- c.try(t, "save", "--bwlimit", "16M", "-n", "x", src) }()
	quarantine := filepath.Join(s.root, "build", "kedge", "tmp")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) { // until something has come
		if size, err := strconv.Atoi(strings.Fields(command(t, nil, "du", "-sb", quarantine).out)[0]); err == nil && size > 1<<20 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nothing arrives")
		}
	}
	at := time.Now()
	check(t, s.cmd.Process.Signal(syscall.SIGTERM))
	if r := c.try(t, "ls"); r.code == 0 {
		t.Error("a server that stops takes new clients")
	}
	if r := <-saved; r.code != 0 {
		t.Errorf("the save that was open: exit %d\n%s", r.code, r.err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the server: %v", err)
	}
	t.Logf("stopped after %v", time.Since(at).Round(time.Millisecond))
	repo := filepath.Join(s.root, "build")
	same(t, take(t, src), restored(t, repo, src))
	leftovers(t, repo)
	s.up(t)
	if got := c.run(t, "ls"); got != "x\n" {
		t.Errorf("after the start: %q", got)
	}
}

// Whoever has no key costs little: thousands of connections that stall in the middle of
// the handshake, and as many that hang up, while clients with a key are served.
func TestRemoteFlood(t *testing.T) {
	n := 1000
	if full {
		n = 10000
	}
	s := startServe(t)
	c := s.addClient(t, "builtin", "build", "append")
	c.run(t, "init")
	say := []string{"", "SSH-2.0-x\r\n", "GET / HTTP/1.0\r\n\r\n", "SSH-2.0-x\r\n\x00\x00\x01\x00\x04\x14"}
	var open []net.Conn
	defer func() {
		for _, l := range open {
			l.Close()
		}
	}()
	for i := range n {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 2, byte(i%500>>8), byte(i%500))}}
		l, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		check(t, err)
		_, _ = l.Write([]byte(say[i%len(say)]))
		if i%2 == 0 {
			l.Close()
			continue
		}
		open = append(open, l)
		if i%(n/4) == n/8+1 {
			c.run(t, "ls")
		}
	}
	c.run(t, "ls")
	rss := peak(t, s.cmd.Process.Pid)
	t.Logf("%d MiB", rss>>10)
	if rss > 512<<10 {
		t.Errorf("the server took %d KiB", rss)
	}
}
