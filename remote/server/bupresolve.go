package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// The flags of resolve.
const (
	wantMeta = 1 << iota
	wantFollow
	hasParent
)

// The numbers of errors that clients know, as Linux has them.
const (
	errnoNotDir = 20
	errnoLoop   = 40
)

// maxChain is how many places a resolution may have that a client sends.
const maxChain = 4096

// resolve answers what a path leads to: the places from the root on.
//
//	request     [resolution, with hasParent]  bvec path
//	reply       01 resolution, or 00 ioerror
//	resolution  vuint n, n × (bvec name, 00 for nothing or 01 and an item)
//	item        bvec kind, vuint 1 with metadata or 0, what the kind has,
//	            the metadata as in a .bupm or vuint mode
//	            Item, Chunky, RevList: bvec id; Commit: bvec tree, bvec commit;
//	            FakeLink: bvec target; Root, Tags: nothing
//	ioerror     vuint 7, vint errno, bvec text, resolution: how far it came
//
// A path that leads to nothing is no error: its last place has no item.
func resolve(ctx context.Context, s *session, arg string) error {
	flags, err := strconv.ParseUint(arg, 10, 8)
	if err != nil || flags > wantMeta|wantFollow|hasParent {
		return fmt.Errorf("flags %.20q", arg)
	}
	var parent []string
	if flags&hasParent != 0 {
		if parent, err = s.readResolution(); err != nil {
			return err
		}
	}
	b, err := s.readBvec()
	if err != nil {
		return err
	}
	path := string(b)
	if !strings.HasPrefix(path, "/") && len(parent) > 1 {
		path = strings.Join(parent[1:], "/") + "/" + path
	}
	p, err := s.opened(ctx)
	if err != nil {
		return err
	}
	if s.bup.vfs.Repo != p {
		s.bup.vfs = repo.VFS{Repo: p}
	}
	chain, err := s.bup.vfs.Resolve(ctx, path, repo.ResolveOptions{
		Follow: flags&wantFollow != 0, Meta: flags&wantMeta != 0, SaveNames: true,
	})
	out, err := outcome(chain, err)
	if err == nil && flags&wantMeta != 0 {
		err = fillMetas(ctx, p, out.chain)
	}
	if err != nil {
		return err
	}
	s.out.Write(out.append(nil, flags&wantMeta != 0))
	return nil
}

// resolved is the answer to resolve.
type resolved struct {
	chain  []repo.Node
	lacks  string // the name of what is not there; "": nothing is lacking
	errno  int64  // 0: no error
	reason string
}

// outcome sorts what came of resolving a path. Errors that are no answer are returned.
func outcome(chain []repo.Node, err error) (r resolved, fault error) {
	r.chain = chain
	var none *repo.NotFoundError
	var notDir *repo.NotDirError
	var link *repo.LinkError
	switch {
	case errors.As(err, &none):
		r.lacks = strings.TrimPrefix(none.Name, chainPath(chain))
	case errors.As(err, &notDir):
		r.errno, r.reason = errnoNotDir, err.Error()
	case errors.As(err, &link):
		r.errno, r.reason = errnoLoop, err.Error()
	case err != nil:
		return r, err
	}
	for i := range chain { // a place that only kedge has
		if chain[i].Kind == repo.NodeCommits {
			return resolved{chain: chain[:i], lacks: chain[i].Name}, nil
		}
	}
	return r, nil
}

// chainPath returns the path of a chain, with a slash behind each name.
func chainPath(chain []repo.Node) string {
	var b strings.Builder
	for _, n := range chain[min(1, len(chain)):] {
		b.WriteString(n.Name + "/")
	}
	return b.String()
}

// fillMetas adds the metadata that are not there yet: those of a name are those of its
// newest save, and where a path ends too early nobody has looked for any.
func fillMetas(ctx context.Context, p *repo.Packs, chain []repo.Node) error {
	var ids []pack.ID
	var places []*repo.Node
	for i := range chain {
		n := &chain[i]
		id := n.ID
		if n.Kind == repo.NodeName {
			err := p.Get(ctx, []pack.ID{n.Commit}, func(_ int, t pack.Type, body []byte) error {
				c, err := repo.ParseCommit(body)
				id = c.Tree
				return err
			})
			if err != nil {
				return err
			}
		}
		if n.IsDir() && !id.IsZero() && (n.Meta == nil || n.Meta.Mode == 0) {
			ids = append(ids, id)
			places = append(places, n)
		}
	}
	return repo.DirMetas(ctx, p, ids, func(i int, d *repo.DirItem) error {
		if d.Meta != nil {
			m := *d.Meta
			places[i].Meta = &m
		}
		return nil
	})
}

