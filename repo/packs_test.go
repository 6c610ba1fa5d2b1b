package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// git runs git on a repository and returns what it printed.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	out, err := tryGit(dir, args...)
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryGit(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// fsck fails the test if git finds anything to say about a repository.
func fsck(t testing.TB, dir string) {
	t.Helper()
	out := git(t, dir, "fsck", "--full", "--strict", "--no-dangling")
	for _, line := range strings.Split(out, "\n") {
		if line != "" && !strings.HasPrefix(line, "notice: ") {
			t.Fatalf("git fsck: %s", out)
		}
	}
}

// noSync is a file system that does not wait for the disk. Tests that are not
// about power cuts are several times faster on it.
var noSync = &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
	if op.Kind == fsx.KindSync || op.Kind == fsx.KindSyncDir {
		return nil
	}
	return do()
}}

// newRepo makes a repository and opens it.
func newRepo(t testing.TB, o InitOptions) (*Packs, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "r.git")
	if o.FS == nil {
		o.FS = noSync
	}
	if _, err := InitDir(context.Background(), dir, o); err != nil {
		t.Fatal(err)
	}
	return openRepo(t, dir, DirOptions{FS: o.FS}), dir
}

func openRepo(t testing.TB, dir string, o DirOptions) *Packs {
	t.Helper()
	if o.FS == nil {
		o.FS = noSync
	}
	p, err := OpenDir(context.Background(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// entry encodes an object.
func entry(t pack.Type, body []byte) pack.Entry {
	b, crc := pack.NewEncoder(1).Append(nil, t, body)
	return pack.Entry{ID: pack.Sum(t, body), CRC: crc, Bytes: b}
}

// saved is a small save: some blobs, a tree of them, and a commit.
type saved struct {
	commit, tree pack.ID
	blobs        []pack.ID
	entries      [2][]pack.Entry
}

func makeSave(seed string, blobs int, parents ...pack.ID) saved {
	var s saved
	var tree []TreeEntry
	for i := range blobs {
		e := entry(pack.Blob, []byte(fmt.Sprintf("%s, blob %d\n%s", seed, i, strings.Repeat("x", i%100))))
		s.entries[Data] = append(s.entries[Data], e)
		s.blobs = append(s.blobs, e.ID)
		tree = append(tree, TreeEntry{Mode: ModeFile, Name: fmt.Sprintf("f%05d", i), ID: e.ID})
	}
	te := entry(pack.Tree, AppendTree(nil, tree))
	s.tree = te.ID
	who := Signature{Who: "A B <a@b>", When: time.Unix(1700000000, 0).In(time.FixedZone("", 3600))}
	c := Commit{Tree: te.ID, Parents: parents, Author: who, Committer: who, Message: seed + "\n"}
	ce := entry(pack.Commit, c.Append(nil))
	s.commit = ce.ID
	s.entries[Trees] = []pack.Entry{te, ce}
	return s
}

// store adds a save to a session and commits it.
func (s *saved) store(ctx context.Context, p *Packs) error {
	sess, err := p.Begin(ctx)
	if err != nil {
		return err
	}
	defer sess.Close()
	for _, class := range []Class{Data, Trees} {
		if err := sess.Add(ctx, class, s.entries[class]); err != nil {
			return err
		}
	}
	return sess.Commit(ctx)
}

func (s *saved) all() []pack.ID {
	return append(append([]pack.ID{}, s.blobs...), s.tree, s.commit)
}

func TestSaveAndRead(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	s := makeSave("one", 300)
	if missing, err := p.Missing(ctx, nil, s.all()); err != nil || len(missing) != 302 {
		t.Fatalf("of 302 objects %d are missing in an empty repository; %v", len(missing), err)
	}
	if err := s.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	if missing, err := p.Missing(ctx, nil, s.all()); err != nil || len(missing) != 0 {
		t.Fatalf("%d missing, %v", len(missing), err)
	}
	at, err := p.SetRef(ctx, Move{Ref: "refs/heads/main", New: s.commit})
	if err != nil || at != s.commit {
		t.Fatal(at, err)
	}
	refs, err := p.Refs(ctx, "refs/")
	if err != nil || len(refs) != 1 || refs[0] != (Ref{"refs/heads/main", s.commit}) {
		t.Fatal(refs, err)
	}
	var mu sync.Mutex
	got := make(map[pack.ID]bool)
	err = p.Get(ctx, s.all(), func(i int, typ pack.Type, body []byte) error {
		mu.Lock()
		defer mu.Unlock()
		got[pack.Sum(typ, body)] = true
		return nil
	})
	if err != nil || len(got) != 302 {
		t.Fatalf("got %d objects, %v", len(got), err)
	}
	fsck(t, dir)
	if out := git(t, dir, "rev-parse", "refs/heads/main"); out != s.commit.String() {
		t.Fatal(out)
	}
	if out := git(t, dir, "reflog", "main"); !strings.Contains(out, "kedge") {
		t.Fatal(out)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	git(t, dir, "clone", "-q", dir, clone)
	if b, err := os.ReadFile(filepath.Join(clone, "f00007")); err != nil || !bytes.HasPrefix(b, []byte("one, blob 7\n")) {
		t.Fatalf("%q %v", b, err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "kedge/tmp/*"))
	more, _ := filepath.Glob(filepath.Join(dir, "kedge/sessions/*"))
	if len(left)+len(more) > 0 {
		t.Fatal("left behind:", left, more)
	}
	again := openRepo(t, dir, DirOptions{ReadOnly: true, FS: new(fsx.FS)})
	if missing, err := again.Missing(ctx, nil, s.all()); err != nil || len(missing) != 0 {
		t.Fatalf("%d missing after opening again, %v", len(missing), err)
	}
	if _, err := again.Begin(ctx); !errors.Is(err, ErrReadOnly) {
		t.Fatal(err)
	}
}
