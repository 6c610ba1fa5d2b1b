package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// startLogins starts OpenSSH's server for keys without a forced command, whose logins
// find the programs of one directory, and those that bup needs.
func startLogins(t testing.TB, programs map[string]string) *server {
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
	for _, name := range []string{"sh", "git", "python3", "env"} {
		programs[name], err = exec.LookPath(name)
		check(t, err)
	}
	for name, program := range programs {
		check(t, os.Symlink(program, filepath.Join(bin, name)))
	}
	write(t, config, fmt.Appendf(nil, `Port %d
ListenAddress 127.0.0.1
HostKey %s/host
AuthorizedKeysFile %s
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv KEDGE_ROOT=%s BUP_DIR=%s/default PATH=%s HOME=%s TZ=UTC
`, s.port, s.keys, s.authorized(), s.root, s.root, bin, mkdir(t, s.keys, "home")))
	write(t, s.keys+"/home/.gitconfig", []byte("[init]\n\tdefaultBranch = main\n"))
	write(t, s.authorized(), nil)
	s.start = func() *exec.Cmd { return exec.Command(sshd, "-D", "-e", "-f", config) }
	s.up(t)
	return s
}

// addLogin gives a new key a login and returns how to use it for a repository.
func (s *server) addLogin(t testing.TB, ssh, path string) client {
	t.Helper()
	c := s.addClient(t, ssh, "build", "append")
	keys, err := filepath.Glob(s.keys + "/build-append-*.pub")
	check(t, err)
	var text []byte
	for _, key := range keys {
		pub, err := os.ReadFile(key)
		check(t, err)
		text = append(text, pub...)
	}
	write(t, s.authorized(), text)
	c.url = strings.TrimSuffix(c.url, "build") + path
	return c
}

// debianBup returns the path of bup.
func debianBup(t testing.TB) string {
	t.Helper()
	bup, err := exec.LookPath("bup")
	if err != nil {
		t.Skip("needs bup")
	}
	return bup
}

// On a host that has bup and no kedge: a repository is made, saved to, listed, read,
// restored and checked, and stays one that bup can use.
func TestRemoteBupHost(t *testing.T) {
	bup := debianBup(t)
	for _, ssh := range []string{"system", "builtin"} {
		t.Run(ssh, func(t *testing.T) {
			src := filepath.Join(t.TempDir(), "src")
			if ssh == "system" {
				hardCases(t, src)
				// Bup would fill a terabyte, and it links no symbolic links.
				for _, name := range []string{"sizes/sparse", "sizes/hole", "links/sym2"} {
					check(t, os.Remove(filepath.Join(src, name)))
				}
			} else {
				randomTree(t, rand.New(rand.NewPCG(13, 13)), src, 60)
			}
			s := startLogins(t, map[string]string{"bup": bup})
			repo := filepath.Join(s.root, "r")
			c := s.addLogin(t, ssh, repo[1:])
			if r := c.try(t, "ls"); r.code != 4 || !strings.Contains(r.err, "no such repository") {
				t.Errorf("ls before init: exit %d\n%s", r.code, r.err)
			}
			if r := c.try(t, "init", "--chunker", "rabin:13"); r.code == 0 || strings.Contains(r.err, "Traceback") {
				t.Errorf("bup made a repository that is not its own: exit %d\n%s", r.code, r.err)
			}
			c.run(t, "init")
			c.run(t, "init")
			if r := c.save(t, src); r.code != 0 || strings.Contains(r.err, "not found") {
				t.Fatalf("save: exit %d\n%s", r.code, r.err)
			}
			same(t, take(t, src), c.restored(t, src))
			packs := count(t, repo+"/objects/pack/*.pack")
			if r := c.save(t, src); r.code != 0 {
				t.Fatalf("unchanged save: exit %d\n%s", r.code, r.err)
			}
			if n := count(t, repo+"/objects/pack/*.pack"); n > packs+1 {
				t.Errorf("an unchanged save made %d packs", n-packs)
			}
			write(t, src+"/new", []byte("new "+ssh+"\n"))
			if r := c.save(t, src); r.code != 0 {
				t.Fatalf("third save: exit %d\n%s", r.code, r.err)
			}
			if got := c.run(t, "ls"); got != "x\n" {
				t.Errorf("ls: %q", got)
			}
			if got := strings.Count(c.run(t, "ls", "x"), "\n"); got != 4 {
				t.Errorf("ls x has %d lines", got)
			}
			if got := c.run(t, "cat-file", "x/latest"+src+"/new"); got != "new "+ssh+"\n" {
				t.Errorf("cat-file: %q", got)
			}
			c.run(t, "fsck")
			c.run(t, "fsck", "--quick")
			c.run(t, "fsck", "x/latest")
			top := c
			top.url = c.url[:strings.LastIndex(c.url, s.root)]
			if r := top.try(t, "ls"); r.code == 0 || !strings.Contains(r.err, "bup") {
				t.Errorf("ls of a server that has no list: exit %d\n%s%s", r.code, r.out, r.err)
			}
			bupCanUse(t, c, repo, src)
		})
	}
}

