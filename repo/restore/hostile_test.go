package restore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// swappedRepo gives out other bodies for some objects: a repository of somebody
// who computes ids as he likes.
type swappedRepo struct {
	repo.Repo
	body map[pack.ID][]byte
}

func (s *swappedRepo) Get(ctx context.Context, ids []pack.ID, fn func(int, pack.Type, []byte) error) error {
	return s.Repo.Get(ctx, ids, func(i int, t pack.Type, body []byte) error {
		if b, ok := s.body[ids[i]]; ok {
			body = b
		}
		return fn(i, t, body)
	})
}

// treeOf makes the body of a tree by hand, in the order given.
func treeOf(entries ...repo.TreeEntry) (b []byte) {
	for _, e := range entries {
		b = fmt.Appendf(b, "%o %s\x00", e.Mode, e.Name)
		b = e.ID.AppendBytes(b)
	}
	return b
}

// find returns the id of what a path leads to.
func find(t testing.TB, r repo.Repo, path string) pack.ID {
	t.Helper()
	v := &repo.VFS{Repo: r}
	chain, err := v.Resolve(context.Background(), path, repo.ResolveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return chain[len(chain)-1].ID
}

// TestHostileTrees restores trees that no writer makes: each is a named error,
// and nothing is written outside of the target.
func TestHostileTrees(t *testing.T) {
	r := saved(t, etc()...)
	x := pack.Sum(pack.Blob, []byte("x"))
	etcID, big := find(t, r, "s/latest/etc"), find(t, r, "s/latest/etc/big")
	file := func(name string) repo.TreeEntry { return repo.TreeEntry{Mode: repo.ModeFile, Name: name, ID: x} }
	sub := func(name string, id pack.ID) repo.TreeEntry {
		return repo.TreeEntry{Mode: repo.ModeDir, Name: name, ID: id}
	}
	for name, c := range map[string]struct {
		id   pack.ID
		body []byte
	}{
		"dot dot":              {etcID, treeOf(file(".."))},
		"dot dot, a directory": {etcID, treeOf(sub("..", etcID))},
		"dot":                  {etcID, treeOf(file("."))},
		"slash":                {etcID, treeOf(file("../outside"))},
		"absolute":             {etcID, treeOf(file("/tmp/outside"))},
		"empty":                {etcID, treeOf(file(""))},
		"twice":                {etcID, treeOf(file("a"), file("a"))},
		"twice after all":      {etcID, treeOf(file("a"), sub("a.bup", big))},
		"dot dot in disguise":  {etcID, treeOf(sub("...bup", big), file("...bupl"))},
		"out of order":         {etcID, treeOf(file("b"), file("a"))},
		"mode":                 {etcID, treeOf(repo.TreeEntry{Mode: 0o100000, Name: "a", ID: x})},
		"cut off":              {etcID, treeOf(file("a"))[:15]},
		"not a tree":           {etcID, []byte("hello")},
		"chunks in a chunk":    {big, treeOf(sub("0", big))},
		"chunk offsets":        {big, treeOf(file("0"), file("f"), file("a"))},
		"chunk at the end":     {big, treeOf(file("7fffffffffffffff"))},
		"chunks not at 0":      {big, treeOf(file("1"), file("2"))},
		"chunks far apart":     {big, treeOf(file("0000000000000000"), file("7fffffffffffffff"))},
		"no chunks":            {big, nil},
		"names no offsets":     {big, treeOf(file("..."))},
	} {
		base := scratch(t)
		out := filepath.Join(base, "out")
		s := &swappedRepo{r, map[pack.ID][]byte{c.id: c.body}}
		var warn []string
		res, err := Run(context.Background(), Options{Repo: s, Out: out, Paths: []string{"s/latest/."}, System: true,
			Warn: func(p string, err error) { warn = append(warn, p+": "+err.Error()) }})
		if err != nil || res.Errors == 0 || len(warn) == 0 || !strings.Contains(warn[0], "s/latest/etc") {
			t.Errorf("%s: %+v %q, error %v", name, res, warn, err)
		}
		if list, _ := os.ReadDir(base); len(list) != 1 {
			t.Errorf("%s: there is %v", name, list)
		}
		if content(t, filepath.Join(out, "top")) != "top" {
			t.Errorf("%s: the rest is not restored", name)
		}
		if fi, err := os.Lstat(filepath.Join(out, "etc/big")); err == nil && fi.Size() != 9 {
			t.Errorf("%s: big has %d bytes", name, fi.Size())
		}
	}
}

// TestHostileMetadata restores records that lie.
func TestHostileMetadata(t *testing.T) {
	for name, edit := range map[string]func(*meta.Meta){
		"owner":     func(m *meta.Meta) { m.UID, m.GID = 1<<40, -3 },
		"size":      func(m *meta.Meta) { m.Size = 1 << 62 },
		"times":     func(m *meta.Meta) { m.Mtime.Sec = 1 << 62; m.Atime.Sec = -1 << 62 },
		"hard link": func(m *meta.Meta) { m.Hardlink = "../../../etc/shadow" },
		"xattr":     func(m *meta.Meta) { m.Extras.Xattrs = []meta.Xattr{{Name: "user.\x00", Value: "x"}} },
		"ACL":       func(m *meta.Meta) { m.Extras.ACL = &meta.ACL{Access: "u::rwx,u::rwx,x", AccessNum: "?"} },
		"attr":      func(m *meta.Meta) { m.Extras.Attr = 0xffffffff &^ 0x30 },
		"mode":      func(m *meta.Meta) { m.Mode = meta.TypeFile | 0o7777 },
		"type":      func(m *meta.Meta) { m.Mode = meta.TypeDir | 0o755 },
		"path":      func(m *meta.Meta) { m.Path = "/etc/passwd" },
	} {
		r := saved(t, entry{name: "f", body: "x", edit: edit}, entry{name: "big", chunks: []string{"a", "b"}, edit: edit},
			dir("d", file1("g", "y")))
		base := scratch(t)
		out := filepath.Join(base, "out")
		res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/."}})
		if list, _ := os.ReadDir(base); len(list) != 1 {
			t.Errorf("%s: there is %v", name, list)
		}
		if content(t, filepath.Join(out, "f")) != "x" || content(t, filepath.Join(out, "big")) != "ab" || content(t, filepath.Join(out, "d/g")) != "y" {
			t.Errorf("%s: %+v %q", name, res, e.warn)
		}
	}
}

// TestLinkThenDirectory has a symbolic link in the save, and then something below it.
func TestLinkThenDirectory(t *testing.T) {
	s := newSaver(t)
	base := scratch(t)
	s.save("s", symlink("a", "../outside"))
	s.save("z", dir("a", file1("f", "x")))
	write(t, filepath.Join(base, "outside/f"), "outside")
	out := filepath.Join(base, "out")
	res, e := restored(t, Options{Repo: s.done(), Out: out, Paths: []string{"s/latest/", "z/latest/"}})
	if res.Errors > 1 || content(t, filepath.Join(base, "outside/f")) != "outside" {
		t.Errorf("%+v %q", res, e.warn)
	}
}

// FuzzSave restores a save of which a directory, its metadata and the chunks of a
// file are arbitrary bytes. Whatever they are, nothing is written outside of the
// target, and what is beside them is restored.
func FuzzSave(f *testing.F) {
	r := saved(f, etc()...)
	etcID, big := find(f, r, "s/latest/etc"), find(f, r, "s/latest/etc/big")
	var bupm pack.ID
	bodies := map[pack.ID][]byte{}
	grab := func(id pack.ID) []byte {
		err := r.Get(context.Background(), []pack.ID{id}, func(_ int, _ pack.Type, body []byte) error {
			bodies[id] = append([]byte{}, body...)
			return nil
		})
		if err != nil {
			f.Fatal(err)
		}
		return bodies[id]
	}
	err := repo.ParseTree(grab(etcID), func(e repo.TreeEntry) error {
		if e.Name == ".bupm" {
			bupm = e.ID
		}
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(grab(etcID), grab(bupm), grab(big))
	x := pack.Sum(pack.Blob, []byte("x"))
	f.Add(treeOf(repo.TreeEntry{Mode: repo.ModeDir, Name: "..", ID: find(f, r, "s/latest/etc/sub")}), []byte{0}, treeOf(repo.TreeEntry{Mode: repo.ModeFile, Name: "0", ID: x}))
	f.Fuzz(func(t *testing.T, dir, records, chunks []byte) {
		// No real tree can hold itself, so a walk need not notice.
		for _, id := range []pack.ID{etcID, big, find(t, r, "s/latest/")} {
			if raw := id.AppendBytes(nil); bytes.Contains(chunks, raw) || id != big && bytes.Contains(dir, raw) {
				t.Skip()
			}
		}
		base := t.TempDir()
		out := filepath.Join(base, "out")
		s := &swappedRepo{r, map[pack.ID][]byte{etcID: dir, bupm: records, big: chunks}}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if _, err := Run(ctx, Options{Repo: s, Out: out, Paths: []string{"s/latest/."}, System: true, Workers: 1}); err != nil {
			t.Fatal(err)
		}
		if list, _ := os.ReadDir(base); len(list) != 1 {
			t.Errorf("there is %v", list)
		}
		if content(t, filepath.Join(out, "top")) != "top" {
			t.Error("the rest is not restored")
		}
	})
}
