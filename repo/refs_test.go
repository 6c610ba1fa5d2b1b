package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

func TestOddRefs(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	s := makeSave("a", 1)
	if _, err := s.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	get := func(name string) (pack.ID, error) {
		refs, err := p.Refs(ctx, name)
		for _, r := range refs {
			if r.Name == name {
				return r.ID, err
			}
		}
		return pack.ID{}, err
	}
	hex := s.commit.String()
	for _, test := range []struct {
		text    string
		want    pack.ID
		corrupt bool
	}{
		{hex + "\n", s.commit, false},
		{hex, s.commit, false},
		{"ref: refs/heads/main\n", s.commit, false},
		{"ref:refs/heads/main", s.commit, false},
		{"ref: refs/heads/none\n", pack.ID{}, false},
		{"ref: refs/heads/odd\n", pack.ID{}, true}, // itself
		{"ref: ../../etc/passwd\n", pack.ID{}, true},
		{"ref: HEAD\n", pack.ID{}, true},
		{"ref: refs/heads/../../config\n", pack.ID{}, true},
		{"", pack.ID{}, true},
		{hex[:39] + "\n", pack.ID{}, true},
		{strings.Repeat("0", 40) + "\n", pack.ID{}, true},
		{strings.ToUpper(hex) + "x\n", pack.ID{}, true},
		{"\x00\x00\x00\x00", pack.ID{}, true},
	} {
		write("refs/heads/odd", test.text)
		id, err := get("refs/heads/odd")
		if id != test.want || errors.As(err, new(*pack.CorruptError)) != test.corrupt || !test.corrupt && err != nil {
			t.Errorf("%q: %v, %v", test.text, id, err)
		}
		if at, _ := get(testRef); at != s.commit {
			t.Errorf("%q hides the other refs", test.text)
		}
		if test.corrupt || strings.HasPrefix(test.text, "ref:") {
			if _, err := p.SetRef(ctx, Move{Ref: "refs/heads/odd", Old: id, New: s.tree}); err == nil {
				t.Errorf("%q was overwritten", test.text)
			}
		}
	}
	write("refs/heads/odd", strings.Repeat("x", maxLooseRef+1))
	if _, err := get("refs/heads/odd"); err == nil {
		t.Error("a huge file was taken for a ref")
	}
	os.Remove(filepath.Join(dir, "refs/heads/odd"))

	// A link out of the repository is no ref.
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte(hex), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "refs/heads/link")); err != nil {
		t.Fatal(err)
	}
	if id, err := get("refs/heads/link"); err != nil || !id.IsZero() {
		t.Error("a link out of the repository was followed:", id, err)
	}
	os.Remove(filepath.Join(dir, "refs/heads/link"))

	// Empty directories that git leaves behind give way to a ref.
	if err := os.MkdirAll(filepath.Join(dir, "refs/heads/e/f/g"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := p.SetRef(ctx, Move{Ref: "refs/heads/e", New: s.commit}); err != nil {
		t.Error(err)
	}
	fsck(t, dir)
}

// TestPackedRefs compares with git, and takes refs out of the file.
func TestPackedRefs(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	s := makeSave("a", 1)
	if _, err := s.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		git(t, dir, "update-ref", fmt.Sprintf("refs/heads/n%d/x", i), s.commit.String())
	}
	git(t, dir, "tag", "-m", "annotated", "v1", s.commit.String())
	git(t, dir, "tag", "-m", "annotated", "v2", s.commit.String())
	git(t, dir, "pack-refs", "--all", "--prune")
	git(t, dir, "update-ref", "refs/heads/n3/x", s.commit.String()) // loose again
	compare := func() {
		t.Helper()
		refs, err := p.Refs(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, r := range refs {
			lines = append(lines, r.ID.String()+" "+r.Name)
		}
		if want := git(t, dir, "for-each-ref", "--format=%(objectname) %(refname)"); strings.Join(lines, "\n") != want {
			t.Fatalf("%s\ngit:\n%s", strings.Join(lines, "\n"), want)
		}
	}
	compare()
	// No file is in the way of these, but git could not unpack both.
	for _, name := range []string{"refs/heads/n9", "refs/heads/main/x", "refs/heads/n9/x/y"} {
		if _, err := p.SetRef(ctx, Move{Ref: name, New: s.commit}); err == nil {
			t.Errorf("%s was made beside what is packed", name)
		}
	}
	compare()
	for _, name := range []string{"refs/heads/n7/x", "refs/tags/v1", "refs/heads/n3/x", "refs/heads/main", "refs/tags/v2"} {
		at, err := p.dir.ref(name)
		if err != nil || at.IsZero() {
			t.Fatal(name, err)
		}
		if _, err := p.SetRef(ctx, Move{Ref: name, Old: at}); err != nil {
			t.Fatal(err)
		}
		if now, err := p.dir.ref(name); err != nil || !now.IsZero() {
			t.Fatal(name, "is still there", err)
		}
		compare()
		fsck(t, dir)
	}
	if err := os.WriteFile(filepath.Join(dir, filePackedRefs), []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Refs(ctx, ""); !errors.As(err, new(*pack.CorruptError)) {
		t.Error(err)
	}
}

func FuzzPackedRefs(f *testing.F) {
	id := strings.Repeat("1", 40)
	f.Add([]byte("# pack-refs with: peeled fully-peeled sorted \n" + id + " refs/heads/a\n" + id + " refs/tags/b\n^" + id + "\n"))
	f.Add([]byte(id + " refs/heads/a\r\n\n" + id + " refs/../x\n"))
	f.Add([]byte("^" + id + "\n" + id + " refs/heads/"))
	f.Fuzz(func(t *testing.T, text []byte) {
		end := 0
		var names []string
		err := eachPackedRef(text, func(r Ref, start, next int) error {
			if start < end || next <= start || next > len(text) {
				t.Fatalf("lines %d to %d after %d", start, next, end)
			}
			if CheckRefName(r.Name) != nil || r.ID.IsZero() {
				t.Fatalf("%+v", r)
			}
			end = next
			names = append(names, r.Name)
			return nil
		})
		if err != nil || len(names) == 0 {
			return
		}
		short, err := dropPackedRef(text, names[0])
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		err = eachPackedRef(short, func(r Ref, _, _ int) error { left = append(left, r.Name); return nil })
		for _, name := range left {
			if name == names[0] {
				t.Fatalf("%q is still in %q", name, short)
			}
		}
		n := 0
		for _, name := range names {
			if name == names[0] {
				n++
			}
		}
		if err != nil || len(left) != len(names)-n {
			t.Fatalf("%q became %q: %v", text, short, err)
		}
	})
}

func FuzzLooseRef(f *testing.F) {
	f.Add([]byte(strings.Repeat("a", 40) + "\n"))
	f.Add([]byte("ref: refs/heads/main\n"))
	f.Add([]byte("ref:\trefs/x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		id, target, err := parseLooseRef("refs/heads/x", text)
		switch {
		case err != nil:
		case target != "" && !id.IsZero(), target == "" && id.IsZero() && !bytes.HasPrefix(text, []byte("ref:")):
			t.Fatalf("%q: %v %q", text, id, target)
		}
	})
}

// TestRefNames compares with git check-ref-format. We refuse more: what bup
// refuses, and names that are too long for a file.
func TestRefNames(t *testing.T) {
	for _, name := range []string{"a", "a/b", "ü", "a.b", "a-b", "a@b", "@", "@a", "a@", "{", "a{", "a{b}", "a.", "a..b", ".a", "a/.b", "a.lock", "a.lock/b",
		"a//b", "/a", "a/", "a b", "a~", "a^", "a:", "a?", "a*", "a[", `a\b`, "a\x01", "a\x7f", "a\x80", "-", "-a", "a/-b", "a@{b", "a/@/b", ".", "..", "", "a]", "a!b", "a|b", "a\tb", strings.Repeat("n", 239), strings.Repeat("n", 240)} {
		full := "refs/heads/" + name
		_, err := tryGit("/", "check-ref-format", full)
		ours := CheckRefName(full)
		stricter := len(full) > maxRefName || strings.HasPrefix(name, "-") || name == "@" || strings.Contains(name, "/@/")
		if (err == nil) != (ours == nil) && !(stricter && ours != nil) {
			t.Errorf("%q: git says %v, we say %v", name, err, ours)
		}
	}
}