func (r *resolved) append(dst []byte, metas bool) []byte {
	if r.errno == 0 {
		return r.appendChain(append(dst, 1), metas)
	}
	dst = appendVint(appendUint(append(dst, 0), 7), r.errno)
	return r.appendChain(appendBvec(dst, r.reason), metas)
}

func (r *resolved) appendChain(dst []byte, metas bool) []byte {
	n := len(r.chain)
	if r.lacks != "" {
		n++
	}
	dst = appendUint(dst, uint64(n))
	for i := range r.chain {
		name := r.chain[i].Name
		if i == 0 {
			name = ""
		}
		dst = appendItem(append(appendBvec(dst, name), 1), &r.chain[i], metas)
	}
	if r.lacks != "" {
		dst = append(appendBvec(dst, r.lacks), 0)
	}
	return dst
}

// appendItem appends a place.
func appendItem(dst []byte, n *repo.Node, metas bool) []byte {
	has := uint64(0)
	if metas && n.Meta != nil && n.Meta.Mode != 0 {
		has = 1
	}
	kind := func(name string, ids ...pack.ID) {
		dst = appendUint(appendBvec(dst, name), has)
		for _, id := range ids {
			dst = appendID(dst, id)
		}
	}
	switch {
	case n.Kind == repo.NodeRoot:
		kind("Root")
	case n.Kind == repo.NodeTags:
		kind("Tags")
	case n.Kind == repo.NodeName:
		kind("RevList", n.Commit)
	case n.Kind == repo.NodeSave:
		kind("Commit", n.ID, n.Commit)
	case n.Kind == repo.NodeLatest:
		kind("FakeLink")
		dst = appendBvec(dst, n.Target)
	case n.Chunked:
		kind("Chunky", n.ID)
	default:
		kind("Item", n.ID)
	}
	if has == 1 {
		m := *n.Meta
		if m.Type() == meta.TypeDir {
			m.Size = 0 // as bup tells it, whatever was recorded
		}
		return m.Append(dst)
	}
	return appendUint(dst, uint64(plainMode(n)))
}

// plainMode returns the mode of a place without metadata.
func plainMode(n *repo.Node) uint32 {
	if n.Kind == repo.NodeItem && n.Meta != nil {
		return n.StatMode()
	}
	switch {
	case n.Chunked:
		return repo.ModeFile
	case n.Mode == repo.ModeDir:
		return meta.TypeDir | 0o755
	case n.Mode == repo.ModeSymlink:
		return meta.TypeSymlink | 0o755
	}
	return n.Mode
}

// readResolution reads a resolution that the client had before, and returns its names.
// What it says of them is passed over: the names are looked up anew.
func (s *session) readResolution() (names []string, err error) {
	n, err := s.readUint()
	if err == nil && n > maxChain {
		err = fmt.Errorf("a path of %d places", n)
	}
	for ; err == nil && n > 0; n-- {
		var name []byte
		if name, err = s.readBvec(); err != nil {
			break
		}
		names = append(names, string(name))
		var there byte
		if there, err = s.in.ReadByte(); err == nil && there != 0 {
			err = s.skipItem()
		}
	}
	return names, midway(err)
}

// skipItem passes over an item of a resolution.
func (s *session) skipItem() error {
	kind, err := s.readBvec()
	if err != nil {
		return err
	}
	has, err := s.readUint()
	if err != nil {
		return err
	}
	fields := map[string]int{"Item": 1, "Chunky": 1, "RevList": 1, "Commit": 2, "FakeLink": 1, "Root": 0, "Tags": 0}
	n, known := fields[string(kind)]
	if !known {
		return fmt.Errorf("a place of kind %.20q", kind)
	}
	for range n {
		if _, err := s.readBvec(); err != nil {
			return err
		}
	}
	if has == 0 {
		_, err := s.readUint()
		return err
	}
	for room := uint64(meta.MaxEntry); ; { // records up to the tag 0
		tag, err := s.readUint()
		if err != nil || tag == 0 {
			return err
		}
		n, err := s.readUint()
		if err != nil {
			return err
		}
		if err := s.skip(n, room); err != nil {
			return err
		}
		room -= n
	}
}
