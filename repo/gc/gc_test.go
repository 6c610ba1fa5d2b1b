package gc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/gc"
	"github.com/kedgebackup/kedge/repo/prune"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// world is a repository in which days go by.
type world struct {
	t     testing.TB
	ctx   context.Context
	dir   string
	p     *repo.Packs
	now   time.Time
	rnd   *rand.Rand
	files [][]byte
	saved map[string][]pack.ID // the objects of each save, by its message
}

func newWorld(t testing.TB, files int) *world {
	w := &world{t: t, ctx: context.Background(), dir: filepath.Join(t.TempDir(), "r")}
	w.now = time.Date(2026, 1, 1, 22, 0, 0, 0, time.UTC)
	w.rnd = rand.New(rand.NewPCG(1, 2))
	w.saved = make(map[string][]pack.ID)
	for range files {
		w.files = append(w.files, w.bytes())
	}
	if _, err := repo.InitDir(w.ctx, w.dir, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	if w.p != nil {
		w.p.Close()
	}
	var err error
	w.p, err = repo.OpenDir(w.ctx, w.dir, repo.DirOptions{Clock: func() time.Time { return w.now }})
	w.check(err)
	w.t.Cleanup(func() { w.p.Close() })
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) bytes() []byte {
	b := make([]byte, 200+w.rnd.IntN(2000))
	for i := range b {
		b[i] = byte(w.rnd.Uint32())
	}
	return b
}

func (w *world) tip(ref string) (id pack.ID) {
	w.t.Helper()
	refs, err := w.p.Refs(w.ctx, ref)
	w.check(err)
	for _, r := range refs {
		if r.Name == ref {
			id = r.ID
		}
	}
	return id
}

// store adds a save of the files as they are on top of a ref, and returns its commit.
func (w *world) store(ref, message string) (pack.ID, pack.ID) {
	w.t.Helper()
	var data, trees []pack.Entry
	var entries []repo.TreeEntry
	var ids []pack.ID
	add := func(list *[]pack.Entry, e pack.Entry) pack.ID {
		*list = append(*list, e)
		ids = append(ids, e.ID)
		return e.ID
	}
	const perDir = 8
	for d := 0; d*perDir < len(w.files); d++ {
		var sub []repo.TreeEntry
		meta := add(&trees, repotest.Entry(pack.Blob, fmt.Append(nil, "meta of ", d, len(w.files[d*perDir]))))
		sub = append(sub, repo.TreeEntry{Mode: repo.ModeFile, Name: ".bupm", ID: meta})
		for i, f := range w.files[d*perDir : min(len(w.files), (d+1)*perDir)] {
			sub = append(sub, repo.TreeEntry{Mode: repo.ModeFile, Name: fmt.Sprint("f", i), ID: add(&data, repotest.Entry(pack.Blob, f))})
		}
		repo.SortTree(sub)
		id := add(&trees, repotest.Entry(pack.Tree, repo.AppendTree(nil, sub)))
		entries = append(entries, repo.TreeEntry{Mode: repo.ModeDir, Name: fmt.Sprint("d", d), ID: id})
	}
	repo.SortTree(entries)
	root := add(&trees, repotest.Entry(pack.Tree, repo.AppendTree(nil, entries)))
	who := repo.Signature{Who: "A B <a@b>", When: w.now}
	c := repo.Commit{Tree: root, Author: who, Committer: who, Message: message}
	tip := w.tip(ref)
	if !tip.IsZero() {
		c.Parents = []pack.ID{tip}
	}
	commit := repotest.Entry(pack.Commit, c.Append(nil))
	s, err := w.p.Begin(w.ctx)
	w.check(err)
	defer s.Close()
	w.check(s.Add(w.ctx, repo.Data, data))
	w.check(s.Add(w.ctx, repo.Trees, append(trees, commit)))
	w.check(s.Commit(w.ctx))
	w.saved[message] = ids
	w.age()
	return commit.ID, tip
}

// age gives new packs the time of the world.
func (w *world) age() {
	w.t.Helper()
	packs, err := filepath.Glob(filepath.Join(w.dir, "objects/pack/*.pack"))
	w.check(err)
	for _, f := range packs {
		info, err := os.Stat(f)
		w.check(err)
		if time.Since(info.ModTime()) < time.Hour {
			w.check(os.Chtimes(f, w.now, w.now))
		}
	}
}

// save makes a night's save: some files changed.
func (w *world) save(name string) {
	w.t.Helper()
	for range 1 + w.rnd.IntN(4) {
		w.files[w.rnd.IntN(len(w.files))] = w.bytes()
	}
	message := fmt.Sprintf("%s %s\n", name, w.now.Format(time.RFC3339))
	id, tip := w.store("refs/heads/"+name, message)
	_, err := w.p.SetRef(w.ctx, repo.Move{Ref: "refs/heads/" + name, Old: tip, New: id, Reparent: true})
	w.check(err)
}

// prune prunes a name, and returns how many saves were left out.
func (w *world) prune(name string, r prune.Rules) int {
	w.t.Helper()
	plan, err := prune.NewPlan(w.ctx, w.p, name, time.UTC)
	w.check(err)
	r.Apply(plan.Saves, w.now, time.UTC)
	u, err := w.p.Upkeep(w.ctx)
	w.check(err)
	defer u.Close()
	tip, err := plan.Apply(w.ctx, w.p, u, "test")
	w.check(err)
	w.age()
	if got := w.tip("refs/heads/" + name); got != tip {
		w.t.Fatalf("%s is at %v, not %v", name, got, tip)
	}
	return plan.Removed()
}

func (w *world) gc(o gc.Options) gc.Result {
	w.t.Helper()
	r, err := gc.Run(w.ctx, w.p, o)
	if err != nil {
		w.t.Fatalf("%v on %s", err, w.now)
	}
	w.age()
	return r
}

// verify reads everything that the saves of a name have, and returns their messages.
func (w *world) verify(name string) (messages []string) {
	w.t.Helper()
	err := repo.WalkCommits(w.ctx, w.p, w.tip("refs/heads/"+name), func(id pack.ID, c *repo.Commit) error {
		messages = append(messages, c.Message)
		return repotest.Check(w.ctx, w.p, append(slices.Clone(w.saved[c.Message]), id))
	})
	w.check(err)
	return messages
}

func (w *world) fsck() {
	w.t.Helper()
	out, err := exec.Command("git", "-C", w.dir, "fsck", "--full", "--strict", "--no-dangling").CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "notice: HEAD points to an unborn branch") {
			w.t.Errorf("git fsck: %s", line)
		}
	}
	w.check(err)
	_, err = repo.Check(w.ctx, w.p, repo.CheckOptions{}, func(f repo.Finding) {
		if f.Damage() && f.Kind != repo.BadMeta && f.Kind != repo.Affected { // there is none in .bupm here
			w.t.Errorf("%s: %v", w.now, f)
		}
	})
	w.check(err)
}

