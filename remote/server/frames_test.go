package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// TestSave: a repository is made, filled, and read back, and its receipts say who did it
// and what came, whatever the client says.
func TestSave(t *testing.T) {
	p := place{root: t.TempDir()}
	c := dialRaw(t, p.options(t, access.Append))
	if err := c.open("~/build"); !errors.As(err, new(*repo.NotFoundError)) {
		t.Fatal(err)
	}
	m := wire.OpenRequest{Create: true, Chunker: "rabin:14"}
	info, err := wire.ParseInfo(c.must(wire.Open, m.Append(nil)))
	if err != nil || !info.Created || info.Path != "build" || info.Config.Chunker != "rabin:14" || info.Principal != "SHA256:key" ||
		info.Rights != wire.MayRead|wire.MayAppend {
		t.Fatalf("%+v, %v", info, err)
	}
	info, err = wire.ParseInfo(c.must(wire.Open, m.Append(nil)))
	if err != nil || info.Created {
		t.Fatalf("made again: %+v, %v", info, err)
	}
	save := repotest.NewSave("save", 50)
	session := c.begin()
	c.add(session, repo.Data, save.Data...)
	c.add(session, repo.Data, save.Data[:10]...) // again: it is passed over
	c.add(session, repo.Trees, save.Trees...)
	ask := wire.MissingRequest{Session: session, IDs: append(save.IDs(), pack.Sum(pack.Blob, []byte("none")))}
	bits, err := wire.ParseMissingReply(c.must(wire.Missing, ask.Append(nil)), len(ask.IDs))
	if err != nil {
		t.Fatal(err)
	}
	for i := range ask.IDs {
		if bits.Has(i) != (i == len(ask.IDs)-1) {
			t.Errorf("object %d: missing is %v", i, bits.Has(i))
		}
	}
	packs, err := wire.ParsePacks(c.must(wire.Commit, wire.Number(session).Append(nil)))
	if err != nil || len(packs) != 2 || !packs[0].Closed || !packs[1].Closed {
		t.Fatalf("%+v, %v", packs, err)
	}
	c.must(wire.End, wire.Number(session).Append(nil))
	lie := repo.MoveStats{Objects: 1 << 40, Bytes: 1 << 50, Seconds: 1e6, ClientTime: 77, Principal: "root"}
	id, err := c.setRef(repo.Move{Ref: "refs/heads/etc", New: save.Commit, Stats: lie})
	if err != nil || id != save.Commit {
		t.Fatal(id, err)
	}
	if id, err = c.setRef(repo.Move{Ref: "refs/heads/etc", New: save.Commit, Stats: lie}); err != nil || id != save.Commit {
		t.Fatal("again:", id, err)
	}
	sum := int64(0)
	for _, e := range append(save.Data, save.Trees...) {
		sum += int64(len(e.Bytes))
	}
	var lines []repo.Receipt
	err = wire.ParseBodies(c.must(wire.Receipts, []byte("refs/heads/etc")), func(b []byte) error {
		r, _, err := repo.ParseReceipt(b)
		lines = append(lines, r)
		return err
	})
	if err != nil || len(lines) != 1 {
		t.Fatal(lines, err)
	}
	if r := lines[0]; r.Principal != "SHA256:key" || r.Objects != 52 || r.Bytes != sum || r.ClientTime != 77 || r.Seconds > 1e5 {
		t.Errorf("%+v, want 52 objects of %d bytes", r, sum)
	}
	// A promise names the packs that are there.
	again, err := wire.ParseSession(c.must(wire.Begin))
	if err != nil || len(again.Packs) != 2 || !again.Packs[0].Closed {
		t.Fatalf("%+v, %v", again, err)
	}
	for _, pk := range again.Packs {
		if !slices.Contains(packs, pk) {
			t.Errorf("%+v is not what Commit told of", pk)
		}
		file, err := os.ReadFile(filepath.Join(p.dir(), "objects/pack/pack-"+pk.Name.String()+".idx"))
		r := wire.ReadRequest{Name: pk.Name.String(), N: wire.MaxFrame}
		if got := c.must(wire.Index, r.Append(nil)); err != nil || !bytes.Equal(got, file) || pk.IdxSize != int64(len(file)) {
			t.Errorf("an idx of %d bytes comes as %d, %v", len(file), len(got), err)
		}
		r.Off, r.N = 1000, 64
		if got := c.must(wire.Index, r.Append(nil)); !bytes.Equal(got, file[1000:1064]) {
			t.Error("a range of an idx comes as something else")
		}
	}
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	state(t, p.root)
	fsck(t, p.dir())
}

