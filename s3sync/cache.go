package s3sync

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/kedgebackup/kedge/pack"
)

// blockSize is what a pack is read in: small enough that a look at one object does not
// bring much that nobody needs, large enough that browsing takes few requests.
const blockSize = 128 << 10

// maxRun is how much one request brings into the cache.
const maxRun = 4 << 20

// Cache keeps blocks of files that were read last. It is used by several goroutines.
type Cache struct {
	// Disk keeps them for the next process; nil: nothing does.
	Disk *DiskCache

	limit int64 // bytes

	mu     sync.Mutex
	bytes  int64
	blocks map[block]*list.Element // of *cached
	lru    list.List               // the one used last in front
}

type block struct {
	key  string
	step int64 // the same file may be read in blocks of two sizes
	i    int64
}

type cached struct {
	block
	room int64         // what it counts for
	data []byte        // as much as there is
	err  error         // why there is none
	done chan struct{} // closed when data or err is set
}

// NewCache returns a cache of so many bytes in memory, and 2 MiB at least.
func NewCache(bytes int64) *Cache {
	return &Cache{limit: max(16*blockSize, bytes), blocks: make(map[block]*list.Element)}
}

// claim returns a block of at most room bytes, and whether the caller has to fetch it.
func (c *Cache) claim(b block, room int64) (*cached, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.blocks[b]; ok {
		c.lru.MoveToFront(e)
		return e.Value.(*cached), false
	}
	x := &cached{block: b, room: room, done: make(chan struct{})}
	c.blocks[b] = c.lru.PushFront(x)
	for c.bytes += room; c.bytes > c.limit; {
		c.drop(c.lru.Back())
	}
	return x, true
}

// drop forgets a block, with c.mu held. Who waits for it still gets it.
func (c *Cache) drop(e *list.Element) {
	x := c.lru.Remove(e).(*cached)
	c.bytes -= x.room
	delete(c.blocks, x.block)
}

// settle says what became of a block that was claimed. One that could not be had is
// not kept.
func (c *Cache) settle(x *cached, data []byte, err error) {
	x.data, x.err = data, err
	close(x.done)
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.blocks[x.block]; ok && e.Value.(*cached) == x {
		c.drop(e)
	}
}

// remoteFile is a file of a generation that is read through a cache.
type remoteFile struct {
	s     Objects
	cache *Cache
	key   string // whole
	file  File
	step  int64       // bytes of a block
	local io.ReaderAt // a copy that is at hand; nil: there is none
	// sealed decrypts the object; nil: it is not encrypted.
	sealed *sealedFile
	// ahead says how much to read around what is wanted; nil: no more than its blocks.
	ahead *ahead
}

// Size returns the size of the file as the manifest has it.
func (f *remoteFile) Size() int64 { return f.file.Size }

// Close does nothing.
func (f *remoteFile) Close() error { return nil }

// directRead is from where on a read of a pack goes past the cache: whoever reads so much
// at once does not read it again.
const directRead = 1 << 20

// ReadAt reads len(p) bytes at off.
func (f *remoteFile) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off > f.file.Size {
		return 0, io.EOF
	}
	if rest := f.file.Size - off; int64(len(p)) > rest {
		p, err = p[:rest], io.EOF
	}
	if len(p) == 0 {
		return 0, err
	}
	if f.local != nil {
		return f.local.ReadAt(p, off)
	}
	if f.sealed != nil {
		n, serr := f.sealed.ReadAt(p, off)
		if serr != nil {
			return n, serr
		}
		return n, err
	}
	if f.ahead != nil && len(p) >= directRead {
		if n, gerr := f.get(p, off); gerr != nil {
			return n, gerr
		}
		return len(p), err
	}
	for n < len(p) {
		k, cerr := f.copy(p[n:], off+int64(n))
		if n += k; cerr != nil {
			return n, cerr
		}
	}
	return n, err
}

// lostError says that a file is not there that the manifest names. Readers take it for a
// file that is gone and for damage.
type lostError struct{ pack.CorruptError }

func lostFile(key string) error {
	return &lostError{pack.CorruptError{File: key, Off: -1, Reason: "the manifest names it and it is not there"}}
}

// Is reports whether it is fs.ErrNotExist, too.
func (e *lostError) Is(target error) bool { return target == fs.ErrNotExist }

// Unwrap returns what is damaged.
func (e *lostError) Unwrap() error { return &e.CorruptError }