// A year of nights: pruned every week, garbage collected every third day. On every day all
// saves that are kept are whole, and the repository does not grow without end.
func TestYear(t *testing.T) {
	days := 66
	if os.Getenv("KEDGE_SWEEP") == "full" {
		days = 365
	}
	w := newWorld(t, 64)
	rules := prune.Rules{Daily: 7, Weekly: 4, Monthly: 12}
	removed, retired, deleted, merged := 0, 0, 0, 0
	for day := range days {
		w.now = w.now.Add(24 * time.Hour)
		w.save("etc")
		w.save("home/user")
		if day%7 == 6 {
			removed += w.prune("etc", rules) + w.prune("home/user", rules)
		}
		if day%3 == 2 {
			r := w.gc(gc.Options{Yes: true})
			retired += r.Retired
			deleted += r.Deleted
			merged += r.Rewritten
		}
		if day%10 == 9 {
			w.verify("etc")
			w.verify("home/user")
			w.fsck()
		}
		if day%50 == 49 {
			w.open()
		}
	}
	if removed == 0 || retired == 0 || deleted == 0 || merged == 0 {
		t.Errorf("removed %d saves, rewrote %d packs, retired %d, deleted %d: something never happened", removed, merged, retired, deleted)
	}
	packs, err := w.p.PackList(w.ctx)
	w.check(err)
	if len(packs) > 60 {
		t.Errorf("%d packs are left", len(packs))
	}
	t.Logf("%d saves removed, %d packs rewritten, %d retired, %d deleted, %d left", removed, merged, retired, deleted, len(packs))
}

