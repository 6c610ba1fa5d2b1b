package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// etc is a small tree.
func etc() []entry {
	return []entry{
		dir("etc",
			file1("passwd", "root:x:0:0\n"),
			file1("empty", ""),
			entry{name: "big", chunks: []string{"abc", "defgh", "i"}},
			symlink("link", "passwd"),
			dir("sub", file1("deep", "x"), dir("none"))),
		file1("top", "top"),
	}
}

func TestPaths(t *testing.T) {
	r := saved(t, etc()...)
	for _, c := range []struct {
		path string
		want []string // what is written
	}{
		{"s/latest", []string{"+ /latest/", "+ /latest/etc/", "+ /latest/etc/big", "+ /latest/etc/empty", "+ /latest/etc/link", "+ /latest/etc/passwd", "+ /latest/etc/sub/", "+ /latest/etc/sub/deep", "+ /latest/etc/sub/none/", "+ /latest/top"}},
		{"s/latest/etc", []string{"+ /etc/", "+ /etc/big", "+ /etc/empty", "+ /etc/link", "+ /etc/passwd", "+ /etc/sub/", "+ /etc/sub/deep", "+ /etc/sub/none/"}},
		{"/s/latest/etc/", []string{"+ /big", "+ /empty", "+ /link", "+ /passwd", "+ /sub/", "+ /sub/deep", "+ /sub/none/"}},
		{"s/latest/etc/.", []string{"+ /", "+ /big", "+ /empty", "+ /link", "+ /passwd", "+ /sub/", "+ /sub/deep", "+ /sub/none/"}},
		{"s/latest/etc/passwd", []string{"+ /passwd"}},
		{"s/latest/etc/big", []string{"+ /big"}},
		{"s/latest/etc/link", []string{"+ /link"}},
		{"s/latest/etc/sub/none", []string{"+ /none/"}},
		{"s/latest/etc/sub/none/", nil},
	} {
		out := filepath.Join(scratch(t), "a", "b")
		res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{c.path}})
		clean(t, res, e)
		if got := e.list(); !slices.Equal(got, c.want) {
			t.Errorf("%s wrote\n%s\nwant\n%s", c.path, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		var there []string
		for path := range snapshot(t, out) {
			there = append(there, path)
		}
		if want := len(c.want); len(there) != want && len(there) != want+1 { // Out itself
			t.Errorf("%s: there is %q", c.path, there)
		}
	}
}

