package repo

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// runGit runs git in dir with in as its input and returns what it prints.
func runGit(t testing.TB, dir, in string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, stderr.Bytes())
	}
	return string(out)
}

func newGit(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
	dir := t.TempDir()
	runGit(t, dir, "", "init", "-q", "--bare", ".")
	return dir
}

func mustID(s string) pack.ID {
	id, err := pack.ParseID(s)
	if err != nil {
		panic(err)
	}
	return id
}

func someID(n int) pack.ID { return pack.Sum(pack.Blob, fmt.Append(nil, n)) }

// oddName makes a short name of few letters, so that prefixes and repetitions are common.
func oddName(r *rand.Rand) string {
	const letters = "ab.-/0\x01\xff"
	b := make([]byte, 1+r.IntN(4))
	for i := range b {
		for b[i] = '/'; b[i] == '/'; {
			b[i] = letters[r.IntN(len(letters))]
		}
	}
	if s := string(b); s != "." && s != ".." {
		return s
	}
	return "x"
}

// TestTreeAgainstGit makes trees of odd names and compares order and id with git mktree.
func TestTreeAgainstGit(t *testing.T) {
	dir := newGit(t)
	r := rand.New(rand.NewPCG(1, 2))
	modes := []uint32{ModeFile, ModeDir, ModeSymlink, modeExec, modeGitlink}
	kinds := map[uint32]string{ModeDir: "tree", modeGitlink: "commit"}
	for range 60 {
		var list []TreeEntry
		used := map[string]bool{}
		var in strings.Builder
		for range r.IntN(40) {
			e := TreeEntry{Mode: modes[r.IntN(len(modes))], Name: oddName(r), ID: someID(r.Int())}
			if used[e.Name] {
				continue
			}
			used[e.Name] = true
			list = append(list, e)
			kind := kinds[e.Mode]
			if kind == "" {
				kind = "blob"
			}
			fmt.Fprintf(&in, "%06o %s %v\t%s\x00", e.Mode, kind, e.ID, e.Name)
		}
		SortTree(list)
		body := AppendTree(nil, list)
		want := strings.TrimSpace(runGit(t, dir, in.String(), "mktree", "-z", "--missing"))
		if got := pack.Sum(pack.Tree, body).String(); got != want {
			t.Fatalf("tree of %v: %s, git says %s", list, got, want)
		}
		var back []TreeEntry
		err := ParseTree(body, func(e TreeEntry) error { back = append(back, e); return nil })
		if err != nil || fmt.Sprint(back) != fmt.Sprint(list) {
			t.Fatalf("ParseTree: %v\n got %v\nwant %v", err, back, list)
		}
	}
}

func treeOf(entries ...string) []byte {
	var b []byte
	for _, e := range entries {
		b = append(b, e...)
		b = append(b, 0)
		b = someID(1).AppendBytes(b)
	}
	return b
}

