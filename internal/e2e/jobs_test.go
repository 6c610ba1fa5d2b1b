package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script writes a program into the PATH of a host, in front of all others.
func (h *host) script(t testing.TB, name, text string) {
	t.Helper()
	bin := mkdir(t, h.dir, "bin")
	check(t, os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755))
	check(t, os.Chmod(bin, 0o755))
	h.env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
}

// A dump that is killed halfway fails its NAME, whose ref stays where it is; the other parts of
// the job and the other jobs go on. The exit code is that of the worst.
func TestDumpKilledHalfway(t *testing.T) {
	d := startPostgreSQL(t)
	output(t, d.psql("postgres", "CREATE DATABASE app"))
	output(t, d.psql("app", pgData))
	h := newHost(t, fmt.Sprintf(`
[[job]]
name = "night"
save = "files"
paths = ["HERE/src"]
[[job.part]]
save = "db"
[[job.part.stream]]
name = "app"
preset = "postgresql"
database = "app"
host = %q
user = "postgres"
run-as = "postgres"
password-file = %q
[[job.part]]
save = "partly"
paths = ["HERE/src", "HERE/sometimes"]
[[job]]
name = "other"
[[job.stream]]
name = "s"
command = "echo dumped"
`, d.dir, d.secret))
	write(t, mkdir(t, h.dir, "src")+"/a", []byte("a"))
	mkdir(t, h.dir, "sometimes")
	check(t, os.Chmod(filepath.Dir(h.dir), 0o755))
	check(t, os.Chmod(h.dir, 0o755))
	h.night(t, 0)
	was := kedge(t, h.repo, "ls", "db")
	for _, how := range []string{
		`/usr/bin/pg_dump "$@" | head -c 300000; kill -KILL $$`,
		`/usr/bin/pg_dump "$@" | head -c 300000; exit 1`,
		`/usr/bin/pg_dump "$@" & sleep 0.05; kill -TERM $!; wait $!`,
	} {
		h.script(t, "pg_dump", "#!/bin/bash\n[ \"$1\" = --help ] && exec /usr/bin/pg_dump --help\n"+how+"\n")
		write(t, h.dir+"/src/a", []byte(how))
		parts := h.night(t, 1)
		if p := parts["db"]; p.Exit != 1 || p.Commit != "" || !strings.Contains(p.Error, "stream /.streams/app: ") {
			t.Errorf("%s: %+v", how, p)
		}
		if now := kedge(t, h.repo, "ls", "db"); now != was {
			t.Errorf("%s: the ref has moved: %s", how, now)
		}
		for _, name := range []string{"files", "partly", "other"} {
			if p := parts[name]; p.Exit != 0 || p.Commit == "" {
				t.Errorf("%s: %+v", how, p)
			}
		}
		if got := kedge(t, h.repo, "cat-file", "files/latest"+h.dir+"/src/a"); got != how {
			t.Errorf("%s: files has %q", how, got)
		}
	}
	// Files that cannot be read are another matter: what could be is saved, and the code is 3.
	h.env = nil
	check(t, os.Remove(h.dir+"/sometimes"))
	parts := h.night(t, 3)
	if p := parts["partly"]; p.Exit != 3 || p.Commit == "" {
		t.Errorf("%+v", p)
	}
	if p := parts["db"]; p.Exit != 0 || kedge(t, h.repo, "ls", "db") == was {
		t.Errorf("%+v", p)
	}
	gitClean(t, h.repo)
}

