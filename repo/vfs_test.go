package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// commit stores a commit by author date.
func (m *memRepo) commit(tree pack.ID, at int64, parents ...pack.ID) pack.ID {
	sig := Signature{"A <a@h>", time.Unix(at, 0).UTC()}
	c := Commit{Tree: tree, Parents: parents, Author: sig, Committer: sig, Message: "kedge save\n"}
	id, _ := m.add(pack.Commit, c.Append(nil))
	return id
}

func (m *memRepo) setRef(name string, id pack.ID) { m.refs = append(m.refs, Ref{name, id}) }

func (m memObjects) link(target string) pack.ID {
	id, _ := m.add(pack.Blob, []byte(target))
	return id
}

// smallRepo has links of all kinds, names with slashes and several saves.
func smallRepo() *memRepo {
	m := &memRepo{memObjects: memObjects{}}
	b := m.blob(5)
	big := m.treeOf("100644 0", b, "100644 5", b)
	etc := m.treeOf("100644 hosts", b, "120000 self", m.link("."), "120000 up", m.link("../etc/hosts"))
	root := m.treeOf(
		"120000 abs", m.link("/host/latest/etc/hosts"),
		"40000 big.bup", big,
		"120000 broken", m.link("nowhere"),
		"40000 etc", etc,
		"120000 intobig", m.link("big/x"),
		"120000 loop", m.link("loop2"),
		"120000 loop2", m.link("/host/latest/loop"),
		"120000 slash", m.link("etc/"),
		"120000 tofile", m.link("etc/hosts/"))
	old := m.treeOf("100644 old", b)
	const day = 1700000000
	c := m.commit(old, day)
	for _, at := range []int64{day, day, day + 1, day} {
		c = m.commit(root, at, c)
	}
	m.setRef("refs/heads/deep/er/name", m.commit(old, day+7))
	m.setRef("refs/heads/host", c)
	m.setRef("refs/heads/host-b", m.commit(root, day+5))
	m.setRef("refs/tags/a/tag", c)
	m.setRef("refs/tags/blob", b)
	tag, _ := m.add(pack.Tag, []byte("object "+c.String()+"\ntype commit\ntag t\n\n"))
	m.setRef("refs/tags/object", tag)
	m.setRef("refs/tags/tree", etc)
	return m
}

func resolveName(v *VFS, path string, o ResolveOptions) (string, *Node, error) {
	chain, err := v.Resolve(context.Background(), path, o)
	var names []string
	for _, n := range chain[1:] {
		names = append(names, n.Name)
	}
	return strings.Join(names, "|"), &chain[len(chain)-1], err
}

