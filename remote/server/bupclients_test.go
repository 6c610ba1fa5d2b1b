package server

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/repo"
)

// TestServerProcess is no test: it is the program that other tests start as a server. Its
// repositories are below the directory that the environment names.
func TestServerProcess(t *testing.T) {
	root := os.Getenv("KEDGE_TEST_SERVER")
	if root == "" {
		t.Skip("this is for child processes of other tests")
	}
	o := bupOwner(filepath.Join(root, "default"))
	o.Grant.Root = root
	o.BupNames = os.Getenv("KEDGE_TEST_BUPNAMES") != ""
	conn := struct {
		io.Reader
		io.Writer
	}{os.Stdin, os.Stdout}
	if err := Serve(context.Background(), conn, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bupWorld is a client with bup, and a server that it reaches by a program called ssh,
// on which the program called bup is ours.
type bupWorld struct {
	t   *testing.T
	dir string
	env []string
}

func newBupWorld(t *testing.T) *bupWorld {
	t.Helper()
	for _, p := range []string{"bup", "git"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
	w := &bupWorld{t: t, dir: t.TempDir()}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w.script("bin/ssh", `echo "$@" >>`+w.path("ssh.log")+`
while [ "$1" != -- ]; do shift; done
shift
[ -z "$REAL" ] && PATH=`+w.path("served")+`:$PATH
[ -z "$TAPE" ] && exec sh -c "$*"
tee "$TAPE.client" | sh -c "$*" | tee "$TAPE.server"`)
	w.script("served/bup", `KEDGE_TEST_SERVER=`+w.path("srv")+` exec `+self+` -test.run='^TestServerProcess$'`)
	for _, d := range []string{"srv", "home", "src"} {
		if err := os.Mkdir(w.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.env = append(os.Environ(), "PATH="+w.path("bin")+":"+os.Getenv("PATH"), "HOME="+w.path("home"),
		"BUP_DIR="+w.path("local"), "TZ=UTC", "GIT_CONFIG_NOSYSTEM=1")
	w.run("", "bup", "init")
	return w
}

func (w *bupWorld) path(name string) string { return filepath.Join(w.dir, name) }

func (w *bupWorld) script(name, text string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.path(name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func (w *bupWorld) write(name, content string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.path(name), []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// run runs a command and returns what it prints. Words before it of the form A=B go to
// its environment.
func (w *bupWorld) run(stdin string, args ...string) string {
	w.t.Helper()
	env := slices.Clone(w.env)
	for strings.Contains(args[0], "=") {
		env, args = append(env, args[0]), args[1:]
	}
	cmd := exec.Command(args[0], args[1:]...)
	for _, e := range env { // found in the PATH of the environment it gets
		if dirs, ok := strings.CutPrefix(e, "PATH="); ok && !strings.Contains(args[0], "/") {
			for _, dir := range filepath.SplitList(dirs) {
				if _, err := os.Stat(filepath.Join(dir, args[0])); err == nil {
					cmd.Path, cmd.Err = filepath.Join(dir, args[0]), nil
					break
				}
			}
		}
	}
	cmd.Env, cmd.Dir, cmd.Stdin = env, w.dir, strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%v: %v\n%s%s", args, err, out, stderr.Bytes())
	}
	return string(out)
}

// random returns bytes that are always the same: the digests of 0, 1, 2, …
func random(n int) string {
	var b []byte
	for i := 0; len(b) < n; i++ {
		sum := sha1.Sum(fmt.Append(nil, i))
		b = append(b, sum[:]...)
	}
	return string(b[:n])
}

// Sessions of bup with bup are recorded, and what the client said is said to our server,
// which answers the same, byte for byte: a first save, and one to another name by a
// client that has lost its cache.
func TestRecorded(t *testing.T) {
	w := newBupWorld(t)
	w.write("src/a", "hello\n")
	w.write("src/b", random(40000))
	there := w.path("srv/theirs")
	w.run("", "BUP_DIR="+there, "bup", "init")
	w.run("", "bup", "index", "src")
	ours := w.path("srv/ours")
	for i, name := range []string{"t", "t2"} {
		tape := w.path("tape")
		os.RemoveAll(w.path("local/index-cache"))
		w.run("", "REAL=1", "TAPE="+tape, "bup", "save", "-r", "host:"+there, "-n", name, "-d", "1700000000", "src")
		said, err := os.ReadFile(tape + ".client")
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(tape + ".server")
		if err != nil {
			t.Fatal(err)
		}
		requests := strings.Replace(string(said), "set-dir "+there+"\n", "set-dir "+ours+"\n", 1)
		if i == 0 {
			requests = strings.Replace(requests, "set-dir", "init-dir", 1)
		}
		o := bupOwner("")
		o.BupNames = true
		got, err := bupAsk(t, o, requests)
		if err != nil || got != string(want) {
			t.Errorf("%s: got %q, %v\nwant %q", name, got, err, want)
		}
		// What is known of these sessions from elsewhere.
		if i == 0 && (!strings.HasPrefix(got[205:], ok4+ok4+ok4+"pack-") || !strings.HasPrefix(string(said), "help\nset-dir ")) {
			t.Errorf("another beginning: %q", got[:300])
		}
		if i == 1 && !strings.Contains(got, "index pack-") {
			t.Errorf("nothing is suggested: %q", got[205:])
		}
	}
	bupFsck(t, ours)
	line, err := os.ReadFile(w.path("ssh.log"))
	if want := "host -- sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0  bup server'\n"; !strings.HasPrefix(string(line), want) || err != nil {
		t.Errorf("bup asks for %q, not %q", line, want)
	}
}

const ok4 = "\nok\n"

// fill makes a source with all that trees can hold, and gives it two saves and tags.
func (w *bupWorld) fill(save ...string) {
	w.t.Helper()
	w.write("src/a.txt", "hello\n")
	w.write("src/big", random(400000))
	w.write("src/d/f", "f\n")
	w.write("src/odd.bup", "odd\n")
	w.write("src/empty", "")
	for name, target := range map[string]string{
		"l": "a.txt", "dang": "nowhere/x", "abs": "/t/latest", "loop": "loop", "dl": "d", "far": "d/../dl/f",
	} {
		if err := os.Symlink(target, w.path("src/"+name)); err != nil {
			w.t.Fatal(err)
		}
	}
	w.run("", "mkfifo", "src/fifo")
	w.run("", "bup", "index", "src")
	w.run("", append(save, "-d", "1700000000", "--strip", "src")...)
	w.write("src/d/g", "g\n")
	w.run("", "bup", "index", "src")
	w.run("", append(save, "-d", "1700000100", "--strip", "src")...)
}

// The answers to questions about a repository are those of bup's server.
func TestLikeBup(t *testing.T) {
	w := newBupWorld(t)
	w.fill("bup", "save", "-n", "t")
	w.run("data", "bup", "split", "-n", "s/plain")
	git := func(args ...string) string {
		return strings.TrimSpace(w.run("", append([]string{"git", "--git-dir=" + w.path("local")}, args...)...))
	}
	git("tag", "v1", "t~1")
	git("tag", "blob", "t:d/f")
	git("tag", "tree", "t:d")
	git("branch", "z/y", "t~")
	head := git("rev-parse", "t")
	both := func(request string) (ours, theirs string) {
		return w.run(request, "KEDGE_TEST_SERVER="+w.path("srv"), "KEDGE_TEST_BUPNAMES=1", w.path("served/bup"), "server"),
			w.run(request, "bup", "server")
	}
	if err := os.Symlink(w.path("local"), w.path("srv/default")); err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{
		"help\n", "  help  \n\n\nhelp\n",

		"read-ref t\n", "read-ref refs/heads/t\n", "read-ref heads/t\n", "read-ref nope\n", "read-ref refs/tags/v1\n",
		"refs 0 0\n\n", "refs 1 0\n\n", "refs 0 1\n\n", "refs 1 1\n\n", "refs 0 0\nt\n\n", "refs 1 0\nheads/t\nnope\n\n",
		"refs 0 0\nplain\ntags/v1\n\n", "refs 0 1\nt\n\n",
		"rev-list\n\n%T %at\nt\n\n", "rev-list\n\n\n" + head + "\n\n", "rev-list\n\n%H%%%ct\nv1\n\n", "rev-list\n\n\nt~1\n\n",
		"cat t:a.txt\n", "join t:big.bup\n", "join t\n", "join " + head + "\n", "join s/plain\n", "join t:d\n", "cat t:empty\n",
		"cat-batch\nt\nnope\nt:a.txt\nrefs/heads/t^{tree}\nt~1\nt^\nt~2\nt^0\nt^2\nv1^{commit}\nblob\ntree\nt:\nt:d/f\nt:d/x\nt:a.txt/x\n\n",
		"cat-batch\n" + head[:7] + "\n" + head[:4] + "^{tree}\n" + head[:7] + ":l\n" + strings.Repeat("0", 40) + "\nheads/t\ntags/v1\nz/y~0\nt^{}\nt^{object}\nt^{blob}\nt~~1\n\n",
		"cat-batch\n\n",
	} {
		ours, theirs := both(request)
		if ours != theirs {
			t.Errorf("%q:\ngot  %q\nwant %q", request, ours, theirs)
		}
	}
	paths := []string{
		"/", "t", "t/", "t/latest", "t/latest/", "t/latest/a.txt", "t/latest/nope", "t/latest/nope/x", "t/latest/l", "t/latest/big", "t/latest/d", "t/latest/dl", "t/latest/dl/f", "t/latest/far",
		"t/latest/dang", "t/latest/dang/x", "t/latest/abs", "t/latest/fifo", "t/latest/odd.bup", "t/latest/empty",
		".tag", ".tag/v1", ".tag/v1/d", ".tag/blob", ".tag/tree", ".tag/tree/f", ".tag/nope", ".commit", ".commit/" + head, "nope", "nope/x",
		"t/2023-11-14-221320/d/g", "t/2023-11-14-221320/d/f", "t/2023-11-14-221321", "t/latest/d/..", "t/./latest//d/.", "../t", "t/latest/../latest/l",
	}
	// All at once, as starting bup takes a while; one by one only to find what differs.
	ask := func(flags int, paths []string) bool {
		var request strings.Builder
		for _, path := range paths {
			fmt.Fprintf(&request, "resolve %d\n%s", flags, appendBvec(nil, path))
		}
		ours, theirs := both(request.String())
		if strings.HasPrefix(theirs, "\x00\x07") { // an error: its words differ
			ours, theirs = ours[:min(3, len(ours))], theirs[:3]
		}
		if ours != theirs && len(paths) == 1 {
			t.Errorf("resolve %d %s:\ngot  %q\nwant %q", flags, paths[0], ours, theirs)
		}
		return ours == theirs
	}
	for flags := range 4 {
		if ask(flags, paths) {
			continue
		}
		for _, path := range paths {
			ask(flags, []string{path})
		}
	}
	for _, path := range []string{"t/latest/a.txt/x", "t/latest/a.txt/", "t/latest/fifo/x"} {
		ask(0, []string{path})
	}
	ask(3, []string{"t/latest/loop"})
	tip, err := hex.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	parent := "\x02\x00\x01\x04Root\x00\xed\x83\x01\x01t\x01\x07RevList\x00\x14" + string(tip) + "\xed\x83\x01"
	for _, path := range []string{"latest/d", "latest", "nope", "/t/latest", "latest/l", "../t"} {
		ours, theirs := both("resolve 6\n" + parent + string(appendBvec(nil, path)))
		if ours != theirs {
			t.Errorf("%s from a parent: %q\nwant %q", path, ours, theirs)
		}
	}
}

// An old client makes a repository here, saves to it, looks into it and restores.
func TestOldClients(t *testing.T) {
	w := newBupWorld(t)
	at := "host:build"
	w.run("", "bup", "init", "-r", at)
	w.fill("bup", "save", "-r", at, "-n", "t")
	dir := w.path("srv/build")
	packs := func() []string {
		list, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.idx"))
		return list
	}
	before := len(packs())
	if before != 2 {
		t.Errorf("%d packs of two saves", before)
	}

	// All again, by a client that knows nothing any more.
	w.run("", "rm", "-rf", "local/index-cache")
	w.run("", "bup", "index", "--fake-invalid", "src")
	w.run("", "bup", "save", "-r", at, "-n", "again", "-d", "1700000200", "--strip", "src")
	size := int64(0)
	if list := packs(); len(list) != before+1 {
		t.Errorf("%d packs after all was saved again", len(list))
	}
	newest := slices.MaxFunc(packs(), func(a, b string) int {
		x, _ := os.Stat(a)
		y, _ := os.Stat(b)
		return x.ModTime().Compare(y.ModTime())
	})
	if info, err := os.Stat(strings.TrimSuffix(newest, ".idx") + ".pack"); err == nil {
		size = info.Size()
	}
	if size == 0 || size > 4000 {
		t.Errorf("%d bytes came for what was there", size)
	}
	if cached, _ := filepath.Glob(w.path("local/index-cache/*/*.idx")); len(cached) < 2 {
		t.Errorf("the client was told of %d idx files", len(cached))
	}

	data := random(100000)
	w.run(data, "bup", "split", "-r", at, "-n", "KEY-1")
	if got := w.run("", "bup", "join", "-r", at, "KEY-1"); got != data {
		t.Errorf("join gives %d bytes", len(got))
	}
	if got, want := w.run("", "bup", "ls", "-r", at, "t/latest"), "a.txt\nabs\nbig\nd\ndang\ndl\nempty\nfar\nfifo\nl\nloop\nodd.bup\n"; slices.Compare(strings.Fields(got), strings.Fields(want)) != 0 {
		t.Errorf("ls: %q", got)
	}
	w.run("", "bup", "ls", "-r", at, "-lA", "t", "t/latest/d", "/", ".tag")
	w.run("", "bup", "restore", "-r", at, "-C", w.path("back"), "t/latest/.")
	w.run("", "rm", "src/fifo", "back/fifo")
	w.run("", "diff", "-r", "--no-dereference", "src", "back")
	bupFsck(t, dir)
	checkBoth(t, dir, w)
}

// checkBoth looks at a repository with our own eyes.
func checkBoth(t *testing.T, dir string, w *bupWorld) {
	t.Helper()
	ctx := context.Background()
	p, err := repo.OpenDir(ctx, dir, repo.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := repo.Check(ctx, p, repo.CheckOptions{}, func(f repo.Finding) { t.Errorf("check: %v", f) }); err != nil {
		t.Error(err)
	}
	if c := p.Config(); c.Chunker != "rollsum:13" || c.Version != 0 {
		t.Errorf("config %+v", c)
	}
	v := repo.VFS{Repo: p}
	for _, name := range []string{"a.txt", "big", "d/f", "d/g", "odd.bup"} {
		chain, err := v.Resolve(ctx, "again/latest/"+name, repo.ResolveOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n := chain[len(chain)-1]
		var got bytes.Buffer
		if _, err := repo.OpenFile(ctx, p, n.ID, n.Chunked).WriteTo(&got); err != nil {
			t.Error(err)
		}
		want, _ := os.ReadFile(w.path("src/" + name))
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s has %d bytes, not %d", name, got.Len(), len(want))
		}
	}
	err = p.Receipts(ctx, func(r repo.Receipt) error {
		if r.Principal != "test" || r.Objects == 0 || r.Bytes == 0 {
			t.Errorf("receipt %+v", r)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
