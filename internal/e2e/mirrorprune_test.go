package e2e

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// object reads what a command prints with --json.
func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	check(t, json.Unmarshal([]byte(text), &v))
	return v
}

// Old generations are dropped; status and verify tell what there is; validate tells what the
// store is like.
func TestMirrorCare(t *testing.T) {
	g := startGateway(t)
	g.env = append(g.env, "KEDGE_CACHE_DIR="+t.TempDir())
	root := mkdir(t, t.TempDir(), "root")
	repo, src := filepath.Join(root, "build"), filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(12, 0)), src, 50)
	kedge(t, repo, "init")
	for range 3 {
		write(t, src+"/more", []byte(strings.Repeat("x", 1+len(g.env))))
		g.env = append(g.env, "X=")
		saveAgain(t, repo, src)
		g.run(t, "mirror", "--root", root, "s3://backup/p")
	}
	url := "s3://backup/p/build"
	if out := g.run(t, "mirror", "status", url); !strings.Contains(out, "3 generations") || !strings.Contains(out, "the oldest not verified is 1,") {
		t.Errorf("status:\n%s", out)
	}
	for _, n := range []string{"1", "2", "3"} {
		g.run(t, "mirror", "verify", "--generation", n, url)
	}
	if out := g.run(t, "mirror", "status", url); !strings.Contains(out, "; all verified") || strings.Count(out, "  verified ") != 3 {
		t.Errorf("status:\n%s", out)
	}
	s := object(t, g.run(t, "mirror", "status", "--json", url))
	if r, _ := s["result"].(map[string]any); r["generations"] != 3.0 || r["newest"] != 3.0 || r["bytes"] == 0.0 || r["oldest_unverified"] != nil {
		t.Errorf("status: %v", s)
	}

	if r := g.try(t, "mirror", "prune", url); r.code != 2 || !strings.Contains(r.err, "--keep-generations") {
		t.Errorf("no number: exit %d, %s", r.code, r.err)
	}
	if r := g.try(t, "mirror", "prune", "--keep-generations", "1", "s3://backup/none"); r.code != 4 {
		t.Errorf("no mirror: exit %d, %s", r.code, r.err)
	}
	dry := g.run(t, "mirror", "prune", "--keep-generations", "1", "-n", "s3://backup/p")
	if !strings.Contains(dry, "build: 1 generation kept, ") || !strings.Contains(dry, " would be dropped") {
		t.Errorf("dry: %q", dry)
	}
	p := object(t, g.run(t, "mirror", "prune", "--keep-generations", "1", "--json", "--root", root, "s3://backup/p"))
	entries, _ := p["entries"].([]any)
	if len(entries) != 1 {
		t.Fatalf("prune: %v", p)
	}
	if e, _ := entries[0].(map[string]any); e["dropped"] == 0.0 || e["generation"] != 4.0 || e["deleted"] != 0.0 {
		t.Errorf("prune: %v", p)
	}
	if _, err := os.Stat(filepath.Join(root, ".kedge/state/prune_key")); err != nil {
		t.Error(err)
	}
	if out := g.run(t, "mirror", "prune", "--keep-generations", "1", "-n", url); !strings.Contains(out, "to be deleted by a run after 2") {
		t.Errorf("again: %q", out)
	}
	if out := g.run(t, "mirror", "status", url); !strings.Contains(out, "prune") || !strings.Contains(out, "3 generations") {
		t.Errorf("status:\n%s", out)
	}
	g.run(t, "fsck", "-r", url)
	g.run(t, "mirror", "--root", root, "s3://backup/p")
	out := target(t)
	g.run(t, "restore", "-r", url, "-C", out, "x/latest"+src+"/.")
	same(t, take(t, src), take(t, out))

	v := g.run(t, "mirror", "validate", "s3://backup/try")
	for _, want := range []string{"yes  exclusive-create", "yes  list-after-write", "no   object-lock", `"s3:if-none-match"`, "AbortIncompleteMultipartUpload"} {
		if !strings.Contains(v, want) {
			t.Errorf("validate does not say %q:\n%s", want, v)
		}
	}
	v2 := object(t, g.run(t, "mirror", "validate", "--json", "s3://backup/try"))
	if r, _ := v2["result"].(map[string]any); r["fit"] != true || r["left"] != 0.0 {
		t.Errorf("validate: %v", r)
	}
}
