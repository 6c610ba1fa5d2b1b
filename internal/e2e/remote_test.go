package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Over each way to a server: a tree of hard cases and its changes are saved, listed,
// read and restored, and git finds nothing wrong on the server.
func TestRemote(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	hardCases(t, src)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			s := w.serv(t)
			c := s.addClient(t, w.ssh, "build", "append")
			c.run(t, "init")
			c.run(t, "init") // again is harmless
			if r := c.save(t, src); r.code != 0 {
				t.Fatalf("save: exit %d\n%s", r.code, r.err)
			}
			same(t, take(t, src), c.restored(t, src))
			write(t, src+"/new-"+w.name, []byte("new\n"))
			if r := c.save(t, src); r.code != 0 {
				t.Fatalf("second save: exit %d\n%s", r.code, r.err)
			}
			same(t, take(t, src), c.restored(t, src))
			if got := c.run(t, "cat-file", "x/latest"+src+"/new-"+w.name); got != "new\n" {
				t.Errorf("cat-file: %q", got)
			}
			if got := c.run(t, "ls"); got != "x\n" {
				t.Errorf("ls: %q", got)
			}
			if got := strings.Count(c.run(t, "ls", "x"), "\n"); got != 3 {
				t.Errorf("ls x has %d lines", got)
			}
			c.run(t, "fsck")
			top := c
			top.url = strings.TrimSuffix(c.url, "build")
			if got := top.run(t, "ls"); got != "build\n" {
				t.Errorf("ls of the server: %q", got)
			}
			repo := filepath.Join(s.root, "build")
			gitClean(t, repo)
			kedge(t, repo, "fsck")
			same(t, take(t, src), restored(t, repo, src))
		})
	}
}

