package upload

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// gitRepo makes a repository with git: a history with a merge, tags of all kinds, files
// that deltas pay for, a link to another repository's commit.
func gitRepo(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "git")
	git(t, "init", "-q", "-b", "main", dir)
	in := func(args ...string) string { t.Helper(); return git(t, append([]string{"-C", dir}, args...)...) }
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("a line of text that is the same in all\n", 500)
	for i := range 30 {
		put("long", fmt.Sprintf("%s%d\n%s", long, i, long))
		put(fmt.Sprintf("dir/sub/%d", i), fmt.Sprintf("%d\n", i))
		put("random", random(2000+i))
		in("add", "-A")
		in("commit", "-q", "-m", strconv.Itoa(i))
		if i == 10 {
			in("branch", "side")
			in("tag", "-a", "-m", "ten", "ten")
			in("tag", "light")
		}
	}
	if err := os.Symlink("long", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	in("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("12", 20)+",other")
	in("add", "link")
	in("commit", "-q", "-m", "links")
	in("checkout", "-q", "side")
	put("side", "side\n")
	in("add", "side")
	in("commit", "-q", "-m", "side")
	in("merge", "-q", "-m", "merge", "main~5")
	in("tag", "-a", "-m", "of a tag", "nested", "ten")
	in("tag", "-a", "-m", "of a tree", "tree", "main^{tree}")
	in("tag", "-a", "-m", "of a blob", "blob", "main:long")
	in("update-ref", "refs/tags/bare-blob", "main:random")
	in("update-ref", "refs/odd/place", "main~3")
	in("checkout", "-q", "main")
	return dir
}

// random returns bytes that do not compress, the same for the same n.
func random(n int) string {
	b := make([]byte, 0, n+32)
	for i := 0; len(b) < n; i++ {
		b = pack.Sum(pack.Blob, fmt.Appendf(nil, "%d %d", n, i)).AppendBytes(b)
	}
	return string(b[:n])
}

// kinds are repositories of every kind.
var kinds = []struct {
	name string
	make func(t testing.TB) string
}{
	{"kedge", func(t testing.TB) string {
		dir, _ := newRepo(t, "refs/heads/main", "a", "b", "c")
		save(t, dir, "refs/heads/other", pack.ID{}, "b", "d")
		return dir
	}},
	{"loose", gitRepo},
	{"deltas", func(t testing.TB) string {
		dir := gitRepo(t)
		git(t, "-C", dir, "gc", "-q", "--prune=now")
		if out := git(t, "-C", dir, "verify-pack", "-v", onlyPack(t, dir)); !strings.Contains(out, "chain length = 3") {
			t.Fatal("no chains of deltas")
		}
		return dir
	}},
	{"deltas and loose", func(t testing.TB) string {
		dir := gitRepo(t)
		git(t, "-C", dir, "gc", "-q", "--prune=now")
		write(t, dir+"/new", "new\n")
		git(t, "-C", dir, "add", "new")
		git(t, "-C", dir, "commit", "-q", "-m", "new")
		return dir
	}},
	{"objects in several packs", several},
	{"multi-pack-index", func(t testing.TB) string {
		dir := several(t)
		git(t, "-C", dir, "multi-pack-index", "write")
		return dir
	}},
	{"idx of version 1", func(t testing.TB) string {
		dir := gitRepo(t)
		git(t, "-C", dir, "-c", "pack.indexVersion=1", "repack", "-q", "-a", "-d")
		return dir
	}},
	{"saves repacked by git", func(t testing.TB) string {
		dir, _ := newRepo(t, "refs/heads/main", "a", "b", "c", "d")
		git(t, "-C", dir, "repack", "-q", "-a", "-d", "--depth=40")
		git(t, "-C", dir, "pack-refs", "--all")
		return dir
	}},
	{"bup's, repacked by git", func(t testing.TB) string {
		bup, err := exec.LookPath("bup")
		if err != nil {
			t.Skip("needs bup")
		}
		at := t.TempDir()
		dir := at + "/bup"
		run := func(args ...string) {
			t.Helper()
			cmd := exec.Command(bup, args...)
			cmd.Env = append(os.Environ(), "BUP_DIR="+dir, "HOME="+at)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("bup %q: %v\n%s", args, err, out)
			}
		}
		run("init")
		src := at + "/src"
		if err := os.MkdirAll(src+"/sub", 0o755); err != nil {
			t.Fatal(err)
		}
		text := random(300_000)
		for i := range 3 {
			write(t, src+"/chunked", text[:i*50_000]+"x"+text[i*50_000:])
			write(t, src+fmt.Sprintf("/sub/%d", i), strings.Repeat("text\n", 100*i))
			run("index", src)
			run("save", "-q", "-n", "etc", src)
		}
		git(t, "-C", dir, "repack", "-q", "-a", "-d", "-f")
		return dir
	}},
	{"large", func(t testing.TB) string {
		dir := filepath.Join(t.TempDir(), "large")
		git(t, "init", "-q", "-b", "main", dir)
		big := random(5 << 20)
		write(t, dir+"/big", big)
		git(t, "-C", dir, "add", "-A")
		git(t, "-C", dir, "commit", "-q", "-m", "1")
		write(t, dir+"/big", big[:3<<20]+random(2<<20)+big[3<<20:]) // a delta of more than a mebibyte
		git(t, "-C", dir, "commit", "-q", "-a", "-m", "2")
		write(t, dir+"/big", big[:1<<20]+"x"+big[1<<20:])
		git(t, "-C", dir, "commit", "-q", "-a", "-m", "3")
		git(t, "-C", dir, "repack", "-q", "-a", "-d")
		return dir
	}},
	{"detached HEAD", func(t testing.TB) string {
		dir := gitRepo(t)
		git(t, "-C", dir, "checkout", "-q", "--detach", "main~2")
		return dir
	}},
}

