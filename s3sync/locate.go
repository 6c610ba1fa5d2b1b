package s3sync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// farReads is how many reads of a bucket are under way at once.
const farReads = 14

// Parallel returns how many reads should be under way at once.
func (s *Snapshot) Parallel() int { return farReads }

// What decides between segments and idx files. A look-up in a segment reads a page for
// each id, which are spread all over it; an idx is read as a whole, and then has all the
// neighbours of what was looked for.
const (
	sampleSize = 8         // ids that are looked up to see where a batch is
	sampleMin  = 16        // a batch that is worth it
	maxSamples = 4         // rounds of it
	hitWorth   = 128 << 10 // bytes of an idx that each hit in its pack pays for
	idxMemory  = 32 << 20  // of idx files that are in memory
	wholeBytes = 512 << 10 // a segment of so many bytes is read as a whole
	pageGap    = 8         // pages between two that are wanted, read for nothing
	pageRun    = 64        // pages that one request brings
)

// locator knows where the objects of a generation are.
type locator struct {
	s     *Snapshot
	packs map[string]File // the idx of each pack, by the name of the pack

	mu       sync.Mutex
	classes  []*class // the one that had the last hit is looked into first
	loaded   []*loadedIdx
	bytes    int64
	hits     map[string]int   // look-ups that led to a pack whose idx is not in memory
	bad      map[string]error // idx files and segments that cannot be used
	wideOpen map[string]*pack.Idx
}

// class is the segments of one class, the small ones in front.
type class struct {
	once sync.Once
	segs []*segment
}

// loadedIdx is an idx in memory.
type loadedIdx struct {
	name string // of the pack
	idx  *pack.Idx
	size int64
}

func newLocator(s *Snapshot) *locator {
	l := &locator{s: s, packs: make(map[string]File), hits: make(map[string]int), bad: make(map[string]error), wideOpen: make(map[string]*pack.Idx)}
	byName := make(map[string]*class)
	for _, f := range s.g.Files {
		if name, ok := strings.CutSuffix(path.Base(f.Name), ".idx"); ok && path.Dir(f.Name) == dirPacks {
			l.packs[name] = f
		}
		if kind, ok := segmentClass(f.Name); ok {
			c := byName[kind]
			if c == nil {
				c = new(class)
				byName[kind] = c
			}
			c.segs = append(c.segs, &segment{file: s.file(f, pageSize)})
		}
	}
	for _, kind := range segmentClasses {
		if c := byName[kind]; c != nil {
			slices.SortFunc(c.segs, func(a, b *segment) int { return cmp.Compare(a.file.Size(), b.file.Size()) })
			l.classes = append(l.classes, c)
		}
	}
	return l
}

// segment is one that is read.
type segment struct {
	file *remoteFile
	segmentHead
	err error // it cannot be read
}

// open reads the head.
func (g *segment) open() {
	size := g.file.Size()
	front := min(size, 4*pageSize)
	if size <= wholeBytes {
		front = size
	}
	b := make([]byte, front)
	read := func(off int64) {
		if _, err := g.file.ReadAt(b[off:], off); err != nil && err != io.EOF {
			g.err = err
		}
	}
	if read(0); g.err != nil {
		return
	}
	n, err := segmentSizes(b, size)
	if err == nil && n > front {
		b = append(b, make([]byte, n-front)...)
		if read(front); g.err != nil {
			return
		}
	}
	if err == nil {
		g.segmentHead, err = parseSegmentHead(b, size)
	}
	g.err = g.named(err)
}

// named puts the name of a segment into an error about it.
func (g *segment) named(err error) error {
	var corrupt *pack.CorruptError
	if errors.As(err, &corrupt) && corrupt.File == "segment" {
		corrupt.File = g.file.key
	}
	return err
}

// open reads the heads of all segments of a class.
func (c *class) open() {
	c.once.Do(func() {
		inParallel(len(c.segs), func(i int) { c.segs[i].open() })
	})
}

// inParallel calls fn for 0 to n-1, a few at once.
func inParallel(n int, fn func(i int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, farReads)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			fn(i)
			<-slots
		})
	}
	wg.Wait()
}

// quest is a call of Locate.
type quest struct {
	*locator
	ids  []pack.ID
	out  []repo.Located
	skip func(string) bool
}

