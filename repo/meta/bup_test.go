package meta

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// bup runs bup with a repository of its own.
func bup(t *testing.T, repo string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("bup", args...)
	cmd.Env = append(os.Environ(), "BUP_DIR="+repo)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("bup %v: %v\n%s", args, err, stderr.Bytes())
	}
	return out
}

// names returns the names of dir that are no directories, as a .bupm has them,
// and those of the directories.
func names(t *testing.T, dir string) (files, dirs []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.IsDir() {
			dirs = append(dirs, e.Name())
		} else {
			files = append(files, e.Name())
		}
	}
	slices.Sort(files)
	return files, dirs
}

func parseAll(t *testing.T, b []byte) (list []Meta, raw [][]byte) {
	t.Helper()
	for len(b) > 0 {
		m, rest, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		list, raw = append(list, m), append(raw, b[:len(b)-len(rest)])
		b = rest
	}
	return list, raw
}

// TestReadAsBup saves one of everything with bup and compares every entry of
// the .bupm files with what is read here, byte for byte. Only the atime may
// differ, because both have to read.
func TestReadAsBup(t *testing.T) {
	needs(t, true, "bup", "git", "setfacl", "chattr")
	base := scratch(t)
	src, repo := filepath.Join(base, "src"), filepath.Join(base, "repo")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	hardCases(t, src)
	bup(t, repo, "init")
	bup(t, repo, "index", src)
	bup(t, repo, "save", "-n", "t", src)

	d, n := openDir(t, base), &Names{}
	link := filepath.Join(src, "h") // which bup met first: it walks backwards
	compare := func(dir *fsx.Dir, name string, saved Meta, raw []byte) {
		t.Helper()
		m := readMeta(t, dir, name, n)
		m.Atime = saved.Atime
		if name == "a.txt" || name == "h" {
			m.Hardlink = link
		}
		if got := m.Append(nil); !bytes.Equal(got, raw) {
			t.Errorf("%s: we write\n%x\n%+v %+v, bup wrote\n%x\n%+v %+v", name, got, m, m.Extras.ACL, raw, saved, saved.Extras.ACL)
		}
		if got := saved.Append(nil); !bytes.Equal(got, raw) {
			t.Errorf("%s: bup's entry\n%x came back as\n%x", name, raw, got)
		}
	}
	in, err := d.Open("src")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	files, dirs := names(t, src)
	list, raw := parseAll(t, bup(t, repo, "cat-file", "--bupm", "/t/latest"+src))
	if len(list) != len(files)+1 {
		t.Fatalf("%d entries for %d files", len(list), len(files))
	}
	compare(d, "src", list[0], raw[0])
	for i, name := range files {
		compare(in, name, list[i+1], raw[i+1])
	}
	for _, name := range dirs {
		list, raw := parseAll(t, bup(t, repo, "cat-file", "--bupm", "/t/latest"+src+"/"+name))
		compare(in, name, list[0], raw[0])
	}
}

// TestBupExtracts has bup apply entries that were written here: an archive of
// "bup meta" is entries with paths. What it makes is read and compared.
func TestBupExtracts(t *testing.T) {
	needs(t, true, "bup", "git", "setfacl", "chattr")
	base := scratch(t)
	src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
	for _, dir := range []string{src, dst} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	hardCases(t, src)
	n := &Names{}
	in := openDir(t, src)
	files, dirs := names(t, src)
	var archive []byte
	want := map[string]Meta{}
	for _, name := range append(dirs, files...) {
		m := readMeta(t, in, name, n)
		m.Path = name
		if m.Type() == TypeDir {
			m.Path += "/"
		}
		archive = m.Append(archive)
		want[name] = m
	}
	file := filepath.Join(base, "archive")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bup", "meta", "-xf", file)
	cmd.Dir = dst
	// bup's complaint about attributes it was told of and cannot set is its own.
	if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), "encountered") {
		t.Fatalf("bup meta -x: %v\n%s", err, out)
	}
	out := openDir(t, dst)
	for name, m := range want {
		sameOnDisk(t, readMeta(t, out, name, n), m, name, m.Type() != TypeFile)
	}
}

// sameOnDisk compares what was applied with what was wanted. Access and change
// times are what they are; content is not part of it.
func sameOnDisk(t *testing.T, got, want Meta, name string, size bool) {
	t.Helper()
	want.Path, want.Hardlink = "", ""
	want.Atime, want.Ctime = got.Atime, got.Ctime
	if !size {
		want.Size = got.Size
	}
	if !equal(got, want) {
		t.Errorf("%s: is\n%+v %+v, should be\n%+v %+v", name, got, got.Extras.ACL, want, want.Extras.ACL)
	}
}
