package repo

import (
	"errors"
	"sync"

	"github.com/kedgebackup/kedge/pack"
)

// file looks at the trees of chunks of a file.
func (w *walker) file(id pack.ID) error {
	_, err := w.total(chunkRef{id: id, tree: true}, nil, 0)
	if err == errUnknown {
		return nil
	}
	return err
}

// errUnknown says that a size is not known: something below is damaged, which was
// reported, or sizes are not known yet.
var errUnknown = errors.New("size is not known")

// totals holds the numbers of bytes below trees of chunks, by their numbers in the
// census and, of others, by their ids; -1 if that cannot be told.
type totals struct {
	mu    sync.Mutex
	byNum map[int]int64
	byID  map[pack.ID]int64
}

func (t *totals) get(num int, id pack.ID) (total int64, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if num >= 0 {
		total, known = t.byNum[num]
	} else {
		total, known = t.byID[id]
	}
	return total, known
}

func (t *totals) set(num int, id pack.ID, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if num >= 0 {
		t.byNum[num] = total
	} else {
		t.byID[id] = total
	}
}

// total returns the number of bytes below a tree of chunks, and compares the
// sizes of all chunks below with the names of the trees. Refs are its entries, if
// they are at hand. Each tree is looked at once, whatever comes of it: a few of them
// can be laid out so that there are more ways through them than anybody can go.
func (w *walker) total(at chunkRef, refs []chunkRef, depth int) (int64, error) {
	num, err := w.number(at.id, true)
	if err != nil {
		return 0, err
	}
	total, known := w.totals.get(num, at.id)
	if !known {
		total, err = w.measure(at, refs, depth)
		if damaged(err) {
			w.badObject(BadTree, at.id, "", err)
			err = errUnknown
		}
		if err == errUnknown {
			total = -1
		} else if err != nil {
			return 0, err
		}
		w.totals.set(num, at.id, total)
	}
	if total < 0 {
		return 0, errUnknown
	}
	return total, nil
}

// measure is total for a tree that was not looked at.
func (w *walker) measure(at chunkRef, refs []chunkRef, depth int) (total int64, err error) {
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
	w.share(refs, below, depth)
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
	return total, nil
}

// share has the trees of a tree of chunks looked at by workers that have nothing else
// to do: of one large file all could be. What they find stands in totals; what goes
// wrong comes up once more when it is that tree's turn.
func (w *walker) share(refs []chunkRef, below [][]chunkRef, depth int) {
	var wg sync.WaitGroup
	for i, ref := range refs {
		if below[i] == nil {
			continue
		}
		select {
		case w.spare <- struct{}{}:
			wg.Go(func() {
				_, _ = w.sizeOf(ref, below[i], depth)
				<-w.spare
			})
		default:
			_, _ = w.sizeOf(ref, below[i], depth)
		}
	}
	wg.Wait()
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
	case !w.sizes:
		return 0, errUnknown
	}
	return w.blobSize(ref.id, num)
}

// blobSize returns the size of a blob.
func (w *walker) blobSize(id pack.ID, num int) (int64, error) {
	if num < 0 || w.bad.has(num) { // it is loose, or another pack has it
		return w.looseSize(id)
	}
	if n := w.size[num]; n != sizeUnknown && w.blob.has(num) {
		return int64(n), nil
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

// looseSize returns the size of a blob by reading it.
func (w *walker) looseSize(id pack.ID) (size int64, err error) {
	w.mu.Lock()
	size, known := w.loose[id]
	w.mu.Unlock()
	if known {
		return size, nil
	}
	err = getTyped(w.ctx, w.p, id, pack.Blob, func(body []byte) error {
		size = int64(len(body))
		return nil
	})
	if err == nil {
		w.mu.Lock()
		w.loose[id] = size
		w.mu.Unlock()
	}
	return size, err
}

// below gets those trees of a tree of chunks together that were not looked at.
func (w *walker) below(refs []chunkRef) ([][]chunkRef, error) {
	out := make([][]chunkRef, len(refs))
	var ids []pack.ID
	var place []int
	for i, ref := range refs {
		if n := len(ids); !ref.tree || n > 0 && ids[n-1] == ref.id { // over and over: when its turn comes it is known
			continue
		}
		num, err := w.number(ref.id, true)
		if err != nil {
			return nil, err
		}
		if _, known := w.totals.get(num, ref.id); num >= 0 && !known && !w.bad.has(num) {
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
