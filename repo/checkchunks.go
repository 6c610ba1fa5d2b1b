package repo

import (
	"errors"

	"github.com/kedgebackup/kedge/pack"
)

// file looks at the trees of chunks of a file.
func (w *walker) file(id pack.ID) error {
	_, err := w.total(chunkRef{id: id, tree: true}, nil, 0)
	if damaged(err) {
		w.badObject(BadTree, id, "", err)
		return nil
	} else if err == errUnknown {
		return nil
	}
	return err
}

// errUnknown says that a size is not known: something below is damaged, which was
// reported, or sizes are not known yet.
var errUnknown = errors.New("size is not known")

// total returns the number of bytes below a tree of chunks, and compares the
// sizes of all chunks below with the names of the trees. Refs are its entries, if
// they are at hand. Each tree is looked at once.
func (w *walker) total(at chunkRef, refs []chunkRef, depth int) (int64, error) {
	num, err := w.number(at.id, true)
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	total, known := w.totals[num]
	w.mu.Unlock()
	if known && num >= 0 {
		return total, nil
	}
	if depth == maxChunkDepth {
		return 0, corruptTree(at.id, "trees of chunks nested deeper than %d", maxChunkDepth)
	}
	if refs == nil {
		err := getTyped(w.ctx, w.p, at.id, pack.Tree, func(body []byte) (err error) {
			refs, err = parseChunks(at.id, body, 0, -1)
			return err
		})
		if err != nil {
			return 0, err
		}
		w.progress(CheckResult{Trees: 1})
	}
	below, err := w.below(refs)
	if err != nil {
		return 0, err
	}
	for i, ref := range refs {
		size, err := w.sizeOf(ref, below[i], depth)
		if err == errUnknown {
			total = -1
			continue
		}
		if err != nil {
			return 0, err
		}
		if i+1 < len(refs) && ref.off+size != refs[i+1].off {
			return 0, corruptTree(at.id, "%v at %#x has %d bytes, not %d", ref.id, ref.off, size, refs[i+1].off-ref.off)
		}
		if total >= 0 {
			total = ref.off + size
		}
	}
	if total < 0 {
		return 0, errUnknown
	}
	if num >= 0 {
		w.mu.Lock()
		w.totals[num] = total
		w.mu.Unlock()
	}
	return total, nil
}

// sizeOf returns the size of a chunk, or of the chunks below a tree.
func (w *walker) sizeOf(ref chunkRef, refs []chunkRef, depth int) (int64, error) {
	num, news, err := w.reach(ref.id, ref.tree, "")
	switch {
	case err != nil:
		return 0, err
	case w.isBad(ref.id), !w.sizes && !news:
		return 0, errUnknown
	case ref.tree:
		return w.total(ref, refs, depth+1)
	case num < 0, !w.sizes:
		return 0, errUnknown
	}
	return w.blobSize(ref.id, num)
}

// blobSize returns the size of a blob of the census.
func (w *walker) blobSize(id pack.ID, num int) (int64, error) {
	if n := w.size[num]; n != sizeUnknown && w.blob.has(num) {
		return int64(n), nil
	}
	if w.bad.has(num) { // but another pack has it
		var n int64
		err := getTyped(w.ctx, w.p, id, pack.Blob, func(body []byte) error {
			n = int64(len(body))
			return nil
		})
		return n, err
	}
	at, ok, err := w.p.find(w.p.table.Load(), id, nil)
	if err != nil || !ok {
		return 0, firstErr(err, errUnknown)
	}
	r := w.p.scratch.Get().(*reader)
	defer w.p.scratch.Put(r)
	t, size, err := at.file.pack.Header(r.scratch, at.off, at.file.idx.Find)
	if err == nil && t != pack.Blob {
		err = wrongType(id, t, pack.Blob)
	}
	return size, err
}

// below gets those trees of a tree of chunks together that were not looked at.
func (w *walker) below(refs []chunkRef) ([][]chunkRef, error) {
	out := make([][]chunkRef, len(refs))
	var ids []pack.ID
	var place []int
	for i, ref := range refs {
		if !ref.tree {
			continue
		}
		num, err := w.number(ref.id, true)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		_, known := w.totals[num]
		w.mu.Unlock()
		if num >= 0 && !known && !w.bad.has(num) {
			ids, place = append(ids, ref.id), append(place, i)
		}
	}
	if len(ids) == 0 {
		return out, nil
	}
	err := w.p.Get(w.ctx, ids, func(j int, t pack.Type, body []byte) (err error) {
		if t != pack.Tree {
			return nil // said when its turn comes
		}
		out[place[j]], err = parseChunks(ids[j], body, 0, -1)
		if damaged(err) {
			out[place[j]], err = nil, nil
		}
		return err
	})
	if damaged(err) {
		err = nil
	}
	w.progress(CheckResult{Trees: int64(len(ids))})
	return out, err
}
