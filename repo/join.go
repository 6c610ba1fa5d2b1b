package repo

import (
	"bytes"
	"context"
	"io"

	"github.com/kedgebackup/kedge/pack"
)

// maxJoinDepth bounds how deep the trees below a joined object may be nested: that of a
// save of paths as long as the kernel takes them, and then some.
const maxJoinDepth = 1 << 16

// Join writes all blobs below an object, in the order of their trees, and returns the
// number of bytes: of a chunked file that is its content. A tag stands for what it
// points at, a commit for its tree. Every object was compared with its id. While one
// batch is written the next is being read.
func Join(ctx context.Context, r Repo, id pack.ID, out io.Writer) (n int64, err error) {
	j := joiner{ctx: ctx, r: r, size: 64 << 10}
	if err := j.top(id); err != nil {
		return 0, err
	}
	cur, next := new(joinBatch), new(joinBatch)
	for j.fill(cur); cur.err == nil && len(cur.which) > 0; cur, next = next, cur {
		done := make(chan struct{})
		go func() {
			defer close(done)
			j.fill(next)
		}()
		k, err := cur.write(out)
		n += k
		<-done
		if err != nil {
			return n, err
		}
	}
	return n, cur.err
}

// joiner walks over trees. Blobs are asked for together: as many as a batch has room for,
// if they are as large as those before.
type joiner struct {
	ctx   context.Context
	r     Repo
	only  pack.ID // a blob that is all there is
	trees []TreeScanner
	size  int // of a blob, about
}

// joinBatch is a run of blobs. Equal ones that stand together are got once.
type joinBatch struct {
	ids    []pack.ID
	which  []int // for each blob its place in ids
	bodies [][]byte
	err    error
}

func (j *joiner) top(id pack.ID) error {
	id, err := Peel(j.ctx, j.r, id, "")
	if err != nil {
		return err
	}
	kind := pack.Blob
	err = j.r.Get(j.ctx, []pack.ID{id}, func(_ int, t pack.Type, _ []byte) error {
		kind = t
		return nil
	})
	switch {
	case err != nil:
		return err
	case kind == pack.Blob:
		j.only = id
		return nil
	}
	if id, err = Peel(j.ctx, j.r, id, "tree"); err != nil {
		return err
	}
	return j.enter(id)
}

// enter begins to read a tree.
func (j *joiner) enter(id pack.ID) error {
	if len(j.trees) == maxJoinDepth {
		return corruptTree(id, "more than %d levels below what is joined", maxJoinDepth)
	}
	return getTyped(j.ctx, j.r, id, pack.Tree, func(body []byte) error {
		j.trees = append(j.trees, NewTreeScanner(bytes.Clone(body)))
		return nil
	})
}

// next returns the next blob.
func (j *joiner) next() (id pack.ID, ok bool, err error) {
	if !j.only.IsZero() {
		id, j.only = j.only, pack.ID{}
		return id, true, nil
	}
	for len(j.trees) > 0 {
		t := &j.trees[len(j.trees)-1]
		switch {
		case !t.Next():
			if err := t.Err(); err != nil {
				return id, false, err
			}
			j.trees = j.trees[:len(j.trees)-1]
		case t.Mode == ModeDir:
			if err := j.enter(t.ID); err != nil {
				return id, false, err
			}
		case t.Mode&0o170000 == 0o100000, t.Mode == ModeSymlink: // else a commit of somewhere else
			return t.ID, true, nil
		}
	}
	return id, false, nil
}

// fill gets the next blobs.
func (j *joiner) fill(b *joinBatch) {
	b.ids, b.which, b.err = b.ids[:0], b.which[:0], nil
	for most := min(max(batchBytes/j.size, 1), batchChunks); len(b.ids) < most && len(b.which) < 8*batchChunks; {
		id, ok, err := j.next()
		if err != nil {
			b.err = err
			return
		}
		if !ok {
			break
		}
		if n := len(b.ids); n == 0 || b.ids[n-1] != id {
			b.ids = append(b.ids, id)
		}
		b.which = append(b.which, len(b.ids)-1)
	}
	for len(b.bodies) < len(b.ids) {
		b.bodies = append(b.bodies, nil)
	}
	if b.err = b.get(j.ctx, j.r); b.err != nil || len(b.ids) == 0 {
		return
	}
	sum := 0
	for i := range b.ids {
		sum += len(b.bodies[i])
	}
	j.size = max(sum/len(b.ids), 1)
}

func (b *joinBatch) get(ctx context.Context, r Repo) error {
	if len(b.ids) == 0 {
		return nil
	}
	return r.Get(ctx, b.ids, func(i int, t pack.Type, body []byte) error {
		if t != pack.Blob {
			return wrongType(b.ids[i], t, pack.Blob)
		}
		if cap(b.bodies[i]) > 8*(len(body)+4096) {
			b.bodies[i] = nil // one huge blob is not to hold its memory for ever
		}
		b.bodies[i] = append(b.bodies[i][:0], body...)
		return nil
	})
}

func (b *joinBatch) write(out io.Writer) (n int64, err error) {
	for _, i := range b.which {
		k, err := out.Write(b.bodies[i])
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
