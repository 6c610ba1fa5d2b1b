package s3sync

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Source is a repository that another one follows: files that are written once, and what
// changes, as it was at one moment. A repo.Dir is one, and a Snapshot, and a repository
// behind a server.
type Source interface {
	Open(ctx context.Context, name string) (repo.Blob, error)
	List(ctx context.Context, dir string, fn func(name string, size int64) error) error
	State(ctx context.Context) (repo.State, error)
}

// SyncOptions says how a copy follows.
type SyncOptions struct {
	FS      *fsx.FS
	Workers int // packs fetched and looked at at once; 0: 2
	// Grace is how long a pack stays that the source has no more; 0: 14 days.
	Grace    time.Duration
	Now      func() time.Time // nil: time.Now
	Progress func(SyncResult)
}

// SyncResult is what a Sync did.
type SyncResult struct {
	Packs    int // of the source
	Got      int // packs that were not there
	GotBytes int64
	Dropped  int // packs that the source had not had for the time of grace
}

const (
	// syncRoom is for the largest object of a pack.
	syncRoom = 1 << 30
	// syncTries is how often it is begun anew when the source takes packs away meanwhile.
	syncTries = 5
	syncGrace = 14 * 24 * time.Hour
)

// Sync makes a directory a copy of a repository, or brings a copy up to date:
//
//	the state of the source, then the list of its packs
//	packs, each looked at as a whole; its idx is made from it
//	proof that all below every ref is there
//	receipts, refs, HEAD, config                     repo.Dir.Follow
//	packs that the source has had no more for Grace  dropped, after a proof without them
//
// Of the source nothing is believed that can be proved: see repo.Dir.PublishPack. Whatever it
// does, refs of the copy lead to whole saves (I2). A Sync that fails leaves them where they
// were; packs that came stay, so that the next one goes on where it stopped.
//
// What is listed was there when the state was read, or later, so it holds all that the refs
// reach, unless gc runs on the source at that time: then a pack is missed, and it is all
// begun anew.
//
// A copy into which somebody has saved is refused; see repo.Dir.Follow. So is one of another
// repository.
func Sync(ctx context.Context, dir string, src Source, o SyncOptions) (SyncResult, error) {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := syncing{src: src, o: o, path: dir}
	for try := 1; ; try++ {
		err := s.run(ctx)
		if try == syncTries || ctx.Err() != nil || !errors.Is(err, errTakenAway) {
			return s.result, err
		}
	}
}

// errTakenAway says that the source has a pack no more that it had a moment ago.
var errTakenAway = errors.New("it was taken away meanwhile")

// syncing is one Sync.
type syncing struct {
	src   Source
	o     SyncOptions
	path  string
	dir   *repo.Dir
	state repo.State
	packs map[string]int64 // of the source: size by name

	mu     sync.Mutex
	result SyncResult
}

func (s *syncing) run(ctx context.Context) (err error) {
	if err := s.look(ctx); err != nil {
		return err
	}
	if err := s.sameRepo(ctx); err != nil {
		return err
	}
	if s.dir, err = repo.NewMirrorDir(ctx, s.o.FS, s.path); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.dir.Close()) }()
	lock, err := s.o.FS.Lock(filepath.Join(s.path, "kedge", "standby.lock"), fsx.Exclusive, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := s.fetch(ctx); err != nil {
		return err
	}
	if err := s.prove(ctx); err != nil {
		return err
	}
	if err := s.dir.Follow(ctx, s.state); err != nil {
		return err
	}
	return s.drop(ctx)
}

// look asks the source for its state, and then for its packs.
func (s *syncing) look(ctx context.Context) (err error) {
	if s.state, err = s.src.State(ctx); err != nil {
		return err
	}
	s.state.Receipts = repo.WholeLines(s.state.Receipts)
	if err := repo.CheckState(ctx, s.state); err != nil {
		return err
	}
	if s.state.Config, err = repo.CopiedConfig(s.state.Config); err != nil {
		return err
	}
	s.packs = make(map[string]int64)
	idxes := make(map[string]bool)
	err = s.src.List(ctx, "objects/pack", func(name string, size int64) error {
		if ext := path.Ext(name); ext != ".pack" && ext != ".idx" {
			return nil
		}
		if err := repo.CheckPackFile(name); err != nil {
			return err
		}
		if path.Ext(name) == ".idx" {
			idxes[strings.TrimSuffix(name, ".idx")+".pack"] = true
			return nil
		}
		if _, twice := s.packs[name]; twice || size < 0 {
			return &pack.CorruptError{File: name, Off: -1, Reason: "it is listed twice, or with less than nothing"}
		}
		s.packs[name] = size
		return nil
	})
	for name := range s.packs { // one that is being published is none yet
		if !idxes[name] {
			delete(s.packs, name)
		}
	}
	s.result.Packs = len(s.packs)
	return err
}

