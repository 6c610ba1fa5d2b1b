package save

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Whatever became of a path between index and save: it is named, left out, and
// tried again by the next save; all else is saved.
func TestChangedSinceIndexed(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(b *bench) error
		gone   []string // not in the save
		warn   []string
	}{
		{"file gone", func(b *bench) error { return os.Remove(b.src + "/d/file") },
			[]string{"d/file"}, []string{"d/file"}},
		{"link gone", func(b *bench) error { return os.Remove(b.src + "/d/link") },
			[]string{"d/link"}, []string{"d/link"}},
		{"pipe gone", func(b *bench) error { return os.Remove(b.src + "/d/pipe") },
			[]string{"d/pipe"}, []string{"d/pipe"}},
		{"directory gone", func(b *bench) error { return os.RemoveAll(b.src + "/d") },
			[]string{"d", "d/file", "d/link", "d/pipe", "d/sub", "d/sub/file"},
			[]string{"d/file", "d/link", "d/pipe", "d/sub/file", "d/sub", "d"}},
		{"directory now a file", func(b *bench) error {
			return errors.Join(os.RemoveAll(b.src+"/d/sub"), os.WriteFile(b.src+"/d/sub", []byte("x"), 0o644))
		}, []string{"d/sub", "d/sub/file"}, []string{"d/sub/file", "d/sub"}},
		{"directory now a link", func(b *bench) error {
			return errors.Join(os.Rename(b.src+"/d/sub", b.src+"/moved"), os.Symlink("../moved", b.src+"/d/sub"))
		}, []string{"d/sub", "d/sub/file"}, []string{"d/sub/file", "d/sub"}},
		{"file now a link", func(b *bench) error {
			return errors.Join(os.Remove(b.src+"/d/file"), os.Symlink("/etc/shadow", b.src+"/d/file"))
		}, []string{"d/file"}, []string{"d/file"}},
		{"file now a pipe", func(b *bench) error {
			return errors.Join(os.Remove(b.src+"/d/file"), syscall.Mkfifo(b.src+"/d/file", 0o600))
		}, []string{"d/file"}, []string{"d/file"}},
		{"file now a directory", func(b *bench) error {
			return errors.Join(os.Remove(b.src+"/d/file"), os.Mkdir(b.src+"/d/file", 0o700))
		}, []string{"d/file"}, []string{"d/file"}},
		{"link now a file", func(b *bench) error {
			return errors.Join(os.Remove(b.src+"/d/link"), os.WriteFile(b.src+"/d/link", []byte("x"), 0o644))
		}, []string{"d/link"}, []string{"d/link"}},
		{"pipe now a socket", func(b *bench) error {
			return errors.Join(os.Remove(b.src+"/d/pipe"), syscall.Mknod(b.src+"/d/pipe", syscall.S_IFSOCK|0o600, 0))
		}, []string{"d/pipe"}, []string{"d/pipe"}},
		{"all gone", func(b *bench) error { return os.RemoveAll(b.src) },
			[]string{".", "d", "d/file", "d/link", "d/pipe", "d/sub", "d/sub/file", "other"},
			[]string{"d/file", "d/link", "d/pipe", "d/sub/file", "d/sub", "d", "other", ""}},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := newBench(t, "rabin:13")
			b.write("d/file", []byte("file"))
			b.write("d/sub/file", []byte("file"))
			b.write("other", []byte("other"))
			must(t, os.Symlink("file", b.src+"/d/link"))
			must(t, syscall.Mkfifo(b.src+"/d/pipe", 0o600))
			age()
			b.update()
			must(t, c.change(b))
			res := b.save(b.options())
			var warn []string
			for _, w := range b.warn {
				warn = append(warn, strings.TrimPrefix(strings.TrimPrefix(w, b.src), "/"))
			}
			if !slices.Equal(warn, c.warn) || res.Unreadable != int64(len(warn)) {
				t.Errorf("%d warnings: %q", res.Unreadable, warn)
			}
			var want []string
			for _, n := range []string{".", "d", "d/file", "d/link", "d/pipe", "d/sub", "d/sub/file", "other"} {
				if !slices.Contains(c.gone, n) {
					want = append(want, n)
				}
			}
			if got := names(part(b.tree(res.Tree), b.src)); !slices.Equal(got, want) {
				t.Errorf("saved %q", got)
			}
			if !strings.Contains(b.message(res.Commit), fmt.Sprintf("Kedge-Unreadable: %d\n", len(warn))) {
				t.Errorf("message: %s", b.message(res.Commit))
			}
			for _, n := range c.warn {
				if rec := b.record(filepath.Join(b.src, n)); rec.Flags&index.Valid != 0 {
					t.Errorf("%s is valid", n)
				}
			}
			if rec := b.record(b.src); rec.Flags&index.Valid != 0 {
				t.Error("the root is valid")
			}
			must(t, os.MkdirAll(b.src, 0o755))
			res = b.fresh()
			if res.Unreadable != 0 {
				t.Errorf("the next save: %q", b.warn)
			}
			b.same(part(b.tree(res.Tree), b.src), b.expect())
		})
	}
}

