package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// linked is one name of a set of hard links.
func linked(name, body, set string) entry {
	return entry{name: name, body: body, edit: func(m *meta.Meta) { m.Hardlink = set }}
}

func inode(t testing.TB, path string) (ino, nlink uint64) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino, uint64(st.Nlink)
}

func TestHardLinks(t *testing.T) {
	big := func(name, set string) entry {
		return entry{name: name, chunks: []string{"ab", "cd"}, edit: func(m *meta.Meta) { m.Hardlink = set }}
	}
	r := saved(t,
		linked("a", "one", "/src/a"), linked("b", "one", "/src/a"), file1("other", "one"),
		dir("d", linked("c", "one", "/src/a"), big("big1", "/src/d/big1"), dir("e", big("big2", "/src/d/big1"))),
		linked("liar", "two", "/src/a"), // says it is the same, and is not
		entry{name: "fifo1", mode: meta.TypeFIFO | 0o600, edit: func(m *meta.Meta) { m.Hardlink = "/src/fifo1" }},
		entry{name: "fifo2", mode: meta.TypeFIFO | 0o600, edit: func(m *meta.Meta) { m.Hardlink = "/src/fifo1" }},
		entry{name: "link1", mode: meta.TypeSymlink | 0o777, target: "x", edit: func(m *meta.Meta) { m.Hardlink = "/src/link1" }},
		entry{name: "link2", mode: meta.TypeSymlink | 0o777, target: "x", edit: func(m *meta.Meta) { m.Hardlink = "/src/link1" }},
	)
	out := scratch(t)
	o := Options{Repo: r, Out: out, Paths: []string{"s/latest/."}}
	for range 2 {
		res, e := restored(t, o)
		clean(t, res, e)
		for _, set := range [][]string{{"a", "b", "d/c"}, {"d/big1", "d/e/big2"}, {"fifo1", "fifo2"}, {"link1", "link2"}, {"other"}, {"liar"}} {
			ino, n := inode(t, filepath.Join(out, set[0]))
			if n != uint64(len(set)) {
				t.Errorf("%v has %d links", set, n)
			}
			for _, name := range set {
				if got, _ := inode(t, filepath.Join(out, name)); got != ino {
					t.Errorf("%v: %s is another inode", set, name)
				}
			}
		}
		if got := content(t, filepath.Join(out, "d/c")); got != "one" {
			t.Errorf("d/c holds %q", got)
		}
	}

	// A name too many is told from the right thing: a link to it is no copy of it.
	os.Remove(filepath.Join(out, "other"))
	if err := os.Link(filepath.Join(out, "a"), filepath.Join(out, "other")); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(out, "b"))
	write(t, filepath.Join(out, "b"), "one")
	res, e := restored(t, o)
	clean(t, res, e)
	if a, n := inode(t, filepath.Join(out, "a")); n != 3 {
		t.Errorf("a has %d links", n)
	} else if b, _ := inode(t, filepath.Join(out, "b")); b != a {
		t.Error("b is not linked to a")
	}

	// Part of a set.
	out = scratch(t)
	res, e = restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/d", "s/latest/b"}})
	clean(t, res, e)
	if _, n := inode(t, filepath.Join(out, "b")); n != 2 {
		t.Errorf("b has %d links", n)
	}
}

// TestHardLinkOrphans: the first name comes to nothing, so the next one
// is the file; where the content is damaged, none of them is.
func TestHardLinkOrphans(t *testing.T) {
	r := saved(t, linked("a", "one", "/a"), dir("d", linked("b", "one", "/a"), linked("c", "one", "/a")))
	out := scratch(t)
	if err := os.MkdirAll(filepath.Join(out, "a/full"), 0o755); err != nil {
		t.Fatal(err)
	}
	res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/."}})
	if res.Errors != 1 || res.Files != 2 {
		t.Errorf("%+v %q", res, e.warn)
	}
	if _, n := inode(t, filepath.Join(out, "d/b")); n != 2 {
		t.Errorf("d/b has %d links", n)
	}

	id := pack.Sum(pack.Blob, []byte("one"))
	out = scratch(t)
	b := &brokenRepo{Repo: r, bad: map[pack.ID]error{id: corrupt(id)}}
	if res, e := restored(t, Options{Repo: b, Out: out, Paths: []string{"s/latest/."}}); res.Errors != 3 || res.Files != 0 {
		t.Errorf("%+v %q", res, e.warn)
	}

	// What is there and may not be touched is not the file, either.
	out = scratch(t)
	write(t, filepath.Join(out, "a"), "mine")
	write(t, filepath.Join(out, "d/b"), "mine, too")
	res, e = restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/."}, Overwrite: Never})
	clean(t, res, e)
	if content(t, filepath.Join(out, "a"))+content(t, filepath.Join(out, "d/b")) != "minemine, too" || content(t, filepath.Join(out, "d/c")) != "one" {
		t.Errorf("%+v %q", res, e.seen)
	}
}