// sameRepo fails if another repository is where the copy is to be.
func (s *syncing) sameRepo(ctx context.Context) error {
	c, err := repo.ParseConfig(s.state.Config)
	if err != nil {
		return err
	}
	old, err := repo.OpenDir(ctx, s.path, repo.DirOptions{FS: s.o.FS, ReadOnly: true})
	if errors.As(err, new(*repo.NotFoundError)) {
		return nil
	} else if err != nil {
		return err
	}
	defer func() { _ = old.Close() }()
	if id := old.Config().ID; id != c.ID {
		return &repo.ConfigError{Reason: fmt.Sprintf("%s is another repository: its id is %s, that of the source is %s", s.path, orDash(id), orDash(c.ID))}
	}
	return nil
}

// fetch brings the packs that are not there yet.
func (s *syncing) fetch(ctx context.Context) error {
	var todo []string
	for name, size := range s.packs {
		has, err := s.dir.HasPack(name, size)
		if err != nil {
			return err
		}
		if !has {
			todo = append(todo, name)
		}
	}
	// Small ones first: those of trees and commits, so that what is there after a cut is
	// likely to be of use.
	slices.SortFunc(todo, func(a, b string) int {
		return cmp.Or(cmp.Compare(s.packs[a], s.packs[b]), strings.Compare(a, b))
	})
	workers := min(cmp.Or(s.o.Workers, 2), len(todo))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	names := make(chan string, len(todo))
	for _, name := range todo {
		names <- name
	}
	close(names)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			buf := make([]byte, readStep)
			for name := range names {
				if ctx.Err() != nil {
					return
				}
				if err := s.pack(ctx, name, buf); err != nil {
					cancel(fmt.Errorf("%s: %w", name, err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// pack fetches one pack.
func (s *syncing) pack(ctx context.Context, name string, buf []byte) error {
	size := s.packs[name]
	from, err := s.src.Open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return errTakenAway
	} else if err != nil {
		return err
	}
	defer from.Close()
	if from.Size() != size {
		return &pack.CorruptError{File: name, Off: -1, Reason: fmt.Sprintf("it has %d bytes and was listed with %d", from.Size(), size)}
	}
	to, err := s.dir.Create(ctx)
	if err != nil {
		return err
	}
	defer to.Abort()
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		want := buf[:min(int64(len(buf)), size-off)]
		n, err := from.ReadAt(want, off)
		if errors.As(err, new(*repo.NotFoundError)) || errors.Is(err, fs.ErrNotExist) {
			return errTakenAway
		} else if n < len(want) {
			return cmp.Or(err, error(&pack.CorruptError{File: name, Off: off + int64(n), Reason: "it ends before its time"}))
		}
		if _, err := to.Write(want); err != nil {
			return err
		}
		off += int64(n)
	}
	if err := s.dir.PublishPack(ctx, name, to, size, syncRoom); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result.Got++
	s.result.GotBytes += size
	if s.o.Progress != nil {
		s.o.Progress(s.result)
	}
	return nil
}

// prove fails if something below a ref is not there. The packs that it has looked at are
// listed as closed then, so that the next proof begins there.
func (s *syncing) prove(ctx context.Context) (err error) {
	p, err := repo.OpenDir(ctx, s.path, repo.DirOptions{FS: s.o.FS})
	if errors.As(err, new(*repo.NotFoundError)) {
		// A repository without a name in it, so that there is a place for the proof.
		if err := s.dir.Follow(ctx, repo.State{Config: s.state.Config, Head: s.state.Head}); err != nil {
			return err
		}
		p, err = repo.OpenDir(ctx, s.path, repo.DirOptions{FS: s.o.FS})
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	return s.whole(ctx, p)
}

// whole fails if something below a ref is not in a repository.
func (s *syncing) whole(ctx context.Context, p *repo.Packs) error {
	ids := make([]pack.ID, len(s.state.Refs))
	for i, r := range s.state.Refs {
		ids[i] = r.ID
	}
	missing, err := p.Missing(ctx, nil, ids)
	if err != nil || len(missing) == 0 {
		return err
	}
	for _, r := range s.state.Refs {
		if r.ID == missing[0] {
			return fmt.Errorf("%s: the source has not all of it in packs: %w", r.Name, &repo.MissingError{ID: r.ID})
		}
	}
	return &repo.MissingError{ID: missing[0]}
}

// drop takes away packs that the source has had no more for the time of grace, which
// kedge/standby remembers: a line for each, "SECONDS objects/pack/pack-….pack". It is
// proved before that everything is there without them, from scratch: all packs that stay are
// read.
func (s *syncing) drop(ctx context.Context) error {
	file := filepath.Join(s.path, "kedge", "standby")
	old, err := s.o.FS.ReadFile(file, MaxText)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	since := parseSince(old)
	now, grace := s.o.Now(), cmp.Or(s.o.Grace, syncGrace)
	var text []byte
	var due []string
	err = s.dir.List(ctx, "objects/pack", func(name string, _ int64) error {
		if _, has := s.packs[name]; has || path.Ext(name) != ".pack" {
			return nil
		}
		at, known := since[name]
		if !known || at > now.Unix() {
			at = now.Unix()
		}
		if now.Sub(time.Unix(at, 0)) >= grace {
			due = append(due, name)
		}
		text = fmt.Appendf(text, "%d %s\n", at, name)
		return nil
	})
	if err == nil && !bytes.Equal(text, old) {
		err = s.o.FS.Replace(file, text, 0o640)
	}
	if err != nil || len(due) == 0 {
		return err
	}
	return s.retire(ctx, due)
}

// parseSince reads kedge/standby. Lines that are none mean nothing.
func parseSince(text []byte) map[string]int64 {
	since := make(map[string]int64)
	for line := range bytes.Lines(text) {
		at, name, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		if n, err := strconv.ParseInt(at, 10, 64); err == nil {
			since[name] = n
		}
	}
	return since
}

// retire deletes packs, if all that refs reach is there without them. What a prune left that
// can be undone the source keeps, and so does the copy.
func (s *syncing) retire(ctx context.Context, due []string) (err error) {
	gone := make(map[string]bool, len(due))
	var names []pack.ID
	for _, name := range due {
		id, err := pack.ParseID(strings.TrimSuffix(strings.TrimPrefix(path.Base(name), "pack-"), ".pack"))
		if err == nil { // others have names of somebody's own making, and stay
			gone[strings.TrimSuffix(name, ".pack")] = true
			names = append(names, id)
		}
	}
	state := s.state
	state.Closed = nil
	rest, err := repo.OpenSnapshot(ctx, without{s.dir, gone}, state)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rest.Close()) }()
	if err := s.whole(ctx, rest); err != nil {
		return fmt.Errorf("packs that the source has no more are kept: %w", err)
	}
	list, err := rest.PackList(ctx)
	if err != nil {
		return err
	}
	closed := make(map[pack.ID]bool)
	for _, p := range list {
		closed[p.Name] = p.Closed
	}
	p, err := repo.OpenDir(ctx, s.path, repo.DirOptions{FS: s.o.FS})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	u, err := p.Upkeep(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	return u.Decide(ctx, func(_ int, relied map[pack.ID]bool) error {
		names = slices.DeleteFunc(names, func(id pack.ID) bool { return relied[id] })
		s.result.Dropped = len(names)
		return u.Retire(ctx, repo.Retirement{Trees: names, Closed: func(id pack.ID) bool { return closed[id] }, Delete: true})
	})
}

// without is a directory some of whose packs are not there.
type without struct {
	*repo.Dir
	gone map[string]bool
}

// List calls fn for the files that are there.
func (w without) List(ctx context.Context, dir string, fn func(name string, size int64) error) error {
	return w.Dir.List(ctx, dir, func(name string, size int64) error {
		if w.gone[strings.TrimSuffix(name, path.Ext(name))] || path.Base(name) == "multi-pack-index" {
			return nil
		}
		return fn(name, size)
	})
}
