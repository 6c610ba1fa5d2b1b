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
	on    *callbacks
	cfg   repo.Config
	split *chunk.Splitter
	plan  *plan
	sess  repo.Session
	found *survey
	sink  *sink
	res   Result
	began time.Time
	old   pack.ID // the tip the save stands on
}

// Run makes one save. If it fails no ref has moved. Result.Unreadable > 0 and
// Result.Changed > 0 are no failures: the caller's exit code is 3 then.
//
// The order is that of the commit point: objects are added as they come and
// published by Session.Commit, children before parents; then the ref moves, which
// is the save; then the index is told what was saved. A save cut short anywhere
// leaves objects that the next one finds. When Run returns nothing of it goes on.
func Run(ctx context.Context, o Options) (Result, error) {
	r := &run{o: &o, on: &callbacks{o: &o}, began: time.Now()}
	if o.Date.IsZero() {
		o.Date = r.began
	}
	err := r.all(ctx)
	r.res.Unreadable, r.res.Changed = r.on.unreadable, r.on.changed
	r.res.Elapsed = time.Since(r.began)
	return r.res, err
}

func (r *run) all(ctx context.Context) (err error) {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	if r.o.DryRun {
		r.sess = newDryRun(r.o.Repo)
	} else if r.sess, err = r.o.Repo.Begin(ctx); err != nil {
		return err
	}
	defer r.sess.Close()
	r.found = &survey{o: r.o, sess: r.sess, plan: r.plan, split: r.split, links: links{last: r.split.Rollsum()}}
	if err := r.found.look(ctx); err != nil {
		return err
	}
	r.sink = r.newSink()
	defer r.sink.dropMarks()
	if err := r.pump(ctx, (*feeder).run); err != nil {
		return err
	}
	return r.finish(ctx)
}

// prepare does what needs no session, so that it can be refused before anything
// is changed.
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
	if o.Name != "" {
		if err := repo.CheckRefName(o.ref()); err != nil {
			return err
		}
	}
	if r.plan, err = newPlan(o, o.lookup, o.tops); err != nil {
		return err
	}
	if o.Name != "" {
		r.old, err = tip(ctx, o.Repo, o.ref())
		r.res.Previous = r.old
	}
	return err
}

// ref returns the ref that the save moves.
func (o *Options) ref() string { return "refs/heads/" + o.Name }

func tip(ctx context.Context, r repo.Repo, ref string) (pack.ID, error) {
	refs, err := r.Refs(ctx, ref)
	for _, f := range refs {
		if f.Name == ref {
			return f.ID, nil
		}
	}
	return pack.ID{}, err
}

// wideShare: one processor in so many looks for the cuts of the batch that the
// feeder has. One alone finds them as fast as some four deflate. With less than
// four processors it is one: the others have enough to do, and those that share
// the work do more of it.
const wideShare = 2

// pump runs the pipeline: one feeder, a worker per processor, and the sink.
// The free list of batches bounds what is in memory. The first error stops all.
func (r *run) pump(ctx context.Context, feed func(*feeder, context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := r.o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	n, size := flight(workers, r.split)
	free, work, line := make(chan *batch, n), make(chan *batch, n), make(chan *batch, n)
	for range n {
		free <- newBatch(size)
	}
	f := r.newFeeder(free, work, line)
	f.wide = workers / wideShare
	r.sink.begin(ctx, n)
	var wg sync.WaitGroup
	start := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				cancel(err)
			}
		})
	}
	start(func() error { return feed(f, ctx) })
	for range workers {
		w := &worker{sess: r.sess, hash: pack.NewHasher(), enc: r.encoder()}
		wg.Go(func() { w.loop(ctx, work) })
	}
	start(func() error { return r.sink.run(line, free) })
	stop := r.report(ctx)
	wg.Wait()
	stop()
	return context.Cause(ctx)
}

func (r *run) encoder() *pack.Encoder {
	switch {
	case r.o.Level >= 0:
		return pack.NewEncoder(r.o.Level)
	case r.cfg.Compression >= 0:
		return pack.NewEncoder(r.cfg.Compression)
	}
	return pack.NewEncoder(1)
}

