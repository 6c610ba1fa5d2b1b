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
	spare chan struct{} // holds one for each worker beside those that take from the queue

	mu     sync.Mutex
	totals totals
	extra  map[pack.ID]struct{}
	loose  map[pack.ID]int64 // sizes of blobs that are not in the census
}

// walk looks at all that the tips reach. Sizes are compared only if they are known.
func (c *checker) walk(sizes bool) error {
	w := &walker{checker: c, sizes: sizes, extra: make(map[pack.ID]struct{}), loose: make(map[pack.ID]int64),
		totals: totals{byNum: make(map[int]int64), byID: make(map[pack.ID]int64)},
		spare:  make(chan struct{}, c.o.Workers-1)}
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
func (w *walker) reach(id pack.ID, tree bool, ref string) (num int, news bool, err error) {
	num, err = w.number(id, tree)
	switch {
	case err != nil:
		return 0, false, err
	case num >= 0 && !w.bad.has(num):
		return num, w.seen.add(num), nil
	}
	// It is in no pack of the census, or damaged there: it may be loose, or in
	// another pack, or in one that was published since.
	w.mu.Lock()
	_, known := w.extra[id]
	w.extra[id] = struct{}{}
	w.mu.Unlock()
	if known {
		return num, false, nil
	}
	err = w.p.Get(w.ctx, []pack.ID{id}, func(int, pack.Type, []byte) error { return nil })
	if err != nil {
		return num, false, w.unreadable(id, ref, err)
	}
	present, err := w.p.countsAsPresent(w.ctx, id)
	if err == nil && !present {
		w.badObject(Missing, id, ref, errors.New("it is in the trash only; kedge gc brings it back"))
	}
	return num, true, err
}

// number returns the number of an object in the census, -1 if it is not in it.
// The pack of the object of the same kind found last is tried first: chunks stand
// beside chunks, and trees in packs of their own.
func (c *census) number(p *Packs, id pack.ID, tree bool) (int, error) {
	recent := &c.recent[0]
	if tree {
		recent = &c.recent[1]
	}
	if cp := recent.Load(); cp != nil && !cp.gone.Load() {
		if i, ok, err := cp.idx.Place(id); ok && err == nil {
			return cp.base + i, nil
		}
	}
	at, ok, err := p.find(p.table.Load(), id, nil)
	if err != nil || !ok {
		return -1, err
	}
	cp := c.of[at.file]
	if cp == nil || cp.err != nil {
		return -1, nil
	}
	i, ok, err := cp.idx.Place(id)
	if err != nil || !ok {
		return -1, err
	}
	recent.Store(cp)
	return cp.base + i, nil
}

func (w *walker) number(id pack.ID, tree bool) (int, error) {
	num, err := w.census.number(w.p, id, tree)
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
			num, news, err := w.reach(id, true, t.ref)
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
		num, news, err := w.reach(c.Tree, true, t.ref)
		switch {
		case err != nil:
			return nil, err
		case news:
			w.queue.put(c.Tree)
		default:
			w.wantTree(c.Tree, num)
		}
		if t.parents {
			next = c.Parents
		}
	}
	return next, nil
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
	num, news, err := w.reach(id, ref.mode() == ModeDir, "")
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
		if !news {
			w.wantTree(id, num)
		}
		return news, nil
	}
	return false, w.wantBlob(id, num, news, ref.mode() == ModeSymlink)
}

// wantTree reports an object that was come by before as a blob, and should be a tree. The
// other types are told by who looks at it.
func (w *walker) wantTree(id pack.ID, num int) {
	if num >= 0 && w.blob.has(num) && !w.isBad(id) {
		w.badObject(BadTree, id, "", wrongType(id, pack.Blob, pack.Tree))
	}
}

// wantBlob reports an object that should be a blob and is none, or is too long for the
// target of a symbolic link.
func (w *walker) wantBlob(id pack.ID, num int, news, link bool) error {
	if !w.sizes || num >= 0 && w.blob.has(num) && !(link && news) || num < 0 && !news || w.isBad(id) {
		return nil
	}
	size, err := w.blobSize(id, num)
	if link && err == nil && size > maxTarget {
		err = &pack.CorruptError{File: "blob " + id.String(), Off: -1, Reason: fmt.Sprintf("%d bytes are no target of a symbolic link", size)}
	}
	if damaged(err) {
		w.badObject(BadTree, id, "", err)
		return nil
	}
	return err
}

// metadata looks at the .bupm of a directory.
func (w *walker) metadata(l *dirList) error {
	e := l.bupm
	_, news, err := w.reach(e.ID, e.Mode == ModeDir, "")
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
