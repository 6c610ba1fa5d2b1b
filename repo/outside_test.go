package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// closedNames returns the packs that are listed as closed.
func closedNames(t *testing.T, p *Packs) (names []string) {
	t.Helper()
	lines, err := p.dir.closedPacks()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if !l.uses {
			names = append(names, l.name)
		}
	}
	return names
}

// missingOf fails the test if Missing does not say what is wanted.
func missingOf(t *testing.T, p *Packs, ids []pack.ID, want ...pack.ID) {
	t.Helper()
	got, err := p.Missing(context.Background(), nil, ids)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("Missing: %v, %v; want %v", got, err, want)
	}
}

// TestRepacked: git makes one pack with deltas of all packs. Nothing is lost,
// and all of it is proved anew, once.
func TestRepacked(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	var all []pack.ID
	var parents []pack.ID
	for i := range 5 {
		s := makeSave(fmt.Sprint("save ", i), 30, parents...)
		if _, err := s.save(ctx, p); err != nil {
			t.Fatal(err)
		}
		parents = []pack.ID{s.commit}
		all = append(all, s.all()...)
	}
	git(t, dir, "repack", "-adfq", "--depth=40", "--window=50")
	if out := git(t, dir, "count-objects", "-v"); !strings.Contains(out, "packs: 1") {
		t.Fatal(out)
	}
	missingOf(t, p, all) // the open one
	if err := checkGet(ctx, p, all); err != nil {
		t.Fatal(err)
	}
	if closed := closedNames(t, p); len(closed) != 1 {
		t.Fatal("closed:", closed)
	}
	again := openRepo(t, dir, DirOptions{})
	missingOf(t, again, all)
	if again.proof.read != nil {
		t.Error("what was proved is proved again")
	}
	git(t, dir, "gc", "-q", "--prune=now")
	missingOf(t, again, all)
	fsck(t, dir)
}

// checkGet reads objects and compares their hashes.
func checkGet(ctx context.Context, p *Packs, ids []pack.ID) error {
	return p.Get(ctx, ids, func(i int, t pack.Type, body []byte) error {
		if id := pack.Sum(t, body); id != ids[i] {
			return fmt.Errorf("%v came as %v", ids[i], id)
		}
		return nil
	})
}

