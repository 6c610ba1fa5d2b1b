package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// restored restores the latest save of src into a fresh directory and describes it.
func restored(t testing.TB, repo, src string) snapshot {
	t.Helper()
	out := target(t)
	kedge(t, repo, "restore", "-C", out, "x/latest"+src+"/.")
	return take(t, out)
}

// target is where a restore goes: a path that is not there yet, and that can be
// removed after the test whatever attributes come to it.
func target(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	t.Cleanup(func() { command(t, nil, "chattr", "-R", "-i", "-a", out) })
	return out
}

func TestHardCases(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	hardCases(t, src)
	want := take(t, src)
	for _, chunker := range []string{"rabin:13", "gear:13"} {
		t.Run(chunker, func(t *testing.T) {
			repo := filepath.Join(t.TempDir(), "repo")
			kedge(t, repo, "init", "--chunker", chunker)
			saveAgain(t, repo, src)
			same(t, want, restored(t, repo, src))
			gitClean(t, repo)
			kedge(t, repo, "fsck")
			holesStay(t, repo, src)

			clone := filepath.Join(t.TempDir(), "clone")
			must(t, "git", "clone", "-q", "--bare", repo, clone)
			// What the repository's config says about names like .git does not travel.
			must(t, "git", "-C", clone, "config", "include.path", repo+"/config")
			gitClean(t, clone)
			must(t, "git", "-C", repo, "log", "--format=%H", "x")
			must(t, "git", "-C", repo, "ls-tree", "-r", "x:"+src[1:]+"/names") // not all: a terabyte of holes has millions of entries
		})
	}
}

// holesStay looks at one sparse file of a terabyte.
func holesStay(t testing.TB, repo, src string) {
	t.Helper()
	out := t.TempDir()
	kedge(t, repo, "restore", "-C", out, "x/latest"+src+"/sizes/sparse")
	var a, b syscall.Stat_t
	if err := syscall.Stat(src+"/sizes/sparse", &a); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Stat(out+"/sparse", &b); err != nil {
		t.Fatal(err)
	}
	if b.Blocks > a.Blocks*105/100+64 {
		t.Errorf("a sparse file of %d blocks was restored with %d", a.Blocks, b.Blocks)
	}
}

// A second save of an unchanged tree stores a commit and next to nothing else,
// and reads no file.
func TestUnchanged(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(1, 1)), src, 300)
	repo := saved(t, src)
	first := must(t, "git", "-C", repo, "rev-parse", "x:"+src[1:])
	before := objects(t, repo)
	saveAgain(t, repo, src)
	if second := must(t, "git", "-C", repo, "rev-parse", "x:"+src[1:]); second != first {
		t.Errorf("the tree of an unchanged directory went from %s to %s", first, second)
	}
	// The directories above it have times of their own, which may have changed.
	if n := objects(t, repo) - before; n > 3*(1+strings.Count(src, "/")) {
		t.Errorf("an unchanged save stored %d objects", n)
	}
	gitClean(t, repo)
}

func objects(t testing.TB, repo string) (n int) {
	t.Helper()
	for _, l := range strings.Split(must(t, "git", "-C", repo, "count-objects", "-v"), "\n") {
		var v int
		if _, err := fmt.Sscanf(l, "in-pack: %d", &v); err == nil {
			n += v
		}
	}
	return n
}

// Random trees with random edits between saves: every save restores to what the
// tree was then, metadata included.
func TestRandomTrees(t *testing.T) {
	rounds, days := 4, 5
	if full {
		rounds, days = 40, 12
	}
	for round := range rounds {
		seed := uint64(round) + 1
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, seed))
			src := filepath.Join(t.TempDir(), "src")
			randomTree(t, r, src, 120)
			repo := filepath.Join(t.TempDir(), "repo")
			kedge(t, repo, "init", "--chunker", []string{"rabin:13", "gear:13", "rabin:10"}[round%3])
			var was []snapshot
			for range days {
				saveAgain(t, repo, src)
				was = append(was, take(t, src))
				edit(t, r, src, 25)
			}
			for i, want := range was {
				out := target(t)
				kedge(t, repo, "restore", "-C", out, fmt.Sprintf("x/%s%s/.", saveName(t, repo, i), src))
				same(t, want, take(t, out))
			}
			gitClean(t, repo)
			kedge(t, repo, "fsck")
		})
	}
}

// saveName returns the name of the i-th save, oldest first.
func saveName(t testing.TB, repo string, i int) string {
	t.Helper()
	saves := strings.Fields(kedge(t, repo, "ls", "x"))
	if len(saves) < i+2 || saves[len(saves)-1] != "latest" {
		t.Fatalf("saves: %q", saves)
	}
	return saves[i]
}

// Restoring over what a restore left behind, or over a changed tree, gives the
// save. Some of the changes keep size and mtime: only --verify looks further.
func TestRestoreAgain(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	src := filepath.Join(t.TempDir(), "src")
	randomTree(t, r, src, 150)
	repo := saved(t, src)
	want := take(t, src)
	out := filepath.Join(t.TempDir(), "out")
	for i := range 4 {
		kedge(t, repo, "restore", "--delete", "--verify", "-C", out, "x/latest"+src+"/.")
		same(t, want, take(t, out))
		if i < 3 {
			edit(t, r, out, 40)
		}
	}
}

