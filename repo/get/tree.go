package get

import (
	"fmt"
	"slices"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// frame is a tree on the way from the root to where the copier is. Below it are only
// trees that are not copied yet, in groups that are read together.
type frame struct {
	object
	file, meta bool     // within a chunked file; of it or of a blob, within a .bupm
	kids       []kid    // trees below that are still to be looked at
	ready      []object // of them, those that were read
	about      []kid    // what the trees in ready are
	broken     bool     // something below was passed over
}

// kid is a tree below another one.
type kid struct {
	id         pack.ID
	file, meta bool
}

// tree copies a tree with all below it, in depth and without recursion: what is below
// an object is added before it.
func (c *copier) tree(id pack.ID) (whole bool, err error) {
	gone, err := c.missing(id)
	if err != nil || len(gone) == 0 {
		return err == nil, err
	}
	top := frame{kids: []kid{{id: id}}}
	stack := []*frame{&top}
	for {
		f := stack[len(stack)-1]
		if len(f.ready) == 0 && len(f.kids) > 0 {
			if err := c.group(f); err != nil {
				return false, err
			}
			continue
		}
		if len(f.ready) == 0 {
			if f == &top {
				return !top.broken, nil
			}
			stack = stack[:len(stack)-1]
			if f.broken {
				stack[len(stack)-1].broken = true
			} else if err := c.add(repo.Trees, []object{f.object}); err != nil {
				return false, err
			}
			continue
		}
		next := &frame{object: f.ready[0], file: f.about[0].file, meta: f.about[0].meta}
		f.ready, f.about = f.ready[1:], f.about[1:]
		if err := c.enter(next); err != nil {
			return false, err
		}
		stack = append(stack, next)
	}
}

// group reads the next trees below a frame that are still missing: since the group
// before, some may have been copied that stand there, too.
func (c *copier) group(f *frame) error {
	group := f.kids[:min(groupMax, len(f.kids))]
	f.kids = f.kids[len(group):]
	ids := make([]pack.ID, 0, len(group))
	for _, k := range group {
		ids = append(ids, k.id)
	}
	gone, err := c.missing(ids...)
	if err != nil {
		return err
	}
	got, err := c.read(gone)
	if err != nil {
		return err
	}
	for _, id := range gone {
		f.broken = f.broken || !slices.ContainsFunc(got, func(o object) bool { return o.id == id })
	}
	for _, k := range group {
		i := slices.IndexFunc(got, func(o object) bool { return o.id == k.id })
		if i < 0 {
			continue
		}
		if got[i].kind != pack.Tree {
			return &pack.CorruptError{File: "object " + k.id.String(), Off: -1, Reason: fmt.Sprintf("a %v stands where a tree must be", got[i].kind)}
		}
		f.ready, f.about = append(f.ready, got[i]), append(f.about, k)
		got = slices.Delete(got, i, i+1) // read once, copied once
	}
	return nil
}

// enter copies the blobs of a tree and notes the trees below it.
func (c *copier) enter(f *frame) error {
	var data, metas []pack.ID
	seen := make(map[pack.ID]bool)
	err := repo.ParseTree(f.body, func(e repo.TreeEntry) error {
		k := kid{id: e.ID, file: f.file, meta: f.meta}
		if !f.file {
			k.meta = e.Name == ".bupm"
			_, chunked := repo.UnmangleName(e.Mode, e.Name)
			k.file = chunked || k.meta
			if len(repo.FsckIDs(e.Name)) > 0 {
				c.names = append(c.names, e.Name)
			}
		}
		switch {
		case e.Mode == gitlink || seen[e.ID]:
		case e.Mode == repo.ModeDir:
			f.kids = append(f.kids, k)
		case k.meta:
			metas = append(metas, e.ID)
		default:
			data = append(data, e.ID)
		}
		seen[e.ID] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("tree %v: %w", f.id, err)
	}
	whole, err := c.blobs(repo.Data, data)
	if err != nil {
		return err
	}
	described, err := c.blobs(repo.Trees, metas)
	f.broken = f.broken || !whole || !described
	return err
}

// gitlink is the mode of an entry that names a commit of another repository.
const gitlink = 0o160000

// blobs copies those blobs that are missing.
func (c *copier) blobs(class repo.Class, ids []pack.ID) (whole bool, err error) {
	if len(ids) == 0 {
		return true, nil
	}
	gone, err := c.missing(ids...)
	if err != nil {
		return false, err
	}
	skipped := c.skipped
	err = c.src.each(c.ctx, gone, func(list []object) error {
		for _, o := range list {
			if o.kind != pack.Blob {
				return &pack.CorruptError{File: "object " + o.id.String(), Off: -1, Reason: fmt.Sprintf("a %v stands where a blob must be", o.kind)}
			}
		}
		return c.add(class, list)
	}, c.gone)
	return c.skipped == skipped, err
}
