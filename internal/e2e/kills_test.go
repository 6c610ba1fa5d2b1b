package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Saves are cut short by kill -9 of the client or of everything on the server:
// every acknowledged save restores, and the next run succeeds by itself (I1, I5).
func TestRemoteKills(t *testing.T) {
	rounds := 10
	if full {
		rounds = 200
	}
	for _, w := range ways {
		for _, victim := range []string{"client", "server"} {
			t.Run(w.name+"/"+victim, func(t *testing.T) { kills(t, w, victim, rounds) })
		}
	}
}

// kills does so many saves that are killed at a random time, or come to an end before. How
// long one takes is found out on the way, so that about a third come to an end however
// busy the machine is.
func kills(t *testing.T, w way, victim string, rounds int) {
	s := w.serv(t)
	c := s.addClient(t, w.ssh, "build", "append")
	c.run(t, "init")
	src := mkdir(t, t.TempDir(), "src")
	repo := filepath.Join(s.root, "build")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var span time.Duration // twice that of the first, which is not killed
	var acked []snapshot
	done := 0
	for i := range rounds {
		change(t, r, src, i)
		kedge(t, c.home, "index", src)
		begin := time.Now()
		var code int
		if i == 0 {
			code = c.try(t, "save", "-n", "x", src).code
			span = 2 * time.Since(begin)
		} else {
			code = c.killed(t, s, victim, time.Duration(r.Int64N(int64(span))), src)
		}
		if code == 0 {
			done++
			span = max(span*9/10, 20*time.Millisecond)
		} else {
			span = span * 21 / 20
		}
		tip := command(t, nil, "git", "-C", repo, "rev-list", "--count", "x")
		n, _ := strconv.Atoi(strings.TrimSpace(tip.out))
		if n < len(acked) || n > len(acked)+1 || code == 0 && n != len(acked)+1 {
			t.Fatalf("round %d: exit %d and %d saves, %d before", i, code, n, len(acked))
		}
		if n > len(acked) {
			acked = append(acked, take(t, src))
		}
	}
	t.Logf("%d of %d saves came to an end, %d arrived", done, rounds, len(acked))
	if r := c.save(t, src); r.code != 0 {
		t.Fatalf("the save after the last kill: exit %d\n%s", r.code, r.err)
	}
	gitClean(t, repo)
	kedge(t, repo, "fsck")
	leftovers(t, repo)
	for i, want := range acked {
		if full || i%4 == 0 {
			same(t, want, restoredSave(t, repo, src, i))
		}
	}
}

// change changes a file that does not compress and one that does.
func change(t testing.TB, r *rand.Rand, src string, round int) {
	t.Helper()
	b := make([]byte, 1<<20)
	for k := range b {
		b[k] = byte(r.Uint32())
	}
	write(t, fmt.Sprintf("%s/noise%d", src, round%4), b)
	write(t, fmt.Sprintf("%s/text%d", src, round%10), []byte(must(t, "seq", fmt.Sprint(round*1000), fmt.Sprint(round*1000+60000))))
}

// killed saves src as x, and kills the victim after a while. It returns how the save ended.
func (c client) killed(t *testing.T, s *server, victim string, wait time.Duration, src string) int {
	t.Helper()
	if victim == "client" {
		args := append([]string{"-d", c.home, "save", "-r", c.url, "-n", "x"}, append(c.args, src)...)
		code := command(t, c.env, "timeout", append([]string{"-s", "KILL", fmt.Sprint(wait.Seconds()), binary}, args...)...).code
		s.quiet(t)
		return code
	}
	cmd := s.cmd
	dead := make(chan bool)
	go func() {
		defer close(dead)
		time.Sleep(wait)
		stopAll(cmd)
	}()
	r := c.try(t, "save", "-n", "x", src)
	<-dead
	s.up(t)
	return r.code
}