func TestResolve(t *testing.T) {
	v := &VFS{Repo: smallRepo(), Zone: time.UTC}
	for _, c := range []struct {
		path, want string
		kind       NodeKind
	}{
		{"", "", NodeRoot},
		{"/", "", NodeRoot},
		{"host", "host", NodeName},
		{"/host/", "host", NodeName},
		{"//host/./.", "host", NodeName},
		{"host/../host", "host", NodeName},
		{"../../host", "host", NodeName},
		{"host/latest", "host|latest", NodeLatest},
		{"host/latest/", "host|latest", NodeSave},
		{"host/latest/etc/hosts", "host|latest|etc|hosts", NodeItem},
		{"host/2023-11-14-221320-3/etc", "host|2023-11-14-221320-3|etc", NodeItem},
		{"host/2023-11-14-221320-0/old", "host|2023-11-14-221320-0|old", NodeItem},
		{"host/2023-11-14-221321", "host|2023-11-14-221321", NodeSave},
		{"host/latest/big", "host|latest|big", NodeItem},
		{"host/latest/abs", "host|latest|abs", NodeItem},
		{"host/latest/slash", "host|latest|slash", NodeItem},
		{"host/latest/slash/", "host|latest|etc", NodeItem},
		{"host/latest/slash/hosts", "host|latest|etc|hosts", NodeItem},
		{"host/latest/etc/self/self/./up", "host|latest|etc|up", NodeItem},
		{"deep/er/name", "deep/er/name", NodeName},
		{"deep/er/name/latest/old", "deep/er/name|latest|old", NodeItem},
		{".tag", ".tag", NodeTags},
		{".tag/tree/hosts", ".tag|tree|hosts", NodeItem},
		{".tag/blob", ".tag|blob", NodeItem},
		{".tag/a/tag/etc", ".tag|a/tag|etc", NodeItem},
		{".tag/object/etc", ".tag|object|etc", NodeItem},
		{".commit", ".commit", NodeCommits},
	} {
		got, n, err := resolveName(v, c.path, ResolveOptions{})
		if err != nil || got != c.want || n.Kind != c.kind {
			t.Errorf("%q: %q kind %d, %v; want %q kind %d", c.path, got, n.Kind, err, c.want, c.kind)
		}
	}
	for path, want := range map[string]string{
		"host/latest/abs":         "host|latest|etc|hosts",
		"host/latest/etc/up":      "host|latest|etc|hosts",
		"host/latest/slash":       "host|latest|etc",
		"host/latest":             "host|latest",
		"host-b/latest/abs":       "host|latest|etc|hosts",
		"host/latest/etc/hosts/.": "not a directory",
	} {
		got, _, err := resolveName(v, path, ResolveOptions{Follow: true, Meta: true})
		if err != nil {
			got = err.Error()
		}
		if !strings.HasSuffix(got, want) {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
	got, n, err := resolveName(v, "host/latest/etc", ResolveOptions{SaveNames: true})
	if err != nil || got != "host|2023-11-14-221320-3|etc" {
		t.Errorf("with names: %q, %v", got, err)
	}
	tip := n.ID
	byID := ".commit/" + v.Repo.(*memRepo).refs[1].ID.String() + "/etc"
	if got, n, err := resolveName(v, byID, ResolveOptions{}); err != nil || n.ID != tip {
		t.Errorf("%s: %q, %v", byID, got, err)
	}
	if _, n, err := resolveName(v, "host/latest", ResolveOptions{}); err != nil || n.Target != "2023-11-14-221320-3" || n.Mode != ModeSymlink {
		t.Errorf("latest: %+v, %v", n, err)
	}
}

func TestResolveErrors(t *testing.T) {
	v := &VFS{Repo: smallRepo(), Zone: time.UTC}
	for _, c := range []struct{ path, kind, name, near, front string }{
		{"hots", "name", "hots", "host", ""},
		{"HOST", "name", "HOST", "host", ""},
		{"deep", "name", "deep", "deep/er/name", "deep"},
		{"deep/er", "name", "deep/er", "deep/er/name", "deep/er"},
		{"deep/latest/etc", "name", "deep/latest", "deep/er/name", "deep"},
		{".tag/a", "tag", ".tag/a", ".tag/a/tag", ".tag/a"},
		{"deep/er/nme/latest", "name", "deep/er/nme", "deep/er/name", ""},
		{"nothing like it", "name", "nothing like it", "", ""},
		{"host/2023-11-14-221320", "save", "host/2023-11-14-221320", "host/2023-11-14-221320-3 host/2023-11-14-221321 host/2023-11-14-221320-2", ""},
		{"host/lates", "save", "host/lates", "", ""},
		{"host/latest/etc/hostz", "path", "host/latest/etc/hostz", "host/latest/etc/hosts", ""},
		{"host/latest/broken/x", "path", "host/latest/nowhere", "", ""},
		{".tag/blb", "tag", ".tag/blb", ".tag/blob", ""},
		{".commit/1234", "commit", ".commit/1234", "", ""},
		{".commit/" + strings.Repeat("12", 20), "commit", ".commit/" + strings.Repeat("12", 20), "", ""},
	} {
		_, _, err := resolveName(v, c.path, ResolveOptions{})
		var nf *NotFoundError
		if !errors.As(err, &nf) || nf.What != c.kind || nf.Name != c.name || strings.Join(nf.Near, " ") != c.near || nf.Front != c.front {
			t.Errorf("%q: %#v, want %s %q near %q", c.path, err, c.kind, c.name, c.near)
		}
	}
	for _, path := range []string{"host/latest/etc/hosts/x", "host/latest/etc/hosts/", "host/latest/big/.", "host/latest/tofile/", ".tag/blob/", "host/latest/intobig/"} {
		_, _, err := resolveName(v, path, ResolveOptions{})
		if nd := (*NotDirError)(nil); !errors.As(err, &nd) {
			t.Errorf("%q: %v", path, err)
		}
	}
	_, _, err := resolveName(v, "host/latest/loop/", ResolveOptions{})
	if le := (*LinkError)(nil); !errors.As(err, &le) {
		t.Errorf("loop: %v", err)
	}
	_, _, err = resolveName(v, "host/latest/tofile", ResolveOptions{Follow: true})
	if nd := (*NotDirError)(nil); !errors.As(err, &nd) {
		t.Errorf("link that ends in a slash: %v", err)
	}
	// What was found is returned with the error.
	if got, _, err := resolveName(v, "host/latest/etc/none", ResolveOptions{}); err == nil || got != "host|latest|etc" {
		t.Errorf("%q, %v", got, err)
	}
}

func listNames(t *testing.T, v *VFS, path string, metas bool) []string {
	t.Helper()
	chain, err := v.Resolve(context.Background(), path, ResolveOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	err = v.ReadDir(context.Background(), &chain[len(chain)-1], metas, func(n *Node) error {
		if n.Meta == nil {
			t.Errorf("%s in %s has no Meta", n.Name, path)
		}
		names = append(names, n.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if names[0] != "." {
		t.Errorf("%s begins with %q", path, names[0])
	}
	return names[1:]
}

func TestVFSReadDir(t *testing.T) {
	v := &VFS{Repo: smallRepo(), Zone: time.UTC}
	for path, want := range map[string]string{
		"/":               ".tag deep/er/name host host-b",
		".tag":            "a/tag blob object tree",
		".commit":         "",
		"host":            "2023-11-14-221320-0 2023-11-14-221320-1 2023-11-14-221320-2 2023-11-14-221320-3 2023-11-14-221321 latest",
		"host/latest":     "abs big broken etc intobig loop loop2 slash tofile",
		"host/latest/etc": "hosts self up",
	} {
		for _, metas := range []bool{false, true} {
			if got := strings.Join(listNames(t, v, path, metas), " "); got != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		}
	}
	chain, _ := v.Resolve(context.Background(), ".tag/blob", ResolveOptions{})
	if err := v.ReadDir(context.Background(), &chain[2], false, nil); err == nil {
		t.Error("a file was listed")
	}
}

// TestSaveNames: the numbers of saves of one second, with as many digits as it takes.
func TestSaveNames(t *testing.T) {
	var b branch
	for range 11 {
		b = append(b, savedAt{author: 1700000000})
	}
	names := b.names(time.UTC)
	if names[0] != "2023-11-14-221320-10" || names[1] != "2023-11-14-221320-09" || names[10] != "2023-11-14-221320-00" {
		t.Errorf("%q", names)
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	// The hour that comes twice when summer time ends.
	b = branch{{author: 1698541200}, {author: 1698537600}}
	if names := b.names(berlin); !slices.Equal(names, []string{"2023-10-29-020000-1", "2023-10-29-020000-0"}) {
		t.Errorf("%q", names)
	}
	for i, want := range b.names(berlin) {
		if got := b.name(i, berlin); got != want {
			t.Errorf("save %d: %q, want %q", i, got, want)
		}
	}
}

// TestBranchCache: a branch is read once, however often it is asked for.
func TestBranchCache(t *testing.T) {
	m := &memRepo{memObjects: memObjects{}}
	tree := m.treeOf()
	tip := m.commit(tree, 1700000000)
	for i := range 1000 {
		tip = m.commit(tree, 1700000000+int64(i), tip)
	}
	m.setRef("refs/heads/n", tip)
	v := &VFS{Repo: m, Zone: time.UTC}
	if n := len(listNames(t, v, "n", false)); n != 1002 {
		t.Errorf("%d entries", n)
	}
	m.gets = 0
	for i := range 100 {
		if _, _, err := resolveName(v, fmt.Sprintf("n/2023-11-14-2213%02d/", 21+i%30), ResolveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if m.gets > 0 {
		t.Errorf("%d objects read again", m.gets)
	}
	if _, _, err := resolveName(v, "n/latest/", ResolveOptions{}); err != nil || m.gets != 1 {
		t.Errorf("latest took %d, %v", m.gets, err)
	}
}

// TestWalkCommitsAgainstGit: merges, in the order of git rev-list.
func TestWalkCommitsAgainstGit(t *testing.T) {
	dir := newGit(t)
	tree := strings.TrimSpace(runGit(t, dir, "", "mktree"))
	var ids []string
	for i := range 40 {
		args := []string{"-c", "user.name=A", "-c", "user.email=a@h", "commit-tree", tree, "-m", fmt.Sprint(i)}
		for k, back := range []int{1, 3, 7} {
			if i >= back && (k == 0 || i%(2*back) == 0) {
				args = append(args, "-p", ids[i-back])
			}
		}
		stamp := fmt.Sprintf("%d +0000", 1700000000+int64(i*7%40*60))
		t.Setenv("GIT_AUTHOR_DATE", stamp)
		t.Setenv("GIT_COMMITTER_DATE", stamp)
		ids = append(ids, strings.TrimSpace(runGit(t, dir, "", args...)))
	}
	want := strings.Fields(runGit(t, dir, "", "rev-list", ids[39]))
	runGit(t, dir, "", "update-ref", "refs/heads/m", ids[39])
	r := loadGit(t, dir)
	var got []string
	err := WalkCommits(context.Background(), r, mustID(ids[39]), func(id pack.ID, _ *Commit) error {
		got = append(got, id.String())
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n%q\nwant\n%q", err, got, want)
	}
}

// TestVFSAgainstBup compares listings and contents with bup's, on a repository
// that bup made, with tags, several saves, a split and a name with a slash.
func TestVFSAgainstBup(t *testing.T) {
	root := oddTree(t)
	dir := bupSave(t, root, "odd", "-d", "1700000000")
	if err := os.WriteFile(filepath.Join(root, "new"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, date := range []string{"1700000000", "1700000001", "1720000000.7"} {
		bupAgain(t, dir, root, "odd", "-d", date)
	}
	bupAgain(t, dir, root, "with/slash", "-d", "1700000000")
	runBup(t, dir, "tag", "v1", "odd")
	if err := os.WriteFile(filepath.Join(root, "stream"), streamS(100000), 0o600); err != nil {
		t.Fatal(err)
	}
	runBup(t, dir, "split", "-q", "-d", "1700000000", "-n", "dump", filepath.Join(root, "stream"))
	runGit(t, dir, "", "pack-refs", "--all")
	zone, err := time.LoadLocation("America/St_Johns")
	if err != nil {
		t.Skip(err)
	}
	t.Setenv("TZ", zone.String())
	v := &VFS{Repo: loadGit(t, dir), Zone: zone}
	for _, path := range []string{"/", "/odd", "/.tag", "/.tag/v1", "/odd/latest", "/odd/latest/many", "/odd/latest/dirlink/", "/odd/latest/a.d", "/dump", "/dump/latest"} {
		want := strings.Split(strings.TrimSuffix(runBup(t, dir, "ls", "-A", path), "\n"), "\n")
		got := listNames(t, v, path, true)
		if path == "/odd/latest" || path == "/.tag/v1" { // a name with a line feed in it
			got = strings.Split(strings.Join(got, "\n"), "\n")
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q\nbup has %q", path, got, want)
		}
	}
	for _, path := range []string{"/odd/latest/big", "/odd/latest/x.bup", "/odd/latest/y.bup", "/odd/latest/dirlink/../a", "/dump/latest/data"} {
		chain, err := v.Resolve(context.Background(), path, ResolveOptions{Follow: true, Meta: true})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		n := chain[len(chain)-1]
		var out strings.Builder
		if _, err := OpenFile(context.Background(), v.Repo, n.ID, n.Chunked).WriteTo(&out); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if want := runBup(t, dir, "cat-file", path); out.String() != want {
			t.Errorf("%s: %d bytes, bup has %d", path, out.Len(), len(want))
		}
		if strings.HasPrefix(path, "/odd") && (n.Meta.Type() != meta.TypeFile || n.Meta.Size != int64(out.Len())) {
			t.Errorf("%s: metadata %+v", path, n.Meta)
		}
	}
	if got := listNames(t, v, "with/slash/latest/many", false); len(got) != 3001 {
		t.Errorf("%d items under with/slash", len(got))
	}
}

func FuzzResolve(f *testing.F) {
	for _, s := range []string{"host/latest/etc/hosts", "/.tag/a/tag/../../", "deep/er/name/latest", "host/latest/loop/..", ".commit/x", "a\x00b"} {
		f.Add(s)
	}
	v := &VFS{Repo: smallRepo(), Zone: time.UTC}
	f.Fuzz(func(t *testing.T, path string) {
		chain, err := v.Resolve(context.Background(), path, ResolveOptions{Follow: true})
		if err != nil {
			var nf *NotFoundError
			var nd *NotDirError
			var le *LinkError
			if !errors.As(err, &nf) && !errors.As(err, &nd) && !errors.As(err, &le) {
				t.Fatalf("%q: %v", path, err)
			}
			return
		}
		last := chain[len(chain)-1]
		if strings.HasSuffix(path, "/") && !last.IsDir() {
			t.Fatalf("%q is no directory", path)
		}
		// The names of the chain lead to the same place.
		var names []string
		for _, n := range chain[1:] {
			names = append(names, n.Name)
		}
		again, err := v.Resolve(context.Background(), strings.Join(names, "/"), ResolveOptions{Follow: true})
		if err != nil || len(again) != len(chain) || again[len(again)-1].ID != last.ID {
			t.Fatalf("%q leads to %q, and that to %v, %v", path, names, again, err)
		}
	})
}

func TestNearest(t *testing.T) {
	names := []string{"etc", "home", "var-lib", "var-log", "dir-etc", "srv"}
	for want, near := range map[string]string{
		"ect": "etc", "ETC": "etc", "hoem": "home", "var-lab": "var-lib var-log", "etc": "dir-etc", "zzz": "", "": "", "va": "var-lib var-log",
	} {
		got := nearest(want, func(yield func(string) bool) {
			for _, n := range names {
				if !yield(n) {
					return
				}
			}
		})
		if strings.Join(got, " ") != near {
			t.Errorf("%q: %q, want %q", want, got, near)
		}
	}
	if c := editCost("kitten", "sitting"); c != 3 {
		t.Errorf("kitten to sitting costs %d", c)
	}
}