// Locate returns where objects are, by what is in memory, then by segments, and by the idx
// files of packs that no segment has, or none that can be read. (FarStore)
func (s *Snapshot) Locate(ctx context.Context, ids []pack.ID, skip func(pack string) bool) ([]repo.Located, error) {
	s.index.Do(func() { s.locator = newLocator(s) })
	q := &quest{s.locator, ids, make([]repo.Located, len(ids)), skip}
	todo := make([]int, len(ids))
	for i := range todo {
		todo[i] = i
	}
	todo = q.inMemory(todo)
	for round := 0; round < maxSamples && len(todo) >= sampleMin; round++ {
		more, err := q.sample(ctx, todo)
		if err != nil {
			return nil, err
		}
		todo = q.inMemory(todo)
		if !more {
			break
		}
	}
	todo, err := q.inSegments(ctx, todo)
	if err == nil && len(todo) > 0 {
		err = q.inRest(ctx, todo)
	}
	if err == nil {
		q.promote()
	}
	return q.out, err
}

// inMemory looks ids up in the idx files that are in memory, and returns those that are
// in none.
func (q *quest) inMemory(todo []int) (left []int) {
	q.mu.Lock()
	list := slices.Clone(q.loaded)
	q.mu.Unlock()
	last := -1
	for _, i := range todo {
		if q.out[i].Pack != "" {
			continue
		}
		k, off := q.lookUp(list, last, q.ids[i])
		if k < 0 {
			left = append(left, i)
			continue
		}
		q.out[i], last = repo.Located{Pack: list[k].name, Off: off}, k
	}
	if last > 0 { // what was used last is looked into first, and stays
		q.mu.Lock()
		if k := slices.Index(q.loaded, list[last]); k > 0 {
			x := q.loaded[k]
			copy(q.loaded[1:k+1], q.loaded[:k])
			q.loaded[0] = x
		}
		q.mu.Unlock()
	}
	return left
}

// lookUp looks an id up in idx files in memory, in that with the last hit first.
func (q *quest) lookUp(list []*loadedIdx, last int, id pack.ID) (k int, off int64) {
	try := func(k int) (int64, bool) {
		off, ok, err := list[k].idx.Find(id)
		return off, err == nil && ok && !q.skip(list[k].name)
	}
	if last >= 0 {
		if off, ok := try(last); ok {
			return last, off
		}
	}
	for k := range list {
		if off, ok := try(k); ok && k != last {
			return k, off
		}
	}
	return -1, 0
}

// sample looks a few ids up, and loads the idx files of their packs if they seem to have
// most of the others, too. It reports whether another round may be of use.
func (q *quest) sample(ctx context.Context, todo []int) (more bool, err error) {
	few := make([]int, sampleSize)
	for k := range few {
		few[k] = todo[k*(len(todo)-1)/(sampleSize-1)]
	}
	if _, err := q.inSegments(ctx, few); err != nil {
		return false, err
	}
	count := make(map[string]int)
	for _, i := range few {
		if name := q.out[i].Pack; name != "" {
			count[name]++
		}
	}
	var load []string
	for name, n := range count {
		expected := int64(n) * int64(len(todo)) / sampleSize
		if q.packs[name].Size <= min(expected*pageSize, idxMemory/2) {
			load = append(load, name)
		}
	}
	return q.load(load) > 0, ctx.Err()
}

// promote loads the idx files of packs in which enough was looked up one by one.
func (q *quest) promote() {
	var load []string
	q.mu.Lock()
	for name, n := range q.hits {
		if size := q.packs[name].Size; size <= int64(n)*hitWorth && n > 2 && size <= idxMemory/2 {
			load = append(load, name)
			delete(q.hits, name)
		}
	}
	q.mu.Unlock()
	q.load(load)
}

// load takes idx files into memory, and returns how many of them could be had.
func (l *locator) load(names []string) (n int) {
	var mu sync.Mutex
	inParallel(len(names), func(k int) {
		if x := l.loadIdx(names[k]); x != nil {
			mu.Lock()
			n++
			mu.Unlock()
		}
	})
	return n
}

