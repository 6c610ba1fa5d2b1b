package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// follow keeps root a standby of the server.
func (c client) follow(t testing.TB, root string) result {
	t.Helper()
	args := append([]string{"mirror", "--pull", "--root", root}, c.args...)
	return command(t, c.env, binary, append(args, c.at("").url)...)
}

// mustFollow is follow, and expects it to succeed.
func (c client) mustFollow(t testing.TB, root string) {
	t.Helper()
	if r := c.follow(t, root); r.code != 0 {
		t.Fatalf("mirror --pull %s: exit %d\n%s%s", c.url, r.code, r.out, r.err)
	}
}

// refsOf returns the refs of a repository.
func refsOf(t testing.TB, repo string) string {
	t.Helper()
	return must(t, "git", "-C", repo, "for-each-ref", "--format=%(objectname) %(refname)")
}

// A standby is what the server is: the repositories that its key matches, and no others. Run
// again it moves only what is new. It is read while it stands by; after a disaster it takes
// over, and follows no more.
func TestStandby(t *testing.T) {
	for _, w := range []way{ways[0], ways[3]} {
		t.Run(w.name, func(t *testing.T) {
			s := w.serv(t)
			src := filepath.Join(t.TempDir(), "src")
			randomTree(t, rand.New(rand.NewPCG(21, 1)), src, 60)
			var savers []client
			for _, name := range []string{"alpha", "beta", "other"} {
				c := s.addClient(t, w.ssh, name, "append")
				c.run(t, "init")
				if r := c.save(t, src); r.code != 0 {
					t.Fatalf("save: exit %d\n%s", r.code, r.err)
				}
				savers = append(savers, c)
			}
			keys := s.addClient(t, w.ssh, "*a", "mirror")
			p := new(proxy)
			p.listen(t, s.port)
			far := s.known(t, keys.through(p), p.port)
			root := mkdir(t, t.TempDir(), "standby")
			far.mustFollow(t, root)
			list, err := os.ReadDir(root)
			if err != nil || len(list) != 2 {
				t.Errorf("the standby has %v, %v", list, err)
			}
			first := p.down.Load()
			asOn := func() {
				t.Helper()
				for _, name := range []string{"alpha", "beta"} {
					if got, want := refsOf(t, root+"/"+name), refsOf(t, s.root+"/"+name); got != want {
						t.Errorf("%s: refs are %s, want %s", name, got, want)
					}
					gitClean(t, root+"/"+name)
					kedge(t, root+"/"+name, "fsck")
					same(t, take(t, src), restored(t, root+"/"+name, src))
				}
			}
			asOn()
			p.down.Store(0)
			far.mustFollow(t, root)
			if n := p.down.Load(); n > 48<<10 { // three logins, states, lists
				t.Errorf("%d bytes came though nothing had changed, %d the first time", n, first)
			}
			write(t, src+"/late", []byte(must(t, "openssl", "rand", "-hex", "50000")))
			for _, c := range savers {
				if r := c.save(t, src); r.code != 0 {
					t.Fatalf("save: exit %d\n%s", r.code, r.err)
				}
			}
			p.down.Store(0)
			far.mustFollow(t, root)
			if n := p.down.Load(); n > first/2 {
				t.Errorf("%d bytes came for a small change, %d the first time", n, first)
			}
			asOn()
			// One repository, by its address; and keys that may not.
			one := filepath.Join(t.TempDir(), "one")
			args := append([]string{"-d", one, "mirror", "--pull"}, keys.args...)
			if r := command(t, keys.env, binary, append(args, keys.at("beta").url)...); r.code != 0 {
				t.Errorf("mirror --pull of one: exit %d\n%s", r.code, r.err)
			}
			same(t, take(t, src), restored(t, one, src))
			reader := s.addClient(t, w.ssh, "*a", "read")
			for _, c := range []client{reader, savers[0]} {
				if r := c.follow(t, mkdir(t, t.TempDir(), "none")); r.code != 6 {
					t.Errorf("mirror --pull by a key that may not: exit %d\n%s", r.code, r.err)
				}
			}
			takeOver(t, s.known(t, keys.through(p), p.port), root, src)
		})
	}
}

// takeOver has the standby do what the server did, and sees to it that it is no standby any more.
func takeOver(t *testing.T, far client, root, src string) {
	write(t, src+"/after", []byte("after the disaster\n"))
	saveAgain(t, root+"/alpha", src)
	before := refsOf(t, root+"/alpha")
	if r := far.follow(t, root); r.code != 6 || !strings.Contains(r.err, "saved into it") {
		t.Errorf("a copy with a save of its own follows: exit %d\n%s", r.code, r.err)
	}
	if got := refsOf(t, root+"/alpha"); got != before {
		t.Errorf("refs of the copy: %s, want %s", got, before)
	}
	same(t, take(t, src), restored(t, root+"/alpha", src))
}

