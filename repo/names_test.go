package repo

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// TestFrownedNames stores names and contents that git fsck --strict complains
// about: it must complain before the names are allowed, if it does at all, and
// be quiet afterwards.
func TestFrownedNames(t *testing.T) {
	ctx := context.Background()
	names := []string{".git", ".GiT", "git~1", ".git ", ".git. .", `.git\x`, `a\.git`, ".git:x", ".g\u200cit", ".gitmodules",
		"GITMOD~1", "gi7eba~1", ".gitmodules:x", ".gitattributes", "gitatt~1", ".gitignore", "gitign~1", ".mailmap", "mailma~1"}
	content := "[submodule \"../x\"]\n\turl = -foo\n\tpath = -p\n\tupdate = !x\n" + strings.Repeat("y", 3000)
	for _, name := range names {
		for _, kind := range []string{"file", "symlink", "directory"} {
			p, dir := newRepo(t, InitOptions{})
			blob, empty := entry(pack.Blob, []byte(content)), entry(pack.Tree, nil)
			e := TreeEntry{Mode: ModeFile, Name: name, ID: blob.ID}
			switch kind {
			case "symlink":
				e.Mode = ModeSymlink
			case "directory":
				e.Mode, e.ID = ModeDir, empty.ID
			}
			tree := entry(pack.Tree, AppendTree(nil, []TreeEntry{e}))
			s := makeSave("s", 0)
			c, _ := ParseCommit(bodyOf(t, s.entries[Trees][1]))
			c.Tree = tree.ID
			commit := entry(pack.Commit, c.Append(nil))
			s.entries = [2][]pack.Entry{{blob}, {empty, tree, commit}}
			s.commit, s.tree = commit.ID, tree.ID
			if _, err := s.save(ctx, p); err != nil {
				t.Fatal(err)
			}
			out, _ := tryGit(dir, "fsck", "--full", "--strict", "--no-dangling")
			frowns := strings.Contains(out, "error") || strings.Contains(out, "warning")
			ids := FsckIDs(name)
			if frowns && len(ids) == 0 {
				t.Fatalf("%s %q is not known, but git says: %s", kind, name, out)
			}
			if err := p.AllowNames(ctx, []string{"harmless", name}); err != nil {
				t.Fatal(err)
			}
			fsck(t, dir)
		}
	}
	for _, name := range []string{"", "a", ".gitx", "x.git", "git", "gitmodules", ".bup", "mail", "gi", "über", ".", "git~", "x~1", "main.go"} {
		if ids := FsckIDs(name); ids != nil {
			t.Errorf("%q is taken for something that git obeys: %v", name, ids)
		}
	}
}

// TestFsckIDs: git dies of an id that it does not know.
func TestFsckIDs(t *testing.T) {
	p, dir := newRepo(t, InitOptions{})
	var names, ids []string
	for _, f := range frownedOn {
		names = append(names, f.name)
		ids = append(ids, f.ids...)
	}
	if err := p.AllowNames(context.Background(), names); err != nil {
		t.Fatal(err)
	}
	fsck(t, dir)
	for _, id := range ids {
		if v := git(t, dir, "config", "--get", "fsck."+id); v != "ignore" {
			t.Errorf("fsck.%s is %q", id, v)
		}
	}
	before, _ := os.ReadFile(dir + "/config")
	if err := p.AllowNames(context.Background(), slices.Concat(names, names)); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(dir + "/config"); string(after) != string(before) {
		t.Error("allowing the same names again changed the config")
	}
	git(t, dir, "config", "fsck.unheard", "ignore")
	if out, err := tryGit(dir, "fsck"); err == nil {
		t.Error("this git does not die of an unknown id, so the test above tests nothing:", out)
	}
}

// bodyOf decodes an entry.
func bodyOf(t testing.TB, e pack.Entry) []byte {
	t.Helper()
	body, _, _, err := pack.NewDecoder(1<<20).Append(nil, e.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestFsckIDsCost(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { FsckIDs("some-file.txt"); FsckIDs("Makefile") }); n > 2 {
		t.Errorf("%v allocations for names that mean nothing", n)
	}
}