// TestObjectsRemovedByGit: a pack of trees is kept, the data below it is taken
// away. Nothing may be called present any more that has not all below it.
func TestObjectsRemovedByGit(t *testing.T) {
	for _, open := range []bool{true, false} {
		t.Run(fmt.Sprint("while open: ", open), func(t *testing.T) {
			ctx := context.Background()
			p, dir := newRepo(t, InitOptions{})
			kept, lost := makeSave("kept", 10), makeSave("lost", 10)
			if _, err := kept.save(ctx, p); err != nil {
				t.Fatal(err)
			}
			if err := lost.store(ctx, p); err != nil {
				t.Fatal(err)
			}
			at, ok, err := p.find(p.table.Load(), lost.tree, nil)
			if err != nil || !ok {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, dirPacks, at.file.name+".keep"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			git(t, dir, "repack", "-adq")
			git(t, dir, "prune", "--expire=now")
			if !open {
				p = openRepo(t, dir, DirOptions{})
			}
			want := append(slices.Clone(lost.blobs), lost.tree, lost.commit)
			missingOf(t, p, append(kept.all(), lost.all()...), want...)
			if _, err := p.SetRef(ctx, Move{Ref: "refs/heads/x", New: lost.commit}); !errors.As(err, new(*MissingError)) {
				t.Fatal("a ref was set to a save that is not whole:", err)
			}
			// Saved again, it is whole.
			if _, err := lost.save(ctx, p); err != nil {
				t.Fatal(err)
			}
			missingOf(t, p, append(kept.all(), lost.all()...))
			missingOf(t, openRepo(t, dir, DirOptions{}), append(kept.all(), lost.all()...))
			trees, err := closure(ctx, p)
			if err != nil || len(trees) != 2 {
				t.Fatal(len(trees), err)
			}
		})
	}
}

// TestLooseObjects are read but never present.
func TestLooseObjects(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("loose"), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := pack.ParseID(git(t, dir, "hash-object", "-w", file))
	if err != nil {
		t.Fatal(err)
	}
	missingOf(t, p, []pack.ID{id}, id)
	if err := checkGet(ctx, p, []pack.ID{id}); err != nil {
		t.Fatal(err)
	}
	hex := id.String()
	name := filepath.Join(dir, "objects", hex[:2], hex[2:])
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 1
		os.Remove(name)
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		// The header of the zlib stream has bits that change nothing.
		if err := checkGet(ctx, p, []pack.ID{id}); err != nil && !errors.As(err, new(*pack.CorruptError)) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
}

// TestBupPacks: what bup saved is proved when it is asked for, and listed.
func TestBupPacks(t *testing.T) {
	bup, err := exec.LookPath("bup")
	if err != nil {
		t.Skip("no bup")
	}
	ctx := context.Background()
	dir, src := filepath.Join(t.TempDir(), "b"), t.TempDir()
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint("f", i)), []byte(strings.Repeat(fmt.Sprint("line ", i, "\n"), 3000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(bup, append([]string{"-d", dir}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("bup %q: %v\n%s", args, err, out)
		}
	}
	run("init")
	run("index", src)
	run("save", "-q", "-n", "b", src)
	tip, err := pack.ParseID(git(t, dir, "rev-parse", "b"))
	if err != nil {
		t.Fatal(err)
	}
	reader := openRepo(t, dir, DirOptions{ReadOnly: true})
	missingOf(t, reader, []pack.ID{tip})
	if _, err := os.Stat(filepath.Join(dir, "kedge")); err == nil {
		t.Fatal("reading made kedge's directory")
	}
	p := openRepo(t, dir, DirOptions{})
	s := makeSave("on top of bup's", 3, tip)
	if err := s.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	if _, err := p.SetRef(ctx, Move{Ref: "refs/heads/b", Old: tip, New: s.commit}); err != nil {
		t.Fatal(err)
	}
	missingOf(t, openRepo(t, dir, DirOptions{}), []pack.ID{tip, s.commit})
	fsck(t, dir)
	// And bup goes on in a repository that kedge made.
	p2, dir2 := newRepo(t, InitOptions{})
	dir = dir2
	run("index", src)
	run("save", "-q", "-n", "b", src)
	if tip, err = pack.ParseID(git(t, dir, "rev-parse", "b")); err != nil {
		t.Fatal(err)
	}
	missingOf(t, p2, []pack.ID{tip})
	run("ls", "b/latest/")
	// bup gc rewrites packs under an open repository.
	git(t, dir, "update-ref", "-d", "refs/heads/b")
	if err := s.store(ctx, p2); err == nil {
		t.Fatal("a commit without its parent was stored")
	}
	s = makeSave("kedge's", 3)
	if _, err := s.save(ctx, p2); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bup, "-d", dir, "gc", "--unsafe", "--threshold", "0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("bup gc: %v\n%s", err, out)
	}
	missingOf(t, p2, []pack.ID{tip, s.commit}, tip)
	if _, err := closure(ctx, p2); err != nil {
		t.Fatal(err)
	}
}

// TestGarbageBesideGood: a pack that also has objects without their children
// cannot be closed; those that are whole are present all the same.
func TestGarbageBesideGood(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	good, bad := makeSave("good", 200), makeSave("bad", 20)
	f := plant(t, p, slices.Concat(good.entries[Data], good.entries[Trees], bad.entries[Data][1:], bad.entries[Trees]))
	for range 2 {
		missingOf(t, p, append(good.all(), bad.all()...), bad.blobs[0], bad.tree, bad.commit)
	}
	if closed := closedNames(t, p); len(closed) != 0 {
		t.Fatal("closed:", closed)
	}
	// A new save that leans on the good part is closed, and says on what.
	top := makeSave("top", 2, good.commit)
	if err := top.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	lines, err := p.dir.closedPacks()
	if len(lines) != 3 || !lines[0].uses || lines[0].name != f.name || lines[1].uses || lines[2].uses || err != nil {
		t.Fatal(lines, err)
	}
	again := openRepo(t, dir, DirOptions{})
	missingOf(t, again, top.all())
	os.Remove(filepath.Join(dir, f.idxName()))
	os.Remove(filepath.Join(dir, f.packName()))
	for _, p := range []*Packs{p, again, openRepo(t, dir, DirOptions{})} {
		missingOf(t, p, top.all(), top.commit)
	}
}
