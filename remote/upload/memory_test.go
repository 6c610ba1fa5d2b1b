package upload

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// wide makes a repository with one save of dirs × files files, and returns the number of its
// objects.
func wide(t testing.TB, dirs, files int, content func(d, f int) []byte) (dir string, objects int) {
	t.Helper()
	ctx := context.Background()
	dir, _ = newRepo(t, "refs/heads/main")
	r, err := repo.OpenDir(ctx, dir, repo.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s, err := r.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	enc := pack.NewEncoder(1)
	add := func(class repo.Class, kind pack.Type, body []byte) pack.ID {
		t.Helper()
		b, crc := enc.Append(nil, kind, body)
		id := pack.Sum(kind, body)
		if err := s.Add(ctx, class, []pack.Entry{{ID: id, CRC: crc, Bytes: b}}); err != nil {
			t.Fatal(err)
		}
		objects++
		return id
	}
	var top []repo.TreeEntry
	for d := range dirs {
		var list []repo.TreeEntry
		for f := range files {
			id := add(repo.Data, pack.Blob, content(d, f))
			list = append(list, repo.TreeEntry{Mode: repo.ModeFile, Name: fmt.Sprintf("%05d", f), ID: id})
		}
		id := add(repo.Trees, pack.Tree, repo.AppendTree(nil, list))
		top = append(top, repo.TreeEntry{Mode: repo.ModeDir, Name: fmt.Sprintf("%05d", d), ID: id})
	}
	c := repo.Commit{Tree: add(repo.Trees, pack.Tree, repo.AppendTree(nil, top)), Message: "wide\n"}
	c.Author = repo.Signature{Who: "A <a@b>"}
	c.Committer = c.Author
	tip := add(repo.Trees, pack.Commit, c.Append(nil))
	if err := s.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := r.SetRef(ctx, repo.Move{Ref: "refs/heads/main", New: tip}); err != nil {
		t.Fatal(err)
	}
	return dir, objects
}

// peak clones a repository and returns how much memory the server's process had at most.
func peak(t testing.TB, dir string) (kib int) {
	t.Helper()
	to, file := filepath.Join(t.TempDir(), "clone"), filepath.Join(t.TempDir(), "peak")
	if r := tryGit(t, []string{"UPLOAD_TEST_PEAK=" + file}, "clone", "-q", "--mirror", "UPLOAD", "file://"+dir, to); r.code != 0 {
		t.Fatalf("exit %d\n%s", r.code, r.err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	if n := inPack(t, to); n == 0 {
		t.Error("an empty clone")
	}
	return kib
}

// TestMemory clones 300,000 objects: the server takes no more than a session may, beyond
// what a clone of a small repository takes, and a bit for each object.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("300,000 objects")
	}
	small, _ := newRepo(t, "refs/heads/main", "a")
	dir, objects := wide(t, 2970, 100, func(d, f int) []byte {
		return fmt.Appendf(nil, "file %d of directory %d\n%s", f, d, strings.Repeat("x", f%50))
	})
	base, most := peak(t, small), peak(t, dir)
	t.Logf("%d objects: %d KiB, and %d KiB for a small repository", objects, most, base)
	if objects < 299_000 {
		t.Errorf("only %d objects", objects)
	}
	if limit := base + 32<<10 + objects/8/1024; most > limit {
		t.Errorf("%d KiB, the limit is %d", most, limit)
	}
}

// BenchmarkClone sends 4,000 chunks of 10 KiB to a client that takes all.
func BenchmarkClone(b *testing.B) {
	chunk := []byte(random(10 << 10))
	dir, _ := wide(b, 40, 100, func(d, f int) []byte {
		copy(chunk, fmt.Sprint(d, f, " "))
		return chunk
	})
	r, err := repo.OpenDir(context.Background(), dir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	request := line4("want "+strings.TrimSpace(git(b, "-C", dir, "rev-parse", "main"))+caps) + "0000" + line4("done")
	b.SetBytes(packSize(b, dir))
	b.ReportAllocs()
	for b.Loop() {
		if err := Serve(context.Background(), stdio{strings.NewReader(request), io.Discard}, r, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
