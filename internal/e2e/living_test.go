package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// atHome returns the environment of a machine with a home of its own.
func (g *gateway) atHome(t testing.TB) *gateway {
	t.Helper()
	home := t.TempDir()
	return &gateway{data: g.data, env: append([]string{"KEDGE_DIR=" + home, "KEDGE_CACHE_DIR=" + home + "/cache"}, g.env...)}
}

// A repository lives in a bucket: it is made, saved to, listed, pruned, collected and restored
// there, by two machines, and by one that lost all it had.
func TestLiving(t *testing.T) {
	g := startGateway(t)
	const url = "s3://backup/p/build"
	one, two := g.atHome(t), g.atHome(t)
	src := filepath.Join(t.TempDir(), "src")
	rnd := rand.New(rand.NewPCG(21, 1))
	randomTree(t, rnd, src, 200)
	if r := one.try(t, "save", "-r", url, "-n", "x", src); r.code != 4 || !strings.Contains(r.err, "init -r") {
		t.Errorf("a save before init: exit %d\n%s", r.code, r.err)
	}
	one.run(t, "init", "-r", url)
	one.run(t, "init", "-r", url) // is harmless
	save := func(g *gateway, name string) {
		t.Helper()
		g.run(t, "index", src)
		g.run(t, "save", "-r", url, "-n", name, src)
	}
	save(one, "x")
	before := take(t, src)
	write(t, src+"/late", []byte("late\n"))
	save(one, "x")
	save(two, "x") // on top of what the other one saved
	check(t, os.RemoveAll(strings.TrimPrefix(one.env[0], "KEDGE_DIR=")))
	write(t, src+"/later", []byte("later\n"))
	save(one, "x")
	if n := strings.Count(two.run(t, "ls", "-r", url, "x"), "\n"); n != 5 { // and latest
		t.Errorf("%d names below x", n)
	}
	if r := two.try(t, "fsck", "-r", url); r.code != 0 || strings.Contains(r.err, "signed") {
		t.Errorf("fsck: exit %d\n%s", r.code, r.err)
	}
	two.run(t, "ls", "-r", url)
	first, _, _ := strings.Cut(two.run(t, "ls", "-r", url, "x"), "\n")
	for name, want := range map[string]snapshot{first: before, "latest": take(t, src)} {
		out := target(t)
		two.run(t, "restore", "-r", url, "-C", out, "x/"+name+src+"/.")
		same(t, want, take(t, out))
	}
	two.run(t, "prune", "-r", url, "--keep-last", "1", "x")
	two.run(t, "gc", "-r", url)
	two.run(t, "fsck", "-r", url)
	save(one, "x") // who knows the packs of before goes on
	out := target(t)
	one.run(t, "restore", "-r", url, "-C", out, "x/latest"+src+"/.")
	same(t, take(t, src), take(t, out))

	// What is a mirror is only read.
	dir := filepath.Join(t.TempDir(), "repo")
	kedge(t, dir, "init")
	saveAgain(t, dir, src)
	g.run(t, "mirror", "--dir", dir, "s3://backup/p/mirrored")
	if r := one.try(t, "save", "-r", "s3://backup/p/mirrored", "-n", "x", src); r.code != 2 || !strings.Contains(r.err, "mirror") {
		t.Errorf("a save into a mirror: exit %d\n%s", r.code, r.err)
	}
}

