package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// The quota of the config file is that of keys whose line in authorized_keys says none, below the
// root that the config names, however either of them is written.
func TestUsualQuota(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	root, file := filepath.Join(dir, "srv"), filepath.Join(dir, "kedge.toml")
	for _, name := range []string{root, filepath.Join(dir, "other"), filepath.Join(dir, "jobs.d")} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(root, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	// The secrets of jobs are nobody's who serves.
	if err := os.WriteFile(filepath.Join(dir, "jobs.d", "a.toml"), []byte("not for everybody"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "jobs.d", "a.toml"), 0o666); err != nil {
		t.Fatal(err)
	}
	server := func(root string) string { return fmt.Sprintf("[server]\nroot = %q\nquota = \"64k\"\n", root) }
	for what, x := range map[string]struct {
		text, root string
		want       int64
	}{
		"the same":            {server(root), root, 64 << 10},
		"with a slash":        {server(root + "/"), root, 64 << 10},
		"through a link":      {server(root), filepath.Join(dir, "link"), 64 << 10},
		"configured by link":  {server(filepath.Join(dir, "link")), root, 64 << 10},
		"another":             {server(root), filepath.Join(dir, "other"), 0},
		"one not there":       {server(root), filepath.Join(dir, "none"), 0},
		"in a bucket":         {server(root), "s3://bucket/srv", 0},
		"no server":           {"repository = \"/srv\"\n", root, 0},
		"no quota":            {fmt.Sprintf("[server]\nroot = %q\n", root), root, 0},
		"jobs that are wrong": {"include = \"jobs.d/*.toml\"\n" + server(root), root, 64 << 10},
		"wrong":               {"[server", root, 0},
	} {
		if err := os.WriteFile(file, []byte(x.text), 0o600); err != nil {
			t.Fatal(err)
		}
		a := newApp("kedge", world{FS: new(fsx.FS), Stdout: new(strings.Builder), Stderr: new(strings.Builder), Env: func(name string) string {
			return map[string]string{"KEDGE_CONFIG": file}[name]
		}})
		if got := a.usualQuota(x.root); got != x.want {
			t.Errorf("%s: %d, not %d", what, got, x.want)
		}
	}
}
