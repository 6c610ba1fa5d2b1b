package index

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
	"github.com/kedgebackup/kedge/pack"
)

// mktree makes files and directories: names that end in '/' are directories,
// "a -> b" is a link.
func mktree(t testing.TB, root string, names ...string) {
	t.Helper()
	for _, n := range names {
		link, target, isLink := strings.Cut(n, " -> ")
		p := filepath.Join(root, link)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case isLink:
			err = os.Symlink(target, p)
		case strings.HasSuffix(n, "/"):
			err = os.MkdirAll(p, 0o755)
		default:
			err = os.WriteFile(p, []byte(n), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// scratch returns a directory without links in its path, and a place for an
// index outside of it.
func scratch(t testing.TB) (src, name string) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	src = filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	return src, filepath.Join(dir, "kept", "index")
}

// listing returns status and path, relative to root, of all records.
func statuses(t testing.TB, name, root string) []string {
	t.Helper()
	var lines []string
	for _, r := range contents(t, openIndex(t, name)) {
		p := r.Path
		if Within(p, root) {
			p = "." + p[len(root):]
		}
		lines = append(lines, string(r.Status())+" "+p)
	}
	return lines
}

func wantLines(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestUpdate(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "a", "d/x", "d/y/z", "d-e", "l -> ../elsewhere", "empty/")
	o := Options{File: name, Roots: []string{src}}
	res := update(t, o)
	if want := (Result{Paths: 9, New: 9, Rewritten: true}); res != want {
		t.Errorf("first: %+v", res)
	}
	wantLines(t, "first", statuses(t, name, src),
		"A ./a", "A ./d/x", "A ./d/y/z", "A ./d/y", "A ./d", "A ./d-e", "A ./empty", "A ./l", "A .")
	rec, ord, ok, err := openIndex(t, name).Lookup(src + "/l")
	if err != nil || !ok || ord != 7 || rec.Target != "../elsewhere" {
		t.Errorf("the link: %+v, %d, %v, %v", rec, ord, ok, err)
	}

	before, _ := os.Stat(name)
	if res := update(t, o); res != (Result{Paths: 9}) {
		t.Errorf("nothing changed: %+v", res)
	}
	if after, _ := os.Stat(name); !os.SameFile(before, after) {
		t.Error("the file was written without need")
	}

	markAll(t, name, inAnHour())
	wantLines(t, "saved", statuses(t, name, src),
		"  ./a", "  ./d/x", "  ./d/y/z", "  ./d/y", "  ./d", "  ./d-e", "  ./empty", "  ./l", "  .")
	if res := update(t, o); res != (Result{Paths: 9}) {
		t.Errorf("nothing changed since it was saved: %+v", res)
	}

	mktree(t, src, "d/y/z", "d/new") // z is written anew
	if err := os.RemoveAll(filepath.Join(src, "empty")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(src, "l")); err != nil {
		t.Fatal(err)
	}
	mktree(t, src, "l -> other")
	var seen []string
	o.Seen = func(p string, st *fsx.Stat, status byte) {
		seen = append(seen, string(status)+" "+strings.TrimPrefix(p, src))
	}
	if res := update(t, o); res != (Result{Paths: 9, New: 1, Changed: 4, Gone: 1, Rewritten: true}) {
		t.Errorf("changes: %+v", res)
	}
	wantLines(t, "seen", seen, "  /a", "A /d/new", "  /d/x", "M /d/y/z", "  /d/y", "M /d", "  /d-e", "D /empty", "M /l", "M ")
	wantLines(t, "changes", statuses(t, name, src),
		"  ./a", "A ./d/new", "  ./d/x", "M ./d/y/z", "M ./d/y", "M ./d", "  ./d-e", "D ./empty", "M ./l", "M .")
	if rec, _, _, _ := openIndex(t, name).Lookup(src + "/l"); rec.Target != "other" {
		t.Errorf("the link leads to %s", rec.Target)
	}
	o.Seen = nil
	if res := update(t, o); res != (Result{Paths: 9}) {
		t.Errorf("again: %+v", res)
	}

	// A directory becomes a file, a file a directory, and one that was gone is back.
	for _, p := range []string{"d", "a"} {
		if err := os.RemoveAll(filepath.Join(src, p)); err != nil {
			t.Fatal(err)
		}
	}
	mktree(t, src, "d", "a/b", "empty/")
	if res := update(t, o); res != (Result{Paths: 7, New: 2, Changed: 3, Gone: 4, Rewritten: true}) {
		t.Errorf("types: %+v", res)
	}
	wantLines(t, "types", statuses(t, name, src),
		"A ./a/b", "M ./a", "D ./d/new", "D ./d/x", "D ./d/y/z", "D ./d/y", "M ./d", "  ./d-e", "M ./empty", "M ./l", "M .")
}

// TestRoots: several roots, one in another, one a file; records outside the
// roots of a run stay, and the directories above know.
func TestRoots(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "a/1", "a/2", "b/1", "b/c/1", "f", "z/1")
	o := Options{File: name, Roots: []string{src + "/b/c", src + "/b/", src + "/a", src + "/f", src + "/b/c/1"}}
	if res := update(t, o); res.Paths != 8 {
		t.Errorf("%+v", res)
	}
	wantLines(t, "roots", statuses(t, name, src), "A ./a/1", "A ./a/2", "A ./a", "A ./b/1", "A ./b/c/1", "A ./b/c", "A ./b", "A ./f")

	o.Roots = []string{src}
	if res := update(t, o); res.Paths != 11 || res.New != 3 {
		t.Errorf("%+v", res)
	}
	markAll(t, name, inAnHour())
	mktree(t, src, "b/c/2", "z/2", "a/3")
	o.Roots = []string{src + "/b/c", src + "/f"}
	if res := update(t, o); res != (Result{Paths: 4, New: 1, Changed: 1, Rewritten: true}) {
		t.Errorf("%+v", res)
	}
	wantLines(t, "one root of all", statuses(t, name, src),
		"  ./a/1", "  ./a/2", "  ./a", "  ./b/1", "  ./b/c/1", "A ./b/c/2", "M ./b/c", "M ./b", "  ./f", "  ./z/1", "  ./z", "M .")

	for _, bad := range [][]string{{"relative"}, {""}, {"/a\x00b"}, {"/" + strings.Repeat("x", maxPath)}} {
		if _, err := Update(t.Context(), Options{File: name, Roots: bad}); err == nil {
			t.Errorf("root %.20q is accepted", bad)
		}
	}
}

// TestMissingRoot: a root that is not there is named, and its records are gone.
func TestMissingRoot(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "a/1", "b/2", "c/d/3")
	update(t, Options{File: name, Roots: []string{src}})
	markAll(t, name, inAnHour())
	for _, p := range []string{"b", "c"} {
		if err := os.RemoveAll(filepath.Join(src, p)); err != nil {
			t.Fatal(err)
		}
	}
	var warned []string
	o := Options{File: name, Roots: []string{src + "/c/d", src + "/b"}}
	o.Warn = func(p string, err error) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		warned = append(warned, p[len(src):])
	}
	if res := update(t, o); res != (Result{Gone: 4, Errors: 2, Rewritten: true}) {
		t.Errorf("%+v", res)
	}
	wantLines(t, "warned", warned, "/b", "/c/d")
	wantLines(t, "gone", statuses(t, name, src), "  ./a/1", "  ./a", "D ./b/2", "D ./b", "D ./c/d/3", "D ./c/d", "M ./c", "M .")
}

