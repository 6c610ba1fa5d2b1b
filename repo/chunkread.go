package repo

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/kedgebackup/kedge/pack"
)

// The limits of what is read back as a chunked file. Trees of chunks have at
// most 256 entries of 44 bytes, and two at least, so that even 2^63 bytes in
// chunks of one byte need no more than 63 levels.
const (
	maxChunkTree  = 256 << 10 // bytes of one tree
	maxChunkDepth = 64
	maxChunkSize  = 64 << 20 // bytes of one chunk
)

// Chunk is a piece of a file.
type Chunk struct {
	Off  int64
	Size int64 // -1 for the last of a file: only the blob itself tells
	ID   pack.ID
}

// chunkRef is an entry of a tree of chunks.
type chunkRef struct {
	off  int64 // in the file
	id   pack.ID
	tree bool
}

// corruptTree says what is wrong with a tree that hashes to its name.
func corruptTree(id pack.ID, format string, args ...any) error {
	return &pack.CorruptError{File: "tree " + id.String(), Off: -1, Reason: fmt.Sprintf(format, args...)}
}

// getTyped gets one object, which must be of type want.
func getTyped(ctx context.Context, r Repo, id pack.ID, want pack.Type, fn func(body []byte) error) error {
	return r.Get(ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
		if t != want {
			return wrongType(id, t, want)
		}
		return fn(body)
	})
}

func wrongType(id pack.ID, got, want pack.Type) error {
	return &pack.CorruptError{File: "object " + id.String(), Off: -1, Reason: fmt.Sprintf("is a %v, not a %v", got, want)}
}

// parseChunks returns the entries of a tree of chunks that begins at off in the
// file and ends at end (-1 if that is not known). The names must be offsets that
// rise from 0 and stay below end.
func parseChunks(id pack.ID, body []byte, off, end int64) (refs []chunkRef, err error) {
	if len(body) > maxChunkTree {
		return nil, corruptTree(id, "too large for a tree of chunks")
	}
	width := 0
	s := NewTreeScanner(body)
	for s.Next() {
		if s.Mode != ModeFile && s.Mode != ModeDir {
			return nil, corruptTree(id, "mode %o in a tree of chunks", s.Mode)
		}
		at, ok := parseHex(s.Name)
		if !ok || len(refs) > 0 && len(s.Name) != width {
			return nil, corruptTree(id, "%q is no offset", s.Name)
		}
		width = len(s.Name)
		if len(refs) == 0 && at != 0 {
			return nil, corruptTree(id, "chunks begin at offset %#x", at)
		}
		if at > math.MaxInt64-off || end >= 0 && off+at >= end {
			return nil, corruptTree(id, "chunk at %#x lies behind the end", at)
		}
		refs = append(refs, chunkRef{off + at, s.ID, s.Mode == ModeDir})
	}
	if s.Err() != nil {
		return nil, corruptTree(id, "%v", s.Err().(*pack.CorruptError).Reason)
	}
	if len(refs) == 0 {
		return nil, corruptTree(id, "tree of chunks without a chunk")
	}
	return refs, nil
}

// parseHex reads a non-negative number in lower-case hexadecimal digits.
func parseHex(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 16 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			n = n<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return int64(n), n <= math.MaxInt64
}

// chunkNode is a tree of chunks that is being walked.
type chunkNode struct {
	id   pack.ID
	refs []chunkRef
	end  int64 // in the file; -1 if not known
	next int   // of refs
	// ahead are the trees fetched together: the parsed entries of refs[from+i] are
	// ahead[i], and nil for a chunk.
	from  int
	ahead [][]chunkRef
}

// chunkAhead is the number of sibling trees that are fetched together: over a
// network the trees of 40 MB of a file take one round trip.
const chunkAhead = 16

// endOf returns where entry i ends in the file, or -1.
func (n *chunkNode) endOf(i int) int64 {
	if i+1 < len(n.refs) {
		return n.refs[i+1].off
	}
	return n.end
}

// chunkWalk goes over the chunks of one file in order. It holds the trees from
// the root to where it is, and a few ahead of it.
type chunkWalk struct {
	r     Repo
	stack []chunkNode
}