// What was pruned comes back for 14 days, with what was saved since on top, and no longer.
func TestUndo(t *testing.T) {
	for _, c := range []struct {
		days int
		ok   bool
	}{{1, true}, {13, true}, {20, false}} {
		t.Run(fmt.Sprint(c.days), func(t *testing.T) {
			w := newWorld(t, 16)
			for range 10 {
				w.now = w.now.Add(24 * time.Hour)
				w.save("etc")
			}
			before := w.verify("etc")
			if n := w.prune("etc", prune.Rules{Last: 3}); n != 7 {
				t.Fatalf("%d were left out", n)
			}
			for range c.days {
				w.now = w.now.Add(24 * time.Hour)
				w.save("etc")
				w.gc(gc.Options{Yes: true})
			}
			since := w.verify("etc")
			u, err := w.p.Upkeep(w.ctx)
			w.check(err)
			defer u.Close()
			n, err := prune.Undo(w.ctx, w.p, u, "etc", "test")
			if !c.ok {
				if !errors.Is(err, prune.ErrNothingToUndo) {
					t.Fatalf("%d came back, %v", n, err)
				}
				return
			}
			w.check(err)
			want := append(slices.Clone(since[:c.days]), before...)
			if got := w.verify("etc"); n != 7 || !slices.Equal(got, want) {
				t.Errorf("%d came back; now there are\n%v, want\n%v", n, got, want)
			}
			w.fsck()
		})
	}
}

// Tags follow the saves that they point to, and come back with an undo.
func TestTagsFollow(t *testing.T) {
	w := newWorld(t, 8)
	for range 5 {
		w.now = w.now.Add(24 * time.Hour)
		w.save("etc")
	}
	tip := w.tip("refs/heads/etc")
	_, err := w.p.SetRef(w.ctx, repo.Move{Ref: "refs/tags/good", New: tip})
	w.check(err)
	w.prune("etc", prune.Rules{Last: 2})
	if now := w.tip("refs/tags/good"); now == tip || now != w.tip("refs/heads/etc") {
		t.Errorf("the tag is at %v", now)
	}
	u, err := w.p.Upkeep(w.ctx)
	w.check(err)
	defer u.Close()
	if _, err := prune.Undo(w.ctx, w.p, u, "etc", "test"); err != nil {
		t.Fatal(err)
	}
	if now := w.tip("refs/tags/good"); now != tip {
		t.Errorf("after the undo the tag is at %v", now)
	}
}

// The estimate of a plan is what a collection frees.
func TestFreed(t *testing.T) {
	w := newWorld(t, 64)
	for range 12 {
		w.now = w.now.Add(24 * time.Hour)
		w.save("etc")
	}
	plan, err := prune.NewPlan(w.ctx, w.p, "etc", time.UTC)
	w.check(err)
	(&prune.Rules{Last: 1}).Apply(plan.Saves, w.now, time.UTC)
	estimate, err := prune.Freed(w.ctx, w.p, []*prune.Plan{plan})
	w.check(err)
	before, err := w.p.PackBytes(w.ctx)
	w.check(err)
	w.prune("etc", prune.Rules{Last: 1})
	w.now = w.now.Add(15 * 24 * time.Hour)
	w.gc(gc.Options{Yes: true})
	after, err := w.p.PackBytes(w.ctx)
	w.check(err)
	if freed := before - after; freed < estimate*9/10 || freed > estimate*11/10+4096 {
		t.Errorf("%d bytes were freed, the estimate was %d", freed, estimate)
	}
}

// A save that is under way keeps everything where it is.
func TestLiveSession(t *testing.T) {
	w := newWorld(t, 16)
	w.save("etc")
	w.save("etc")
	s, err := w.p.Begin(w.ctx)
	w.check(err)
	_, err = w.p.SetRef(w.ctx, repo.Move{Ref: "refs/heads/etc", Old: w.tip("refs/heads/etc")})
	w.check(err)
	w.now = w.now.Add(30 * 24 * time.Hour)
	if _, err := gc.Run(w.ctx, w.p, gc.Options{Yes: true}); !errors.As(err, new(*gc.BusyError)) {
		t.Fatalf("with a live session: %v", err)
	}
	w.check(s.Close())
	if r := w.gc(gc.Options{Yes: true}); r.Retired == 0 {
		t.Error("nothing was retired")
	}
}

