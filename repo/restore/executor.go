package restore

import (
	"context"
	"fmt"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// executor works on windows, one after another.
type executor struct {
	r     *run
	in    chan *window
	ended chan struct{}
	work  sync.WaitGroup // the workers
	tasks chan task

	// unused are folders of which files may still be on their way when the run is
	// stopped. They are closed at the end: a descriptor that is closed too early
	// may be another directory's by the time it is used.
	unused []*folder
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
	// A window is completed when all before it are, but where reads take long its objects
	// are on their way while those of the one before are: nobody waits for the last of
	// them with nothing else to do.
	fetched := make(chan *window)
	far := repo.IsFar(r.Repo)
	go func() {
		defer close(fetched)
		for w := range e.in {
			w.there = make(chan error, 1)
			if far {
				go func() { w.there <- e.bring(w) }()
			}
			fetched <- w
		}
	}()
	go func() {
		defer close(e.ended)
		for w := range fetched {
			if !far {
				w.there <- e.bring(w)
			}
			e.run(w, <-w.there)
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
		e.unused = append(e.unused, w.left...)
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
	for _, f := range e.unused {
		f.close()
	}
	return context.Cause(e.r.ctx)
}

// drop gives back what a window holds.
func (w *window) drop() {
	for _, f := range w.left {
		f.close()
	}
}

// run completes a window whose files are there, or could not be had.
func (e *executor) run(w *window, err error) {
	defer w.drop()
	if err == nil && e.r.ctx.Err() == nil {
		err = e.others(w)
	}
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

// files writes the files of a window and makes what else is in it.
func (e *executor) files(w *window) error {
	if err := e.bring(w); err != nil {
		return err
	}
	return e.others(w)
}

// bring writes the files of a window.
func (e *executor) bring(w *window) error {
	if e.r.ctx.Err() != nil {
		return context.Cause(e.r.ctx)
	}
	for _, f := range w.ready {
		w.writing.Add(1)
		e.tasks <- task{f, nil, w}
	}
	err := e.fetch(w)
	w.writing.Wait()
	return err
}

// others makes the devices and hard links of a window, whose files are there.
func (e *executor) others(w *window) error {
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
