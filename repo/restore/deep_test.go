package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
)

// deepSave saves n directories inside one another, each with a file.
func deepSave(t testing.TB, n int) repo.Repo {
	s := newSaver(t)
	d := dir("d")
	id := s.addDir(&d)
	m := metaOf(&d)
	body := s.blob("x")
	f := file1("f", "x")
	fm := metaOf(&f)
	for range n - 1 {
		var err error
		id, err = s.writer().Write(m.Append(nil), []repo.DirEntry{{Name: "d", Mode: repo.ModeDir, ID: id}, {Name: "f", Mode: repo.ModeFile, ID: body, Meta: fm.Append(nil)}})
		s.must(err)
	}
	s.commit("s", id)
	return s.done()
}

// TestDeep restores 20,000 levels, whose path no system call takes: the walk
// keeps few of them open, and does not recurse.
func TestDeep(t *testing.T) {
	levels := 20_000
	if testing.Short() {
		levels = 1000
	}
	r := deepSave(t, levels)
	out := scratch(t)
	defer func() { // os.RemoveAll cannot
		d := openDir(t, out)
		defer d.Close()
		if err := d.RemoveTree("d"); err != nil {
			t.Error(err)
		}
	}()
	open := openFiles(t)
	most := 0
	o := Options{Repo: r, Out: out, Paths: []string{"s/latest/."}}
	o.Seen = func(string, byte) {
		if runtime.GOOS == "linux" {
			most = max(most, openFiles(t))
		}
	}
	if levels > 1000 {
		o.Seen = nil // paths of 40 KB for each
	}
	o.Warn = func(path string, err error) { t.Errorf("%.100s: %v", path, err) }
	for pass := range 2 {
		res, err := Run(context.Background(), o)
		if err != nil || res.Errors > 0 || res.Dirs+res.Files+res.Kept != int64(2*levels-1) {
			t.Fatalf("pass %d: %+v, error %v", pass, res, err)
		}
		if pass == 1 && res.Files+res.Dirs > 0 {
			t.Errorf("again: %+v", res)
		}
	}
	if most > open+600 {
		t.Errorf("%d descriptors were open", most)
	}
	if now := openFiles(t); now > open {
		t.Errorf("%d descriptors are left", now-open)
	}
	checkDeep(t, out, levels)
}

func checkDeep(t *testing.T, out string, levels int) {
	t.Helper()
	stack := fsx.NewStack(openDir(t, out))
	defer stack.Close()
	for i := range levels - 1 {
		st, err := stack.Top().Lstat("f")
		if err != nil || st.Size != 1 || st.Mtime != stamp {
			t.Fatalf("level %d: %+v, error %v", i, st, err)
		}
		if st, err = stack.Top().Stat(); err != nil || st.Mtime != stamp {
			t.Fatalf("level %d: %+v, error %v", i, st, err)
		}
		if err := stack.Push("d"); err != nil {
			t.Fatalf("level %d: %v", i, err)
		}
	}
}

func openDir(t testing.TB, path string) *fsx.Dir {
	t.Helper()
	d, err := fsx.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(list)
}

// TestWide restores many files and links in one directory.
func TestWide(t *testing.T) {
	n := 20_000
	if testing.Short() {
		n = 5000 // more links than are remembered
	}
	var kids []entry
	for i := range n {
		kids = append(kids, file1(fmt.Sprintf("f%06d", i), ""), symlink(fmt.Sprintf("l%06d", i), "x"))
	}
	r := saved(t, dir("wide", kids...))
	out := scratch(t)
	o := Options{Repo: r, Out: out, Paths: []string{"s/latest/wide"}}
	res, e := restored(t, o)
	clean(t, res, e)
	if res.Files != int64(2*n) {
		t.Errorf("%+v", res)
	}
	list, err := os.ReadDir(out + "/wide")
	if err != nil || len(list) != 2*n {
		t.Errorf("%d names, error %v", len(list), err)
	}
	if res, e = restored(t, o); res.Files+res.Dirs != 0 || res.Kept != int64(2*n+1) {
		t.Errorf("again: %+v %.200q", res, e.seen)
	}
}

// TestNothingLeft counts goroutines and descriptors.
func TestNothingLeft(t *testing.T) {
	r := saved(t, etc()...)
	restored(t, Options{Repo: r, Out: scratch(t), Paths: []string{"s/latest"}})
	fds, routines := openFiles(t), runtime.NumGoroutine()
	for i := range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		Run(ctx, Options{Repo: r, Out: scratch(t), Paths: []string{"s/latest"}, Seen: func(string, byte) {
			if n++; n == i {
				cancel()
			}
		}})
		cancel()
	}
	if now := openFiles(t); now != fds {
		t.Errorf("%d descriptors, were %d", now, fds)
	}
	if now := runtime.NumGoroutine(); now > routines {
		t.Errorf("%d goroutines, were %d", now, routines)
	}
}

// TestMoved has somebody move the tree aside while the walk is deep in it. What
// is above is not where it was, so the run must not go on there.
func TestMoved(t *testing.T) {
	const levels = 4 * windowFolders // so that the outer ones were parked
	r := deepSave(t, levels)
	base := scratch(t)
	out := filepath.Join(base, "out")
	moved := false
	res, err := Run(context.Background(), Options{Repo: r, Out: out, Paths: []string{"s/latest/."}, Exclude: func(path string, dir bool) bool {
		if !moved && strings.Count(path, "/") == levels-2 {
			moved = true
			if err := os.Rename(filepath.Join(out, "d/d/d/d"), filepath.Join(base, "aside")); err != nil {
				t.Error(err)
			}
		}
		return false
	}})
	if !moved || !errors.Is(err, fsx.ErrMoved) {
		t.Errorf("moved %v, %+v, error %v", moved, res, err)
	}
}

func TestProgress(t *testing.T) {
	r := saved(t, etc()...)
	var last Progress
	n := 0
	res, err := Run(context.Background(), Options{Repo: r, Out: scratch(t), Paths: []string{"s/latest"}, Progress: func(p Progress) {
		if p.Files < last.Files || p.Bytes < last.Bytes || p.FilesTotal < p.Files || p.BytesTotal < p.Bytes {
			t.Errorf("%+v after %+v", p, last)
		}
		last = p
		n++
	}})
	want := Progress{Files: 6, FilesTotal: 6, Bytes: 24, BytesTotal: 24}
	if err != nil || n == 0 || last != want || res.Bytes != 24 {
		t.Errorf("%d calls, the last one with %+v, want %+v; %+v, %v", n, last, want, res, err)
	}
}

// TestOddModes: a type that is none is named, and not made.
func TestOddModes(t *testing.T) {
	r := saved(t, entry{name: "odd", mode: 0o170644}, file1("f", "x"))
	out := scratch(t)
	res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/"}})
	if res.Errors != 1 || res.Files != 1 || len(e.warn) != 1 || !strings.Contains(e.warn[0], "/odd") {
		t.Errorf("%+v %q", res, e.warn)
	}
}
