package server

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// deflated returns an entry that claims size bytes of an object of some kind, whatever
// body is.
func deflated(kind, size int, body []byte, tail ...byte) []byte {
	b := []byte{byte(kind<<4 | size&15)}
	for n := size >> 4; n > 0; n >>= 7 {
		b[len(b)-1] |= 0x80
		b = append(b, byte(n&0x7f))
	}
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	w.Write(body)
	w.Close()
	return append(append(b, z.Bytes()...), tail...)
}

// sent returns an entry with the CRC that its bytes have.
func sent(id pack.ID, b []byte) pack.Entry {
	return pack.Entry{ID: id, CRC: crc32.ChecksumIEEE(b), Bytes: b}
}

// noise returns n bytes that do not compress.
func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	r.Read(b)
	return b
}

// rawTree returns a tree of lines as they are given.
func rawTree(lines ...string) pack.Entry {
	var b []byte
	for i, l := range lines {
		b = append(append(b, l...), 0)
		b = pack.Sum(pack.Blob, fmt.Appendf(nil, "one %d", i)).AppendBytes(b)
	}
	return repotest.Entry(pack.Tree, b)
}

// TestHostileObjects: what is not what it says to be is refused and ends the session;
// nothing of it is ever seen.
func TestHostileObjects(t *testing.T) {
	good := repotest.Entry(pack.Blob, []byte("good"))
	other := repotest.Entry(pack.Blob, []byte("something else"))
	crc := good
	crc.CRC++
	large := noise(3 << 20)
	largeID := pack.Sum(pack.Blob, large)
	zeros := make([]byte, 1<<20)
	tests := []struct {
		name  string
		class repo.Class
		entry pack.Entry
		want  string
	}{
		{"wrong content under a right id", repo.Data, sent(good.ID, other.Bytes), "it is blob"},
		{"wrong CRC", repo.Data, crc, "CRC"},
		{"another type", repo.Data, sent(good.ID, repotest.Entry(pack.Tag, []byte("good")).Bytes), "it is tag"},
		{"nothing", repo.Data, sent(good.ID, nil), "cut short"},
		{"cut short", repo.Data, sent(good.ID, good.Bytes[:len(good.Bytes)-1]), "as it was received"},
		{"bytes behind it", repo.Data, sent(good.ID, append(slices.Clone(good.Bytes), 0)), "left over"},
		{"two at once", repo.Data, sent(good.ID, append(slices.Clone(good.Bytes), good.Bytes...)), "left over"},
		{"unknown type", repo.Data, sent(good.ID, deflated(5, 4, []byte("good"))), "unknown type"},
		{"delta by offset", repo.Data, sent(good.ID, append([]byte{0x64, 5}, good.Bytes[1:]...)), "delta"},
		{"delta by id", repo.Data, sent(good.ID, append(good.ID.AppendBytes([]byte{0x74}), good.Bytes[1:]...)), "delta"},
		{"bomb that says so", repo.Data, sent(good.ID, deflated(3, 64<<20+1, zeros)), "the limit"},
		{"bomb that says nothing", repo.Data, sent(good.ID, deflated(3, 4, zeros)), "as it was received"},
		{"less than it says", repo.Data, sent(good.ID, deflated(3, 64<<20, zeros[:1<<10])), "more than its bytes"},
		{"size of 2^63", repo.Data, sent(good.ID, append([]byte{0xb0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f}, good.Bytes...)), "2^63"},
		{"large with a wrong id", repo.Data, sent(good.ID, deflated(3, len(large), large)), "it is blob"},
		{"large and damaged", repo.Data, sent(largeID, deflated(3, len(large), large[1:])), "as it was received"},
		{"inflates to much", repo.Data, sent(good.ID, deflated(3, 60<<20, make([]byte, 60<<20))), "it is blob"},
		{"tree out of order", repo.Trees, rawTree("100644 b", "100644 a"), "order"},
		{"tree with ..", repo.Trees, rawTree("100644 .."), ".."},
		{"tree with a slash", repo.Trees, rawTree("100644 a/b"), "slash"},
		{"tree with a name twice", repo.Trees, rawTree("100644 a", "100644 a"), "order"},
		{"tree with an empty name", repo.Trees, rawTree("100644 "), "empty"},
		{"tree with a mode of its own", repo.Trees, rawTree("100777 a"), "mode"},
		{"tree in the class of data", repo.Data, rawTree("100644 ."), "name is"},
		{"no commit", repo.Trees, repotest.Entry(pack.Commit, []byte("hello")), "commit"},
		{"no tag", repo.Trees, repotest.Entry(pack.Tag, fmt.Appendf(nil, "object %v\n", good.ID)), "tag"},
	}
	p := newPlace(t)
	before := state(t, p.root)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := dialRaw(t, p.options(t, access.Append))
			session := c.begin()
			c.add(session, repo.Data, good)
			c.add(session, test.class, test.entry)
			if err := c.commit(session); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if err := c.commit(session); err == nil {
				t.Error("the session goes on")
			}
			c.add(session, repo.Data, good)
			if _, err := c.setRef(repo.Move{Ref: "refs/tags/evil", New: good.ID}); err == nil {
				t.Error("an object of a failed session can be named")
			}
			c.must(wire.Ping)
			if err := c.leave(); err != nil {
				t.Error(err)
			}
			same(t, before, state(t, p.root))
		})
	}
	fsck(t, p.dir())
}

