package repo

import (
	"context"
	"errors"
	"strings"

	"github.com/kedgebackup/kedge/pack"
)

// top returns an entry of the root.
func (r *resolver) top(name string) (*Node, error) {
	switch name {
	case ".tag":
		return madeUp(NodeTags, name), nil
	case ".commit":
		return madeUp(NodeCommits, name), nil
	}
	ref, err := r.match(&r.heads, headsPrefix, "name", name)
	if err != nil {
		return nil, err
	}
	n := madeUp(NodeName, strings.TrimPrefix(ref.Name, headsPrefix))
	n.Commit = ref.ID
	return n, nil
}

// Where git keeps refs.
const (
	headsPrefix = "refs/heads/"
	tagsPrefix  = "refs/tags/"
)

// refList is the refs of a kind; err says that one of them is broken.
type refList struct {
	read bool
	refs []Ref
	err  error
}

// load reads the refs once.
func (l *refList) load(ctx context.Context, r Repo, prefix string) error {
	if !l.read {
		l.refs, l.err = r.Refs(ctx, prefix)
		l.read = l.err == nil || damaged(l.err)
	}
	if !l.read {
		return l.err
	}
	return nil
}

// match finds the ref called name, or name and some of the components behind it,
// which it then takes: git allows no ref a beside a ref a/b. If there is none and
// one is broken, that may be it.
func (r *resolver) match(list *refList, prefix, what, name string) (Ref, error) {
	if err := list.load(r.ctx, r.v.Repo, prefix); err != nil {
		return Ref{}, err
	}
	refs, full, front := list.refs, prefix+name, ""
	for rest := len(r.todo); ; {
		deeper := false
		for _, ref := range refs {
			if ref.Name == full {
				r.todo = r.todo[:rest]
				return ref, nil
			}
			deeper = deeper || strings.HasPrefix(ref.Name, full+"/")
		}
		if deeper {
			front = strings.TrimPrefix(full, prefix)
		}
		if !deeper || rest == 0 {
			name = strings.TrimPrefix(full, prefix)
			break
		}
		rest--
		full += "/" + r.todo[rest]
	}
	if list.err != nil {
		return Ref{}, list.err
	}
	all := func(yield func(string) bool) {
		for _, ref := range refs {
			if !yield(strings.TrimPrefix(ref.Name, prefix)) {
				return
			}
		}
	}
	err := r.notFound(what, name, all)
	if front != "" && (name == front || len(err.Near) == 0) {
		err.Front = r.path(front)
		err.Near = below(front, all)
		for i := range err.Near {
			err.Near[i] = r.path(err.Near[i])
		}
	}
	return Ref{}, err
}

// notFound makes the error for a name that is not in the directory r.chain leads to.
func (r *resolver) notFound(what, name string, all func(yield func(string) bool)) *NotFoundError {
	near := nearest(name, all)
	for i := range near {
		near[i] = r.path(near[i])
	}
	return &NotFoundError{What: what, Name: r.path(name), Near: near}
}

// tag returns an entry of /.tag.
func (r *resolver) tag(name string) (*Node, error) {
	ref, err := r.match(&r.tags, tagsPrefix, "tag", name)
	if err != nil {
		return nil, err
	}
	return r.v.tagged(r.ctx, ref)
}

// maxTagChain is how many tag objects may point at one another.
const maxTagChain = 16

// tagged returns what a tag points at. Bup's tags point straight at it; git can
// put tag objects between.
func (v *VFS) tagged(ctx context.Context, ref Ref) (*Node, error) {
	name := strings.TrimPrefix(ref.Name, tagsPrefix)
	id := ref.ID
	for range maxTagChain {
		var kind pack.Type
		var next pack.ID
		err := v.Repo.Get(ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
			kind = t
			if t != pack.Tag {
				return nil
			}
			below, err := children(nil, t, body)
			if err == nil {
				next = below[0]
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		switch kind {
		case pack.Commit:
			return v.save(ctx, id, name)
		case pack.Tree:
			return &Node{Kind: NodeItem, DirItem: DirItem{Name: name, Mode: ModeDir, ID: id}}, nil
		case pack.Blob:
			return &Node{Kind: NodeItem, DirItem: DirItem{Name: name, Mode: ModeFile, ID: id}}, nil
		}
		id = next
	}
	return nil, &pack.CorruptError{File: ref.Name, Off: -1, Reason: "tags that point at one another"}
}

// commit returns an entry of /.commit.
func (r *resolver) commit(name string) (*Node, error) {
	none := func(func(string) bool) {}
	id, err := pack.ParseID(name)
	if err != nil {
		return nil, r.notFound("commit", name, none)
	}
	n, err := r.v.save(r.ctx, id, name)
	var missing *MissingError
	if errors.As(err, &missing) && missing.ID == id {
		return nil, r.notFound("commit", name, none)
	}
	return n, err
}

// saved returns an entry of /NAME.
func (r *resolver) saved(in *Node, name string) (*Node, error) {
	if name == "latest" {
		n := &Node{Kind: NodeLatest, DirItem: DirItem{Name: name, Mode: ModeSymlink}, Commit: in.Commit}
		if len(r.todo) > 0 || r.dir || r.o.Follow {
			return n, nil // nobody will see where it points
		}
		saves, err := r.v.branch(r.ctx, in.Commit)
		if err == nil {
			n.Target = saves.name(0, r.v.zone())
		}
		return n, err
	}
	saves, err := r.v.branch(r.ctx, in.Commit)
	if err != nil {
		return nil, err
	}
	names := saves.names(r.v.zone())
	for i := range names {
		if names[i] == name {
			return saves.node(i, name, r.v.zone()), nil
		}
	}
	return nil, r.notFound("save", name, func(yield func(string) bool) {
		for _, n := range names {
			if !yield(n) {
				return
			}
		}
	})
}
