package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// counted is a gateway behind a proxy that counts what is sent to it.
type counted struct {
	*gateway
	sent atomic.Int64 // bytes of packs, indexes and their parts that the server took
	// lenient lets everybody overwrite what is there.
	lenient bool
}

func startCounted(t testing.TB) *counted {
	t.Helper()
	c := &counted{gateway: startGateway(t)}
	last := len(c.env) - 1
	to, err := url.Parse(strings.TrimPrefix(c.env[last], "AWS_ENDPOINT_URL="))
	check(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.ModifyResponse = func(r *http.Response) error {
		if q := r.Request; q.Method == http.MethodPut && r.StatusCode == http.StatusOK && strings.Contains(q.URL.Path, "/objects/") {
			c.sent.Add(q.ContentLength)
		}
		return nil
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.lenient && r.Header.Get("If-None-Match") != "" {
			// The header is signed and has to stay, so what is there goes.
			_ = os.Remove(filepath.Join(c.data, filepath.FromSlash(r.URL.Path)))
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	c.env = slices.Clone(c.env)
	c.env[last] = "AWS_ENDPOINT_URL=" + s.URL
	return c
}

// noiseFile writes a file that does not compress.
func noiseFile(t testing.TB, name string, seed byte, size int) {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	write(t, name, data)
}

// A mirror run with packs of many parts is killed at random times, again and again, until one
// completes: the generation before is always whole, and nothing is sent twice.
func TestMirrorKillsOfLargePacks(t *testing.T) {
	c := startCounted(t)
	src, dir := mkdir(t, t.TempDir(), "src"), t.TempDir()
	early, late, key := filepath.Join(dir, "early"), filepath.Join(dir, "late"), filepath.Join(dir, "key")
	kedge(t, early, "init")
	noiseFile(t, src+"/first", 1, 100_000)
	saveAgain(t, early, src)
	must(t, "cp", "-a", early, late)
	before := take(t, src)
	noiseFile(t, src+"/second", 2, 40<<20)
	saveAgain(t, late, src)
	after := take(t, src)
	total := must(t, "sh", "-c", "cat "+late+"/objects/pack/pack-*.pack "+late+"/objects/pack/pack-*.idx | wc -c")
	var size int64
	_, err := fmt.Sscan(total, &size)
	check(t, err)

	mirror := func(repo, url string) []string {
		return []string{"mirror", "-d", repo, "--mirror-key", key, "--part-size", "5M", url}
	}
	start := time.Now()
	c.run(t, mirror(late, "s3://backup/whole")...)
	took := time.Since(start)
	rounds := 4
	if full {
		rounds = 100
	}
	r := rand.New(rand.NewPCG(5, 55))
	kills := 0
	for i := range rounds {
		url, at := fmt.Sprintf("s3://backup/p%d", i), filepath.Join(c.data, "backup", fmt.Sprint("p", i))
		repo := fmt.Sprint(late, i)
		must(t, "cp", "-a", late, repo)
		c.run(t, mirror(early, url)...)
		c.sent.Store(0)
		for try := 0; ; try++ {
			limit := time.Duration(r.Int64N(int64(took))) * time.Duration(try+1)
			out := command(t, c.env, "timeout", append([]string{"-s", "KILL", fmt.Sprintf("%.3f", limit.Seconds()+0.01), binary}, mirror(repo, url)...)...)
			if out.code == 0 {
				break
			}
			if kills++; out.code != 137 && out.code != -1 {
				t.Fatalf("round %d: exit %d\n%s", i, out.code, out.err)
			}
			c.run(t, "mirror", "verify", "--read-data", "100", url)
		}
		if n := c.sent.Load(); n > size {
			t.Errorf("round %d: %d bytes were sent of %d", i, n, size)
		}
		for n, want := range []snapshot{before, after} {
			out := target(t)
			c.run(t, "restore", "-r", url, "--generation", fmt.Sprint(n+1), "-C", out, "x/latest"+src+"/.")
			same(t, want, take(t, out))
			check(t, os.RemoveAll(out))
		}
		if left, err := filepath.Glob(filepath.Join(repo, "kedge", "mirror-*[0-9a-f]")); err != nil || len(left) > 0 {
			t.Errorf("round %d: the journal is left: %q, %v", i, left, err)
		}
		check(t, os.RemoveAll(at))
		check(t, os.RemoveAll(repo))
	}
	t.Logf("%d kills", kills)
}

// A store that ignores preconditions is named and refused; who knows better is let.
func TestMirrorUnsafeStore(t *testing.T) {
	c := startCounted(t)
	src := mkdir(t, t.TempDir(), "src")
	write(t, src+"/f", []byte("f\n"))
	repo := saved(t, src)
	c.lenient = true
	r := c.try(t, "mirror", "-d", repo, "s3://backup/p")
	if r.code != 6 || !strings.Contains(r.err, "ignores preconditions") || !strings.Contains(r.err, "--unsafe-store") || c.sent.Load() > 0 {
		t.Errorf("exit %d, %d bytes sent\n%s", r.code, c.sent.Load(), r.err)
	}
	c.run(t, "mirror", "-d", repo, "--unsafe-store", "s3://backup/p")
	c.lenient = false
	c.run(t, "mirror", "-d", repo, "s3://backup/p")
	c.run(t, "fsck", "-r", "s3://backup/p")
}

// What a run did is told in JSON, the limit of speed is taken, and a second run sends nothing.
func TestMirrorJSON(t *testing.T) {
	c := startCounted(t)
	src := mkdir(t, t.TempDir(), "src")
	noiseFile(t, src+"/f", 3, 300_000)
	repo := saved(t, src)
	for n, sent := range []bool{true, false} {
		var doc struct {
			Entries []struct {
				Generation int   `json:"generation"`
				FilesSent  int   `json:"files_sent"`
				BytesSent  int64 `json:"bytes_sent"`
				Bytes      int64 `json:"bytes"`
				Unchanged  bool  `json:"unchanged"`
			} `json:"entries"`
		}
		out := c.run(t, "mirror", "-d", repo, "--json", "--bwlimit", "100M", "s3://backup/p")
		if err := json.Unmarshal([]byte(out), &doc); err != nil || len(doc.Entries) != 1 {
			t.Fatalf("%v: %s", err, out)
		}
		e := doc.Entries[0]
		if e.Generation != 1 || e.Unchanged == sent || (e.BytesSent > 0) != sent || sent && (e.BytesSent != e.Bytes || e.Bytes < 300_000) {
			t.Errorf("run %d: %s", n+1, out)
		}
	}
	for _, bad := range [][]string{{"--part-size", "1M"}, {"--parallel", "0"}, {"--pull", "--bwlimit", "1M"}} {
		if r := c.try(t, append([]string{"mirror", "-d", repo, "s3://backup/p"}, bad...)...); r.code != 2 {
			t.Errorf("%q: exit %d\n%s", bad, r.code, r.err)
		}
	}
}

// Credentials, region and endpoint are found in the places of AWS tools.
func TestCredentials(t *testing.T) {
	g := startGateway(t)
	endpoint := strings.TrimPrefix(g.env[len(g.env)-1], "AWS_ENDPOINT_URL=")
	src := mkdir(t, t.TempDir(), "src")
	write(t, src+"/f", []byte("f\n"))
	repo := saved(t, src)
	g.run(t, "mirror", "-d", repo, "s3://backup/p")

	dir := t.TempDir()
	write(t, dir+"/credentials", []byte("[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n"+
		"[ops]\naws_access_key_id = kedge\naws_secret_access_key = kedgesecret\n"))
	write(t, dir+"/config", []byte("[default]\nregion = eu-west-3\n[profile ops]\nregion = us-east-1\nendpoint_url = "+endpoint+"\n"))
	var asked atomic.Int64
	role := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
			fmt.Fprint(w, "a token")
		case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "a token":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/":
			fmt.Fprint(w, "backup-role")
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/backup-role":
			fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":"kedge","SecretAccessKey":"kedgesecret","Token":"","Expiration":%q}`,
				time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer role.Close()
	secret := []string{"AWS_ACCESS_KEY_ID=kedge", "AWS_SECRET_ACCESS_KEY=kedgesecret"}
	files := []string{"AWS_SHARED_CREDENTIALS_FILE=" + dir + "/credentials", "AWS_CONFIG_FILE=" + dir + "/config"}
	at, nowhere := "AWS_ENDPOINT_URL="+endpoint, "AWS_ENDPOINT_URL=http://127.0.0.1:9"
	noRole := "AWS_EC2_METADATA_DISABLED=true"
	for _, c := range []struct {
		name string
		env  []string
		args []string
		code int
		says string
	}{
		{"environment", append(secret, at, "AWS_REGION=us-east-1"), nil, 0, ""},
		{"environment, default region", append(secret, at, "AWS_DEFAULT_REGION=us-east-1"), nil, 0, ""},
		{"another region", append(secret, at, "AWS_REGION=eu-west-3"), nil, 1, ""},
		{"an option is stronger", append(secret, at, "AWS_REGION=eu-west-3"), []string{"--region", "us-east-1"}, 0, ""},
		{"endpoint by option", append(secret, nowhere, "AWS_REGION=us-east-1"), []string{"--endpoint", endpoint}, 0, ""},
		{"endpoint of S3 alone", append(secret, nowhere, "AWS_REGION=us-east-1", "AWS_ENDPOINT_URL_S3="+endpoint), nil, 0, ""},
		{"profile: keys, region and endpoint", append(files, "AWS_PROFILE=ops", noRole), nil, 0, ""},
		{"default profile", append(files, at, "AWS_REGION=us-east-1", noRole), nil, 6, ""},
		{"role", []string{at, "AWS_REGION=us-east-1", "AWS_EC2_METADATA_SERVICE_ENDPOINT=" + role.URL}, nil, 0, ""},
		{"none", []string{at, "AWS_REGION=us-east-1", noRole}, nil, 2, "no credentials"},
		{"no such profile", append(files, at, "AWS_REGION=us-east-1", "AWS_PROFILE=none", noRole), nil, 2, "none"},
	} {
		r := command(t, slices.Clone(c.env), binary, append([]string{"ls", "-r", "s3://backup/p"}, c.args...)...)
		if r.code != c.code && (c.code != 1 || r.code == 0) || !strings.Contains(r.err, c.says) || c.code == 0 && r.out != "x\n" {
			t.Errorf("%s: exit %d, not %d\n%s%s", c.name, r.code, c.code, r.out, r.err)
		}
	}
	if asked.Load() == 0 {
		t.Error("the instance was not asked for its role")
	}
}
