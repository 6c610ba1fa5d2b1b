package e2e

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Two key pairs of age: that of the operators, and that which is in a safe.
const (
	agePublic, ageSecret   = "age1spa7mhw3a8lwf2fjcfh376dq5c26ypm23pshz7zzqx4jhxazhp7qny7zca", "AGE-SECRET-KEY-16UZ4HZ4GASRXSVLSSU7DY34CPPC9DLCKQFZAUZ6XP6K3L9QM2S5Q5XZDHG"
	agePublic2, ageSecret2 = "age1a3l5ut2l9cax6yp2022ccjruy05zxdn4un83qy7dtxwkn5sru4vq00pwk0", "AGE-SECRET-KEY-19EN28MLJM40XG5GR2094YCD9KA0LGGQ03WZ49K0JUUQYUVC7420S4SHVDH"
)

// ageKeys writes the private keys to files.
func ageKeys(t testing.TB) (one, two string) {
	t.Helper()
	dir := t.TempDir()
	one, two = filepath.Join(dir, "one"), filepath.Join(dir, "two")
	write(t, one, []byte("# public key: "+agePublic+"\n"+ageSecret+"\n"))
	write(t, two, []byte(ageSecret2+"\n"))
	return one, two
}

// The server is gone, and of what it mirrored nobody can read anything without one of two
// private keys: with either of them all comes back.
func TestDisasterEncrypted(t *testing.T) {
	g := startGateway(t)
	key, safe := ageKeys(t)
	to := filepath.Join(t.TempDir(), "recipients")
	write(t, to, []byte("# the safe\n"+agePublic2+"\n"))
	root := mkdir(t, t.TempDir(), "root")
	var srcs []string
	for i, name := range []string{"alpha", "beta"} {
		src := filepath.Join(t.TempDir(), "src")
		randomTree(t, rand.New(rand.NewPCG(12, uint64(i))), src, 100)
		srcs = append(srcs, src)
		kedge(t, filepath.Join(root, name), "init")
		saveAgain(t, filepath.Join(root, name), src)
	}
	write(t, filepath.Join(mkdir(t, root, ".kedge"), "authorized_keys"), []byte("# nobody yet\n"))
	write(t, filepath.Join(root, ".kedge", "host_key"), []byte("a private key\n"))
	mirror := []string{"mirror", "--root", root, "--encrypt-to", agePublic, "--recipients-file", to, "s3://backup/p"}
	g.run(t, mirror...)
	if r := g.try(t, "mirror", "--root", root, "s3://backup/p"); r.code != 6 || !strings.Contains(r.err, "encrypted") {
		t.Errorf("a plain run onto an encrypted mirror: exit %d\n%s", r.code, r.err)
	}
	write(t, srcs[0]+"/late", []byte("late\n"))
	saveAgain(t, filepath.Join(root, "alpha"), srcs[0])
	g.run(t, mirror...)
	if r := g.try(t, append(mirror, "--json")...); r.code != 0 || strings.Contains(r.err, "anew") || strings.Count(r.out, `"unchanged":true`) != 3 {
		t.Errorf("nothing has changed: exit %d\n%s%s", r.code, r.out, r.err)
	}
	check(t, os.RemoveAll(root))

	if r := command(t, nil, "grep", "-rlE", "--exclude=RESTORE.txt", "private key|nobody yet|alpha|refs/heads", g.data); r.code != 1 {
		t.Errorf("what is in the bucket in clear: %s", r.out)
	}
	for _, args := range [][]string{
		{"ls", "-r", "s3://backup/p/alpha"}, {"mirror", "--pull", "--root", root, "s3://backup/p"},
	} {
		if r := g.try(t, args...); r.code == 0 || !strings.Contains(r.err, "--identity") {
			t.Errorf("%q without an identity: exit %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
	for _, id := range []string{key, safe} {
		if got := g.run(t, "ls", "-r", "s3://backup/p/", "--identity", id); got != "alpha\nbeta\n" {
			t.Errorf("ls: %q", got)
		}
	}
	for i, name := range []string{"alpha", "beta"} {
		url, out := "s3://backup/p/"+name, target(t)
		g.run(t, "restore", "-r", url, "--identity", key, "-C", out, "x/latest"+srcs[i]+"/.")
		same(t, take(t, srcs[i]), take(t, out))
		g.run(t, "fsck", "-r", url, "--identity", safe)
		g.run(t, "mirror", "verify", "--read-data", "100", "--identity", key, url)
		g.run(t, "mirror", "status", "--identity", key, url)
	}
	if got := g.run(t, "cat-file", "-r", "s3://backup/p/alpha", "--identity", key, "x/latest"+srcs[0]+"/late"); got != "late\n" {
		t.Errorf("cat-file: %q", got)
	}
	if r := g.try(t, "cat-file", "-r", "s3://backup/p/alpha", "--identity", key, "--generation", "1", "x/latest"+srcs[0]+"/late"); r.code != 4 {
		t.Errorf("a file that generation 1 does not have: exit %d\n%s", r.code, r.err)
	}
	if r := g.try(t, "ls", "-r", "s3://backup/p/gamma", "--identity", key); r.code != 4 || !strings.Contains(r.err, "no such") {
		t.Errorf("no such mirror: exit %d\n%s", r.code, r.err)
	}
	for _, args := range [][]string{{"init", "-r", "s3://backup/p/new"}, {"save", "-r", "s3://backup/p/alpha", "-n", "x", srcs[0]}} {
		if r := g.try(t, args...); r.code != 6 || !strings.Contains(r.err, "SSE-KMS") {
			t.Errorf("%q: exit %d\n%s", args, r.code, r.err)
		}
	}

	g.run(t, "mirror", "--pull", "--root", root, "--identity", safe, "s3://backup/p")
	own := filepath.Join(root, ".kedge.restored")
	for name, want := range map[string]string{"authorized_keys": "# nobody yet\n", "host_key": "a private key\n"} {
		if got, err := os.ReadFile(filepath.Join(own, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for i, name := range []string{"alpha", "beta"} {
		repo := filepath.Join(root, name)
		same(t, take(t, srcs[i]), restored(t, repo, srcs[i]))
		gitClean(t, repo)
		kedge(t, repo, "fsck")
		saveAgain(t, repo, srcs[i]) // and goes on
	}
	// The new server knows nothing of what the old one sent.
	if r := g.try(t, mirror...); r.code != 0 || strings.Count(r.err, "sent anew") < 2 {
		t.Errorf("the next mirror: exit %d\n%s", r.code, r.err)
	}
	g.run(t, "fsck", "-r", "s3://backup/p/alpha", "--identity", key)
}

// A mirror that is not encrypted is not continued as one that is.
func TestMixedMirror(t *testing.T) {
	g := startGateway(t)
	repo := saved(t, mkdir(t, t.TempDir(), "src"))
	g.run(t, "mirror", "-d", repo, "s3://backup/p/solo")
	for _, to := range []string{"s3://backup/p/solo", "s3://backup/p/other"} {
		if r := g.try(t, "mirror", "-d", repo, "--encrypt-to", agePublic, to); r.code != 6 || !strings.Contains(r.err, "not encrypted") {
			t.Errorf("%s: exit %d\n%s", to, r.code, r.err)
		}
	}
	if r := g.try(t, "mirror", "-d", repo, "--encrypt-to", "age1nonsense", "s3://backup/q/solo"); r.code != 2 {
		t.Errorf("a recipient that is none: exit %d\n%s", r.code, r.err)
	}
	g.run(t, "mirror", "-d", repo, "--encrypt-to", agePublic, "s3://backup/q/solo")
	for _, to := range []string{"s3://backup/q/solo", "s3://backup/q"} {
		if r := g.try(t, "mirror", "-d", repo, to); r.code != 6 || !strings.Contains(r.err, "is encrypted") {
			t.Errorf("%s: exit %d\n%s", to, r.code, r.err)
		}
	}
}

// What RESTORE.txt of an encrypted mirror says is done line by line, with each of its tools,
// and with the age that the system has.
func TestRestoreTextEncrypted(t *testing.T) {
	if _, err := exec.LookPath("age"); err != nil {
		t.Skip("needs age")
	}
	g := startGateway(t)
	key, _ := ageKeys(t)
	src := mkdir(t, t.TempDir(), "src")
	var lines strings.Builder
	for i := range 40_000 {
		lines.WriteString(strings.Repeat("x", i%50) + string(rune('a'+i%26)) + "\n")
	}
	write(t, src+"/large", []byte(lines.String()))
	write(t, mkdir(t, src, "a/b")+"/small", []byte("small\n"))
	repo := saved(t, src)
	other := saved(t, mkdir(t, t.TempDir(), "other"))
	run := func(dir, name string) {
		g.run(t, "mirror", "-d", dir, "--encrypt-to", agePublic, "--encrypt-to", agePublic2, "s3://backup/p/"+name)
	}
	run(other, "other")
	run(repo, "solo")
	for _, name := range []string{"one", "two"} {
		write(t, src+"/"+name, []byte(name+"\n"))
		saveAgain(t, repo, src)
		run(repo, "solo")
	}
	texts, err := filepath.Glob(filepath.Join(g.data, "backup", "p", "*", "RESTORE.txt"))
	if err != nil || len(texts) != 2 {
		t.Fatalf("%q, %v", texts, err)
	}
	text, err := os.ReadFile(texts[0])
	check(t, err)
	host := ""
	for _, v := range g.env {
		if at, ok := strings.CutPrefix(v, "AWS_ENDPOINT_URL=http://"); ok {
			host = at
		}
	}
	for _, tool := range []struct{ name, options string }{
		{"curl", ""},
		{"aws", "--endpoint-url http://" + host},
		{"s3cmd", "--host=" + host + " --host-bucket=" + host + " --no-ssl"},
	} {
		t.Run(tool.name, func(t *testing.T) {
			if out, err := exec.Command(tool.name, "--version").CombinedOutput(); err != nil {
				t.Skipf("needs %s: %v %s", tool.name, err, out)
			}
			dir := t.TempDir()
			script := "set -e\nFROM=s3://backup/p\nURL=http://" + host + "/backup/p\nNAME=solo\nIDENTITY=" + key +
				"\nOPTIONS='" + tool.options + "'\n" + restoreCommands(t, string(text), tool.name)
			c := exec.Command("sh", "-c", script)
			c.Dir = dir
			c.Env = append(os.Environ(), append(g.env, "HOME="+dir)...)
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s\n%s", err, out, script)
			}
			for name := range take(t, src) {
				data, err := os.ReadFile(filepath.Join(src, name))
				if err != nil {
					continue // a directory
				}
				got, err := os.ReadFile(filepath.Join(dir, "out", src, name))
				if err != nil || string(got) != string(data) {
					t.Errorf("%s: %d bytes, %v, not %d", name, len(got), err, len(data))
				}
			}
		})
	}
}