// The streams of a save stand in it with the files, and none of it happens if
// one of them fails.
func TestStreams(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	write(t, mkdir(t, src)+"/file", []byte("a file\n"))
	repo := filepath.Join(t.TempDir(), "repo")
	kedge(t, repo, "init")
	kedge(t, repo, "index", src)
	kedge(t, repo, "save", "-n", "x", src, "--stream", "/.streams/a=printf hello", "--stream", src+"/dump.sql=seq 1 300000")
	if got := kedge(t, repo, "cat-file", "x/latest/.streams/a"); got != "hello" {
		t.Errorf("stream: %q", got)
	}
	if got, want := kedge(t, repo, "cat-file", "x/latest"+src+"/dump.sql"), must(t, "seq", "1", "300000"); got != want {
		t.Errorf("a stream of %d bytes came back with %d", len(want), len(got))
	}
	if got := kedge(t, repo, "cat-file", "x/latest"+src+"/file"); got != "a file\n" {
		t.Errorf("file: %q", got)
	}
	tip := must(t, "git", "-C", repo, "rev-parse", "x")
	for _, bad := range []string{"seq 1 100000; false", "seq 1 100000 | false | cat", "kill -9 $$", "exit 3", "no-such-command"} {
		res := tryKedge(t, repo, "save", "-n", "x", src, "--stream", "/s="+bad)
		if res.code != 1 {
			t.Errorf("stream %q: exit %d\n%s", bad, res.code, res.err)
		}
		if now := must(t, "git", "-C", repo, "rev-parse", "x"); now != tip {
			t.Fatalf("stream %q moved the ref", bad)
		}
	}
	gitClean(t, repo)
}

// randomTree makes about n things below dir.
func randomTree(t testing.TB, r *rand.Rand, dir string, n int) {
	t.Helper()
	dirs := []string{mkdir(t, dir)}
	for i := range n {
		d := dirs[r.IntN(len(dirs))]
		p := filepath.Join(d, fmt.Sprintf("%s%d", []string{"f", "x.bup", "-", "\xff"}[r.IntN(4)], i))
		switch x := r.IntN(20); {
		case x < 4:
			dirs = append(dirs, mkdir(t, p))
		case x < 6:
			check(t, os.Symlink(fmt.Sprintf("target %d", r.IntN(5)), p))
		case x < 7:
			check(t, syscall.Mkfifo(p, 0o600))
		default:
			write(t, p, randomContents(r))
			check(t, os.Chmod(p, os.FileMode(r.IntN(0o1000))))
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// randomContents is text, noise, zeros, or a mixture, of any size up to 400 kB.
func randomContents(r *rand.Rand) []byte {
	n := int(1) << r.IntN(19)
	n = r.IntN(n + n/2)
	b := make([]byte, n)
	switch r.IntN(4) {
	case 0:
		for i := range b {
			b[i] = byte(r.Uint32())
		}
	case 1:
		for i := range b {
			b[i] = "the quick brown fox\n"[r.IntN(20)]
		}
	case 2:
		if n > 0 {
			copy(b[r.IntN(n):], "an island in a sea of zeros")
		}
	case 3:
		copy(b, bytes.Repeat([]byte(fmt.Sprintf("row %d;", r.IntN(100))), n/6+1))
	}
	return b
}

// edit changes about n things in a tree: contents in place, at the front, at the
// end; attributes; names; types.
func edit(t testing.TB, r *rand.Rand, root string, n int) {
	t.Helper()
	var files, dirs []string
	check(t, filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		} else if err == nil {
			files = append(files, p)
		}
		return err
	}))
	for i := range n {
		d := dirs[r.IntN(len(dirs))]
		fresh := filepath.Join(d, fmt.Sprintf("new%d-%d", i, r.IntN(1000)))
		if len(files) == 0 || r.IntN(4) == 0 {
			write(t, fresh, randomContents(r))
			continue
		}
		p := files[r.IntN(len(files))]
		st, err := os.Lstat(p)
		if err != nil {
			continue // an earlier edit took it away
		}
		switch r.IntN(7) {
		case 0:
			check(t, os.RemoveAll(p))
		case 1:
			check(t, os.Rename(p, fresh))
		case 2:
			check(t, os.RemoveAll(p))
			mkdir(t, p)
			write(t, p+"/inside", randomContents(r))
		case 3:
			check(t, os.Chmod(d, 0o700|os.FileMode(r.IntN(0o100))))
			if st.Mode().IsRegular() {
				check(t, os.Chmod(p, os.FileMode(r.IntN(0o1000))))
			}
		default:
			if st.Mode().IsRegular() {
				overwrite(t, r, p, st)
			}
		}
	}
	if r.IntN(2) == 0 {
		// Edits within the same tick as the save before, or well after it.
		time.Sleep(20 * time.Millisecond)
	}
}

// overwrite changes a file in place. Half of the time it puts the old mtime
// back: only ctime tells.
func overwrite(t testing.TB, r *rand.Rand, p string, st os.FileInfo) {
	t.Helper()
	check(t, os.Chmod(p, 0o600))
	b, err := os.ReadFile(p)
	check(t, err)
	if len(b) > 0 {
		b[r.IntN(len(b))] ^= 0x55
	}
	if r.IntN(2) == 0 {
		b = append([]byte("put in front"), b...)
	}
	write(t, p, b)
	check(t, os.Chmod(p, st.Mode()))
	if r.IntN(2) == 0 {
		check(t, os.Chtimes(p, st.ModTime(), st.ModTime()))
	}
}