// The run that keeps a standby is killed at any time, the server is, and saves go on meanwhile:
// the standby is at each moment a repository that a restore can be made from, and the next
// run completes it.
func TestStandbyKills(t *testing.T) {
	for _, w := range []way{ways[0], ways[3]} {
		t.Run(w.name, func(t *testing.T) {
			s := w.serv(t)
			src := mkdir(t, t.TempDir(), "src")
			a := s.addClient(t, w.ssh, "build", "append")
			a.run(t, "init")
			keys := s.addClient(t, w.ssh, "*", "mirror")
			root := mkdir(t, t.TempDir(), "standby")
			rounds := 8
			if full {
				rounds = 100
			}
			for i := range rounds {
				write(t, fmt.Sprintf("%s/%d", src, i%4), []byte(must(t, "seq", fmt.Sprint(i*1000), fmt.Sprint(i*1000+90000))))
				kedge(t, a.home, "index", src)
				saved := make(chan result)
				go func() { saved <- a.try(t, "save", "-n", "x", src) }()
				if i%2 == 0 {
					<-saved
				}
				args := append([]string{"-s", "KILL", fmt.Sprintf("0.%03d", 20+(37*i)%300), binary, "mirror", "--pull", "--root", root}, keys.args...)
				killed := command(t, keys.env, "timeout", append(args, keys.at("").url)...)
				if i%4 == 3 {
					stopAll(s.cmd)
				}
				if i%2 == 1 {
					<-saved
				}
				if i%4 == 3 {
					s.up(t)
				}
				if _, err := os.Stat(root + "/build/config"); err == nil && killed.code != 0 {
					gitClean(t, root+"/build")
					kedge(t, root+"/build", "fsck", "--quick")
				}
				keys.mustFollow(t, root)
				if got, want := refsOf(t, root+"/build"), refsOf(t, s.root+"/build"); got != want {
					t.Errorf("refs are %s, want %s", got, want)
				}
			}
			kedge(t, root+"/build", "fsck")
			list, err := os.ReadDir(root + "/build/kedge/tmp")
			if err != nil || len(list) != 0 {
				t.Errorf("left behind: %v, %v", list, err)
			}
		})
	}
}

// What the source collects as garbage the standby keeps for two weeks, and then drops.
func TestStandbyGarbage(t *testing.T) {
	begun := time.Now()
	s := startServe(t)
	src := filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(22, 1)), src, 40)
	repo := filepath.Join(s.root, "build")
	kedge(t, repo, "init")
	saveAgain(t, repo, src)
	keys := s.addClient(t, "builtin", "build", "mirror")
	root := mkdir(t, t.TempDir(), "standby")
	keys.mustFollow(t, root)
	for i := range 3 {
		write(t, fmt.Sprintf("%s/more-%d", src, i), []byte(must(t, "openssl", "rand", "-hex", "20000")))
		saveAgain(t, repo, src)
	}
	must(t, "git", "-C", repo, "update-ref", "-d", "refs/heads/x")
	saveAgain(t, repo, src)
	kedge(t, repo, "gc", "--now", "--yes")
	keys.mustFollow(t, root)
	copyOf := root + "/build"
	if got, want := refsOf(t, copyOf), refsOf(t, repo); got != want {
		t.Errorf("refs are %s, want %s", got, want)
	}
	packs := func(dir string) []string {
		names, err := filepath.Glob(dir + "/objects/pack/*.pack")
		check(t, err)
		for i := range names {
			names[i] = filepath.Base(names[i])
		}
		return names
	}
	if got, want := packs(copyOf), packs(repo); len(got) <= len(want) {
		t.Fatalf("the copy has %v, the source %v: nothing waits to be dropped", got, want)
	}
	// Two weeks later.
	note := copyOf + "/kedge/standby"
	text, err := os.ReadFile(note)
	check(t, err)
	aged := string(text)
	for _, at := range []time.Time{begun, time.Now()} { // of the seconds, enough to be sure of two weeks
		aged = strings.ReplaceAll(aged, fmt.Sprint(at.Unix())[:5], "10000")
	}
	check(t, os.WriteFile(note, []byte(aged), 0o600))
	keys.mustFollow(t, root)
	if got, want := packs(copyOf), packs(repo); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the copy has %v, the source %v", got, want)
	}
	kedge(t, copyOf, "fsck")
	gitClean(t, copyOf)
	same(t, take(t, src), restored(t, copyOf, src))
	keys.mustFollow(t, root)
}
