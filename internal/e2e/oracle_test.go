package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
)

func needBup(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("bup"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("bup is missing: see .ci/run")
		}
		t.Skip("bup is not installed")
	}
}

// leaveOut removes what bup cannot do: holes cost it as much as data, and it
// does not keep hard links between symbolic links.
func leaveOut(t testing.TB, src string) {
	t.Helper()
	for _, n := range []string{"sizes/sparse", "sizes/hole", "links/sym2"} {
		check(t, os.Remove(filepath.Join(src, n)))
	}
}

// Debian's bup lists, reads and restores what kedge saved, bytes and metadata.
func TestBupReads(t *testing.T) {
	needBup(t)
	src := filepath.Join(t.TempDir(), "src")
	hardCases(t, src)
	leaveOut(t, src)
	want := take(t, src)
	repo := saved(t, src)
	out := t.TempDir()
	must(t, "bup", "-d", repo, "restore", "-q", "-C", out, "x/latest"+src)
	t.Cleanup(func() { command(t, nil, "chattr", "-R", "-i", "-a", out) })
	same(t, want, take(t, out+"/src"))

	if k, b := kedge(t, repo, "ls", "-A", "x/latest"+src+"/names"), must(t, "bup", "-d", repo, "ls", "-A", "x/latest"+src+"/names"); k != b {
		t.Errorf("kedge and bup list differently:\n%q\n%q", k, b)
	}
	if got := must(t, "bup", "-d", repo, "cat-file", "/x/latest"+src+"/attributes/file"); got != "attributes" {
		t.Errorf("bup cat-file: %q", got)
	}
	if k, b := kedge(t, repo, "cat-file", "--bupm", "x/latest"+src+"/types"), must(t, "bup", "-d", repo, "cat-file", "--bupm", "/x/latest"+src+"/types"); k != b {
		t.Errorf("kedge and bup differ in .bupm")
	}
	must(t, "bup", "-d", repo, "fsck", "--disable-par2")
}

// What bup saved, kedge lists, reads, restores, checks, and adds to, with the
// same chunks; then bup reads that.
func TestBupWrites(t *testing.T) {
	needBup(t)
	src := filepath.Join(t.TempDir(), "src")
	hardCases(t, src)
	leaveOut(t, src)
	want := take(t, src)
	repo := filepath.Join(t.TempDir(), "repo")
	must(t, "bup", "-d", repo, "init")
	must(t, "bup", "-d", repo, "index", src)
	must(t, "bup", "-d", repo, "save", "-q", "-n", "x", src)
	same(t, want, restored(t, repo, src))
	kedge(t, repo, "fsck")

	blobs := contentIDs(t, repo, "x")
	kedge(t, repo, "index", src)
	kedge(t, repo, "save", "-n", "x", src)
	for path, id := range contentIDs(t, repo, "x") {
		if blobs[path] != id {
			t.Errorf("%q is %s in bup's save and %s in kedge's", path, blobs[path], id)
		}
	}
	out := t.TempDir()
	must(t, "bup", "-d", repo, "restore", "-q", "-C", out, "x/latest"+src)
	t.Cleanup(func() { command(t, nil, "chattr", "-R", "-i", "-a", out) })
	same(t, want, take(t, out+"/src"))

	must(t, "git", "-C", repo, "repack", "-adfq", "--depth=50", "--window=10")
	same(t, want, restored(t, repo, src))
	kedge(t, repo, "fsck")
}

// contentIDs returns the id of every file of a save, .bupm left out.
func contentIDs(t testing.TB, repo, ref string) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for _, l := range strings.Split(must(t, "git", "-C", repo, "ls-tree", "-rz", ref), "\x00") {
		meta, name, ok := strings.Cut(l, "\t")
		if ok && !strings.HasSuffix(name, ".bupm") && !strings.Contains(name, ".bupm/") {
			ids[name] = strings.Fields(meta)[2]
		}
	}
	return ids
}

// go-git opens a repository and reads a save from it.
func TestGoGitReads(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	write(t, mkdir(t, src)+"/file", []byte("hello\n"))
	repo := saved(t, src)
	r, err := git.PlainOpen(repo)
	check(t, err)
	ref, err := r.Reference(plumbing.NewBranchReferenceName("x"), true)
	check(t, err)
	c, err := r.CommitObject(ref.Hash())
	check(t, err)
	f, err := c.File(src[1:] + "/file")
	check(t, err)
	if got, err := f.Contents(); err != nil || got != "hello\n" {
		t.Errorf("contents %q, %v", got, err)
	}
}

// The shell lines in docs/formats.md get a chunked file back with stock git.
func TestStockGitRestores(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	big := []byte(must(t, "seq", "1", "400000"))
	write(t, mkdir(t, src)+"/big.sql", big)
	repo := saved(t, src)
	got := must(t, "sh", "-c", `cd "$1" && git ls-tree -r -z --object-only "x:$2/big.sql.bup" | xargs -0 -n1 git cat-file blob`, "sh", repo, src[1:])
	if got != string(big) {
		t.Errorf("%d bytes came back as %d", len(big), len(got))
	}
}

// One index serves two repositories, one made anew, and one that lost a save to
// git's gc: every ref's closure is complete.
func TestOneIndexManyRepositories(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	write(t, mkdir(t, src, "sub")+"/big.sql", []byte(must(t, "seq", "1", "200000")))
	write(t, src+"/small", []byte("small\n"))
	want := take(t, src)
	index := filepath.Join(t.TempDir(), "index")
	save := func(repo string) {
		t.Helper()
		kedge(t, repo, "index", "-f", index, src)
		kedge(t, repo, "save", "-f", index, "-n", "x", src)
		same(t, want, restored(t, repo, src))
		gitClean(t, repo)
	}
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	kedge(t, a, "init")
	kedge(t, b, "init")
	save(a)
	save(b)
	save(a)
	check(t, os.RemoveAll(a))
	kedge(t, a, "init", "--chunker", "gear:13")
	save(a)
	must(t, "git", "-C", b, "update-ref", "-d", "refs/heads/x")
	must(t, "git", "-C", b, "reflog", "expire", "--expire=now", "--all")
	must(t, "git", "-C", b, "-c", "gc.pruneExpire=now", "-c", "gc.reflogExpire=now", "repack", "-adq")
	must(t, "git", "-C", b, "prune", "--expire=now")
	save(b)
}
