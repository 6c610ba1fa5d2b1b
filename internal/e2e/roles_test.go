package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What roles forbid is refused with exit 6, and changes nothing; what they allow is done.
func TestRemoteRoles(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(3, 3)), src, 20)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			s := w.serv(t)
			a := s.addClient(t, w.ssh, "build", "append")
			a.run(t, "init")
			if r := a.save(t, src); r.code != 0 {
				t.Fatalf("save: exit %d\n%s", r.code, r.err)
			}
			other := s.addClient(t, w.ssh, "other", "append")
			other.run(t, "init")
			state := func() string {
				return must(t, "git", "-C", s.root+"/build", "show-ref") + must(t, "sh", "-c", "cd "+s.root+" && find . -path '*/kedge/*' -prune -o -print | sort && cat build/config build/kedge/receipts")
			}
			before := state()
			roleRead(t, s, w, src)
			roleAppend(t, a)
			roleMirror(t, s, w, src)
			for line := range strings.Lines(state()) {
				if !strings.Contains(before, line) {
					t.Errorf("something changed: %s", line)
				}
			}
			roleNames(t, s, w, src)
			roleNoRead(t, s, w, src)
			roleQuota(t, s, w)
			if s.bin != "" {
				roleUsualQuota(t, s, w)
			}
			gitClean(t, s.root+"/build")
		})
	}
}

// refused expects a command to be refused.
func (c client) refused(t *testing.T, args ...string) {
	t.Helper()
	if r := c.try(t, args...); r.code != 6 || !strings.Contains(r.err, "refused") {
		t.Errorf("kedge %q on %s: exit %d, want 6\n%s", args, c.url, r.code, r.err)
	}
}

// at returns the client with another path at the end of its address.
func (c client) at(path string) client {
	slash := strings.Index(c.url[len("ssh://"):], "/") + len("ssh://")
	c.url = c.url[:slash+1] + path
	return c
}

// Read lists and restores, and nothing else; of other repositories it learns nothing.
func roleRead(t *testing.T, s *server, w way, src string) {
	reader := s.addClient(t, w.ssh, "build", "read")
	kedge(t, reader.home, "index", src)
	reader.refused(t, "save", "-n", "x", src)
	reader.refused(t, "save", "-n", "new", src)
	reader.run(t, "ls", "x")
	same(t, take(t, src), reader.restored(t, src))
	reader.run(t, "fsck")
	strangers(t, s, reader)
	// A glob sees what it matches.
	both := s.addClient(t, w.ssh, "*", "read")
	if got := both.at("").run(t, "ls"); got != "build\nother\n" {
		t.Errorf("ls with --repo '*': %q", got)
	}
	both.at("build").run(t, "ls", "x")
	both.at("other").run(t, "ls")
	for _, no := range []string{".kedge", "nope"} {
		r := both.at(no).try(t, "ls")
		if r.code != 4 || !strings.Contains(r.err, "init -r "+both.at(no).url) {
			t.Errorf("ls of %s with --repo '*': exit %d\n%s", no, r.code, r.err)
		}
	}
}

// strangers asks for what is not the client's. Whether it is there makes no difference.
func strangers(t *testing.T, s *server, c client) {
	t.Helper()
	check(t, os.Symlink("other", s.root+"/link"))
	defer os.Remove(s.root + "/link")
	says := map[string]bool{}
	for _, path := range []string{"other", "/other", "nope", "link", "../build", "build/..", "%2e%2e", ".kedge", "build/objects", "/etc", s.root, s.root + "/other", "~root/build", "build/../other"} {
		r := c.at(path).try(t, "ls", "x")
		if r.code != 4 && r.code != 2 {
			t.Errorf("ls of %s: exit %d\n%s", path, r.code, r.err)
		}
		if path == "other" || path == "nope" || path == "link" {
			says[strings.ReplaceAll(r.err, path, "PATH")] = true
		}
	}
	if len(says) != 1 {
		t.Errorf("what is there is told from what is not: %v", says)
	}
	if got := c.at("").run(t, "ls"); got != "build\n" {
		t.Errorf("ls of the server: %q", got)
	}
}

// Append does not rewind, delete or configure: the commands for that are none over a
// network, whoever asks.
func roleAppend(t *testing.T, a client) {
	for _, path := range []string{"other", "nope", ".kedge", "../other", "build/.."} {
		if r := a.at(path).try(t, "init"); r.code == 0 {
			t.Errorf("init of %s: exit %d\n%s", path, r.code, r.err)
		}
	}
	r := a.try(t, "init", "--chunker", "gear:14")
	if r.code == 0 {
		t.Errorf("the chunker is changed: exit %d\n%s", r.code, r.err)
	}
}

