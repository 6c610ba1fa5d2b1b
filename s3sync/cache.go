package s3sync

import (
	"container/list"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
)

// blockSize is what a file is read in: small enough that a look-up in an index does not
// bring much that nobody needs, large enough that browsing takes few requests.
const blockSize = 128 << 10

// Cache keeps blocks of objects that were read last. It is used by several goroutines.
type Cache struct {
	limit int // blocks

	mu     sync.Mutex
	blocks map[block]*list.Element // of *cached
	lru    list.List               // the one used last in front
}

type block struct {
	key string
	i   int64
}

type cached struct {
	block
	data []byte        // as much as there is; fewer than blockSize only at the end
	err  error         // why there is none
	done chan struct{} // closed when data or err is set
}

// NewCache returns a cache of at most so many bytes.
func NewCache(bytes int64) *Cache {
	return &Cache{limit: int(max(16, bytes/blockSize)), blocks: make(map[block]*list.Element)}
}

// claim returns a block, and whether the caller has to fetch it.
func (c *Cache) claim(b block) (*cached, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.blocks[b]; ok {
		c.lru.MoveToFront(e)
		return e.Value.(*cached), false
	}
	x := &cached{block: b, done: make(chan struct{})}
	c.blocks[b] = c.lru.PushFront(x)
	for c.lru.Len() > c.limit {
		last := c.lru.Back()
		c.lru.Remove(last)
		delete(c.blocks, last.Value.(*cached).block)
	}
	return x, true
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
		c.lru.Remove(e)
		delete(c.blocks, x.block)
	}
}

// remoteFile is an object that is read through a cache.
type remoteFile struct {
	s            Objects
	cache        *Cache
	key, version string
	size         int64
}

// Size returns the size of the file as the manifest has it.
func (f *remoteFile) Size() int64 { return f.size }

// Close does nothing.
func (f *remoteFile) Close() error { return nil }

// directRead is from where on a read goes past the cache: whoever reads so much at once
// does not read it again.
const directRead = 1 << 20

// ReadAt reads len(p) bytes at off.
func (f *remoteFile) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off > f.size {
		return 0, io.EOF
	}
	if rest := f.size - off; int64(len(p)) > rest {
		p, err = p[:rest], io.EOF
	}
	if len(p) == 0 {
		return 0, err
	}
	if len(p) >= directRead {
		n, gerr := f.s.Get(context.Background(), f.key, f.version, p, off)
		if n < len(p) && (gerr == nil || gerr == io.EOF) {
			gerr = errShortObject
		}
		if gerr != nil && n < len(p) {
			return n, gerr
		}
		return n, err
	}
	for n < len(p) {
		k, cerr := f.copy(p[n:], off+int64(n))
		if n += k; cerr != nil {
			return n, cerr
		}
	}
	return n, err
}

var errShortObject = errors.New("the object is shorter than its manifest says")

// copy copies what one run of blocks has of p. Blocks that stand together and are not in
// the cache are fetched with one request.
func (f *remoteFile) copy(p []byte, off int64) (int, error) {
	first, last := off/blockSize, (off+int64(len(p))-1)/blockSize
	x, mine := f.cache.claim(block{f.key, first})
	if !mine {
		<-x.done
		if x.err != nil {
			return 0, x.err
		}
		return copy(p, x.data[off-first*blockSize:]), nil
	}
	run := []*cached{x}
	for i := first + 1; i <= last; i++ {
		next, mine := f.cache.claim(block{f.key, i})
		if !mine {
			break
		}
		run = append(run, next)
	}
	at := first * blockSize
	buf := make([]byte, min(int64(len(run))*blockSize, f.size-at))
	n, err := f.s.Get(context.Background(), f.key, f.version, buf, at)
	if n < len(buf) && (err == nil || err == io.EOF) {
		err = errShortObject
	}
	if n == len(buf) {
		err = nil
	}
	for i, x := range run {
		if err != nil {
			f.cache.settle(x, nil, err)
			continue
		}
		lo := i * blockSize
		// A copy: a block that stays must not keep the others of its request.
		f.cache.settle(x, slices.Clone(buf[lo:min(lo+blockSize, len(buf))]), nil)
	}
	if err != nil {
		return 0, err
	}
	return copy(p, buf[off-at:]), nil
}