// TestManyHardLinks has more names than ext4 gives one inode (65,000).
func TestManyHardLinks(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	const names = 65_100
	var top []entry
	for d := range 10 {
		var kids []entry
		for i := range names / 10 {
			kids = append(kids, linked(fmt.Sprintf("n%05d", i), "one", "/first"))
		}
		top = append(top, dir(fmt.Sprintf("d%d", d), kids...))
	}
	out := scratch(t)
	res, e := restored(t, Options{Repo: saved(t, top...), Out: out, Paths: []string{"s/latest/."}})
	if res.Files != names || res.Errors > 1 {
		t.Errorf("%+v %.500q", res, e.warn)
	}
	sum, inodes := uint64(0), map[uint64]bool{}
	for d := range 10 {
		for i := range names / 10 {
			ino, n := inode(t, filepath.Join(out, fmt.Sprintf("d%d/n%05d", d, i)))
			if !inodes[ino] {
				inodes[ino] = true
				sum += n
			}
		}
	}
	if sum != names || int64(len(inodes)) != 1+res.Errors {
		t.Errorf("%d inodes with %d links", len(inodes), sum)
	}
}

// TestSealedLinks: an immutable file can have no further name, so it becomes
// immutable when it has all of them.
func TestSealedLinks(t *testing.T) {
	const immutable = 0x10
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	edit := func(m *meta.Meta) { m.Extras.Attr = immutable; m.Hardlink = "/a" }
	alone := func(m *meta.Meta) { m.Extras.Attr = immutable }
	r := saved(t, entry{name: "a", body: "one", edit: edit}, entry{name: "b", body: "one", edit: edit},
		entry{name: "f", body: "two", edit: alone}, entry{name: "d", kids: []entry{file1("x", "x")}, edit: alone})
	out := scratch(t)
	defer func() {
		for _, name := range []string{"a", "f", "d"} {
			chattr(filepath.Join(out, name), 0)
		}
	}()
	res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/."}})
	if len(e.warn) > 0 && strings.Contains(e.warn[0], "attributes") {
		t.Skip(e.warn) // a file system without
	}
	clean(t, res, e)
	if _, n := inode(t, filepath.Join(out, "a")); n != 2 {
		t.Errorf("a has %d links", n)
	}
	for _, name := range []string{"a", "f", "d"} {
		if err := os.Chmod(filepath.Join(out, name), 0o600); err == nil {
			t.Errorf("%s is not immutable", name)
		}
	}
	if res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/."}}); res.Files+res.Dirs != 0 {
		t.Errorf("%+v %q", res, e.warn)
	}
}

// TestLinksOfSaves: sets of one name in two saves have nothing to do with one another.
func TestLinksOfSaves(t *testing.T) {
	s := newSaver(t)
	s.save("s", dir("one", linked("a", "same", "/a"), linked("b", "same", "/a")))
	s.save("z", dir("two", linked("a", "same", "/a"), linked("b", "same", "/a"), file1("c", "x")))
	out := scratch(t)
	res, e := restored(t, Options{Repo: s.done(), Out: out, Paths: []string{"s/latest/one", "z/latest/two"}})
	clean(t, res, e)
	if _, n := inode(t, filepath.Join(out, "one/a")); n != 2 {
		t.Errorf("one/a has %d links", n)
	}
}
