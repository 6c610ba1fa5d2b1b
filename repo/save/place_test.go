package save

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/index"
)

// The part of a root that is grafted elsewhere is there and not here, with all
// the rest as it was; and a plain save after that is whole again.
func TestGraftInside(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("a/file", []byte("a"))
	b.write("cut/file", []byte("cut"))
	b.write("cut/sub/file", []byte("sub"))
	b.write("into/file", []byte("into"))
	b.write("into/sub/own", []byte("own"))
	b.fresh()
	for _, c := range []struct {
		to   string // where cut goes
		want []string
	}{
		{"/x/y", []string{"/x/y/file=cut", "/x/y/sub/file=sub", "S/a/file=a", "S/into/file=into", "S/into/sub/own=own"}},
		{"S/into/deep", []string{"S/a/file=a", "S/into/deep/file=cut", "S/into/deep/sub/file=sub", "S/into/file=into", "S/into/sub/own=own"}},
		{"S/into/sub/more", []string{"S/a/file=a", "S/into/file=into", "S/into/sub/more/file=cut", "S/into/sub/more/sub/file=sub", "S/into/sub/own=own"}},
		{"S/cut", []string{"S/a/file=a", "S/cut/file=cut", "S/cut/sub/file=sub", "S/into/file=into", "S/into/sub/own=own"}},
	} {
		for range 2 {
			o := b.options()
			o.Graft = [][2]string{{b.src + "/cut", strings.Replace(c.to, "S", b.src, 1)}}
			res := b.save(o)
			all := b.tree(res.Tree)
			var got []string
			for _, name := range names(all) {
				if s := all[name]; isRegular(s.meta.Mode) {
					got = append(got, strings.Replace("/"+name, b.src, "S", 1)+"="+s.data)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) || len(b.warn) > 0 {
				t.Errorf("cut to %s: %q, warned of %q", c.to, got, b.warn)
			}
			if d := strings.TrimPrefix(strings.Replace(c.to, "S", b.src, 1), "/"); all[d].meta.Mode != 0o040755 {
				t.Errorf("cut to %s: %+v", c.to, all[d].meta)
			}
			if s := all[strings.TrimPrefix(b.src, "/")+"/into"]; s.meta.Mode != 0o040755 {
				t.Errorf("cut to %s: metadata of into %+v", c.to, s.meta)
			}
			files, dirs, bytes := count(all)
			if res.Files != files || res.Dirs != dirs || res.Bytes != bytes {
				t.Errorf("cut to %s: counted %d, %d, %d; there are %d, %d, %d", c.to, res.Files, res.Dirs, res.Bytes, files, dirs, bytes)
			}
		}
		res := b.fresh()
		b.same(part(b.tree(res.Tree), b.src), b.expect())
	}
}

// A root of which the index has only parts is these parts, where they would stand,
// and what leads to them carries the metadata it has. Saved again with nothing
// changed nothing is read, and the parts of an index that are gone are left out.
func TestUnindexedRoot(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("a/b/file", []byte("b"))
	b.write("a/c/d/file", []byte("d"))
	b.write("a/other", []byte("not indexed"))
	b.write("e", []byte("e"))
	b.write("gone/file", []byte("gone"))
	must(t, os.Chmod(b.src+"/a", 0o751))
	age()
	b.update(b.src+"/a/b", b.src+"/a/c/d", b.src+"/e", b.src+"/gone")
	must(t, os.RemoveAll(b.src+"/gone"))
	b.update(b.src+"/e", b.src+"/gone")
	want := []string{".", "a", "a/b", "a/b/file", "a/c", "a/c/d", "a/c/d/file", "e"}
	for i, roots := range [][]string{{"/"}, {b.src}, {b.src + "/a", b.src}, {b.src + "/a/b", b.src}} {
		o := b.options()
		o.Roots = roots
		res := b.save(o)
		got := part(b.tree(res.Tree), b.src)
		if !slices.Equal(names(got), want) || got["a"].meta.Mode != 0o040751 {
			t.Errorf("%q: saved %q, a is %o", roots, names(got), got["a"].meta.Mode)
		}
		if i > 0 && res.FilesRead > 0 {
			t.Errorf("%q: %d files were read", roots, res.FilesRead)
		}
	}
	for _, c := range []struct {
		o    Options
		want []string
	}{
		{Options{Roots: []string{b.src}, Strip: true}, want},
		{Options{Roots: []string{b.src + "/a"}, Strip: true}, []string{".", "b", "b/file", "c", "c/d", "c/d/file"}},
		{Options{Roots: []string{"/"}, StripPath: b.src}, want},
		{Options{Roots: []string{b.src + "/a"}, Graft: [][2]string{{b.src + "/a", "/x"}}}, []string{".", "x", "x/b", "x/b/file", "x/c", "x/c/d", "x/c/d/file"}},
	} {
		o := b.options()
		o.Roots, o.Strip, o.StripPath, o.Graft = c.o.Roots, c.o.Strip, c.o.StripPath, c.o.Graft
		if got := names(b.tree(b.save(o).Tree)); !slices.Equal(got, c.want) {
			t.Errorf("%+v: saved %q", c.o, got)
		}
	}
	for _, root := range []string{b.src + "/gone", b.src + "/a/other", b.src + "/a/b/nope", b.src + "/e/x"} {
		o := b.options()
		o.Roots = []string{"/", root}
		var unknown *NotIndexedError
		if _, err := b.try(o); !errors.As(err, &unknown) || unknown.Path != root {
			t.Errorf("%s: %v", root, err)
		}
	}
}

// A source that goes to "/" may meet one that goes below it.
func TestStripMeets(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("a/sub/file", []byte("a"))
	b.write("b/file", []byte("b"))
	age()
	b.update()
	o := b.options()
	o.Roots = []string{b.src + "/a", b.src + "/b"}
	o.Graft = [][2]string{{b.src + "/a", "/"}, {b.src + "/b", "/sub/b"}}
	all := b.tree(b.save(o).Tree)
	if got := names(all); !slices.Equal(got, []string{".", "sub", "sub/b", "sub/b/file", "sub/file"}) {
		t.Errorf("saved %q", got)
	}
	if all["."].meta.Mode != 0o040755 || all["sub"].meta.Mode != 0o040755 {
		t.Error("directories of a have lost their metadata")
	}
}

// Paths longer than the kernel takes, and more levels than a process may hold open.
func TestDeep(t *testing.T) {
	const levels = 1500
	b := newBench(t, "rabin:13")
	fd, err := syscall.Open(b.src, syscall.O_DIRECTORY|syscall.O_RDONLY, 0)
	must(t, err)
	for i := range levels {
		name := fmt.Sprint("level", i)
		must(t, syscall.Mkdirat(fd, name, 0o755))
		if i%100 == 0 {
			f, err := syscall.Openat(fd, "file", syscall.O_CREAT|syscall.O_WRONLY, 0o644)
			must(t, err)
			_, err = syscall.Write(f, []byte(name))
			must(t, errors.Join(err, syscall.Close(f)))
		}
		next, err := syscall.Openat(fd, name, syscall.O_DIRECTORY|syscall.O_RDONLY, 0)
		must(t, err)
		must(t, syscall.Close(fd))
		fd = next
	}
	must(t, syscall.Close(fd))
	t.Cleanup(func() { removeDeep(t, b.src) })
	res := b.fresh()
	if res.FilesRead != levels/100 || res.Unreadable != 0 {
		t.Errorf("%+v", res)
	}
	all := part(b.tree(res.Tree), b.src)
	if len(all) != 1+levels+levels/100 {
		t.Errorf("%d items", len(all))
	}
	for name, s := range maps.All(all) {
		if path.Base(name) == "file" && s.data == "" {
			t.Errorf("%.40s…: empty", name)
		}
	}
	if again := b.fresh(); again.FilesRead != 0 || again.Files != res.Files || again.Dirs != res.Dirs {
		t.Errorf("again: %+v", again)
	}
}

// removeDeep removes a tree that os.RemoveAll, which works with paths, may not.
func removeDeep(t *testing.T, dir string) {
	t.Helper()
	for {
		if err := os.RemoveAll(dir); err == nil {
			return
		}
		// Cut off what is too deep, piece by piece.
		at := dir
		for range 100 {
			list, err := os.ReadDir(at)
			must(t, err)
			next := ""
			for _, e := range list {
				if e.IsDir() {
					next = filepath.Join(at, e.Name())
				}
			}
			if next == "" {
				break
			}
			at = next
		}
		must(t, os.Rename(at, filepath.Join(filepath.Dir(dir), "cut-off")))
		removeDeep(t, filepath.Join(filepath.Dir(dir), "cut-off"))
	}
}

// What could not be entered is asked for once; a directory that was moved away
// while the feeder was below it does not lead it astray.
func TestPlace(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	deep := base + "/a" + strings.Repeat("/d", 100)
	must(t, os.MkdirAll(deep, 0o755))
	must(t, os.MkdirAll(base+"/b/c", 0o755))
	must(t, os.MkdirAll(base+"/elsewhere", 0o755))
	var p place
	p.begin(base, true)
	defer p.close()
	enter := func(dir string) error {
		d, err := p.enter(dir)
		if err != nil {
			return err
		}
		st, err := d.Stat()
		must(t, err)
		var want syscall.Stat_t
		must(t, syscall.Stat(dir, &want))
		if st.Ino != want.Ino {
			t.Fatalf("%s is another directory", dir)
		}
		return nil
	}
	for _, dir := range []string{base + "/b/c", base, deep, base + "/b", base + "/a/d/d", deep} {
		must(t, enter(dir))
	}
	if err := enter(base + "/gone/sub"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	must(t, os.MkdirAll(base+"/gone/sub", 0o755))
	if err := enter(base + "/gone/other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was not there: %v", err)
	}
	must(t, enter(base+"/b"))
	must(t, enter(deep))
	// A directory near the top, no more held open, is moved with all below it. The
	// way up leads out of the tree, and is not gone.
	must(t, os.Rename(base+"/a/d/d/d", base+"/elsewhere/d"))
	must(t, enter(base+"/a/d/d"))
	if err := enter(base + "/a/d/d/d/d"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was moved away: %v", err)
	}
	must(t, enter(base+"/b/c"))
	p.begin(base+"/b/c", false)
	must(t, enter(base+"/b"))
}

// split and below agree with package path.
func TestPaths(t *testing.T) {
	for _, p := range []string{"/a", "/a/b", "/a/b/c", "/aa/bb/cc.d"} {
		if dirOf(p) != path.Dir(p) || baseOf(p) != path.Base(p) {
			t.Errorf("%s: %s, %s", p, dirOf(p), baseOf(p))
		}
		for dir := path.Dir(p); ; dir = path.Dir(dir) {
			next := below(dir, p)
			if dirOf(next) != dir || !index.Within(p, next) {
				t.Errorf("from %s towards %s: %s", dir, p, next)
			}
			if dir == "/" {
				break
			}
		}
	}
	if dirOf("/") != "/" || baseOf("/") != "/" {
		t.Error("the root")
	}
}
