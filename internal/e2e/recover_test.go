package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// instance is a host that saves two directories and a stream every night, and can be lost.
type instance struct {
	dir, config, state string
	url                string // of the repository
	env, args          []string
}

// newInstance makes one that saves to a repository.
func newInstance(t testing.TB, url string) *instance {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	h := &instance{dir: dir, config: dir + "/kedge.toml", state: dir + "/state", url: url}
	if url == "" {
		h.url = dir + "/repo"
	}
	app, conf := mkdir(t, dir, "srv/app"), mkdir(t, dir, "conf")
	mkdir(t, app, "deep/er")
	write(t, app+"/deep/er/data", []byte(strings.Repeat("data\n", 20000)))
	write(t, app+"/tool", []byte("#!/bin/sh\n"))
	check(t, os.Chmod(app+"/tool", 0o4755))
	check(t, os.Symlink("deep/er", app+"/link"))
	check(t, os.Link(app+"/tool", app+"/deep/same"))
	check(t, os.Chmod(mkdir(t, app, "private"), 0o700))
	write(t, conf+"/app.conf", []byte("a = 1\n"))
	write(t, dir+"/db", []byte("rows of Monday\n"))
	write(t, h.config, fmt.Appendf(nil, `repository = %q
state = %q
[[job]]
name = "files"
save = "app"
paths = ["HERE/srv/app"]
exclude = ["HERE/srv/app/cache"]
[[job.part]]
save = "conf"
paths = ["HERE/conf"]
[job.hooks]
recover = ["echo files $KEDGE_STATUS >>HERE/hooks"]

[[job]]
name = "db"
[[job.stream]]
name = "dump"
command = "PASSWORD=hunter2 cat HERE/db"
restore = "cat >HERE/loaded && echo loaded >>HERE/loads"
empty = "echo 0"
[job.hooks]
recover = ["echo db $KEDGE_STATUS >>HERE/hooks"]
`, h.url, h.state))
	text := string(read(t, h.config))
	write(t, h.config, []byte(strings.ReplaceAll(text, "HERE", dir)))
	return h
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	check(t, err)
	return b
}

// night saves.
func (h *instance) night(t testing.TB) {
	t.Helper()
	if r := command(t, h.env, binary, append([]string{"run", "--config", h.config}, h.args...)...); r.code != 0 {
		t.Fatalf("run: exit %d\n%s%s", r.code, r.out, r.err)
	}
}

// trees describes what is saved.
func (h *instance) trees(t testing.TB) [2]snapshot {
	t.Helper()
	return [2]snapshot{take(t, h.dir+"/srv/app"), take(t, h.dir+"/conf")}
}

// recover recovers, on a machine that remembers in state.
func (h *instance) recover(t testing.TB, env []string, args ...string) result {
	t.Helper()
	all := append([]string{"recover", "--state", h.dir + "/new", "--from", h.url}, h.args...)
	return command(t, append(env, h.env...), binary, append(all, args...)...)
}

