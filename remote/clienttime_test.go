package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/server"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/repo/restore"
	"github.com/kedgebackup/kedge/repo/save"
)

// The tests in this file run on a clock that stands still while anybody works, so what
// they measure is what was waited for: the round trips of a line that takes its time.

// halfTrip is the delay of a line in one direction.
const halfTrip = 50 * time.Millisecond

// packet is some bytes on a long line.
type packet struct {
	b  []byte
	at time.Time // when it arrives
}

// longLine is one end of a connection on which all takes halfTrip, however much it is.
type longLine struct {
	in, out chan packet
	rest    []byte
	once    *sync.Once
	ended   chan struct{}
	sent    *atomic.Int64
}

func newLongLine() (here, there *longLine, sent *atomic.Int64) {
	a, b := make(chan packet, 1<<16), make(chan packet, 1<<16)
	ended, once := make(chan struct{}), new(sync.Once)
	sent = new(atomic.Int64)
	return &longLine{in: a, out: b, ended: ended, once: once, sent: sent},
		&longLine{in: b, out: a, ended: ended, once: once, sent: new(atomic.Int64)}, sent
}

// Read waits until the next packet has arrived.
func (l *longLine) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		select {
		case k := <-l.in:
			time.Sleep(time.Until(k.at))
			l.rest = k.b
		case <-l.ended:
			return 0, io.EOF
		}
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// Write sends a packet.
func (l *longLine) Write(p []byte) (int, error) {
	l.sent.Add(int64(len(p)))
	select {
	case l.out <- packet{append([]byte{}, p...), time.Now().Add(halfTrip)}:
		return len(p), nil
	case <-l.ended:
		return 0, io.ErrClosedPipe
	}
}

// Close ends both directions.
func (l *longLine) Close() error {
	l.once.Do(func() { close(l.ended) })
	return nil
}

// far returns a client a long line away from its server, and the bytes that it sent.
func (h *host) far(t testing.TB, o Options) (*Client, *atomic.Int64) {
	here, there, sent := newLongLine()
	h.wg.Go(func() {
		_ = server.Serve(context.Background(), there, server.Options{FS: noSync(), Grant: h.grant})
	})
	return h.dial(here, o), sent
}

// trips returns how many round trips fn waited for.
func trips(fn func()) int {
	start := time.Now()
	fn()
	return int(time.Since(start) / (2 * halfTrip))
}

// inBubble runs a test on the clock that stands still, with a host.
func inBubble(t *testing.T, fn func(t *testing.T, h *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(40 * 365 * 24 * time.Hour) // from 2000 to a day on which no file looks new
		fn(t, newHost(t))
	})
}

// source is a directory to be saved, with its index.
type source struct {
	t        testing.TB
	dir, idx string
}

func newSource(t testing.TB, files, size int) *source {
	t.Helper()
	dir := t.TempDir()
	s := &source{t, dir + "/src", dir + "/index"}
	for i := range files {
		s.write(fmt.Sprintf("d%02d/e%d/f%d", i%40, i%7, i), noise(uint64(i)+1000, size))
	}
	return s
}

func (s *source) write(name string, b []byte) {
	s.t.Helper()
	name = filepath.Join(s.dir, name)
	must(s.t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(s.t, os.WriteFile(name, b, 0o644))
	old := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	must(s.t, os.Chtimes(name, old, old))
}

// save brings the index up to date and saves all of it.
func (s *source) save(r repo.Repo) (save.Result, error) {
	s.t.Helper()
	ctx := context.Background()
	_, err := index.Update(ctx, index.Options{FS: noSync(), File: s.idx, Roots: []string{s.dir}})
	must(s.t, err)
	f, err := index.OpenExclusive(noSync(), s.idx, 0)
	must(s.t, err)
	defer f.Close()
	return save.Run(ctx, save.Options{
		Repo: r, FS: noSync(), Index: f, Name: "test", Roots: []string{s.dir}, Level: -1,
		Author: "A B <a@b>", Host: "h", Version: "v",
		Warn: func(path string, err error) { s.t.Errorf("%s: %v", path, err) },
	})
}

// restored compares what a repository gives back with the source.
func (s *source) restored(r repo.Repo) {
	s.t.Helper()
	out := s.t.TempDir()
	_, err := restore.Run(context.Background(), restore.Options{
		Repo: r, Out: out, Paths: []string{"test/latest" + s.dir + "/."},
		Warn: func(path string, err error) {
			if !errors.As(err, new(*restore.WithheldError)) {
				s.t.Errorf("%s: %v", path, err)
			}
		},
	})
	must(s.t, err)
	n := 0
	must(s.t, filepath.WalkDir(s.dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		want, err := os.ReadFile(name)
		must(s.t, err)
		got, err := os.ReadFile(out + strings.TrimPrefix(name, s.dir))
		if err != nil || string(got) != string(want) {
			s.t.Errorf("%s came back as %d bytes, %v", name, len(got), err)
		}
		return nil
	}))
	if n == 0 {
		s.t.Error("nothing was restored")
	}
}