// What was kept of a directory, from when it could be read, stands when it can't
// be entered now.
func TestKeptBelowLost(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("d/old", []byte("old"))
	b.write("d/new", []byte("new"))
	b.fresh()
	b.write("d/new", []byte("newer"))
	age()
	b.update()
	must(t, os.Rename(b.src+"/d", b.src+"-away"))
	res := b.save(b.options())
	if got := names(part(b.tree(res.Tree), b.src)); !slices.Equal(got, []string{".", "d", "d/old"}) || res.Unreadable != 2 {
		t.Errorf("%q, %d unreadable", got, res.Unreadable)
	}
}

// A failingFile gives an error at some offset.
type failingFile struct {
	data []byte
	at   int64
}

func (f failingFile) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.at {
		return copy(p, f.data[min(off, f.at):f.at]), errFault
	}
	return copy(p, f.data[off:]), nil
}

// Of a file that fails in the middle nothing is in the save, whatever was cut
// and sent of it before; the files before and after it are whole.
func TestFailsInTheMiddle(t *testing.T) {
	for _, at := range []int64{0, 1, 100, 70_000, 1 << 20, 1<<20 + 1, 3_000_000, 4_999_999} {
		b := newBench(t, "rabin:13")
		src := &source{src: "/d", dst: "/d", alone: true}
		feed := func(f *feeder, ctx context.Context, name string, r failingFile) error {
			it := item{src: src, rec: index.Record{Path: "/d/" + name}, st: fsx.Stat{Mode: 0o100644}}
			n, err := f.extent(ctx, r, 0, int64(len(r.data)))
			if err != nil {
				return f.broken(ctx, it, err)
			}
			f.cut(true)
			it.kind, it.n = fileItem, n
			return f.put(ctx, it)
		}
		first, bad, last := noise(1, 150_000), noise(2, 5_000_000), noise(3, 150_000)
		r, err := b.drive(func(f *feeder, ctx context.Context) error {
			return errors.Join(
				feed(f, ctx, "a", failingFile{first, 1 << 40}),
				feed(f, ctx, "b", failingFile{bad, at}),
				feed(f, ctx, "c", failingFile{last, 1 << 40}),
				f.put(ctx, item{kind: dirItem, src: src, rec: index.Record{Path: "/d"}, st: fsx.Stat{Mode: 0o040755}}))
		})
		must(t, err)
		got := part(b.tree(r.res.Tree), "/d")
		if !slices.Equal(names(got), []string{".", "a", "c"}) {
			t.Fatalf("failure at %d: saved %q", at, names(got))
		}
		for name, data := range map[string][]byte{"a": first, "c": last} {
			if got[name].data != string(data) || got[name].id != fileID(t, r.split, data) {
				t.Errorf("failure at %d: %s came back as %d bytes", at, name, len(got[name].data))
			}
		}
		if r.on.unreadable != 1 || !slices.Equal(b.warn, []string{"/d/b"}) {
			t.Errorf("failure at %d: warned of %q", at, b.warn)
		}
	}
}

