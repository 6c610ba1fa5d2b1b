package save

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/chunk"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// A run is one save under way.
type run struct {
	o     *Options
	cfg   repo.Config
	split *chunk.Splitter
	plan  *plan
	sess  repo.Session
	found *survey
	feed  *feeder
	sink  *sink
	top   *topTree
	res   Result
	began time.Time
	old   pack.ID // the tip the save stands on

	warnMu sync.Mutex
}

// Run makes one save. If it fails no ref has moved. Result.Unreadable > 0 is no
// failure: the caller's exit code is 3 then.
//
// The order is that of the commit point: objects are added as they come and
// published by Session.Commit, children before parents; then the ref moves, which
// is the save; then the index is told what was saved. A save cut short anywhere
// leaves objects that the next one finds.
func Run(ctx context.Context, o Options) (Result, error) {
	r := &run{o: &o, began: time.Now()}
	if o.Date.IsZero() {
		o.Date = r.began
	}
	if err := r.prepare(ctx); err != nil {
		return r.res, err
	}
	defer r.sess.Close()
	if err := r.pump(ctx); err != nil {
		return r.res, err
	}
	if err := r.finish(ctx); err != nil {
		return r.res, err
	}
	r.res.Elapsed = time.Since(r.began)
	return r.res, nil
}

func (r *run) prepare(ctx context.Context) (err error) {
	o := r.o
	c, ok := o.Repo.(repo.Configured)
	if !ok {
		return errors.New("the repository does not say how it splits files")
	}
	r.cfg = c.Config()
	if r.split, err = chunk.Parse(r.cfg.Chunker); err != nil {
		return err
	}
	if r.plan, err = newPlan(o); err != nil {
		return err
	}
	if o.Name != "" {
		if r.old, err = tip(ctx, o.Repo, "refs/heads/"+o.Name); err != nil {
			return err
		}
		r.res.Previous = r.old
	}
	if r.sess, err = o.Repo.Begin(ctx); err != nil {
		return err
	}
	if o.DryRun {
		r.sess = &dryRun{Session: r.sess, added: map[pack.ID]bool{}}
	}
	if r.found, err = look(ctx, o, r.sess, r.plan, r.split); err != nil {
		r.sess.Close()
	}
	return err
}

func tip(ctx context.Context, r repo.Repo, ref string) (pack.ID, error) {
	refs, err := r.Refs(ctx, ref)
	for _, f := range refs {
		if f.Name == ref {
			return f.ID, nil
		}
	}
	return pack.ID{}, err
}

// pump runs the pipeline: one feeder, a worker per processor, and the sink.
// The free list of batches bounds what is in memory. The first error stops all.
func (r *run) pump(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n := r.o.Workers
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	inFlight := 2*n + 4
	free, work, line := make(chan *batch, inFlight), make(chan *batch, inFlight), make(chan *batch, inFlight)
	size := max(batchSize, 3*(r.split.Max()+r.split.Min()))
	for range inFlight {
		free <- newBatch(size)
	}
	r.feed = r.newFeeder(free, work, line)
	r.sink = r.newSink(ctx)

	var wg sync.WaitGroup
	start := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				cancel(err)
			}
		})
	}
	start(func() error { return r.feed.run(ctx) })
	for range n {
		w := &worker{sess: r.sess, hash: pack.NewHasher(), enc: r.encoder()}
		start(func() error { return w.loop(ctx, work) })
	}
	start(func() error { return r.sink.run(line, free) })
	stop := r.report(ctx)
	wg.Wait()
	stop()
	r.res.Unreadable += r.feed.unreadable.Load()
	r.res.Changed += r.feed.change.Load()
	return context.Cause(ctx)
}

// loop works on batches until there are none.
func (w *worker) loop(ctx context.Context, work <-chan *batch) error {
	for b := range work {
		b.err = w.run(ctx, b)
		b.done <- struct{}{}
	}
	return nil
}

func (r *run) level() int {
	if r.o.Level >= 0 {
		return r.o.Level
	}
	if r.cfg.Compression >= 0 {
		return r.cfg.Compression
	}
	return 1
}

func (r *run) encoder() *pack.Encoder { return pack.NewEncoder(r.level()) }

func (r *run) newFeeder(free, work, line chan *batch) *feeder {
	return &feeder{
		o: r.o, sess: r.sess, plan: r.plan, skips: &r.found.skips, links: r.found.links,
		split: r.split, free: free, work: work, line: line,
		absent: map[pack.ID]bool{}, began: r.began, warn: r.warn,
	}
}

