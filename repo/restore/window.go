package restore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// The size of a window. Three are held at a time: one is gathered, one waits,
// one is worked on.
const (
	windowReads   = 16 << 10
	windowBytes   = 64 << 20
	windowFolders = 128
	windowLarge   = 64 // files of several chunks, which stay open until the last one
)

// window is work that is done together.
type window struct {
	reads []read
	ids   []pack.ID // of the reads; reads of one id that stand together share one
	first []int32   // the first read of each id
	ready []*file   // files without a byte
	nodes []*item   // devices, FIFOs, sockets
	later []*file   // files that are further names of others
	left  []*folder // complete but for what is in this window; children before parents

	bytes   int64
	large   int
	folders int
	last    *folder // that was counted in folders last

	writing sync.WaitGroup // files that workers have
}

// read is one chunk of a file.
type read struct {
	f    *file
	off  int64
	size int64 // -1: not known
}

// unknownSize is what an object of unknown size is taken for when windows are
// measured, and maxObject the most that a recorded size is believed.
const (
	unknownSize = 32 << 10
	maxObject   = 64 << 20
)

func (w *window) add(f *file, id pack.ID, off, size int64) {
	if n := len(w.ids); n == 0 || w.ids[n-1] != id {
		w.ids = append(w.ids, id)
		w.first = append(w.first, int32(len(w.reads)))
		if size < 0 {
			w.bytes += unknownSize
		} else {
			w.bytes += min(size, maxObject)
		}
	}
	w.reads = append(w.reads, read{f, off, size})
}

func (w *window) count(f *folder) {
	if w.last != f {
		w.last = f
		w.folders++
	}
}

func (w *window) full() bool {
	return len(w.reads)+len(w.ready)+len(w.nodes)+len(w.later) >= windowReads || w.bytes >= windowBytes ||
		w.large >= windowLarge || w.folders >= windowFolders
}

// readsOf returns the reads of id i.
func (w *window) readsOf(i int) []read {
	end := len(w.reads)
	if i+1 < len(w.first) {
		end = int(w.first[i+1])
	}
	return w.reads[w.first[i]:end]
}

// batch gathers windows.
type batch struct {
	r     *run
	w     *window
	flush func(*window) error
}

// window returns the current window; it is never full.
func (b *batch) window() *window {
	if b.w == nil {
		b.w = new(window)
	}
	return b.w
}

// end hands the current window on.
func (b *batch) end() error {
	w := b.w
	if w == nil {
		return nil
	}
	b.w = nil
	return b.flush(w)
}

func (b *batch) endIfFull() error {
	if b.w != nil && b.w.full() {
		return b.end()
	}
	return nil
}

// add adds all chunks of a file, which may take many windows. An error is one
// that stops the run; others are the file's.
func (b *batch) add(f *file) error {
	f.f.pins.Add(1)
	w := b.window()
	w.count(f.f)
	switch {
	case f.chunked:
		return b.addChunks(f)
	case f.id == emptyBlob:
		w.ready = append(w.ready, f)
	default:
		w.add(f, f.id, 0, f.meta.Size)
	}
	return b.endIfFull()
}

// emptyBlob is the id of a file without a byte, which need not be asked for.
var emptyBlob = pack.Sum(pack.Blob, nil)

func (b *batch) addChunks(f *file) error {
	f.left.Store(1) // until all chunks are added
	b.window().large++
	in := b.w
	err := repo.OpenFile(b.r.ctx, b.r.Repo, f.id, true).Chunks(0, func(c repo.Chunk) error {
		if c.Size >= 0 {
			f.grow(c.Off + c.Size)
			if b.r.isHole(c.ID) {
				return nil
			}
		}
		w := b.window()
		if in != w { // the file goes on in a new window
			in = w
			w.large++
			w.count(f.f)
		}
		f.left.Add(1)
		w.add(f, c.ID, c.Off, c.Size)
		return b.endIfFull()
	})
	if err != nil && (b.r.ctx.Err() != nil || !damage(err)) {
		return err
	}
	if err != nil {
		f.fail(b.r, asObject(f.saved(), err))
	}
	f.release(b.r)
	return b.endIfFull()
}

