package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// brokenRepo is a repository of which some objects cannot be had: Get stops at
// the first of them, as Repo says it may.
type brokenRepo struct {
	repo.Repo
	bad  map[pack.ID]error
	mu   sync.Mutex
	gets int
}

func (b *brokenRepo) Get(ctx context.Context, ids []pack.ID, fn func(int, pack.Type, []byte) error) error {
	b.mu.Lock()
	b.gets++
	b.mu.Unlock()
	for i, id := range ids {
		if err := b.bad[id]; err != nil {
			if _, missing := err.(*repo.MissingError); missing {
				return err // nothing is given out before all are found
			}
			if err := b.Repo.Get(ctx, ids[:i], fn); err != nil {
				return err
			}
			return err
		}
	}
	return b.Repo.Get(ctx, ids, fn)
}

func (b *brokenRepo) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	for _, id := range ids {
		if _, ok := b.bad[id].(*repo.MissingError); ok {
			dst = append(dst, id)
		}
	}
	return dst, nil
}

func corrupt(id pack.ID) error {
	return &pack.CorruptError{File: "objects/pack/pack-1.pack", Off: 7, Reason: fmt.Sprintf("object %v has other bytes", id)}
}

// broken damages what stands at some paths.
func broken(t testing.TB, r repo.Repo, paths ...string) *brokenRepo {
	t.Helper()
	b := &brokenRepo{Repo: r, bad: make(map[pack.ID]error)}
	v := &repo.VFS{Repo: r}
	for _, p := range paths {
		chain, err := v.Resolve(context.Background(), p, repo.ResolveOptions{})
		if err != nil {
			t.Fatal(err)
		}
		id := chain[len(chain)-1].ID
		b.bad[id] = corrupt(id)
	}
	return b
}

// TestDamage: files with a damaged object are named, with object and pack, and
// do not get their names; all others are restored, also with many damaged.
func TestDamage(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(pack.ID) error
	}{{"corrupt", corrupt}, {"missing", func(id pack.ID) error { return &repo.MissingError{ID: id} }}} {
		var kids []entry
		var want []string
		bad := make(map[pack.ID]error)
		for i := range 500 {
			name, body := fmt.Sprintf("f%03d", i), fmt.Sprintf("content %d", i)
			e := file1(name, body)
			hurt := body
			if i%3 == 0 {
				e = entry{name: name, chunks: []string{"a" + body, "b" + body, "c" + body, "d"}}
				hurt = "b" + body
			}
			kids = append(kids, e)
			if i%7 == 0 {
				id := pack.Sum(pack.Blob, []byte(hurt))
				bad[id] = c.make(id)
			} else {
				want = append(want, name)
			}
		}
		b := &brokenRepo{Repo: saved(t, kids...), bad: bad}
		out := scratch(t)
		write(t, filepath.Join(out, "f000"), "before")
		res, e := restored(t, Options{Repo: b, Out: out, Paths: []string{"s/latest/"}, Workers: 3})
		if res.Errors != int64(len(bad)) || len(e.warn) != len(bad) || res.Files != int64(len(want)) {
			t.Errorf("%s: %+v, %d warnings, want %d", c.name, res, len(e.warn), len(bad))
		}
		for id := range bad {
			if !slices.ContainsFunc(e.warn, func(w string) bool {
				return strings.Contains(w, "s/latest/f") && strings.Contains(w, id.String()) &&
					(c.name == "missing" || strings.Contains(w, "pack-1.pack"))
			}) {
				t.Errorf("%s: nothing tells of %v: %q", c.name, id, e.warn[0])
			}
		}
		list, err := os.ReadDir(out)
		if err != nil || len(list) != len(want)+1 {
			t.Errorf("%s: %d names, want %d, error %v", c.name, len(list), len(want)+1, err)
		}
		if got := content(t, filepath.Join(out, "f000")); got != "before" {
			t.Errorf("%s: f000 holds %q", c.name, got)
		}
		if c.name == "missing" && b.gets > 250 { // those for the trees of 167 files are among them
			t.Errorf("%d calls of Get", b.gets)
		}
	}
}