// A missingHook is a session with a word at the first question about new data.
type missingHook struct {
	repo.Session
	once sync.Once
	hook func()
}

func (m *missingHook) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	if len(ids) > 10 {
		m.once.Do(m.hook)
	}
	return m.Session.Missing(ctx, dst, ids)
}

// A file that changes while it is read is saved as it was read, named, counted,
// and not marked. The worker is made to wait, so that the feeder, whose batches
// are all under way, is in the middle of the file.
func TestChangesWhileRead(t *testing.T) {
	const size = 20 << 20
	for what, change := range map[string]func(name string) error{
		"grows":   func(name string) error { return os.Truncate(name, size+100_000) },
		"shrinks": func(name string) error { return os.Truncate(name, size-100_000) },
		"to 0":    func(name string) error { return os.Truncate(name, 0) },
		"in place": func(name string) error {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("x"), size-1)
			return errors.Join(err, f.Close())
		},
		"mode": func(name string) error { return os.Chmod(name, 0o600) },
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t, "rabin:13")
			name := b.write("d/file", noise(1, size))
			b.write("d/other", []byte("other"))
			age()
			b.update()
			o := b.options()
			o.Workers = 1
			o.Repo = &wrapped{b.repo, func(s repo.Session) repo.Session {
				return &missingHook{Session: s, hook: func() { must(t, change(name)) }}
			}}
			res := b.save(o)
			if res.Changed != 1 || res.Unreadable != 0 || !slices.Equal(b.warn, []string{name}) {
				t.Errorf("%d changed, %d unreadable, %q", res.Changed, res.Unreadable, b.warn)
			}
			got := part(b.tree(res.Tree), b.src)["d/file"]
			if int64(len(got.data)) != got.meta.Size {
				t.Errorf("size %d, %d bytes", got.meta.Size, len(got.data))
			}
			if b.record(name).Flags&index.Valid != 0 || b.record(b.src).Flags&index.Valid != 0 {
				t.Error("marked all the same")
			}
			if res = b.fresh(); res.Changed != 0 || res.FilesRead != 1 {
				t.Errorf("the next save: %+v", res)
			}
			b.same(part(b.tree(res.Tree), b.src), b.expect())
		})
	}
}

