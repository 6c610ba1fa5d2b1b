package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/server"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// noSync is a file system that does not wait for the disk.
func noSync() *fsx.FS {
	return &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		if op.Kind == fsx.KindSync || op.Kind == fsx.KindSyncDir {
			return nil
		}
		return do()
	}}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a machine with one repository, and a server for each connection.
type host struct {
	t     testing.TB
	dir   string
	cache string
	grant access.Grant
	log   atomic.Pointer[string] // what the server said last
	wg    sync.WaitGroup
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir() + "/repo", cache: t.TempDir(), grant: access.Grant{Role: access.Owner, Who: "local"}}
	_, err := repo.InitDir(context.Background(), h.dir, repo.InitOptions{FS: noSync()})
	must(t, err)
	t.Cleanup(h.wg.Wait)
	return h
}

// link returns a connection to a new server.
func (h *host) link() *tap {
	h.t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(h.t, err)
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		ends[i], err = net.FileConn(f)
		must(h.t, err)
		f.Close()
	}
	h.wg.Go(func() {
		defer ends[1].Close()
		_ = server.Serve(context.Background(), ends[1], server.Options{FS: noSync(), Grant: h.grant, Log: func(format string, args ...any) {
			s := fmt.Sprintf(format, args...)
			h.log.Store(&s)
		}})
	})
	return newTap(ends[0])
}

// dial returns a client over a link.
func (h *host) dial(over io.ReadWriteCloser, o Options) *Client {
	h.t.Helper()
	c, err := NewClient(context.Background(), over, h.dir, o)
	must(h.t, err)
	h.t.Cleanup(func() { c.Close() })
	return c
}

func (h *host) client() *Client {
	h.t.Helper()
	return h.dial(h.link(), h.options())
}

func (h *host) options() Options { return Options{FS: noSync(), Cache: h.cache} }

// tap is a connection that counts what goes through and can be cut.
type tap struct {
	net.Conn
	in, out, trips atomic.Int64
	asked          atomic.Bool  // something was written after the last read
	cutIn, cutOut  atomic.Int64 // after so many bytes; 0: never
	words          string
}

func newTap(c net.Conn) *tap { return &tap{Conn: c} }

// String is the name of the server.
func (c *tap) String() string { return "host.example" }

// LastWords is what it said.
func (c *tap) LastWords() string { return c.words }

// Read counts a round trip for each read after a write.
func (c *tap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if cut := c.cutIn.Load(); cut > 0 && c.in.Load()+int64(n) > cut {
		n = int(max(0, cut-c.in.Load()))
		c.Conn.Close()
		err = io.EOF
	}
	c.in.Add(int64(n))
	if n > 0 && c.asked.Swap(false) {
		c.trips.Add(1)
	}
	return n, err
}

// Write writes up to the cut.
func (c *tap) Write(p []byte) (int, error) {
	if cut := c.cutOut.Load(); cut > 0 {
		if left := cut - c.out.Load(); int64(len(p)) >= left {
			n, _ := c.Conn.Write(p[:max(0, left)])
			c.out.Add(int64(n))
			c.Conn.Close()
			return n, errors.New("cut")
		}
	}
	c.asked.Store(true)
	n, err := c.Conn.Write(p)
	c.out.Add(int64(n))
	return n, err
}

func TestRepo(t *testing.T) {
	for _, cached := range []bool{true, false} {
		t.Run(fmt.Sprint("cached ", cached), func(t *testing.T) {
			repotest.Run(t, func(t *testing.T) repo.Repo {
				h := newHost(t)
				o := h.options()
				if !cached {
					o.Cache = ""
				}
				return h.dial(h.link(), o)
			})
		})
	}
}

// noise returns bytes that nothing makes shorter.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = r.Read(b)
	return b
}

// blobs makes objects of n bytes each.
func blobs(seed uint64, count, n int) (list []pack.Entry, ids []pack.ID) {
	enc := pack.NewEncoder(1)
	all := noise(seed, count*n)
	for i := range count {
		body := all[i*n:][:n]
		b, crc := enc.Append(nil, pack.Blob, body)
		e := pack.Entry{ID: pack.Sum(pack.Blob, body), CRC: crc, Bytes: b}
		list, ids = append(list, e), append(ids, e.ID)
	}
	return list, ids
}