// What somebody who asked nobody relied on comes back from the trash, and can be read before.
func TestRescue(t *testing.T) {
	w := newWorld(t, 16)
	w.save("etc")
	tip := w.tip("refs/heads/etc")
	message := w.verify("etc")[0]
	_, err := w.p.SetRef(w.ctx, repo.Move{Ref: "refs/heads/etc", Old: tip})
	w.check(err)
	w.now = w.now.Add(30 * 24 * time.Hour)
	if r := w.gc(gc.Options{Yes: true}); r.Retired == 0 || r.Waiting == 0 {
		t.Fatalf("%+v", r)
	}
	if lacks, err := w.p.Missing(w.ctx, nil, []pack.ID{tip}); err != nil || len(lacks) != 1 {
		t.Fatalf("what is in the trash is called present: %v", err)
	}
	// git knows nothing of it.
	w.check(os.WriteFile(filepath.Join(w.dir, "refs/heads/etc"), []byte(tip.String()+"\n"), 0o644))
	w.verify("etc")
	trashed := 0
	_, err = repo.Check(w.ctx, w.p, repo.CheckOptions{}, func(f repo.Finding) {
		if f.Kind == repo.Missing && strings.Contains(f.Reason, "kedge gc brings it back") {
			trashed++
		}
	})
	w.check(err)
	if want := len(w.saved[message]) + 1; trashed != want {
		t.Errorf("the check names %d objects in the trash, want %d", trashed, want)
	}
	w.now = w.now.Add(24 * time.Hour)
	if r := w.gc(gc.Options{Yes: true}); r.Rescued != len(w.saved[message])+1 {
		t.Fatalf("%d objects were brought back, want %d", r.Rescued, len(w.saved[message])+1)
	}
	for range 3 {
		w.now = w.now.Add(96 * time.Hour)
		w.gc(gc.Options{Yes: true})
	}
	w.verify("etc")
	w.fsck()
	if left, err := w.p.Trash(w.ctx); err != nil || len(left) != 0 {
		t.Errorf("in the trash: %v, %v", left, err)
	}
}

// A save that was interrupted goes on with the packs that it published: they stay for 14 days.
func TestUnfinished(t *testing.T) {
	w := newWorld(t, 16)
	w.save("etc")
	w.files[0] = w.bytes()
	id, _ := w.store("refs/heads/etc", "cut off\n")
	for _, c := range []struct {
		days  int
		there bool
	}{{5, true}, {20, false}} {
		w.now = w.now.Add(time.Duration(c.days) * 24 * time.Hour)
		w.gc(gc.Options{Yes: true})
		lacks, err := w.p.Missing(w.ctx, nil, []pack.ID{id})
		if err != nil || (len(lacks) == 0) != c.there {
			t.Errorf("after %d days more it is there: %v, %v", c.days, len(lacks) == 0, err)
		}
	}
}

// A save that publishes its packs and ends while a collection marks does not fail it.
func TestSaveWhileMarking(t *testing.T) {
	w := newWorld(t, 16)
	w.save("etc")
	saved := false
	w.gc(gc.Options{Yes: true, Progress: func(gc.Result) {
		if !saved {
			saved = true
			w.save("etc")
		}
	}})
	if n := len(w.verify("etc")); n != 2 {
		t.Errorf("%d saves, want 2", n)
	}
	w.fsck()
}