// What commands do with a repository in a bucket that it is not the place for, they say.
func TestLivingOtherwise(t *testing.T) {
	g := startGateway(t).atHome(t)
	const url, sealed = "s3://backup/p/build", "s3://backup/sealed/one"
	src := filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(23, 1)), src, 60)
	dir := filepath.Join(t.TempDir(), "repo")
	kedge(t, dir, "init", "--chunker", "rabin:16")
	saveAgain(t, dir, src)

	// Among encrypted mirrors nobody can save.
	g.run(t, "mirror", "--dir", dir, "--encrypt-to", agePublic, sealed)
	g.run(t, "index", src)
	for _, args := range [][]string{
		{"init", "-r", sealed}, {"init", "-r", "s3://backup/sealed/two"},
		{"save", "-r", sealed, "-n", "x", src}, {"gc", "-r", sealed},
		{"serve", "--root", "s3://backup/sealed", "--state", t.TempDir(), "--listen", "127.0.0.1:0"},
	} {
		if r := g.try(t, args...); r.code != 6 || !strings.Contains(r.err, "encrypted") || !strings.Contains(r.err, "SSE-KMS") {
			t.Errorf("%q: exit %d\n%s", args, r.code, r.err)
		}
	}

	// Tags, pins and copies are those of any repository.
	g.run(t, "init", "-r", url)
	g.run(t, "get", "-s", dir, "-r", url, "--ff", "x")
	g.run(t, "tag", "-r", url, "good", "x/latest")
	first, _, _ := strings.Cut(g.run(t, "ls", "-r", url, "x"), "\n")
	g.run(t, "pin", "-r", url, "x/"+first)
	if r := g.try(t, "rm", "-r", url, "x"); r.code != 1 || !strings.Contains(r.err, "pinned") {
		t.Errorf("rm of what is pinned: exit %d\n%s", r.code, r.err)
	}
	if r := g.try(t, "status", "-r", url); r.code != 2 {
		t.Errorf("status: exit %d\n%s", r.code, r.err)
	}
	config := filepath.Join(t.TempDir(), "kedge.toml")
	write(t, config, fmt.Appendf(nil, "repository = %q\nstate = %q\n[[job]]\nname = \"files\"\nsave = \"job\"\npaths = [%q]\n", url, t.TempDir(), src))
	check(t, os.Chmod(config, 0o600))
	g.run(t, "run", "--config", config)

	// What is brought back from it is read, and is nobody's source.
	back := filepath.Join(t.TempDir(), "back")
	g.run(t, "mirror", "--pull", "--dir", back, url)
	kedge(t, back, "fsck")
	for _, name := range []string{"x", "job"} {
		out := target(t)
		kedge(t, back, "restore", "-C", out, name+"/latest"+src+"/.")
		same(t, take(t, src), take(t, out))
	}
	if r := g.try(t, "mirror", "--dir", back, "s3://backup/p/again"); r.code == 0 || !strings.Contains(r.err, "is changed there") {
		t.Errorf("a mirror of a copy: exit %d\n%s", r.code, r.err)
	}
	g.run(t, "rm", "-r", url, "job")
	g.run(t, "gc", "-r", url)
	g.run(t, "fsck", "-r", url)
}

// A save into a bucket is killed at any time: what was acknowledged is there, the next run
// succeeds and sends little again.
func TestLivingKilled(t *testing.T) {
	g := startGateway(t).atHome(t)
	const url = "s3://backup/p/build"
	src := filepath.Join(t.TempDir(), "src")
	noise(t, src, 7, 12<<20)
	g.run(t, "init", "-r", url)
	g.run(t, "index", src)
	kills := 12
	if full {
		kills = 100
	}
	acknowledged := 0
	rnd := rand.New(rand.NewPCG(21, 2))
	for i := range kills {
		write(t, src+"/"+fmt.Sprint("new", i), fmt.Append(nil, i))
		g.run(t, "index", src)
		cmd := exec.Command(binary, "save", "-q", "-r", url, "-n", "x", src)
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home(t), "TZ=UTC"}, g.env...)
		check(t, cmd.Start())
		timer := time.AfterFunc(time.Duration(rnd.IntN(700))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		if cmd.Wait() == nil {
			acknowledged++
		}
		timer.Stop()
	}
	g.run(t, "save", "-r", url, "-n", "x", src)
	n := strings.Count(g.run(t, "ls", "-r", url, "x"), "\n") - 1
	t.Logf("%d of %d saves were acknowledged, %d are there", acknowledged, kills, n)
	if n < acknowledged+1 || n > kills+1 {
		t.Errorf("%d saves are there, %d were acknowledged", n, acknowledged+1)
	}
	g.run(t, "fsck", "-r", url)
	out := target(t)
	g.run(t, "restore", "-q", "-r", url, "-C", out, "x/latest"+src+"/.")
	same(t, take(t, src), take(t, out))
}