func (r *run) newFeeder(free, work, line chan *batch) *feeder {
	return &feeder{
		o: r.o, on: r.on, sess: r.sess, plan: r.plan, skips: &r.found.skips, links: &r.found.links,
		split: r.split, free: free, work: work, line: line, absent: map[pack.ID]bool{},
	}
}

func (r *run) newSink() *sink {
	s := &sink{
		o: r.o, on: r.on, plan: r.plan, top: &topTree{}, res: &r.res,
		chunker: r.split.String(), step: int64(r.split.Max()),
		store: &store{sess: r.sess, hash: pack.NewHasher(), enc: r.encoder(),
			rate: &rate{perSecond: r.o.BytesPerSecond}},
	}
	s.zero = pack.Sum(pack.Blob, make([]byte, s.step))
	s.file.Emit = s.store.addTree
	s.write = repo.DirWriter{Emit: s.store.addTree, Split: r.bupm(s.store), SplitTrees: r.cfg.SplitTrees}
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
			id, err := st.add(pack.Blob, body[from:c.End])
			if err != nil {
				return repo.TreeEntry{}, err
			}
			if err := tree.Add(id, int64(c.End-from), c.Level); err != nil {
				return repo.TreeEntry{}, err
			}
			from = c.End
		}
		e, _, err := tree.Finish()
		return e, err
	}
}

// report calls Options.Progress twice a second until the returned function is
// called, and then once more.
func (r *run) report(ctx context.Context) (stop func()) {
	if r.o.Progress == nil {
		return func() {}
	}
	r.on.progress.FilesTotal, r.on.progress.BytesTotal = r.found.files, r.found.bytes
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.on.report()
			case <-done:
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
		r.on.report()
	}
}

// finish stores what leads to the sources and the commit, publishes everything,
// moves the ref and marks the index.
func (r *run) finish(ctx context.Context) (err error) {
	s := r.sink
	s.begin(ctx, 0)
	if err := s.checkClosed(); err != nil {
		return err
	}
	if r.res.Tree, err = s.buildTop(); err != nil {
		return err
	}
	r.res.BytesDedup = r.res.BytesRead - r.res.BytesNew
	if r.res.Commit, err = r.commit(); err != nil {
		return err
	}
	// The names first: once a tree is there, nobody looks at its names again.
	if a, ok := r.o.Repo.(repo.NameAllower); ok && len(s.frown.names) > 0 && !r.o.DryRun {
		if err := a.AllowNames(ctx, s.frown.names); err != nil {
			return err
		}
	}
	if err := r.sess.Commit(ctx); err != nil {
		return err
	}
	r.res.ObjectsStored, r.res.BytesStored = r.sess.Stats()
	if r.o.DryRun {
		return nil
	}
	if r.o.Name != "" {
		if err := r.move(ctx); err != nil {
			return err
		}
	}
	r.markIndex()
	return nil
}

// markIndex tells the index what was saved. The save stands whatever comes of
// it: without, the next one only reads more.
func (r *run) markIndex() {
	s := r.sink
	if s.marks != nil {
		s.marksErr = s.marks.Commit()
	}
	if s.marksErr != nil {
		r.on.remark("", fmt.Errorf("the save is complete, but the index could not be updated: %w", s.marksErr))
	}
}

// commit stores the commit, and with it all that still waits.
func (r *run) commit() (pack.ID, error) {
	r.res.Unreadable = r.on.unreadable
	sig := repo.Signature{Who: r.o.Author, When: r.o.Date}
	c := repo.Commit{Tree: r.res.Tree, Author: sig, Committer: sig, Message: r.o.message(&r.res)}
	if !r.old.IsZero() {
		c.Parents = []pack.ID{r.old}
	}
	id, err := r.sink.store.add(pack.Commit, c.Append(nil))
	if err != nil {
		return id, err
	}
	return id, r.sink.store.flush()
}

func (r *run) move(ctx context.Context) (err error) {
	r.res.Commit, err = r.o.Repo.SetRef(ctx, repo.Move{
		Ref: r.o.ref(), Old: r.old, New: r.res.Commit, Reparent: true,
		Stats: repo.MoveStats{
			Objects: r.res.ObjectsStored, Bytes: r.res.BytesStored,
			Seconds: time.Since(r.began).Seconds(), ClientTime: r.o.Date.Unix(),
			Principal: strings.TrimSpace(r.o.Author),
		},
	})
	return err
}