// Names limits the refs that are written.
func roleNames(t *testing.T, s *server, w way, src string) {
	narrow := s.addClient(t, w.ssh, "build", "append", "--names", "db-*", "--names", "web")
	kedge(t, narrow.home, "index", src)
	p := new(proxy)
	p.listen(t, s.port)
	big := filepath.Join(t.TempDir(), "big")
	write(t, big, []byte(must(t, "openssl", "rand", "-hex", "2000000")))
	kedge(t, narrow.home, "index", big)
	far := s.known(t, narrow.through(p), p.port)
	for _, name := range []string{"x", "dbx", "db-a/b", "website"} {
		far.refused(t, "save", "-n", name, src, big)
		far.refused(t, "backup", "-n", name, src, big)
	}
	if n := p.up.Load(); n > 8*64<<10 { // of which most is the login
		t.Errorf("%d bytes were sent of 8 saves that the key may not make", n)
	}
	narrow.run(t, "ls", "x")
	refs := must(t, "git", "-C", s.root+"/build", "for-each-ref", "--format=%(refname)")
	if refs != "refs/heads/x\n" {
		t.Errorf("refs: %s", refs)
	}
	for _, name := range []string{"db-a", "web"} {
		narrow.run(t, "save", "-n", name, src)
	}
	must(t, "git", "-C", s.root+"/build", "branch", "-D", "db-a", "web")
}

// Mirror reads every repository that matches, and writes none.
func roleMirror(t *testing.T, s *server, w way, src string) {
	standby := s.addClient(t, w.ssh, "b*", "mirror")
	kedge(t, standby.home, "index", src)
	standby.at("build").refused(t, "save", "-n", "x", src)
	same(t, take(t, src), standby.at("build").restored(t, src))
	if got := standby.at("").run(t, "ls"); got != "build\n" {
		t.Errorf("ls with --repo 'b*': %q", got)
	}
	if r := standby.at("other").try(t, "ls"); r.code != 4 {
		t.Errorf("ls of another repository: exit %d\n%s", r.code, r.err)
	}
}

// Without reading one saves, and gets nothing back.
func roleNoRead(t *testing.T, s *server, w way, src string) {
	blind := s.addClient(t, w.ssh, "build", "append", "--no-read")
	write(t, src+"/blind-"+w.name, []byte(w.name))
	for range 2 { // the second finds most of it there
		if r := blind.save(t, src); r.code != 0 {
			t.Errorf("save with --no-read: exit %d\n%s", r.code, r.err)
		}
	}
	blind.refused(t, "restore", "-C", t.TempDir(), "x/latest")
	blind.refused(t, "cat-file", "x/latest"+src+"/blind-"+w.name)
	blind.refused(t, "fsck")
	same(t, take(t, src), restored(t, s.root+"/build", src))
}

// A quota holds: what would go beyond it is refused, what was saved stays, and with more
// of it the same command succeeds.
func roleQuota(t *testing.T, s *server, w way) {
	small := s.addClient(t, w.ssh, "small", "append", "--quota", "2M")
	small.run(t, "init")
	src := mkdir(t, t.TempDir(), "src")
	noise := make([]byte, 1<<20)
	for i := range 4 {
		_, _ = rand.NewChaCha8([32]byte{byte(i), 1}).Read(noise)
		write(t, fmt.Sprintf("%s/%d", src, i), noise)
		r := small.save(t, src)
		if i == 0 && r.code != 0 {
			t.Fatalf("save within the quota: exit %d\n%s", r.code, r.err)
		}
		if i >= 2 && (r.code != 6 || !strings.Contains(r.err, "quota")) {
			t.Errorf("save %d beyond the quota: exit %d\n%s", i, r.code, r.err)
		}
	}
	repo := filepath.Join(s.root, "small")
	if size := must(t, "du", "-sb", "--apparent-size", repo+"/objects/pack"); len(strings.Fields(size)[0]) > 7 || strings.Fields(size)[0] > "2200000" {
		t.Errorf("the packs have %s", size)
	}
	gitClean(t, repo)
	leftovers(t, repo)
	must(t, "sed", "-i", "s/--quota 2M/--quota 20M/", s.authorized())
	if r := small.save(t, src); r.code != 0 {
		t.Errorf("save with a larger quota: exit %d\n%s", r.code, r.err)
	}
	same(t, take(t, src), small.restored(t, src))
}

// roleUsualQuota: behind OpenSSH the quota of the config file is that of keys whose line has none.
// kedge serve reads the file when it starts, which its script looks at.
func roleUsualQuota(t *testing.T, s *server, w way) {
	usual, large := s.addClient(t, w.ssh, "usual", "append"), s.addClient(t, w.ssh, "large", "append", "--quota", "20M")
	src, noise := mkdir(t, t.TempDir(), "src"), make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(noise)
	write(t, src+"/noise", noise)
	write(t, s.config(), fmt.Appendf(nil, "[server]\nroot = %q\nquota = \"2M\"\n", s.root))
	usual.run(t, "init")
	if r := usual.save(t, src); r.code != 6 || !strings.Contains(r.err, "quota") || !strings.Contains(r.err, "2097152 are allowed") {
		t.Errorf("a save beyond the quota of the config: exit %d\n%s", r.code, r.err)
	}
	large.run(t, "init")
	if r := large.save(t, src); r.code != 0 {
		t.Errorf("a key with a quota of its own: exit %d\n%s", r.code, r.err)
	}
	check(t, os.Remove(s.config()))
	if r := usual.save(t, src); r.code != 0 {
		t.Errorf("without a config: exit %d\n%s", r.code, r.err)
	}
}
