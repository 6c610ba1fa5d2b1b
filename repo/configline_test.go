package repo

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// A config that cannot be parsed is named with its path and the line, as git
// counts lines.
func TestConfigLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	if _, err := InitDir(t.Context(), dir, InitOptions{}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "config")
	for text, want := range map[string]string{
		"[core\n":                                "line 1: expected subsection name or right bracket",
		"[core]\n\tbare = true\n[x\n":            "line 3: expected subsection name or right bracket",
		"a=b\n":                                  "line 1: expected section header",
		"[core]\n\tx y z\n":                      "line 2: expected '='",
		"[core]\n]\n":                            "line 2: expected section header or variable declaration",
		"[core]\n\tx = \\q\n":                    "line 2: unknown escape sequence",
		"[core] bare = true\n[y] z = \\q\n":      "line 2: unknown escape sequence",
		"[core] x = 1\n\n[a] y=1\n [b] x=2\n[ z": "line 5: expected subsection name or right bracket",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenDir(t.Context(), dir, DirOptions{})
		var corrupt *pack.CorruptError
		if !errors.As(err, &corrupt) || corrupt.File != name || corrupt.Reason != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
		if _, err := InitDir(t.Context(), dir, InitOptions{}); !errors.As(err, &corrupt) || corrupt.File != name {
			t.Errorf("%q: init: %v", text, err)
		}
		if _, err := exec.LookPath("git"); err != nil || text == "a=b\n" { // which git takes for a key of no section
			continue
		}
		msg, _ := exec.Command("git", "config", "-f", name, "--list").CombinedOutput()
		line, _, _ := strings.Cut(want, ":")
		if !strings.Contains(string(msg), "bad config "+line+" ") {
			t.Errorf("%q: git says %s", text, msg)
		}
	}
}