// TestMissingChildren: what names what is not there does not get a name.
func TestMissingChildren(t *testing.T) {
	p := newPlace(t)
	before := state(t, p.root)
	save := repotest.NewSave("three", 5, p.two.Commit)
	for name, entries := range map[string][]pack.Entry{
		"a tree without its blobs":  save.Trees[:1],
		"a commit without its tree": save.Trees[1:],
		"parents before children":   {save.Trees[1], save.Trees[0]},
	} {
		c := dialRaw(t, p.options(t, access.Append))
		session := c.begin()
		c.add(session, repo.Trees, entries...)
		if err := c.commit(session); !errors.As(err, new(*repo.MissingError)) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.setRef(repo.Move{Ref: "refs/heads/main", Old: p.two.Commit, New: save.Commit}); !errors.As(err, new(*repo.MissingError)) {
			t.Errorf("%s: %v", name, err)
		}
		c.leave()
		same(t, before, state(t, p.root))
	}
	fsck(t, p.dir())
}

// TestHostileMoves: under a right to append, refs go forward and nowhere else.
func TestHostileMoves(t *testing.T) {
	p := newPlace(t)
	before := state(t, p.root)
	side := repotest.NewSave("side", 3)                 // no ancestors
	back := repotest.NewSave("back", 3, p.one.Commit)   // on one, not on two
	ahead := repotest.NewSave("ahead", 3, p.two.Commit) // as it should be
	zero := pack.ID{}
	main := "refs/heads/main"
	tests := []struct {
		name string
		m    repo.Move
		want error // by type
	}{
		{"rewind", repo.Move{Ref: main, Old: p.two.Commit, New: p.one.Commit}, &repo.RefusedError{}},
		{"rewind as a save", repo.Move{Ref: main, Old: p.two.Commit, New: p.one.Commit, Reparent: true}, &repo.RefusedError{}},
		{"to another history", repo.Move{Ref: main, Old: p.two.Commit, New: side.Commit}, &repo.RefusedError{}},
		{"to another history as a save", repo.Move{Ref: main, Old: p.two.Commit, New: side.Commit, Reparent: true}, &repo.RefusedError{}},
		{"to a cousin", repo.Move{Ref: main, Old: p.two.Commit, New: back.Commit}, &repo.RefusedError{}},
		{"with an old place of its own", repo.Move{Ref: main, Old: p.one.Commit, New: back.Commit}, &repo.RefChangedError{}},
		{"made again", repo.Move{Ref: main, New: side.Commit}, &repo.RefChangedError{}},
		{"deleted", repo.Move{Ref: main, Old: p.two.Commit}, &repo.RefusedError{}},
		{"deleted from nowhere", repo.Move{Ref: main}, &repo.RefusedError{}},
		{"a tag moved", repo.Move{Ref: "refs/tags/t", Old: p.one.Commit, New: p.two.Commit}, &repo.RefusedError{}},
		{"a tag moved without an old place", repo.Move{Ref: "refs/tags/t", New: p.two.Commit}, &repo.RefChangedError{}},
		{"a tag moved as a save", repo.Move{Ref: "refs/tags/t", New: p.two.Commit, Reparent: true}, &repo.RefChangedError{}},
		{"a tag deleted", repo.Move{Ref: "refs/tags/t", Old: p.one.Commit}, &repo.RefusedError{}},
		{"a branch of a tree", repo.Move{Ref: "refs/heads/tree", New: p.one.Tree}, nil},
		{"a branch of nothing", repo.Move{Ref: "refs/heads/none", New: pack.Sum(pack.Blob, []byte("none"))}, &repo.MissingError{}},
		{"a note", repo.Move{Ref: "refs/notes/x", New: p.one.Commit}, &repo.RefusedError{}},
		{"HEAD", repo.Move{Ref: "HEAD", New: p.one.Commit}, nil},
		{"outside", repo.Move{Ref: "refs/heads/../../config", New: p.one.Commit}, nil},
		{"below a branch", repo.Move{Ref: "refs/heads/main/x", New: p.one.Commit}, nil},
		{"over branches", repo.Move{Ref: "refs/heads/rest", New: p.one.Commit}, nil},
		{"a lock", repo.Move{Ref: "refs/heads/a.lock", New: p.one.Commit}, nil},
		{"a long name", repo.Move{Ref: "refs/heads/" + strings.Repeat("x", 5000), New: p.one.Commit}, nil},
		{"no name", repo.Move{Ref: "", Old: zero, New: p.one.Commit}, nil},
	}
	c := dialRaw(t, p.options(t, access.Append))
	session := c.begin()
	for _, s := range []repotest.Save{side, back, ahead} {
		c.add(session, repo.Data, s.Data...)
		c.add(session, repo.Trees, s.Trees...)
	}
	if err := c.commit(session); err != nil {
		t.Fatal(err)
	}
	c.must(wire.End, wire.Number(session).Append(nil))
	for _, test := range tests {
		id, err := c.setRef(test.m)
		ok := err != nil
		switch test.want.(type) {
		case *repo.RefusedError:
			ok = errors.As(err, new(*repo.RefusedError))
		case *repo.RefChangedError:
			ok = errors.As(err, new(*repo.RefChangedError))
		case *repo.MissingError:
			ok = errors.As(err, new(*repo.MissingError))
		}
		if !ok {
			t.Errorf("%s: %v, %v", test.name, id, err)
		}
	}
	after := state(t, p.root)
	for name, sum := range before {
		if after[name] != sum && !strings.HasSuffix(name, "kedge/closed") {
			t.Errorf("%s has changed", name)
		}
	}
	// What may be done is done, and what was done may be done again.
	for range 2 {
		for _, m := range []repo.Move{
			{Ref: main, Old: p.two.Commit, New: ahead.Commit},
			{Ref: "refs/heads/new", New: side.Commit},
			{Ref: "refs/tags/new", New: side.Tree},
		} {
			if id, err := c.setRef(m); err != nil || id != m.New {
				t.Errorf("%+v: %v, %v", m, id, err)
			}
		}
	}
	// A save that was made when the ref stood elsewhere is put on top.
	id, err := c.setRef(repo.Move{Ref: main, Old: p.one.Commit, New: back.Commit, Reparent: true})
	if err != nil || id == back.Commit || id == ahead.Commit {
		t.Error(id, err)
	}
	ok, err := descends(t.Context(), p.open(t), id, ahead.Commit)
	if !ok || err != nil {
		t.Error("the ref was rewound:", err)
	}
	fsck(t, p.dir())
}

