package get_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/get"
	"github.com/kedgebackup/kedge/repo/repotest"
)

var ctx = context.Background()

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB) *repo.Packs {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "r")
	_, err := repo.InitDir(ctx, dir, repo.InitOptions{})
	check(t, err)
	p, err := repo.OpenDir(ctx, dir, repo.DirOptions{})
	check(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// put stores objects, children first, and returns the id of the last.
func put(t testing.TB, p *repo.Packs, entries ...pack.Entry) pack.ID {
	t.Helper()
	s, err := p.Begin(ctx)
	check(t, err)
	defer s.Close()
	check(t, s.Add(ctx, repo.Trees, entries))
	check(t, s.Commit(ctx))
	return entries[len(entries)-1].ID
}

func setRef(t testing.TB, p repo.Repo, name string, to pack.ID) {
	t.Helper()
	_, err := p.SetRef(ctx, repo.Move{Ref: name, New: to})
	check(t, err)
}

func treeOf(entries ...repo.TreeEntry) pack.Entry {
	repo.SortTree(entries)
	return repotest.Entry(pack.Tree, repo.AppendTree(nil, entries))
}

func commitOf(tree pack.ID, second int64, parents ...pack.ID) pack.Entry {
	who := repo.Signature{Who: "A B <a@b>", When: time.Unix(second, 0).UTC()}
	c := repo.Commit{Tree: tree, Parents: parents, Author: who, Committer: who, Message: "m\n"}
	return repotest.Entry(pack.Commit, c.Append(nil))
}

// source is a repository with three saves of b, of which the last has 600 directories
// with a common one below each, a chunked file and a long .bupm, and a tag on the first.
func source(t testing.TB) (p *repo.Packs, saves []pack.ID) {
	t.Helper()
	p = open(t)
	var parents []pack.ID
	for i := range 3 {
		var all []pack.Entry
		blob := func(text string) pack.ID {
			all = append(all, repotest.Entry(pack.Blob, []byte(text)))
			return all[len(all)-1].ID
		}
		tree := func(e ...repo.TreeEntry) pack.ID {
			all = append(all, treeOf(e...))
			return all[len(all)-1].ID
		}
		common := tree(repo.TreeEntry{Mode: repo.ModeFile, Name: "x", ID: blob("common")})
		chunks := tree(repo.TreeEntry{Mode: repo.ModeFile, Name: "0", ID: blob("part 1")}, repo.TreeEntry{Mode: repo.ModeFile, Name: "6", ID: blob("part 2")})
		root := []repo.TreeEntry{
			{Mode: repo.ModeDir, Name: "file.bup", ID: chunks},
			{Mode: repo.ModeDir, Name: ".bupm", ID: tree(repo.TreeEntry{Mode: repo.ModeFile, Name: "0", ID: blob("meta")})},
		}
		for n := range 300 * i {
			dir := tree(repo.TreeEntry{Mode: repo.ModeDir, Name: "c", ID: common}, repo.TreeEntry{Mode: repo.ModeFile, Name: "f", ID: blob(fmt.Sprint("file ", n))})
			root = append(root, repo.TreeEntry{Mode: repo.ModeDir, Name: fmt.Sprintf("d%03d", n), ID: dir})
		}
		all = append(all, commitOf(tree(root...), int64(1700000000+i*86400), parents...))
		saves = append(saves, put(t, p, all...))
		parents = saves[i:]
	}
	setRef(t, p, "refs/heads/b", saves[2])
	setRef(t, p, "refs/tags/first", saves[0])
	return p, saves
}

func options(from, to repo.Repo, orders ...get.Order) get.Options {
	return get.Options{Source: from, Dest: to, Orders: orders, Zone: time.UTC, Who: "C D <c@d>",
		Now: time.Unix(1800000000, 0).UTC(), Level: 1, Workers: 2, Message: "from a tree\n"}
}

// whole fails unless a repository is in order and has nothing but what it needs.
func whole(t testing.TB, p *repo.Packs) {
	t.Helper()
	res, err := repo.Check(ctx, p, repo.CheckOptions{}, func(f repo.Finding) {
		if f.Damage() && f.Kind != repo.BadMeta && f.Kind != repo.BadTree && f.Kind != repo.Affected {
			t.Error(f)
		}
	})
	check(t, err)
	if res.Objects == 0 {
		t.Error("nothing arrived")
	}
}

func refsOf(t testing.TB, p repo.Repo) map[string]pack.ID {
	t.Helper()
	refs, err := p.Refs(ctx, "refs/")
	check(t, err)
	m := make(map[string]pack.ID)
	for _, r := range refs {
		m[r.Name] = r.ID
	}
	return m
}

// plain hides that a source gives out entries.
type plain struct{ repo.Repo }

// Every method brings what it says, whatever the source can do.
func TestMethods(t *testing.T) {
	src, saves := source(t)
	for _, from := range []repo.Repo{src, plain{src}} {
		dst := open(t)
		res, err := get.Run(ctx, options(from, dst,
			get.Order{Method: get.FastForward, Ref: "b"},
			get.Order{Method: get.FastForward, Ref: "b/2023-11-14-221320", Dest: "old"},
			get.Order{Method: get.FastForward, Ref: "b/2023-11-15-221320", Dest: "old"},
			get.Order{Method: get.NewTag, Ref: ".tag/first"},
			get.Order{Method: get.NewTag, Ref: "b/latest/file", Dest: ".tag/file"},
			get.Order{Method: get.Append, Ref: "b/2023-11-15-221320", Dest: "a/copy"},
			get.Order{Method: get.Append, Ref: "b/latest/d001", Dest: "a/copy"},
			get.Order{Method: get.Pick, Ref: "b/latest", Dest: "picked"},
			get.Order{Method: get.ForcePick, Ref: "b/latest", Dest: ".tag/first"},
			get.Order{Method: get.Replace, Ref: "b/2023-11-14-221320", Dest: "/b"},
			get.Order{Method: get.Unnamed, Ref: "git:b"},
		))
		check(t, err)
		refs := refsOf(t, dst)
		for name, want := range map[string]pack.ID{"refs/heads/b": saves[0], "refs/heads/old": saves[1]} {
			if refs[name] != want {
				t.Errorf("%s is at %v, want %v", name, refs[name], want)
			}
		}
		if len(res.Outcomes) != 11 || len(res.Moves) != 6 || len(refs) != 6 || res.Objects == 0 {
			t.Errorf("%d outcomes, %d moves, %v, %d objects", len(res.Outcomes), len(res.Moves), refs, res.Objects)
		}
		var log []string
		check(t, repo.WalkCommits(ctx, dst, refs["refs/heads/a/copy"], func(_ pack.ID, c *repo.Commit) error {
			log = append(log, fmt.Sprint(c.Author.When.Unix(), " ", c.Committer.When.Unix(), " ", c.Committer.Who, " ", c.Message))
			return nil
		}))
		want := "1800000000 1800000000 C D <c@d> from a tree\n" + "1700086400 1800000000 C D <c@d> m\n" + "1700000000 1800000000 C D <c@d> m\n"
		if strings.Join(log, "") != want {
			t.Errorf("the copy has\n%s, want\n%s", strings.Join(log, ""), want)
		}
		whole(t, dst)
		again, err := get.Run(ctx, options(from, dst, get.Order{Method: get.FastForward, Ref: "b/latest", Dest: "old"}))
		check(t, err)
		if again.Objects != 0 {
			t.Errorf("%d objects were copied again", again.Objects)
		}
	}
}

// What cannot be is refused before anything is copied.
func TestRefused(t *testing.T) {
	src, saves := source(t)
	dst := open(t)
	_, err := get.Run(ctx, options(src, dst, get.Order{Method: get.FastForward, Ref: "b/2023-11-15-221320"}, get.Order{Method: get.NewTag, Ref: ".tag/first"}))
	check(t, err)
	for _, tt := range []struct {
		order get.Order
		want  string
	}{
		{get.Order{Method: get.Pick, Ref: "b"}, "many commits"},
		{get.Order{Method: get.Pick, Ref: "b/latest/d001"}, "no commit"},
		{get.Order{Method: get.FastForward, Ref: "b/latest/file"}, "no commit"},
		{get.Order{Method: get.FastForward, Ref: "b/2023-11-14-221320"}, "no fast-forward"},
		{get.Order{Method: get.FastForward, Ref: "b", Dest: ".tag/x"}, "not a branch"},
		{get.Order{Method: get.FastForward, Ref: "b", Dest: "b/latest"}, "below refs/heads/b"},
		{get.Order{Method: get.Append, Ref: "b/latest/file", Dest: "x"}, "no tree"},
		{get.Order{Method: get.Append, Ref: "b/latest/d001"}, "not clear where to"},
		{get.Order{Method: get.NewTag, Ref: "b"}, "no tag"},
		{get.Order{Method: get.NewTag, Ref: ".tag/first"}, "tag exists"},
		{get.Order{Method: get.Pick, Ref: "b/latest", Dest: ".tag/first"}, "tag exists"},
		{get.Order{Method: get.Replace, Ref: "b/latest"}, "not clear where to"},
		{get.Order{Method: get.Replace, Ref: "b/latest/d001", Dest: "b"}, "only a commit"},
		{get.Order{Method: get.FastForward, Ref: "/", Dest: "b"}, "whole repository"},
		{get.Order{Method: get.FastForward, Ref: "git:b", Dest: "b"}, "only --unnamed"},
		{get.Order{Method: get.FastForward, Ref: "b", Dest: "a..b"}, "a..b"},
		{get.Order{Method: get.FastForward, Ref: "b", IgnoreMissing: true}, "only --unnamed"},
		{get.Order{Method: get.FastForward, Ref: "nosuch"}, "no such name"},
		{get.Order{Method: get.Unnamed, Ref: "git:nosuch"}, "no such commit"},
	} {
		_, err := get.Run(ctx, options(src, dst, tt.order))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %q", &tt.order, err, tt.want)
		}
	}
	if refs := refsOf(t, dst); len(refs) != 2 || refs["refs/heads/b"] != saves[1] {
		t.Errorf("refs moved: %v", refs)
	}
}

