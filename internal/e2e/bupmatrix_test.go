package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bupStates are what becomes of a repository that bup made, by bup's hand and git's. In
// each, kedge reads everything and adds to it, and bup reads that.
var bupStates = []struct {
	name, script string // run in the repository, with BUP_DIR set
}{
	{"as it is", ``},
	{"tags", `bup tag first $(git rev-parse b~1); bup tag tree $(git rev-parse b~1^{tree})`},
	{"split streams", `seq 1 300000 | bup split -q -n stream; seq 1 5 | bup split -q -n stream`},
	{"repacked with deltas", `git repack -adfq --depth=50 --window=10; rm -f objects/pack/*.midx objects/pack/bup.bloom`},
	{"repacked under bup's tables", `bup midx -f 2>/dev/null; bup bloom -f 2>/dev/null; git repack -adfq --depth=50`},
	{"packed refs", `bup tag first b; git pack-refs --all`},
	{"loose objects", `mv objects/pack/*.pack .; rm -f objects/pack/*; for p in *.pack; do git unpack-objects -q <$p; done; rm *.pack`},
	{"some loose", `git update-ref refs/heads/b $(git cat-file commit b | git hash-object -w -t commit --stdin); git tag -f loose $(seq 1 9 | git hash-object -w --stdin)`},
	{"midx and bloom", `bup midx -f 2>/dev/null; bup bloom -f 2>/dev/null; ls objects/pack/*.midx objects/pack/bup.bloom >/dev/null`},
	{"without midx and bloom", `rm -f objects/pack/*.midx objects/pack/bup.bloom`},
	{"torn midx and bloom", `bup midx -f 2>/dev/null; for f in objects/pack/*.midx objects/pack/bup.bloom; do chmod u+w $f; echo torn >$f; done`},
}

// TestBupMatrix goes through the states.
func TestBupMatrix(t *testing.T) {
	needBup(t)
	src := filepath.Join(t.TempDir(), "src")
	hardCases(t, src)
	leaveOut(t, src)
	must(t, "rm", "-r", src+"/names") // which TestBupReads has, and takes long
	base := bupRepo(t)
	first := take(t, src)
	bupSave(t, base, "b", src)
	write(t, src+"/sizes/2048", []byte("edited"))
	write(t, src+"/added.bup", []byte(strings.Repeat("added\n", 50000)))
	second := take(t, src)
	bupSave(t, base, "b", src)
	for _, s := range bupStates {
		t.Run(s.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "repo")
			must(t, "cp", "-a", base, dir)
			r := command(t, []string{"BUP_DIR=" + dir}, "sh", "-ec", "cd \"$1\"\n"+s.script, "sh", dir)
			if r.code != 0 {
				t.Fatalf("%s: %s", s.script, r.err)
			}
			index := hashFile(t, dir+"/bupindex")
			bupReadByKedge(t, dir, src, first, second)
			kedgeReadByBup(t, dir, src, second)
			if hashFile(t, dir+"/bupindex") != index {
				t.Error("kedge wrote to bup's index")
			}
			thenTogether(t, dir, src, second)
		})
	}
}

// bupReadByKedge looks at all that bup wrote.
func bupReadByKedge(t *testing.T, dir, src string, first, second snapshot) {
	t.Helper()
	kedge(t, dir, "fsck")
	for _, args := range [][]string{{"ls"}, {"ls", "-A", "b"}, {"ls", "-s", "b/latest" + src + "/sizes"}, {"ls", "-A", ".tag"}} {
		bup := must(t, "bup", append([]string{"-d", dir}, args...)...)
		if got := kedge(t, dir, args...); got != bup {
			t.Errorf("%q: kedge prints\n%s, bup\n%s", args, got, bup)
		}
	}
	saves := strings.Fields(kedge(t, dir, "ls", "b"))
	for i, want := range []snapshot{first, second} {
		out := target(t)
		t.Cleanup(func() { command(t, nil, "chattr", "-R", "-i", "-a", out) })
		kedge(t, dir, "restore", "-C", out, "b/"+saves[i]+src+"/.")
		same(t, want, take(t, out))
	}
	file := "b/latest" + src + "/added.bup"
	if got := kedge(t, dir, "cat-file", file); got != strings.Repeat("added\n", 50000) {
		t.Errorf("cat-file: %d bytes", len(got))
	}
	kedge(t, dir, "validate-refs")
	if strings.Contains(kedge(t, dir, "ls"), "stream") {
		kedge(t, dir, "tag", "kept", "stream")
		if got, want := kedge(t, dir, "ls", "-s", "stream"), must(t, "bup", "-d", dir, "ls", "-s", "stream"); got != want {
			t.Errorf("kedge lists the stream as\n%s, bup as\n%s", got, want)
		}
		if got := kedge(t, dir, "cat-file", "stream/latest/data"); got != "1\n2\n3\n4\n5\n" {
			t.Errorf("stream: %q", got)
		}
	}
}

