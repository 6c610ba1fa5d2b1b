package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// selected is a repository of one save whose objects are in two packs, and some of them in
// a third one as well.
func selected(t *testing.T, extra func(dir string, s repotest.Save)) (*repo.Packs, repotest.Save) {
	t.Helper()
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "repo")
	if _, err := repo.InitDir(ctx, dir, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := repo.OpenDir(ctx, dir, repo.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := repotest.NewSave("s", 50)
	if err := repotest.Store(ctx, r, s); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if extra != nil {
		extra(dir, s)
	}
	if r, err = repo.OpenDir(ctx, dir, repo.DirOptions{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, s
}

func run(t *testing.T, stdin, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"--git-dir=" + dir}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// twice packs some objects of a save once more.
func twice(t *testing.T) func(dir string, s repotest.Save) {
	return func(dir string, s repotest.Save) {
		list := ""
		for _, id := range s.IDs()[20:] {
			list += id.String() + "\n"
		}
		run(t, list, dir, "pack-objects", "-q", dir+"/objects/pack/pack")
	}
}

// TestSelection puts objects into groups: each is in one, wherever it stands.
func TestSelection(t *testing.T) {
	ctx := context.Background()
	for _, x := range []struct {
		name  string
		extra func(dir string, s repotest.Save)
	}{
		{"two packs", nil},
		{"some of them twice", twice(t)},
		{"with a multi-pack-index", func(dir string, s repotest.Save) {
			twice(t)(dir, s)
			run(t, "", dir, "multi-pack-index", "write")
		}},
		{"with an old multi-pack-index", func(dir string, s repotest.Save) {
			run(t, "", dir, "multi-pack-index", "write")
			twice(t)(dir, s)
		}},
		{"loose", func(dir string, s repotest.Save) {
			packs, err := filepath.Glob(dir + "/objects/pack/*.pack")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range packs {
				data, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				for _, ext := range []string{".pack", ".idx"} {
					if err := os.Remove(strings.TrimSuffix(name, ".pack") + ext); err != nil {
						t.Fatal(err)
					}
				}
				run(t, string(data), dir, "unpack-objects", "-q")
			}
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			r, save := selected(t, x.extra)
			s, err := r.NewSelection(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			ids := save.IDs()
			group := func(i int) repo.Group { return repo.Group(1 + i%4) }
			for i, id := range ids {
				if had, err := s.Put(ctx, id, group(i)); err != nil || had != 0 {
					t.Fatalf("%v was in %d, %v", id, had, err)
				}
			}
			for i, id := range slices.Backward(ids) { // by another way to most of them
				if had, err := s.Put(ctx, id, 1+group(i)%4); err != nil || had != group(i) {
					t.Fatalf("%v is in %d, %v", id, had, err)
				}
			}
			total := 0
			for g := repo.Group(1); g <= 4; g++ {
				n := 0
				err := s.Each(ctx, g, func(some []pack.ID) error {
					for _, id := range some {
						if got, err := s.GroupOf(ctx, id); err != nil || got != g {
							t.Errorf("%v is in %d and %d, %v", id, g, got, err)
						}
					}
					n += len(some)
					return nil
				})
				if err != nil || int64(n) != s.Count(g) {
					t.Errorf("group %d: %d objects, %d counted, %v", g, n, s.Count(g), err)
				}
				total += n
			}
			if total != len(ids) {
				t.Errorf("%d objects of %d", total, len(ids))
			}
			if _, err := s.Put(ctx, pack.Sum(pack.Blob, []byte("no")), 1); !errors.As(err, new(*repo.MissingError)) {
				t.Errorf("an object that is not there: %v", err)
			}
			checkEntries(t, s, ids)
			checkPutOff(t, s, ids)
		})
	}
}

// checkEntries takes the entries of the groups apart.
func checkEntries(t *testing.T, s *repo.Selection, ids []pack.ID) {
	t.Helper()
	ctx := context.Background()
	var out bytes.Buffer
	for g := repo.Group(1); g <= 4; g++ {
		if n, err := s.WriteEntries(ctx, &out, g); err != nil || n != s.Count(g) {
			t.Errorf("group %d: %d entries, %v", g, n, err)
		}
	}
	d := pack.NewDecoder(1 << 20)
	left := make(map[pack.ID]bool)
	for _, id := range ids {
		left[id] = true
	}
	for b := out.Bytes(); len(b) > 0; {
		body, kind, n, err := d.Append(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		if id := pack.Sum(kind, body); !left[id] {
			t.Errorf("%v is there that should not be, or twice", id)
		} else {
			delete(left, id)
		}
		b = b[n:]
	}
	if len(left) > 0 {
		t.Errorf("%d objects are not there", len(left))
	}
	full := errors.New("full")
	for n := range out.Len() / 100 {
		w := &limitedWriter{left: n * 100, err: full}
		var err error
		for g := repo.Group(1); g <= 4 && err == nil; g++ {
			_, err = s.WriteEntries(ctx, w, g)
		}
		if err != full {
			t.Fatalf("after %d bytes: %v", n*100, err)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.WriteEntries(ended, new(bytes.Buffer), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// limitedWriter fails when it is full, and for good.
type limitedWriter struct {
	left int
	err  error
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, w.err
	}
	return len(p), nil
}

// checkPutOff puts objects off and takes them back, a few at a time.
func checkPutOff(t *testing.T, s *repo.Selection, ids []pack.ID) {
	t.Helper()
	want := make(map[pack.ID]bool)
	for _, id := range ids[:40] {
		for range 2 {
			if err := s.PutOff(context.Background(), id); err != nil {
				t.Fatal(err)
			}
		}
		want[id] = true
	}
	for {
		some, err := s.TakePutOff(nil, 7)
		if err != nil || len(some) > 7 {
			t.Fatal(len(some), err)
		}
		for _, id := range some {
			if !want[id] {
				t.Errorf("%v was not put off, or comes twice", id)
			}
			delete(want, id)
		}
		if len(some) < 7 {
			break
		}
	}
	if len(want) > 0 {
		t.Errorf("%d objects are forgotten", len(want))
	}
}

// crowd is a Store without packs and with a great many loose objects.
type crowd struct{ repo.Store }

func (crowd) Open(context.Context, string) (repo.Blob, error) { return nil, fs.ErrNotExist }

func (crowd) List(_ context.Context, dir string, fn func(name string, size int64) error) error {
	if len(dir) != len("objects/00") {
		return nil
	}
	for i := range 1<<10 + 1 {
		if err := fn(fmt.Sprintf("%s/%038x", dir, i), 1); err != nil {
			return err
		}
	}
	return nil
}

// TestSelectionManyLoose wants an object that is in no pack where there are too many such.
func TestSelectionManyLoose(t *testing.T) {
	ctx := context.Background()
	r, err := repo.OpenSnapshot(ctx, crowd{}, repo.State{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.NewSelection(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.GroupOf(ctx, pack.Sum(pack.Blob, []byte("no"))); !errors.As(err, new(*repo.RefusedError)) {
		t.Error(err)
	}
}

// TestSelectionRewritten takes the packs away while a walk goes on: whoever repacks does so.
// It fails by name, and never takes an object for one that is missing.
func TestSelectionRewritten(t *testing.T) {
	ctx := context.Background()
	var ids []pack.ID
	r, _ := selected(t, func(dir string, s repotest.Save) {
		ids = s.IDs()
		w, err := repo.OpenDir(ctx, dir, repo.DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		for i := range 70 { // two packs each: more than are kept open
			s := repotest.NewSave(fmt.Sprint(i), 2)
			if err := repotest.Store(ctx, w, s); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, s.IDs()...)
		}
	})
	s, err := r.NewSelection(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := filepath.Glob(r.Path() + "/objects/pack/*")
	if err != nil || len(list) < 280 {
		t.Fatal(len(list), err)
	}
	for _, name := range list {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	busy := 0
	for _, id := range ids {
		_, err := s.Put(ctx, id, 1)
		if errors.As(err, new(*repo.BusyError)) {
			busy++
		} else if err != nil {
			t.Fatalf("%v: %v", id, err)
		}
	}
	if busy == 0 {
		t.Error("all were found")
	}
}