// failing fails at the k-th step that writes.
type failing struct {
	*repo.Packs
	left int
}

var errStop = errors.New("stop")

func (f *failing) step() error {
	if f.left--; f.left < 0 {
		return errStop
	}
	return nil
}

func (f *failing) Begin(ctx context.Context) (repo.Session, error) {
	s, err := f.Packs.Begin(ctx)
	return &failingSession{s, f}, err
}

func (f *failing) SetRef(ctx context.Context, m repo.Move) (pack.ID, error) {
	if err := f.step(); err != nil {
		return pack.ID{}, err
	}
	return f.Packs.SetRef(ctx, m)
}

type failingSession struct {
	repo.Session
	f *failing
}

func (s *failingSession) Add(ctx context.Context, c repo.Class, e []pack.Entry) error {
	if err := s.f.step(); err != nil {
		return err
	}
	return s.Session.Add(ctx, c, e)
}

func (s *failingSession) Commit(ctx context.Context) error {
	if err := s.f.step(); err != nil {
		return err
	}
	return s.Session.Commit(ctx)
}

// Cut off anywhere, a copy leaves a repository in order with no ref that is not complete,
// and the next run completes it.
func TestInterrupted(t *testing.T) {
	src, saves := source(t)
	orders := []get.Order{{Method: get.FastForward, Ref: "b"}, {Method: get.NewTag, Ref: "b/latest/d007", Dest: ".tag/seven"}}
	step := 130
	if testing.Short() {
		step = 400
	}
	for k := 0; ; k += step {
		dst := open(t)
		_, err := get.Run(ctx, options(src, &failing{dst, k}, orders...))
		if err == nil {
			if k < 100 {
				t.Errorf("only %d steps", k)
			}
			break
		}
		if !errors.Is(err, errStop) {
			t.Fatal(err)
		}
		if refs := refsOf(t, dst); len(refs) > 1 {
			t.Errorf("after %d steps: %v", k, refs)
		}
		_, err = get.Run(ctx, options(src, dst, orders...))
		check(t, err)
		if refs := refsOf(t, dst); refs["refs/heads/b"] != saves[2] || len(refs) != 2 {
			t.Errorf("after %d steps and again: %v", k, refs)
		}
		whole(t, dst)
	}
}

