package server

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// rawClient speaks frames without believing in any of their rules.
type rawClient struct {
	t    testing.TB
	conn net.Conn
	w    *wire.Writer
	tag  uint32

	served chan error     // what Serve returned
	got    chan rawAnswer // every message that came
	left   sync.Once
}

type rawAnswer struct {
	kind wire.Kind
	tag  uint32
	body []byte
}

// serveRaw serves one end of a pipe and returns the other one.
func serveRaw(t testing.TB, o Options) (net.Conn, chan error) {
	t.Helper()
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- Serve(context.Background(), far, o)
		far.Close()
	}()
	t.Cleanup(func() { near.Close() })
	return near, served
}

// dialRaw connects and changes to frames.
func dialRaw(t testing.TB, o Options) *rawClient {
	t.Helper()
	conn, served := serveRaw(t, o)
	c := &rawClient{t: t, conn: conn, w: wire.NewWriter(conn), served: served, got: make(chan rawAnswer, 1<<12)}
	in := bufio.NewReader(conn)
	if _, err := io.WriteString(conn, "kedge 1\n"); err != nil {
		t.Fatal(err)
	}
	hello := make([]byte, len("1\n\nok\n"))
	if _, err := io.ReadFull(in, hello); err != nil || string(hello) != "1\n\nok\n" {
		t.Fatalf("%q, %v", hello, err)
	}
	go func() {
		defer close(c.got)
		for r := wire.NewReader(in); ; {
			kind, tag, body, err := r.Next(nil)
			if err != nil {
				return
			}
			c.got <- rawAnswer{kind, tag, body}
		}
	}()
	t.Cleanup(func() { c.leave() })
	return c
}

// leave closes the connection and returns what Serve did.
func (c *rawClient) leave() (err error) {
	c.left.Do(func() {
		c.conn.Close()
		err = <-c.served
	})
	return err
}

// post sends a request and does not wait.
func (c *rawClient) post(kind wire.Kind, body ...[]byte) uint32 {
	c.tag++
	if err := errors.Join(c.w.Send(kind, c.tag, body...), c.w.Flush()); err != nil {
		c.t.Logf("sending %d: %v", kind, err)
	}
	return c.tag
}

var errEnded = errors.New("the server ended the connection")

// reply waits for the reply to a request, passing over those to Adds before it unless
// they failed.
func (c *rawClient) reply(tag uint32) ([]byte, error) {
	var first error
	for {
		a, ok := <-c.got
		if !ok {
			return nil, errEnded
		}
		if a.kind == wire.Note {
			continue
		}
		var err error
		if a.kind == wire.Fail {
			var bad error
			if err, bad = wire.ParseFailure(a.body); bad != nil {
				c.t.Fatal(bad)
			}
		}
		if first == nil {
			first = err
		}
		if a.tag == tag {
			return a.body, first
		}
	}
}

// ask sends a request and waits for the reply. Failures of Adds sent before count.
func (c *rawClient) ask(kind wire.Kind, body ...[]byte) ([]byte, error) {
	return c.reply(c.post(kind, body...))
}

func (c *rawClient) must(kind wire.Kind, body ...[]byte) []byte {
	c.t.Helper()
	b, err := c.ask(kind, body...)
	if err != nil {
		c.t.Fatalf("kind %d: %v", kind, err)
	}
	return b
}

func (c *rawClient) open(path string) error {
	m := wire.OpenRequest{Path: path}
	_, err := c.ask(wire.Open, m.Append(nil))
	return err
}

func (c *rawClient) begin() uint32 {
	c.t.Helper()
	m, err := wire.ParseSession(c.must(wire.Begin))
	if err != nil {
		c.t.Fatal(err)
	}
	return m.ID
}

// addBody returns an AddRequest.
func addBody(session uint32, class repo.Class, entries ...pack.Entry) []byte {
	b := wire.AppendAdd(nil, session, class)
	for i := range entries {
		b = append(wire.AppendAdded(b, &entries[i]), entries[i].Bytes...)
	}
	return b
}

