package job

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// newLoading is a Loading into files of a directory of its own.
func newLoading(t *testing.T, s Stream) (*Loading, string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.Name = "s"
	s.File = strings.ReplaceAll(s.File, "HERE", dir)
	for _, text := range []*string{&s.Command, &s.Restore, &s.Empty} {
		*text = strings.ReplaceAll(*text, "HERE", dir)
	}
	return &Loading{Stream: &s, FS: &fsx.FS{}, State: filepath.Join(dir, "state"), Env: os.Environ(), Stderr: os.Stderr,
		At: time.Date(2026, 7, 22, 23, 15, 0, 0, time.UTC)}, dir
}

const asideEnd = ".before-restore-20260722-231500"

// load looks and runs.
func (l *Loading) load(t *testing.T, text string) error {
	t.Helper()
	if _, err := l.Look(t.Context()); err != nil {
		return err
	}
	return l.Run(t.Context(), func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
}

func content(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		return "none"
	}
	return string(text)
}

// A file gets its place when it is whole; the old one keeps its own name until then, and
// another for good.
func TestLoadFile(t *testing.T) {
	l, dir := newLoading(t, Stream{Preset: "redis", File: "HERE/dump.rdb"})
	if err := l.load(t, "first"); err != nil || content(t, dir+"/dump.rdb") != "first" {
		t.Fatalf("%v, %q", err, content(t, dir+"/dump.rdb"))
	}
	if err := os.Chmod(dir+"/dump.rdb", 0o606); err != nil {
		t.Fatal(err)
	}
	var full *NotEmptyError
	if err := l.load(t, "second"); !errors.As(err, &full) || !strings.Contains(err.Error(), "dump.rdb is not empty") {
		t.Fatal(err)
	}
	l.Force = true
	if err := l.load(t, "second"); err != nil || content(t, dir+"/dump.rdb") != "second" || content(t, dir+"/dump.rdb"+asideEnd) != "first" {
		t.Fatalf("%v, %q, %q", err, content(t, dir+"/dump.rdb"), content(t, dir+"/dump.rdb"+asideEnd))
	}
	if info, err := os.Stat(dir + "/dump.rdb"); err != nil || info.Mode().Perm() != 0o606 {
		t.Errorf("the mode is not that of the old one: %v", info.Mode())
	}
	// Within the same second the second name is taken: nothing is lost by that.
	if err := l.load(t, "third"); err == nil || content(t, dir+"/dump.rdb") != "second" || content(t, dir+"/dump.rdb"+asideEnd) != "first" {
		t.Errorf("%v, %q", err, content(t, dir+"/dump.rdb"))
	}
	if content(t, dir+"/dump.rdb.restoring") != "none" {
		t.Error("what did not take its place stays")
	}
}

// A dump that ends early never becomes the file, nor what a command takes for the whole.
func TestLoadCut(t *testing.T) {
	damaged := errors.New("damaged")
	l, dir := newLoading(t, Stream{Preset: "redis", File: "HERE/dump.rdb"})
	if _, err := l.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	half := func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return damaged }
	if err := l.Run(t.Context(), half); !errors.Is(err, damaged) {
		t.Error(err)
	}
	if content(t, dir+"/dump.rdb") != "none" || content(t, dir+"/dump.rdb.restoring") != "none" {
		t.Error("half a dump is there")
	}
	l, dir = newLoading(t, Stream{Command: "x", Restore: "cat > HERE/got && echo whole > HERE/whole", Empty: "echo 0"})
	if _, err := l.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Run(t.Context(), half); !errors.Is(err, damaged) {
		t.Error(err)
	}
	if content(t, dir+"/whole") != "none" {
		t.Error("the command took half a dump for the whole")
	}
}