// addLater adds a file that is to be linked to another one.
func (b *batch) addLater(f *file) error {
	f.f.pins.Add(1)
	w := b.window()
	w.count(f.f)
	w.later = append(w.later, f)
	return b.endIfFull()
}

// addNode adds a device, FIFO or socket.
func (b *batch) addNode(it *item) error {
	it.f.pins.Add(1)
	w := b.window()
	w.count(it.f)
	w.nodes = append(w.nodes, it)
	return b.endIfFull()
}

// leave adds a folder of which all is in this window or earlier ones.
func (b *batch) leave(f *folder) error {
	w := b.window()
	w.left = append(w.left, f)
	w.folders++
	return b.endIfFull()
}

// executor works on windows, one after another.
type executor struct {
	r     *run
	in    chan *window
	ended chan struct{}
	work  sync.WaitGroup // the workers
	tasks chan task
}

// task is a small file with its content.
type task struct {
	f    *file
	body *[]byte // nil: none
	w    *window
}

func startExecutor(r *run) *executor {
	e := &executor{r: r, in: make(chan *window, 1), ended: make(chan struct{}), tasks: make(chan task, 64)}
	for range r.Workers {
		e.work.Go(e.worker)
	}
	go func() {
		defer close(e.ended)
		for w := range e.in {
			e.run(w)
		}
		close(e.tasks)
		e.work.Wait()
	}()
	return e
}

// submit hands a window over.
func (e *executor) submit(w *window) error {
	select {
	case e.in <- w:
		return nil
	case <-e.r.ctx.Done():
		w.drop()
		return context.Cause(e.r.ctx)
	}
}

// wait waits for the windows handed over, or drops them if err is not nil. It
// returns what stopped the run, if anything did.
func (e *executor) wait(err error) error {
	if err != nil {
		e.r.cancel(err)
	}
	close(e.in)
	<-e.ended
	return context.Cause(e.r.ctx)
}

// drop gives back what a window holds.
func (w *window) drop() {
	for _, f := range w.left {
		f.close()
	}
}

// run does the work of a window.
func (e *executor) run(w *window) {
	defer w.drop()
	if e.r.ctx.Err() != nil {
		return
	}
	err := e.files(w)
	for _, f := range w.left {
		if err != nil || e.r.ctx.Err() != nil {
			break
		}
		err = e.r.finish(f)
	}
	if err != nil {
		e.r.cancel(err)
	}
}

// files writes the files of a window and makes its hard links.
func (e *executor) files(w *window) error {
	for _, f := range w.ready {
		w.writing.Add(1)
		e.tasks <- task{f, nil, w}
	}
	err := e.fetch(w)
	w.writing.Wait()
	if err != nil {
		return err
	}
	for _, it := range w.nodes {
		e.r.special(it)
		it.f.pins.Add(-1)
	}
	return e.orphans(e.r.linkAll(w.later))
}

// orphans writes files that were to be linked to another one, which came to
// nothing: the first of each set is the file now.
func (e *executor) orphans(files []*file) error {
	again := batch{r: e.r, flush: e.files}
	begun := make(map[*linkSet]bool)
	for _, f := range files {
		if begun[f.set] {
			if err := again.addLater(f); err != nil {
				return err
			}
			continue
		}
		keep, err := e.r.keepFile(f)
		if err == nil && !keep {
			begun[f.set] = true
			err = again.add(f)
		}
		if err != nil {
			return err
		}
	}
	return again.end()
}

// fetch gets the chunks of a window. An object that cannot be had is an error of
// its files; other errors stop the run.
func (e *executor) fetch(w *window) error {
	if len(w.ids) == 0 {
		return nil
	}
	g := getter{e: e, w: w, got: make([]bool, len(w.ids))}
	all := make([]int32, len(w.ids))
	for i := range all {
		all[i] = int32(i)
	}
	return g.get(all)
}

