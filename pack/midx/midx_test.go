package midx

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// git runs git in dir, without the user's configuration, and returns what it prints.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+t.TempDir(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// addPack writes a pack of blobs into dir; their contents are the numbers from
// lo up to hi.
func addPack(t testing.TB, dir string, lo, hi int) {
	t.Helper()
	tmp := filepath.Join(dir, "tmp")
	f, err := os.Create(tmp)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, enc := pack.NewWriter(f), pack.NewEncoder(1)
	for i := lo; i < hi; i++ {
		body := fmt.Append(nil, i)
		b, crc := enc.Append(nil, pack.Blob, body)
		if err := w.Add([]pack.Entry{{ID: pack.Sum(pack.Blob, body), CRC: crc, Bytes: b}}); err != nil {
			t.Fatal(err)
		}
	}
	name, idx, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := idx.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, "pack-"+name.String())
	if err := os.WriteFile(base+".idx", b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, base+".pack"); err != nil {
		t.Fatal(err)
	}
}

// openAll opens the idx files in dir, sorted by name.
func openAll(t testing.TB, dir string) (names []string, packs []*pack.Idx) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.idx"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		x, err := pack.OpenIdx(p, bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, filepath.Base(p))
		packs = append(packs, x)
	}
	return names, packs
}

// check compares a multi-pack-index with the idx files it was made of.
func check(t *testing.T, b []byte, names []string, packs []*pack.Idx) {
	t.Helper()
	f, err := Open("multi-pack-index", bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Verify(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.Packs(), names) {
		t.Fatalf("packs %v, want %v", f.Packs(), names)
	}
	ids := map[pack.ID]bool{}
	for filtered := range 2 {
		for _, x := range packs {
			if err := x.Records(func(r pack.Record) error {
				ids[r.ID] = true
				p, off, ok, err := f.Find(r.ID)
				if err != nil || !ok {
					return fmt.Errorf("%v not found: %v", r.ID, err)
				}
				if want, ok, err := packs[p].Find(r.ID); !ok || err != nil || want != off {
					return fmt.Errorf("%v: offset %d of pack %d, want %d, %v", r.ID, off, p, want, err)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 1000 {
			id := pack.Sum(pack.Tree, fmt.Append(nil, i))
			if _, _, ok, err := f.Find(id); ok || err != nil {
				t.Fatalf("%v found: %v", id, err)
			}
		}
		if filtered == 0 {
			if err := f.BuildFilter(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if f.Len() != len(ids) {
		t.Fatalf("%d objects, want %d", f.Len(), len(ids))
	}
}

// TestWithGit lets git verify our file, and reads git's.
func TestWithGit(t *testing.T) {
	repo := t.TempDir()
	git(t, repo, "init", "-q", "--bare", ".")
	dir := filepath.Join(repo, "objects/pack")
	for _, r := range [][2]int{{0, 1000}, {900, 2000}, {1999, 2000}, {0, 1}, {5000, 9000}} {
		addPack(t, dir, r[0], r[1])
	}
	names, packs := openAll(t, dir)
	var b bytes.Buffer
	if err := Write(&b, names, packs); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "multi-pack-index")
	if err := os.WriteFile(file, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	git(t, repo, "multi-pack-index", "verify")
	git(t, repo, "fsck", "--full", "--strict")
	for i := range 50 {
		id := pack.Sum(pack.Blob, fmt.Append(nil, i*180))
		if i*180 < 2000 || i*180 >= 5000 {
			if got := git(t, repo, "cat-file", "blob", id.String()); got != fmt.Sprint(i*180) {
				t.Errorf("git reads %q", got)
			}
		}
	}
	check(t, b.Bytes(), names, packs)

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	git(t, repo, "multi-pack-index", "write")
	theirs, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	check(t, theirs, names, packs)
}