func TestContentAndMetadata(t *testing.T) {
	r := saved(t, etc()...)
	out := scratch(t)
	res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/etc", "s/latest/top"}})
	clean(t, res, e)
	if res.Files != 6 || res.Dirs != 3 || res.Bytes != 11+0+9+1+3 {
		t.Errorf("%+v", res)
	}
	for path, want := range map[string]string{"etc/passwd": "root:x:0:0\n", "etc/empty": "", "etc/big": "abcdefghi", "etc/sub/deep": "x", "top": "top"} {
		if got := content(t, filepath.Join(out, path)); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	for path, s := range snapshot(t, out) {
		if path != "." && !strings.Contains(s, "mtime=1600000000.123456789") {
			t.Errorf("%s: %s", path, s)
		}
	}
	if got := e.list(); !slices.Contains(got, "+ /etc/sub/none/") {
		t.Errorf("%q", got)
	}
}

func TestPathErrors(t *testing.T) {
	r := saved(t, etc()...)
	for _, path := range []string{"", "/", "s", "s/", ".tag", "nobody/latest", "s/2001-01-01-000000", "s/latest/none", "s/latest/top/", "s/latest/top/."} {
		out := filepath.Join(t.TempDir(), "out")
		_, _, err := try(Options{Repo: r, Out: out, Paths: []string{"s/latest/etc", path}})
		if err == nil {
			t.Errorf("%q was restored", path)
		}
		if _, err := os.Lstat(out); err == nil {
			t.Errorf("%q: something was written before the path was found wrong", path)
		}
	}
	var nf *repo.NotFoundError
	if _, _, err := try(Options{Repo: r, Out: t.TempDir(), Paths: []string{"s/latest/none"}}); !errors.As(err, &nf) {
		t.Errorf("%v", err)
	}
	if _, _, err := try(Options{Repo: r, Out: t.TempDir()}); err == nil {
		t.Error("nothing was restored without an error")
	}
	if _, _, err := try(Options{Repo: r, Out: t.TempDir(), Paths: []string{"s/latest"}, MapUser: map[string]string{"a": "no-such-user-here"}}); err == nil {
		t.Error("a map to nobody was taken")
	}
}

// TestAgain restores twice: the second time nothing is written.
func TestAgain(t *testing.T) {
	r := saved(t, etc()...)
	out := scratch(t)
	o := Options{Repo: r, Out: out, Paths: []string{"s/latest/."}}
	first, e := restored(t, o)
	clean(t, first, e)
	before := snapshot(t, out)
	for _, verify := range []bool{false, true} {
		o.Verify = verify
		res, e := restored(t, o)
		clean(t, res, e)
		if res.Files+res.Dirs+res.Removed+res.Bytes != 0 || res.Kept != first.Files+first.Dirs {
			t.Errorf("verify %v: %+v\n%s", verify, res, strings.Join(e.seen, "\n"))
		}
		sameTrees(t, snapshot(t, out), before)
	}
}

func TestOverwrite(t *testing.T) {
	const same, size, time, mode, bytes = "same", "size", "time", "mode", "content"
	for _, c := range []struct {
		name    string
		how     Overwrite
		change  string
		verify  bool
		written bool
	}{
		{"if changed, the same", IfChanged, same, false, false},
		{"if changed, other size", IfChanged, size, false, true},
		{"if changed, other time", IfChanged, time, false, true},
		{"if changed, other mode", IfChanged, mode, false, true},
		{"if changed, other content", IfChanged, bytes, false, false},
		{"if changed, other content, verify", IfChanged, bytes, true, true},
		{"if changed, the same, verify", IfChanged, same, true, false},
		{"always, the same", Always, same, false, true},
		{"never, other size", Never, size, false, false},
		{"never, other content, verify", Never, bytes, true, false},
	} {
		for _, name := range []string{"passwd", "big"} {
			r := saved(t, etc()...)
			out := scratch(t)
			o := Options{Repo: r, Out: out, Paths: []string{"s/latest/etc/" + name}}
			restored(t, o)
			path := filepath.Join(out, name)
			want := content(t, path)
			old, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			switch c.change {
			case size:
				err = os.WriteFile(path, []byte("other"), 0o644)
			case bytes:
				err = os.WriteFile(path, []byte(strings.Repeat("x", len(want))), 0o644)
			case mode:
				err = os.Chmod(path, 0o600)
			}
			if err == nil && c.change != time && c.change != size {
				err = os.Chtimes(path, old.ModTime(), old.ModTime())
			} else if err == nil {
				err = os.Chtimes(path, old.ModTime(), old.ModTime().Add(1))
			}
			if err != nil {
				t.Fatal(err)
			}
			o.Overwrite, o.Verify = c.how, c.verify
			res, e := restored(t, o)
			clean(t, res, e)
			if (res.Files == 1) != c.written || (res.Kept == 1) == c.written {
				t.Errorf("%s: %s: %+v", c.name, name, res)
			}
			if got := content(t, path); c.written && got != want {
				t.Errorf("%s: %s holds %q", c.name, name, got)
			}
		}
	}
}

// TestInTheWay has other types where something goes.
func TestInTheWay(t *testing.T) {
	type way struct {
		make func(t *testing.T, path string)
	}
	aFile := way{func(t *testing.T, path string) { write(t, path, "old") }}
	aLink := way{func(t *testing.T, path string) {
		write(t, filepath.Dir(path)+"/../outside/keep", "keep")
		if err := os.Symlink("../outside", path); err != nil {
			t.Fatal(err)
		}
	}}
	emptyDir := way{func(t *testing.T, path string) {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}}
	fullDir := way{func(t *testing.T, path string) { write(t, filepath.Join(path, "x"), "old") }}
	for _, c := range []struct {
		name   string
		goes   string // what is restored
		in     way
		how    Overwrite
		delete bool
		errors int64
	}{
		{"file over link", "top", aLink, IfChanged, false, 0},
		{"file over link, never", "top", aLink, Never, false, 0},
		{"file over empty directory", "top", emptyDir, IfChanged, false, 0},
		{"file over full directory", "top", fullDir, IfChanged, false, 1},
		{"file over full directory, never", "top", fullDir, Never, true, 0},
		{"file over full directory, always", "top", fullDir, Always, false, 1},
		{"file over full directory, delete", "top", fullDir, IfChanged, true, 0},
		{"link over file", "etc/link", aFile, IfChanged, false, 0},
		{"link over full directory", "etc/link", fullDir, Always, false, 1},
		{"link over link", "etc/link", aLink, IfChanged, false, 0},
		{"directory over file", "etc/sub", aFile, IfChanged, false, 0},
		{"directory over file, never", "etc/sub", aFile, Never, false, 1},
		{"directory over link", "etc/sub", aLink, IfChanged, false, 1},
		{"directory over link, never", "etc/sub", aLink, Never, false, 1},
		{"directory over link, always", "etc/sub", aLink, Always, false, 0},
		{"directory over directory", "etc/sub", fullDir, IfChanged, false, 0},
	} {
		r := saved(t, etc()...)
		out := filepath.Join(scratch(t), "out")
		emptyDir.make(t, out)
		path := filepath.Join(out, filepath.Base(c.goes))
		c.in.make(t, path)
		before := snapshot(t, out)
		o := Options{Repo: r, Out: out, Paths: []string{"s/latest/" + c.goes}, Overwrite: c.how, Delete: c.delete}
		dry := o
		dry.DryRun = true
		restored(t, dry)
		sameTrees(t, snapshot(t, out), before)
		res, e := restored(t, o)
		if res.Errors != c.errors {
			t.Errorf("%s: %+v %q", c.name, res, e.warn)
		}
		after := snapshot(t, out)
		if name := filepath.Base(c.goes); c.errors > 0 || c.how == Never {
			sameTrees(t, after, before)
		} else if !strings.Contains(after[name], "mtime=1600000000.1") {
			t.Errorf("%s: there is %s", c.name, after[name])
		}
		if kept, err := os.ReadDir(filepath.Join(out, "../outside")); err == nil && len(kept) != 1 {
			t.Errorf("%s: outside there is %v", c.name, kept)
		}
	}
}

func TestDelete(t *testing.T) {
	r := saved(t, etc()...)
	out := scratch(t)
	o := Options{Repo: r, Out: out, Paths: []string{"s/latest/."}}
	restored(t, o)
	want := snapshot(t, out)
	add := func() {
		write(t, filepath.Join(out, "aaa"), "x")
		write(t, filepath.Join(out, "etc/sub/zzz/deep/er"), "x")
		write(t, filepath.Join(out, "etc/passwd-"), "x")
		os.Symlink("/", filepath.Join(out, "etc/sub/root"))
		write(t, filepath.Join(out, "etc/excluded"), "x")
	}
	add()
	o.Exclude = func(path string, dir bool) bool { return path == "/etc/sub/deep" }
	res, e := restored(t, o)
	clean(t, res, e)
	if res.Removed != 0 {
		t.Errorf("%+v", res)
	}
	os.Remove(filepath.Join(out, "etc/excluded"))
	o.Delete, o.DryRun = true, true
	before := snapshot(t, out)
	res, e = restored(t, o)
	gone := []string{"- /aaa", "- /etc/passwd-", "- /etc/sub/root", "- /etc/sub/zzz/"}
	check := func() {
		t.Helper()
		clean(t, res, e)
		got := slices.DeleteFunc(e.list(), func(s string) bool { return s[0] != '-' })
		if !slices.Equal(got, gone) || res.Removed != 4 {
			t.Errorf("removed %q, want %q, %+v", got, gone, res)
		}
	}
	check()
	sameTrees(t, snapshot(t, out), before)
	o.DryRun = false
	res, e = restored(t, o)
	check()
	sameTrees(t, snapshot(t, out), want) // what is excluded is not removed

	// Out itself is no restored directory unless the path says so.
	write(t, filepath.Join(out, "aaa"), "x")
	o.Paths, o.Exclude = []string{"s/latest/", "s/latest/etc"}, nil
	if res, e = restored(t, o); res.Removed != 0 {
		t.Errorf("%+v %q", res, e.seen)
	}
}

// TestDeleteNeedsTheListing: where the saved directory cannot be read, nothing
// is known to be surplus.
func TestDeleteNeedsTheListing(t *testing.T) {
	r := saved(t, etc()...)
	out := scratch(t)
	o := Options{Repo: r, Out: out, Paths: []string{"s/latest/."}, Delete: true}
	restored(t, o)
	write(t, filepath.Join(out, "etc/sub/mine"), "x")
	write(t, filepath.Join(out, "etc/mine"), "x")
	o.Repo = broken(t, r, "s/latest/etc/sub")
	res, e := restored(t, o)
	if res.Errors != 1 || len(e.warn) != 1 || !strings.Contains(e.warn[0], "s/latest/etc/sub") {
		t.Errorf("%+v %q", res, e.warn)
	}
	if res.Removed != 1 || content(t, filepath.Join(out, "etc/sub/mine")) != "x" {
		t.Errorf("%+v", res)
	}
}

func TestDryRun(t *testing.T) {
	r := saved(t, etc()...)
	out := filepath.Join(scratch(t), "new")
	o := Options{Repo: r, Out: out, Paths: []string{"s/latest/."}, DryRun: true}
	dry, e := restored(t, o)
	clean(t, dry, e)
	if _, err := os.Lstat(out); err == nil {
		t.Error("a dry run made the target")
	}
	o.DryRun = false
	res, e2 := restored(t, o)
	if res != dry || !slices.Equal(e.list(), e2.list()) {
		t.Errorf("dry %+v %q\nreal %+v %q", dry, e.seen, res, e2.seen)
	}
	os.Remove(filepath.Join(out, "etc/passwd"))
	os.RemoveAll(filepath.Join(out, "etc/sub"))
	before := snapshot(t, out)
	o.DryRun = true
	dry, e = restored(t, o)
	sameTrees(t, snapshot(t, out), before)
	o.DryRun = false
	res, e2 = restored(t, o)
	if res != dry || !slices.Equal(e.list(), e2.list()) {
		t.Errorf("dry %+v\n%s\nreal %+v\n%s", dry, strings.Join(e.seen, "\n"), res, strings.Join(e2.seen, "\n"))
	}
}

func TestExclude(t *testing.T) {
	r := saved(t, etc()...)
	var asked []string
	res, e := restored(t, Options{Repo: r, Out: scratch(t), Paths: []string{"s/latest/etc"}, Exclude: func(path string, dir bool) bool {
		if dir {
			path += "/"
		}
		asked = append(asked, path)
		return path == "/etc/sub/" || path == "/etc/big"
	}})
	clean(t, res, e)
	slices.Sort(asked)
	if want := []string{"/etc/", "/etc/big", "/etc/empty", "/etc/link", "/etc/passwd", "/etc/sub/"}; !slices.Equal(asked, want) {
		t.Errorf("asked about %q, want %q", asked, want)
	}
	if want := []string{"+ /etc/", "+ /etc/empty", "+ /etc/link", "+ /etc/passwd"}; !slices.Equal(e.list(), want) {
		t.Errorf("wrote %q, want %q", e.seen, want)
	}
}

// TestLeftovers: what a killed run left behind is removed with the next one.
func TestLeftovers(t *testing.T) {
	r := saved(t, etc()...)
	out := scratch(t)
	o := Options{Repo: r, Out: out, Paths: []string{"s/latest/etc"}}
	restored(t, o)
	left := filepath.Join(out, "etc/sub", fsx.TempName())
	write(t, left, "half a file")
	other := filepath.Join(out, "etc/sub/.kedge-mine")
	write(t, other, "x")
	named := filepath.Join(out, "etc", fsx.TempName())
	write(t, filepath.Join(named, "x"), "a directory is none of ours")
	res, e := restored(t, o)
	clean(t, res, e)
	if _, err := os.Lstat(left); err == nil {
		t.Error("the leftover is still there")
	}
	if content(t, other) != "x" || content(t, filepath.Join(named, "x")) == "" {
		t.Error("too much was removed")
	}
}

// TestNames restores names that are hard on tools.
func TestNames(t *testing.T) {
	var kids []entry
	names := []string{"\n", " ", "-rf", "a\x1b[31m", "\xff\xfe", "x.bup", "x.bupl", "x.bupm", ".bupm", ".bup", ".git", "..x", "...", strings.Repeat("n", 255), ".kedge-12345678", "latest"}
	for c := 1; c < 256; c++ {
		if c != '/' && c != '.' {
			names = append(names, string([]byte{byte(c)})+"!")
		}
	}
	for _, n := range names {
		kids = append(kids, file1(n, n))
	}
	r := saved(t, dir("d", kids...), entry{name: "big.bup", chunks: []string{"a", "b"}})
	out := scratch(t)
	for range 2 { // the second time over what is there
		res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/."}, Overwrite: Always})
		clean(t, res, e)
		for _, n := range names {
			if got := content(t, filepath.Join(out, "d", n)); got != n {
				t.Errorf("%q holds %q", n, got)
			}
		}
		if list, err := os.ReadDir(filepath.Join(out, "d")); err != nil || len(list) != len(names) {
			t.Errorf("%d names, want %d, error %v", len(list), len(names), err)
		}
	}
}

func TestNoMetadata(t *testing.T) {
	r := saved(t, entry{name: "f", body: "x", bare: true}, entry{name: "d", bare: true, kids: []entry{{name: "g", body: "y", bare: true}}},
		entry{name: "l", mode: meta.TypeSymlink | 0o777, target: "f", bare: true})
	out := scratch(t)
	res, _ := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/"}})
	snap := snapshot(t, out)
	for path, mode := range map[string]string{"f": "mode=100600 ", "d/g": "mode=100600 ", "d": "mode=40700 "} {
		if !strings.HasPrefix(snap[path], mode) {
			t.Errorf("%s: %s, want %s (%+v)", path, snap[path], mode, res)
		}
	}
	if target, err := os.Readlink(filepath.Join(out, "l")); target != "f" {
		t.Errorf("link to %q, error %v", target, err)
	}
}

func TestCancel(t *testing.T) {
	r := saved(t, etc()...)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, Options{Repo: r, Out: t.TempDir(), Paths: []string{"s/latest"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestResume stops a restore at every item and starts it again.
func TestResume(t *testing.T) {
	r := saved(t, etc()...)
	whole := scratch(t)
	res, _ := restored(t, Options{Repo: r, Out: whole, Paths: []string{"s/latest/."}})
	want := snapshot(t, whole)
	for stop := range res.Files + res.Dirs {
		out := scratch(t)
		ctx, cancel := context.WithCancel(context.Background())
		n := int64(0)
		o := Options{Repo: r, Out: out, Paths: []string{"s/latest/."}, Seen: func(string, byte) {
			if n++; n > stop {
				cancel()
			}
		}}
		if _, err := Run(ctx, o); err == nil && stop+1 < res.Files+res.Dirs && n <= stop {
			t.Errorf("stop %d: no error", stop)
		}
		o.Seen = nil
		again, err := Run(context.Background(), o)
		if err != nil || again.Errors > 0 {
			t.Errorf("stop %d: %+v, error %v", stop, again, err)
		}
		sameTrees(t, snapshot(t, out), want)
	}
}