// Commands of the config: whether there is something is what their own "empty" says.
func TestLoadCommand(t *testing.T) {
	for _, tt := range []struct{ empty, want string }{
		{"", "is empty is not known"}, {"echo 0", ""}, {"true", ""}, {"echo 7", "is not empty"}, {"echo some", "is not empty"},
		{"echo 0; false", "is empty is not known"},
	} {
		l, dir := newLoading(t, Stream{Command: "x", Restore: "cat > HERE/got", Empty: tt.empty})
		err := l.load(t, "dump")
		switch {
		case tt.want == "" && (err != nil || content(t, dir+"/got") != "dump"):
			t.Errorf("%q: %v, %q", tt.empty, err, content(t, dir+"/got"))
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || content(t, dir+"/got") != "none"):
			t.Errorf("%q: %v, %q", tt.empty, err, content(t, dir+"/got"))
		}
		l.Force = true
		if err := l.load(t, "forced"); err != nil || content(t, dir+"/got") != "forced" {
			t.Errorf("%q, forced: %v", tt.empty, err)
		}
	}
	for _, restore := range []string{"exit 3", "head -c 1 >/dev/null; exit 3", "kill -KILL $$", "false | cat"} {
		l, _ := newLoading(t, Stream{Command: "x", Restore: restore, Empty: "echo 0"})
		if err := l.load(t, strings.Repeat("x", 1<<20)); err == nil || !strings.Contains(err.Error(), restore) {
			t.Errorf("%s: %v", restore, err)
		}
	}
}

// A directory is moved aside as a whole, and comes back as it was saved.
func TestLoadDir(t *testing.T) {
	l, dir := newLoading(t, Stream{Preset: "tar", File: "HERE/www"})
	if err := errors.Join(os.Mkdir(dir+"/www", 0o750), os.WriteFile(dir+"/www/a", []byte("a"), 0o604)); err != nil {
		t.Fatal(err)
	}
	dump, err := l.ask(t.Context(), l.Stream.dumpWords(t))
	if err != nil || len(dump) == 0 {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/www/a", []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.load(t, dump); err == nil || !strings.Contains(err.Error(), "www is not empty") {
		t.Fatal(err)
	}
	l.Force = true
	steps, err := l.Look(t.Context())
	if err != nil || !strings.Contains(strings.Join(steps, "\n"), "move "+dir+"/www aside, to "+dir+"/www"+asideEnd) {
		t.Errorf("%q, %v", steps, err)
	}
	if err := l.load(t, dump); err != nil || content(t, dir+"/www/a") != "a" || content(t, dir+"/www"+asideEnd+"/a") != "changed" {
		t.Errorf("%v, %q, %q", err, content(t, dir+"/www/a"), content(t, dir+"/www"+asideEnd+"/a"))
	}
}

// dumpWords is the dump command of a stream.
func (s *Stream) dumpWords(t *testing.T) []string {
	t.Helper()
	command, err := s.command(false, "")
	if err != nil {
		t.Fatal(err)
	}
	return []string{command}
}

// An image comes back with holes; another kind of thing in its place is not touched.
func TestLoadImage(t *testing.T) {
	l, dir := newLoading(t, Stream{Preset: "device", File: "HERE/disk.img"})
	image := strings.Repeat("\x00", 8<<20) + "data" + strings.Repeat("\x00", 8<<20)
	if err := l.load(t, image); err != nil || content(t, dir+"/disk.img") != image {
		t.Fatal(err)
	}
	if used := blocks(t, dir+"/disk.img"); used > 1<<20 {
		t.Errorf("%d bytes of it are on the disk", used)
	}
	l, dir = newLoading(t, Stream{Preset: "device", File: "HERE"})
	if _, err := l.Look(t.Context()); err == nil || !strings.Contains(err.Error(), dir+" is no regular file") {
		t.Error(err)
	}
}

func blocks(t *testing.T, file string) int64 {
	t.Helper()
	d, err := fsx.OpenDir(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	st, err := d.Lstat(filepath.Base(file))
	if err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// Lines of the head are left out, and none behind it, however the text is cut up.
func TestHeadFilter(t *testing.T) {
	const text = "a\ndrop\nb\ndropped\n\\connect x\ndrop\nrest without end"
	const want = "a\nb\ndropped\n\\connect x\ndrop\nrest without end"
	for size := 1; size <= len(text); size++ {
		var out bytes.Buffer
		h := &headFilter{w: &out, skip: []string{"drop"}, end: `\connect `}
		for i := 0; i < len(text); i += size {
			if n, err := h.Write([]byte(text[i:min(i+size, len(text))])); n != min(size, len(text)-i) || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := h.flush(); err != nil || out.String() != want {
			t.Fatalf("pieces of %d: %q, %v", size, out.String(), err)
		}
	}
	var out bytes.Buffer
	h := &headFilter{w: &out, skip: []string{"drop"}, end: `\connect `}
	_, _ = h.Write([]byte("no end\ndrop"))
	if err := h.flush(); err != nil || out.String() != "no end\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