// getAll asks until it has all objects.
func (c *rawClient) getAll(ids []pack.ID) (entries [][]byte, replies int) {
	c.t.Helper()
	for len(entries) < len(ids) {
		reply := c.must(wire.Get, wire.IDs(ids[len(entries):]).Append(nil))
		replies++
		_, err := wire.ParseEntries(reply, len(ids)-len(entries), func(_ int, how byte, what []byte) error {
			if how != wire.GotEntry {
				what = nil
			}
			entries = append(entries, what)
			return nil
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return entries, replies
}

// TestGet: what was sent comes back as the same bytes, in as many replies as it takes.
func TestGet(t *testing.T) {
	p := newPlace(t)
	c := dialRaw(t, p.options(t, access.Append))
	session := c.begin()
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []pack.Entry
	var ids []pack.ID
	for i := range 300 {
		n := 1 + rnd.IntN(32<<10)
		if i%100 == 50 {
			n = 3 << 20 // goes to a file on its way in, and comes from one
		}
		body := make([]byte, n)
		for k := range body {
			body[k] = byte(rnd.Uint32())
		}
		all = append(all, repotest.Entry(pack.Blob, body))
		ids = append(ids, all[i].ID)
		c.add(session, repo.Data, all[i])
	}
	if err := c.commit(session); err != nil {
		t.Fatal(err)
	}
	absent := pack.Sum(pack.Blob, []byte("absent"))
	ids = append(ids, absent)
	for range 2 { // cold, then with tables
		entries, replies := c.getAll(ids)
		if replies < 8 || replies > 40 {
			t.Errorf("%d replies", replies)
		}
		for i, e := range all {
			if !bytes.Equal(entries[i], e.Bytes) {
				t.Errorf("entry %d of %d bytes came as %d", i, len(e.Bytes), len(entries[i]))
			}
		}
		if entries[len(all)] != nil {
			t.Error("an object came that there is not")
		}
	}
	rnd.Shuffle(len(all), func(i, k int) { all[i], all[k], ids[i], ids[k] = all[k], all[i], ids[k], ids[i] })
	entries, _ := c.getAll(ids[:len(all)])
	for i, e := range all {
		if !bytes.Equal(entries[i], e.Bytes) {
			t.Errorf("shuffled: entry %d came as another", i)
		}
	}
}

// TestCommits: a history of several pages comes once, in order, and can be taken up at
// any place.
func TestCommits(t *testing.T) {
	p := newPlace(t)
	c := dialRaw(t, p.options(t, access.Append))
	session := c.begin()
	tip, tree := p.two.Commit, p.two.Tree
	want := []pack.ID{p.one.Commit, p.two.Commit}
	var entries []pack.Entry
	for i := range 5000 {
		who := repo.Signature{Who: "A B <a@b>"}
		commit := repo.Commit{Tree: tree, Parents: []pack.ID{tip}, Author: who, Committer: who,
			Message: fmt.Sprintf("%d %s\n", i, strings.Repeat("x", 300))}
		e := repotest.Entry(pack.Commit, commit.Append(nil))
		entries = append(entries, e)
		tip = e.ID
		want = append(want, tip)
	}
	c.add(session, repo.Trees, entries...)
	if err := c.commit(session); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(want)
	page := func(skip int) (ids []pack.ID) {
		m := wire.CommitsRequest{Tip: tip, Skip: skip}
		err := wire.ParseBodies(c.must(wire.Commits, m.Append(nil)), func(b []byte) error {
			ids = append(ids, pack.Sum(pack.Commit, b))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	var got []pack.ID
	pages := 0
	for {
		ids := page(len(got))
		if len(ids) == 0 {
			break
		}
		got = append(got, ids...)
		pages++
	}
	if !slices.Equal(got, want) || pages < 2 {
		t.Errorf("%d commits in %d pages, want %d", len(got), pages, len(want))
	}
	for _, skip := range []int{4000, 17, 5001, 5002, 1 << 30, 0} {
		if ids := page(skip); len(ids) > 0 && !slices.Equal(ids, want[skip:][:len(ids)]) || len(ids) == 0 && skip < len(want) {
			t.Errorf("from %d on it is something else", skip)
		}
	}
	m := wire.CommitsRequest{Tip: pack.Sum(pack.Blob, []byte("none"))}
	if _, err := c.ask(wire.Commits, m.Append(nil)); !errors.As(err, new(*repo.MissingError)) {
		t.Error(err)
	}
	m = wire.CommitsRequest{Tip: tree}
	if _, err := c.ask(wire.Commits, m.Append(nil)); err == nil {
		t.Error("a tree is no commit")
	}
}

// TestMirror: all files that make a repository come as they are, and no others.
func TestMirror(t *testing.T) {
	p := newPlace(t)
	if err := os.WriteFile(filepath.Join(p.dir(), "kedge/index"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := p.options(t, access.Mirror)
	o.Grant.Repos = []string{"*"}
	c := dialRaw(t, o)
	names, err := wire.ParseNames(c.must(wire.Repos))
	if err != nil || !slices.Equal(names, wire.Names{"build", "other"}) {
		t.Fatal(names, err)
	}
	if err := c.open("build"); err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]int64)
	for _, dir := range []string{"objects/pack", "refs", "kedge", "."} {
		err := wire.EachFile(c.must(wire.List, []byte(dir)), func(f wire.FileInfo) error {
			if dir != "." && !strings.HasPrefix(f.Name, dir+"/") {
				t.Errorf("%s is not in %s", f.Name, dir)
			}
			listed[f.Name] = f.Size
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"HEAD", "config", "kedge/receipts", "kedge/closed", "refs/heads/rest/x", "refs/tags/t"} {
		if _, ok := listed[name]; !ok {
			t.Errorf("%s is not listed", name)
		}
	}
	for name, size := range listed {
		want, err := os.ReadFile(filepath.Join(p.dir(), name))
		var got []byte
		for int64(len(got)) < size {
			r := wire.ReadRequest{Name: name, Off: int64(len(got)), N: 1000}
			got = append(got, c.must(wire.Read, r.Append(nil))...)
		}
		if err != nil || !bytes.Equal(got, want) || size != int64(len(want)) {
			t.Errorf("%s: %d bytes, want %d, %v", name, len(got), len(want), err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "/etc/passwd", "../other/config", "refs/../config", "refs", "refs/heads/none", "kedge/index", "kedge/maint",
		"kedge/tmp", "objects/pack", "objects/pack/pack-x.pack/..", "config.lock", "refs/heads/main.lock", "refs/heads/a\x00b",
	} {
		r := wire.ReadRequest{Name: name, N: 10}
		if b, err := c.ask(wire.Read, r.Append(nil)); !errors.As(err, new(*repo.NotFoundError)) {
			t.Errorf("%q: %q, %v", name, b, err)
		}
	}
	for _, dir := range []string{"..", "/", "../other", "kedge/tmp", "kedge/sessions", "objects/pack/..", "refs/../.."} {
		b, err := c.ask(wire.List, []byte(dir))
		if err == nil && len(b) > 0 {
			t.Errorf("%q: %q", dir, b)
		}
	}
	link := filepath.Join(p.dir(), "refs/heads/link")
	if err := os.Symlink("/etc/passwd", link); err != nil {
		t.Fatal(err)
	}
	r := wire.ReadRequest{Name: "refs/heads/link", N: 10}
	if b, err := c.ask(wire.Read, r.Append(nil)); err == nil {
		t.Errorf("a link leads to %q", b)
	}
}

// TestCheckQuickNames: what goes together in no command is refused.
func TestCheckQuickNames(t *testing.T) {
	p := newPlace(t)
	c := dialRaw(t, p.options(t, access.Read))
	ask := wire.CheckRequest{Quick: true, Names: []string{"x"}}
	if _, err := c.ask(wire.Check, ask.Append(nil)); !errors.As(err, new(*repo.ConfigError)) {
		t.Errorf("a quick check of a name: %v", err)
	}
	c.must(wire.Ping)
}

// TestCheck: findings come as notes, and the result as the reply.
func TestCheck(t *testing.T) {
	p := newPlace(t)
	for _, damaged := range []bool{false, true} {
		if damaged {
			packs, err := filepath.Glob(filepath.Join(p.dir(), "objects/pack/*.pack"))
			if err != nil || len(packs) == 0 {
				t.Fatal(packs, err)
			}
			b, err := os.ReadFile(packs[0])
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := errors.Join(os.Chmod(packs[0], 0o600), os.WriteFile(packs[0], b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		c := dialRaw(t, p.options(t, access.Read))
		tag := c.post(wire.Check, (&wire.CheckRequest{}).Append(nil))
		var result repo.CheckResult
		notes := 0
		for a := range c.got {
			if a.tag != tag {
				t.Fatal("a reply to something else")
			}
			if a.kind == wire.Note {
				var f repo.Finding
				if err := json.Unmarshal(a.body, &f); err != nil || f.Kind == "" {
					t.Errorf("%s: %v", a.body, err)
				}
				notes++
				continue
			}
			if err := json.Unmarshal(a.body, &result); a.kind != wire.OK || err != nil {
				t.Fatal(a.kind, err)
			}
			break
		}
		if (result.Damage > 0) != damaged || (notes > 0) != damaged {
			t.Errorf("damaged %v: %+v, %d notes", damaged, result, notes)
		}
		if damaged {
			reply := c.must(wire.Get, wire.IDs(append(p.one.IDs(), p.two.IDs()...)).Append(nil))
			bad := 0
			if _, err := wire.ParseEntries(reply, 1000, func(_ int, how byte, what []byte) error {
				if how == wire.GotDamaged {
					bad++
				}
				return nil
			}); err != nil || bad == 0 {
				t.Error("no object is damaged", err)
			}
		}
	}
}

// TestPipelined: requests that are sent before the replies came are answered in order.
func TestPipelined(t *testing.T) {
	p := newPlace(t)
	c := dialRaw(t, p.options(t, access.Append))
	session := c.begin()
	bad := repotest.Entry(pack.Blob, []byte("bad"))
	bad.ID = p.one.Commit
	var want []uint32
	for i := range 50 {
		switch i % 5 {
		case 3:
			c.add(session, repo.Data, bad)
			want = append(want, c.tag)
			session++ // there is none such: fails as well
		default:
			want = append(want, c.post(wire.Ping))
		}
	}
	for _, tag := range want {
		if a := <-c.got; a.tag != tag || (a.kind == wire.Fail) != (int(tag-want[0])%5 == 3) {
			t.Fatalf("kind %d of %d, want %d", a.kind, a.tag, tag)
		}
	}
}
