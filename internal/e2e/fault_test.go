package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A scene is a repository with saves in it and a command that is to be cut short.
type scene struct {
	name string
	args func(repo, src string) []string
}

var scenes = []scene{
	{"init", func(repo, src string) []string { return []string{"init"} }},
	{"index", func(repo, src string) []string { return []string{"index", src} }},
	{"save", func(repo, src string) []string { return []string{"save", "-n", "x", src} }},
	{"backup", func(repo, src string) []string { return []string{"backup", "-n", "x", src} }},
}

// TestFaultSweep cuts each command short at every operation it performs on the
// repository, by kill -9 before and after it, and by errors; after each the older
// saves restore, git finds nothing wrong, and the same command run again succeeds (I1, I2, I4, I5).
func TestFaultSweep(t *testing.T) {
	kinds := []string{"kill-before", "kill-after", "eio", "enospc", "eio-forever"}
	for _, sc := range scenes {
		for _, kind := range kinds {
			t.Run(sc.name+"/"+kind, func(t *testing.T) { sweep(t, sc, kind) })
		}
	}
}

func sweep(t *testing.T, sc scene, kind string) {
	dir := t.TempDir()
	base, src := mkdir(t, dir, "base"), mkdir(t, dir, "src")
	write(t, src+"/one", []byte("first\n"))
	write(t, src+"/big", []byte(must(t, "seq", "1", "20000")))
	repo := filepath.Join(base, "repo")
	var before snapshot
	if sc.name != "init" && sc.name != "backup" {
		kedge(t, repo, "init")
		saveAgain(t, repo, src)
		before = take(t, src)
		write(t, mkdir(t, src, "sub")+"/two", []byte("second\n"))
		write(t, src+"/one", []byte("changed\n"))
		if sc.name == "save" {
			kedge(t, repo, "index", src)
		}
	}
	now := take(t, src)
	step := 7
	if full {
		step = 1
	}
	work := filepath.Join(dir, "work")
	for k, done := 1, false; !done; k += step {
		check(t, os.RemoveAll(work))
		must(t, "cp", "-a", base, work)
		repo := filepath.Join(work, "repo")
		args := append([]string{"-d", repo}, sc.args(repo, src)...)
		r := command(t, []string{"KEDGE_FAULT=" + kind + ":" + strconv.Itoa(k)}, binary, args...)
		done = !strings.Contains(r.err, "fault: ") && r.code != -1
		where := fmt.Sprintf("%s at operation %d of %s", kind, k, sc.name)
		if done && r.code != 0 {
			t.Fatalf("%s: exit %d without a fault\n%s", where, r.code, r.err)
		}
		if !done && r.code > 7 {
			t.Fatalf("%s: exit %d is none of ours\n%s", where, r.code, r.err)
		}
		if before != nil {
			same(t, before, restoredSave(t, repo, src, 0))
			gitClean(t, repo)
		}
		if r.code == 0 && sc.name != "init" && sc.name != "index" {
			same(t, now, restored(t, repo, src))
		}
		again := tryKedge(t, repo, sc.args(repo, src)...)
		if again.code != 0 {
			t.Fatalf("%s: run again: exit %d\n%s", where, again.code, again.err)
		}
		if sc.name == "init" {
			saveAgain(t, repo, src)
		}
		if sc.name == "index" {
			kedge(t, repo, "save", "-n", "x", src)
		}
		same(t, now, restored(t, repo, src))
		gitClean(t, repo)
		leftovers(t, repo)
	}
}

// restoredSave restores the i-th save, oldest first.
func restoredSave(t testing.TB, repo, src string, i int) snapshot {
	t.Helper()
	out := target(t)
	kedge(t, repo, "restore", "-C", out, "x/"+saveName(t, repo, i)+src+"/.")
	return take(t, out)
}

// leftovers fails if a run that was cut short left temporary files or locks
// behind that the next run did not clean up.
func leftovers(t testing.TB, repo string) {
	t.Helper()
	for _, pattern := range []string{"kedge/tmp/*/*", "refs/heads/*.lock", "packed-refs.lock", "config.lock", "objects/pack/tmp*"} {
		found, err := filepath.Glob(filepath.Join(repo, pattern))
		check(t, err)
		if len(found) > 0 {
			t.Errorf("left behind: %q", found)
		}
	}
}

// TestKillSweep kills saves at random times, many of them, with a repository
// that grows: every save that was reported restores.
func TestKillSweep(t *testing.T) {
	rounds := 15
	if full {
		rounds = 500
	}
	dir := t.TempDir()
	src, repo := mkdir(t, dir, "src"), filepath.Join(dir, "repo")
	kedge(t, repo, "init")
	var acked []snapshot
	for i := range rounds {
		write(t, fmt.Sprintf("%s/%d", src, i%10), []byte(must(t, "seq", fmt.Sprint(i*1000), fmt.Sprint(i*1000+60000))))
		kedge(t, repo, "index", src)
		ms := 5 + 11*i%180
		r := command(t, nil, "timeout", "-s", "KILL", fmt.Sprintf("%d.%03d", ms/1000, ms%1000), binary, "-d", repo, "save", "-n", "x", src)
		tip := command(t, nil, "git", "-C", repo, "rev-list", "--count", "x")
		n, _ := strconv.Atoi(strings.TrimSpace(tip.out))
		if r.code == 0 && n != len(acked)+1 {
			t.Fatalf("round %d: exit 0 and %d saves, %d before", i, n, len(acked))
		}
		if n > len(acked) {
			acked = append(acked, take(t, src))
		}
	}
	saveAgain(t, repo, src)
	gitClean(t, repo)
	kedge(t, repo, "fsck")
	for i, want := range acked {
		if full || i%4 == 0 {
			same(t, want, restoredSave(t, repo, src, i))
		}
	}
}
