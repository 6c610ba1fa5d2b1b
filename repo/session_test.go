package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
	"github.com/kedgebackup/kedge/pack"
)

// A pack is on its way to the disk while it is written.
var _ pack.Starter = (*dirPending)(nil)

// small makes packs of few objects, so that a session needs many.
func small(p *Packs, objects int, size int64) {
	p.config.PackObjects, p.config.PackSizeLimit = objects, size
}

// TestRollOver makes a session of many packs. Packs of data are published and
// listed while it goes on; packs of trees never before the data below them.
func TestRollOver(t *testing.T) {
	ctx := context.Background()
	for _, limits := range []struct {
		objects int
		size    int64
	}{{7, 0}, {0, 600}, {1, 1}, {40, 0}} {
		t.Run(fmt.Sprint(limits), func(t *testing.T) {
			p, dir := newRepo(t, InitOptions{})
			small(p, limits.objects, limits.size)
			sess, err := p.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer sess.Close()
			var all, parents []pack.ID
			watcher := openRepo(t, dir, DirOptions{ReadOnly: true})
			for i := range 6 {
				s := makeSave(fmt.Sprint(i), 20, parents...)
				parents = []pack.ID{s.commit}
				all = append(all, s.all()...)
				for _, class := range []Class{Data, Trees} {
					if err := sess.Add(ctx, class, s.entries[class]); err != nil {
						t.Fatal(err)
					}
				}
				// Who is seen from outside has all below it.
				seen, err := watcher.Missing(ctx, nil, all)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range watcher.table.Load().packs {
					if _, err := watcher.open(f); err != nil {
						t.Fatal(err)
					}
				}
				for _, id := range all {
					if slices.Contains(seen, id) {
						continue
					}
					if err := checkClosure(ctx, watcher, id); err != nil {
						t.Fatalf("%v is called present: %v", id, err)
					}
				}
				if missing, err := sess.Missing(ctx, nil, all); err != nil || len(missing) > 0 {
					t.Fatal(missing, err)
				}
			}
			if err := sess.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			missingOf(t, p, all)
			if _, err := p.SetRef(ctx, Move{Ref: testRef, New: all[len(all)-1]}); err != nil {
				t.Fatal(err)
			}
			fsck(t, dir)
			closed := closedNames(t, p)
			if n := len(p.table.Load().packs); len(closed) != n || n < 2 {
				t.Fatalf("%d of %d packs are closed", len(closed), n)
			}
			if s := sess.(*session); len(s.live) != 0 || len(s.free) > 2 {
				t.Fatalf("%d sets of ids are left, %d to be used again", len(s.live), len(s.free))
			}
		})
	}
}

