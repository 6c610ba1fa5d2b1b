package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// frontGates starts gateways in front of one bucket, with the same keys of clients. Env has for
// each of them what leads to the store.
func frontGates(t testing.TB, env ...[]string) (gates []*server) {
	t.Helper()
	for _, env := range env {
		s := newServer(t)
		state := mkdir(t, s.keys, "state")
		if len(gates) > 0 {
			s.keys = gates[0].keys
		}
		s.start = func() *exec.Cmd {
			args := append(append([]string{}, env...), binary, "serve", "--root", "s3://backup/fleet", "--state", state,
				"--listen", fmt.Sprintf("127.0.0.1:%d", s.port), "--authorized-keys", s.keys+"/authorized", "--host-key", s.keys+"/host")
			return exec.Command("env", args...)
		}
		gates = append(gates, s)
	}
	write(t, gates[0].keys+"/authorized", nil)
	return gates
}

// gatewayClient lets a client in whose repository lives in a bucket.
func (s *server) gatewayClient(t testing.TB, repo string) client {
	t.Helper()
	name := fmt.Sprintf("%s-%d", repo, time.Now().UnixNano())
	key := s.keygen(t, name)
	must(t, binary, "client", "add", "--root", t.TempDir(), "--authorized-keys", s.keys+"/authorized", repo, key+".pub", "--role", "append")
	return client{
		url: fmt.Sprintf("ssh://root@127.0.0.1:%d/%s", s.port, repo), home: mkdir(t, s.keys, "home-"+name),
		env:  []string{"PATH=" + os.Getenv("PATH"), "KEDGE_CACHE_DIR=" + s.keys + "/cache-" + name},
		args: []string{"--ssh", "builtin", "--ssh-key", key},
	}
}

// via returns the client as it reaches its repository through a gateway.
func (c client) via(t testing.TB, s *server) client {
	t.Helper()
	_, path, _ := strings.Cut(strings.TrimPrefix(c.url, "ssh://"), "/")
	c.url = fmt.Sprintf("ssh://root@127.0.0.1:%d/%s", s.port, path)
	pub, err := os.ReadFile(s.keys + "/host.pub")
	check(t, err)
	known := filepath.Join(c.home, fmt.Sprint("known", s.port))
	write(t, known, fmt.Appendf(nil, "[127.0.0.1]:%d %s", s.port, pub))
	c.args = append(append([]string{}, c.args...), "--known-hosts", known)
	return c
}

// testFleet lets clients save through two gateways, of which the second one is killed amid it, as
// is whatever else kill stands for. No save that was acknowledged is lost, and all clients go
// on. Repositories has fewer than there are clients: several save into one.
func testFleet(t *testing.T, direct *gateway, gates []*server, clients, repositories, saves int, kill func()) {
	type machine struct {
		client
		src          string
		acknowledged int
	}
	var list []*machine
	for i := range clients {
		src := filepath.Join(t.TempDir(), "src")
		noise(t, src, uint64(i%repositories), 3<<20)
		list = append(list, &machine{client: gates[0].gatewayClient(t, fmt.Sprintf("host%d", i%repositories)), src: src})
	}
	for _, s := range gates {
		s.up(t)
	}
	for _, c := range list[:repositories] {
		c.via(t, gates[0]).run(t, "init")
	}
	var wg sync.WaitGroup
	half := make(chan bool, clients)
	for i, c := range list {
		wg.Go(func() {
			for n := range saves {
				if n == saves/2 {
					half <- true
				}
				write(t, filepath.Join(c.src, "own"), fmt.Append(nil, i, n))
				kedge(t, c.home, "index", c.src)
				for try := 0; ; try++ {
					r := c.via(t, gates[(i+n+try)%2]).try(t, "save", "-q", "-n", fmt.Sprint("n", i), c.src)
					if r.code == 0 {
						c.acknowledged++
						break
					}
					if try == 9 {
						t.Errorf("client %d: exit %d\n%s", i, r.code, r.err)
						break
					}
					time.Sleep(time.Duration(try) * 100 * time.Millisecond)
				}
			}
		})
	}
	for range clients / 2 {
		<-half
	}
	kill()
	stop(gates[1].cmd, syscall.SIGKILL)
	wg.Wait()
	total := 0
	for i, c := range list {
		name, at := fmt.Sprint("n", i), c.via(t, gates[0])
		if n := strings.Count(at.run(t, "ls", name), "\n") - 1; n < c.acknowledged || c.acknowledged != saves {
			t.Errorf("client %d: %d saves are there, %d of %d were acknowledged", i, n, c.acknowledged, saves)
		}
		total += c.acknowledged
		out := target(t)
		at.run(t, "restore", "-q", "-C", out, name+"/latest"+c.src+"/.")
		same(t, take(t, c.src), take(t, out))
	}
	for i := range repositories {
		direct.run(t, "fsck", "-r", fmt.Sprintf("s3://backup/fleet/host%d", i))
	}
	t.Logf("%d saves of %d clients were acknowledged, and are there", total, clients)
}

// Two gateways stand in front of one bucket, and one is killed.
func TestGateways(t *testing.T) {
	g := startGateway(t)
	testFleet(t, g, frontGates(t, g.env, g.env), 4, 3, 3, func() {})
}

// The same with sixteen clients and a store of four nodes, one of which is killed too. "make
// fleet" starts the store: KEDGE_FLEET has the addresses of two nodes and the process of another.
func TestFleet(t *testing.T) {
	words := strings.Fields(os.Getenv("KEDGE_FLEET"))
	if len(words) != 3 {
		t.Skip("make fleet")
	}
	node, err := strconv.Atoi(words[2])
	check(t, err)
	m, err := minio.New(strings.TrimPrefix(words[0], "http://"), &minio.Options{
		Creds: credentials.NewStaticV4("kedge", "kedgesecret", ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath,
	})
	check(t, err)
	check(t, m.MakeBucket(context.Background(), "backup", minio.MakeBucketOptions{Region: "us-east-1"}))
	reach := func(node string) []string {
		return []string{"AWS_ACCESS_KEY_ID=kedge", "AWS_SECRET_ACCESS_KEY=kedgesecret", "AWS_REGION=us-east-1", "AWS_ENDPOINT_URL=" + node}
	}
	direct := (&gateway{env: reach(words[0])}).atHome(t)
	testFleet(t, direct, frontGates(t, reach(words[0]), reach(words[1])), 16, 4, 4, func() {
		check(t, syscall.Kill(node, syscall.SIGKILL))
	})
}