// getter gets the objects of a window although some may be damaged.
type getter struct {
	e   *executor
	w   *window
	got []bool
}

// get gets the objects with these places in w.ids. If one cannot be had Get gives
// no more of them, so the rest is asked for again: without all that are missing,
// or in halves until those that are damaged stand alone.
func (g *getter) get(which []int32) error {
	ctx, r := g.e.r.ctx, g.e.r
	ids := make([]pack.ID, len(which))
	for k, i := range which {
		ids[k] = g.w.ids[i]
	}
	err := r.Repo.Get(ctx, ids, func(k int, t pack.Type, body []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		g.got[which[k]] = true
		g.e.deliver(g.w, int(which[k]), t, body)
		return nil
	})
	if err == nil || ctx.Err() != nil || !damage(err) {
		return err
	}
	var rest []int32
	for _, i := range which {
		if !g.got[i] {
			rest = append(rest, i)
		}
	}
	if len(rest) == 0 {
		return err
	}
	if len(rest) == 1 {
		g.lost(rest[0], err)
		return nil
	}
	if errors.As(err, new(*repo.MissingError)) {
		if rest, err = g.dropMissing(rest); err != nil || len(rest) == 0 {
			return err
		}
		if len(rest) == 1 {
			return g.get(rest)
		}
	}
	half := len(rest) / 2
	if err := g.get(rest[:half]); err != nil {
		return err
	}
	return g.get(rest[half:])
}

// dropMissing fails those files of which an object is not there, and returns
// the others.
func (g *getter) dropMissing(which []int32) (rest []int32, err error) {
	ids := make([]pack.ID, len(which))
	for k, i := range which {
		ids[k] = g.w.ids[i]
	}
	missing, err := g.e.r.Repo.Missing(g.e.r.ctx, nil, ids)
	if err != nil {
		if damage(err) {
			return which, nil
		}
		return nil, err
	}
	gone := make(map[pack.ID]bool, len(missing))
	for _, id := range missing {
		gone[id] = true
	}
	for _, i := range which {
		if id := g.w.ids[i]; gone[id] {
			g.lost(i, &repo.MissingError{ID: id})
		} else {
			rest = append(rest, i)
		}
	}
	return rest, nil
}

// lost fails the files that need an object.
func (g *getter) lost(i int32, err error) {
	g.got[i] = true
	for _, rd := range g.w.readsOf(int(i)) {
		rd.f.lost(g.e.r, g.w.ids[i], err)
	}
}

// directSize is from where on the content of a whole file is not copied for a
// worker: whoever has it writes it.
const directSize = 256 << 10

var bodies = sync.Pool{New: func() any { return new([]byte) }}

// deliver gives an object to the files that have it.
func (e *executor) deliver(w *window, i int, t pack.Type, body []byte) {
	for _, rd := range w.readsOf(i) {
		switch {
		case t != pack.Blob:
			rd.f.lost(e.r, w.ids[i], &pack.CorruptError{File: "object " + w.ids[i].String(), Off: -1, Reason: fmt.Sprintf("is a %v, not a blob", t)})
		case rd.f.chunked:
			rd.f.chunk(e.r, w.ids[i], rd, body)
		case len(body) >= directSize:
			rd.f.whole(e.r, body)
		default:
			b := bodies.Get().(*[]byte)
			*b = append((*b)[:0], body...)
			w.writing.Add(1)
			e.tasks <- task{rd.f, b, w}
		}
	}
}

func (e *executor) worker() {
	for t := range e.tasks {
		var body []byte
		if t.body != nil {
			body = *t.body
		}
		t.f.whole(e.r, body)
		if t.body != nil {
			bodies.Put(t.body)
		}
		t.w.writing.Done()
	}
}
