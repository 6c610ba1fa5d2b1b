package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// noise makes files that do not compress: one large one, and some small ones.
func noise(t testing.TB, dir string, seed uint64, size int) {
	t.Helper()
	mkdir(t, dir)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, size)
	_, _ = r.Read(b)
	write(t, dir+"/large", b[:size*3/4])
	for i := range 100 {
		at := size*3/4 + i*(size/400)
		write(t, fmt.Sprintf("%s/small%02d", dir, i), b[at:at+size/400])
	}
}

// published is how many bytes of packs a repository has.
func published(t testing.TB, repo string) (n int64) {
	t.Helper()
	names, err := filepath.Glob(repo + "/objects/pack/*.pack")
	check(t, err)
	for _, name := range names {
		info, err := os.Stat(name)
		check(t, err)
		n += info.Size()
	}
	return n
}

// A save that is interrupted, by whatever it be, is continued by the next run: what is in
// packs that were published is not sent again, and what was sent and is in none is at most
// a pack and what was under way.
func TestRemoteResume(t *testing.T) {
	const (
		packSize = 4 << 20
		total    = 48 << 20
		// Two packs that are open, trees and data, and buffers: of the client, of two
		// sockets, of the window of the channel, of the server.
		loss = 2*packSize + 12<<20
	)
	for _, victim := range []string{"client", "server", "line"} {
		t.Run(victim, func(t *testing.T) {
			s := startServe(t)
			c := s.addClient(t, "builtin", "build", "append")
			c.run(t, "init")
			repo := filepath.Join(s.root, "build")
			must(t, "git", "-C", repo, "config", "pack.packSizeLimit", fmt.Sprint(packSize))
			src := filepath.Join(t.TempDir(), "src")
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			noise(t, src, seed, total)
			kedge(t, c.home, "index", src)

			for i, limit := range []int64{5 << 20, 24 << 20, 18 << 20} {
				before := published(t, repo)
				n := c.interrupted(t, s, victim, limit, src)
				kept := published(t, repo) - before
				t.Logf("run %d: %d KiB were sent, %d KiB are in packs", i, n>>10, kept>>10)
				if kept < n-loss {
					t.Errorf("run %d: %d bytes were sent, and only %d are in packs", i, n, kept)
				}
				if kept > n {
					t.Errorf("run %d: %d bytes were sent, and %d are in packs: they are not counted", i, n, kept)
				}
			}
			before := published(t, repo)
			if before < 20<<20 { // 47 MiB were sent
				t.Errorf("after three runs %d bytes are in packs", before)
			}
			p := new(proxy)
			p.listen(t, s.port)
			if r := s.known(t, c.through(p), p.port).try(t, "save", "-n", "x", src); r.code != 0 {
				t.Fatalf("the save after the interruptions: exit %d\n%s", r.code, r.err)
			}
			rest := published(t, repo) - before
			t.Logf("last run: %d KiB were sent, %d KiB are in packs", p.up.Load()>>10, rest>>10)
			if n := p.up.Load(); n > rest+rest/50+256<<10 {
				t.Errorf("%d bytes were sent for %d that were not there", n, rest)
			}
			if n := published(t, repo); n > total+total/20 {
				t.Errorf("%d bytes are stored of %d", n, total)
			}
			same(t, take(t, src), c.restored(t, src))
			c.run(t, "fsck")
			gitClean(t, repo)
			leftovers(t, repo)
		})
	}
}

// interrupted runs a save and interrupts it when limit bytes went up. It returns how many
// did.
func (c client) interrupted(t *testing.T, s *server, victim string, limit int64, src string) int64 {
	t.Helper()
	var pid atomic.Int64
	p := &proxy{}
	p.cut = func(n int64) bool {
		if n <= limit {
			return false
		}
		switch victim {
		case "client":
			_ = syscall.Kill(int(pid.Load()), syscall.SIGKILL)
		case "server":
			_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		}
		return true
	}
	p.listen(t, s.port)
	there := s.known(t, c.through(p), p.port)
	args := append([]string{"-d", there.home, "save", "-r", there.url, "-n", "x"}, append(there.args, src)...)
	cmd := exec.Command(binary, args...)
	cmd.Env = append([]string{"HOME=" + home(t), "TZ=UTC"}, there.env...)
	var msg bytes.Buffer
	cmd.Stderr = &msg
	check(t, cmd.Start())
	pid.Store(int64(cmd.Process.Pid))
	if err := cmd.Wait(); err == nil {
		t.Errorf("a save that was interrupted after %d bytes says that it is done", limit)
	} else if victim != "client" && bytes.Contains(msg.Bytes(), []byte("panic")) {
		t.Errorf("the client says: %s", msg.Bytes())
	}
	if victim == "server" {
		_ = s.cmd.Wait()
		s.up(t)
	} else {
		s.quiet(t)
	}
	return p.up.Load()
}

// quiet waits until the server has noticed that a client is gone: what that had asked for
// is still done, and what was being received is thrown away.
func (s *server) quiet(t *testing.T) {
	t.Helper()
	for range 1200 {
		sessions, err := filepath.Glob(s.root + "/build/kedge/sessions/*")
		check(t, err)
		if len(sessions) == 0 {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Error("the session of a client that is gone stays")
}

// A save over a slow line is checkpointed every minute, whatever the size of packs: a line
// that is cut then costs no more than that.
func TestRemoteCheckpoint(t *testing.T) {
	if !full {
		t.Skip("takes minutes; KEDGE_SWEEP=full")
	}
	const rate = 1 << 20
	s := startServe(t)
	c := s.addClient(t, "builtin", "build", "append")
	c.run(t, "init")
	src := filepath.Join(t.TempDir(), "src")
	noise(t, src, 7, 160<<20)
	kedge(t, c.home, "index", src)
	slow := c
	slow.args = append(slow.args[:len(slow.args):len(slow.args)], "--bwlimit", fmt.Sprint(rate))
	n := slow.interrupted(t, s, "line", 140*rate, src)
	kept := published(t, filepath.Join(s.root, "build"))
	t.Logf("%d KiB were sent, %d KiB are in packs", n>>10, kept>>10)
	if kept < n-80*rate {
		t.Errorf("%d bytes were sent, a MiB a second, and %d are in packs", n, kept)
	}
}

// What is sent a second is bounded by --bwlimit. How long a save takes at least follows
// from that; how long it takes at most nobody can say.
func TestRemoteBandwidth(t *testing.T) {
	const rate = 1 << 20
	src := filepath.Join(t.TempDir(), "src")
	noise(t, src, 3, 6<<20)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			s := w.serv(t)
			c := s.addClient(t, w.ssh, "build", "append")
			c.run(t, "init")
			kedge(t, c.home, "index", src)
			start := time.Now()
			if r := c.try(t, "save", "--bwlimit", fmt.Sprint(rate), "-n", "x", src); r.code != 0 {
				t.Fatalf("save: exit %d\n%s", r.code, r.err)
			}
			took, n := time.Since(start), published(t, filepath.Join(s.root, "build"))
			if least := time.Duration(n-2<<20) * time.Second / rate; took < least {
				t.Errorf("%d bytes took %v, and at %d a second it takes %v", n, took, rate, least)
			}
		})
	}
}
