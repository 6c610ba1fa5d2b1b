package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/server"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// bupChild is a bup server as a child process.
type bupChild struct {
	io.Reader
	io.WriteCloser
	cmd    *exec.Cmd
	stderr *words
	once   sync.Once
	err    error
}

func (c *bupChild) String() string { return "bup" }

func (c *bupChild) LastWords() string {
	_ = c.Close()
	return c.stderr.last()
}

func (c *bupChild) Close() error {
	c.once.Do(func() {
		c.WriteCloser.Close()
		c.err = c.cmd.Wait()
	})
	return c.err
}

// startBup starts bup's own server.
func startBup(t testing.TB, home string) *bupChild {
	t.Helper()
	program, err := exec.LookPath("bup")
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(program, "server")
	cmd.Env = append(os.Environ(), "BUP_DIR="+filepath.Join(home, "default"), "HOME="+home, "GIT_CONFIG_NOSYSTEM=1", "TZ=UTC")
	c := &bupChild{cmd: cmd, stderr: newWords(nil)}
	cmd.Stderr = c.stderr
	// Pipes of our own, as those of package exec are closed by Wait.
	in, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout = in, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	out.Close()
	c.Reader, c.WriteCloser = outR, inW
	t.Cleanup(func() {
		_ = c.Close()
		outR.Close()
	})
	return c
}

// startOld starts our server in the shape of an old one.
func startOld(t testing.TB, g access.Grant) net.Conn {
	t.Helper()
	mine, its := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer its.Close()
		_ = server.Serve(context.Background(), its, server.Options{Grant: g, BupNames: true})
	}()
	t.Cleanup(func() {
		mine.Close()
		<-done
	})
	return mine
}