func TestGetMany(t *testing.T) {
	h := newHost(t)
	ctx := context.Background()
	c := h.client()
	s, err := c.Begin(ctx)
	must(t, err)
	var ids []pack.ID
	for i, size := range []int{10, 1000, 9000, 60_000, 1 << 20, 5 << 20} {
		list, some := blobs(uint64(i), min(3000, 12<<20/size), size)
		must(t, s.Add(ctx, repo.Data, list))
		ids = append(ids, some...)
	}
	must(t, s.Commit(ctx))
	must(t, s.Close())
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(ids), func(i, k int) { ids[i], ids[k] = ids[k], ids[i] })
	must(t, repotest.Check(ctx, c, ids))
	must(t, repotest.Check(ctx, c, append(ids[:50:50], ids[:50]...)))

	// A callback may ask for more.
	var inner atomic.Int64
	must(t, c.Get(ctx, ids[:500], func(i int, _ pack.Type, body []byte) error {
		n := len(body)
		err := c.Get(ctx, ids[i:i+1], func(_ int, _ pack.Type, again []byte) error {
			inner.Add(1)
			if len(again) != n {
				return errors.New("another object")
			}
			return nil
		})
		if len(body) != n || pack.Sum(pack.Blob, body) != ids[i] {
			return errors.New("the body changed during the call")
		}
		return err
	}))
	if inner.Load() != 500 {
		t.Fatal(inner.Load())
	}

	lost := pack.Sum(pack.Blob, []byte("never stored"))
	err = c.Get(ctx, append(ids[:1000:1000], lost), func(int, pack.Type, []byte) error { return nil })
	if m := new(repo.MissingError); !errors.As(err, &m) || m.ID != lost {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	if err := c.Get(ctx, ids, func(int, pack.Type, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	ctx2, cancel := context.WithCancel(ctx)
	var calls atomic.Int64
	err = c.Get(ctx2, ids, func(int, pack.Type, []byte) error {
		if calls.Add(1) == 10 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	must(t, repotest.Check(ctx, c, ids[:100])) // and the connection goes on
}

// TestGetDamaged: an object that is damaged on the server is named, and an entry that
// is not what its id says is found by the client itself.
func TestGetDamaged(t *testing.T) {
	h := newHost(t)
	ctx := context.Background()
	list, ids := blobs(1, 200, 5000)
	c := h.client()
	s, err := c.Begin(ctx)
	must(t, err)
	must(t, s.Add(ctx, repo.Data, list))
	must(t, s.Commit(ctx))
	must(t, s.Close())
	names, _ := filepath.Glob(h.dir + "/objects/pack/*.pack")
	if len(names) != 1 {
		t.Fatal(names)
	}
	b, err := os.ReadFile(names[0])
	must(t, err)
	b[len(b)/2] ^= 1
	must(t, os.Chmod(names[0], 0o600))
	must(t, os.WriteFile(names[0], b, 0o600))
	err = repotest.Check(ctx, h.client(), ids)
	if corrupt := new(pack.CorruptError); !errors.As(err, &corrupt) {
		t.Fatalf("a damaged object: %v", err)
	}

	r := newReader()
	for what, entry := range map[string][]byte{
		"another": list[1].Bytes, "empty": nil, "cut": list[0].Bytes[:100],
		"with more behind it": append(list[0].Bytes[:len(list[0].Bytes):len(list[0].Bytes)], 0),
	} {
		_, err := r.object(ids[0], entry)
		if corrupt := new(pack.CorruptError); !errors.As(err, &corrupt) || !strings.Contains(err.Error(), ids[0].String()) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.object(ids[0], list[0].Bytes); err != nil {
		t.Error(err)
	}
}

// TestLost: a connection that ends fails all calls with one error that names the
// server and what it said.
func TestLost(t *testing.T) {
	h := newHost(t)
	ctx := context.Background()
	link := h.link()
	link.words = "kedge: the disk is on fire\n"
	c := h.dial(link, h.options())
	s, err := c.Begin(ctx)
	must(t, err)
	list, ids := blobs(1, 10, 100)
	link.cutIn.Store(link.in.Load() + 5)
	want := func(err error) {
		t.Helper()
		var lost *LostError
		if !errors.As(err, &lost) || lost.Server != "host.example" || !strings.Contains(err.Error(), "the disk is on fire") {
			t.Errorf("%v", err)
		}
	}
	_, err = c.Missing(ctx, nil, ids)
	want(err)
	_, err = c.Refs(ctx, "")
	want(err)
	want(c.Get(ctx, ids, nil))
	_ = s.Add(ctx, repo.Data, list) // need not know it yet
	want(s.Commit(ctx))
	_, err = c.Begin(ctx)
	want(err)
	_, err = c.SetRef(ctx, repo.Move{Ref: "refs/heads/a", New: ids[0]})
	want(err)
	must(t, s.Close())
	_ = c.Close()
}

// TestClosed: after Close all calls say so.
func TestClosed(t *testing.T) {
	h := newHost(t)
	c := h.client()
	must(t, c.Close())
	if _, err := c.Refs(context.Background(), ""); !errors.Is(err, repo.ErrClosed) {
		t.Fatal(err)
	}
	_ = c.Close()
}

// scripted is a server that says what it was told to, whatever it hears.
func scripted(t *testing.T, says func(conn net.Conn, heard *bytes.Buffer)) *tap {
	t.Helper()
	here, there := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer there.Close()
		says(there, new(bytes.Buffer))
	})
	t.Cleanup(func() { here.Close(); wg.Wait() })
	return newTap(here)
}

func readLine(conn net.Conn) string {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := conn.Read(b); err != nil || b[0] == '\n' {
			return string(line)
		}
		line = append(line, b[0])
	}
}

// TestGreet: what is no server, or not one that we understand, is told from what it says.
func TestGreet(t *testing.T) {
	for _, test := range []struct{ name, says, want string }{
		{"a shell that talks", "Welcome to Ubuntu!\nhave fun\n", "Welcome to Ubuntu!"},
		{"a shell without kedge", "sh: kedge: command not found", "command not found"},
		{"nothing", "", "hung up"},
		{"an error", "error there is nothing here\n", "there is nothing here"},
		{"never ends", strings.Repeat("x", 1<<20), "xxxx"},
		{"many lines", strings.Repeat("x\n", 1<<12), "does not stop"},
		{"another version", "Commands:\n    help\n    kedge\n\nok\n2\n\nok\n", `it wants to speak "2"`},
		{"no version", "Commands:\n    kedge\n\nok\n\nok\n", "protocol error"},
		{"no frames", "Commands:\n    kedge\n\nok\n1\n\nok\nCommands:\n    help\n", "protocol error"},
		{"an answer to nothing", "Commands:\n    kedge\n\nok\n1\n\nok\n" + "\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x63", "what was not asked"},
		{"a question", "Commands:\n    kedge\n\nok\n1\n\nok\n" + "\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01", "asks instead of answering"},
		{"nonsense as failure", "Commands:\n    kedge\n\nok\n1\n\nok\n" + "\x00\x00\x00\x01\x41\x00\x00\x00\x00\x00\x00\x01\xff", "unknown code 255"},
		{"nonsense as info", "Commands:\n    kedge\n\nok\n1\n\nok\n" + "\x00\x00\x00\x01\x40\x00\x00\x00\x00\x00\x00\x01\xff", "protocol error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			link := scripted(t, func(conn net.Conn, _ *bytes.Buffer) {
				readLine(conn)
				const last = "\n1\n\nok\n" // what is behind answers a frame, which must have come
				says, answer, frames := strings.Cut(test.says, last)
				if frames {
					_, _ = io.WriteString(conn, says+last)
					readLine(conn)
					_, _ = io.ReadFull(conn, make([]byte, 12))
					says = answer
				}
				var wg sync.WaitGroup
				wg.Go(func() { _, _ = io.Copy(io.Discard, conn) })
				_, _ = io.WriteString(conn, says)
				time.Sleep(20 * time.Millisecond)
				conn.Close()
				wg.Wait()
			})
			_, err := NewClient(context.Background(), link, "", Options{FS: noSync()})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v; it should say %q", err, test.want)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		link := scripted(t, func(conn net.Conn, _ *bytes.Buffer) { _, _ = io.Copy(io.Discard, conn) })
		_, err := NewClient(context.Background(), link, "", Options{FS: noSync(), Timeout: 20 * time.Millisecond})
		if err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Fatal(err)
		}
	})
	t.Run("bup's", func(t *testing.T) {
		link := scripted(t, func(conn net.Conn, _ *bytes.Buffer) {
			readLine(conn)
			_, _ = io.WriteString(conn, "Commands:\n    help\n    quit\n\nok\n")
			_, _ = io.Copy(io.Discard, conn)
		})
		if _, err := listRepos(context.Background(), link, Options{FS: noSync()}); !errors.Is(err, wire.ErrUnsupported) {
			t.Fatal(err)
		}
	})
}

// TestNoRepository: what the server refuses comes as it would from a directory.
func TestNoRepository(t *testing.T) {
	h := newHost(t)
	_, err := NewClient(context.Background(), h.link(), h.dir+"x", h.options())
	if !errors.As(err, new(*repo.NotFoundError)) {
		t.Fatal(err)
	}
	o := h.options()
	o.Create = &CreateOptions{Chunker: "rabin:15"}
	c, err := NewClient(context.Background(), h.link(), h.dir+"x", o)
	must(t, err)
	defer c.Close()
	if got := c.Config().Chunker; got != "rabin:15" || !c.Info().Created {
		t.Fatalf("%+v", c.Info())
	}
	o.Create = &CreateOptions{Bup: true}
	b, err := NewClient(context.Background(), h.link(), h.dir+"y", o)
	must(t, err)
	defer b.Close()
	if got := b.Config(); got.Chunker != "rollsum:13" || got.Version != 0 {
		t.Errorf("one of bup's: %+v", got)
	}
}