// loadIdx takes an idx into memory; nil if that is of no use.
func (l *locator) loadIdx(name string) *loadedIdx {
	l.mu.Lock()
	known := l.bad[name] != nil || slices.ContainsFunc(l.loaded, func(x *loadedIdx) bool { return x.name == name })
	l.mu.Unlock()
	if known {
		return nil
	}
	f := l.packs[name]
	b := make([]byte, f.Size)
	_, err := l.s.file(f, blockSize).ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	if err == nil && SumOf(b) != f.SHA256 {
		err = &pack.CorruptError{File: f.Name, Off: -1, Reason: "its SHA-256 is not what the manifest says"}
	}
	x := &loadedIdx{name: name, size: f.Size}
	if err == nil {
		x.idx, err = pack.OpenIdx(f.Name, bytesAt(b), f.Size)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.bad[name] = err
		return nil
	}
	l.loaded = append([]*loadedIdx{x}, l.loaded...)
	for l.bytes += x.size; l.bytes > idxMemory && len(l.loaded) > 1; {
		k := len(l.loaded) - 1
		l.bytes -= l.loaded[k].size
		l.loaded = l.loaded[:k]
	}
	return x
}

// bytesAt is bytes as a file.
type bytesAt []byte

// ReadAt copies bytes at off.
func (b bytesAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// inRest looks ids up in the idx files of packs that no segment covers.
func (q *quest) inRest(ctx context.Context, todo []int) error {
	var names []string
	total := int64(0)
	covered := q.covered()
	for name, f := range q.packs {
		if !covered[name] && !q.skip(name) {
			names = append(names, name)
			total += f.Size
		}
	}
	slices.Sort(names)
	if total <= idxMemory {
		q.load(names)
		q.inMemory(todo)
		return ctx.Err()
	}
	for _, name := range names {
		if len(todo) == 0 {
			break
		}
		x, err := q.wide(name)
		if err != nil {
			return err
		}
		if x == nil {
			continue
		}
		var left []int
		for _, i := range todo {
			off, ok, err := x.Find(q.ids[i])
			if err != nil && !damaged(err) {
				return err
			}
			if !ok || err != nil {
				left = append(left, i)
				continue
			}
			q.out[i] = repo.Located{Pack: name, Off: off}
		}
		todo = left
	}
	return ctx.Err()
}

// wide returns an idx that is read by ranges, nil if it is damaged.
func (l *locator) wide(name string) (*pack.Idx, error) {
	l.mu.Lock()
	x, bad := l.wideOpen[name], l.bad[name]
	l.mu.Unlock()
	if x != nil || bad != nil {
		return x, nil
	}
	f := l.packs[name]
	x, err := pack.OpenIdx(f.Name, l.s.file(f, pageSize), f.Size)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if damaged(err) {
			l.bad[name] = err
			err = nil
		}
		return nil, err
	}
	l.wideOpen[name] = x
	return x, nil
}

// damaged reports whether an error speaks of what is in the bucket and not of the attempt.
func damaged(err error) bool {
	return errors.As(err, new(*pack.CorruptError)) || errors.Is(err, fs.ErrNotExist)
}

// covered returns the packs that are in a segment that can be used.
func (l *locator) covered() map[string]bool {
	all := make(map[string]bool)
	for _, c := range l.list() {
		c.open()
		for _, g := range c.segs {
			if l.badSegment(g) {
				continue
			}
			for _, p := range g.packs {
				all[packName(p.id)] = true
			}
		}
	}
	return all
}

// list returns the classes in the order in which they are looked into.
func (l *locator) list() []*class {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.classes)
}

// badSegment reports whether a segment cannot be used, and notes why.
func (l *locator) badSegment(g *segment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.err != nil {
		l.bad[g.file.file.Name] = g.err
	}
	return l.bad[g.file.file.Name] != nil
}

// Warnings returns which segments and idx files were passed over, and why.
func (s *Snapshot) Warnings() (list []error) {
	s.index.Do(func() { s.locator = newLocator(s) })
	s.locator.mu.Lock()
	defer s.locator.mu.Unlock()
	names := make([]string, 0, len(s.locator.bad))
	for name := range s.locator.bad {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		list = append(list, fmt.Errorf("%s: ignored: %w", name, s.locator.bad[name]))
	}
	return list
}

// packName returns what a pack is called.
func packName(id pack.ID) string { return "pack-" + id.String() }