// Sets of hard links: content is read once; a name that is another file by now
// is read for itself; if the first name cannot be read, the next one is.
func TestHardLinks(t *testing.T) {
	build := func(t *testing.T) *bench {
		b := newBench(t, "rabin:13")
		b.write("a/1", noise(1, 100_000))
		must(t, os.Mkdir(b.src+"/b", 0o755))
		for _, n := range []string{"a/2", "b/1", "b/2"} {
			must(t, os.Link(b.src+"/a/1", b.src+"/"+n))
		}
		age()
		b.update()
		return b
	}
	t.Run("as they were", func(t *testing.T) {
		b := build(t)
		res := b.save(b.options())
		if res.FilesRead != 1 || res.BytesRead != 100_000 || res.Bytes != 400_000 {
			t.Errorf("%+v", res)
		}
		b.same(part(b.tree(res.Tree), b.src), b.expect())
		// One that comes later belongs to the set as well.
		must(t, os.Link(b.src+"/b/1", b.src+"/c"))
		res = b.fresh()
		b.same(part(b.tree(res.Tree), b.src), b.expect())
	})
	t.Run("the first one gone", func(t *testing.T) {
		b := build(t)
		must(t, os.Remove(b.src+"/a/1"))
		res := b.save(b.options())
		got := part(b.tree(res.Tree), b.src)
		if res.FilesRead != 1 || res.Unreadable != 1 || len(got) != 6 || got["b/2"].data != string(noise(1, 100_000)) {
			t.Errorf("%+v, saved %q", res, names(got))
		}
		if got["a/2"].meta.Hardlink != b.src+"/a/1" || got["b/2"].meta.Hardlink != b.src+"/a/1" {
			t.Error("the names of the set differ")
		}
	})
	t.Run("another file", func(t *testing.T) {
		b := build(t)
		must(t, os.Remove(b.src+"/b/1"))
		b.write("b/1", []byte("another"))
		res := b.save(b.options())
		got := part(b.tree(res.Tree), b.src)
		if got["b/1"].data != "another" || got["b/1"].meta.Hardlink != "" || got["b/2"].data != string(noise(1, 100_000)) {
			t.Errorf("b/1: %q %+v", got["b/1"].data, got["b/1"].meta)
		}
		if res.FilesRead != 2 || len(b.warn) > 0 {
			t.Errorf("%+v, %q", res, b.warn)
		}
	})
	t.Run("the first one another file", func(t *testing.T) {
		b := build(t)
		must(t, os.Remove(b.src+"/a/1"))
		b.write("a/1", []byte("another"))
		got := part(b.tree(b.save(b.options()).Tree), b.src)
		if got["a/1"].data != "another" || got["a/1"].meta.Hardlink != "" || got["a/2"].data != string(noise(1, 100_000)) {
			t.Errorf("a/1: %q %+v", got["a/1"].data, got["a/1"].meta)
		}
	})
	t.Run("a further one gone", func(t *testing.T) {
		b := build(t)
		must(t, os.Remove(b.src+"/b/2"))
		res := b.save(b.options())
		if _, ok := part(b.tree(res.Tree), b.src)["b/2"]; ok || res.Unreadable != 1 {
			t.Errorf("%+v", res)
		}
	})
}

// --smaller leaves files out, unchanged ones too; what the index knows of them
// stays true.
func TestSmaller(t *testing.T) {
	b := newBench(t, "rabin:13")
	large := b.write("d/large", noise(1, 10_000))
	b.write("d/small", noise(1, 9_999))
	b.write("calm/large", noise(2, 20_000))
	b.fresh()
	b.write("d/small", noise(3, 9_999))
	age()
	b.update()
	o := b.options()
	o.MaxSize = 10_000
	res := b.save(o)
	if got := names(part(b.tree(res.Tree), b.src)); !slices.Equal(got, []string{".", "calm", "d", "d/small"}) {
		t.Errorf("saved %q", got)
	}
	if res.Unreadable != 0 || len(b.warn) > 0 {
		t.Errorf("warned of %q", b.warn)
	}
	if b.record(large).Flags&index.Valid == 0 || b.record(b.src+"/d").Flags&index.Valid != 0 {
		t.Error("the file should be valid and its directory not")
	}
	res = b.fresh()
	if res.FilesRead != 0 {
		t.Errorf("%d files read", res.FilesRead)
	}
	b.same(part(b.tree(res.Tree), b.src), b.expect())

	// A file that grew since it was indexed.
	b.write("d/small", noise(3, 100))
	age()
	b.update()
	b.write("d/small", noise(3, 100_000))
	o = b.options()
	o.MaxSize = 10_000
	if _, ok := part(b.tree(b.save(o).Tree), b.src)["d/small"]; ok {
		t.Error("a file that grew is saved")
	}
}

// Two sources with an item of the same name: the first wins, and this is said.
func TestMeet(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("a/same", []byte("of a"))
	b.write("a/only", []byte("of a"))
	b.write("b/same", []byte("of b"))
	b.write("b/too", []byte("of b"))
	age()
	b.update()
	o := b.options()
	o.Roots, o.Strip = []string{b.src + "/b", b.src + "/a"}, true
	res := b.save(o)
	got := b.tree(res.Tree)
	if !slices.Equal(names(got), []string{".", "only", "same", "too"}) || got["same"].data != "of a" {
		t.Errorf("saved %q, same is %q", names(got), got["same"].data)
	}
	if got["."].meta.Mode != 0 {
		t.Error("the root is nobody's, and has metadata")
	}
	if res.Unreadable != 1 || !slices.Equal(b.warn, []string{"/same"}) {
		t.Errorf("%d unreadable, warned of %q", res.Unreadable, b.warn)
	}
}