func TestExcluded(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "a.o", "b", "keep/a.o", "keep/b", "cache/CACHEDIR.TAG", "cache/x/y", "fake/CACHEDIR.TAG", "fake/x",
		"skip/x", "rx-1/x", "rx-file", "tagged/.nobackup", "tagged/x", "head/.stop", "head/x", "nohead/.stop", "nohead/x")
	for f, text := range map[string]string{
		"cache/CACHEDIR.TAG": cacheSignature + "\n# more", "fake/CACHEDIR.TAG": cacheSignature[:20], "head/.stop": "backup: no", "nohead/.stop": "yes",
	} {
		if err := os.WriteFile(filepath.Join(src, f), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{File: name, Roots: []string{src}}
	update(t, o)
	all := len(statuses(t, name, src))
	markAll(t, name, inAnHour())
	var x Exclude
	x.Caches = true
	for _, err := range []error{x.AddGlob("*.o"), x.AddPath(src + "/skip"), x.AddRegexp(`/rx-[^/]*/$`), x.AddTag(".nobackup"), x.AddTag(".stop:backup: no")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	o.Exclude = &x
	update(t, o)
	got := statuses(t, name, src)
	if len(got) != all {
		t.Errorf("%d records, there were %d", len(got), all)
	}
	got = slices.DeleteFunc(got, func(s string) bool { return s[0] == 'D' })
	wantLines(t, "left", got, "  ./b", "  ./cache/CACHEDIR.TAG", "M ./cache", "  ./fake/CACHEDIR.TAG", "  ./fake/x", "  ./fake",
		"  ./head/.stop", "M ./head", "  ./keep/b", "M ./keep", "  ./nohead/.stop", "  ./nohead/x", "  ./nohead", "  ./rx-file",
		"  ./tagged/.nobackup", "M ./tagged", "M .")
	// A walk that knew of them from the start has no records of them at all.
	os.Remove(name)
	update(t, o)
	if fresh := statuses(t, name, src); len(fresh) != len(got) {
		t.Errorf("a new index has %q", fresh)
	}
}

// TestExcludedRoot: what was asked for by name is looked at, whatever a pattern
// says of it, but what is below it is not if it is excluded too.
func TestExcludedRoot(t *testing.T) {
	for _, pattern := range []struct {
		say string
		add func(x *Exclude, src string) error
	}{
		{"path", func(x *Exclude, src string) error {
			return errors.Join(x.AddPath(src+"/d"), x.AddPath(src+"/f"), x.AddPath(src+"/d/sub"))
		}},
		{"glob", func(x *Exclude, _ string) error { return errors.Join(x.AddGlob("d"), x.AddGlob("f"), x.AddGlob("sub")) }},
		{"regexp", func(x *Exclude, _ string) error { return errors.Join(x.AddRegexp("/$"), x.AddRegexp("/f$")) }},
	} {
		t.Run(pattern.say, func(t *testing.T) {
			src, name := scratch(t)
			mktree(t, src, "d/g", "d/sub/x", "f")
			var x Exclude
			if err := pattern.add(&x, src); err != nil {
				t.Fatal(err)
			}
			o := Options{File: name, Roots: []string{src + "/d", src + "/f"}, Exclude: &x}
			update(t, o)
			update(t, o)
			wantLines(t, "asked for", statuses(t, name, src), "A ./d/g", "A ./d", "A ./f")
			o.Roots = append(o.Roots, src) // now they are below a root
			update(t, o)
			got := slices.DeleteFunc(statuses(t, name, src), func(s string) bool { return s[0] == 'D' })
			wantLines(t, "below a root", got, "A .")
		})
	}
}

// TestSkip: the repository, the index itself and its neighbours are not listed.
func TestSkip(t *testing.T) {
	src, _ := scratch(t)
	mktree(t, src, "repo/objects/x", "a/repo/y", "file")
	if err := os.Symlink(src, filepath.Dir(src)+"/link"); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(filepath.Dir(src), "link", "index") // by way of a link
	o := Options{File: name, Roots: []string{src}, Skip: []string{filepath.Dir(src) + "/link/repo", src + "/file"}}
	update(t, o)
	update(t, o)
	wantLines(t, "skipped", statuses(t, name, src), "A ./a/repo/y", "A ./a/repo", "A ./a", "A .")
	o.Roots = []string{src + "/repo/objects", src + "/a"}
	o.Skip = []string{src + "/repo"}
	update(t, o)
	wantLines(t, "roots in it", statuses(t, name, src), "A ./a/repo/y", "A ./a/repo", "A ./a", "A .")
}

func TestFake(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "d/a", "d/l -> a", "e/b")
	o := Options{File: name, Roots: []string{src}}
	update(t, o)
	markAll(t, name, inAnHour())
	mktree(t, src, "d/new", "e/b")
	want, _, _, _ := openIndex(t, name).Lookup(src + "/e/b")
	o.FakeValid = true
	update(t, o)
	wantLines(t, "fake valid", statuses(t, name, src), "  ./d/a", "  ./d/l", "  ./d/new", "  ./d", "  ./e/b", "  ./e", "  .")
	f := openIndex(t, name)
	if rec, _, _, _ := f.Lookup(src + "/d/new"); rec.ID.String() != strings.Repeat("01", 20) || rec.GitMode != 0o100644 {
		t.Errorf("never saved: %v %o", rec.ID, rec.GitMode)
	}
	if rec, _, _, _ := f.Lookup(src + "/e/b"); rec.ID != want.ID || rec.ID.IsZero() {
		t.Errorf("saved before: %v", rec.ID)
	}
	if err := os.Remove(src + "/e/b"); err != nil {
		t.Fatal(err)
	}
	update(t, o)
	wantLines(t, "gone", statuses(t, name, src), "  ./d/a", "  ./d/l", "  ./d/new", "  ./d", "D ./e/b", "M ./e", "M .")
	o.FakeValid, o.FakeInvalid = false, true
	o.Roots = []string{src + "/d"}
	if res := update(t, o); !res.Rewritten || res.Changed != 0 {
		t.Errorf("%+v", res)
	}
	wantLines(t, "fake invalid", statuses(t, name, src), "M ./d/a", "M ./d/l", "M ./d/new", "M ./d", "D ./e/b", "M ./e", "M .")
}

// TestCheckDevice: with NoCheckDevice another device number is no change.
func TestCheckDevice(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "a")
	o := Options{File: name, Roots: []string{src}}
	update(t, o)
	markAll(t, name, inAnHour())
	f := exclusive(t, noSync(), name)
	w := f.Rewrite()
	rec, ord, _, _ := f.Lookup(src + "/a")
	rec.Stat.Dev++
	if err := errors.Join(w.Set(ord, &rec), w.Commit(), f.Close()); err != nil {
		t.Fatal(err)
	}
	o.NoCheckDevice = true
	if res := update(t, o); res.Rewritten {
		t.Errorf("%+v", res)
	}
	o.NoCheckDevice = false
	if res := update(t, o); res.Changed != 1 {
		t.Errorf("%+v", res)
	}
}