// several makes a repository of packs that share objects, among them deltas of one in
// another: of the last object the base is whole here and a delta there.
func several(t testing.TB) string {
	t.Helper()
	dir := gitRepo(t)
	for _, revs := range []string{"main", "side", "main~20", "--all"} {
		cmd := "git -C " + dir + " rev-list --objects " + revs + " | git -C " + dir + " pack-objects -q --window=20 " + dir + "/.git/objects/pack/pack >/dev/null"
		if out, err := shell(cmd); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	git(t, "-C", dir, "prune-packed", "-q")
	return dir
}

func onlyPack(t testing.TB, dir string) string {
	t.Helper()
	packs, err := filepath.Glob(dir + "/.git/objects/pack/*.pack")
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs: %q, %v", packs, err)
	}
	return packs[0]
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestClone clones repositories of every kind with git, in all versions of the protocol.
func TestClone(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			dir := k.make(t)
			want := contents(t, dir)
			for v := range 3 {
				to := filepath.Join(t.TempDir(), "clone")
				git(t, "-c", fmt.Sprintf("protocol.version=%d", v), "clone", "-q", "--mirror", "UPLOAD", "file://"+dir, to)
				clean(t, to)
				if got := contents(t, to); got != want {
					t.Errorf("version %d: the clone is another\n%s\nwant\n%s", v, got, want)
				}
			}
		})
	}
}

// TestCloneNoMore compares how much is sent with what there is: deltas stay what they are.
func TestCloneNoMore(t *testing.T) {
	for _, k := range kinds {
		if k.name != "deltas" && k.name != "large" && k.name != "kedge" {
			continue
		}
		dir := k.make(t)
		to := filepath.Join(t.TempDir(), "clone")
		git(t, "-c", "core.looseCompression=0", "clone", "-q", "--mirror", "UPLOAD", "file://"+dir, to)
		was, is := packSize(t, dir), packSize(t, to)
		if is > was+was/20+2000 {
			t.Errorf("%s: %d bytes were sent for %d", k.name, is, was)
		}
	}
}