// bupCanUse has bup read what kedge saved through bup, and save beside it; then kedge
// reads that and goes on.
func bupCanUse(t *testing.T, c client, repo, src string) {
	t.Helper()
	config, err := os.ReadFile(repo + "/config")
	check(t, err)
	if strings.Contains(string(config), "kedge") {
		t.Errorf("the repository is not bup's any more:\n%s", config)
	}
	if _, err := os.Stat(repo + "/kedge"); err == nil {
		t.Error("there is a directory of kedge's in a repository of bup's")
	}
	bupClean(t, repo)
	out := target(t)
	bup := func(args ...string) {
		t.Helper()
		r := command(t, []string{"BUP_DIR=" + repo}, "bup", args...)
		if r.code != 0 {
			t.Fatalf("bup %q: exit %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
	bup("restore", "-q", "-C", out, "x/latest"+src+"/.")
	same(t, take(t, src), take(t, out))
	blobs := must(t, "git", "-C", repo, "rev-parse", "x:"+src[1:]+"/new")
	bup("index", src)
	bup("save", "-q", "-n", "x", src)
	if again := must(t, "git", "-C", repo, "rev-parse", "x:"+src[1:]+"/new"); again != blobs {
		t.Errorf("bup splits otherwise: %s%s", blobs, again)
	}
	same(t, take(t, src), c.restored(t, src))
	if r := c.save(t, src); r.code != 0 {
		t.Fatalf("a save after bup's: exit %d\n%s", r.code, r.err)
	}
	if n := strings.TrimSpace(must(t, "git", "-C", repo, "rev-list", "--count", "x")); n != "5" {
		t.Errorf("%s saves are there of 5", n)
	}
	bupClean(t, repo)
}

// bupClean is gitClean, but for the names that git warns of: bup knows no way to tell it
// that they are meant.
func bupClean(t testing.TB, repo string) {
	t.Helper()
	args := []string{"-C", repo}
	for _, name := range []string{"hasDotgit", "gitmodulesPath", "gitmodulesUrl", "gitignoreSymlink"} {
		args = append(args, "-c", "fsck."+name+"=ignore")
	}
	r := command(t, nil, "git", append(args, "fsck", "--full", "--strict", "--no-dangling", "--no-progress")...)
	if r.code != 0 || strings.Contains(r.err, "error") || strings.Contains(r.err, "warning") || r.out != "" {
		t.Errorf("git fsck: exit %d\n%s%s", r.code, r.out, r.err)
	}
}

func count(t testing.TB, pattern string) int {
	t.Helper()
	names, err := filepath.Glob(pattern)
	check(t, err)
	return len(names)
}

// On a host where kedge is called bup, and has no other name, kedge's clients find it,
// and so do bup's.
func TestRemoteKedgeAsBup(t *testing.T) {
	debianBup(t)
	src := filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(11, 11)), src, 40)
	for _, ssh := range []string{"system", "builtin"} {
		t.Run(ssh, func(t *testing.T) {
			s := startLogins(t, map[string]string{"bup": binary})
			repo := filepath.Join(s.root, "build")
			c := s.addLogin(t, ssh, repo[1:])
			c.run(t, "init")
			for range 2 {
				if r := c.save(t, src); r.code != 0 || strings.Contains(r.err, "not found") {
					t.Fatalf("save: exit %d\n%s", r.code, r.err)
				}
			}
			same(t, take(t, src), c.restored(t, src))
			c.run(t, "fsck")
			top := c
			top.url = strings.TrimSuffix(c.url, repo[1:])
			if got := top.run(t, "ls"); got != "build\n" {
				t.Errorf("ls of the server: %q", got)
			}
			if config, err := os.ReadFile(repo + "/config"); err != nil || !strings.Contains(string(config), "rabin:13") {
				t.Errorf("the config says\n%s, %v", config, err)
			}
			gitClean(t, repo)
		})
	}
}

// A bup server that dies in the middle of a save, and one that its disk is too small for:
// the error says why in a line, the next run goes on, and nothing is lost.
func TestRemoteBupHostDies(t *testing.T) {
	bup := debianBup(t)
	src := filepath.Join(t.TempDir(), "src")
	mkdir(t, src)
	for i := range 6 {
		write(t, fmt.Sprintf("%s/%d", src, i), []byte(must(t, "seq", fmt.Sprint(i*1000), fmt.Sprint(i*1000+200000))))
	}
	s := startLogins(t, map[string]string{})
	// A bup whose files may not become larger than a number of blocks.
	limit := filepath.Join(s.keys, "blocks")
	write(t, s.keys+"/bin/bup", fmt.Appendf(nil, "#!/bin/sh\nulimit -f $(cat %s)\nexec %s \"$@\"\n", limit, bup))
	check(t, os.Chmod(s.keys+"/bin/bup", 0o755))
	check(t, os.Symlink("/usr/bin/cat", s.keys+"/bin/cat"))
	write(t, limit, []byte("unlimited\n"))
	repo := filepath.Join(s.root, "r")
	c := s.addLogin(t, "builtin", repo[1:])
	c.run(t, "init")
	for _, blocks := range []string{"8", "200", "400"} {
		write(t, limit, []byte(blocks+"\n"))
		r := c.save(t, src)
		if r.code != 1 || !strings.Contains(r.err, "File too large") || strings.Contains(r.err, "Traceback") || strings.Count(r.err, "\n") > 5 {
			t.Errorf("a save to a server of %s blocks: exit %d\n%s", blocks, r.code, r.err)
		}
	}
	write(t, limit, []byte("unlimited\n"))
	if r := c.save(t, src); r.code != 0 {
		t.Fatalf("the save after that: exit %d\n%s", r.code, r.err)
	}
	same(t, take(t, src), c.restored(t, src))
	gitClean(t, repo)
}