// TestDamagedTrees damages what leads to files.
func TestDamagedTrees(t *testing.T) {
	r := saved(t, etc()...)
	for _, path := range []string{"s/latest/etc", "s/latest/etc/sub/none", "s/latest/etc/big"} {
		out := scratch(t)
		res, e := restored(t, Options{Repo: broken(t, r, path), Out: out, Paths: []string{"s/latest/."}})
		if res.Errors != 1 || len(e.warn) != 1 || !strings.Contains(e.warn[0], path) {
			t.Errorf("%s: %+v %q", path, res, e.warn)
		}
		if content(t, filepath.Join(out, "top")) != "top" {
			t.Errorf("%s: the rest is not restored", path)
		}
	}
	if _, _, err := try(Options{Repo: broken(t, r, "s/latest/"), Out: scratch(t), Paths: []string{"s/latest/top"}}); err == nil {
		t.Error("no error for a save that cannot be read")
	}
}

// TestOutage: an error that is not about an object stops
// the run.
func TestOutage(t *testing.T) {
	r := saved(t, etc()...)
	b := broken(t, r)
	out := errors.New("connection lost")
	b.bad[pack.Sum(pack.Blob, []byte("x"))] = out
	if res, e, err := try(Options{Repo: b, Out: scratch(t), Paths: []string{"s/latest"}}); !errors.Is(err, out) {
		t.Errorf("%+v %q %v", res, e.warn, err)
	}
}

// wrongRepo gives out another type, or a chunk of another length, than is asked for.
type wrongRepo struct {
	repo.Repo
	id   pack.ID
	t    pack.Type
	body []byte
}

func (w *wrongRepo) Get(ctx context.Context, ids []pack.ID, fn func(int, pack.Type, []byte) error) error {
	return w.Repo.Get(ctx, ids, func(i int, t pack.Type, body []byte) error {
		if ids[i] == w.id {
			t, body = w.t, w.body
		}
		return fn(i, t, body)
	})
}

func TestWrongObjects(t *testing.T) {
	r := saved(t, etc()...)
	for _, c := range []struct {
		of   string // content of the blob
		t    pack.Type
		body string
	}{
		{"x", pack.Tree, ""}, {"x", pack.Commit, "y"}, {"abc", pack.Tree, ""}, {"abc", pack.Blob, "ab"},
		{"abc", pack.Blob, "abcd"}, {"i", pack.Blob, ""}, {"i", pack.Tree, "i"},
	} {
		w := &wrongRepo{r, pack.Sum(pack.Blob, []byte(c.of)), c.t, []byte(c.body)}
		out := scratch(t)
		res, e := restored(t, Options{Repo: w, Out: out, Paths: []string{"s/latest/."}})
		if res.Errors != 1 || len(e.warn) != 1 || !strings.Contains(e.warn[0], w.id.String()) {
			t.Errorf("%+v: %+v %q", c, res, e.warn)
		}
		for _, name := range []string{"etc/big", "etc/sub/deep"} {
			_, err := os.Lstat(filepath.Join(out, name))
			if hurt := (name == "etc/big") == (c.of != "x"); hurt != (err != nil) {
				t.Errorf("%+v: %s: %v", c, name, err)
			}
		}
	}
}

// TestFullTarget fills the target up.
func TestFullTarget(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	out := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("kedge", out, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip(err)
	}
	defer syscall.Unmount(out, syscall.MNT_DETACH)
	big := strings.Repeat("0123456789abcdef", 8<<10)
	for _, kids := range [][]entry{
		{file1("a", big), file1("b", big+"b"), file1("c", big+"c")},
		{file1("a", big), entry{name: "b", chunks: []string{big, big + "1", big + "2"}}},
	} {
		r := saved(t, kids...)
		res, e, err := try(Options{Repo: r, Out: out, Paths: []string{"s/latest/."}})
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%+v %q, error %v", res, e.warn, err)
		}
		for _, k := range kids {
			want := k.body + strings.Join(k.chunks, "")
			if got, err := os.ReadFile(filepath.Join(out, k.name)); err == nil && string(got) != want {
				t.Errorf("%s has its name and %d bytes, not %d", k.name, len(got), len(want))
			}
		}
		list, _ := os.ReadDir(out)
		for _, e := range list {
			os.Remove(filepath.Join(out, e.Name()))
		}
	}
}