func (h *instance) mustRecover(t testing.TB, args ...string) string {
	t.Helper()
	r := h.recover(t, nil, args...)
	if r.code != 0 {
		t.Fatalf("recover %q: exit %d\n%s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

// asides lists what was moved aside below a directory.
func asides(t testing.TB, dir string) (list []string) {
	t.Helper()
	for _, n := range names(t, dir) {
		if strings.Contains(n, ".before-restore-") {
			list = append(list, dir+"/"+n)
		}
		if strings.HasPrefix(n, ".kedge-recover-") {
			t.Errorf("%s/%s was left behind", dir, n)
		}
	}
	return list
}

// A machine is lost, and comes back: on a blank one, on one where something is in the way, and
// again as a standby that follows.
func TestRecover(t *testing.T) {
	needRoot(t)
	h := newInstance(t, "")
	h.night(t)
	monday := h.trees(t)
	for _, gone := range []string{"/srv", "/conf", "/db"} {
		check(t, os.RemoveAll(h.dir+gone))
	}
	if out := h.mustRecover(t, "--dry-run"); !strings.Contains(out, h.dir+"/srv/app would be restored\n") || !strings.Contains(out, "stream dump would be loaded") {
		t.Errorf("dry run:\n%s", out)
	}
	if _, err := os.Stat(h.dir + "/srv"); err == nil {
		t.Fatal("a dry run made something")
	}
	h.mustRecover(t)
	got := h.trees(t)
	same(t, monday[0], got[0])
	same(t, monday[1], got[1])
	if got := string(read(t, h.dir+"/loaded")); got != "rows of Monday\n" {
		t.Errorf("loaded: %q", got)
	}
	if got := string(read(t, h.dir+"/hooks")); got != "files 0\ndb 0\n" {
		t.Errorf("hooks: %q", got)
	}
	if len(asides(t, h.dir)) > 0 || len(asides(t, h.dir+"/srv")) > 0 {
		t.Error("something was moved aside, and nothing was there")
	}

	if out := h.mustRecover(t); !strings.Contains(out, "stream dump unchanged") || strings.Count(string(read(t, h.dir+"/loads")), "\n") != 1 {
		t.Errorf("again:\n%s", out)
	}
}

// What is in the way the first time is moved aside as it is.
func TestRecoverMovesAside(t *testing.T) {
	needRoot(t)
	h := newInstance(t, "")
	h.night(t)
	saved := h.trees(t)
	write(t, h.dir+"/srv/app/deep/er/data", []byte("something else\n"))
	mkdir(t, h.dir, "srv/app/more")
	other := take(t, h.dir+"/srv/app")
	check(t, os.RemoveAll(h.dir+"/conf"))
	write(t, h.dir+"/conf", []byte("a file where a directory was\n"))
	out := h.mustRecover(t)
	got := h.trees(t)
	same(t, saved[0], got[0])
	same(t, saved[1], got[1])
	old := asides(t, h.dir+"/srv")
	if len(old) != 1 || !strings.Contains(out, "what was in the way is in "+old[0]+"\n") {
		t.Fatalf("%v\n%s", old, out)
	}
	same(t, other, take(t, old[0]))
	if old := asides(t, h.dir); len(old) != 1 || string(read(t, old[0])) != "a file where a directory was\n" {
		t.Errorf("%v", old)
	}
}

// standby recovers to another place, as a machine of its own.
func (h *instance) standby(t testing.TB) (out, root string) {
	t.Helper()
	root = mkdir(t, h.dir, "standby")
	return h.mustRecover(t, "--state", h.dir+"/standby-state", "--map", h.dir+"="+root), root
}

// A standby follows: what changed is changed in place, surplus is moved aside and what is
// excluded is not surplus, and a dump is loaded if it is another.
func TestRecoverStandby(t *testing.T) {
	needRoot(t)
	h := newInstance(t, "")
	h.night(t)
	_, root := h.standby(t)
	for _, dir := range []string{"cache/x", "local", "conf.d"} {
		write(t, mkdir(t, root, "srv/app", dir)+"/file", []byte(dir))
	}
	write(t, root+"/srv/app/deep/extra", []byte("extra"))
	app := h.dir + "/srv/app"
	write(t, app+"/conf.d", []byte("a file on the primary\n"))
	check(t, os.RemoveAll(app+"/link"))
	write(t, mkdir(t, app, "link")+"/now a directory", nil)
	write(t, app+"/deep/er/data", []byte("less\n"))
	untouched, err := os.Stat(root + "/srv/app/tool")
	check(t, err)
	h.night(t)
	out, _ := h.standby(t)
	if !strings.Contains(out, "stream dump unchanged") || !strings.Contains(out, "/srv/app updated: ") {
		t.Errorf("standby:\n%s", out)
	}
	want, got := take(t, app), take(t, root+"/srv/app")
	for name := range got {
		if strings.HasPrefix(name, "./cache") {
			delete(got, name)
		}
	}
	same(t, want, got)
	if string(read(t, root+"/srv/app/cache/x/file")) != "cache/x" {
		t.Error("what is excluded was touched")
	}
	if now, err := os.Stat(root + "/srv/app/tool"); err != nil || !os.SameFile(untouched, now) {
		t.Errorf("a file that was right was written anew: %v", err)
	}
	old := asides(t, root+"/srv")
	if len(old) != 1 {
		t.Fatalf("moved aside: %q", old)
	}
	for name, text := range map[string]string{"local/file": "local", "conf.d/file": "conf.d", "deep/extra": "extra"} {
		if got := string(read(t, old[0]+"/"+name)); got != text {
			t.Errorf("%s: %q", name, got)
		}
	}
	write(t, h.dir+"/db", []byte("rows of Wednesday\n"))
	h.night(t)
	if out, _ := h.standby(t); !strings.Contains(out, "stream dump loaded") || string(read(t, h.dir+"/loaded")) != "rows of Wednesday\n" {
		t.Errorf("%s", out)
	}
	if n := strings.Count(string(read(t, h.dir+"/loads")), "\n"); n != 2 {
		t.Errorf("loaded %d times", n)
	}
}

// A mount point cannot be renamed: what is in it is moved aside within it.
func TestRecoverMountPoint(t *testing.T) {
	needRoot(t)
	h := newInstance(t, "")
	h.night(t)
	want := take(t, h.dir+"/srv/app")
	h.mount(t, h.dir+"/srv/app")
	write(t, mkdir(t, h.dir, "srv/app/old")+"/file", []byte("old"))
	h.mustRecover(t, "app")
	old := asides(t, h.dir+"/srv/app")
	if len(old) != 1 || string(read(t, old[0]+"/old/file")) != "old" {
		t.Fatalf("moved aside: %q", old)
	}
	got := take(t, h.dir+"/srv/app")
	for name := range got {
		if strings.Contains(name, ".before-restore-") {
			delete(got, name)
		}
	}
	same(t, want, got)
	h.mustRecover(t, "app")
	if again := asides(t, h.dir+"/srv/app"); len(again) != 1 {
		t.Errorf("moved aside again: %q", again)
	}
}

// mount puts a file system of its own at a path.
func (h *instance) mount(t testing.TB, at string) {
	t.Helper()
	if err := syscall.Mount("kedge-test", at, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(at, syscall.MNT_DETACH) })
}

// Killed at every step, the same command again makes everything right, and what was there
// before is aside, whole, and once.
func TestRecoverKills(t *testing.T) {
	needRoot(t)
	for _, mounted := range []bool{false, true} {
		t.Run(fmt.Sprintf("mounted=%v", mounted), func(t *testing.T) {
			h := newInstance(t, "")
			h.night(t)
			saved := h.trees(t)
			step := 3
			if full {
				step = 1
			}
			for k := 1; ; k += step {
				for _, kind := range []string{"kill-before", "kill-after"} {
					if h.killed(t, saved, fmt.Sprintf("KEDGE_FAULT=%s:%d", kind, k), mounted) {
						continue
					}
					if k < 10 {
						t.Fatalf("only %d steps", k)
					}
					return
				}
			}
		})
	}
}

// killed recovers over old data with a kill in between, and once more without. It reports
// whether the kill came.
func (h *instance) killed(t *testing.T, saved [2]snapshot, fault string, mounted bool) bool {
	t.Helper()
	app := h.dir + "/srv/app"
	for _, name := range []string{"new", "srv", "conf"} {
		check(t, os.RemoveAll(h.dir+"/"+name))
	}
	mkdir(t, app)
	if mounted {
		h.mount(t, app)
		defer syscall.Unmount(app, syscall.MNT_DETACH)
	}
	write(t, mkdir(t, app, "old")+"/file", []byte("old"))
	r := h.recover(t, []string{fault}, "--no-streams")
	h.mustRecover(t, "--no-streams")
	got := h.trees(t)
	at := h.dir + "/srv"
	if mounted {
		at = app
	}
	old := asides(t, at)
	if len(old) != 1 || string(read(t, old[0]+"/old/file")) != "old" || len(names(t, old[0])) != 1 {
		t.Fatalf("%s: moved aside: %q", fault, old)
	}
	for name := range got[0] {
		if strings.Contains(name, ".before-restore-") {
			delete(got[0], name)
		}
	}
	same(t, saved[0], got[0])
	same(t, saved[1], got[1])
	return r.code == -1
}

// Killed at any moment, too, and not only between its own steps.
func TestRecoverResume(t *testing.T) {
	needRoot(t)
	h := newInstance(t, "")
	for i := range 300 {
		write(t, mkdir(t, h.dir, fmt.Sprintf("srv/app/many/%d", i%20))+fmt.Sprintf("/%d", i), []byte(strings.Repeat("x", i*100)))
	}
	h.night(t)
	saved := h.trees(t)
	rounds := 6
	if full {
		rounds = 100
	}
	for i := range rounds {
		for _, name := range []string{"new", "srv", "conf", "loaded"} {
			check(t, os.RemoveAll(h.dir+"/"+name))
		}
		write(t, mkdir(t, h.dir, "srv/app/old")+"/file", []byte("old"))
		cmd := exec.Command(binary, "recover", "--state", h.dir+"/new", "--from", h.url)
		check(t, cmd.Start())
		time.Sleep(time.Duration(5+13*i%90) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		h.mustRecover(t)
		got := h.trees(t)
		same(t, saved[0], got[0])
		same(t, saved[1], got[1])
		if old := asides(t, h.dir+"/srv"); len(old) != 1 || string(read(t, old[0]+"/old/file")) != "old" {
			t.Fatalf("moved aside: %q", old)
		}
	}
}

// What cannot be recovered is named, the rest is, and the exit code is 3. The hook of a job
// of which a part is missing is not run.
func TestRecoverPartly(t *testing.T) {
	needRoot(t)
	h := newInstance(t, "")
	text := strings.Replace(string(read(t, h.config)), "restore = \"cat >", "restore = \"exit 9; cat >", 1)
	write(t, h.config, []byte(text))
	h.night(t)
	kedge(t, h.url, "save", "-n", "byhand", "--stream", "x=echo x")
	check(t, os.RemoveAll(h.dir+"/srv"))
	r := h.recover(t, nil, "--json")
	var doc struct {
		Result struct {
			Names []struct {
				Name, Error string
				Streams     []struct{ Done, Error string }
			}
			Hooks []struct{ Job, Done string }
		}
	}
	check(t, json.Unmarshal([]byte(r.out), &doc))
	found := fmt.Sprintf("%+v", doc.Result)
	for _, want := range []string{"Name:byhand Error:byhand/latest: it has no kit", "Done:failed Error:stream dump", "{Job:db Done:skipped}", "{Job:files Done:run}"} {
		if !strings.Contains(found, want) {
			t.Errorf("no %q in %s", want, found)
		}
	}
	if r.code != 3 || !strings.Contains(r.err, "warning: stream dump: ") || string(read(t, h.dir+"/hooks")) != "files 0\n" {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
	if r := h.recover(t, nil, "nosuch"); r.code != 4 {
		t.Errorf("a name that there is not: exit %d\n%s", r.code, r.err)
	}
	if r := h.recover(t, nil, "byhand"); r.code != 4 || !strings.Contains(r.err, "hint: ") {
		t.Errorf("a name without a kit: exit %d\n%s", r.code, r.err)
	}
	if r := h.recover(t, nil, "--map", "/=relative"); r.code != 2 {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
}

// The kit in the repository says all that is needed, and no secret.
func TestKit(t *testing.T) {
	h := newInstance(t, "")
	h.night(t)
	here := command(t, nil, binary, "kit", "--config", h.config)
	saved := command(t, nil, binary, "kit", "-r", h.url)
	for _, r := range []result{here, saved} {
		if r.code != 0 || !strings.Contains(r.out, "kedge recover --from "+h.url+"\n") || strings.Contains(r.out, "hunter2") {
			t.Errorf("exit %d\n%s%s", r.code, r.out, r.err)
		}
	}
	if text := kedge(t, h.url, "cat-file", "app/latest/.kedge-kit/RECOVER.txt"); !strings.Contains(text, h.dir+"/srv/app") {
		t.Errorf("RECOVER.txt\n%s", text)
	}
	config := kedge(t, h.url, "cat-file", "db/latest/.kedge-kit/kedge.toml")
	if strings.Contains(config, "hunter2") || !strings.Contains(config, "PASSWORD=SECRET-LEFT-OUT cat") {
		t.Errorf("kedge.toml\n%s", config)
	}
	write(t, h.dir+"/again.toml", []byte(config)) // what is kept is a config file
	must(t, binary, "config", "check", "--offline", "--config", h.dir+"/again.toml")
	gitClean(t, h.url)
}

// One command brings a host back from its server, and from the mirror of that.
func TestRecoverFromAfar(t *testing.T) {
	needRoot(t)
	g := startGateway(t)
	s := startServe(t)
	c := s.addClient(t, "builtin", "web1", "append")
	h := newInstance(t, c.url)
	h.env = c.env
	config := string(read(t, h.config))
	config = fmt.Sprintf("ssh = \"builtin\"\nssh-key = %q\nknown-hosts = %q\nmirror = \"s3://backup/p/web1\"\n", c.args[3], c.args[5]) + config
	write(t, h.config, []byte(config))
	h.night(t)
	saved := h.trees(t)
	kit := command(t, c.env, binary, "kit", "--config", h.config).out
	for _, want := range []string{"The server's key:\n     ssh-ed25519 SHA256:", "This host's key", "kedge recover --from s3://backup/p/web1\n"} {
		if !strings.Contains(kit, want) {
			t.Errorf("the kit does not say %q\n%s", want, kit)
		}
	}
	reader := s.addClient(t, "builtin", "web1", "read")
	check(t, os.RemoveAll(h.dir+"/srv"))
	h.env, h.args, h.url = reader.env, reader.args, strings.TrimSuffix(c.url, "/web1")
	h.mustRecover(t, "--repo", "web1")
	same(t, saved[0], take(t, h.dir+"/srv/app"))

	g.run(t, "mirror", "--root", s.root, "s3://backup/p")
	write(t, h.dir+"/server.toml", fmt.Appendf(nil, "[server]\nroot = %q\n[server.mirror]\nto = \"s3://backup/p\"\n", s.root))
	public := strings.Fields(must(t, "ssh-keygen", "-y", "-f", s.root+"/.kedge/state/mirror_key"))[1]
	of := command(t, nil, binary, "kit", "--config", h.dir+"/server.toml")
	for _, want := range []string{public, "kedge mirror --pull --root " + s.root + " --trust", "kedge recover --trust"} {
		if !strings.Contains(of.out, want) {
			t.Errorf("the server's kit does not say %q: exit %d\n%s%s", want, of.code, of.out, of.err)
		}
	}
	stop(s.cmd, syscall.SIGTERM)
	for _, name := range []string{"new", "srv", "conf", "loaded"} {
		check(t, os.RemoveAll(h.dir+"/"+name))
	}
	h.env, h.args, h.url = g.env, nil, "s3://backup/p/"
	h.mustRecover(t, "--repo", "web1")
	got := h.trees(t)
	same(t, saved[0], got[0])
	same(t, saved[1], got[1])
	if string(read(t, h.dir+"/loaded")) != "rows of Monday\n" {
		t.Error("the dump was not loaded")
	}
}
