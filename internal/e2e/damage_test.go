package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDamageSweep flips bytes, one at a time, in everything a repository and an
// index consist of. No flip may make a restore silently wrong (I3) or a command
// hang or crash; and fsck must find every flip in a pack or idx.
func TestDamageSweep(t *testing.T) {
	dir := t.TempDir()
	src := mkdir(t, dir, "src")
	write(t, src+"/big", []byte(must(t, "seq", "1", "9000")))
	write(t, src+"/small", []byte("small\n"))
	want := take(t, src)
	good := filepath.Join(dir, "good")
	kedge(t, good, "init")
	saveAgain(t, good, src)
	kedge(t, good, "save", "-n", "x", src)

	var files []string
	check(t, filepath.WalkDir(good, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(good, p)
			if i, err := d.Info(); err == nil && i.Size() > 0 && !strings.HasPrefix(rel, "kedge/index") {
				files = append(files, rel)
			}
		}
		return err
	}))
	points := 6
	if full {
		points = 400
	}
	bad := filepath.Join(dir, "bad")
	for _, rel := range files {
		data, err := os.ReadFile(filepath.Join(good, rel))
		check(t, err)
		for i := range points {
			at := (i*len(data) + len(data)/2) / points % len(data)
			check(t, os.RemoveAll(bad))
			must(t, "cp", "-a", good, bad)
			flipped := append([]byte{}, data...)
			flipped[at] ^= []byte{0x01, 0x80, 0xff}[i%3]
			p := filepath.Join(bad, rel)
			check(t, os.Chmod(p, 0o600))
			write(t, p, flipped)
			damaged(t, bad, src, fmt.Sprintf("%s, byte %d of %d", rel, at, len(data)), want,
				strings.HasSuffix(rel, ".pack") || strings.HasSuffix(rel, ".idx"))
		}
	}
}

// damaged looks at a repository with one wrong byte in it.
func damaged(t testing.TB, repo, src, where string, want snapshot, mustFind bool) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	r := tryKedge(t, repo, "restore", "-C", out, "x/latest"+src+"/.")
	switch {
	case r.code == 0:
		if diff := want.diff(take(t, out)); len(diff) > 0 {
			t.Errorf("%s: a wrong restore with exit 0: %q", where, diff)
		}
	case r.code < 0 || r.code > 7 || r.err == "" || strings.Contains(r.err, "panic"):
		t.Errorf("%s: restore: exit %d\n%s", where, r.code, r.err)
	}
	r = tryKedge(t, repo, "fsck")
	if mustFind && r.code != 5 {
		t.Errorf("%s: fsck: exit %d\n%s%s", where, r.code, r.out, r.err)
	}
	if r.code < 0 || r.code > 7 || strings.Contains(r.err, "panic") {
		t.Errorf("%s: fsck: exit %d\n%s", where, r.code, r.err)
	}
}

// A save does not rely on an idx that is damaged: whatever id is flipped in it,
// and if it is gone, the idx is made anew and the save restores (I1, I2, I5). fsck
// tells of it before.
func TestSaveOverDamagedIdx(t *testing.T) {
	src := mkdir(t, t.TempDir(), "src")
	for i := range 20 {
		write(t, fmt.Sprintf("%s/%d", src, i), []byte(must(t, "seq", fmt.Sprint(i), fmt.Sprint(i*99+5000))))
	}
	good := saved(t, src)
	write(t, src+"/more", []byte("more\n"))
	want := take(t, src)
	idxs, err := filepath.Glob(good + "/objects/pack/*.idx")
	check(t, err)
	for _, idx := range idxs {
		data, err := os.ReadFile(idx)
		check(t, err)
		for at := 8 + 1024; at < len(data); at += len(data)/12 + 1 {
			repo := filepath.Join(t.TempDir(), "repo")
			must(t, "cp", "-a", good, repo)
			bad := filepath.Join(repo, "objects/pack", filepath.Base(idx))
			flipped := append([]byte{}, data...)
			flipped[at] ^= 0x10
			check(t, os.Chmod(bad, 0o600))
			write(t, bad, flipped)
			kedge(t, repo, "backup", "-n", "x", src)
			same(t, want, restored(t, repo, src))
			kedge(t, repo, "fsck") // the idx was made anew
		}
		for _, lose := range [][]string{{"rm", "-f"}, {"truncate", "-s", "0"}, {"truncate", "-s", "1100"}} {
			repo := filepath.Join(t.TempDir(), "repo")
			must(t, "cp", "-a", good, repo)
			bad := filepath.Join(repo, "objects/pack", filepath.Base(idx))
			check(t, os.Chmod(bad, 0o600))
			must(t, lose[0], append(lose[1:], bad)...)
			for _, args := range [][]string{{"fsck"}, {"fsck", "--quick"}} {
				if r := tryKedge(t, repo, args...); r.code != 5 || !strings.Contains(r.out, strings.TrimSuffix(filepath.Base(idx), ".idx")) {
					t.Errorf("%q %q: exit %d\n%s%s", lose, args, r.code, r.out, r.err)
				}
			}
			kedge(t, repo, "backup", "-n", "x", src)
			same(t, want, restored(t, repo, src))
			kedge(t, repo, "fsck")
			gitClean(t, repo)
		}
	}
}

// A truncated pack is found by a restore and by fsck, and named.
func TestTruncatedPack(t *testing.T) {
	src := mkdir(t, t.TempDir(), "src")
	write(t, src+"/big", []byte(must(t, "seq", "1", "90000")))
	repo := saved(t, src)
	packs, err := filepath.Glob(repo + "/objects/pack/*.pack")
	check(t, err)
	largest := packs[0]
	for _, p := range packs {
		if size(t, p) > size(t, largest) {
			largest = p
		}
	}
	check(t, os.Chmod(largest, 0o600))
	check(t, os.Truncate(largest, size(t, largest)/2))
	for _, args := range [][]string{{"restore", "-C", t.TempDir(), "x/latest" + src}, {"fsck"}, {"fsck", "--quick"}} {
		r := tryKedge(t, repo, args...)
		if r.code != 5 && r.code != 3 || !strings.Contains(r.out+r.err, strings.TrimSuffix(filepath.Base(largest), ".pack")) {
			t.Errorf("%q: exit %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
}

func size(t testing.TB, name string) int64 {
	t.Helper()
	st, err := os.Stat(name)
	check(t, err)
	return st.Size()
}