// Damage does not spread, and of what lacks something only whole parts are copied.
func TestDamagedSource(t *testing.T) {
	src := open(t)
	good := repotest.Entry(pack.Blob, []byte("good"))
	lost := repotest.Entry(pack.Blob, []byte("lost"))
	inner := treeOf(repo.TreeEntry{Mode: repo.ModeFile, Name: "lost", ID: lost.ID}, repo.TreeEntry{Mode: repo.ModeFile, Name: "good", ID: good.ID})
	fine := treeOf(repo.TreeEntry{Mode: repo.ModeFile, Name: "good", ID: good.ID})
	root := treeOf(repo.TreeEntry{Mode: repo.ModeDir, Name: "inner", ID: inner.ID}, repo.TreeEntry{Mode: repo.ModeDir, Name: "fine", ID: fine.ID})
	commit := commitOf(root.ID, 1700000000)
	put(t, src, lost)
	packs, err := src.PackList(ctx)
	check(t, err)
	put(t, src, good, inner, fine, root, commit)
	setRef(t, src, "refs/heads/b", commit.ID)
	name := filepath.Join(src.Path(), "objects/pack/pack-"+packs[0].Name.String())
	for _, damage := range []func(){
		func() {
			b, err := os.ReadFile(name + ".pack")
			check(t, err)
			b[16] ^= 0x55
			check(t, os.Chmod(name+".pack", 0o644))
			check(t, os.WriteFile(name+".pack", b, 0o644))
		},
		func() {
			check(t, os.Remove(name+".pack"))
			check(t, os.Remove(name+".idx"))
		},
	} {
		damage()
		p, err := repo.OpenDir(ctx, src.Path(), repo.DirOptions{})
		check(t, err)
		for _, from := range []repo.Repo{p, plain{p}} {
			dst := open(t)
			_, err = get.Run(ctx, options(from, dst, get.Order{Method: get.FastForward, Ref: "b"}))
			if !errors.As(err, new(*pack.CorruptError)) && !errors.As(err, new(*repo.MissingError)) {
				t.Errorf("damage was met with %v", err)
			}
			if refs := refsOf(t, dst); len(refs) > 0 {
				t.Errorf("a ref was made: %v", refs)
			}
		}
		check(t, p.Close())
	}
	p, err := repo.OpenDir(ctx, src.Path(), repo.DirOptions{})
	check(t, err)
	defer p.Close()
	for _, from := range []repo.Repo{p, plain{p}} {
		dst := open(t)
		res, err := get.Run(ctx, options(from, dst, get.Order{Method: get.Unnamed, Ref: "b", IgnoreMissing: true}))
		check(t, err)
		gone, err := dst.Missing(ctx, nil, []pack.ID{good.ID, fine.ID, lost.ID, inner.ID, root.ID, commit.ID})
		check(t, err)
		if res.Skipped != 1 || len(gone) != 4 || gone[0] != lost.ID {
			t.Errorf("%d skipped, %d missing", res.Skipped, len(gone))
		}
	}
}