func (r *run) newSink(ctx context.Context) *sink {
	s := &sink{
		o: r.o, ctx: ctx, plan: r.plan, res: &r.res, warn: r.warnCounted,
		chunker: r.split.String(), newest: r.began, step: int64(r.split.Max()),
		store: &store{ctx: ctx, sess: r.sess, hash: pack.NewHasher(), enc: r.encoder(),
			rate: &rate{perSecond: r.o.BytesPerSecond}},
	}
	r.top = newTopTree(s.warn)
	s.top = r.top
	s.zero = pack.Sum(pack.Blob, make([]byte, s.step))
	s.file.Emit = s.store.addTree
	s.dir = repo.DirWriter{Emit: s.store.addTree, Split: r.bupm(s.store), SplitTrees: r.cfg.SplitTrees}
	if r.o.Index != nil && !r.o.DryRun {
		s.marks = r.o.Index.Rewrite()
	}
	return s
}

// bupm returns the function that stores the metadata of a directory's items: cut
// by the repository's splitter like any file.
func (r *run) bupm(st *store) func(body []byte) (repo.TreeEntry, error) {
	tree := repo.ChunkTree{Emit: st.addTree}
	var cuts []chunk.Cut
	return func(body []byte) (repo.TreeEntry, error) {
		tree.Reset()
		from := 0
		cuts = r.split.Split(cuts[:0], body, true)
		for _, c := range cuts {
			id, err := st.add(repo.Trees, pack.Blob, body[from:c.End])
			if err != nil {
				return repo.TreeEntry{}, err
			}
			if err := tree.Add(id, int64(c.End-from), c.Level); err != nil {
				return repo.TreeEntry{}, err
			}
			from = c.End
		}
		e, ok, err := tree.Finish()
		if err == nil && !ok {
			e.Mode = repo.ModeFile
			e.ID, err = st.addEmpty()
		}
		return e, err
	}
}

func (r *run) warn(path string, err error) {
	if r.o.Warn == nil {
		return
	}
	r.warnMu.Lock()
	defer r.warnMu.Unlock()
	r.o.Warn(path, err)
}

// warnCounted is for what the sink finds out.
func (r *run) warnCounted(path string, err error) {
	r.res.Unreadable++
	r.warn(path, err)
}

// report calls Options.Progress twice a second until the returned function is called.
func (r *run) report(ctx context.Context) (stop func()) {
	if r.o.Progress == nil {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.o.Progress(Progress{
					Files: r.feed.files.Load(), FilesTotal: r.found.files,
					Bytes: r.feed.bytes.Load(), BytesTotal: r.found.bytes,
				})
			case <-done:
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// finish stores what leads to the sources and the commit, publishes everything,
// moves the ref and marks the index.
func (r *run) finish(ctx context.Context) (err error) {
	if r.sink.marks != nil {
		defer r.sink.marks.Abort()
	}
	st := r.sink.store
	st.ctx = ctx
	if r.res.Tree, err = r.top.build(&r.sink.dir, r.plan.parentMeta); err != nil {
		return err
	}
	r.res.BytesDedup = r.res.BytesRead - r.res.BytesNew
	if r.res.Commit, err = r.commit(); err != nil {
		return err
	}
	if err := r.sess.Commit(ctx); err != nil {
		return err
	}
	r.res.ObjectsStored, r.res.BytesStored = r.sess.Stats()
	if r.o.DryRun {
		return nil
	}
	if a, ok := r.o.Repo.(repo.NameAllower); ok && len(r.sink.frown) > 0 {
		if err := a.AllowNames(ctx, r.sink.frown); err != nil {
			return err
		}
	}
	if r.o.Name != "" {
		if err := r.move(ctx); err != nil {
			return err
		}
	}
	if r.sink.marks != nil {
		if err := r.sink.marks.Commit(); err != nil {
			// The save stands. The index only makes the next one read more.
			r.warn("", fmt.Errorf("the save is complete, but the index could not be updated: %w", err))
		}
	}
	return nil
}

func (r *run) commit() (pack.ID, error) {
	sig := repo.Signature{Who: r.o.Author, When: r.o.Date}
	c := repo.Commit{Tree: r.res.Tree, Author: sig, Committer: sig, Message: r.o.message(&r.res)}
	if !r.old.IsZero() {
		c.Parents = []pack.ID{r.old}
	}
	return r.sink.store.add(repo.Trees, pack.Commit, c.Append(nil))
}

func (r *run) move(ctx context.Context) (err error) {
	r.res.Commit, err = r.o.Repo.SetRef(ctx, repo.Move{
		Ref: "refs/heads/" + r.o.Name, Old: r.old, New: r.res.Commit, Reparent: true,
		Stats: repo.MoveStats{
			Objects: r.res.ObjectsStored, Bytes: r.res.BytesStored,
			Seconds: time.Since(r.began).Seconds(), ClientTime: r.o.Date.Unix(),
			Principal: strings.TrimSpace(r.o.Author),
		},
	})
	return err
}
