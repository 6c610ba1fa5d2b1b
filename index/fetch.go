package index

import (
	"context"
	"sync"

	"github.com/kedgebackup/kedge/internal/fsx"
	"golang.org/x/sys/unix"
)

// The walk is one goroutine that goes through the tree in order, and a few
// workers that run ahead of it: they open directories, read and sort their names
// and describe what has them. Only the walk gives them work, so nobody waits for
// a worker but the walk, and no chain of waiting can close.
const (
	workers   = 8   // more than processors: a cold disk is kept busy by questions
	chunkSize = 256 // names that are described in one go
	chunksNow = 2   // chunks that are described at once when a directory is opened
	ahead     = 8   // chunks, and sub-directories, that are asked for in advance
)

// A listing is a directory that is being walked, or soon will be.
type listing struct {
	dir     *fsx.Dir // nil: closed already, since no name in it needs it
	st      fsx.Stat // of the directory, from before its names were read
	names   names
	chunks  []*chunk // as many as the names need; nil where not asked for
	err     error    // the directory could not be opened or read
	foreign bool     // of another file system, and not to be entered
	asked   bool     // its name is that of a root, which nothing excludes
	done    chan struct{}
	ready   bool // done was received
}

// A chunk describes some names of a listing, the first of which is a multiple of
// chunkSize.
type chunk struct {
	st    []fsx.Stat
	errs  []error // nil, or as long as st
	done  chan struct{}
	ready bool
}

// A job is the opening of a directory, or, if chunk is set, a chunk.
type job struct {
	l     *listing
	chunk *chunk
	first int      // name of the chunk
	dir   *fsx.Dir // where name is to be opened, or the chunk's names are
	name  string
	path  string // of the directory
	dev   uint64 // of the directory above
	root  bool   // opened whatever file system it is on
}

// A fetcher is what the workers share.
type fetcher struct {
	ctx      context.Context
	oneFS    bool
	exclude  *Exclude
	skip     map[string][]string // directory → names not to be listed
	jobs     chan job
	wg       sync.WaitGroup
	listings sync.Pool
	chunks   sync.Pool
}

func newFetcher(ctx context.Context, oneFS bool, exclude *Exclude, skip map[string][]string) *fetcher {
	f := &fetcher{ctx: ctx, oneFS: oneFS, exclude: exclude, skip: skip, jobs: make(chan job, 4*workers)}
	for range workers {
		f.wg.Go(f.work)
	}
	return f
}

// close waits for the workers, who finish what they were given.
func (f *fetcher) close() {
	close(f.jobs)
	f.wg.Wait()
}

func (f *fetcher) work() {
	var path []byte
	for j := range f.jobs {
		if j.chunk != nil {
			path = f.describe(j.l, j.chunk, j.first, j.dir, j.path, path)
			j.chunk.done <- struct{}{}
			continue
		}
		path = f.open(j, path)
		j.l.done <- struct{}{}
	}
}

func (f *fetcher) newListing() *listing {
	if l, ok := f.listings.Get().(*listing); ok {
		return l
	}
	return &listing{done: make(chan struct{}, 1)}
}

// release takes back a listing that nobody works on. Its directory is no longer
// of its concern.
func (f *fetcher) release(l *listing) {
	for i, c := range l.chunks {
		f.releaseChunk(c)
		l.chunks[i] = nil
	}
	if cap(l.names.arena) > 1<<20 {
		return // a giant among directories; the next ones need less
	}
	l.names.reset()
	*l = listing{names: l.names, chunks: l.chunks[:0], done: l.done}
	f.listings.Put(l)
}

func (f *fetcher) newChunk() *chunk {
	if c, ok := f.chunks.Get().(*chunk); ok {
		return c
	}
	return &chunk{st: make([]fsx.Stat, 0, chunkSize), done: make(chan struct{}, 1)}
}

func (f *fetcher) releaseChunk(c *chunk) {
	if c != nil {
		c.ready, c.errs = false, nil
		f.chunks.Put(c)
	}
}

// open opens and reads a directory and describes its first names.
func (f *fetcher) open(j job, path []byte) []byte {
	l := j.l
	if l.err = f.ctx.Err(); l.err != nil {
		return path
	}
	if l.dir, l.err = j.dir.Open(j.name); l.err != nil {
		return path
	}
	if l.st, l.err = l.dir.Stat(); l.err == nil {
		l.foreign = !j.root && l.st.Dev != j.dev && (f.oneFS || kernelFS(l.dir.Fd()))
		if !l.foreign {
			path = f.list(l, l.dir, j.path, path)
		}
	}
	if l.err != nil || l.foreign || l.complete() {
		l.dir.Close()
		l.dir = nil
	}
	return path
}

// list reads the names of a directory, and describes the first.
func (f *fetcher) list(l *listing, d *fsx.Dir, dir string, path []byte) []byte {
	if l.err = l.names.read(d); l.err != nil {
		return path
	}
	if tag := f.exclude.tagIn(d, l.names.has); tag != "" {
		for i := range l.names.list {
			l.names.list[i].hide = l.names.at(i) != tag
		}
	}
	f.hide(l, dir)
	n := (len(l.names.list) + chunkSize - 1) / chunkSize
	for i := range n {
		l.chunks = append(l.chunks, nil)
		if i < chunksNow {
			c := f.newChunk()
			path = f.describe(l, c, i*chunkSize, d, dir, path)
			c.ready = true
			l.chunks[i] = c
		}
	}
	return path
}

// hide marks the names that are never listed.
func (f *fetcher) hide(l *listing, dir string) {
	for _, name := range f.skip[dir] {
		if i, ok := l.names.find(name); ok {
			l.names.list[i].hide = true
		}
	}
}

// complete reports whether the directory is not needed any more: everything is
// described, and nothing in it is a directory or a symbolic link.
func (l *listing) complete() bool {
	if len(l.chunks) > chunksNow {
		return false
	}
	for _, c := range l.chunks {
		for i := range c.st {
			if t := c.st[i].Mode & modeType; t == modeDir || t == modeSymlink {
				return false
			}
		}
	}
	return true
}

// describe fills in a chunk. Names that turn out to be excluded are marked so,
// and described only if that has to be known for it.
func (f *fetcher) describe(l *listing, c *chunk, first int, dir *fsx.Dir, dirPath string, path []byte) []byte {
	n := min(chunkSize, len(l.names.list)-first)
	c.st = c.st[:n]
	clear(c.st)
	filters := !l.asked && f.exclude.filters()
	if filters {
		path = append(path[:0], keyOf(dirPath)...)
	}
	base := len(path)
	for i := range n {
		ref := &l.names.list[first+i]
		if ref.hide {
			continue
		}
		name := l.names.at(first + i)
		known := !filters || ref.typ != unix.DT_UNKNOWN
		if filters {
			path = append(append(path[:base], '/'), name...)
		}
		if filters && known && f.exclude.Match(stringOf(path), ref.typ == unix.DT_DIR) {
			ref.hide = true
			continue
		}
		st, err := dir.Lstat(name)
		if err != nil {
			c.fail(i, err)
			continue
		}
		if !known && f.exclude.Match(stringOf(path), isDir(st.Mode)) {
			ref.hide = true
			continue
		}
		c.st[i] = st
	}
	return path
}

func (c *chunk) fail(i int, err error) {
	if c.errs == nil {
		c.errs = make([]error, len(c.st))
	}
	c.errs[i] = err
}
