package server

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// TestRoles sends every kind of request under every role, and nothing that a role may
// not do is done.
func TestRoles(t *testing.T) {
	p := newPlace(t)
	before := state(t, p.root)
	any := []wire.Kind{wire.Open, wire.Repos, wire.Refs, wire.Missing, wire.Index, wire.Ping}
	read := append(slices.Clone(any), wire.Get, wire.Commits, wire.Check, wire.Receipts)
	write := []wire.Kind{wire.Begin, wire.Add, wire.Commit, wire.End, wire.SetRef, wire.AllowNames}
	files := []wire.Kind{wire.List, wire.Read, wire.State}
	roles := []struct {
		name  string
		grant access.Grant
		may   []wire.Kind
	}{
		{"read", access.Grant{Role: access.Read}, read},
		{"append", access.Grant{Role: access.Append}, slices.Concat(read, write)},
		{"append --no-read", access.Grant{Role: access.Append, NoRead: true}, slices.Concat(any, write)},
		{"mirror", access.Grant{Role: access.Mirror}, slices.Concat(read, files)},
		{"owner", access.Grant{Role: access.Owner}, slices.Concat(read, write, files)},
	}
	move := wire.MoveRequest{Move: repo.Move{Ref: "HEAD", New: p.one.Commit}}
	bodies := map[wire.Kind][]byte{
		wire.Open:       (&wire.OpenRequest{Path: "build"}).Append(nil),
		wire.Missing:    (&wire.MissingRequest{IDs: p.one.IDs()}).Append(nil),
		wire.Get:        wire.IDs(p.one.IDs()).Append(nil),
		wire.Commits:    (&wire.CommitsRequest{Tip: p.one.Commit}).Append(nil),
		wire.Commit:     wire.Number(9).Append(nil),
		wire.End:        wire.Number(9).Append(nil),
		wire.Add:        wire.AppendAdd(nil, 9, repo.Data),
		wire.SetRef:     move.Append(nil),
		wire.AllowNames: wire.Names{"plain"}.Append(nil),
		wire.Check:      (&wire.CheckRequest{}).Append(nil),
		wire.Index:      (&wire.ReadRequest{Name: p.one.Commit.String()}).Append(nil),
		wire.Read:       (&wire.ReadRequest{Name: "config", N: 5}).Append(nil),
		wire.List:       []byte("refs"),
	}
	for _, role := range roles {
		t.Run(role.name, func(t *testing.T) {
			o := p.options(t, access.None)
			o.Default = p.dir()
			role.grant.Root, role.grant.Repos, role.grant.Who = o.Grant.Root, o.Grant.Repos, o.Grant.Who
			o.Grant = role.grant
			c := dialRaw(t, o)
			for kind := wire.Open; kind.Limit() > 0; kind++ {
				_, err := c.ask(kind, bodies[kind])
				refused := new(repo.RefusedError)
				no := errors.As(err, &refused) && strings.Contains(refused.Reason, "may not ask")
				if no == slices.Contains(role.may, kind) {
					t.Errorf("kind %d: %v", kind, err)
				}
			}
			if slices.Contains(role.may, wire.Begin) {
				c.must(wire.End, wire.Number(1).Append(nil))
			}
			if err := c.leave(); err != nil {
				t.Error(err)
			}
		})
	}
	same(t, before, state(t, p.root))
}

// TestTables: no table but that of the right to append holds what writes (C3.27 in
// words: what reads cannot reach what writes).
func TestTables(t *testing.T) {
	writing := []wire.Kind{wire.Begin, wire.Add, wire.Commit, wire.End, wire.SetRef, wire.AllowNames}
	for rights := range wire.MayRewind << 1 {
		for kind := range frameTable(rights) {
			if rights&wire.MayAppend == 0 && slices.Contains(writing, kind) {
				t.Errorf("rights %b: kind %d", rights, kind)
			}
		}
		s := &session{rights: rights}
		for verb := range s.verbs() {
			if _, writes := bupWriting()[verb]; writes && rights&wire.MayAppend == 0 {
				t.Errorf("rights %b: %s", rights, verb)
			}
		}
	}
	for verb := range maps.Keys(bupWriting()) {
		if _, both := bupReading()[verb]; both {
			t.Error(verb)
		}
	}
}

// TestOwner: without a forced command refs may be rewound and deleted, and the default
// repository is the server's.
func TestOwner(t *testing.T) {
	p := newPlace(t)
	o := p.options(t, access.Owner)
	o.Grant.Repos, o.Default = nil, p.dir()
	c := dialRaw(t, o)
	for _, m := range []repo.Move{
		{Ref: "refs/heads/main", Old: p.two.Commit, New: p.one.Commit},
		{Ref: "refs/tags/t", Old: p.one.Commit, New: p.two.Commit},
		{Ref: "refs/heads/rest/x", Old: p.one.Commit},
	} {
		if id, err := c.setRef(m); err != nil || id != m.New {
			t.Errorf("%+v: %v, %v", m, id, err)
		}
	}
	refs, err := wire.ParseRefs(c.must(wire.Refs, []byte("refs/heads/")))
	if err != nil || len(refs) != 1 || refs[0].ID != p.one.Commit {
		t.Error(refs, err)
	}
	if err := c.open("other"); err != nil {
		t.Error(err)
	}
	info, err := wire.ParseInfo(c.must(wire.Open, (&wire.OpenRequest{}).Append(nil)))
	if err != nil || info.Rights != wire.MayRead|wire.MayAppend|wire.MayMirror|wire.MayRewind {
		t.Errorf("%+v, %v", info, err)
	}
	fsck(t, p.dir())
}

// TestReadOnly: a reader changes nothing at all, not even what can be made anew.
func TestReadOnly(t *testing.T) {
	p := newPlace(t)
	before := state(t, p.root)
	c := dialRaw(t, p.options(t, access.Read))
	c.must(wire.Missing, (&wire.MissingRequest{IDs: append(p.two.IDs(), pack.Sum(pack.Blob, nil))}).Append(nil))
	c.must(wire.Check, (&wire.CheckRequest{}).Append(nil))
	m := wire.OpenRequest{Create: true, Path: "build", Chunker: "gear:13"}
	c.must(wire.Open, m.Append(nil))
	c.leave()
	same(t, before, state(t, p.root))
	o := p.options(t, access.Read)
	o.Grant.Repos = []string{"new"}
	m.Path = ""
	if _, err := dialRaw(t, o).ask(wire.Open, m.Append(nil)); !errors.As(err, new(*repo.RefusedError)) {
		t.Error(err)
	}
	same(t, before, state(t, p.root))
}
