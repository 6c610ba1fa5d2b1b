package repo

import (
	"context"
	"slices"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// ReadDir calls fn for a directory, as ".", and for what is in it, in byte order
// of the names. With metas, directories have their metadata too, which takes a
// look at each; what is made up has none. The node may be kept. If a ref is broken
// the others are given out before the error is returned.
func (v *VFS) ReadDir(ctx context.Context, dir *Node, metas bool, fn func(*Node) error) error {
	if !dir.IsDir() {
		return &NotDirError{dir.Name}
	}
	l := lister{v: v, ctx: ctx, metas: metas, fn: fn}
	if dir.Kind == NodeSave || dir.Kind == NodeItem {
		err := ReadDir(ctx, v.Repo, dir.ID, func(d *DirItem) error {
			item, m := *d, *d.Meta
			item.Meta = &m
			n := Node{Kind: NodeItem, DirItem: item}
			if d.Name == "." {
				n.Kind, n.Commit, n.Date = dir.Kind, dir.Commit, dir.Date
			}
			return l.add(n)
		})
		if err != nil {
			return err
		}
		return l.flush()
	}
	self := *dir
	self.Name = "."
	if err := l.add(self); err != nil {
		return err
	}
	nodes, broken := v.list(ctx, dir)
	for _, n := range nodes {
		if err := l.add(n); err != nil {
			return err
		}
	}
	if err := l.flush(); err != nil {
		return err
	}
	return broken
}

// list returns what is in a directory that is made up.
func (v *VFS) list(ctx context.Context, dir *Node) (nodes []Node, err error) {
	switch dir.Kind {
	case NodeRoot:
		nodes, err = v.listRoot(ctx)
	case NodeTags:
		nodes, err = v.listTags(ctx)
	case NodeName:
		nodes, err = v.listSaves(ctx, dir.Commit)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes, err
}

func (v *VFS) listRoot(ctx context.Context) ([]Node, error) {
	refs, err := v.Repo.Refs(ctx, headsPrefix)
	if err != nil && !damaged(err) {
		return nil, err
	}
	nodes := []Node{*madeUp(NodeTags, ".tag")}
	for _, ref := range refs {
		n := madeUp(NodeName, strings.TrimPrefix(ref.Name, headsPrefix))
		n.Commit = ref.ID
		nodes = append(nodes, *n)
	}
	return nodes, err
}

func (v *VFS) listTags(ctx context.Context) ([]Node, error) {
	refs, broken := v.Repo.Refs(ctx, tagsPrefix)
	if broken != nil && !damaged(broken) {
		return nil, broken
	}
	var nodes []Node
	for _, ref := range refs {
		n, err := v.tagged(ctx, ref)
		if err != nil && !damaged(err) {
			return nil, err
		}
		if err != nil { // one bad tag is no reason not to list the others
			n = &Node{Kind: NodeItem, DirItem: DirItem{
				Name: strings.TrimPrefix(ref.Name, tagsPrefix), Mode: ModeFile, ID: ref.ID, Lost: true, Err: err}}
		}
		nodes = append(nodes, *n)
	}
	return nodes, broken
}

func (v *VFS) listSaves(ctx context.Context, tip pack.ID) ([]Node, error) {
	b, err := v.branch(ctx, tip)
	if err != nil {
		return nil, err
	}
	names := b.names(v.zone())
	nodes := make([]Node, 0, len(b)+1)
	for i, name := range names {
		nodes = append(nodes, *b.node(i, name, v.zone()))
	}
	return append(nodes, Node{
		Kind:    NodeLatest,
		DirItem: DirItem{Name: "latest", Mode: ModeSymlink},
		Commit:  tip,
		Target:  names[0],
	}), nil
}

// lister gives out nodes, a few hundred together where the metadata of
// directories must be looked up.
type lister struct {
	v     *VFS
	ctx   context.Context
	metas bool
	fn    func(*Node) error
	wait  []Node
}

func (l *lister) add(n Node) error {
	if n.Meta == nil {
		n.Meta = &meta.Meta{Size: -1}
	}
	if !l.metas {
		return l.fn(&n)
	}
	if l.wait = append(l.wait, n); len(l.wait) == metaGroup {
		return l.flush()
	}
	return nil
}

func (l *lister) flush() error {
	wait := l.wait
	if len(wait) > 0 && wait[0].Name == "." {
		wait = wait[1:] // has its own
	}
	if err := l.v.metas(l.ctx, wait); err != nil {
		return err
	}
	for i := range l.wait {
		if err := l.fn(&l.wait[i]); err != nil {
			return err
		}
	}
	l.wait = nil
	return nil
}

// names yields the names in a saved directory, for suggestions: what cannot be
// read is left out.
func (v *VFS) names(ctx context.Context, tree pack.ID, yield func(string) bool) {
	l, err := loadDir(ctx, v.Repo, tree)
	if err != nil || l.split() {
		return
	}
	for _, ref := range l.items {
		if !yield(string(l.name(ref))) {
			return
		}
	}
}