// kedgeReadByBup adds a save with kedge and lets bup read it.
func kedgeReadByBup(t *testing.T, dir, src string, want snapshot) {
	t.Helper()
	kedgeSave(t, dir, "b", src)
	equal := kedge(t, dir, "ls", "-l", "b/latest"+src+"/sizes")
	if got := must(t, "bup", "-d", dir, "ls", "-l", "b/latest"+src+"/sizes"); got != equal {
		t.Errorf("bup prints\n%s, kedge\n%s", got, equal)
	}
	out := t.TempDir()
	t.Cleanup(func() { command(t, nil, "chattr", "-R", "-i", "-a", out) })
	must(t, "bup", "-d", dir, "restore", "-q", "-C", out, "b/latest"+src)
	same(t, want, take(t, out+"/src"))
	if got := must(t, "bup", "-d", dir, "cat-file", "/b/latest"+src+"/added.bup"); got != strings.Repeat("added\n", 50000) {
		t.Errorf("bup cat-file: %d bytes", len(got))
	}
}

// thenTogether has bup save on top of kedge's save, kedge take saves away and collect
// garbage, and bup read and save once more.
func thenTogether(t *testing.T, dir, src string, want snapshot) {
	t.Helper()
	bupSave(t, dir, "b", src)
	must(t, "sh", "-c", `bup -d "$1" midx -f 2>/dev/null; bup -d "$1" bloom -f 2>/dev/null`, "sh", dir)
	equalSaves(t, dir, "b", "b", src)
	saves := strings.Fields(kedge(t, dir, "ls", "b"))
	kedge(t, dir, "adopt")
	kedge(t, dir, "rm", "b/"+saves[0], "b/"+saves[2])
	kedge(t, dir, "gc", "--now", "--yes")
	kedge(t, dir, "fsck")
	tablesAreTrue(t, dir)
	bupSave(t, dir, "again", src)
	out := t.TempDir()
	t.Cleanup(func() { command(t, nil, "chattr", "-R", "-i", "-a", out) })
	must(t, "bup", "-d", dir, "restore", "-q", "-C", out, "again/latest"+src)
	same(t, want, take(t, out+"/src"))
	kedge(t, dir, "fsck")
}

// tablesAreTrue fails if a table of bup's over the packs names one that is gone: bup would
// take what it lists for stored.
func tablesAreTrue(t *testing.T, dir string) {
	t.Helper()
	list, err := filepath.Glob(dir + "/objects/pack/*.midx")
	check(t, err)
	if _, err := os.Lstat(dir + "/objects/pack/bup.bloom"); err == nil {
		list = append(list, dir+"/objects/pack/bup.bloom")
	}
	for _, table := range list {
		b, err := os.ReadFile(table)
		check(t, err)
		for _, part := range strings.Split(string(b), "\x00") {
			if i := strings.LastIndex(part, "pack-"); i >= 0 && strings.HasSuffix(part, ".idx") {
				if _, err := os.Lstat(dir + "/objects/pack/" + part[i:]); err != nil {
					t.Errorf("%s names %s: %v", filepath.Base(table), part[i:], err)
				}
			}
		}
	}
}

// Tables that claim objects of a pack that is gone are not believed: what they claim is
// stored again.
func TestBupStaleTables(t *testing.T) {
	needBup(t)
	src := filepath.Join(t.TempDir(), "src")
	write(t, mkdir(t, src)+"/one", []byte(strings.Repeat("one\n", 100000)))
	dir := bupRepo(t)
	bupSave(t, dir, "b", src)
	tip := strings.TrimSpace(must(t, "git", "-C", dir, "rev-parse", "b"))
	packs := must(t, "sh", "-c", `ls "$1"/objects/pack/*.pack`, "sh", dir)
	write(t, src+"/two", []byte(strings.Repeat("two\n", 100000)))
	want := take(t, src)
	bupSave(t, dir, "b", src)
	must(t, "sh", "-c", `bup -d "$1" midx -f; bup -d "$1" bloom -f`, "sh", dir)
	for _, p := range strings.Fields(must(t, "sh", "-c", `ls "$1"/objects/pack/*.pack`, "sh", dir)) {
		if !strings.Contains(packs, p) {
			check(t, os.Remove(p))
			check(t, os.Remove(strings.TrimSuffix(p, ".pack")+".idx"))
		}
	}
	must(t, "git", "-C", dir, "update-ref", "refs/heads/b", tip)
	kedgeSave(t, dir, "b", src)
	kedge(t, dir, "fsck")
	same(t, want, restoredAs(t, dir, "b", src))
	out := t.TempDir()
	must(t, "bup", "-d", dir, "restore", "-q", "-C", out, "b/latest"+src)
	same(t, want, take(t, out+"/src"))
}

// restoredAs is what the newest save of a name restores to.
func restoredAs(t *testing.T, dir, name, src string) snapshot {
	t.Helper()
	out := target(t)
	kedge(t, dir, "restore", "-C", out, name+"/latest"+src+"/.")
	return take(t, out)
}
