package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The drill of a mirror of which something is missing or rotten: what is wrong is named, and
// everything that does not need it comes back.
func TestDrills(t *testing.T) {
	g := startGateway(t)
	src := filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(21, 1)), src, 80)
	repo := saved(t, src)
	url := "s3://backup/p/alpha"
	var trees []snapshot
	for _, name := range []string{"one", "two", "three"} { // generations 1, 2, 3, all full
		write(t, src+"/"+name, []byte(strings.Repeat(name+"\n", 3000)))
		saveAgain(t, repo, src)
		g.run(t, "mirror", "-d", repo, url)
		trees = append(trees, take(t, src))
	}
	check(t, os.RemoveAll(repo))
	bucket := filepath.Join(g.data, "backup", "p", "alpha")
	largest := func(pattern string) string {
		list, err := filepath.Glob(filepath.Join(bucket, pattern))
		check(t, err)
		best, size := "", int64(-1)
		for _, file := range list {
			info, err := os.Stat(file)
			check(t, err)
			if info.Size() > size {
				best, size = file, info.Size()
			}
		}
		if best == "" {
			t.Fatalf("no %s", pattern)
		}
		return best
	}
	for _, drill := range []struct {
		what  string
		files []string
		named string // in what is said
		saves int    // what comes back: the newest of so many
		whole bool   // by --pull, without --partial
	}{
		{"nothing", nil, "", 3, true},
		{"newest manifest", []string{"manifests/fffffffffffffffc", "bases/fffffffffffffffc"}, "generation 3", 2, true},
		{"first copy of the newest manifest", []string{"manifests/fffffffffffffffc"}, "", 3, true},
		{"base", []string{"manifests/fffffffffffffffe"}, "", 3, true},
		{"segments", []string{"kedge/segments/*"}, "segments", 3, true},
		{"idx", []string{"objects/pack/*.idx"}, "", 3, true},
		{"text", []string{"RESTORE.txt"}, "", 3, true},
		{"pack", []string{"objects/pack/*.pack"}, ".pack", 3, false},
	} {
		for _, how := range []string{"missing", "rotten"} {
			drill := drill
			t.Run(drill.what+" "+how, func(t *testing.T) {
				for _, pattern := range drill.files {
					file := largest(pattern)
					good, err := os.ReadFile(file)
					check(t, err)
					old := file + ".good"
					old = filepath.Join(t.TempDir(), filepath.Base(old))
					check(t, os.Rename(file, old))
					t.Cleanup(func() { _ = os.Remove(file); check(t, os.Rename(old, file)) })
					if how == "rotten" {
						bad := append([]byte(nil), good...)
						for i := len(bad) / 3; i < len(bad); i++ {
							bad[i] ^= 0x20
						}
						write(t, file, bad)
					}
				}
				if strings.HasSuffix(drill.what, "manifest") && how == "missing" {
					drill.named, drill.saves = "", 2 // it is as if that run had never been
				}
				start := time.Now()
				g.env = append(g.env, "KEDGE_CACHE_DIR="+t.TempDir())
				out := target(t)
				r := g.try(t, "restore", "-r", url, "-C", out, "x/latest"+src+"/.")
				root := t.TempDir()
				pulled := g.try(t, "mirror", "--pull", "-d", root+"/alpha", url)
				if drill.whole {
					if r.code != 0 || pulled.code != 0 {
						t.Fatalf("restore: exit %d\n%s\npull: exit %d\n%s", r.code, r.err, pulled.code, pulled.err)
					}
					same(t, trees[drill.saves-1], take(t, out))
					same(t, trees[drill.saves-1], restored(t, root+"/alpha", src))
					gitClean(t, root+"/alpha")
				} else {
					if r.code != 3 && r.code != 5 || pulled.code != 5 {
						t.Fatalf("restore: exit %d\n%s\npull: exit %d\n%s", r.code, r.err, pulled.code, pulled.err)
					}
					some, all := take(t, out), trees[drill.saves-1]
					if len(some) == 0 || r.code == 0 {
						t.Errorf("%d of %d files came back", len(some), len(all))
					}
					again := g.try(t, "mirror", "--pull", "--partial", "-d", root+"/alpha", url)
					if again.code != 5 || !strings.Contains(again.err, ".pack") {
						t.Errorf("pull --partial: exit %d\n%s", again.code, again.err)
					}
					if got := g.run(t, "cat-file", "-r", url, "x/latest"+src+"/three"); got != strings.Repeat("three\n", 3000) {
						t.Errorf("a file of another pack: %d bytes", len(got))
					}
				}
				if !strings.Contains(r.err+pulled.err, drill.named) {
					t.Errorf("%q is not named in\n%s%s", drill.named, r.err, pulled.err)
				}
				t.Logf("restored and pulled in %v", time.Since(start).Round(time.Millisecond))
			})
		}
	}
	if r := g.try(t, "ls", "-r", "s3://backup/p/alhpa"); r.code != 4 || !strings.Contains(r.err, "did you mean alpha?") || strings.Contains(r.err, "init") {
		t.Errorf("a name that is wrong: exit %d\n%s", r.code, r.err)
	}
	if r := g.try(t, "ls", "-r", "s3://backup/p"); r.code != 4 || !strings.Contains(r.err, "ls -r s3://backup/p/") {
		t.Errorf("a prefix without a slash: exit %d\n%s", r.code, r.err)
	}
	if got := g.run(t, "ls", "-l", "-r", "s3://backup/p/"); !strings.HasPrefix(strings.TrimSpace(got), "3  20") || !strings.HasSuffix(got, "  alpha\n") {
		t.Errorf("ls -l: %q", got)
	}
}
