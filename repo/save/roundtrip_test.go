package save

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// zoo fills the source with one of everything that needs no privilege.
func (b *bench) zoo() {
	b.t.Helper()
	b.write("empty", nil)
	b.write("small", []byte("hello\n"))
	b.write("large", noise(1, 3_000_000))
	b.write("dir/x.bup", []byte("a name with a meaning"))
	b.write("dir/.bupm", []byte("another"))
	b.write("dir/sub/deep/file", noise(2, 100_000))
	b.write("-\xff\n", []byte("a name that is no text"))
	b.write("a", []byte("a"))
	b.write("a-b", []byte("sorts before what is in a.d"))
	b.write("a.d/file", []byte("sorts in between"))
	must(b.t, os.MkdirAll(b.src+"/dir/void", 0o700))
	must(b.t, os.Chmod(b.src+"/small", 0o4751))
	must(b.t, os.Symlink("small", b.src+"/link"))
	must(b.t, os.Symlink(strings.Repeat("long/", 500), b.src+"/dir/long"))
	must(b.t, os.Link(b.src+"/large", b.src+"/dir/same"))
	must(b.t, os.Link(b.src+"/large", b.src+"/zz"))
	must(b.t, syscall.Mkfifo(b.src+"/fifo", 0o640))
	must(b.t, syscall.Mknod(b.src+"/socket", syscall.S_IFSOCK|0o600, 0))
	must(b.t, os.Chtimes(b.src+"/a", time.Unix(-7, 5), time.Unix(-3, 999_999_999)))
}

// expect is what a saved tree of the source must hold, from what is on disk.
func (b *bench) expect() map[string]saved {
	b.t.Helper()
	all := map[string]saved{}
	first := map[[2]uint64]string{}
	count := map[[2]uint64]bool{}
	var ns meta.Names
	must(b.t, filepath.WalkDir(b.src, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		up, err := fsx.OpenDir(filepath.Dir(name))
		if err != nil {
			return err
		}
		defer up.Close()
		st, err := up.Lstat(filepath.Base(name))
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(b.src, name)
		s := saved{meta: meta.FromStat(st, &ns)}
		s.meta.Size = -1
		switch {
		case isRegular(st.Mode):
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			s.data, s.meta.Size = string(data), st.Size
		case isSymlink(st.Mode):
			if s.data, err = os.Readlink(name); err != nil {
				return err
			}
			s.meta.Symlink, s.meta.Size = s.data, st.Size
		}
		if k := [2]uint64{st.Dev, st.Ino}; st.Nlink > 1 && !isDir(st.Mode) {
			bups := strings.HasPrefix(b.repo.Config().Chunker, "rollsum:") // which go backwards
			if f, ok := first[k]; !ok || !bups && index.Compare(name, f) < 0 || bups && name > f {
				first[k] = name
			}
			count[k] = true
		}
		all[rel] = s
		return nil
	}))
	for name, s := range all {
		var st syscall.Stat_t
		must(b.t, syscall.Lstat(filepath.Join(b.src, name), &st))
		if k := [2]uint64{uint64(st.Dev), st.Ino}; count[k] && !isDir(st.Mode) {
			s.meta.Hardlink = first[k]
			all[name] = s
		}
	}
	return all
}