// TestFarSave: a save, a save of nothing new, and a restore wait for a handful of
// round trips, whatever they move; a save of nothing new moves next to nothing.
func TestFarSave(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		src := newSource(t, 600, 30_000)
		var c *Client
		var sent *atomic.Int64
		saved := func(what string, mostTrips int, mostBytes int64) {
			t.Helper()
			c, sent = h.far(t, h.options())
			n := trips(func() {
				_, err := src.save(c)
				must(t, err)
			})
			t.Logf("%s: %d round trips, %d bytes sent", what, n, sent.Load())
			if n > mostTrips || sent.Load() > mostBytes {
				t.Errorf("%s took %d round trips and sent %d bytes, more than %d or %d", what, n, sent.Load(), mostTrips, mostBytes)
			}
		}
		saved("first save", 10, 20<<20)
		must(t, c.Close())
		saved("second save", 9, 16<<10)
		must(t, c.Close())
		src.write("d01/new", noise(1, 100_000))
		saved("third save", 10, 180<<10)
		must(t, c.Close())

		must(t, os.RemoveAll(h.cache))
		saved("unchanged save without cache", 12, 16<<10)
		n := trips(func() { src.restored(c) })
		t.Logf("restore: %d round trips", n)
		if n > 45 {
			t.Errorf("the restore took %d round trips", n)
		}
		must(t, c.Close())
	})
}

// TestFarTree: a walk of many more directories than are got ahead at a time waits for few
// of them, because the next ones are got first.
func TestFarTree(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		ctx := context.Background()
		c, _ := h.far(t, h.options())
		s, err := c.Begin(ctx)
		must(t, err)
		e, n := pack.NewEncoder(1), 0
		add := func(kind pack.Type, body []byte) pack.ID {
			id := pack.Sum(kind, body)
			b, crc := e.Append(nil, kind, body)
			must(t, s.Add(ctx, repo.Trees, []pack.Entry{{ID: id, CRC: crc, Bytes: b}}))
			return id
		}
		var dir func(depth int) pack.ID
		dir = func(depth int) pack.ID {
			n++
			tree := fmt.Appendf(nil, "100644 .bupm\x00%s", add(pack.Blob, fmt.Append(nil, n)).AppendBytes(nil))
			for i := range 15 * depth {
				tree = fmt.Appendf(tree, "40000 d%03d\x00%s", i, dir(depth-1).AppendBytes(nil))
			}
			return add(pack.Tree, tree)
		}
		root := dir(3)
		must(t, s.Commit(ctx))
		must(t, s.Close())
		var walk func(id pack.ID)
		walk = func(id pack.ID) {
			var dirs []pack.ID
			must(t, c.Get(ctx, []pack.ID{id}, func(_ int, _ pack.Type, body []byte) error {
				for s := repo.NewTreeScanner(body); s.Next(); {
					dirs = append(dirs, s.ID)
				}
				return nil
			}))
			must(t, c.Get(ctx, dirs[:1], func(int, pack.Type, []byte) error { return nil }))
			for _, id := range dirs[1:] {
				walk(id)
			}
		}
		most := trips(func() { walk(root) })
		t.Logf("%d directories: %d round trips", n, most)
		if most > n/50 {
			t.Errorf("a walk of %d directories took %d round trips", n, most)
		}
		must(t, c.Close())
	})
}

// TestFarLargeFile: the trees of chunks of a large file are got ahead, so that reading it
// takes few round trips although there are some hundred of them.
func TestFarLargeFile(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		src := newSource(t, 0, 0)
		src.write("big", noise(5, 40<<20))
		c, _ := h.far(t, h.options())
		_, err := src.save(c)
		must(t, err)
		must(t, c.Close())
		c, _ = h.far(t, h.options())
		n := trips(func() { src.restored(c) })
		t.Logf("restore: %d round trips", n)
		if n > 40 {
			t.Errorf("the restore took %d round trips", n)
		}
		must(t, c.Close())
	})
}

// TestFarGet: many objects are asked for at once, and one is one round trip.
func TestFarGet(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		ctx := context.Background()
		c, _ := h.far(t, h.options())
		s, err := c.Begin(ctx)
		must(t, err)
		list, ids := blobs(1, 3000, 9000)
		if n := trips(func() { must(t, s.Add(ctx, repo.Data, list)) }); n > 0 {
			t.Errorf("Add waited for %d round trips", n)
		}
		if n := trips(func() { must(t, s.Commit(ctx)) }); n > 1 {
			t.Errorf("Commit waited for %d round trips", n)
		}
		must(t, s.Close())
		for _, test := range []struct{ ids, most int }{{1, 1}, {20, 1}, {3000, 6}, {3000, 5}} {
			n := trips(func() { must(t, repotest.Check(ctx, c, ids[:test.ids])) })
			t.Logf("%d objects: %d round trips", test.ids, n)
			if n > test.most {
				t.Errorf("%d objects took %d round trips", test.ids, n)
			}
		}
		if n := trips(func() {
			missing, err := c.Missing(ctx, nil, append(make([]pack.ID, 200_000), ids...))
			if len(missing) != 200_000 || err != nil {
				t.Error(len(missing), err)
			}
		}); n > 1 {
			t.Errorf("Missing waited for %d round trips", n)
		}
		must(t, c.Close())
	})
}