// newBupClient opens a repository through bup's protocol.
func newBupClient(t testing.TB, conn io.ReadWriteCloser, path string, o Options) *Client {
	t.Helper()
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	c, err := NewClient(context.Background(), conn, path, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.driver.(*bupRepo); !ok {
		t.Fatalf("the client speaks by %T", c.driver)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestBupConformance(t *testing.T) {
	t.Run("bup", func(t *testing.T) {
		repotest.Run(t, func(t *testing.T) repo.Repo {
			dir := t.TempDir()
			return newBupClient(t, startBup(t, dir), filepath.Join(dir, "r"), Options{Create: new(CreateOptions), Cache: filepath.Join(dir, "cache")})
		})
	})
	t.Run("kedge", func(t *testing.T) {
		repotest.Run(t, func(t *testing.T) repo.Repo {
			dir := t.TempDir()
			g := access.Grant{Role: access.Owner, Root: dir, Who: "test"}
			return newBupClient(t, startOld(t, g), "r", Options{Create: new(CreateOptions)})
		})
	})
}

// localBup runs bup on a repository.
func localBup(t *testing.T, home, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("bup", args...)
	cmd.Env = append(os.Environ(), "BUP_DIR="+dir, "HOME="+home, "GIT_CONFIG_NOSYSTEM=1", "TZ=UTC")
	cmd.Dir = home
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("bup %v: %v\n%s", args, err, stderr.Bytes())
	}
	return string(out)
}

// What the client stores through a bup server bup itself finds good, and what bup stored
// the client reads.
func TestBupServer(t *testing.T) {
	ctx := context.Background()
	home := t.TempDir()
	dir := filepath.Join(home, "r")
	o := Options{Create: new(CreateOptions), Cache: filepath.Join(home, "cache")}
	c := newBupClient(t, startBup(t, home), dir, o)
	if got := c.Config(); got.Chunker != "rollsum:13" || got.Version != 0 {
		t.Errorf("config %+v", got)
	}
	save := repotest.NewSave("a", 300)
	if err := repotest.Store(ctx, c, save); err != nil {
		t.Fatal(err)
	}
	if id, err := c.SetRef(ctx, repo.Move{Ref: "refs/heads/t", New: save.Commit}); err != nil || id != save.Commit {
		t.Fatalf("%v, %v", id, err)
	}
	next := repotest.NewSave("b", 20, save.Commit)
	if err := repotest.Store(ctx, c, next); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SetRef(ctx, repo.Move{Ref: "refs/heads/t", Old: save.Commit, New: next.Commit, Reparent: true}); err != nil {
		t.Fatal(err)
	}
	var order []pack.ID
	err := c.Commits(ctx, next.Commit, func(id pack.ID, body []byte) error {
		if pack.Sum(pack.Commit, body) != id {
			t.Errorf("%v has another body", id)
		}
		order = append(order, id)
		return nil
	})
	if err != nil || !slices.Equal(order, []pack.ID{next.Commit, save.Commit}) {
		t.Errorf("commits %v, %v", order, err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	for _, args := range [][]string{{"fsck", "--full", "--strict"}, {"rev-parse", "t"}} {
		out, err := exec.Command("git", append([]string{"--git-dir=" + dir}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("git %v: %v\n%s", args, err, out)
		}
	}
	if idx, _ := filepath.Glob(filepath.Join(home, "cache/*/pack-*.idx")); len(idx) != 2 {
		t.Errorf("%d idx files in the cache", len(idx))
	}
	var names []string
	for _, b := range save.Data[:3] {
		names = append(names, b.ID.String())
	}
	if got := localBup(t, home, dir, append([]string{"join"}, names...)...); len(got) == 0 {
		t.Error("bup join gives nothing")
	}
	// Bup's own save, read by the client.
	if err := os.WriteFile(filepath.Join(home, "f"), bytes.Repeat([]byte("0123456789abcdef"), 10_000), 0o644); err != nil {
		t.Fatal(err)
	}
	localBup(t, home, dir, "index", filepath.Join(home, "f"))
	localBup(t, home, dir, "save", "-n", "mine", "--strip", home)
	o.Create = nil
	c = newBupClient(t, startBup(t, home), dir, o)
	v := repo.VFS{Repo: c}
	chain, err := v.Resolve(ctx, "mine/latest/f", repo.ResolveOptions{Follow: true, Meta: true})
	if err != nil {
		t.Fatal(err)
	}
	n := chain[len(chain)-1]
	var got bytes.Buffer
	if _, err := repo.OpenFile(ctx, c, n.ID, n.Chunked).WriteTo(&got); err != nil {
		t.Error(err)
	}
	if want, _ := os.ReadFile(filepath.Join(home, "f")); !bytes.Equal(got.Bytes(), want) || n.Meta == nil || n.Meta.Size != int64(len(want)) {
		t.Errorf("%d bytes came, %+v", got.Len(), n.Meta)
	}
	if lacks, err := c.Missing(ctx, nil, append(save.IDs(), n.ID)); len(lacks) > 0 || err != nil {
		t.Errorf("missing %v, %v", lacks, err)
	}
}

func TestBupNoRepo(t *testing.T) {
	home := t.TempDir()
	for _, path := range []string{filepath.Join(home, "none"), home, ""} {
		_, err := NewClient(context.Background(), startBup(t, home), path, Options{FS: new(fsx.FS)})
		if !errors.As(err, new(*repo.NotFoundError)) {
			t.Errorf("%q: %v", path, err)
		}
	}
	_, err := NewClient(context.Background(), startBup(t, home), "a\nquit", Options{FS: new(fsx.FS)})
	if err == nil {
		t.Error("a path with a line feed passes")
	}
	_, err = NewClient(context.Background(), startBup(t, home), home, Options{FS: new(fsx.FS), Create: &CreateOptions{Chunker: "rabin:13"}})
	if !errors.As(err, new(*repo.ConfigError)) {
		t.Errorf("a chunker that bup does not have: %v", err)
	}
}

// Somebody else saves what we are about to save: the server suggests his idx in the
// middle of the stream.
func TestBupSuggestion(t *testing.T) {
	for _, kind := range []string{"bup", "kedge"} {
		t.Run(kind, func(t *testing.T) {
			ctx := context.Background()
			home := t.TempDir()
			dial := func(o Options) *Client {
				if kind == "bup" {
					return newBupClient(t, startBup(t, home), filepath.Join(home, "r"), o)
				}
				return newBupClient(t, startOld(t, access.Grant{Role: access.Owner, Root: home}), "r", o)
			}
			c := dial(Options{Create: new(CreateOptions)})
			s, err := c.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			both := repotest.NewSave("both", 2000)
			if err := repotest.Store(ctx, dial(Options{}), both); err != nil {
				t.Fatal(err)
			}
			one := repotest.NewSave("one", 10)
			for _, part := range [][]pack.Entry{one.Data, both.Data[:10], nil, both.Data, one.Trees, both.Trees} {
				if err := s.Add(ctx, repo.Data, part); err != nil {
					t.Fatal(err)
				}
				if part == nil { // any other request suspends, and what was suggested is heard
					if _, err := c.Refs(ctx, "refs/"); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := s.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			if sent, _ := s.Stats(); sent != int64(len(one.IDs())+10) {
				t.Errorf("%d objects were sent", sent)
			}
			if err := repotest.Check(ctx, c, append(both.IDs(), one.IDs()...)); err != nil {
				t.Error(err)
			}
			if n := len(c.driver.(*bupRepo).view.Load().idx); n != 2 {
				t.Errorf("%d idx files are known", n)
			}
		})
	}
}

// An idx that is no longer listed says nothing any more.
func TestBupForgets(t *testing.T) {
	ctx := context.Background()
	home := t.TempDir()
	o := Options{Create: new(CreateOptions), Cache: filepath.Join(home, "cache")}
	save := repotest.NewSave("a", 5)
	c := newBupClient(t, startBup(t, home), filepath.Join(home, "r"), o)
	if err := repotest.Store(ctx, c, save); err != nil {
		t.Fatal(err)
	}
	c.Close()
	packs, _ := filepath.Glob(filepath.Join(home, "r/objects/pack/*"))
	for _, name := range packs {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	c = newBupClient(t, startBup(t, home), filepath.Join(home, "r"), o)
	lacks, err := c.Missing(ctx, nil, save.IDs())
	if err != nil || len(lacks) != len(save.IDs()) {
		t.Errorf("%d of %d are missing, %v", len(lacks), len(save.IDs()), err)
	}
}

// A pack is finished when it is large enough, in the middle of a session.
func TestBupPackLimit(t *testing.T) {
	ctx := context.Background()
	home := t.TempDir()
	c := newBupClient(t, startBup(t, home), filepath.Join(home, "r"), Options{Create: new(CreateOptions)})
	c.driver.(*bupRepo).info.Config.PackSizeLimit = 2000
	save := repotest.NewSave("a", 200)
	if err := repotest.Store(ctx, c, save); err != nil {
		t.Fatal(err)
	}
	packs, _ := filepath.Glob(filepath.Join(home, "r/objects/pack/*.pack"))
	if len(packs) < 3 {
		t.Errorf("%d packs", len(packs))
	}
	if err := repotest.Check(ctx, c, save.IDs()); err != nil {
		t.Error(err)
	}
}

// What a server must not say is the end of the connection, and never a wrong answer.
func TestBupBadServer(t *testing.T) {
	id := pack.Sum(pack.Blob, []byte("hello\n"))
	hello := func(more string) string {
		return "Commands:\n    cat-batch\n    config-get\n    receive-objects-v2\n    refs\n    update-ref\n\nok\n" + more
	}
	config := strings.Repeat("\x00\nok\n", 6)
	get := func(c *Client) error {
		return c.Get(context.Background(), []pack.ID{id}, func(int, pack.Type, []byte) error { return nil })
	}
	for _, test := range []struct {
		name, says string
		do         func(c *Client) error // nil: opening is enough
		want       error
	}{
		{"no end", hello("what?\n"), nil, wire.ErrProtocol},
		{"config of a kind", hello("\nok\n\x09"), nil, wire.ErrProtocol},
		{"config without end", hello("\nok\n\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), nil, wire.ErrProtocol},
		{"long config", hello("\nok\n\x04\xff\xff\x7f"), nil, wire.ErrProtocol},
		{"another splitter", hello("\nok\n\x00\nok\n\x04\x02no\nok\n" + strings.Repeat("\x00\nok\n", 4)), nil, nil},
		{"wrong object", hello("\nok\n" + config + id.String() + " blob 5\nhallo\nok\n"), get, nil},
		{"other object", hello("\nok\n" + config + strings.Repeat("0", 40) + " blob 6\nhello\n\nok\n"), get, wire.ErrProtocol},
		{"huge object", hello("\nok\n" + config + id.String() + " blob 99999999999\n"), get, wire.ErrProtocol},
		{"cut object", hello("\nok\n" + config + id.String() + " blob 6\nhel"), get, io.ErrUnexpectedEOF},
		{"type of its own", hello("\nok\n" + config + id.String() + " boat 6\nhello\n\nok\n"), get, wire.ErrProtocol},
		{"no ref", hello("\nok\n" + config + "hello refs/heads/t\n\n\nok\n"), func(c *Client) error {
			_, err := c.Refs(context.Background(), "refs/")
			return err
		}, wire.ErrProtocol},
		{"no idx", hello("\nok\n" + config + "pack-" + id.String() + ".idx\n\nok\n\xff\xff\xff\xffabc"), func(c *Client) error {
			_, err := c.Missing(context.Background(), nil, []pack.ID{id})
			return err
		}, io.EOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := &deaf{r: strings.NewReader(test.says)}
			c, err := NewClient(context.Background(), conn, "x", Options{FS: new(fsx.FS)})
			if err == nil {
				defer c.Close()
				if test.do == nil {
					t.Fatal("the client is content")
				}
				err = test.do(c)
			}
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

// deaf is a server that says what it has to say, whatever it is asked.
type deaf struct{ r io.Reader }

func (d *deaf) Read(p []byte) (int, error)  { return d.r.Read(p) }
func (d *deaf) Write(p []byte) (int, error) { return len(p), nil }
func (d *deaf) Close() error                { return nil }

// Callers together get what is theirs.
func TestBupTogether(t *testing.T) {
	ctx := context.Background()
	home := t.TempDir()
	c := newBupClient(t, startOld(t, access.Grant{Role: access.Owner, Root: home}), "r", Options{Create: new(CreateOptions)})
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			save := repotest.NewSave(fmt.Sprint(i), 50)
			if err := repotest.Store(ctx, c, save); err != nil {
				t.Error(err)
				return
			}
			if _, err := c.SetRef(ctx, repo.Move{Ref: fmt.Sprint("refs/heads/s", i), New: save.Commit}); err != nil {
				t.Error(err)
			}
			if err := repotest.Check(ctx, c, save.IDs()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if refs, err := c.Refs(ctx, "refs/heads/s"); len(refs) != 6 || err != nil {
		t.Errorf("%v, %v", refs, err)
	}
}