// same compares a saved tree with what is on disk. The atime is left out: the
// test itself reads the files.
func (b *bench) same(got, want map[string]saved) {
	b.t.Helper()
	if !slices.Equal(names(got), names(want)) {
		b.t.Fatalf("saved:\n%q\non disk:\n%q", names(got), names(want))
	}
	for name, w := range want {
		g := got[name]
		if g.data != w.data {
			b.t.Errorf("%s: %d bytes, want %d", name, len(g.data), len(w.data))
		}
		g.meta.Extras, g.meta.Atime, w.meta.Atime = meta.Extras{}, fsx.Time{}, fsx.Time{}
		if !reflect.DeepEqual(g.meta, w.meta) {
			b.t.Errorf("%s:\nsaved   %+v\non disk %+v", name, g.meta, w.meta)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, chunker := range []string{"rabin:13", "gear:13", "rollsum:13", "rabin:10", "gear:20"} {
		t.Run(chunker, func(t *testing.T) {
			b := newBench(t, chunker)
			b.zoo()
			res := b.fresh()
			if len(b.warn) > 0 || res.Unreadable+res.Changed > 0 {
				t.Errorf("warnings: %q", b.warn)
			}
			all := b.tree(res.Tree)
			want := b.expect()
			b.same(part(all, b.src), want)
			if all["."].meta.Mode == 0 {
				t.Error("the root has no metadata")
			}
			if tip := b.tip("x"); tip != res.Commit {
				t.Errorf("the name stands at %v, not at %v", tip, res.Commit)
			}
			files, dirs, bytes := count(all)
			if res.Files != files || res.Dirs != dirs || res.Bytes != bytes {
				t.Errorf("counted %d files, %d directories, %d bytes; there are %d, %d, %d", res.Files, res.Dirs, res.Bytes, files, dirs, bytes)
			}
			if !strings.Contains(b.message(res.Commit), fmt.Sprintf("Kedge-Files: %d\nKedge-Bytes: %d\nKedge-Unreadable: 0\n", files, bytes)) {
				t.Errorf("message: %s", b.message(res.Commit))
			}
		})
	}
}

// count adds up a saved tree.
func count(all map[string]saved) (files, dirs, bytes int64) {
	for name, s := range all {
		switch {
		case name == "." || s.mode == repo.ModeDir && isDir(s.meta.Mode) || s.meta.Mode == 0 && s.data == "":
			dirs++
			continue
		case isRegular(s.meta.Mode):
			bytes += int64(len(s.data))
		}
		files++
	}
	return files, dirs, bytes
}

// The number of workers has no influence on what is saved.
func TestWorkers(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.zoo()
	for i := range 300 {
		b.write(fmt.Sprintf("many/%d/%d", i%7, i), noise(i, i*i%30_000))
	}
	b.write("large", noise(1, 3_000_000)) // whose cuts several goroutines find, if there are many
	age()
	var first pack.ID
	for _, workers := range []int{1, 2, 8, 61} {
		must(t, os.RemoveAll(b.file))
		b.update()
		b.dir = t.TempDir()
		b.init("")
		o := b.options()
		o.Workers = workers
		res := b.save(o)
		id := part(b.tree(res.Tree), b.src)["."].id
		if workers == 1 {
			first = id
		}
		if id != first {
			t.Errorf("%d workers save %v, one saves %v", workers, id, first)
		}
	}
}

// A night without changes reads one record, and takes the whole tree over with
// all figures. A change leads to its file alone.
func TestUnchanged(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.zoo()
	first := b.fresh()
	second := b.fresh()
	if second.FilesRead+second.BytesRead+second.BytesNew != 0 {
		t.Errorf("read without need: %+v", second)
	}
	if second.Files != first.Files || second.Dirs != first.Dirs || second.Bytes != first.Bytes {
		t.Errorf("figures went from %+v to %+v", first, second)
	}
	if part(b.tree(first.Tree), b.src)["."].id != part(b.tree(second.Tree), b.src)["."].id {
		t.Error("the tree is another one")
	}
	if second.Previous != first.Commit || second.Commit == first.Commit {
		t.Errorf("commit %v on %v, the first was %v", second.Commit, second.Previous, first.Commit)
	}
	if !slices.Equal(b.seen, []string{"  "}) {
		t.Errorf("seen: %q", b.seen)
	}

	b.write("dir/sub/deep/file", []byte("changed"))
	b.write("dir/new", []byte("new"))
	must(t, os.Remove(b.src+"/a"))
	must(t, os.Remove(b.src+"/fifo"))
	third := b.fresh()
	if third.FilesRead != 2 || third.FilesNew != 1 || third.BytesRead != 10 || third.BytesNew != 10 {
		t.Errorf("after changes: %+v", third)
	}
	b.same(part(b.tree(third.Tree), b.src), b.expect())
	want := []string{
		"  /-\xff\n", "D /a", "  /a-b", "  /a.d", "  /dir/.bupm", "  /dir/long", "A /dir/new", "  /dir/same",
		"M /dir/sub/deep/file", "M /dir/sub/deep", "M /dir/sub", "  /dir/void", "  /dir/x.bup", "M /dir",
		"  /empty", "D /fifo", "  /large", "  /link", "  /small", "  /socket", "  /zz", "M ",
	}
	if !slices.Equal(b.seen, want) {
		t.Errorf("seen:\n%q\nwant\n%q", b.seen, want)
	}
	files, dirs, bytes := count(b.tree(third.Tree))
	if third.Files != files || third.Dirs != dirs || third.Bytes != bytes {
		t.Errorf("counted %d, %d, %d; there are %d, %d, %d", third.Files, third.Dirs, third.Bytes, files, dirs, bytes)
	}
	// A directory's totals are those of what it was built of, wherever that came from.
	fourth := b.fresh()
	if fourth.Files != files || fourth.Bytes != bytes || fourth.FilesRead != 0 {
		t.Errorf("taken over: %+v", fourth)
	}
}

// What may have changed since it was read is read again, and so is everything
// above it built again.
func TestRacy(t *testing.T) {
	b := newBench(t, "rabin:13")
	name := b.write("dir/racy", []byte("one"))
	b.write("dir/calm", []byte("calm"))
	b.write("other/calm", []byte("calm"))
	future := time.Now().Add(time.Hour)
	must(t, os.Chtimes(name, future, future))
	b.fresh()
	if rec := b.record(name); rec.Flags&index.Valid != 0 || rec.ID.IsZero() {
		t.Errorf("record of a racy file: %+v", rec)
	}
	if b.record(b.src+"/dir").Flags&index.Valid != 0 || b.record(b.src).Flags&index.Valid != 0 {
		t.Error("a directory above a racy file is valid")
	}
	if b.record(b.src+"/other").Flags&index.Valid == 0 || b.record(b.src+"/dir/calm").Flags&index.Valid == 0 {
		t.Error("what is not racy is not valid")
	}
	res := b.fresh()
	if res.FilesRead != 1 || res.BytesNew != 0 {
		t.Errorf("saved again: %+v", res)
	}
}

// One index serves a second repository, and one that lost what it had.
func TestOtherRepository(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.zoo()
	first := b.fresh()
	for _, chunker := range []string{"rabin:13", "gear:13", "rabin:13"} {
		b.dir = t.TempDir()
		b.init(chunker)
		res := b.fresh()
		if res.FilesRead != first.FilesRead || res.Bytes != first.Bytes {
			t.Errorf("%s: read %d files, %d bytes", chunker, res.FilesRead, res.Bytes)
		}
		b.same(part(b.tree(res.Tree), b.src), b.expect())
	}
}

// The same bytes are stored once in a run, whoever reads them when.
func TestDedupWithinRun(t *testing.T) {
	b := newBench(t, "rabin:13")
	one := noise(1, 5_000_000)
	b.write("a", one)
	b.write("b", one)
	b.write("c", append([]byte("in front"), one...))
	b.write("d", one[:1000])
	b.write("e", one[:1000])
	res := b.fresh()
	if res.BytesRead != 15_002_008 || res.BytesNew+res.BytesDedup != res.BytesRead {
		t.Errorf("read %d bytes, %d new and %d not", res.BytesRead, res.BytesNew, res.BytesDedup)
	}
	if res.BytesNew < 5_000_000 || res.BytesNew > 5_200_000 {
		t.Errorf("%d bytes are new", res.BytesNew)
	}
	if res.BytesStored > 5_300_000 {
		t.Errorf("%d bytes stored", res.BytesStored)
	}
}

func TestStreams(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("dir/sub/file", []byte("file"))
	b.write("dir/sub/deep/file", []byte("deep"))
	b.write("else/file", []byte("else"))
	b.fresh()
	for range 2 { // with directories that are valid in the index, too
		o := b.options()
		o.Streams = []Stream{
			text(b.src+"/dir/sub/dump", string(noise(3, 200_000))),
			text(b.src+"/dir/new/place", "small"),
			text("/elsewhere/empty", ""),
		}
		res := b.save(o)
		all := b.tree(res.Tree)
		got := part(all, b.src)
		for name, want := range map[string]string{
			"dir/sub/dump": string(noise(3, 200_000)), "dir/new/place": "small",
			"dir/sub/file": "file", "dir/sub/deep/file": "deep", "else/file": "else",
		} {
			if s, ok := got[name]; !ok || s.data != want {
				t.Errorf("%s: %d bytes, %v", name, len(s.data), ok)
			}
		}
		if s, ok := all["elsewhere/empty"]; !ok || s.data != "" || s.meta.Mode != 0o100600 {
			t.Errorf("the empty stream: %+v, %v", s, ok)
		}
		if got["dir"].meta.Mode != 0o040755 || got["dir/new"].meta.Mode != 0 {
			t.Error("directories above streams: of the source with its metadata, others with none")
		}
		files, dirs, bytes := count(all)
		if len(b.warn) > 0 || res.Files != files || res.Bytes != bytes || res.Dirs != dirs {
			t.Errorf("warned of %q; %d files, %d directories, %d bytes of %d, %d, %d", b.warn, res.Files, res.Dirs, res.Bytes, files, dirs, bytes)
		}
	}
	// Without the streams the directories are what they were.
	res := b.fresh()
	if got := part(b.tree(res.Tree), b.src); len(got) != 8 || res.FilesRead != 0 {
		t.Errorf("%q, %d files read", names(got), res.FilesRead)
	}
}

// text is a stream of a string.
func text(path, s string) Stream {
	return Stream{Path: path, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }}
}

// Nothing is read if a stream has no place.
func TestStreamCollides(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("dir/file", []byte("file"))
	b.update()
	for _, c := range []struct {
		stream string
		graft  [][2]string
		ok     bool
	}{
		{stream: b.src + "/dir/file"},
		{stream: b.src + "/dir/file/below"},
		{stream: b.src + "/dir"},
		{stream: b.src},
		{stream: filepath.Dir(b.src)},
		{stream: "/to", graft: [][2]string{{b.src, "/to"}}},
		{stream: "/to/dir/file", graft: [][2]string{{b.src, "/to"}}},
		{stream: "/to/file", graft: [][2]string{{b.src + "/dir", "/to"}}},
		{stream: b.src + "/dir/other", ok: true},
		{stream: b.src + "/dir/file", graft: [][2]string{{b.src, "/to"}}, ok: true},
		{stream: b.src + "/dir/file", graft: [][2]string{{b.src + "/dir", "/to"}}, ok: true},
	} {
		o := b.options()
		o.Graft = c.graft
		opened := false
		o.Streams = []Stream{{Path: c.stream, Open: func(context.Context) (io.ReadCloser, error) {
			opened = true
			return io.NopCloser(strings.NewReader("x")), nil
		}}}
		_, err := b.try(o)
		if errors.As(err, new(*CollisionError)) == c.ok || err != nil && c.ok {
			t.Errorf("%+v: %v", c, err)
		}
		if opened != c.ok {
			t.Errorf("%+v: opened: %v", c, opened)
		}
	}
}

// Roots that are files, nested, given twice; and one that is not there.
func TestRoots(t *testing.T) {
	b := newBench(t, "rabin:13")
	file := b.write("dir/file", []byte("file"))
	b.write("dir/other", []byte("other"))
	b.write("sub/x", []byte("x"))
	age()
	b.update()
	o := b.options()
	o.Roots = []string{file, b.src + "/sub/x", b.src + "/sub", b.src + "/sub"}
	res := b.save(o)
	if got := names(part(b.tree(res.Tree), b.src)); !slices.Equal(got, []string{".", "dir", "dir/file", "sub", "sub/x"}) {
		t.Errorf("saved %q", got)
	}
	if res.Files != 2 || res.FilesRead != 2 {
		t.Errorf("%+v", res)
	}
	for _, strip := range []bool{false, true} { // a file is not moved
		o = b.options()
		o.Roots, o.Strip = []string{file}, strip
		if got := names(part(b.tree(b.save(o).Tree), b.src)); !slices.Equal(got, []string{".", "dir", "dir/file"}) {
			t.Errorf("a file alone: %q", got)
		}
	}
	o = b.options()
	o.Roots = []string{b.src, b.src + "/dir/missing"}
	if _, err := b.try(o); !errors.As(err, new(*NotIndexedError)) {
		t.Errorf("a path that is not there: %v", err)
	}
}
