package save

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// bup runs Debian's bup on the repository of the bench.
func (b *bench) bup(args ...string) {
	b.t.Helper()
	cmd := exec.Command("bup", args...)
	cmd.Env = append(os.Environ(), "BUP_DIR="+b.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("bup %q: %v\n%s", args, err, out)
	}
}

// treeOf returns the tree of a name's tip.
func (b *bench) treeOf(name string) (tree pack.ID) {
	b.t.Helper()
	must(b.t, b.repo.Get(context.Background(), []pack.ID{b.tip(name)}, func(_ int, _ pack.Type, body []byte) error {
		c, err := repo.ParseCommit(body)
		tree = c.Tree
		return err
	}))
	return tree
}

// Where things come to stand, what they are stored as and what the directories
// above them carry is what bup makes of the same tree, in its own repository.
// bup reads its index anew for each: what its index says is unchanged, it does
// not move.
func TestAgainstBup(t *testing.T) {
	if _, err := exec.LookPath("bup"); err != nil {
		t.Skip("no bup")
	}
	b := newBench(t, "rabin:13")
	b.dir = filepath.Dir(b.dir) + "/bup"
	b.bup("init")
	b.repo = b.open()
	if c := b.repo.Config().Chunker; c != "rollsum:13" {
		t.Fatalf("bup's repository is split with %s", c)
	}
	b.zoo()
	b.write("x/y/file", noise(4, 50_000))
	b.write("x/z", []byte("z"))
	w := b.src
	for _, c := range []struct {
		name  string
		args  []string
		o     Options
		equal bool // the whole tree is of the source: no directory above it can differ
	}{
		{name: "plain", o: Options{Roots: []string{w}}},
		{name: "two", o: Options{Roots: []string{w + "/x/y", w + "/dir"}}},
		{name: "file", o: Options{Roots: []string{w + "/x/z"}}},
		{name: "strip", args: []string{"--strip"}, o: Options{Roots: []string{w}, Strip: true}, equal: true},
		{name: "strip two", args: []string{"--strip"}, o: Options{Roots: []string{w + "/x", w + "/dir"}, Strip: true}, equal: true},
		{name: "strip a file", args: []string{"--strip"}, o: Options{Roots: []string{w + "/x/z"}, Strip: true}},
		{name: "strip a file and more", args: []string{"--strip"}, o: Options{Roots: []string{w + "/x/z", w + "/dir"}, Strip: true}},
		{name: "strip-path", args: []string{"--strip-path", w}, o: Options{Roots: []string{w + "/x", w + "/dir"}, StripPath: w}, equal: true},
		{name: "strip-path above", args: []string{"--strip-path", filepath.Dir(w)}, o: Options{Roots: []string{w}, StripPath: filepath.Dir(w)}},
		{name: "strip-path elsewhere", args: []string{"--strip-path", "/no/such"}, o: Options{Roots: []string{w}, StripPath: "/no/such"}},
		{name: "graft", args: []string{"--graft", w + "=/a/b"}, o: Options{Roots: []string{w}, Graft: [][2]string{{w, "/a/b"}}}, equal: true},
		{name: "graft to the root", args: []string{"--graft", w + "=/"}, o: Options{Roots: []string{w}, Graft: [][2]string{{w, "/"}}}, equal: true},
		{name: "two grafts", args: []string{"--graft", w + "/x=/a/b", "--graft", w + "/dir=/a/c/d"},
			o: Options{Roots: []string{w + "/x", w + "/dir"}, Graft: [][2]string{{w + "/x", "/a/b"}, {w + "/dir", "/a/c/d"}}}, equal: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			ref := strings.ReplaceAll(c.name, " ", "-")
			for _, f := range []string{"bupindex", "bupindex.meta", "bupindex.hlink"} {
				os.Remove(filepath.Join(b.dir, f))
			}
			os.Remove(b.file)
			age()
			b.bup("index", w)
			b.bup(slices.Concat([]string{"save", "-n", "bup-" + ref}, c.args, c.o.Roots)...)
			b.update()
			o := b.options()
			o.Name, o.Roots, o.Strip, o.StripPath, o.Graft = ref, c.o.Roots, c.o.Strip, c.o.StripPath, c.o.Graft
			res := b.save(o)
			bups := b.treeOf("bup-" + ref)
			got, want := b.tree(res.Tree), b.tree(bups)
			if !slices.Equal(names(got), names(want)) {
				t.Fatalf("saved\n%q\nbup saved\n%q", names(got), names(want))
			}
			for name := range want {
				g, w := got[name], want[name]
				if g.mode != w.mode || g.data != w.data || isRegular(w.meta.Mode) && g.id != w.id {
					t.Errorf("%s: %v %o, bup has %v %o", name, g.id, g.mode, w.id, w.mode)
				}
				if g.meta.Mode != w.meta.Mode || g.meta.Hardlink != w.meta.Hardlink || g.meta.Size != w.meta.Size {
					t.Errorf("%s:\n%+v\nbup has\n%+v", name, g.meta, w.meta)
				}
			}
			if c.equal && res.Tree != bups {
				t.Errorf("tree %v, bup's is %v", res.Tree, bups)
			}
		})
	}
}