// peak returns the most memory a process has had, in KiB.
func peak(t testing.TB, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(t, err)
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			check(t, err)
			return n
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// An unchanged night costs a handful of messages, however much there is.
func TestRemoteUnchanged(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	files := 2000
	if full {
		files = 100_000
	}
	mkdir(t, src)
	for i := range files {
		if i%200 == 0 {
			mkdir(t, fmt.Sprintf("%s/%d", src, i/200))
		}
		write(t, fmt.Sprintf("%s/%d/%d", src, i/200, i), fmt.Appendf(nil, "file %d\n", i))
	}
	s := startServe(t)
	c := s.addClient(t, "builtin", "build", "append")
	c.run(t, "init")
	if r := c.save(t, src); r.code != 0 {
		t.Fatalf("save: exit %d\n%s", r.code, r.err)
	}
	p := new(proxy)
	p.listen(t, s.port)
	c = s.known(t, c.through(p), p.port)
	if r := c.save(t, src); r.code != 0 {
		t.Fatalf("unchanged save: exit %d\n%s", r.code, r.err)
	}
	if n := p.up.Load() + p.down.Load(); n > 64<<10 {
		t.Errorf("an unchanged save took %d bytes, %d of them up", n, p.up.Load())
	}
	t.Logf("an unchanged save of %d files: %d bytes up, %d down", files, p.up.Load(), p.down.Load())
}

// known lets the client know the host at another port.
func (s *server) known(t testing.TB, c client, port int) client {
	t.Helper()
	pub, err := os.ReadFile(s.keys + "/host.pub")
	check(t, err)
	f, err := os.OpenFile(filepath.Join(s.keys, "known_hosts"), os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	defer f.Close()
	_, err = fmt.Fprintf(f, "[127.0.0.1]:%d %s", port, pub)
	check(t, err)
	return c
}

// A line that is cut in the middle of a save costs what was not published yet;
// the next run goes on by itself.
func TestRemoteCut(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	mkdir(t, src)
	write(t, src+"/big", []byte(must(t, "seq", "1", "1500000")))
	s := startServe(t)
	c := s.addClient(t, "builtin", "build", "append")
	c.run(t, "init")
	kedge(t, c.home, "index", src)
	for i := range 6 {
		limit := int64(2000 + i*i*60_000)
		p := &proxy{cut: func(n int64) bool { return n > limit }}
		p.listen(t, s.port)
		if r := s.known(t, c.through(p), p.port).try(t, "save", "-n", "x", src); r.code == 0 && p.up.Load() > limit {
			t.Errorf("a save whose line was cut after %d bytes says that it is done", limit)
		}
	}
	if r := c.save(t, src); r.code != 0 {
		t.Fatalf("the save after the cuts: exit %d\n%s", r.code, r.err)
	}
	same(t, take(t, src), c.restored(t, src))
	gitClean(t, filepath.Join(s.root, "build"))
	leftovers(t, filepath.Join(s.root, "build"))
}

// Git clones and fetches from a server, and bup saves to one and restores from it.
func TestRemoteOtherClients(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(9, 9)), src, 60)
	for _, start := range []struct {
		name string
		serv func(t testing.TB) *server
	}{{"openssh", startSSHD}, {"serve", startServe}} {
		t.Run(start.name, func(t *testing.T) {
			s := start.serv(t)
			c := s.addClient(t, "system", "build", "append")
			bup := func(args ...string) string {
				t.Helper()
				r := command(t, append(c.env, "BUP_DIR="+c.home+"/bup"), "bup", args...)
				if r.code != 0 {
					t.Fatalf("bup %q: exit %d\n%s%s", args, r.code, r.out, r.err)
				}
				return r.out
			}
			bup("init")
			bup("init", "-r", "root@127.0.0.1:build")
			bup("index", src)
			bup("save", "-q", "-r", "root@127.0.0.1:build", "-n", "old", src)
			bup("save", "-q", "-r", "root@127.0.0.1:build", "-n", "old", src)
			out := t.TempDir()
			bup("restore", "-q", "-r", "root@127.0.0.1:build", "-C", out, "old/latest"+src+"/.")
			same(t, take(t, src), take(t, out))

			if r := c.save(t, src); r.code != 0 {
				t.Fatalf("kedge's save beside bup's: exit %d\n%s", r.code, r.err)
			}
			same(t, take(t, src), c.restored(t, src))
			gitClean(t, filepath.Join(s.root, "build"))

			r := s.addClient(t, "system", "build", "read")
			clone := filepath.Join(t.TempDir(), "clone")
			git := func(args ...string) string {
				t.Helper()
				env := append(r.env, "GIT_SSH_COMMAND="+strings.TrimPrefix(r.env[0][:strings.Index(r.env[0], ":")], "PATH=")+"/ssh")
				g := command(t, env, "git", args...)
				if g.code != 0 {
					t.Fatalf("git %q: exit %d\n%s%s", args, g.code, g.out, g.err)
				}
				return g.out
			}
			if refs := git("ls-remote", r.url); strings.Count(refs, "refs/heads/") != 2 {
				t.Errorf("ls-remote: %s", refs)
			}
			// There is no branch main, and these versions of the protocol cannot tell what HEAD
			// would be.
			git("-c", "init.defaultBranch=main", "clone", "-q", "--bare", r.url, clone)
			gitClean(t, clone)
			write(t, src+"/more", []byte("more\n"))
			if r := c.save(t, src); r.code != 0 {
				t.Fatalf("save: exit %d\n%s", r.code, r.err)
			}
			git("-C", clone, "fetch", "-q", r.url, "+refs/heads/*:refs/heads/*")
			gitClean(t, clone)
			if got := must(t, "git", "-C", clone, "show", "x:"+src[1:]+"/more"); got != "more\n" {
				t.Errorf("fetched: %q", got)
			}
			for _, v := range []string{"0", "1", "2"} {
				again := filepath.Join(t.TempDir(), "again")
				git("-c", "protocol.version="+v, "-c", "init.defaultBranch=main", "clone", "-q", "--mirror", r.url, again)
				gitClean(t, again)
			}
			gitRefused(t, r, clone)
		})
	}
}

// gitRefused asks a server with git for what it does not serve.
func gitRefused(t *testing.T, c client, clone string) {
	t.Helper()
	ssh := strings.TrimPrefix(c.env[0][:strings.Index(c.env[0], ":")], "PATH=") + "/ssh"
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"-C", clone, "push", c.url, "x:refs/heads/pushed"}, "git-receive-pack"},
		{[]string{"archive", "--remote=" + c.url, "x"}, "git-upload-archive"},
		{[]string{"clone", "--depth=1", "--branch=x", c.url, t.TempDir() + "/shallow"}, "shallow"},
		{[]string{"clone", "--bare", "--filter=blob:none", c.url, t.TempDir() + "/partial"}, "partial clones (filter) are not served here"},
		{[]string{"ls-remote", c.url + "x"}, "no such repository"},
	} {
		r := command(t, append(c.env, "GIT_SSH_COMMAND="+ssh), "git", x.args...)
		if r.code == 0 || !strings.Contains(r.err, x.want) {
			t.Errorf("git %q: exit %d, want %q\n%s", x.args, r.code, x.want, r.err)
		}
	}
}
