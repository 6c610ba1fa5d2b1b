package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A night of a server with a real store: what its config says is mirrored, pruned and
// collected; status tells of it, and that the store refused another night. What was
// mirrored is there.
func TestUpkeepMirror(t *testing.T) {
	g := startGateway(t)
	root := mkdir(t, t.TempDir(), "root")
	mkdir(t, root, ".kedge")
	src := filepath.Join(t.TempDir(), "src")
	randomTree(t, rand.New(rand.NewPCG(3, 4)), src, 60)
	for _, name := range []string{"alpha", "beta"} {
		for range 3 {
			check(t, os.WriteFile(filepath.Join(src, "night"), fmt.Append(nil, rand.Uint64()), 0o644))
			g.run(t, "-d", filepath.Join(root, name), "backup", "-q", "-n", "dir-src", src)
		}
	}
	config := filepath.Join(t.TempDir(), "kedge.toml")
	text := fmt.Sprintf("[server]\nroot = %q\n[server.retention.\"alpha/*\"]\nkeep-last = \"2\"\n[server.mirror]\nto = \"s3://backup/x\"\n", root)
	check(t, os.WriteFile(config, []byte(text), 0o600))
	g.run(t, "config", "check", "--config", config)
	out := g.run(t, "upkeep", "--config", config)
	for _, want := range []string{`(?m)^alpha: fsck: read `, `(?m)^alpha: mirror: generation 1, `, `(?m)^alpha: prune: left out 1 of 3 saves`,
		`(?m)^alpha: gc: `, `(?m)^beta: mirror: generation 1, `} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("there is no %s in\n%s", want, out)
		}
	}
	// Mirrored first: the bucket has what the prune left out.
	if saves := strings.Fields(g.run(t, "ls", "-r", "s3://backup/x/alpha", "dir-src")); len(saves) != 4 {
		t.Errorf("the bucket has %q, want three saves and latest", saves)
	}
	if saves := strings.Fields(g.run(t, "-d", filepath.Join(root, "alpha"), "ls", "dir-src")); len(saves) != 3 {
		t.Errorf("the repository has %q, want two saves and latest", saves)
	}
	restored := filepath.Join(t.TempDir(), "out")
	g.run(t, "restore", "-q", "-r", "s3://backup/x/beta", "-C", restored, "dir-src/latest"+src+"/.")
	same(t, take(t, src), take(t, restored))
	if out := g.run(t, "status", "-q", "--config", config); out != "" {
		t.Errorf("the status is\n%s", out)
	}

	// A store that refuses the key: the rest of the night is done.
	r := command(t, append(g.env, "AWS_SECRET_ACCESS_KEY=wrong"), binary, "upkeep", "--now", "--config", config)
	if r.code == 0 || !strings.Contains(r.out, "alpha: mirror: ") || !regexp.MustCompile(`(?m)^beta: gc: .* live`).MatchString(r.out) {
		t.Errorf("exit %d\n%s%s", r.code, r.out, r.err)
	}
	r = g.try(t, "status", "-q", "--config", config)
	if r.code != 3 || !regexp.MustCompile(`(?m)^! alpha: failed: mirror, [0-9]m ago: `).MatchString(r.out) {
		t.Errorf("exit %d\n%s%s", r.code, r.out, r.err)
	}
}
