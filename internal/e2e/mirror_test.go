package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// gateway is a real S3 server with a bucket named backup.
type gateway struct {
	data string
	env  []string // what kedge needs to reach it
}

func startGateway(t testing.TB) *gateway {
	t.Helper()
	exe, err := exec.LookPath("versitygw")
	if err != nil {
		if exe, err = filepath.Abs("../../bin/tools/versitygw"); err == nil {
			_, err = os.Stat(exe)
		}
		if err != nil {
			t.Skip("needs versitygw (make servers)")
		}
	}
	dir, port := t.TempDir(), freePort(t)
	g := &gateway{data: mkdir(t, dir, "data"), env: []string{
		"AWS_ACCESS_KEY_ID=kedge", "AWS_SECRET_ACCESS_KEY=kedgesecret", "AWS_REGION=us-east-1",
		fmt.Sprintf("AWS_ENDPOINT_URL=http://127.0.0.1:%d", port),
	}}
	mkdir(t, g.data, "backup")
	cmd := exec.Command(exe, "--port", fmt.Sprintf("127.0.0.1:%d", port), "--health", "/healthz",
		"--iam-dir", mkdir(t, dir, "iam"), "--quiet", "posix", g.data)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=kedge", "ROOT_SECRET_KEY=kedgesecret")
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 1200 {
		if r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", port)); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return g
			}
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal("the S3 server does not answer")
	return nil
}

func (g *gateway) try(t testing.TB, args ...string) result {
	t.Helper()
	return command(t, g.env, binary, args...)
}

