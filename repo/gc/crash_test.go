package gc_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/crash"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/gc"
	"github.com/kedgebackup/kedge/repo/prune"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// nosync makes tests of many states fast: what is durable in them was decided before.
var nosync = &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
	if op.Kind == fsx.KindSync || op.Kind == fsx.KindSyncDir {
		return nil
	}
	return do()
}}

// scene is a repository with a history, of which a part was pruned long ago, and what is in
// the trash is old enough to go.
type scene struct {
	dir  string
	now  time.Time
	want map[string][]pack.ID // by name: what the saves reach that must stay
	tips map[string]pack.ID
}

func newScene(t *testing.T) *scene {
	w := newWorld(t, 9)
	for range 5 {
		w.now = w.now.Add(24 * time.Hour)
		w.save("etc")
		w.save("home")
	}
	w.prune("etc", prune.Rules{Last: 2})
	w.now = w.now.Add(15 * 24 * time.Hour)
	w.gc(gc.Options{Yes: true}) // retires
	w.save("etc")
	w.prune("home", prune.Rules{Last: 2})
	w.now = w.now.Add(15 * 24 * time.Hour) // that can be emptied, and this retired
	s := &scene{dir: w.dir, now: w.now, want: make(map[string][]pack.ID), tips: make(map[string]pack.ID)}
	for _, name := range []string{"etc", "home"} {
		s.tips[name] = w.tip("refs/heads/" + name)
		err := repo.WalkCommits(w.ctx, w.p, s.tips[name], func(id pack.ID, c *repo.Commit) error {
			s.want[name] = append(append(s.want[name], w.saved[c.Message]...), id)
			return nil
		})
		w.check(err)
	}
	w.p.Close()
	return s
}

// open opens a copy of the scene, or what was left of it.
func (s *scene) open(dir string, fs *fsx.FS) (*repo.Packs, error) {
	return repo.OpenDir(context.Background(), dir, repo.DirOptions{FS: fs, Clock: func() time.Time { return s.now }})
}

// check makes sure that all is there that has to be, before and after another collection,
// and that nothing is called present whose children are gone.
func (s *scene) check(dir string) error {
	ctx := context.Background()
	p, err := s.open(dir, nosync)
	if err != nil {
		return err
	}
	defer p.Close()
	for again := range 2 {
		for name, ids := range s.want {
			if err := repotest.Check(ctx, p, ids); err != nil {
				return fmt.Errorf("%s, after %d more collections: %w", name, again, err)
			}
			lacks, err := p.Missing(ctx, nil, []pack.ID{s.tips[name]})
			if err != nil || len(lacks) > 0 {
				return fmt.Errorf("%s is not closed: %v, %w", name, lacks, err)
			}
		}
		if _, err := gc.Run(ctx, p, gc.Options{Yes: true}); err != nil {
			return fmt.Errorf("run again: %w", err)
		}
	}
	return nil
}

func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	packs := must(filepath.Glob(to + "/objects/pack/*"))
	for _, f := range slices.Concat(packs, must(filepath.Glob(to+"/kedge/trash/objects/pack/*"))) {
		info := must(os.Stat(from + f[len(to):]))
		if err := os.Chtimes(f, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// TestPowerCut cuts the power at every fourth moment of a collection, with and without graces,
// or at every one in the sweep.
func TestPowerCut(t *testing.T) {
	s := newScene(t)
	for _, o := range []gc.Options{{Yes: true}, {Yes: true, Now: true}} {
		dir := copyTree(t, s.dir)
		rec, err := crash.New(dir)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.open(dir, &fsx.FS{Intercept: rec.Intercept})
		if err != nil {
			t.Fatal(err)
		}
		r, err := gc.Run(context.Background(), p, o)
		if err != nil || r.Retired == 0 || r.Deleted == 0 || r.Rewritten == 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		p.Close()
		states, err := rec.Sweep(t.TempDir(), 1, func(cut crash.Cut, dir string) error {
			if cut.K%4 != 0 && os.Getenv("KEDGE_SWEEP") != "full" {
				return nil
			}
			return s.check(dir)
		})
		t.Logf("%d states", states)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestFaults lets operations of a collection fail: every 29th, or all in the sweep.
func TestFaults(t *testing.T) {
	s := newScene(t)
	step := 29
	if os.Getenv("KEDGE_SWEEP") == "full" {
		step = 1
	}
	for _, now := range []bool{false, true} {
		for k := step; ; k += step {
			f := fault.Plan{}.At(k)
			collect(s, t, f, now)
			if !f.Fired() {
				t.Logf("%d operations", f.Count())
				break
			}
		}
	}
}

func run(s *scene, dir string, f *fault.Fail, now bool) {
	p, err := s.open(dir, &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		return f.Intercept(op, func() error { return nosync.Intercept(op, do) })
	}})
	if err == nil {
		_, _ = gc.Run(context.Background(), p, gc.Options{Yes: true, Now: now})
		p.Close()
	}
}

func collect(s *scene, t *testing.T, f *fault.Fail, now bool) {
	dir := copyTree(t, s.dir)
	defer os.RemoveAll(filepath.Dir(dir))
	run(s, dir, f, now)
	if err := s.check(dir); err != nil {
		t.Fatalf("after %v: %v", f.Op(), err)
	}
}
