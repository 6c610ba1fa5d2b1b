package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// slowLine is a line to a server on which every request takes a while to arrive. All answers
// together come at no more than a rate.
type slowLine struct {
	addr      string
	delay     time.Duration
	perSecond atomic.Int64 // bytes; 0: as fast as it goes
	requests  atomic.Int64
	bytes     atomic.Int64 // of answers

	mu   sync.Mutex
	free time.Time // when the line is free again
}

// Write takes the time that bytes need on the line.
func (s *slowLine) Write(p []byte) (int, error) {
	s.bytes.Add(int64(len(p)))
	if rate := s.perSecond.Load(); rate > 0 {
		s.mu.Lock()
		now := time.Now()
		if s.free.Before(now) {
			s.free = now
		}
		s.free = s.free.Add(time.Duration(float64(len(p)) / float64(rate) * float64(time.Second)))
		at := s.free
		s.mu.Unlock()
		time.Sleep(time.Until(at))
	}
	return len(p), nil
}

// slow puts a line in front of the gateway, which is reached by it from then on.
func (g *gateway) slow(t testing.TB, delay time.Duration) *slowLine {
	t.Helper()
	var target string
	for i, v := range g.env {
		if at, ok := strings.CutPrefix(v, "AWS_ENDPOINT_URL="); ok {
			u, err := url.Parse(at)
			check(t, err)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			check(t, err)
			t.Cleanup(func() { l.Close() })
			target = u.Host
			s := &slowLine{addr: l.Addr().String(), delay: delay}
			g.env[i] = "AWS_ENDPOINT_URL=http://" + s.addr
			go s.serve(l, target)
			return s
		}
	}
	t.Fatal("the gateway has no address")
	return nil
}

func (s *slowLine) serve(l net.Listener, target string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go s.carry(c, target)
	}
}

// carry carries one connection.
func (s *slowLine) carry(c net.Conn, target string) {
	defer c.Close()
	to, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer to.Close()
	type piece struct {
		b  []byte
		at time.Time
	}
	pieces := make(chan piece, 1024)
	var wg sync.WaitGroup
	wg.Go(func() {
		for p := range pieces {
			time.Sleep(time.Until(p.at))
			if _, err := to.Write(p.b); err != nil {
				c.Close()
			}
		}
		to.Close()
	})
	wg.Go(func() {
		_, _ = io.Copy(io.MultiWriter(s, c), to)
		c.Close()
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			for _, method := range []string{"GET ", "HEAD ", "PUT ", "POST "} {
				if bytes.HasPrefix(buf[:n], []byte(method)) {
					s.requests.Add(1)
				}
			}
			pieces <- piece{bytes.Clone(buf[:n]), time.Now().Add(s.delay)}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	wg.Wait()
}

// plainGets reads all packs of a mirror with ranged GETs, so many at once, and keeps nothing.
func (g *gateway) plainGets(t testing.TB, prefix string, workers int, step int64) (took time.Duration, total int64) {
	t.Helper()
	host := ""
	for _, v := range g.env {
		if at, ok := strings.CutPrefix(v, "AWS_ENDPOINT_URL=http://"); ok {
			host = at
		}
	}
	core, err := minio.NewCore(host, &minio.Options{Creds: credentials.NewStaticV4("kedge", "kedgesecret", ""), Region: "us-east-1"})
	check(t, err)
	type part struct {
		key     string
		off, to int64
	}
	parts := make(chan part, 1<<16)
	list, err := filepath.Glob(filepath.Join(g.data, "backup", prefix, "objects/pack/*.pack"))
	check(t, err)
	for _, file := range list {
		info, err := os.Stat(file)
		check(t, err)
		total += info.Size()
		for off := int64(0); off < info.Size(); off += step {
			parts <- part{prefix + "/objects/pack/" + filepath.Base(file), off, min(off+step, info.Size()) - 1}
		}
	}
	close(parts)
	start := time.Now()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for p := range parts {
				o := minio.GetObjectOptions{}
				check(t, o.SetRange(p.off, p.to))
				body, _, _, err := core.GetObject(context.Background(), "backup", p.key, o)
				if err == nil {
					_, err = io.Copy(io.Discard, body)
					body.Close()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start), total
}

// A restore over a line with a delay of 50 ms takes about as long as reading the same packs
// with plain ranged GETs. What it took is printed; that it is right is tested.
func TestFarRestore(t *testing.T) {
	g := startGateway(t)
	large, small := 24<<20, 1000
	if full {
		large, small = 1<<30, 10_000
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	src := filepath.Join(t.TempDir(), "src")
	mkdir(t, src, "small")
	for i := range small {
		dir := mkdir(t, src, fmt.Sprintf("small/%02d", i%100))
		write(t, fmt.Sprintf("%s/%d", dir, i), randomBytes(rnd, 2000+rnd.IntN(20_000)))
	}
	write(t, src+"/large", randomBytes(rnd, large))
	before := take(t, src)
	repo := saved(t, src)
	g.run(t, "mirror", "-d", repo, "s3://backup/far")
	line := g.slow(t, 50*time.Millisecond)
	g.env = append(g.env, "KEDGE_CACHE_DIR="+t.TempDir())
	shm := t.TempDir()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() { // the disk is not what is measured
		if dir, err := os.MkdirTemp("/dev/shm", "kedge"); err == nil {
			shm = dir
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
		}
	}
	out := filepath.Join(shm, "out")
	restore := func(args ...string) time.Duration {
		check(t, os.RemoveAll(out))
		start := time.Now()
		g.run(t, append(append([]string{"restore"}, args...), "-C", out, "x/latest"+src+"/.")...)
		return time.Since(start)
	}
	for _, perSecond := range []int64{0, 125_000_000} {
		line.perSecond.Store(perSecond)
		plain, total := g.plainGets(t, "far", 16, 4<<20)
		line.requests.Store(0)
		line.bytes.Store(0)
		g.env[len(g.env)-1] = "KEDGE_CACHE_DIR=" + t.TempDir()
		took := restore("-r", "s3://backup/far")
		requests, bytes := line.requests.Load(), line.bytes.Load()
		local := restore("-d", repo)
		rate := func(d time.Duration) string {
			return fmt.Sprintf("%.2fs (%.0f MB/s)", d.Seconds(), float64(total)/d.Seconds()/1e6)
		}
		t.Logf("%d MB of packs, %d MB/s, 50 ms: plain GETs %s, restore %s, %.0f %%; %d requests, %d MB; from the directory %s",
			total/1e6, perSecond/1e6, rate(plain), rate(took), 100*plain.Seconds()/took.Seconds(), requests, bytes/1e6, rate(local))
	}
	same(t, before, take(t, out))
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rnd.Uint32())
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}
