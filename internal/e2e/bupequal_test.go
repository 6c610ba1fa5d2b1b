package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// bupRepo makes a repository with bup.
func bupRepo(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	must(t, "bup", "-d", dir, "init")
	return dir
}

func bupSave(t testing.TB, dir, name, src string) {
	t.Helper()
	must(t, "bup", "-d", dir, "index", src)
	must(t, "bup", "-d", dir, "save", "-q", "-n", name, src)
}

func kedgeSave(t testing.TB, dir, name, src string) {
	t.Helper()
	kedge(t, dir, "index", src)
	kedge(t, dir, "save", "-n", name, src)
}

// equalSaves fails unless the newest saves of two names hold the same files: the same
// blobs and trees of chunks, and for every inode the same metadata but for the atime of
// directories and symbolic links.
func equalSaves(t testing.TB, dir, a, b, src string) (diverged int) {
	t.Helper()
	ctx := context.Background()
	p, err := repo.OpenDir(ctx, dir, repo.DirOptions{ReadOnly: true})
	check(t, err)
	defer p.Close()
	var trees [2]pack.ID
	for i, name := range []string{a, b} {
		v := &repo.VFS{Repo: p}
		chain, err := v.Resolve(ctx, name+"/latest"+src, repo.ResolveOptions{Follow: true})
		check(t, err)
		trees[i] = chain[len(chain)-1].ID
	}
	e := equality{t: t, ctx: ctx, p: p}
	e.dirs("", trees[0], trees[1])
	if e.items == 0 {
		t.Error("nothing was compared")
	}
	return e.diverged
}

type equality struct {
	t     testing.TB
	ctx   context.Context
	p     *repo.Packs
	items int

	diverged int // files in which bup 0.33 misses a boundary
}

func (e *equality) list(path string, tree pack.ID) (items []repo.DirItem) {
	e.t.Helper()
	err := repo.ReadDir(e.ctx, e.p, tree, func(i *repo.DirItem) error {
		m := *i.Meta
		switch m.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
		case syscall.S_IFLNK:
			m.Atime = fsx.Time{} // to read where it leads is an access
		default:
			if m.Atime = (fsx.Time{}); m.Size == 0 { // so is to list a directory
				m.Size = -1 // of a special file that did not change, bup forgets that it has none
			}
		}
		item := *i
		item.Meta = &m
		items = append(items, item)
		return i.Err
	})
	if err != nil {
		e.t.Fatalf("%s: %v", path, err)
	}
	return items
}

func (e *equality) dirs(path string, a, b pack.ID) {
	left, right := e.list(path, a), e.list(path, b)
	if len(left) != len(right) {
		e.t.Errorf("%q has %d items and %d", path, len(left), len(right))
		return
	}
	for i := range left {
		l, r := &left[i], &right[i]
		at := path + "/" + l.Name
		e.items++
		if l.Name == r.Name && l.Chunked && r.Chunked && l.ID != r.ID && e.later(l.ID, r.ID) {
			e.diverged++
			l.ID = r.ID
		}
		if l.Name != r.Name || l.Mode != r.Mode || l.Chunked != r.Chunked || !l.IsDir() && l.ID != r.ID {
			e.t.Errorf("%q is %o %v in one and %q %o %v in the other", at, l.Mode, l.ID, r.Name, r.Mode, r.ID)
			continue
		}
		if string(l.Meta.Append(nil)) != string(r.Meta.Append(nil)) {
			e.t.Errorf("%q: metadata differ:\n%+v\n%+v", at, *l.Meta, *r.Meta)
		}
		if l.IsDir() && l.Name != "." {
			e.dirs(at, l.ID, r.ID)
		}
	}
}

// later reports whether two trees of chunks hold the same bytes, of which the second is
// split as later versions of bup do. Where nothing ends a chunk to the end of what it has
// read, 0.33 cuts at 32768 bytes and does not look at the first 63 behind each cut.
func (e *equality) later(a, b pack.ID) bool {
	var data [2]bytes.Buffer
	for i, id := range []pack.ID{a, b} {
		_, err := repo.OpenFile(e.ctx, e.p, id, true).WriteTo(&data[i])
		check(e.t, err)
	}
	tree := repo.ChunkTree{Emit: func(body []byte) (pack.ID, error) { return pack.Sum(pack.Tree, body), nil }}
	for rest := data[1].Bytes(); len(rest) > 0; {
		n, level := cutRollsum(rest)
		check(e.t, tree.Add(pack.Sum(pack.Blob, rest[:n]), int64(n), level))
		rest = rest[n:]
	}
	entry, _, err := tree.Finish()
	check(e.t, err)
	return bytes.Equal(data[0].Bytes(), data[1].Bytes()) && entry.ID == b
}