// TestNames: a key may be bound to some names, and sees no others if it may not read.
func TestNames(t *testing.T) {
	p := newPlace(t)
	o := p.options(t, access.Append)
	o.Grant.Names, o.Grant.NoRead = []string{"web-*"}, true
	c := dialRaw(t, o)
	for ref, may := range map[string]bool{
		"refs/heads/web-1": true, "refs/heads/db": false, "refs/heads/web-": true, "refs/tags/web-1": false, "refs/heads/web-1/x": false,
	} {
		if _, err := c.setRef(repo.Move{Ref: ref, New: p.one.Commit}); (err == nil) != may && ref != "refs/heads/web-1/x" ||
			!may && !errors.As(err, new(*repo.RefusedError)) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	refs, err := wire.ParseRefs(c.must(wire.Refs))
	if err != nil || len(refs) != 2 {
		t.Error(refs, err)
	}
	for _, r := range refs {
		if !strings.HasPrefix(r.Name, "refs/heads/web-") {
			t.Error("told of", r.Name)
		}
	}
}

// TestOtherRepositories: all that a key is not bound to gets the answer of what is not
// there.
func TestOtherRepositories(t *testing.T) {
	p := newPlace(t)
	before := state(t, p.root)
	for _, role := range []access.Role{access.Read, access.Append, access.Mirror} {
		for _, path := range []string{
			"other", "/other", p.root + "/other", "~/other", "none", "..", ".", "/", "build/..", "build/../other", "../build", "build/objects",
			"build/.git", "//build/../other", "%2e%2e/other", "build\x00", "build\nother", "~root/other", strings.Repeat("../", 1000), "./build/", ".kedge", "-d",
		} {
			c := dialRaw(t, p.options(t, role))
			for _, create := range []bool{false, true} {
				m := wire.OpenRequest{Path: path, Create: create}
				_, err := c.ask(wire.Open, m.Append(nil))
				none := new(repo.NotFoundError)
				if !errors.As(err, &none) || none.What != "repository" {
					t.Errorf("%q: %v", path, err)
				}
			}
			for _, path := range []string{"", "build", "/build", p.root + "/build", "~/build", "build/"} {
				if err := c.open(path); err != nil {
					t.Errorf("%q: %v", path, err)
				}
			}
			names, err := wire.ParseNames(c.must(wire.Repos))
			if err != nil || !slices.Equal(names, wire.Names{"build"}) {
				t.Error(names, err)
			}
			c.leave()
		}
	}
	same(t, before, state(t, p.root))
}

// TestGarbage: bytes that are no frames end the connection, and nothing else.
func TestGarbage(t *testing.T) {
	p := newPlace(t)
	before := state(t, p.root)
	head := func(n uint32, kind wire.Kind, more byte, tag uint32) []byte {
		b := binary.BigEndian.AppendUint32(nil, n)
		return binary.BigEndian.AppendUint32(append(b, byte(kind), more, 0, 0), tag)
	}
	many := func(n int, frame []byte) []byte { return bytes.Repeat(frame, n) }
	mib := make([]byte, 1<<20)
	for name, bytes := range map[string][]byte{
		"a frame of 4 GiB":          head(1<<32-1, wire.Add, 0, 1),
		"a frame of 1 MiB and one":  head(1<<20+1, wire.Add, 0, 1),
		"an unknown kind":           head(0, 99, 0, 1),
		"kind 0":                    head(0, 0, 0, 1),
		"a flag":                    head(0, wire.Ping, 2, 1),
		"reserved bytes":            append(head(0, wire.Ping, 0, 1)[:6], 1, 0, 0, 0, 0, 0),
		"half a head":               head(0, wire.Ping, 0, 1)[:7],
		"half a frame":              append(head(100, wire.Open, 0, 1), 1, 2, 3),
		"interrupted":               append(append(head(1, wire.Add, 1, 1), 1), head(0, wire.Ping, 0, 2)...),
		"empty and not the last":    head(0, wire.Add, 1, 1),
		"a long request":            append(append(head(64<<10, wire.Ping, 1, 1), mib[:64<<10]...), append(head(1, wire.Ping, 0, 1), 0)...),
		"an endless message":        many(70, append(head(1<<20, wire.Add, 1, 1), mib...)),
		"a reply":                   head(0, wire.OK, 0, 1),
		"text":                      []byte("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"),
		"an Add that is none":       append(head(3, wire.Add, 0, 1), 1, 0, 1),
		"an Add of a class":         append(head(2, wire.Add, 0, 1), 1, 2),
		"an Add with a count":       append(head(30, wire.Add, 0, 1), append([]byte{1, 0}, many(28, []byte{0xff})...)...),
		"ids that are cut":          append(head(21, wire.Get, 0, 1), mib[:21]...),
		"names without end":         append(head(3, wire.AllowNames, 0, 1), 0xff, 0x7f, 0),
		"a number of eleven bytes":  append(head(11, wire.Commit, 0, 1), many(11, []byte{0x80})...),
		"a session above 32 bits":   append(head(5, wire.Commit, 0, 1), 0xff, 0xff, 0xff, 0xff, 0x7f),
		"a read of more than 1 MiB": append(head(9, wire.Index, 0, 1), (&wire.ReadRequest{Name: "abcd", N: 1<<20 + 1}).Append(nil)...),
		"a walk of 2^40 commits":    append(head(26, wire.Commits, 0, 1), (&wire.CommitsRequest{Skip: 1 << 40}).Append(nil)...),
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, p.options(t, access.Append))
			c.begin()
			_, _ = c.conn.Write(bytes)
			c.conn.Close()
			err := soon(t, c.served)
			c.served <- err
			if err == nil && name != "a reply" {
				t.Error("the connection ended as if the client had left")
			}
			same(t, before, state(t, p.root))
		})
	}
}

