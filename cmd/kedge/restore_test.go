package main

import (
	"context"
	"os"
	"strings"
	"testing"
)

// TestTarToTerminal: an archive is for programs. On a terminal nothing of it is
// written, and the advice says what to do.
func TestTarToTerminal(t *testing.T) {
	u := newPerson(t)
	u.do("backup -q -n x --strip src")
	u.width = 80
	out, err, code := u.run(context.Background(), "restore --tar x/latest")
	if out != "" || code != exitUsage || !strings.Contains(err, "error: --tar: standard output is a terminal") || !strings.Contains(err, "hint: send the archive") {
		t.Errorf("exit %d, %d bytes\n%s", code, len(out), err)
	}
	u.width = 0
	if out, err := u.do("restore --tar x/latest"); len(out)%512 != 0 || !strings.Contains(out, "ustar\x00") || err != "" {
		t.Errorf("%d bytes, %q", len(out), err)
	}
}

// TestRestoreSummary: the last line tells what was done and nothing that was not.
func TestRestoreSummary(t *testing.T) {
	u := newPerson(t)
	u.do("backup -q -n x --strip src")
	if err := os.MkdirAll("out/extra", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ line, want string }{
		{"restore -v --tar x/latest/", "3 files and 1 directory in the archive (26 B), "},
		{"restore -v --dry-run -C out x/latest/.", "3 files and 2 directories would be written (26 B), 0 left alone, "},
		{"restore -v -C out x/latest/.", "3 files and 2 directories written (26 B), 0 left alone, "},
		{"restore -v -C out x/latest/.", "0 files and 0 directories written (0 B), 5 left alone, "},
		{"restore -v --delete -C out x/latest/.", "0 files and 1 directory written (0 B), 4 left alone, 1 removed, "},
	} {
		_, err := u.do(c.line)
		lines := strings.Split(strings.TrimSpace(err), "\n")
		if got := lines[len(lines)-1]; !strings.HasPrefix(got, "kedge: "+c.want) {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
}

// TestRestoreNames: what -v lists and what is warned of goes to a terminal or a
// log, so names are escaped there.
func TestRestoreNames(t *testing.T) {
	u := newPerson(t)
	if err := os.WriteFile("src/new\nline", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("src/full\x1b", 0o755); err != nil {
		t.Fatal(err)
	}
	u.do("backup -q -n x --strip src")
	_, err := u.do("restore -v -C out x/latest/.")
	for _, want := range []string{"+ /new\\nline\n", "+ /evil\\x1b[2J\n", "+ /full\\x1b/\n"} {
		if !strings.Contains(err, want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if rerr := os.Remove("out/full\x1b"); rerr != nil {
		t.Fatal(rerr)
	}
	if serr := os.Symlink("elsewhere", "out/full\x1b"); serr != nil {
		t.Fatal(serr)
	}
	_, err, code := u.run(context.Background(), "restore -C out x/latest/.")
	if code != exitPartial || !strings.Contains(err, "kedge: warning: /full\\x1b/: a symbolic link is where the directory goes\n") || strings.Contains(err, "\x1b") {
		t.Errorf("exit %d, %q", code, err)
	}
}
