package repo

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// hasFinding reports whether one of the findings begins and ends so.
func hasFinding(lines []string, front, end string) bool {
	return slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, front) && strings.HasSuffix(l, end) })
}

// TestCheckRefs spoils HEAD and refs. What is wrong with them is found by the quick
// check as well, each once and with its file, and the others are checked all the same.
func TestCheckRefs(t *testing.T) {
	const nothing = "1234567890123456789012345678901234567890"
	write := func(name, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600) }
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.RemoveAll(filepath.Join(dir, name)) }
	}
	for _, c := range []struct {
		name   string
		spoil  func(dir string) error
		want   []string // each the front of one finding
		damage bool
	}{
		{"nothing", func(string) error { return nil }, nil, false},
		{"a branch that is not there", write("HEAD", "ref: refs/heads/none\n"), nil, false},
		{"a tag", write("HEAD", "ref: refs/tags/v1\n"), []string{"note HEAD: leads to refs/tags/v1, which is no branch"}, false},
		{"no HEAD", remove("HEAD"), []string{"ref HEAD: is missing"}, true},
		{"empty HEAD", write("HEAD", ""), []string{`ref HEAD: "" is no id`}, true},
		{"junk in HEAD", write("HEAD", "junk\n"), []string{`ref HEAD: "junk" is no id`}, true},
		{"HEAD to the outside", write("HEAD", "ref: ../../etc/passwd\n"), []string{`ref HEAD: leads to "../../etc/passwd", which is no ref`}, true},
		{"HEAD to nothing", write("HEAD", nothing+"\n"), []string{"missing " + nothing + " HEAD"}, true},
		{"no refs", remove("refs"), []string{"ref refs: is missing"}, true},
		{"a ref to nothing", write("refs/heads/host", nothing), []string{"missing " + nothing + " refs/heads/host"}, true},
		{"two refs of junk", func(dir string) error {
			return firstErr(write("refs/heads/host", "junk")(dir), write("refs/heads/other", "more junk")(dir))
		}, []string{`ref refs/heads/host: "junk" is no id`, `ref refs/heads/other: "more junk" is no id`}, true},
		{"a symbolic ref to junk", func(dir string) error {
			return firstErr(write("refs/heads/a", "ref: refs/heads/host")(dir), write("refs/heads/host", "junk")(dir))
		}, []string{`ref refs/heads/a: refs/heads/host: "junk" is no id`, `ref refs/heads/host: "junk" is no id`}, true},
		{"packed-refs", write("packed-refs", nothing+" refs/heads/packed\njunk\n"),
			[]string{"missing " + nothing + " refs/heads/packed", "ref packed-refs at 59: no id and name"}, true},
	} {
		dir, _, _, _ := checkedRepo(t)
		if err := c.spoil(dir); err != nil {
			t.Fatal(err)
		}
		for _, quick := range []bool{true, false} {
			res, lines := check(t, dir, CheckOptions{Quick: quick})
			if !quick {
				lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "affected ") })
			}
			slices.Sort(lines)
			ok := len(lines) == len(c.want) && (res.Damage > 0) == c.damage
			for i := range lines {
				ok = ok && strings.HasPrefix(lines[i], c.want[i])
			}
			if !ok {
				t.Errorf("%s, quick %v: %d damaged, %q, want %q", c.name, quick, res.Damage, lines, c.want)
			}
		}
	}
}

// TestCheckCommits damages commits: what the check names is the ref and the commit, and
// the saves in front of it are traced all the same.
func TestCheckCommits(t *testing.T) {
	dir, m, _, treePack := checkedRepo(t)
	tip := m.refs[0].ID
	c, err := ParseCommit(m.memObjects[tip].body)
	if err != nil {
		t.Fatal(err)
	}
	flipObject(t, treePack, c.Parents[0])
	res, lines := check(t, dir, CheckOptions{})
	if res.Damage == 0 || !hasFinding(lines, "object ", "") || !hasFinding(lines, "affected "+c.Parents[0].String()+" refs/heads/host: ", "not reached") ||
		hasFinding(lines, "affected", "refs/heads/other") {
		t.Errorf("%q", lines)
	}
	flipObject(t, treePack, tip)
	if _, lines = check(t, dir, CheckOptions{}); !hasFinding(lines, "affected "+tip.String()+" refs/heads/host: ", "not reached") {
		t.Errorf("%q", lines)
	}
	if _, lines = check(t, dir, CheckOptions{Quick: true}); !hasFinding(lines, "pack ", "checksum mismatch") || !hasFinding(lines, "object "+tip.String()+" refs/heads/host: ", "") {
		t.Errorf("quick: %q", lines)
	}
}

// TestCheckFiles: each file that is damaged is named once, and the right one of the two.
func TestCheckFiles(t *testing.T) {
	at := func(name string, off int64) func(t *testing.T) {
		return func(t *testing.T) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if off < 0 {
				off += int64(len(b))
			}
			b[off] ^= 0x40
			if err := firstErr(os.Chmod(name, 0o600), os.WriteFile(name, b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir, _, dataPack, _ := checkedRepo(t)
	rel := dirPacks + "/" + filepath.Base(dataPack)
	for _, c := range []struct {
		file, want string
		off        int64
	}{
		{".idx", "idx " + rel + ".idx", 5},
		{".idx", "idx " + rel + ".idx", 500},
		{".idx", "idx " + rel + ".idx", -30}, // the checksum of the pack in it
		{".idx", "idx " + rel + ".idx", -1},
		{".pack", "pack " + rel + ".pack", 5},
		{".pack", "pack " + rel + ".pack", -1},
		{".pack", "pack " + rel + ".pack", 5000},
	} {
		undo := at(dataPack+c.file, c.off)
		undo(t)
		for _, quick := range []bool{true, false} {
			_, lines := check(t, dir, CheckOptions{Quick: quick})
			n := 0
			for _, l := range lines {
				if strings.HasPrefix(l, "pack ") || strings.HasPrefix(l, "idx ") || strings.HasPrefix(l, "stray") {
					n++
				}
			}
			if n != 1 || !hasFinding(lines, c.want, "") {
				t.Errorf("%s at %d, quick %v: %.300q", c.file, c.off, quick, lines)
			}
		}
		undo(t)
	}
	if err := os.Remove(dataPack + ".pack"); err != nil {
		t.Fatal(err)
	}
	if _, lines := check(t, dir, CheckOptions{Quick: true}); !hasFinding(lines, "stray "+rel+".idx", noPack) {
		t.Errorf("%q", lines)
	}
}
