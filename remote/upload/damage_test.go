package upload

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// damage changes a byte of an object in a pack, or in its own file.
func damage(t testing.TB, dir string, id pack.ID) {
	t.Helper()
	packs, err := filepath.Glob(dir + "/objects/pack/*.pack")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range packs {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		idx, err := os.Open(strings.TrimSuffix(name, ".pack") + ".idx")
		if err != nil {
			t.Fatal(err)
		}
		defer idx.Close()
		info, err := idx.Stat()
		if err != nil {
			t.Fatal(err)
		}
		x, err := pack.OpenIdx(name, idx, info.Size())
		if err != nil {
			t.Fatal(err)
		}
		off, ok, err := x.Find(id)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			data[off+6] ^= 0x10
			if err := os.Chmod(name, 0o600); err != nil {
				t.Fatal(err)
			}
			write(t, name, string(data))
			return
		}
	}
	t.Fatalf("%v is in no pack", id)
}

// TestDamage clones repositories in which something is wrong. What is whole elsewhere is
// sent; else the clone fails, and the client is told no more than that there is damage.
func TestDamage(t *testing.T) {
	id := func(dir, rev string) pack.ID {
		x, err := pack.ParseID(strings.TrimSpace(git(t, "-C", dir, "rev-parse", rev)))
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, x := range []struct {
		name string
		do   func(dir string)
		want string // what the client is told; "": it gets all
	}{
		{"a blob", func(dir string) { damage(t, dir, id(dir, "main:000003")) }, "the repository is damaged; the log of the server says where"},
		{"a tree", func(dir string) { damage(t, dir, id(dir, "main^{tree}")) }, "the repository is damaged; the log of the server says where"},
		{"an old commit", func(dir string) { damage(t, dir, id(dir, "main~1")) }, "the repository is damaged; the log of the server says where"},
		{"the commit of a ref", func(dir string) { damage(t, dir, id(dir, "main")) }, "the repository is damaged; the log of the server says where"},
		{"a blob that is elsewhere too", func(dir string) {
			blob := id(dir, "main:000003")
			if out, err := shell("cd " + dir + "; echo " + blob.String() + " | git pack-objects -q objects/pack/pack"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			damage(t, dir, blob)
		}, ""},
		{"a ref to nothing", func(dir string) { write(t, dir+"/refs/heads/none", strings.Repeat("12", 20)+"\n") }, "the repository is damaged; the log of the server says where"},
		{"a ref that is no id", func(dir string) { write(t, dir+"/refs/heads/none", "hello\n") }, "the repository is damaged; the log of the server says where"},
		{"HEAD that is nothing", func(dir string) { write(t, dir+"/HEAD", "hello\n") }, ""},
		{"HEAD that leads elsewhere", func(dir string) { write(t, dir+"/HEAD", "ref: ../../x\n") }, ""},
		{"no HEAD", func(dir string) {
			if err := os.Remove(dir + "/HEAD"); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"an idx that is gone", func(dir string) {
			list, err := filepath.Glob(dir + "/objects/pack/*.idx")
			if err != nil || len(list) == 0 {
				t.Fatal(err)
			}
			if err := os.Remove(list[0]); err != nil {
				t.Fatal(err)
			}
		}, "the repository is damaged; the log of the server says where"},
		{"a tag of nothing", func(dir string) {
			if out, err := shell("cd " + dir + "; printf 'object " + strings.Repeat("12", 20) + "\\ntype commit\\ntag x\\ntagger A <a@b> 1 +0000\\n\\nx\\n' | git hash-object -t tag -w --literally --stdin > refs/tags/x"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}, "the repository is damaged; the log of the server says where"},
		{"tags upon each other", func(dir string) {
			git(t, "-C", dir, "tag", "-a", "-m", "0", "t0", "main")
			for i := range 10 {
				git(t, "-C", dir, "tag", "-a", "-m", "t", fmt.Sprint("t", i+1), fmt.Sprint("t", i))
			}
		}, "refs/tags/t10 is more than 10 tags upon each other"},
		{"a directory that is a file", func(dir string) {
			write(t, dir+"/raw", "40000 x\x00"+string(id(dir, "main:000003").AppendBytes(nil)))
			tree := git(t, "-C", dir, "hash-object", "-t", "tree", "-w", "--literally", "raw")
			write(t, dir+"/refs/heads/bad", git(t, "-C", dir, "commit-tree", "-m", "m", strings.TrimSpace(tree)))
		}, "the repository is damaged; the log of the server says where"},
	} {
		t.Run(x.name, func(t *testing.T) {
			dir, _ := newRepo(t, "refs/heads/main", "a", "b")
			x.do(dir)
			to := filepath.Join(t.TempDir(), "clone")
			r := tryGit(t, nil, "clone", "-q", "--mirror", "UPLOAD", "file://"+dir, to)
			switch {
			case x.want == "" && r.code == 0:
				clean(t, to)
				if n := inPack(t, to); n != 44 {
					t.Errorf("%d objects", n)
				}
			case x.want == "" || r.code == 0 || !strings.Contains(r.err, x.want):
				t.Errorf("exit %d\n%s", r.code, r.err)
			}
		})
	}
}

// TestHadDamage fetches from a repository of which an old save is damaged, which the client
// has. It gets what is new.
func TestHadDamage(t *testing.T) {
	dir, tips := newRepo(t, "refs/heads/main", "a", "b")
	to := mirror(t, dir)
	damage(t, dir, tips[0])
	tree, err := pack.ParseID(strings.TrimSpace(git(t, "-C", to, "rev-parse", "main^{tree}")))
	if err != nil {
		t.Fatal(err)
	}
	damage(t, dir, tree)
	save(t, dir, "refs/heads/main", tips[1], "c")
	git(t, "-C", to, "-c", "fetch.unpackLimit=1", "fetch", "-q", "UPLOAD", "file://"+dir, "+refs/*:refs/*")
	clean(t, to)
	if n := inPack(t, to); n != 66 {
		t.Errorf("%d objects", n)
	}
}

// TestPutOff walks with room for a few trees only: the others are put off, and none is
// forgotten.
func TestPutOff(t *testing.T) {
	ctx := context.Background()
	for _, k := range kinds {
		if k.name != "loose" && k.name != "deltas and loose" && k.name != "objects in several packs" {
			continue
		}
		dir := k.make(t)
		r, err := repo.OpenDir(ctx, dir, repo.DirOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		refs, err := r.Refs(ctx, "refs/")
		if err != nil {
			t.Fatal(err)
		}
		var tips []pack.ID
		for _, ref := range refs {
			tips = append(tips, ref.ID)
		}
		want := strings.Count(git(t, "-C", dir, "rev-list", "--objects", "--all"), "\n")
		for _, most := range []int{1, 3, maxStack} {
			sel, err := r.NewSelection(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			s := &session{r: r, sel: sel, walk: &walk{r: r, sel: sel, most: most}}
			if err := s.choose(ctx, tips, nil); err != nil {
				t.Fatal(err)
			}
			if n := s.count(); int(n) != want {
				t.Errorf("%s, %d: %d objects, not %d", k.name, most, n, want)
			}
		}
		r.Close()
	}
}