// TestText: what bup's protocol does not know, and lines that do not end, end the
// connection.
func TestText(t *testing.T) {
	p := newPlace(t)
	for name, text := range map[string]string{
		"an unknown command": "rm -rf /\n",
		"a long line":        "help " + strings.Repeat("x", 70<<10) + "\n",
		"an endless line":    strings.Repeat("x", 1<<20),
		"half a line":        "hel",
		"no version":         "kedge\n",
		"version 0":          "kedge 0\n",
		"a bad version":      "kedge -1\n",
	} {
		conn, served := serveRaw(t, p.options(t, access.Append))
		go func() {
			_, _ = conn.Write([]byte(text))
			conn.Close()
		}()
		if err := soon(t, served); err == nil {
			t.Errorf("%s: nothing is wrong", name)
		}
	}
	for _, text := range []string{"", "\n \n", "quit\n", "\nquit\ngarbage"} {
		conn, served := serveRaw(t, p.options(t, access.Append))
		go func() {
			_, _ = conn.Write([]byte(text))
			conn.Close()
		}()
		if err := soon(t, served); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestHelp: what is listed depends on the rights, and "kedge" can be left out.
func TestHelp(t *testing.T) {
	p := newPlace(t)
	list := func(role access.Role, bup bool) []string {
		o := p.options(t, role)
		o.BupNames = bup
		out, err := bupAsk(t, o, "help\n")
		if err != nil || !strings.HasPrefix(out, "Commands:\n    ") || !strings.HasSuffix(out, "\n\nok\n") {
			t.Fatalf("%q, %v", out, err)
		}
		names := strings.Split(strings.TrimSuffix(strings.TrimPrefix(out, "Commands:\n    "), "\n\nok\n"), "\n    ")
		if !slices.IsSorted(names) {
			t.Error(names)
		}
		return names
	}
	if all := list(access.Append, false); !slices.Contains(all, "kedge") || !slices.Contains(all, "receive-objects-v2") || !slices.Contains(all, "help") {
		t.Error(all)
	}
	if all := list(access.Append, true); slices.Contains(all, "kedge") {
		t.Error(all)
	}
	if all := list(access.Read, false); slices.Contains(all, "receive-objects-v2") || slices.Contains(all, "update-ref") || !slices.Contains(all, "cat-batch") {
		t.Error(all)
	}
	out, err := bupAsk(t, p.options(t, access.Read), "kedge 7\n")
	if err != nil || out != "1\n\nok\n" {
		t.Errorf("%q, %v", out, err)
	}
	o := p.options(t, access.Read)
	o.BupNames = true
	if out, err := bupAsk(t, o, "kedge 1\n"); err == nil {
		t.Errorf("what is not listed is answered: %q", out)
	}
	if err := Serve(t.Context(), &bytes.Buffer{}, Options{}); !errors.As(err, new(*repo.RefusedError)) {
		t.Error("no role:", err)
	}
}

// TestSessions: there are no more sessions than allowed, and none by another number.
func TestSessions(t *testing.T) {
	p := newPlace(t)
	before := state(t, p.root)
	c := dialRaw(t, p.options(t, access.Append))
	ids := map[uint32]bool{}
	for range maxUploads {
		ids[c.begin()] = true
	}
	if _, err := c.ask(wire.Begin); !errors.As(err, new(*repo.RefusedError)) || len(ids) != maxUploads {
		t.Error(len(ids), err)
	}
	if err := c.open("build"); err == nil {
		t.Error("the repository changes below a session")
	}
	blob := repotest.Entry(pack.Blob, []byte("blob"))
	for _, n := range []uint32{0, 99, 1<<32 - 1} {
		c.add(n, repo.Data, blob)
		tag := c.tag
		c.post(wire.Ping)
		if a := <-c.got; a.kind != wire.Fail || a.tag != tag {
			t.Error(n, a)
		}
		<-c.got
		if err := c.commit(n); err == nil {
			t.Error(n)
		}
		if n == 0 { // no session
			continue
		}
		m := wire.MissingRequest{Session: n, IDs: []pack.ID{blob.ID}}
		if _, err := c.ask(wire.Missing, m.Append(nil)); err == nil {
			t.Error(n)
		}
	}
	large := repotest.Entry(pack.Blob, noise(5<<20))
	c.add(77, repo.Data, large) // is spooled nowhere
	if _, err := c.ask(wire.Ping); err == nil {
		t.Error("a large object for no session")
	}
	for id := range ids {
		c.must(wire.End, wire.Number(id).Append(nil))
	}
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	same(t, before, state(t, p.root))
}

// TestOneLarge: while one connection works on a large object others wait, and no longer.
func TestOneLarge(t *testing.T) {
	p := newPlace(t)
	o := p.options(t, access.Append)
	o.Large = make(chan struct{}, 1)
	o.Large <- struct{}{}
	c := dialRaw(t, o)
	session := c.begin()
	c.add(session, repo.Data, repotest.Entry(pack.Blob, noise(5<<20)), repotest.Entry(pack.Blob, make([]byte, 2<<20)))
	done := make(chan error, 1)
	go func() { done <- c.commit(session) }()
	select {
	case err := <-done:
		t.Fatal("answered:", err)
	case <-time.After(50 * time.Millisecond):
	}
	<-o.Large
	if err := <-done; err != nil {
		t.Error(err)
	}
}