func checkClosure(ctx context.Context, p *Packs, id pack.ID) error {
	for todo := []pack.ID{id}; len(todo) > 0; {
		at := todo[0]
		todo = todo[1:]
		err := p.Get(ctx, []pack.ID{at}, func(_ int, t pack.Type, body []byte) (err error) {
			todo, err = children(todo, t, body)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// TestDataThatLeans: a chunk tree among the data names an object that stands in
// the pack of trees. The pack of data is not listed before that one is there.
func TestDataThatLeans(t *testing.T) {
	ctx := context.Background()
	p, _ := newRepo(t, InitOptions{})
	small(p, 3, 0)
	sess, err := p.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	shared := entry(pack.Blob, []byte("in both"))
	if err := sess.Add(ctx, Trees, []pack.Entry{shared}); err != nil {
		t.Fatal(err)
	}
	tree := entry(pack.Tree, AppendTree(nil, []TreeEntry{{ModeFile, "0", shared.ID}}))
	top := entry(pack.Tree, AppendTree(nil, []TreeEntry{{ModeDir, "0", tree.ID}}))
	if err := sess.Add(ctx, Data, []pack.Entry{shared, tree, entry(pack.Blob, []byte("1")), entry(pack.Blob, []byte("2")), top}); err != nil {
		t.Fatal(err)
	}
	for range 4 { // roll over twice more
		if err := sess.Add(ctx, Data, []pack.Entry{entry(pack.Blob, []byte(randomName(8)))}); err != nil {
			t.Fatal(err)
		}
	}
	sess.(*session).wait()
	if closed := closedNames(t, p); len(closed) != 0 {
		t.Fatal("closed before what it leans on is there:", closed)
	}
	missingOf(t, p, []pack.ID{tree.ID, top.ID}, tree.ID, top.ID)
	if err := sess.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	missingOf(t, p, []pack.ID{tree.ID, top.ID, shared.ID})
	if closed := closedNames(t, p); len(closed) != 4 {
		t.Fatal(closed)
	}
	sess.Close()
}

// TestSessionFiles: the files of a live session stay, those of a dead one go.
func TestSessionFiles(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	s := makeSave("a", 3)
	if _, err := s.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	list := func(sub string) (names []string) {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	one, err := p.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Add(ctx, Data, makeSave("b", 3).entries[Data]); err != nil {
		t.Fatal(err)
	}
	live := list(dirSessions)
	if len(live) != 1 || !slices.Equal(list(dirTmp), live) {
		t.Fatal(live, list(dirTmp))
	}
	text, err := os.ReadFile(filepath.Join(dir, dirSessions, live[0]))
	if names := strings.Fields(string(text)); err != nil || !slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(packNames(p)))) {
		t.Fatalf("promised: %q, %v; packs: %q", text, err, packNames(p))
	}
	// Packs that others publish meanwhile, and that Missing counts on, join the list.
	other := openRepo(t, dir, DirOptions{})
	c := makeSave("c", 3)
	if err := c.store(ctx, other); err != nil {
		t.Fatal(err)
	}
	if missing, err := one.Missing(ctx, nil, c.all()); err != nil || len(missing) > 0 {
		t.Fatal(missing, err)
	}
	text, err = os.ReadFile(filepath.Join(dir, dirSessions, live[0]))
	if names := strings.Fields(string(text)); err != nil || len(names) != 4 || !slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(packNames(other)))) {
		t.Fatalf("promised: %q, %v; packs: %q", text, err, packNames(other))
	}
	// What dead ones left behind, at any point of their lives.
	for _, name := range []string{dirSessions + "/dead1", dirTmp + "/dead1/000001", dirTmp + "/dead2/000001", dirSessions + "/dead3"} {
		file := filepath.Join(dir, name)
		if err := firstErr(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	reader := openRepo(t, dir, DirOptions{ReadOnly: true})
	if _, err := reader.Begin(ctx); !errors.Is(err, ErrReadOnly) {
		t.Fatal(err)
	}
	if len(list(dirTmp)) != 3 {
		t.Fatal("a reader cleaned up")
	}
	two, err := openRepo(t, dir, DirOptions{}).Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := list(dirTmp); len(got) != 2 || !slices.Contains(got, live[0]) || len(list(dirSessions)) != 2 {
		t.Fatal(got)
	}
	if err := firstErr(two.Close(), two.Close(), one.Commit(ctx), one.Close()); err != nil {
		t.Fatal(err)
	}
	if len(list(dirTmp))+len(list(dirSessions)) != 0 {
		t.Fatal("left behind:", list(dirTmp), list(dirSessions))
	}
	// Who decides what to delete keeps sessions from beginning.
	lock, err := p.dir.lock(ctx, fileMaint, fsx.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	p.dir.patience = 100 * time.Millisecond
	if _, err := p.Begin(ctx); !errors.As(err, new(*BusyError)) {
		t.Fatal(err)
	}
}

// TestSessionBroken: after an error a session refuses everything, and leaves
// nothing behind.
func TestSessionBroken(t *testing.T) {
	ctx := context.Background()
	origin, dir := newRepo(t, InitOptions{})
	origin.Close()
	plan := fault.Plan{Match: func(op fsx.Op) bool { return op.Kind == fsx.KindSync && strings.Contains(op.Path, dirTmp) }}
	p := openRepo(t, dir, DirOptions{FS: &fsx.FS{Intercept: plan.At(1).Intercept}})
	small(p, 2, 0)
	sess, err := p.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := makeSave("a", 9)
	for i := 0; i < len(s.entries[Data]) && err == nil; i++ {
		err = sess.Add(ctx, Data, s.entries[Data][i:i+1])
	}
	if err == nil {
		err = sess.Commit(ctx)
	}
	if err == nil {
		t.Fatal("a failed sync was not noticed")
	}
	if e := sess.Commit(ctx); e == nil {
		t.Fatal("commit after an error")
	}
	if _, e := sess.Missing(ctx, nil, s.blobs); e == nil {
		t.Fatal("Missing after an error")
	}
	if e := sess.Add(ctx, Data, s.entries[Data]); e == nil {
		t.Fatal("Add after an error")
	}
	if err := sess.Close(); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "kedge/tmp/*"))
	packs, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*"))
	if len(left)+len(packs) != 0 {
		t.Fatal(left, packs)
	}
	if _, err := s.save(ctx, openRepo(t, dir, DirOptions{})); err != nil {
		t.Fatal(err)
	}
}

// TestKilled kills a process at its file operations, before and after, and
// checks what is left, as after a power cut in which nothing was lost.
func TestKilled(t *testing.T) {
	ctx := context.Background()
	base, next := makeSave("base", 3), makeSave("next", 20)
	if at := os.Getenv("KEDGE_TEST_KILL_AT"); at != "" {
		k, _ := strconv.Atoi(at)
		kill := &fault.Kill{At: k, After: os.Getenv("KEDGE_TEST_KILL_AFTER") != "", Match: fault.Mutates}
		p, err := OpenDir(ctx, os.Getenv("KEDGE_TEST_DIR"), DirOptions{FS: &fsx.FS{Intercept: kill.Intercept}})
		if err == nil {
			_, err = next.save(ctx, p)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	next = makeSave("next", 20)
	p, origin := newRepo(t, InitOptions{})
	if _, err := base.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	p.Close()
	step := 5
	if testing.Short() {
		step = 17
	}
	killed := 0
	for k := 1; ; k += step {
		dir := copyTree(t, origin)
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "KEDGE_TEST_KILL_AT="+strconv.Itoa(k), "KEDGE_TEST_DIR="+dir)
		if k%2 == 0 {
			cmd.Env = append(cmd.Env, "KEDGE_TEST_KILL_AFTER=1")
		}
		out, err := cmd.CombinedOutput()
		promised := []pack.ID{base.tree}
		if err == nil {
			promised = append(promised, next.tree)
		} else if killed++; err.Error() != "signal: killed" {
			t.Fatalf("%v\n%s", err, out)
		}
		if bad := checkState(ctx, dir, promised, []saved{next}); bad != nil {
			t.Fatalf("killed at operation %d: %v", k, bad)
		}
		os.RemoveAll(filepath.Dir(dir))
		if err == nil {
			break
		}
	}
	t.Log(killed, "processes killed")
	if killed == 0 {
		t.Fatal("no process was killed")
	}
}