// start begins at the chunk that holds offset off. Keep is a cache of the path
// taken, which is updated if it is not nil.
func (w *chunkWalk) start(ctx context.Context, root pack.ID, off int64, keep *chunkPath) error {
	w.stack = w.stack[:0]
	ref, end := chunkRef{id: root, tree: true}, int64(-1)
	for ref.tree {
		if len(w.stack) == maxChunkDepth {
			return corruptTree(root, "trees of chunks nested deeper than %d", maxChunkDepth)
		}
		refs, err := keep.get(ctx, w.r, len(w.stack), ref, end)
		if err != nil {
			return err
		}
		node := chunkNode{id: ref.id, refs: refs, end: end}
		i, _ := slices.BinarySearchFunc(refs, off, func(c chunkRef, off int64) int {
			if c.off <= off {
				return -1
			}
			return 1
		})
		node.next = max(0, i-1)
		ref, end = refs[node.next], node.endOf(node.next)
		if ref.tree {
			node.next++
		}
		w.stack = append(w.stack, node)
	}
	return nil
}

// next returns the next chunk; ok is false at the end of the file.
func (w *chunkWalk) next(ctx context.Context) (c Chunk, ok bool, err error) {
	for len(w.stack) > 0 {
		n := &w.stack[len(w.stack)-1]
		if n.next == len(n.refs) {
			w.stack = w.stack[:len(w.stack)-1]
			continue
		}
		i := n.next
		n.next++
		ref, end := n.refs[i], n.endOf(i)
		if !ref.tree {
			c = Chunk{Off: ref.off, Size: -1, ID: ref.id}
			if end >= 0 {
				c.Size = end - ref.off
			}
			if c.Size > maxChunkSize {
				return c, false, corruptTree(n.id, "chunk of %d bytes", c.Size)
			}
			return c, true, nil
		}
		if len(w.stack) == maxChunkDepth {
			return c, false, corruptTree(n.id, "trees of chunks nested deeper than %d", maxChunkDepth)
		}
		refs, err := w.subtree(ctx, n, i)
		if err != nil {
			return c, false, err
		}
		w.stack = append(w.stack, chunkNode{id: ref.id, refs: refs, end: end})
	}
	return c, false, nil
}

// subtree returns the entries of the tree at n.refs[i], fetching those behind it
// at the same time.
func (w *chunkWalk) subtree(ctx context.Context, n *chunkNode, i int) ([]chunkRef, error) {
	if i < n.from || i >= n.from+len(n.ahead) {
		n.from = i
		n.ahead = make([][]chunkRef, min(chunkAhead, len(n.refs)-i))
		var ids []pack.ID
		var place []int
		for k := range n.ahead {
			if n.refs[i+k].tree {
				ids = append(ids, n.refs[i+k].id)
				place = append(place, k)
			}
		}
		err := w.r.Get(ctx, ids, func(j int, t pack.Type, body []byte) error {
			if t != pack.Tree {
				return wrongType(ids[j], t, pack.Tree)
			}
			k := place[j]
			refs, err := parseChunks(ids[j], body, n.refs[i+k].off, n.endOf(i+k))
			n.ahead[k] = refs
			return err
		})
		if err != nil {
			n.ahead = nil
			return nil, err
		}
	}
	refs := n.ahead[i-n.from]
	n.ahead[i-n.from] = nil
	return refs, nil
}

// chunkPath caches the trees of one path through a tree of chunks, so that
// reads next to one another fetch none twice.
type chunkPath struct {
	ids  []pack.ID
	refs [][]chunkRef
}

// get returns the entries of the tree ref at a depth of the path.
func (p *chunkPath) get(ctx context.Context, r Repo, depth int, ref chunkRef, end int64) (refs []chunkRef, err error) {
	if p != nil && depth < len(p.ids) && p.ids[depth] == ref.id && p.refs[depth][0].off == ref.off {
		return p.refs[depth], nil
	}
	err = getTyped(ctx, r, ref.id, pack.Tree, func(body []byte) error {
		refs, err = parseChunks(ref.id, body, ref.off, end)
		return err
	})
	if err == nil && p != nil {
		p.ids = append(p.ids[:min(depth, len(p.ids))], ref.id)
		p.refs = append(p.refs[:min(depth, len(p.refs))], refs)
	}
	return refs, err
}
