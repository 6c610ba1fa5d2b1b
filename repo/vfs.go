package repo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// VFS shows a repository as a tree of names:
//
//	/                           the names of saves, which are branches, and .tag
//	/NAME                       its saves, and latest, a link to the newest
//	/NAME/2024-05-17-031500/…   what was saved
//	/.tag/TAG[/…]               what a tag points at: a commit, a tree or a blob
//	/.commit/ID[/…]             any commit by its id; it is not listed
//
// A save is called by its author date in the time zone of the reader. If several
// have one date, all of them get a number behind it: of n the newest -(n-1), the
// oldest -0, with as many digits as n-1 has.
//
// A name with a slash in it, a/b, is listed as it is and is found as a/b.
//
// Symbolic links inside saves are followed as long as there are names behind
// them; an absolute target begins again at / of this tree, not of the save.
//
// A VFS may be used by several goroutines at once. It remembers the saves of the
// branches it has read, 50 bytes for each.
type VFS struct {
	Repo Repo
	Zone *time.Location // of the reader; nil: time.Local

	saves saveCache
}

// NodeKind is what a Node is.
type NodeKind uint8

// The kinds of nodes.
const (
	NodeRoot    NodeKind = iota // /
	NodeTags                    // /.tag
	NodeCommits                 // /.commit
	NodeName                    // /NAME
	NodeSave                    // /NAME/SAVE, and commits elsewhere
	NodeLatest                  // /NAME/latest, not followed
	NodeItem                    // something that was saved
)

// Node is a place in the tree of names. In DirItem, Name is the last component of
// its path; Mode is ModeDir for all that is made up and ModeSymlink for latest; ID
// is zero for what is made up. Meta is nil unless it was asked for.
type Node struct {
	Kind NodeKind
	DirItem
	Commit pack.ID   // of a name, the newest save; of a save and of latest, the save
	Date   time.Time // of a save, by its author, in the zone of the reader
	Target string    // of latest: the name of the save
}

// NotDirError says that a path goes on where there is no directory.
type NotDirError struct{ Path string }

// Error says what is wrong.
func (e *NotDirError) Error() string { return fmt.Sprintf("%q is not a directory", e.Path) }

// LinkError says that a symbolic link could not be followed.
type LinkError struct {
	Path   string
	Reason string
}

// Error says what is wrong.
func (e *LinkError) Error() string { return fmt.Sprintf("%q: %s", e.Path, e.Reason) }

// The limits of following symbolic links.
const (
	maxHops = 100
	maxPath = 4095 // bytes of a target: no system takes more
)

// ResolveOptions says how a path is resolved. The zero value does not follow the
// last component and brings no metadata.
type ResolveOptions struct {
	Follow bool // also if the last component is a symbolic link or latest
	Meta   bool // fill in Meta of the whole chain
	// SaveNames gives the save that latest leads to its own name. Without, it is
	// called latest: the name may depend on every save there is.
	SaveNames bool
}

// Resolve returns the nodes from the root to what a path names. A path that ends
// in / or /. must name a directory, and the last link is followed. If something
// is not there the error is a *NotFoundError, if the path goes on below a file a
// *NotDirError, if links lead nowhere or round and round a *LinkError; the nodes
// up to there are returned with it.
func (v *VFS) Resolve(ctx context.Context, path string, o ResolveOptions) ([]Node, error) {
	r := resolver{v: v, ctx: ctx, o: o, chain: []Node{{Kind: NodeRoot, DirItem: DirItem{Mode: ModeDir}}}}
	r.push(path)
	err := r.run()
	if err == nil && o.Meta {
		err = r.metas()
	}
	return r.chain, err
}

// splitPath returns the components of a path, the last first, without those that
// mean nothing, and whether the path can only be a directory's.
func splitPath(path string) (reversed []string, dir bool) {
	parts := strings.Split(path, "/")
	last := parts[len(parts)-1]
	for i := len(parts) - 1; i >= 0; i-- {
		if p := parts[i]; p != "" && p != "." {
			reversed = append(reversed, p)
		}
	}
	return reversed, last == "" || last == "." || last == ".."
}

// resolver resolves one path.
type resolver struct {
	v     *VFS
	ctx   context.Context
	o     ResolveOptions
	chain []Node
	todo  []string // components, the next one last
	dir   bool     // what is left is a directory's
	hops  int
	heads refList // of names, once they were needed
	tags  refList
}