func TestParseTreeRefuses(t *testing.T) {
	good := treeOf("100644 a", "40000 b")
	for _, c := range []struct {
		name, want string
		body       []byte
	}{
		{"cut id", "id cut off", good[:len(good)-1]},
		{"trailing junk", "mode without an end", append(bytes.Clone(good), '1')},
		{"no NUL", "name without an end", []byte("100644 abc")},
		{"no blank", "mode without an end", []byte("100644")},
		{"empty name", "empty name", treeOf("100644 ")},
		{"dot", "name is . or ..", treeOf("40000 .")},
		{"dot dot", "name is . or ..", treeOf("40000 ..")},
		{"slash", "name with a slash", treeOf("100644 a/b")},
		{"mode 0", "mode with leading zeros", treeOf("0 a")},
		{"no mode", "mode 0", treeOf(" a")},
		{"mode 777", "mode 777", treeOf("777 a")},
		{"padded", "mode with leading zeros", treeOf("040000 a")},
		{"decimal", "mode is not octal", treeOf("100648 a")},
		{"long mode", "mode without an end", treeOf("1000000644 a")},
		{"unsorted", `"a" out of order`, treeOf("100644 b", "100644 a")},
		{"twice", `"a" out of order`, treeOf("100644 a", "100644 a")},
		{"file and directory", `"a" twice`, treeOf("100644 a", "40000 a")},
		{"with one between", `"a" twice`, treeOf("100644 a", "100644 a-b", "40000 a")},
		{"with many between", `"a.b" twice`, treeOf("100644 a", "100644 a.b", "100644 a.b!", "100644 a.b-c", "40000 a.b")},
		{"nested", `"a" twice`, treeOf("100644 a", "100644 a!", "100644 a!!", "40000 a")},
		{"directory order", `"a.b" out of order`, treeOf("40000 a", "100644 a.b")},
	} {
		err := ParseTree(c.body, func(TreeEntry) error { return nil })
		var corrupt *pack.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

func TestParseTreeAccepts(t *testing.T) {
	for _, body := range [][]byte{
		nil,
		treeOf("100644 .git", "160000 module", "100664 old"),
		treeOf("100644 a", "100644 a!", "100644 a.b", "40000 a0"),
		treeOf("100644 a.b", "40000 a", "100644 a0"),
		treeOf("100644 a", "100644 a-", "40000 b"),
	} {
		var got []TreeEntry
		if err := ParseTree(body, func(e TreeEntry) error { got = append(got, e); return nil }); err != nil {
			t.Errorf("%q: %v", body, err)
			continue
		}
		if back := AppendTree(nil, got); !bytes.Equal(back, body) {
			t.Errorf("%q came back as %q", body, back)
		}
	}
}

func TestTreeAllocates(t *testing.T) {
	var list []TreeEntry
	for i := range 256 {
		list = append(list, TreeEntry{ModeFile, fmt.Sprintf("%06x", i), someID(i)})
	}
	body := AppendTree(nil, list)
	if n := testing.AllocsPerRun(10, func() { body = AppendTree(body[:0], list) }); n != 0 {
		t.Errorf("AppendTree allocates %v times", n)
	}
	n := testing.AllocsPerRun(10, func() {
		s := NewTreeScanner(body)
		for s.Next() {
		}
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
	})
	if n != 0 {
		t.Errorf("TreeScanner allocates %v times", n)
	}
}

func TestMangleName(t *testing.T) {
	for _, c := range []struct {
		real    string
		chunked bool
		want    string
	}{
		{"a", false, "a"},
		{"a", true, "a.bup"},
		{"x.bup", false, "x.bup.bupl"},
		{"x.bup", true, "x.bup.bup"},
		{"x.bupd", false, "x.bupd.bupl"},
		{"x.bupl", false, "x.bupl.bupl"},
		{"x.bupm", false, "x.bupm.bupl"},
		{"x.bupz", false, "x.bupz.bupl"},
		{"x.bup\xff", false, "x.bup\xff.bupl"},
		{"x.bupzz", false, "x.bupzz"},
		{".bup", false, ".bup.bupl"},
		{".bupm", false, ".bupm.bupl"},
		{".bupm", true, ".bupm.bup"},
		{"bup", false, "bup"},
		{"x.bupl", true, "x.bupl.bup"},
	} {
		got := MangleName(c.real, c.chunked)
		if got != c.want {
			t.Errorf("MangleName(%q, %v) = %q, want %q", c.real, c.chunked, got, c.want)
		}
		mode := uint32(ModeFile)
		if c.chunked {
			mode = ModeDir
		}
		if real, chunked := UnmangleName(mode, got); real != c.real || chunked != c.chunked {
			t.Errorf("UnmangleName(%o, %q) = %q, %v", mode, got, real, chunked)
		}
	}
	// Made by git, not by a save: a blob is no tree of chunks.
	if real, chunked := UnmangleName(ModeFile, "x.bup"); real != "x.bup" || chunked {
		t.Errorf("blob x.bup is %q, %v", real, chunked)
	}
}

func FuzzParseTree(f *testing.F) {
	f.Add(treeOf("100644 a", "40000 b"))
	f.Add(treeOf("100644 a", "100644 a.b", "40000 a"))
	f.Add(treeOf("100644 a!", "120000 a!b", "160000 a!b0", "40000 b"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var list []TreeEntry
		names := map[string]bool{}
		err := ParseTree(body, func(e TreeEntry) error {
			if names[e.Name] {
				t.Fatalf("%q twice", e.Name)
			}
			names[e.Name] = true
			list = append(list, e)
			return nil
		})
		if err != nil {
			return
		}
		if back := AppendTree(nil, list); !bytes.Equal(back, body) {
			t.Fatalf("came back as %q", back)
		}
		sorted := append([]TreeEntry(nil), list...)
		SortTree(sorted)
		if fmt.Sprint(sorted) != fmt.Sprint(list) {
			t.Fatal("accepted in another order than SortTree's")
		}
	})
}