// cutRollsum is the definition of bup's splitter, as slow as it is plain: it returns the
// length of the first chunk of 13 bits, and its level.
func cutRollsum(data []byte) (n int, level uint8) {
	s1, s2 := uint32(64*31), uint32(64*63*31)
	for i, c := range data {
		var d byte
		if i >= 64 {
			d = data[i-64]
		}
		s1 += uint32(c) - uint32(d)
		s2 += s1 - 64*(uint32(d)+31)
		digest := s1<<16 | s2&0xffff
		if digest&0x1fff == 0x1fff {
			for rest := digest >> 14; rest&15 == 15; rest >>= 4 {
				level++
			}
			return i + 1, level
		}
		if i+1 == 32768 {
			return i + 1, 0
		}
	}
	return len(data), 0
}

// newBlobs returns the contents of files that were not there before.
func newBlobs(t testing.TB, dir string, before map[string]bool) (ids []string) {
	t.Helper()
	for id := range blobs(t, dir) {
		if !before[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// blobs returns all blobs of a repository that are no metadata.
func blobs(t testing.TB, dir string) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	for _, ref := range strings.Fields(must(t, "git", "-C", dir, "for-each-ref", "--format=%(refname)")) {
		for path, id := range contentIDs(t, dir, ref) {
			if !strings.Contains(path, "/.bupm") {
				ids[id] = true
			}
		}
	}
	return ids
}

// bothWays saves a tree with bup and then with kedge, and the other way round, and holds
// what they stored against each other.
func bothWays(t *testing.T, src string, edits func(day int)) {
	dir := bupRepo(t)
	for day := range 2 {
		edits(day)
		first, second := "b", "k"
		save := map[string]func(testing.TB, string, string, string){"b": bupSave, "k": kedgeSave}
		if day%2 == 1 {
			first, second = second, first
		}
		save[first](t, dir, first, src)
		before := blobs(t, dir)
		save[second](t, dir, second, src)
		diverged := equalSaves(t, dir, "b", "k", src)
		if added := newBlobs(t, dir, before); len(added) > 0 && diverged == 0 {
			t.Errorf("%s stored %d blobs that were there: %.3q", second, len(added), added)
		}
	}
	kedge(t, dir, "fsck")
	if out := must(t, "bup", "-d", dir, "validate-object-links"); out != "" {
		t.Errorf("bup finds %s", out)
	}
}

// Kedge and bup store the same blobs, trees of chunks and metadata for the same tree.
func TestBupEqual(t *testing.T) {
	needBup(t)
	t.Run("hard", func(t *testing.T) {
		src := filepath.Join(t.TempDir(), "src")
		hardCases(t, src)
		leaveOut(t, src)
		bothWays(t, src, func(int) {})
	})
	t.Run("usr", func(t *testing.T) {
		src := filepath.Join(t.TempDir(), "src")
		sampleUsr(t, mkdir(t, src))
		bothWays(t, src, func(int) {})
	})
	rounds := 3
	if full {
		rounds = 200
	}
	for round := range rounds {
		seed := uint64(1000 + round)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, seed))
			src := filepath.Join(t.TempDir(), "src")
			randomTree(t, r, src, 100)
			bothWays(t, src, func(day int) {
				if day > 0 {
					edit(t, r, src, 25)
				}
			})
		})
	}
}

// sampleUsr copies /usr/share, or without KEDGE_SWEEP=full a sample of it.
func sampleUsr(t testing.TB, to string) {
	t.Helper()
	list, err := os.ReadDir("/usr/share")
	check(t, err)
	left := int64(12 << 20)
	for _, e := range list {
		at := filepath.Join("/usr/share", e.Name())
		h := fnv.New32a()
		_, _ = h.Write([]byte(e.Name()))
		n := treeSize(at)
		if !full && (h.Sum32()%3 != 0 || n > left) {
			continue
		}
		left -= n
		if out, err := exec.Command("cp", "-a", at, to).CombinedOutput(); err != nil {
			t.Fatalf("cp: %s", out)
		}
	}
}

func treeSize(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}