// packSize returns how many bytes the packs of a repository have.
func packSize(t testing.TB, dir string) (n int64) {
	t.Helper()
	for _, pattern := range []string{"/objects/pack/*.pack", "/.git/objects/pack/*.pack"} {
		packs, err := filepath.Glob(dir + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packs {
			info, err := os.Stat(p)
			if err != nil {
				t.Fatal(err)
			}
			n += info.Size()
		}
	}
	return n
}

// TestCheckout clones with a work tree, as people do, and says what happens on the way.
func TestCheckout(t *testing.T) {
	dir := gitRepo(t)
	to := filepath.Join(t.TempDir(), "clone")
	r := tryGit(t, nil, "clone", "--progress", "UPLOAD", "file://"+dir, to)
	if r.code != 0 || !strings.Contains(r.err, "remote: Counting objects: ") || !strings.Contains(r.err, ", done.") {
		t.Fatalf("exit %d\n%s", r.code, r.err)
	}
	if got, err := os.ReadFile(to + "/dir/sub/7"); err != nil || string(got) != "7\n" {
		t.Errorf("%q, %v", got, err)
	}
	if got := git(t, "-C", to, "symbolic-ref", "HEAD"); got != "refs/heads/main\n" {
		t.Errorf("HEAD: %s", got)
	}
}

// TestOneBranch fetches one branch: nothing else comes with it but, if they are wanted, the
// tags of what does.
func TestOneBranch(t *testing.T) {
	dir := gitRepo(t)
	side := git(t, "-C", dir, "rev-list", "--objects", "--no-object-names", "side")
	for _, x := range []struct {
		option string
		more   int
	}{{"--no-tags", 0}, {"--no-auto-gc", 2}} { // ten, and the tag of it
		to := filepath.Join(t.TempDir(), "one")
		git(t, "init", "-q", "--bare", to)
		git(t, "-C", to, "-c", "fetch.unpackLimit=1", "fetch", "-q", x.option, "UPLOAD", "file://"+dir, "side:refs/heads/side")
		clean(t, to)
		if got := git(t, "-C", to, "rev-list", "--objects", "--no-object-names", "side"); sortLines(got) != sortLines(side) {
			t.Errorf("%s: another branch", x.option)
		}
		want := fmt.Sprintf("in-pack: %d\npacks: 1\n", strings.Count(side, "\n")+x.more)
		if n := git(t, "-C", to, "count-objects", "-v"); !strings.Contains(n, want) {
			t.Errorf("%s: want %s\ngot %s", x.option, want, n)
		}
	}
}

// TestEmpty clones a repository without refs.
func TestEmpty(t *testing.T) {
	for v := range 3 {
		dir, _ := newRepo(t, "refs/heads/main")
		to := filepath.Join(t.TempDir(), "clone")
		version := fmt.Sprintf("protocol.version=%d", v)
		r := tryGit(t, nil, "-c", version, "clone", "--bare", "UPLOAD", "file://"+dir, to)
		if r.code != 0 || !strings.Contains(r.err, "warning: You appear to have cloned an empty repository.") {
			t.Fatalf("version %d: exit %d\n%s", v, r.code, r.err)
		}
		if r := tryGit(t, nil, "-c", version, "ls-remote", "UPLOAD", "file://"+dir); r.code != 0 || r.out != "" || r.err != "" {
			t.Errorf("ls-remote: %+v", r)
		}
		save(t, dir, fmt.Sprintf("refs/heads/x%d", v), pack.ID{}, fmt.Sprint(v)) // HEAD is nothing still
		git(t, "-c", version, "-C", to, "fetch", "-q", "UPLOAD", "file://"+dir, "+refs/*:refs/*")
		clean(t, to)
	}
}

// TestRefsAsGit compares what ls-remote shows with what git's own server shows.
func TestRefsAsGit(t *testing.T) {
	for _, k := range kinds {
		if k.name != "kedge" && k.name != "loose" && k.name != "detached HEAD" {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			dir := k.make(t)
			for _, packed := range []bool{false, true} {
				if packed {
					git(t, "-C", dir, "pack-refs", "--all")
				}
				for _, more := range [][]string{{"--symref"}, {"--heads"}, {"--tags"}} {
					args := append([]string{"-c", "protocol.version=0", "ls-remote", "file://" + dir}, more...)
					want := git(t, args...)
					for v := range 3 {
						args[1] = fmt.Sprintf("protocol.version=%d", v)
						if got := git(t, append([]string{args[0], args[1], "ls-remote", "UPLOAD", "file://" + dir}, more...)...); got != want {
							t.Errorf("version %d, %q:\n%s\nwant\n%s", v, more, got, want)
						}
					}
				}
			}
		})
	}
}
