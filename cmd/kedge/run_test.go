package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// person runs command lines in a directory of its own.
type person struct {
	t     *testing.T
	dir   string
	fs    *fsx.FS
	width int // of the terminal that all output goes to; 0: none
}

func newPerson(t *testing.T) *person {
	u := &person{t: t, dir: t.TempDir(), fs: &fsx.FS{}}
	t.Chdir(u.dir)
	if err := os.MkdirAll("src/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"src/a", "src/dir/b", "src/evil\x1b[2J"} {
		if err := os.WriteFile(name, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func (u *person) run(ctx context.Context, line string) (stdout, stderr string, code int) {
	var out, err strings.Builder
	code = run(ctx, append([]string{"kedge", "-d", filepath.Join(u.dir, "repo")}, strings.Fields(line)...), world{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &err,
		Env: func(string) string { return "" }, FS: u.fs,
		Terminal: func(any) int { return u.width },
	})
	return out.String(), err.String(), code
}

// do runs a command line that must go well.
func (u *person) do(line string) (stdout, stderr string) {
	u.t.Helper()
	out, err, code := u.run(context.Background(), line)
	if code != 0 {
		u.t.Fatalf("kedge %s: exit %d\n%s%s", line, code, out, err)
	}
	return out, err
}

// A terminal gets columns, progress and escaped names; everything else gets
// lines, silence and bytes.
func TestTerminal(t *testing.T) {
	u := newPerson(t)
	if out, err := u.do("backup -q -n x --strip src"); out+err != "" {
		t.Errorf("-q without a terminal: %q", out+err)
	}
	if out, err := u.do("ls x/latest"); out != "a\ndir\nevil\x1b[2J\n" || err != "" {
		t.Errorf("%q %q", out, err)
	}
	u.width = 40
	if out, _ := u.do("ls x/latest"); out != `a  dir  evil\x1b[2J`+"\n" {
		t.Errorf("on a terminal: %q", out)
	}
	if out, _ := u.do("ls -l x/latest"); !strings.Contains(out, `evil\x1b[2J`) || strings.Contains(out, "\x1b") {
		t.Errorf("on a terminal: %q", out)
	}
	if _, err := u.do("index src"); !strings.Contains(err, "kedge: indexed 5 paths: 0 new") {
		t.Errorf("index says %q", err)
	}
	if _, err := u.do("index -q src"); strings.Contains(err, "indexed") {
		t.Errorf("index -q says %q", err)
	}
	for _, line := range []string{"fsck -q", "restore -q -C out x/latest", "save -q -n x src", "index --no-progress -q src"} {
		if _, err := u.do(line); err != "" {
			t.Errorf("%s says %q", line, err)
		}
	}
}

// A full disk and a file system that is read-only end in one line that names
// the file, and in nothing else: the name stays where it was.
func TestFullDisk(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EROFS, syscall.EIO} {
		u := newPerson(t)
		u.do("backup -q -n x src")
		before, _ := u.do("ls --commit-hash x")
		u.do("index src")
		if err := os.WriteFile("src/new", []byte("new"), 0o644); err != nil {
			t.Fatal(err)
		}
		full := func(op fsx.Op, do func() error) error {
			switch op.Kind {
			case fsx.KindCreate, fsx.KindWrite, fsx.KindMkdir, fsx.KindLink, fsx.KindRename:
				return errno
			}
			return do()
		}
		for _, line := range []string{"index src", "save -n x src", "backup -n x src", "init -r other"} {
			u.fs = &fsx.FS{Intercept: full}
			_, stderr, code := u.run(context.Background(), line)
			if code != exitFailed || strings.Count(stderr, "kedge: error: ") != 1 || !strings.Contains(stderr, errno.Error()) {
				t.Errorf("%v: kedge %s: exit %d\n%s", errno, line, code, stderr)
			}
			if hint := strings.Contains(stderr, "kedge: hint: "); hint != (errno != syscall.EIO) {
				t.Errorf("%v: kedge %s: hint: %v\n%s", errno, line, hint, stderr)
			}
		}
		u.fs = &fsx.FS{}
		if after, _ := u.do("ls --commit-hash x"); after != before {
			t.Errorf("%v: the name has moved", errno)
		}
		u.do("backup -q -n x src")
		u.do("fsck")
	}
}

// What reads must not need the right to write.
func TestReadOnly(t *testing.T) {
	u := newPerson(t)
	u.do("backup -q -n x --strip src")
	u.fs = &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		switch op.Kind {
		case fsx.KindCreate, fsx.KindWrite, fsx.KindMkdir, fsx.KindLink, fsx.KindRename, fsx.KindRemove, fsx.KindTruncate, fsx.KindSync, fsx.KindSyncDir:
			return &os.PathError{Op: "write", Path: op.Path, Err: syscall.EROFS}
		}
		return do()
	}}
	for _, line := range []string{"ls -lR x", "cat-file x/latest/a", "restore -C out x/latest", "restore --tar x/latest", "fsck", "index -p src", "index --check", "version"} {
		u.do(line)
	}
}

// An interrupted command says so and nothing else.
func TestInterrupted(t *testing.T) {
	u := newPerson(t)
	u.do("backup -q -n x src")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, line := range []string{"index src", "save -n x src", "backup -n x src", "restore -C out x/latest", "fsck", "ls -lR x"} {
		_, stderr, code := u.run(ctx, line)
		if code != exitInterrupted || stderr != "kedge: error: interrupted\n" {
			t.Errorf("kedge %s: exit %d\n%s", line, code, stderr)
		}
	}
}

// Sources are resolved but for a link at their very end.
func TestSourcePath(t *testing.T) {
	u := newPerson(t)
	dir, err := filepath.EvalSymlinks(u.dir)
	if err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"link": "src", "src/up": "..", "src/dangling": "nowhere"} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	for in, want := range map[string]string{
		"src": "src", "src/": "src", "./src/.": "src", "src/dir/..": "src", "link": "link", "link/": "src",
		"link/.": "src", "link/dir": "src/dir", "link/..": "", "src/up/link/a": "src/a", "src/dangling": "src/dangling",
		"gone/a/../b": "gone/b", ".": "", dir + "//src//a": "src/a",
	} {
		if got, err := sourcePath(in); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%s: %s, %v, want %s", in, got, err, filepath.Join(dir, want))
		}
	}
	if _, err := sourcePath(""); err == nil {
		t.Error("an empty path is taken")
	}
}
