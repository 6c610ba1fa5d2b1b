package upload

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// inPack returns how many objects the packs of a repository have.
func inPack(t testing.TB, dir string) (n int) {
	t.Helper()
	text := git(t, "-C", dir, "count-objects", "-v")
	if _, err := fmt.Sscanf(text[strings.Index(text, "in-pack:"):], "in-pack: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// fetch fetches all into a mirror and returns how many objects came.
func fetch(t testing.TB, to, dir string, v int) int {
	t.Helper()
	had := inPack(t, to)
	git(t, "-c", fmt.Sprintf("protocol.version=%d", v), "-c", "fetch.unpackLimit=1", "-C", to,
		"fetch", "-q", "--no-auto-gc", "UPLOAD", "file://"+dir, "+refs/*:refs/*")
	clean(t, to)
	if contents(t, to) != contents(t, dir) {
		t.Errorf("%s is not what %s is", to, dir)
	}
	return inPack(t, to) - had
}

func mirror(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "mirror")
	git(t, "clone", "-q", "--mirror", "UPLOAD", "file://"+dir, to)
	return to
}

// TestFetch fetches into clones after new saves: just what is new travels. A save of
// newRepo is 20 blobs, a tree and a commit, all of them other ones for another seed.
func TestFetch(t *testing.T) {
	const perSave = 22
	for v := range 3 {
		dir, tips := newRepo(t, "refs/heads/main", "a", "b", "c")
		to := mirror(t, dir)
		if n := fetch(t, to, dir, v); n != 0 {
			t.Errorf("nothing new: %d objects", n)
		}
		tips = save(t, dir, "refs/heads/main", tips[2], "d", "e")
		if n := fetch(t, to, dir, v); n != 2*perSave {
			t.Errorf("two saves: %d objects", n)
		}
		save(t, dir, "refs/heads/main", tips[1], "d") // as it was two saves before
		if n := fetch(t, to, dir, v); n > perSave || n < 1 {
			t.Errorf("an old tree comes back: %d objects", n)
		}
		save(t, dir, "refs/heads/other", pack.ID{}, "d", "f") // shares no commit with what is there
		if n := fetch(t, to, dir, v); n != perSave+1 {
			t.Errorf("another branch with the same data: %d objects", n)
		}
		save(t, dir, "refs/heads/again", pack.ID{}, "d")
		if n := fetch(t, to, dir, v); n != 0 {
			t.Errorf("a branch of known commits: %d objects", n)
		}
		git(t, "-C", dir, "repack", "-q", "-a", "-d")
		save(t, dir, "refs/heads/third", pack.ID{}, "g")
		if n := fetch(t, to, dir, v); n != perSave {
			t.Errorf("after a repack: %d objects", n)
		}
	}
}

// TestFetchHistories fetches between repositories whose histories have grown apart.
func TestFetchHistories(t *testing.T) {
	dir := gitRepo(t)
	for _, x := range []struct {
		name string
		to   func() string
		most int
	}{
		{"an old clone", func() string {
			to := filepath.Join(t.TempDir(), "old")
			git(t, "init", "-q", "--bare", to)
			git(t, "-C", to, "fetch", "-q", "--no-tags", "UPLOAD", "file://"+dir, "early:refs/heads/main")
			return to
		}, 250},
		{"ahead", func() string {
			to := mirror(t, dir)
			tree := strings.TrimSpace(git(t, "-C", to, "rev-parse", "main^{tree}"))
			for i := range 100 {
				id := git(t, "-C", to, "commit-tree", "-p", "main", "-m", fmt.Sprint(i), tree)
				git(t, "-C", to, "update-ref", "refs/heads/main", strings.TrimSpace(id))
			}
			return to
		}, 3},
		{"of something else", func() string {
			other, _ := newRepo(t, "refs/heads/else", "x", "y")
			return mirror(t, other)
		}, 1000},
		{"of half of it", func() string {
			to := filepath.Join(t.TempDir(), "half")
			git(t, "init", "-q", "--bare", to)
			git(t, "-C", to, "fetch", "-q", "--no-tags", "UPLOAD", "file://"+dir, "side:refs/heads/side")
			git(t, "-C", to, "repack", "-q", "-a", "-d")
			return to
		}, 100},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.name == "an old clone" { // a want must be a ref
				git(t, "-C", dir, "update-ref", "refs/heads/early", "main~28")
				defer git(t, "-C", dir, "update-ref", "-d", "refs/heads/early")
			}
			to := x.to()
			for v := range 2 {
				copied := filepath.Join(t.TempDir(), "copy")
				if err := os.CopyFS(copied, os.DirFS(to)); err != nil {
					t.Fatal(err)
				}
				git(t, "-c", fmt.Sprintf("protocol.version=%d", v), "-c", "fetch.unpackLimit=1", "-C", copied,
					"fetch", "-q", "UPLOAD", "file://"+dir, "+refs/*:refs/copied/*")
				clean(t, copied)
				want := sortLines(git(t, "-C", dir, "rev-list", "--objects", "--no-object-names", "--all"))
				if got := sortLines(git(t, "-C", copied, "rev-list", "--objects", "--no-object-names", "--glob=refs/copied")); got != want {
					t.Error("other objects came")
				}
				if n := inPack(t, copied) - inPack(t, to); n > x.most {
					t.Errorf("%d objects came", n)
				}
			}
		})
	}
}

// TestRefused asks git for what is not served. Shallow clones are not offered, and git does
// not ask for them; for filters it asks in any case.
func TestRefused(t *testing.T) {
	dir := gitRepo(t)
	url := "file://" + dir
	for v := range 3 {
		version := fmt.Sprintf("protocol.version=%d", v)
		to := func() string { return filepath.Join(t.TempDir(), "clone") }
		for _, option := range []string{"--depth=1", "--shallow-since=2001-01-01", "--shallow-exclude=side"} {
			if r := tryGit(t, nil, "-c", version, "clone", "-q", option, "UPLOAD", url, to()); r.code == 0 || !strings.Contains(r.err, "shallow") {
				t.Errorf("%s: exit %d\n%s", option, r.code, r.err)
			}
		}
		r := tryGit(t, nil, "-c", version, "clone", "-q", "--mirror", "--filter=blob:none", "UPLOAD", url, to())
		if r.code == 0 || !strings.Contains(r.err, "fatal: remote error: refused: partial clones (filter) are not served here; clone without --filter\n") {
			t.Errorf("--filter: exit %d\n%s", r.code, r.err)
		}
		deep := to()
		git(t, "clone", "-q", "--depth=1", url, deep) // by git itself
		git(t, "-C", dir, "commit", "-q", "--allow-empty", "-m", version)
		if r := tryGit(t, nil, "-c", version, "-C", deep, "fetch", "UPLOAD", url); r.code == 0 || !strings.Contains(r.err, "shallow") {
			t.Errorf("a fetch into a shallow clone: %s", r.err)
		}
	}
}
