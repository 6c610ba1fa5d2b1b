package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// madeKey finds the public key in what the first run with a key says.
var madeKey = regexp.MustCompile(`may trust: (ssh-ed25519 \S+)`)

// The key of a mirror is lost: the next run says so and makes a full generation; who has read
// the mirror before is warned, and who says which keys to trust sees those generations alone.
func TestMirrorTrust(t *testing.T) {
	g := startGateway(t)
	cache := t.TempDir()
	g.env = append(g.env, "KEDGE_CACHE_DIR="+cache)
	src := mkdir(t, t.TempDir(), "src")
	write(t, src+"/first", []byte("first\n"))
	repo, url := saved(t, src), "s3://backup/solo"
	key := func(said string) string {
		m := madeKey.FindStringSubmatch(said)
		if m == nil {
			t.Fatalf("no key was made: %s", said)
		}
		file := filepath.Join(t.TempDir(), "trusted")
		write(t, file, []byte(m[1]+"\n"))
		return file
	}
	first := g.try(t, "mirror", "-d", repo, url)
	old := key(first.err)
	if r := g.try(t, "ls", "-r", url); r.code != 0 || r.err != "" {
		t.Errorf("ls: exit %d, %s", r.code, r.err)
	}
	check(t, os.Remove(filepath.Join(repo, "kedge", "mirror_key")))
	write(t, src+"/second", []byte("second\n"))
	saveAgain(t, repo, src)
	second := g.try(t, "mirror", "-d", repo, url)
	fresh := key(second.err)
	if second.code != 0 || !strings.Contains(second.err, "warning: "+url+": the last generation was signed by SHA256:") {
		t.Errorf("another key: exit %d, %s", second.code, second.err)
	}
	if r := g.try(t, "mirror", "-d", repo, url); r.code != 0 || r.err != "" {
		t.Errorf("once more: exit %d, %s", r.code, r.err)
	}
	if out := g.run(t, "mirror", "status", url); !strings.Contains(out, "2 generations") || strings.Count(out, " full ") != 2 {
		t.Errorf("status:\n%s", out)
	}
	for i, want := range []bool{true, false} { // a warning, once
		r := g.try(t, "ls", "-r", url)
		if r.code != 0 || strings.Contains(r.err, "warning: "+url+": generation 2 is signed by SHA256:") != want {
			t.Errorf("run %d: exit %d, %s", i+1, r.code, r.err)
		}
	}
	for _, c := range []struct {
		trust, path string
		code        int
		warning     bool
	}{
		{old, "/first", 0, true}, {old, "/second", 4, true}, // generation 2 is passed over
		{fresh, "/second", 0, false},
	} {
		r := g.try(t, "cat-file", "-r", url, "--trust", c.trust, "x/latest"+src+c.path)
		if r.code != c.code || strings.Contains(r.err, "which is not trusted") != c.warning {
			t.Errorf("%s: exit %d, %s", c.path, r.code, r.err)
		}
	}
	if r := g.try(t, "ls", "-r", url, "--trust", fresh, "--generation", "1"); r.code == 0 {
		t.Error("a generation of the old key was read")
	}
}

// Without an identity an encrypted mirror can be looked after: listed by digits, verified,
// pruned. With one, names do as well.
func TestMirrorWithoutIdentity(t *testing.T) {
	g := startGateway(t)
	g.env = append(g.env, "KEDGE_CACHE_DIR="+t.TempDir())
	key, _ := ageKeys(t)
	src := mkdir(t, t.TempDir(), "src")
	write(t, src+"/first", []byte("first\n"))
	repo, url := saved(t, src), "s3://backup/p/solo"
	for _, name := range []string{"second", "third"} {
		g.run(t, "mirror", "-d", repo, "--encrypt-to", agePublic, url)
		write(t, src+"/"+name, []byte(name+"\n"))
		saveAgain(t, repo, src)
	}
	r := g.try(t, "ls", "-r", "s3://backup/p/")
	digits := strings.TrimSpace(r.out)
	if r.code != 0 || !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(digits) || !strings.Contains(r.err, "--identity FILE") {
		t.Fatalf("ls: exit %d, %q\n%s", r.code, r.out, r.err)
	}
	if out := g.run(t, "ls", "-l", "-r", "s3://backup/p/"); !strings.HasSuffix(out, "  "+digits+"\n") || !strings.HasPrefix(strings.TrimSpace(out), "2  ") {
		t.Errorf("ls -l: %q", out)
	}
	if out := g.run(t, "ls", "-r", "s3://backup/p/", "--identity", key); out != "solo\n" {
		t.Errorf("ls: %q", out)
	}
	at := "s3://backup/p/" + digits
	for _, args := range [][]string{{at}, {url, "--identity", key}} {
		run := func(words ...string) string { return g.run(t, append(words, args...)...) }
		if out := run("mirror", "status"); !strings.Contains(out, "2 generations") || strings.Contains(out, "refs sealed") != (len(args) == 1) {
			t.Errorf("status:\n%s", out)
		}
		v := object(t, run("mirror", "verify", "--read-data", "100", "--json"))
		if r, _ := v["result"].(map[string]any); r["damaged"] != 0.0 || r["read"] != r["files"] || r["read"] == 0.0 {
			t.Errorf("verify: %v", v)
		}
		if out := run("mirror", "prune", "-n", "--keep-generations", "1"); !strings.Contains(out, digits+": 1 generation kept, ") || !strings.Contains(out, "would be dropped") {
			t.Errorf("prune: %q", out)
		}
	}
	pack := ""
	for name, key := range sentNames(t, repo) {
		if strings.HasSuffix(name, ".pack") {
			pack = key
		}
	}
	spoilObject(t, filepath.Join(g.data, "backup", "p", digits, pack), true)
	for _, args := range [][]string{{at}, {url, "--identity", key}} {
		r := g.try(t, append([]string{"mirror", "verify", "--read-data", "100"}, args...)...)
		if r.code != 5 || !strings.Contains(r.out, filepath.Base(pack)) {
			t.Errorf("%q: exit %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
	for _, args := range [][]string{{"mirror", "-d", repo, url}, {"mirror", "status", url}, {"mirror", "prune", "--keep-generations", "1", url}, {"mirror", "validate", url}} {
		if r := g.try(t, append(args, "--generation", "1")...); r.code != 2 || !strings.Contains(r.err, "--generation 1") {
			t.Errorf("%q: exit %d, %s", args, r.code, r.err)
		}
	}
	for _, args := range [][]string{{"cat-file", "-r", at, "x/latest" + src + "/first"}, {"mirror", "--pull", "-d", t.TempDir() + "/x", at}} {
		if r := g.try(t, args...); r.code != 2 || !strings.Contains(r.err, "--identity") {
			t.Errorf("%q: exit %d, %s", args, r.code, r.err)
		}
	}
}