// A server that is down fails the run, which has stopped and started its services all the same.
func TestRunServerDown(t *testing.T) {
	h := newHost(t, fmt.Sprintf(`
[[job]]
name = "j"
repository = "ssh://root@127.0.0.1:%d/web1"
ssh = "builtin"
ssh-key = "HERE/key"
known-hosts = "HERE/known"
paths = ["HERE/src"]
[job.hooks]
before = ["echo before >> HERE/log"]
resume = ["echo resume >> HERE/log"]
after = ["echo after >> HERE/log"]
finally = ["echo finally $KEDGE_STATUS >> HERE/log"]
`, freePort(t)))
	mkdir(t, h.dir, "src")
	must(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", h.dir+"/key")
	write(t, h.dir+"/known", nil)
	r := h.try(t, "run")
	if r.code != 1 || !strings.Contains(r.out, "not saved: j") {
		t.Errorf("exit %d\n%s%s", r.code, r.out, r.err)
	}
	if text, err := os.ReadFile(h.dir + "/log"); string(text) != "before\nresume\nfinally 1\n" {
		t.Errorf("%q, %v", text, err)
	}
	if left, _ := filepath.Glob(h.dir + "/state/run/j"); left != nil {
		t.Errorf("it is noted as begun")
	}
}

// A repository whose disk is full keeps what it has; when there is room, the next night is whole.
func TestRunDiskFull(t *testing.T) {
	needRoot(t)
	h := newHost(t, "[[job]]\nname = \"j\"\npaths = [\"HERE/src\"]\n")
	disk := mkdir(t, h.dir, "disk")
	if r := command(t, nil, "mount", "-t", "tmpfs", "-o", "size=8m", "none", disk); r.code != 0 {
		t.Skip("no tmpfs here: ", r.err)
	}
	defer must(t, "umount", disk)
	check(t, os.Symlink(disk+"/repo", h.repo))
	fill := func(size int) {
		b := make([]byte, size)
		_, _ = rand.Read(b)
		write(t, mkdir(t, h.dir, "src")+"/random", b)
	}
	kedge(t, disk+"/repo", "init")
	fill(mib)
	if p := h.night(t, 0)["j"]; p.Commit == "" {
		t.Errorf("%+v", p)
	}
	was := kedge(t, h.repo, "ls", "j")
	fill(20 * mib)
	if p := h.night(t, 1)["j"]; p.Commit != "" || !strings.Contains(p.Error, "no space left") {
		t.Errorf("%+v", p)
	}
	if now := kedge(t, h.repo, "ls", "j"); now != was {
		t.Errorf("the ref has moved: %s", now)
	}
	kedge(t, h.repo, "fsck", "-q")
	must(t, "mount", "-o", "remount,size=100m", disk)
	if p := h.night(t, 0)["j"]; p.Commit == "" {
		t.Errorf("%+v", p)
	}
	gitClean(t, h.repo)
}

// The clock was ahead, and is set back: what is saved then is the latest all the same.
func TestRunClockSetBack(t *testing.T) {
	h := newHost(t, "[[job]]\nname = \"j\"\npaths = [\"HERE/src\"]\n")
	file := mkdir(t, h.dir, "src") + "/a"
	write(t, file, []byte("from the future"))
	kedge(t, h.repo, "init")
	kedge(t, h.repo, "index", h.dir+"/src")
	kedge(t, h.repo, "save", "-n", "j", "--date", fmt.Sprint(time.Now().Add(300*24*time.Hour).Unix()), h.dir+"/src")
	for i := range 2 {
		write(t, file, fmt.Appendf(nil, "now %d", i))
		h.night(t, 0)
		if got := kedge(t, h.repo, "cat-file", "j/latest"+file); got != fmt.Sprintf("now %d", i) {
			t.Errorf("latest is %q", got)
		}
	}
	gitClean(t, h.repo)
}

// There is no MongoDB to be had here. A stand-in dumps the files of a directory as an archive on
// its standard output, takes its password where mongodump does, and brings them back.
func TestMongoDBByStandIn(t *testing.T) {
	h := newHost(t, `
[[job]]
name = "db"
[[job.stream]]
name = "app"
preset = "mongodb"
database = "app"
password-file = "HERE/pw"
[[job]]
name = "open"
[[job.stream]]
name = "all"
preset = "mongodb"
host = "HERE"
`)
	check(t, os.WriteFile(h.dir+"/pw", []byte("p'w d"), 0o600))
	data := mkdir(t, h.dir, "mongo")
	const common = `#!/bin/bash
set -e
D=DATA
for a in "$@"; do
  case $a in
  --config=*) [ "$(cat "${a#--config=}")" = 'password: "p'"'"'w d"' ] || { echo bad password >&2; exit 1; };;
  --drop) drop=1;; --archive) archive=1;;
  esac
done
`
	tool := func(name, text string) {
		h.script(t, name, strings.Replace(common, "DATA", data, 1)+text)
	}
	tool("mongodump", `[ "$archive" ]; tar -C $D --sort=name --mtime=@0 -cf - .`)
	tool("mongorestore", `[ "$archive" ]; if [ "$drop" ]; then rm -rf $D/*; fi; tar -C $D -xf -`)
	tool("mongosh", `ls $D | wc -l`)
	lines := func(n int) []byte {
		var b strings.Builder
		for i := range 20000 {
			fmt.Fprintf(&b, "{_id: %d, n: %d}\n", i, i*n)
		}
		return []byte(b.String())
	}
	write(t, data+"/orders.bson", lines(7))
	first := h.night(t, 0)["db"]
	write(t, data+"/orders.bson", append(lines(7), "changed\n"...))
	if second := h.night(t, 0)["db"]; second.New == 0 || second.New*5 > first.New {
		t.Errorf("first %+v, then %+v", first, second)
	}
	want, err := os.ReadFile(data + "/orders.bson")
	check(t, err)
	// With a password nobody can look into it: --force, which keeps a dump of what is there.
	if r := h.try(t, "run", "--restore", "app"); r.code != 2 || !strings.Contains(r.err, "is empty is not known") {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
	write(t, data+"/orders.bson", []byte("lost otherwise"))
	h.reverse(t, "app", "--force")
	if kept, _ := filepath.Glob(h.dir + "/state/before-restore/app.*"); len(kept) != 1 ||
		!strings.Contains(output(t, exec.Command("tar", "-xOf", kept[0])), "lost otherwise") {
		t.Errorf("kept: %q", kept)
	}
	// Without, it is asked.
	if r := h.try(t, "run", "--restore", "all"); r.code != 2 || !strings.Contains(r.err, "the server is not empty") {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
	check(t, os.Remove(data+"/orders.bson"))
	h.reverse(t, "all")
	if got, err := os.ReadFile(data + "/orders.bson"); err != nil || string(got) != string(want) {
		t.Errorf("%v: %s", err, differ(string(got), string(want)))
	}
}
