package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/crash"
	"github.com/kedgebackup/kedge/pack"
)

const testRef = "refs/heads/main"

// save stores s and moves testRef to it, as a command would do that may have
// been run before. It returns where the ref is then.
func (s *saved) save(ctx context.Context, p *Packs) (pack.ID, error) {
	if err := s.store(ctx, p); err != nil {
		return pack.ID{}, err
	}
	var c Commit
	if _, err := p.commit(ctx, s.commit, &c); err != nil {
		return pack.ID{}, err
	}
	m := Move{Ref: testRef, New: s.commit, Reparent: true}
	if len(c.Parents) > 0 {
		m.Old = c.Parents[0]
	}
	return p.SetRef(ctx, m)
}

// closure reads everything that the refs of a repository reach (I2) and
// returns the trees of all commits.
func closure(ctx context.Context, p *Packs) (trees map[pack.ID]bool, err error) {
	refs, err := p.Refs(ctx, "")
	if err != nil {
		return nil, err
	}
	trees = make(map[pack.ID]bool)
	seen := make(map[pack.ID]bool)
	var todo []pack.ID
	for _, r := range refs {
		todo = append(todo, r.ID)
	}
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[id] {
			continue
		}
		seen[id] = true
		err := p.Get(ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
			if t == pack.Commit {
				c, err := ParseCommit(body)
				if err != nil {
					return err
				}
				trees[c.Tree] = true
			}
			var err error
			todo, err = children(todo, t, body)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return trees, nil
}

// checkState opens what a power cut left and checks I1, I2, I4 and I5: all that
// was promised is there, refs reach nothing that is missing, and the commands
// that were under way succeed when they are run again.
func checkState(ctx context.Context, dir string, promised []pack.ID, again []saved) error {
	p, err := OpenDir(ctx, dir, DirOptions{FS: noSync})
	if err != nil {
		return err
	}
	defer p.Close()
	trees, err := closure(ctx, p)
	if err != nil {
		return fmt.Errorf("after the cut: %w", err)
	}
	for _, tree := range promised {
		if !trees[tree] {
			return fmt.Errorf("the save of tree %v was promised and is gone", tree)
		}
	}
	if err := p.Receipts(ctx, func(Receipt) error { return nil }); err != nil {
		return err
	}
	for _, s := range again {
		if _, err := s.save(ctx, p); err != nil {
			return fmt.Errorf("run again: %w", err)
		}
	}
	if trees, err = closure(ctx, p); err != nil {
		return fmt.Errorf("after the second run: %w", err)
	}
	for _, s := range again {
		if !trees[s.tree] {
			return errors.New("the save is not there after the second run")
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, "kedge/tmp/*"))
	locks, _ := filepath.Glob(filepath.Join(dir, "refs/heads/*.lock"))
	if len(left)+len(locks) > 0 {
		return fmt.Errorf("left behind: %q %q", left, locks)
	}
	return nil
}

// crashSeeds is how many states are looked at for each cut and share of
// survival. KEDGE_TEST_SEEDS=100 makes a night of it.
func crashSeeds() int {
	n, err := strconv.Atoi(os.Getenv("KEDGE_TEST_SEEDS"))
	if err != nil {
		return 1
	}
	return n
}

// TestPowerCutSave cuts the power at every moment of two saves on top of an
// older one.
func TestPowerCutSave(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	base := makeSave("base", 3)
	if _, err := base.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	p.Close()
	rec, err := crash.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	p = openRepo(t, dir, DirOptions{FS: &fsx.FS{Intercept: rec.Intercept}})
	one := makeSave("one", 40, base.commit)
	two := makeSave("two", 5, one.commit)
	var acked []int
	for _, s := range []saved{one, two} {
		if _, err := s.save(ctx, p); err != nil {
			t.Fatal(err)
		}
		acked = append(acked, rec.Len())
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	gits := 0
	states, err := rec.Sweep(t.TempDir(), crashSeeds(), func(cut crash.Cut, dir string) error {
		promised := []pack.ID{base.tree}
		if cut.K >= acked[0] {
			promised = append(promised, one.tree)
		}
		if cut.K >= acked[1] {
			promised = append(promised, two.tree)
		}
		if err := checkState(ctx, dir, promised, []saved{one, two}); err != nil {
			return err
		}
		if gits++; gits%97 == 0 {
			if out, err := tryGit(dir, "fsck", "--full", "--strict"); err != nil {
				return fmt.Errorf("git fsck: %s", out)
			}
		}
		return nil
	})
	t.Log(states, "states")
	if err != nil {
		t.Fatal(err)
	}
}

// TestPowerCutInit cuts the power at every moment of init, of an init that was
// cut before, and of the first save.
func TestPowerCutInit(t *testing.T) {
	ctx := context.Background()
	root := t.TempDir()
	rec, err := crash.New(root)
	if err != nil {
		t.Fatal(err)
	}
	fs := &fsx.FS{Intercept: rec.Intercept}
	if _, err := InitDir(ctx, filepath.Join(root, "a/r"), InitOptions{FS: fs, Chunker: "rabin:14"}); err != nil {
		t.Fatal(err)
	}
	made := rec.Len()
	first := makeSave("first", 3)
	p := openRepo(t, filepath.Join(root, "a/r"), DirOptions{FS: fs})
	if _, err := first.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	acked := rec.Len()
	p.Close()
	states, err := rec.Sweep(t.TempDir(), crashSeeds(), func(cut crash.Cut, root string) error {
		dir := filepath.Join(root, "a/r")
		p, err := OpenDir(ctx, dir, DirOptions{FS: noSync})
		if err == nil {
			p.Close()
		} else if cut.K >= made {
			return fmt.Errorf("the repository is gone: %w", err)
		} else if nf := new(NotFoundError); !errors.As(err, &nf) {
			return err
		}
		c, err := InitDir(ctx, dir, InitOptions{FS: noSync, Chunker: "rabin:14"})
		if err != nil {
			return fmt.Errorf("init again: %w", err)
		}
		if c.Chunker != "rabin:14" || len(c.ID) != 31 || c.Version != 1 {
			return fmt.Errorf("config is %+v", c)
		}
		var promised []pack.ID
		if cut.K >= acked {
			promised = append(promised, first.tree)
		}
		return checkState(ctx, dir, promised, []saved{first})
	})
	t.Log(states, "states")
	if err != nil {
		t.Fatal(err)
	}
}

// TestPowerCutDelete cuts the power while a ref goes that is loose and packed,
// or only packed: it stays where it was, or is gone, and never comes back at an
// older place.
func TestPowerCutDelete(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"loose", "packed", "both"} {
		t.Run(name, func(t *testing.T) {
			p, dir := newRepo(t, InitOptions{})
			one := makeSave("one", 3)
			two := makeSave("two", 3, one.commit)
			if _, err := one.save(ctx, p); err != nil {
				t.Fatal(err)
			}
			if name == "both" {
				git(t, dir, "pack-refs", "--all")
			}
			if _, err := two.save(ctx, p); err != nil {
				t.Fatal(err)
			}
			if name == "packed" {
				git(t, dir, "pack-refs", "--all")
			}
			p.Close()
			rec, err := crash.New(dir)
			if err != nil {
				t.Fatal(err)
			}
			p = openRepo(t, dir, DirOptions{FS: &fsx.FS{Intercept: rec.Intercept}})
			if _, err := p.SetRef(ctx, Move{Ref: testRef, Old: two.commit}); err != nil {
				t.Fatal(err)
			}
			acked := rec.Len()
			_, err = rec.Sweep(t.TempDir(), 2*crashSeeds(), func(cut crash.Cut, dir string) error {
				p, err := OpenDir(ctx, dir, DirOptions{FS: noSync})
				if err != nil {
					return err
				}
				defer p.Close()
				at, err := p.dir.ref(testRef)
				if err != nil {
					return err
				}
				if !at.IsZero() && (at != two.commit || cut.K >= acked) {
					return fmt.Errorf("the ref is at %v", at)
				}
				_, err = p.SetRef(ctx, Move{Ref: testRef, Old: two.commit})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPowerCutConfig cuts the power while the config changes.
func TestPowerCutConfig(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	before := p.Config()
	p.Close()
	rec, err := crash.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	p = openRepo(t, dir, DirOptions{FS: &fsx.FS{Intercept: rec.Intercept}})
	if err := p.AllowNames(ctx, []string{".git"}); err != nil {
		t.Fatal(err)
	}
	acked := rec.Len()
	_, err = rec.Sweep(t.TempDir(), crashSeeds(), func(cut crash.Cut, dir string) error {
		p, err := OpenDir(ctx, dir, DirOptions{FS: noSync})
		if err != nil {
			return err
		}
		defer p.Close()
		if p.Config() != before {
			return fmt.Errorf("config is %+v", p.Config())
		}
		text, err := os.ReadFile(filepath.Join(dir, "config"))
		if err != nil {
			return err
		}
		raw, err := decodeConfig(text)
		if err != nil {
			return err
		}
		if has := lastOption(raw, "fsck", "", "hasDotgit") != ""; cut.K >= acked && !has {
			return errors.New("the new option is gone")
		}
		return p.AllowNames(ctx, []string{".git"})
	})
	if err != nil {
		t.Fatal(err)
	}
}