// Names that git frowns on are told to it wherever they stand in the tree.
func TestFrownedNames(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
	for _, c := range []struct {
		file   string
		graft  [][2]string
		stream string
	}{
		{file: "d/.git"},
		{file: "d/GIT~1/x"},
		{file: "x", stream: "/.git"},
		{file: "x", stream: "/.gitmodules/x"},
		{file: "d/x", graft: [][2]string{{"d", "/.git/d"}}},
	} {
		b := newBench(t, "rabin:13")
		b.write(c.file, []byte("x"))
		age()
		b.update()
		o := b.options()
		for _, g := range c.graft {
			o.Graft = append(o.Graft, [2]string{filepath.Join(b.src, g[0]), g[1]})
		}
		if c.stream != "" {
			o.Streams = []Stream{text(c.stream, "x")}
		}
		b.save(o)
		cmd := exec.Command("git", "-C", b.dir, "fsck", "--strict", "--no-dangling")
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "warning") {
			t.Errorf("%+v: %v\n%s", c, err, out)
		}
	}
}

// However many names there are, git needs to be told a few things only.
func TestFrownedIsSmall(t *testing.T) {
	var f frowned
	for i := range 10_000 {
		f.note(fmt.Sprintf(".git:%d", i), false)
		f.note(fmt.Sprintf("GITMOD~%d", i), false)
	}
	if len(f.names) != 2 || len(f.ids) < 2 {
		t.Errorf("%d names, %d ids", len(f.names), len(f.ids))
	}
}

// A slowDisk writes down what it is asked for and what is read of it.
type slowDisk struct {
	data       []byte
	asked      int64
	got        int64
	calls      int
	unprepared int // reads of what was not asked for
}

func (d *slowDisk) Prefetch(off, n int64) {
	d.calls++
	if off == d.asked {
		d.asked += n
	}
}

func (d *slowDisk) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, d.data[off:])
	if d.got = off + int64(n); d.got > d.asked {
		d.unprepared++
	}
	return n, nil
}

// All of a large file is asked for before it is read, once, and nothing behind its
// end; a small file is not worth it.
func TestPrefetch(t *testing.T) {
	for _, c := range []struct{ size, calls int }{
		{prefetchStep/2 - 1, 0}, {prefetchStep / 2, 1}, {prefetchStep, 1}, {prefetchStep + 1, 2}, {5*prefetchStep - 7, 5},
	} {
		b := newBench(t, "rabin:13")
		disk := &slowDisk{data: noise(1, c.size)}
		_, err := b.drive(func(f *feeder, ctx context.Context) error {
			n, err := f.extent(ctx, disk, 0, int64(c.size))
			if err == nil && n != int64(c.size) {
				err = fmt.Errorf("%d bytes, want %d", n, c.size)
			}
			if err == nil {
				f.cut(true)
				src := &source{src: "/d", dst: "/d", alone: true}
				err = errors.Join(
					f.put(ctx, item{kind: fileItem, n: n, src: src, rec: index.Record{Path: "/d/f"}, st: fsx.Stat{Mode: 0o100644}}),
					f.put(ctx, item{kind: dirItem, src: src, rec: index.Record{Path: "/d"}, st: fsx.Stat{Mode: 0o040755}}))
			}
			return err
		})
		must(t, err)
		if disk.calls != c.calls || c.calls > 0 && (disk.asked != int64(c.size) || disk.unprepared > 0) {
			t.Errorf("%d bytes: asked for %d in %d calls, %d reads came before", c.size, disk.asked, disk.calls, disk.unprepared)
		}
	}
}