func (c *rawClient) add(session uint32, class repo.Class, entries ...pack.Entry) {
	c.post(wire.Add, addBody(session, class, entries...))
}

func (c *rawClient) commit(session uint32) error {
	_, err := c.ask(wire.Commit, wire.Number(session).Append(nil))
	return err
}

func (c *rawClient) setRef(m repo.Move) (pack.ID, error) {
	r := wire.MoveRequest{Move: m}
	b, err := c.ask(wire.SetRef, r.Append(nil))
	if err != nil {
		return pack.ID{}, err
	}
	ids, err := wire.ParseIDs(nil, b)
	if err != nil || len(ids) != 1 {
		c.t.Fatal(ids, err)
	}
	return ids[0], nil
}

// place is a root with repositories in it, and what was saved there.
type place struct {
	root string
	one  repotest.Save // refs/heads/main
	two  repotest.Save // on top of it, in refs/heads/other
}

// newPlace makes two repositories, build and other. Both have two saves and a tag.
func newPlace(t testing.TB) place {
	t.Helper()
	p := place{root: t.TempDir()}
	p.one = repotest.NewSave("one", 20)
	p.two = repotest.NewSave("two", 20, p.one.Commit)
	for _, name := range []string{"build", "other"} {
		dir := filepath.Join(p.root, name)
		if _, err := repo.InitDir(t.Context(), dir, repo.InitOptions{}); err != nil {
			t.Fatal(err)
		}
		r, err := repo.OpenDir(t.Context(), dir, repo.DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, save := range []repotest.Save{p.one, p.two} {
			err = errors.Join(err, s.Add(t.Context(), repo.Data, save.Data), s.Add(t.Context(), repo.Trees, save.Trees))
		}
		err = errors.Join(err, s.Commit(t.Context()), s.Close())
		for ref, id := range map[string]pack.ID{
			"refs/heads/main": p.two.Commit, "refs/heads/rest/x": p.one.Commit, "refs/tags/t": p.one.Commit,
		} {
			_, e := r.SetRef(t.Context(), repo.Move{Ref: ref, New: id})
			err = errors.Join(err, e)
		}
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p place) dir() string { return filepath.Join(p.root, "build") }

// options returns those of a key of a role for the repository build.
func (p place) options(t testing.TB, role access.Role) Options {
	return Options{
		Grant: access.Grant{Role: role, Root: p.root, Repos: []string{"build"}, Who: "SHA256:key"},
		Log:   t.Logf,
	}
}

// open opens the repository on disk.
func (p place) open(t testing.TB) *repo.Packs {
	t.Helper()
	r, err := repo.OpenDir(t.Context(), p.dir(), repo.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// state returns the files below a directory and what they hold. Of kedge's own files
// those are left out that hold nothing, and it is an error if a session left something.
func state(t testing.TB, root string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		switch name := filepath.Base(filepath.Dir(path)) + "/" + d.Name(); {
		case strings.Contains(rel, "/kedge/tmp/"), strings.Contains(rel, "/kedge/sessions/"):
			t.Errorf("left behind: %s", rel)
		case d.IsDir(), name == "kedge/maint", name == "kedge/reflock", name == "kedge/stage":
		default:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files[rel] = fmt.Sprintf("%x", sha256.Sum256(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// fsck has git check a repository.
func fsck(t testing.TB, dir string) {
	t.Helper()
	out, err := exec.Command("git", "-C", dir, "fsck", "--strict", "--full").CombinedOutput()
	if err != nil {
		t.Errorf("git fsck: %v\n%s", err, out)
	}
}

// same compares two states.
func same(t testing.TB, before, after map[string]string) {
	t.Helper()
	for name, sum := range before {
		if after[name] != sum {
			t.Errorf("%s has changed or is gone", name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			t.Errorf("%s is new", name)
		}
	}
}

// soon fails the test if the server does not end.
func soon(t testing.TB, served chan error) error {
	t.Helper()
	select {
	case err := <-served:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the server goes on")
		return nil
	}
}