// get reads len(p) bytes, no fewer, from the store.
func (f *remoteFile) get(p []byte, off int64) (int, error) {
	n, err := f.s.Get(context.Background(), f.key, f.file.Version, p, off)
	switch {
	case n == len(p):
		return n, nil
	case errors.Is(err, fs.ErrNotExist):
		return 0, lostFile(f.key)
	case err == nil, err == io.EOF:
		return n, &pack.CorruptError{File: f.key, Off: off + int64(n), Reason: fmt.Sprintf("it ends here, and has %d bytes in the manifest", f.file.Size)}
	}
	return n, err
}

// copy copies what one run of blocks has of p.
func (f *remoteFile) copy(p []byte, off int64) (n int, err error) {
	first, last := off/f.step, (off+int64(len(p))-1)/f.step
	x, mine := f.cache.claim(block{f.key, f.step, first}, f.step)
	if !mine {
		<-x.done
		if x.err != nil {
			return 0, x.err
		}
		return copy(p, x.data[off-first*f.step:]), nil
	}
	run, at := f.claimRun(x, first, last)
	f.fill(run)
	for _, y := range run[at:] {
		if y.err != nil {
			return n, y.err
		}
		if n == len(p) {
			break
		}
		n += copy(p[n:], y.data[off+int64(n)-y.i*f.step:])
	}
	return n, nil
}

// claimRun claims blocks that stand together around x, which is run[at] and was claimed: up
// to last, and what is to be read ahead. The first that is there or on its way ends it.
func (f *remoteFile) claimRun(x *cached, first, last int64) (run []*cached, at int) {
	lo, hi := first, last
	if f.ahead != nil {
		lo, hi = f.ahead.around(first, last)
	}
	hi = min(hi, first+maxRun/f.step-1, (f.file.Size-1)/f.step)
	for i := first - 1; i >= lo; i-- {
		y, mine := f.cache.claim(block{f.key, f.step, i}, f.step)
		if !mine {
			break
		}
		run = append([]*cached{y}, run...)
	}
	at = len(run)
	run = append(run, x)
	for i := first + 1; i <= hi; i++ {
		y, mine := f.cache.claim(block{f.key, f.step, i}, f.step)
		if !mine {
			break
		}
		run = append(run, y)
	}
	return run, at
}

// fill gets the blocks of a run: from the disk, else from the store, those that stand
// together with one request.
func (f *remoteFile) fill(run []*cached) {
	var left []*cached
	for _, x := range run {
		if data, ok := f.cache.Disk.get(f.file.SHA256, f.step, x.i, f.lengthOf(x.i)); ok {
			f.cache.settle(x, data, nil)
			continue
		}
		if k := len(left); k > 0 && left[k-1].i+1 != x.i {
			f.fetch(left)
			left = nil
		}
		left = append(left, x)
	}
	f.fetch(left)
}

// lengthOf returns how long a block is.
func (f *remoteFile) lengthOf(i int64) int { return int(min(f.step, f.file.Size-i*f.step)) }

// fetch gets blocks that stand together with one request.
func (f *remoteFile) fetch(run []*cached) {
	if len(run) == 0 {
		return
	}
	from, last := run[0].i*f.step, run[len(run)-1].i
	buf := make([]byte, last*f.step+int64(f.lengthOf(last))-from)
	_, err := f.get(buf, from)
	for _, x := range run {
		if err != nil {
			f.cache.settle(x, nil, err)
			continue
		}
		data := buf[x.i*f.step-from:][:f.lengthOf(x.i)]
		f.cache.Disk.put(f.file.SHA256, f.step, x.i, data)
		if len(run) > 1 { // a block that stays must not keep the others of its request
			data = append(make([]byte, 0, len(data)), data...)
		}
		f.cache.settle(x, data, nil)
	}
}

// extent is the stretch of a file within which ahead counts.
const extent = maxRun / blockSize

// ahead decides how much of a pack is read around a block that is wanted. The trees of one
// save lie together, but a walk meets them neither forwards nor backwards; so it is the
// number of misses within an extent that tells whether the rest of it will be wanted.
type ahead struct {
	mu     sync.Mutex
	misses map[int64]uint8 // by extent
}

// around returns the blocks to read where first to last are wanted: these for the first
// miss in their extent, then four, 16, and all of the extent that stand around them.
func (a *ahead) around(first, last int64) (lo, hi int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.misses == nil {
		a.misses = make(map[int64]uint8)
	}
	m := a.misses[first/extent]
	a.misses[first/extent] = min(m+1, 3)
	around := min(int64(1)<<(2*m), extent)
	lo = first &^ (around - 1)
	return lo, max(last, lo+around-1)
}