func (g *gateway) run(t testing.TB, args ...string) string {
	t.Helper()
	r := g.try(t, args...)
	if r.code != 0 {
		t.Fatalf("kedge %q: exit %d\n%s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

// The server is gone: what was mirrored is listed, read and restored straight from the
// bucket, and the whole server is brought back from it.
func TestDisaster(t *testing.T) {
	g := startGateway(t)
	root := mkdir(t, t.TempDir(), "root")
	var srcs []string
	for i, name := range []string{"alpha", "beta"} {
		src := filepath.Join(t.TempDir(), "src")
		randomTree(t, rand.New(rand.NewPCG(11, uint64(i))), src, 150)
		srcs = append(srcs, src)
		kedge(t, filepath.Join(root, name), "init")
		saveAgain(t, filepath.Join(root, name), src)
	}
	write(t, filepath.Join(mkdir(t, root, ".kedge"), "authorized_keys"), []byte("# nobody yet\n"))
	write(t, filepath.Join(root, ".kedge", "host_key"), []byte("a private key\n"))
	g.run(t, "mirror", "--root", root, "s3://backup/p")
	write(t, srcs[0]+"/late", []byte("late\n"))
	saveAgain(t, filepath.Join(root, "alpha"), srcs[0])
	g.run(t, "mirror", "--root", root, "s3://backup/p")
	check(t, os.RemoveAll(root))

	if got := g.run(t, "ls", "-r", "s3://backup/p/"); got != "alpha\nbeta\n" {
		t.Errorf("ls: %q", got)
	}
	for i, name := range []string{"alpha", "beta"} {
		url := "s3://backup/p/" + name
		out := target(t)
		g.run(t, "restore", "-r", url, "-C", out, "x/latest"+srcs[i]+"/.")
		same(t, take(t, srcs[i]), take(t, out))
		g.run(t, "fsck", "-r", url)
	}
	if got := g.run(t, "cat-file", "-r", "s3://backup/p/alpha", "x/latest"+srcs[0]+"/late"); got != "late\n" {
		t.Errorf("cat-file: %q", got)
	}
	if r := g.try(t, "cat-file", "-r", "s3://backup/p/alpha", "--generation", "1", "x/latest"+srcs[0]+"/late"); r.code != 4 {
		t.Errorf("a file that generation 1 does not have: exit %d\n%s", r.code, r.err)
	}
	for _, bad := range [][]string{
		{"ls", "-r", "s3://backup/p/gamma"}, {"ls", "-r", "s3://nobody/p/alpha"},
		{"ls", "-r", "s3://backup/p/alpha", "--generation", "99"},
	} {
		if r := g.try(t, bad...); r.code != 4 || !strings.Contains(r.err, "no such") {
			t.Errorf("%q: exit %d\n%s", bad, r.code, r.err)
		}
	}

	g.run(t, "mirror", "--pull", "--root", root, "s3://backup/p")
	own := filepath.Join(root, ".kedge.restored")
	keys, err := os.ReadFile(own + "/authorized_keys")
	if list, lerr := os.ReadDir(own); err != nil || lerr != nil || len(list) != 1 || string(keys) != "# nobody yet\n" {
		t.Errorf("the server's own: %v, %q, %v", list, keys, errors.Join(err, lerr))
	}
	if _, err := os.Lstat(filepath.Join(root, ".kedge", "authorized_keys")); err == nil {
		t.Error("what was in the bucket lets people in without anyone having looked at it")
	}
	if r := command(t, nil, "grep", "-rilE", "private key", g.data); r.code != 1 {
		t.Errorf("a private key is in the bucket: %s", r.out)
	}
	for i, name := range []string{"alpha", "beta"} {
		repo := filepath.Join(root, name)
		same(t, take(t, srcs[i]), restored(t, repo, srcs[i]))
		gitClean(t, repo)
		kedge(t, repo, "fsck")
		saveAgain(t, repo, srcs[i]) // and goes on
	}
}

// Git alone gets the data back from the files of a bucket.
func TestDisasterWithoutKedge(t *testing.T) {
	g := startGateway(t)
	src := mkdir(t, t.TempDir(), "src")
	write(t, src+"/small", []byte("small\n"))
	repo := saved(t, src)
	g.run(t, "mirror", "--dir", repo, "s3://backup/solo")

	bucket, clone := filepath.Join(g.data, "backup", "solo"), filepath.Join(t.TempDir(), "clone")
	must(t, "git", "init", "-q", "-b", "main", "--bare", clone)
	must(t, "sh", "-c", "cp "+bucket+"/objects/pack/pack-* "+clone+"/objects/pack/")
	must(t, "sh", "-c", "sed -n '/^refs$/,/^end$/p' "+bucket+"/manifests/fffffffffffffffe | sed '1d;$d' > "+clone+"/packed-refs")
	gitClean(t, clone)
	if got := must(t, "git", "-C", clone, "show", "x:"+src[1:]+"/small"); got != "small\n" {
		t.Errorf("git show: %q", got)
	}
}

// A mirror run that is killed leaves the last generation as it was; the next completes.
func TestMirrorKills(t *testing.T) {
	key, _ := ageKeys(t)
	t.Run("plain", func(t *testing.T) { mirrorKills(t, nil, nil) })
	t.Run("encrypted", func(t *testing.T) {
		mirrorKills(t, []string{"--encrypt-to", agePublic}, []string{"--identity", key})
	})
}

func mirrorKills(t *testing.T, seal, unseal []string) {
	g := startGateway(t)
	src, root := mkdir(t, t.TempDir(), "src"), t.TempDir()
	repo := filepath.Join(root, "build")
	kedge(t, repo, "init")
	rounds := 10
	if full {
		rounds = 100
	}
	for i := range rounds {
		write(t, fmt.Sprintf("%s/%d", src, i%5), []byte(must(t, "seq", fmt.Sprint(i*1000), fmt.Sprint(i*1000+80000))))
		before := take(t, src)
		saveAgain(t, repo, src)
		r := command(t, g.env, "timeout", append([]string{"-s", "KILL", fmt.Sprintf("0.%03d", 10+7*i%90)}, append([]string{binary, "mirror", "--root", root, "s3://backup/p"}, seal...)...)...)
		if r.code != 0 && i > 0 { // the last generation, or already the new one, is whole
			g.run(t, append([]string{"fsck", "-r", "s3://backup/p/build"}, unseal...)...)
		}
		if r.code != 0 {
			g.run(t, append([]string{"mirror", "--root", root, "s3://backup/p"}, seal...)...)
		}
		out := target(t)
		g.run(t, append([]string{"restore", "-r", "s3://backup/p/build", "-C", out, "x/latest" + src + "/."}, unseal...)...)
		same(t, before, take(t, out))
	}
}
