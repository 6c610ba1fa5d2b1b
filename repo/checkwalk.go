package repo

import (
	"errors"
	"fmt"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// treeQueue is the trees of directories that were found and not looked at yet.
type treeQueue struct {
	mu    sync.Mutex
	more  sync.Cond
	trees []pack.ID
	busy  int // workers that may find more
	err   error
}

// walkBatch is how many trees a worker gets at once.
const walkBatch = 64

// take returns some trees, none when all is done.
func (q *treeQueue) take(dst []pack.ID) ([]pack.ID, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.trees) == 0 && q.busy > 0 && q.err == nil {
		q.more.Wait()
	}
	if q.err != nil || len(q.trees) == 0 {
		return nil, q.err
	}
	n := min(walkBatch, len(q.trees))
	from := len(q.trees) - n
	dst = append(dst[:0], q.trees[from:]...)
	q.trees = q.trees[:from]
	q.busy++
	return dst, nil
}

func (q *treeQueue) put(ids ...pack.ID) {
	q.mu.Lock()
	q.trees = append(q.trees, ids...)
	q.mu.Unlock()
	q.more.Broadcast()
}

// done says that a worker is through with what it took.
func (q *treeQueue) done(err error) {
	q.mu.Lock()
	q.busy--
	if q.err == nil {
		q.err = err
	}
	q.mu.Unlock()
	q.more.Broadcast()
}

// walker looks at all that refs reach.
type walker struct {
	*checker
	sizes bool // types and sizes of blobs are known
	queue treeQueue

	mu     sync.Mutex
	totals map[int]int64 // bytes of a file below a tree of chunks, by its number
	extra  map[pack.ID]bool
}

