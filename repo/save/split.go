package save

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/chunk"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// SplitOptions says what becomes of a stream that is split and stored as it is, without a
// name or metadata: as a series of blobs, as a tree of them, or as the one file of a save.
type SplitOptions struct {
	Repo    repo.Repo // nil: nothing is stored, and the ids are what they would be
	Chunker string    // "": that of the repository
	Fanout  int       // entries of a tree, on average; 0: what the chunker has
	Inputs  []Input   // one stream, unless Apart
	Apart   bool      // each input begins a chunk
	Name    string    // of the save: its file is called data; "": no ref moves
	Commit  bool      // make a commit also if there is no name
	// Blobs, if not nil, is told the id of every chunk, in order; there are no trees then.
	Blobs func(pack.ID) error

	Date           time.Time // zero: now
	Level          int       // zlib level, 0 to 9; -1: the repository's, else 1
	Workers        int       // 0: one per processor
	BytesPerSecond int64     // limit on what is added to the repository; 0: none
	Author         string
	Host, Version  string
	Progress       func(Progress) // twice a second, of Bytes; nil: not called
}

// Input is a part of what is split. Open is called when its turn comes.
type Input struct {
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Split splits a stream and stores it. Result has the ids of Tree and Commit, as far as
// they were made, and the counts of what was read and stored.
//
// The pipeline is that of Run. So is the order: objects are published before a ref moves.
func Split(ctx context.Context, o SplitOptions) (Result, error) {
	r := &run{began: time.Now()}
	r.o = &Options{
		Repo: o.Repo, Name: o.Name, Date: o.Date, Level: o.Level, Workers: o.Workers, BytesPerSecond: o.BytesPerSecond,
		Author: o.Author, Host: o.Host, Version: o.Version, Progress: o.Progress,
	}
	if r.o.Date.IsZero() {
		r.o.Date = r.began
	}
	r.on = &callbacks{o: r.o}
	s := splitter{run: r, o: &o}
	err := s.all(ctx)
	r.res.Elapsed = time.Since(r.began)
	return r.res, err
}

// splitter is one call of Split.
type splitter struct {
	*run
	o *SplitOptions
}

func (s *splitter) all(ctx context.Context) (err error) {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if s.o.Repo == nil {
		s.sess = nowhere{}
	} else if s.sess, err = s.o.Repo.Begin(ctx); err != nil {
		return err
	}
	defer s.sess.Close()
	s.found, s.plan = &survey{}, &plan{}
	s.sink = s.newSink()
	s.sink.blobs = s.o.Blobs
	if err := s.pump(ctx, s.feed); err != nil {
		return err
	}
	return s.finish(ctx)
}

// prepare does what needs no session.
func (s *splitter) prepare(ctx context.Context) (err error) {
	s.cfg = repo.Config{Chunker: s.o.Chunker, Compression: -1}
	if c, ok := s.o.Repo.(repo.Configured); ok {
		s.cfg = c.Config()
	}
	if s.o.Chunker != "" {
		s.cfg.Chunker = s.o.Chunker
	}
	if s.split, err = chunk.Parse(s.cfg.Chunker); err != nil {
		return err
	}
	if s.o.Fanout != 0 {
		if s.split, err = s.split.WithFanout(s.o.Fanout); err != nil {
			return err
		}
	}
	if s.o.Name == "" {
		return nil
	}
	if err := repo.CheckRefName(s.run.o.ref()); err != nil {
		return err
	}
	s.old, err = tip(ctx, s.o.Repo, s.run.o.ref())
	s.res.Previous = s.old
	return err
}

// feed is the feeder's part.
func (s *splitter) feed(f *feeder, ctx context.Context) error {
	defer close(f.line)
	defer close(f.work)
	if err := f.next(ctx); err != nil {
		return err
	}
	left := s.o.Inputs
	for n := len(left); len(left) > 0; left = left[n:] {
		if s.o.Apart {
			n = 1
		}
		in := inputs{ctx: ctx, left: left[:n]}
		_, err := f.reader(ctx, &in)
		if cerr := in.close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return f.send(ctx)
}

// finish ends the trees, and publishes what was stored.
func (s *splitter) finish(ctx context.Context) error {
	k := s.sink
	k.begin(ctx, 0)
	s.res.BytesDedup = s.res.BytesRead - s.res.BytesNew
	if err := s.trees(); err != nil {
		return err
	}
	if s.o.Name != "" || s.o.Commit {
		if err := s.commit(); err != nil {
			return err
		}
	}
	if err := k.store.flush(); err != nil {
		return err
	}
	if err := s.sess.Commit(ctx); err != nil {
		return err
	}
	s.res.ObjectsStored, s.res.BytesStored = s.sess.Stats()
	if s.o.Name == "" {
		return nil
	}
	return s.move(ctx)
}

// trees makes the tree of the result: over the chunks, or with a name over the one file
// that they are.
func (s *splitter) trees() (err error) {
	k := s.sink
	switch {
	case s.o.Blobs != nil:
		return nil
	case s.o.Name == "":
		s.res.Tree, err = k.file.FinishTree()
		return err
	}
	e, _, err := k.contents()
	if err != nil {
		return err
	}
	e.Name = repo.MangleName("data", e.Mode == repo.ModeDir)
	s.res.Tree, err = k.store.addTree(repo.AppendTree(nil, []repo.TreeEntry{e}))
	return err
}

func (s *splitter) commit() (err error) {
	sig := repo.Signature{Who: s.o.Author, When: s.run.o.Date}
	c := repo.Commit{Tree: s.res.Tree, Author: sig, Committer: sig, Message: s.message()}
	if !s.old.IsZero() {
		c.Parents = []pack.ID{s.old}
	}
	s.res.Commit, err = s.sink.store.add(pack.Commit, c.Append(nil))
	return err
}

// message is that of a save of one file, but for its first line.
func (s *splitter) message() string {
	s.res.Files, s.res.Bytes = 1, s.res.BytesRead
	return strings.Replace(s.run.o.message(&s.res), "kedge save", "kedge split", 1)
}

// inputs reads one input after the other.
type inputs struct {
	ctx  context.Context
	left []Input // beginning with the one that is open
	open io.ReadCloser
}

// Read reads from the input whose turn it is.
func (in *inputs) Read(p []byte) (n int, err error) {
	for len(in.left) > 0 {
		if in.open == nil {
			if in.open, err = in.left[0].Open(in.ctx); err != nil {
				return 0, err
			}
		}
		n, err = in.open.Read(p)
		if n > 0 || err == nil {
			return n, nil
		}
		if cerr := in.close(); errors.Is(err, io.EOF) {
			err = cerr
		}
		if err != nil {
			return 0, err
		}
		in.left = in.left[1:]
	}
	return 0, io.EOF
}

func (in *inputs) close() (err error) {
	if in.open != nil {
		err = in.open.Close()
	}
	in.open = nil
	return err
}

// nowhere is a session that has everything already, so that nothing is ever stored.
type nowhere struct{}

// Missing says that nothing is.
func (nowhere) Missing(_ context.Context, dst, _ []pack.ID) ([]pack.ID, error) { return dst, nil }

// Add is never called with entries.
func (nowhere) Add(_ context.Context, _ repo.Class, e []pack.Entry) error {
	if len(e) > 0 {
		return fmt.Errorf("%d objects to be stored nowhere", len(e))
	}
	return nil
}

// Commit does nothing.
func (nowhere) Commit(context.Context) error { return nil }

// Stats returns nothing.
func (nowhere) Stats() (objects, bytes int64) { return 0, 0 }

// Close does nothing.
func (nowhere) Close() error { return nil }