// TestChanged: which differences count.
func TestChanged(t *testing.T) {
	w := &walk{updater: &updater{o: &Options{}}}
	base := fsx.Stat{Dev: 1, Ino: 2, Nlink: 3, Mode: 4, UID: 5, GID: 6, Rdev: 7, Size: 8, Blocks: 9}
	for name, c := range map[string]struct {
		change func(*fsx.Stat)
		counts bool
	}{
		"dev": {func(s *fsx.Stat) { s.Dev++ }, true}, "ino": {func(s *fsx.Stat) { s.Ino++ }, true},
		"mode": {func(s *fsx.Stat) { s.Mode++ }, true}, "uid": {func(s *fsx.Stat) { s.UID++ }, true},
		"gid": {func(s *fsx.Stat) { s.GID++ }, true}, "rdev": {func(s *fsx.Stat) { s.Rdev++ }, true},
		"size": {func(s *fsx.Stat) { s.Size++ }, true}, "mtime": {func(s *fsx.Stat) { s.Mtime.Nsec++ }, true},
		"ctime": {func(s *fsx.Stat) { s.Ctime.Sec-- }, true}, "nlink": {func(s *fsx.Stat) { s.Nlink++ }, false},
		"blocks": {func(s *fsx.Stat) { s.Blocks++ }, false}, "atime": {func(s *fsx.Stat) { s.Atime.Sec++ }, false},
	} {
		st := base
		c.change(&st)
		if got := w.changed(&base, &st); got != c.counts {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestUpdateFaults lets every operation on the index fail: the old index is
// whole, or the new one, and the next run brings it up to date.
func TestUpdateFaults(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "a", "b/c")
	update(t, Options{File: name, Roots: []string{src}})
	old, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	mktree(t, src, "b/d")
	update(t, Options{File: name, Roots: []string{src}})
	fresh, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, plan := range []fault.Plan{{}, {After: true}, {Forever: true}, {Short: true}} {
		for _, begin := range [][]byte{nil, old} {
			n := plan.Sweep(func(fail *fault.Fail) {
				os.RemoveAll(filepath.Dir(name))
				if begin != nil {
					os.Mkdir(filepath.Dir(name), 0o700)
					if err := os.WriteFile(name, begin, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				o := Options{FS: &fsx.FS{Intercept: fail.Intercept}, File: name, Roots: []string{src}, Now: inAnHour}
				_, err := Update(t.Context(), o)
				got, _ := os.ReadFile(name)
				if string(got) != string(begin) && string(got) != string(fresh) || err == nil && string(got) != string(fresh) {
					t.Fatalf("operation %v failed (%v): the index is neither old nor new", fail.Op(), err)
				}
				update(t, Options{FS: noSync(), File: name, Roots: []string{src}})
				if got, _ := os.ReadFile(name); string(got) != string(fresh) {
					t.Fatalf("operation %v failed (%v): the next run does not mend it", fail.Op(), err)
				}
			})
			if n < 10 {
				t.Errorf("only %d operations", n)
			}
		}
	}
	leftovers(t, filepath.Dir(name), "index", "index.lock")
}

// TestCancel stops an update at each path that it sees.
func TestCancel(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "a", "b/c/d/e", "b/f", "g/h")
	update(t, Options{File: name, Roots: []string{src + "/a"}})
	old, _ := os.ReadFile(name)
	for stop := 1; ; stop++ {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		_, err := Update(ctx, Options{File: name, Roots: []string{src}, Seen: func(string, *fsx.Stat, byte) {
			if n++; n == stop {
				cancel()
			}
		}})
		cancel()
		got, _ := os.ReadFile(name)
		if err == nil {
			break // the last paths come after the last question
		}
		if !errors.Is(err, context.Canceled) || string(got) != string(old) {
			t.Fatalf("stopped at path %d: %v", stop, err)
		}
	}
	leftovers(t, filepath.Dir(name), "index", "index.lock")
}

// TestDamagedIndex: an update does not build on a damaged index, nor hide it.
func TestDamagedIndex(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "a", "b")
	update(t, Options{File: name, Roots: []string{src}})
	file, err := fsxWrite(name, int64(headerSize)+5)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	before, _ := os.ReadFile(name)
	mktree(t, src, "c")
	_, err = Update(t.Context(), Options{File: name, Roots: []string{src}})
	var corrupt *pack.CorruptError
	if !errors.As(err, &corrupt) {
		t.Errorf("%v", err)
	}
	if after, _ := os.ReadFile(name); string(before) != string(after) {
		t.Error("the damage was written over")
	}
}

func TestUpdateDefaults(t *testing.T) {
	src, name := scratch(t)
	mktree(t, src, "a")
	var last uint64
	res, err := Update(t.Context(), Options{File: name, Roots: []string{src}, Wait: time.Second, Progress: func(n uint64) { last = n }})
	if err != nil || res.Paths != 2 || last != 0 {
		t.Errorf("%+v, %v, %d", res, err, last)
	}
}