// TestSlow: no more is sent than is allowed, and not in bursts.
func TestSlow(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		ctx := context.Background()
		o := h.options()
		o.BytesPerSecond = 100_000
		c, sent := h.far(t, o)
		s, err := c.Begin(ctx)
		must(t, err)
		list, _ := blobs(1, 200, 10_000)
		start, before := time.Now(), sent.Load()
		must(t, s.Add(ctx, repo.Data, list))
		for range 10 {
			time.Sleep(time.Second)
			if n, most := sent.Load()-before, int64(time.Since(start).Seconds()*100_000)+5_000; n > most || n < most-20_000 {
				t.Errorf("after %v %d bytes were sent", time.Since(start), n)
			}
		}
		must(t, s.Commit(ctx))
		if d := time.Since(start); d < 20*time.Second || d > 23*time.Second {
			t.Errorf("2 MB took %v", d)
		}
		must(t, s.Close())
		must(t, c.Close())
	})
}

// mute is a server that speaks frames and answers the first request only.
func mute(t testing.TB) (*Client, *atomic.Int64) {
	here, there, _ := newLongLine()
	pings := new(atomic.Int64)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 100)
		_, _ = there.Read(buf)
		_, _ = there.Write([]byte("Commands:\n    kedge\n\nok\n"))
		_, _ = there.Read(buf)
		_, _ = there.Write([]byte("1\n\nok\n"))
		in, out := wire.NewReader(bufio.NewReader(there)), wire.NewWriter(there)
		for {
			kind, tag, _, err := in.Next(nil)
			if err != nil {
				return
			}
			switch kind {
			case wire.Ping:
				pings.Add(1)
			case wire.Open:
				_ = out.Send(wire.OK, tag, new(wire.Info).Append(nil))
				_ = out.Flush()
			}
		}
	})
	c, err := NewClient(context.Background(), here, "", Options{FS: noSync()})
	must(t, err)
	t.Cleanup(func() { c.Close(); wg.Wait() })
	return c, pings
}

// TestSilence: a server that says nothing is asked three times, and given up; one
// that works on something is given more time, and one that checks, all it wants.
func TestSilence(t *testing.T) {
	for _, test := range []struct {
		name  string
		ask   func(ctx context.Context, c *Client) error
		after time.Duration // 0: never
	}{
		{"idle", nil, 75 * time.Second},
		{"a question", func(ctx context.Context, c *Client) error {
			_, err := c.Refs(ctx, "")
			return err
		}, 16 * time.Minute},
		{"a check", func(ctx context.Context, c *Client) error {
			_, err := c.Check(ctx, repo.CheckOptions{}, nil)
			return err
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, pings := mute(t)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				var wg sync.WaitGroup
				var got error
				if test.ask != nil {
					wg.Go(func() { got = test.ask(ctx, c) })
				}
				dead := c.driver.(*frames).dead
				start := time.Now()
				select {
				case <-dead:
				case <-time.After(3 * time.Hour):
				}
				if d := time.Since(start); test.after == 0 != (d == 3*time.Hour) || test.after > 0 && (d > test.after || d < test.after/2) {
					t.Errorf("it was given up after %v", d)
				}
				cancel()
				wg.Wait()
				if test.after > 0 && test.ask != nil && (got == nil || !strings.Contains(got.Error(), "nothing was heard for 15m")) {
					t.Error(got)
				}
				if n := pings.Load(); n < 3 {
					t.Errorf("it was asked %d times", n)
				}
			})
		})
	}
}

// TestGivenUp: a call that is given up takes nothing with it, and the session that its
// reply may bring is ended.
func TestGivenUp(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		c, _ := h.far(t, h.options())
		for range 10 { // more than the server has sessions for
			ctx, cancel := context.WithTimeout(context.Background(), halfTrip)
			if _, err := c.Begin(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			if _, err := c.Refs(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
			time.Sleep(4 * halfTrip)
		}
		s, err := c.Begin(context.Background())
		must(t, err)
		must(t, s.Close())
		if left, _ := filepath.Glob(h.dir + "/kedge/sessions/*"); len(left) > 0 {
			t.Error(left)
		}
		must(t, c.Close())
	})
}

// TestPingKeepsOpen: a client that has nothing to say for an hour still has a server.
func TestPingKeepsOpen(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		c, _ := h.far(t, h.options())
		time.Sleep(time.Hour)
		_, err := c.Refs(context.Background(), "")
		must(t, err)
		must(t, c.Close())
	})
}