// push puts a path in front of what is left.
func (r *resolver) push(path string) {
	parts, dir := splitPath(path)
	if len(r.todo) == 0 {
		r.dir = r.dir || dir
	}
	r.todo = append(r.todo, parts...)
}

func (r *resolver) run() error {
	for len(r.todo) > 0 {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		name := r.todo[len(r.todo)-1]
		r.todo = r.todo[:len(r.todo)-1]
		if name == ".." {
			r.chain = r.chain[:max(1, len(r.chain)-1)]
			continue
		}
		next, err := r.child(&r.chain[len(r.chain)-1], name)
		if err == nil {
			err = r.step(next)
		}
		if err != nil {
			return err
		}
	}
	if last := &r.chain[len(r.chain)-1]; r.dir && !last.IsDir() {
		return &NotDirError{r.path()}
	}
	return nil
}

// path returns where the chain has come to.
func (r *resolver) path(more ...string) string {
	var b strings.Builder
	for _, n := range r.chain[1:] {
		b.WriteByte('/')
		b.WriteString(n.Name)
	}
	for _, m := range more {
		b.WriteByte('/')
		b.WriteString(m)
	}
	return strings.TrimPrefix(b.String(), "/")
}

// step goes to a node, or where it leads if it is a link.
func (r *resolver) step(n *Node) error {
	follow := len(r.todo) > 0 || r.dir || r.o.Follow
	if n.Mode != ModeSymlink || !follow {
		r.chain = append(r.chain, *n)
		return nil
	}
	if n.Kind == NodeLatest {
		return r.latest(n)
	}
	if r.hops++; r.hops > maxHops {
		return &LinkError{r.path(n.Name), "too many symbolic links"}
	}
	target, err := ReadLink(r.ctx, r.v.Repo, n.ID)
	if err != nil {
		return err
	}
	if target == "" || len(target) > maxPath {
		return &LinkError{r.path(n.Name), fmt.Sprintf("symbolic link with a target of %d bytes", len(target))}
	}
	if target[0] == '/' {
		r.chain = r.chain[:1]
	}
	r.push(target)
	return nil
}

// latest goes to the save that latest stands for.
func (r *resolver) latest(n *Node) error {
	name := n.Name
	if r.o.SaveNames {
		saves, err := r.v.branch(r.ctx, n.Commit)
		if err != nil {
			return err
		}
		name = saves.name(0, r.v.zone())
	}
	save, err := r.v.save(r.ctx, n.Commit, name)
	if err != nil {
		return err
	}
	r.chain = append(r.chain, *save)
	return nil
}

// child returns what is called name in a directory.
func (r *resolver) child(in *Node, name string) (*Node, error) {
	if !in.IsDir() {
		return nil, &NotDirError{r.path()}
	}
	switch in.Kind {
	case NodeRoot:
		return r.top(name)
	case NodeTags:
		return r.tag(name)
	case NodeCommits:
		return r.commit(name)
	case NodeName:
		return r.saved(in, name)
	}
	item, err := Lookup(r.ctx, r.v.Repo, in.ID, name, r.o.Meta && len(r.todo) == 0)
	if err != nil {
		return nil, err
	}
	if item == nil {
		return nil, r.notFound("path", name, func(yield func(string) bool) {
			r.v.names(r.ctx, in.ID, yield)
		})
	}
	return &Node{Kind: NodeItem, DirItem: *item}, nil
}

// madeUp returns a directory that only the VFS has.
func madeUp(kind NodeKind, name string) *Node {
	return &Node{Kind: kind, DirItem: DirItem{Name: name, Mode: ModeDir}}
}

// metas fills in the metadata of the chain. Those of the last node, unless it is
// a directory, came with it.
func (r *resolver) metas() error {
	return r.v.metas(r.ctx, r.chain)
}

// metas fills in the metadata of those nodes that are directories.
func (v *VFS) metas(ctx context.Context, nodes []Node) error {
	var ids []pack.ID
	var place []*Node
	for i := range nodes {
		n := &nodes[i]
		if n.Meta == nil || n.IsDir() {
			n.Meta = &meta.Meta{Size: -1}
		}
		if n.IsDir() && !n.ID.IsZero() {
			ids = append(ids, n.ID)
			place = append(place, n)
		}
	}
	return DirMetas(ctx, v.Repo, ids, func(i int, d *DirItem) error {
		place[i].Meta, place[i].Lost, place[i].Err = d.Meta, d.Lost, d.Err
		return nil
	})
}

func (v *VFS) zone() *time.Location {
	if v.Zone == nil {
		return time.Local
	}
	return v.Zone
}