// walk looks at all that the tips reach. Sizes are compared only if they are known.
func (c *checker) walk(sizes bool) error {
	w := &walker{checker: c, sizes: sizes, totals: make(map[int]int64), extra: make(map[pack.ID]bool)}
	w.queue.more.L = &w.queue.mu
	if err := w.commits(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for range c.o.Workers {
		wg.Go(func() {
			var batch []pack.ID
			for {
				var err error
				if batch, err = w.queue.take(batch); len(batch) == 0 || err != nil {
					return
				}
				w.queue.done(w.trees(batch))
			}
		})
	}
	wg.Wait()
	return w.queue.err
}

// reach notes that an object is reached. It reports whether that is news, and
// whether the object is there at all; if not, that was reported.
func (w *walker) reach(id pack.ID, ref string) (num int, news bool, err error) {
	num, err = w.number(id)
	switch {
	case err != nil:
		return 0, false, err
	case num >= 0 && !w.bad.has(num):
		return num, w.seen.add(num), nil
	}
	// It is in no pack of the census, or damaged there: it may be loose, or in
	// another pack, or in one that was published since.
	w.mu.Lock()
	news = !w.extra[id]
	w.extra[id] = true
	w.mu.Unlock()
	if !news {
		return num, false, nil
	}
	err = w.p.Get(w.ctx, []pack.ID{id}, func(int, pack.Type, []byte) error { return nil })
	if err != nil {
		return num, false, w.unreadable(id, ref, err)
	}
	return num, true, nil
}

// number returns the number of an object in the census, -1 if it is not in it.
func (c *census) number(p *Packs, id pack.ID) (int, error) {
	at, ok, err := p.find(p.table.Load(), id, nil)
	if err != nil || !ok {
		return -1, err
	}
	cp := c.of[at.file]
	if cp == nil || cp.err != nil {
		return -1, nil
	}
	i, ok, err := cp.own.idx.Place(id)
	if err != nil || !ok {
		return -1, err
	}
	return cp.base + i, nil
}

func (w *walker) number(id pack.ID) (int, error) {
	num, err := w.census.number(w.p, id)
	if damaged(err) { // the idx cannot be read there
		return -1, nil
	}
	return num, err
}

// commits looks at the commits and tags that the tips reach, and puts their
// trees in the queue.
func (w *walker) commits() error {
	for _, t := range w.tips {
		todo := []pack.ID{t.id}
		for len(todo) > 0 {
			id := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			num, news, err := w.reach(id, t.ref)
			if err != nil {
				return err
			}
			if !news {
				continue
			}
			if num >= 0 && w.blob.has(num) {
				continue
			}
			below, err := w.tip(id, t)
			if err != nil {
				return err
			}
			todo = append(todo, below...)
		}
	}
	return nil
}

// tip looks at one object that a ref leads to, and returns what comes next.
func (w *walker) tip(id pack.ID, t tip) (next []pack.ID, err error) {
	var kind pack.Type
	var c Commit
	var bad error
	err = w.p.Get(w.ctx, []pack.ID{id}, func(_ int, k pack.Type, body []byte) error {
		kind = k
		switch k {
		case pack.Commit:
			c, bad = ParseCommit(body)
		case pack.Tag:
			next, bad = children(nil, k, body)
		}
		return nil
	})
	if err != nil {
		return nil, w.unreadable(id, t.ref, err)
	}
	if bad != nil {
		w.badObject(BadTree, id, t.ref, bad)
		return nil, nil
	}
	switch kind {
	case pack.Tree:
		w.queue.put(id)
	case pack.Commit:
		if _, news, err := w.reach(c.Tree, t.ref); err != nil {
			return nil, err
		} else if news {
			w.queue.put(c.Tree)
		}
		if t.parents {
			next = c.Parents
		}
	}
	return next, nil
}

// unreadable reports an object that could not be got; other errors it returns.
func (w *walker) unreadable(id pack.ID, ref string, err error) error {
	if !damaged(err) {
		return err
	}
	kind := BadObject
	if errors.As(err, new(*MissingError)) {
		kind = Missing
	}
	w.badObject(kind, id, ref, err)
	return nil
}

// trees looks at directories.
func (w *walker) trees(ids []pack.ID) error {
	done := make([]bool, len(ids))
	err := w.p.Get(w.ctx, ids, func(i int, t pack.Type, body []byte) error {
		done[i] = true
		return w.tree(ids[i], t, body)
	})
	for i, id := range ids { // one of them is to blame: let the others be
		if err == nil || !damaged(err) {
			break
		}
		if done[i] {
			continue
		}
		one := w.p.Get(w.ctx, ids[i:i+1], func(_ int, t pack.Type, body []byte) error {
			return w.tree(id, t, body)
		})
		if one != nil {
			one = w.unreadable(id, "", one)
		}
		if one != nil {
			return one
		}
	}
	if damaged(err) {
		err = nil
	}
	w.progress(CheckResult{Trees: int64(len(ids))})
	return err
}

// tree looks at one directory. What is wrong with the repository it reports; the
// errors it returns are others, and end the check.
func (w *walker) tree(id pack.ID, t pack.Type, body []byte) error {
	if t != pack.Tree {
		w.badObject(BadTree, id, "", wrongType(id, t, pack.Tree))
		return nil
	}
	l := &dirList{id: id, body: body}
	if err := l.scan(); err != nil {
		w.badObject(BadTree, id, "", err)
		return nil
	}
	var found []pack.ID
	for _, ref := range l.items {
		dir, err := w.item(l, ref)
		if err != nil {
			return err
		}
		if dir {
			found = append(found, l.idOf(ref))
		}
	}
	if len(found) > 0 {
		w.queue.put(found...)
	}
	if l.has {
		return w.metadata(l)
	}
	return nil
}

// item looks at one item of a directory, and reports whether it is a directory
// that was not looked at before.
func (w *walker) item(l *dirList, ref dirRef) (dir bool, err error) {
	if ref.mode() == modeGitlink {
		return false, nil
	}
	id := l.idOf(ref)
	num, news, err := w.reach(id, "")
	if err != nil {
		return false, err
	}
	switch {
	case ref.kind() == kindChunked:
		if news {
			err = w.file(id)
		}
		return false, err
	case ref.dir():
		return news, nil
	}
	return false, w.wantBlob(id, num, news)
}

// wantBlob reports an object that should be a blob and is none.
func (w *walker) wantBlob(id pack.ID, num int, news bool) error {
	if num < 0 || !news || !w.sizes || w.blob.has(num) || w.bad.has(num) {
		return nil
	}
	_, err := w.blobSize(id, num)
	if damaged(err) {
		w.badObject(BadTree, id, "", err)
		return nil
	}
	return err
}

// metadata looks at the .bupm of a directory.
func (w *walker) metadata(l *dirList) error {
	e := l.bupm
	_, news, err := w.reach(e.ID, "")
	if err != nil {
		return err
	}
	if e.Mode == ModeDir && news {
		if err := w.file(e.ID); err != nil {
			return err
		}
	}
	if w.isBad(e.ID) {
		return nil
	}
	m, err := openBupm(w.ctx, w.p, e)
	if err == nil {
		_, err = l.checkMeta(m, func(name string, record []byte) error {
			if _, _, err := meta.Parse(record); err != nil {
				return m.corrupt(fmt.Errorf("record of %q: %w", name, err))
			}
			return nil
		})
	}
	if err != nil && !damaged(err) {
		return err
	}
	if err != nil {
		w.badObject(BadMeta, l.id, "", err)
	}
	return nil
}

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
	num, err := w.number(at.id)
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
			refs, err = parseChunks(nil, at.id, body, 0, -1)
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
	num, news, err := w.reach(ref.id, "")
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
		num, err := w.number(ref.id)
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
		out[place[j]], err = parseChunks(nil, ids[j], body, 0, -1)
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
