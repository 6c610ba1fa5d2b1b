package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
	"github.com/kedgebackup/kedge/repo/prune"
)

func TestSplitWords(t *testing.T) {
	for _, tt := range []struct {
		line string
		want []string
		open bool
	}{
		{"", nil, false},
		{"  ls\t-l  x ", []string{"ls", "-l", "x"}, false},
		{`cat "a b" 'c d'e`, []string{"cat", "a b", "c de"}, false},
		{`cat a\ b \"x\"`, []string{"cat", "a b", `"x"`}, false},
		{`cat "a\"b" 'a\b' ""`, []string{"cat", `a"b`, `a\b`, ""}, false},
		{`ls 'b/la`, []string{"ls", "b/la"}, true},
		{`ls a\`, []string{"ls", "a"}, true},
	} {
		got, open := splitWords(tt.line)
		if !slices.Equal(got, tt.want) || open != tt.open {
			t.Errorf("%q: %q %v, want %q %v", tt.line, got, open, tt.want, tt.open)
		}
	}
}

// shellRepo is a repository with a save of a, of the files that are named.
func shellRepo(t *testing.T, files ...string) (*app, *ftpShell) {
	t.Helper()
	dir := t.TempDir()
	home, src := filepath.Join(dir, "r"), filepath.Join(dir, "src")
	for _, name := range files {
		at := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q"}, {"index", src}, {"save", "-q", "-n", "a", "-d", "1700000000", "--strip", src}} {
		if _, msg, code := output(t, "kedge", append([]string{"-d", home}, args...)...); code != 0 {
			t.Fatal(msg)
		}
	}
	p, err := repo.OpenDir(context.Background(), home, repo.DirOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	a := testApp("kedge")
	return a, &ftpShell{a: a, ctx: context.Background(), r: p, v: &repo.VFS{Repo: p, Zone: time.UTC}, wd: "/"}
}

func TestComplete(t *testing.T) {
	_, sh := shellRepo(t, "one", "only", "sp ace", "dir/x", ".hidden")
	for _, tt := range []struct {
		wd, line, added string
		choices         []string
	}{
		{"/", "p", "wd ", nil},
		{"/", "c", "", []string{"cd ", "cat "}},
		{"/", "ls ", "a/", nil},
		{"/", "ls a/la", "test/", nil},
		{"/", "ls a/2023-11-14-2", "21320/", nil},
		{"/a/latest", "cat o", "n", nil},
		{"/a/latest", "cat on", "", []string{"one ", "only "}},
		{"/a/latest", "cat one x on", "", []string{"one ", "only "}},
		{"/a/latest", "cat s", `p\ ace `, nil},
		{"/a/latest", `cat sp\ a`, "ce ", nil},
		{"/a/latest", "get .h", "idden ", nil},
		{"/a/latest", "cd di", "r/", nil},
		{"/a/latest", "cat dir/", "x ", nil},
		{"/a/latest", "cat nosuch/", "", nil},
		{"/a/latest", `cat "o`, "", nil},
	} {
		sh.wd = tt.wd
		added, choices := sh.complete(tt.line)
		if added != tt.added || !slices.Equal(choices, tt.choices) {
			t.Errorf("in %s %q: %q %q, want %q %q", tt.wd, tt.line, added, choices, tt.added, tt.choices)
		}
	}
}

// A terminal types a line with tabs in it, and sees the choices there are.
func TestEditor(t *testing.T) {
	_, sh := shellRepo(t, "one", "only")
	var screen bytes.Buffer
	term := sh.editor(struct {
		io.Reader
		io.Writer
	}{strings.NewReader("ca\ta/la\to\t\tl\t\r"), &screen})
	line, err := term.ReadLine()
	if err != nil || line != "cat a/latest/only " {
		t.Errorf("%q, %v", line, err)
	}
	if !strings.Contains(screen.String(), "one ") {
		t.Errorf("the choices were not shown: %q", screen.String())
	}
}

func TestBupPeriod(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{"0s": 0, "90s": 90 * time.Second, "2min": 2 * time.Minute, "3h": 3 * time.Hour,
		"4d": 4 * day, "1w": 7 * day, "2m": 62 * day, "1y": 366 * day} {
		if d, forever, err := bupPeriod(s); d != want || forever || err != nil {
			t.Errorf("%s: %v %v %v", s, d, forever, err)
		}
	}
	for _, s := range []string{"forever", "400y", "2147483647y"} {
		if _, forever, err := bupPeriod(s); !forever || err != nil {
			t.Errorf("%s is not forever: %v", s, err)
		}
	}
	for _, s := range []string{"", "d", "1", "1y2m", "-1d", "1 d", "1x", "99999999999d"} {
		if _, _, err := bupPeriod(s); err == nil {
			t.Errorf("%q is a period", s)
		}
	}
}

// The rules follow one another: a save that is too old for one is left to the next.
func TestKeepOlder(t *testing.T) {
	at := func(s string) time.Time {
		d, err := time.Parse("2006-01-02T15", s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	since := func(s string) *time.Time {
		d := at(s)
		return &d
	}
	dates := []string{"2024-03-02T20", "2024-03-02T10", "2024-03-01T10", "2024-02-20T10", "2024-02-10T10", "2023-02-10T10", "2022-07-01T10"}
	for _, tt := range []struct {
		since [4]*time.Time
		want  string
	}{
		{[4]*time.Time{since("2024-03-02T00")}, "++-----"},
		{[4]*time.Time{nil, since("2000-01-01T00")}, "+-+++++"},
		{[4]*time.Time{nil, nil, since("2000-01-01T00")}, "+--+-++"},
		{[4]*time.Time{nil, nil, nil, since("2000-01-01T00")}, "+----++"},
		{[4]*time.Time{since("2024-03-02T15"), since("2024-03-01T00"), nil, since("2023-01-01T00")}, "++++-+-"},
		{[4]*time.Time{since("2030-01-01T00")}, "-------"},
	} {
		saves := make([]prune.Save, len(dates))
		for i, d := range dates {
			saves[i].Commit.Author.When = at(d)
		}
		keepOlder(saves, tt.since, time.UTC)
		got := ""
		for i := range saves {
			got += map[bool]string{true: "+", false: "-"}[saves[i].Kept()]
		}
		if got != tt.want {
			t.Errorf("%v: %s, want %s", tt.since, got, tt.want)
		}
		for i := range saves {
			saves[i].Pinned = true
		}
		keepOlder(saves, tt.since, time.UTC)
		if i := slices.IndexFunc(saves, func(s prune.Save) bool { return !s.Kept() }); i >= 0 {
			t.Errorf("pinned save %d goes", i)
		}
	}
}

func TestArchivePath(t *testing.T) {
	for path, want := range map[string]string{"/": ".", "/etc/x": "etc/x", "../../a": "a", "./a/": "a/", ".": ".", "..": ".",
		"a/../b": "b", "//a": "a", "a/..b": "a/..b"} {
		if got := archivePath(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// slowly gives out a byte at a time.
type slowly struct{ r io.Reader }

func (s slowly) Read(b []byte) (int, error) { return s.r.Read(b[:min(1, len(b))]) }

// Archives come back as they were written, however they arrive, and what is no archive
// is an error.
func TestEachMeta(t *testing.T) {
	var archive []byte
	var want []meta.Meta
	for i := range 300 {
		m := meta.Meta{Path: strings.Repeat("p", 1+i), Mode: 0o100644, UID: int64(i), Mtime: fsx.Time{Sec: int64(-i), Nsec: 5}, Size: 7}
		want = append(want, m)
		archive = append(m.Append(archive), 0) // and one of which nothing is known
	}
	read := func(r io.Reader) (got []meta.Meta, err error) {
		err = eachMeta(context.Background(), r, func(m *meta.Meta) error {
			got = append(got, *m)
			return nil
		})
		return got, err
	}
	for _, r := range []io.Reader{bytes.NewReader(archive), slowly{bytes.NewReader(archive)}} {
		got, err := read(r)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%d entries of %d, %v", len(got), len(want), err)
		}
	}
	if _, err := read(bytes.NewReader(archive[:len(archive)-2])); err == nil {
		t.Error("a torn archive is read")
	}
	if _, err := read(strings.NewReader("nonsense of some length")); err == nil {
		t.Error("nonsense is read")
	}
}

// Whatever an archive says, nothing is made outside of the directory.
func FuzzMetaExtract(f *testing.F) {
	for _, path := range []string{"a", "../a", "a/../../b", "/etc/x", "link/x", ""} {
		for _, mode := range []uint32{0o100644, 0o040755, 0o120777, 0o010600} {
			m := meta.Meta{Path: path, Mode: mode, Symlink: ".."}
			f.Add(m.Append(nil))
		}
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		top := t.TempDir()
		inside := filepath.Join(top, "inside")
		if err := os.Mkdir(inside, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..", filepath.Join(inside, "link")); err != nil {
			t.Fatal(err)
		}
		root, err := fsx.OpenDir(inside)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		x := extraction{a: testApp("kedge"), root: root}
		_ = eachMeta(context.Background(), bytes.NewReader(archive), func(m *meta.Meta) error {
			if m.Type() == meta.TypeChar || m.Type() == meta.TypeBlock {
				return nil
			}
			x.do("+ ", m, &metaOptions{extract: true}, x.make)
			return nil
		})
		list, err := os.ReadDir(top)
		if err != nil || len(list) != 1 {
			t.Fatalf("%v stands outside, %v", list, err)
		}
	})
}