func TestNow(t *testing.T) {
	w := newWorld(t, 64)
	for range 8 {
		w.now = w.now.Add(24 * time.Hour)
		w.save("etc")
	}
	w.prune("etc", prune.Rules{Last: 1})
	if _, err := gc.Run(w.ctx, w.p, gc.Options{Now: true}); !errors.As(err, new(*gc.RefusedError)) {
		t.Fatalf("unconfirmed: %v", err)
	}
	before, _ := w.p.PackBytes(w.ctx)
	r := w.gc(gc.Options{Now: true, Yes: true})
	after, _ := w.p.PackBytes(w.ctx)
	if r.Deleted == 0 || len(r.Lost) != 1 || after >= before || r.Waiting != 0 {
		t.Errorf("%+v; %d bytes, before %d", r, after, before)
	}
	w.verify("etc")
	w.fsck()
	u, err := w.p.Upkeep(w.ctx)
	w.check(err)
	defer u.Close()
	if _, err := prune.Undo(w.ctx, w.p, u, "etc", "test"); !errors.Is(err, prune.ErrCollected) {
		t.Errorf("undo after all is gone: %v", err)
	}
}

// It refuses to work on what it cannot trust.
func TestRefusals(t *testing.T) {
	refused := func(t *testing.T, w *world, o gc.Options, what string) {
		t.Helper()
		_, err := gc.Run(w.ctx, w.p, o)
		if !errors.As(err, new(*gc.RefusedError)) || !strings.Contains(err.Error(), what) {
			t.Errorf("want a refusal that says %q, got %v", what, err)
		}
	}
	t.Run("clock", func(t *testing.T) {
		w := newWorld(t, 4)
		w.save("etc")
		w.now = w.now.Add(-48 * time.Hour)
		refused(t, w, gc.Options{}, "the clock says")
	})
	t.Run("missing", func(t *testing.T) {
		w := newWorld(t, 4)
		w.save("etc")
		w.save("etc")
		for _, f := range must(filepath.Glob(w.dir + "/objects/pack/*"))[:2] {
			w.check(os.Remove(f))
		}
		w.open()
		refused(t, w, gc.Options{}, "refs/heads/etc reaches")
	})
	t.Run("shrunk", func(t *testing.T) {
		w := newWorld(t, 32)
		w.save("etc")
		w.gc(gc.Options{})
		w.save("small")
		_, err := w.p.SetRef(w.ctx, repo.Move{Ref: "refs/heads/etc", Old: w.tip("refs/heads/etc")})
		w.check(err)
		_, err = w.p.SetRef(w.ctx, repo.Move{Ref: "refs/heads/small", Old: w.tip("refs/heads/small")})
		w.check(err)
		w.now = w.now.Add(30 * 24 * time.Hour)
		refused(t, w, gc.Options{}, "live")
		w.gc(gc.Options{Yes: true})
	})
	t.Run("damaged", func(t *testing.T) {
		w := newWorld(t, 8)
		w.save("etc")
		for range 40 { // packs enough to be merged
			w.save("etc")
		}
		for _, f := range must(filepath.Glob(w.dir + "/objects/pack/*.pack")) {
			b := must(os.ReadFile(f))
			b[40] ^= 1
			w.check(os.Chmod(f, 0o644))
			w.check(os.WriteFile(f, b, 0o644))
		}
		w.open()
		before := must(filepath.Glob(w.dir + "/objects/pack/*.pack"))
		if _, err := gc.Run(w.ctx, w.p, gc.Options{}); err == nil {
			t.Error("damaged packs were collected")
		}
		after := must(filepath.Glob(w.dir + "/objects/pack/*.pack"))
		for _, f := range before {
			if !slices.Contains(after, f) {
				t.Errorf("%s was taken away", f)
			}
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A pack with a .keep file stays as it is.
func TestKeep(t *testing.T) {
	w := newWorld(t, 8)
	w.save("etc")
	for _, f := range must(filepath.Glob(w.dir + "/objects/pack/*.pack")) {
		w.check(os.WriteFile(strings.TrimSuffix(f, ".pack")+".keep", nil, 0o644))
	}
	tip := w.tip("refs/heads/etc")
	_, err := w.p.SetRef(w.ctx, repo.Move{Ref: "refs/heads/etc", Old: tip})
	w.check(err)
	w.now = w.now.Add(60 * 24 * time.Hour)
	if r := w.gc(gc.Options{Yes: true}); r.Retired != 0 {
		t.Errorf("%+v", r)
	}
	if lacks, err := w.p.Missing(w.ctx, nil, []pack.ID{tip}); err != nil || len(lacks) != 0 {
		t.Errorf("%v, %v", lacks, err)
	}
}