// What early versions of bup could leave behind, objects that are missing and records of
// metadata that are missing, is found, named by save and path, and gone around.
func TestBupOldDamage(t *testing.T) {
	needBup(t)
	src := filepath.Join(t.TempDir(), "src")
	write(t, mkdir(t, src, "deep/er")+"/file", []byte("file\n"))
	write(t, src+"/deep/er/other", []byte("other\n"))
	write(t, src+"/kept", []byte("kept\n"))
	dir := bupRepo(t)
	must(t, "bup", "-d", dir, "index", src)
	must(t, "bup", "-d", dir, "save", "-q", "-d", "1700000000", "-n", "x", "--strip", src)

	abridged := filepath.Join(t.TempDir(), "abridged")
	must(t, "cp", "-a", dir, abridged)
	abridge(t, abridged, "deep/er")
	r := tryKedge(t, abridged, "fsck")
	if r.code != 5 || !strings.Contains(r.out, "x 2023-11-14-221320") || !strings.Contains(r.out, "/deep/er") {
		t.Errorf("fsck of an abridged .bupm: exit %d\n%s%s", r.code, r.out, r.err)
	}
	if r := tryKedge(t, abridged, "validate-refs", "--bupm"); r.code != 5 || !strings.Contains(r.err, "abridged-bupm refs/heads/x:") || !strings.Contains(r.err, "/deep/er/") {
		t.Errorf("validate-refs: exit %d\n%s", r.code, r.err)
	}
	if r := tryKedge(t, abridged, "validate-refs", "--links"); r.code != 0 {
		t.Errorf("validate-refs --links: exit %d\n%s", r.code, r.err)
	}
	out := target(t)
	if r := tryKedge(t, abridged, "restore", "-C", out, "x/latest/."); r.code == 0 {
		t.Error("restore did not tell of lost metadata")
	}
	for name, want := range map[string]string{"deep/er/file": "file\n", "deep/er/other": "other\n", "kept": "kept\n"} {
		if b, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(b) != want {
			t.Errorf("%s came back as %q, %v", name, b, err)
		}
	}
	kedgeSave(t, abridged, "y", src)
	if r := tryKedge(t, abridged, "fsck", "y"); r.code != 0 {
		t.Errorf("a save over it is not in order:\n%s", r.out)
	}

	id := strings.TrimSpace(must(t, "git", "-C", dir, "rev-parse", "x:deep/er/file"))
	dropObject(t, dir, id)
	r = tryKedge(t, dir, "fsck")
	if r.code != 5 || !strings.Contains(r.out, "missing "+id) || !strings.Contains(r.out, `x 2023-11-14-221320 "/deep/er/file"`) {
		t.Errorf("fsck of a missing object: exit %d\n%s%s", r.code, r.out, r.err)
	}
	if r := tryKedge(t, dir, "validate-refs"); r.code != 5 || !strings.Contains(r.err, "missing "+id+" refs/heads/x:") {
		t.Errorf("validate-refs: exit %d\n%s", r.code, r.err)
	}
	if r := tryKedge(t, dir, "cat-file", "x/latest/deep/er/other"); r.code != 0 || r.out != "other\n" {
		t.Errorf("what is there: exit %d %q", r.code, r.out)
	}
	kedgeSave(t, dir, "y", src) // stores it again, whatever bup's files claim
	if r := tryKedge(t, dir, "fsck"); r.code != 0 {
		t.Errorf("a save that has the object does not mend it:\n%s", r.out)
	}
	if got := must(t, "bup", "-d", dir, "cat-file", "/x/latest/deep/er/file"); got != "file\n" {
		t.Errorf("bup reads %q", got)
	}
}

// abridge takes the last record out of the .bupm of a directory of the newest save of x,
// with git alone.
func abridge(t testing.TB, dir, path string) {
	t.Helper()
	bupm := []byte(must(t, "git", "-C", dir, "cat-file", "blob", "x:"+path+"/.bupm"))
	ends := []int{0}
	for rest := bupm; len(rest) > 0; {
		_, after, err := meta.Parse(rest)
		check(t, err)
		ends = append(ends, len(bupm)-len(after))
		rest = after
	}
	short := filepath.Join(t.TempDir(), "bupm")
	write(t, short, bupm[:ends[len(ends)-2]])
	script := `set -e
cd "$1"
blob=$(git hash-object -w "$2")
tree=$(git ls-tree "x:$3" | sed "s/blob [0-9a-f]*	.bupm/blob $blob	.bupm/" | git mktree)
at=$3
while :; do
	name=${at##*/}
	up=${at%/*}
	test "$up" = "$at" && up=
	tree=$(git ls-tree "x:$up" | sed "s/tree [0-9a-f]*	$name\$/tree $tree	$name/" | git mktree)
	test -z "$up" && break
	at=$up
done
c=$(git cat-file commit x | sed "1s/.*/tree $tree/" | git hash-object -t commit -w --stdin)
git update-ref refs/heads/x $c
git repack -adq
`
	must(t, "sh", "-c", script, "sh", dir, short, path)
}

// dropObject takes one object out of the packs of a repository, and leaves bup's tables
// over them as they were.
func dropObject(t testing.TB, dir, id string) {
	t.Helper()
	script := `set -e
cd "$1"/objects/pack
for i in *.idx; do git show-index <$i | cut -d' ' -f2; done | grep -v $2 | git -C ../.. pack-objects -q objects/pack/pack >/dev/null
for i in *.idx; do if git show-index <$i | grep -q $2; then rm -f ${i%.idx}.*; fi; done
`
	must(t, "sh", "-c", script, "sh", dir, id)
	if r := command(t, nil, "git", "-C", dir, "cat-file", "-e", id); r.code == 0 {
		t.Fatal(errors.New("the object is still there"))
	}
}
