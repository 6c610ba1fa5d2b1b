package remote

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
)

// cache is a directory of idx files of a server's packs:
//
//	CACHE/<32 digits>/pack-<id>.idx
//
// The digits stand for the repository's id and for whom the server takes the client:
// what one key may see another must not find. The files say that an object is
// present only as long as the server promises to keep their packs, and only for
// packs that it calls closed (I9); so a session uses those that its Begin lists and
// no others.
//
// All of it can be lost, torn or out of date at any time. A file is written under
// another name and renamed, but not synced; before it says of anything that it is
// there, its length is compared with what the server says and its checksum with its
// bytes. What fails is removed and fetched again. Several processes may use a
// directory at once: files of one name have the same bytes, and one that another
// process removes is only asked for again.
type cache struct {
	fs  *fsx.FS
	dir string

	mu    sync.Mutex
	open  map[string]*opened // by path
	clock int64
}

// cacheFiles is how many idx files are open at once, whatever the number of packs.
const cacheFiles = 64

// strayAge is how long a file that the server does not list is left alone: another
// process may have fetched it for a pack that is newer than our list.
const strayAge = time.Hour

const (
	idxPrefix = "pack-"
	idxSuffix = ".idx"
)

// newCache returns the cache of a repository. where stands for the id of one that
// has none.
func newCache(files *fsx.FS, root, where string, info wire.Info) *cache {
	id := info.Config.ID
	if id == "" {
		id = where
	}
	sum := sha256.Sum256([]byte(id + "\x00" + info.Principal))
	return &cache{fs: files, dir: filepath.Join(root, hex.EncodeToString(sum[:16])), open: make(map[string]*opened)}
}

// idxName returns the name of the idx of a pack.
func idxName(pack pack.ID) string { return idxPrefix + pack.String() + idxSuffix }

func (c *cache) path(pack pack.ID) string { return filepath.Join(c.dir, idxName(pack)) }

// load returns the idx files that there are for a list of packs, and removes those of
// other packs.
func (c *cache) load(packs []wire.PackInfo) (have []*cachedIdx) {
	list, err := c.fs.ReadDir(c.dir)
	if err != nil {
		return nil
	}
	there := make(map[string]bool, len(list))
	for _, e := range list {
		there[e.Name()] = true
	}
	for i := range packs {
		name := idxName(packs[i].Name)
		if !there[name] || !packs[i].Closed {
			continue
		}
		delete(there, name)
		if x, err := c.openIdx(packs[i]); err == nil {
			have = append(have, x)
		}
	}
	for i := range packs {
		delete(there, idxName(packs[i].Name))
	}
	c.sweep(there)
	return have
}

// sweep removes old files that nobody lists.
func (c *cache) sweep(names map[string]bool) {
	for name := range names {
		if !strings.HasPrefix(name, idxPrefix) && !fsx.IsTempName(name) {
			continue // not ours
		}
		file := filepath.Join(c.dir, name)
		if info, err := c.fs.Lstat(file); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > strayAge {
			_ = c.fs.Remove(file)
		}
	}
}

// openIdx opens the idx of a pack. One that does not fit what the server says of it
// is removed.
func (c *cache) openIdx(p wire.PackInfo) (*cachedIdx, error) {
	x := &cachedIdx{pack: p, cache: c, path: c.path(p.Name)}
	info, err := c.fs.Lstat(x.path)
	if err != nil {
		return nil, err
	}
	if info.Size() != p.IdxSize || !info.Mode().IsRegular() {
		x.drop()
		return nil, errTorn
	}
	if x.idx, err = pack.OpenIdx(x.path, x, p.IdxSize); err != nil {
		x.drop()
		return nil, err
	}
	return x, nil
}

// close closes all files.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, o := range c.open {
		c.release(path, o)
	}
}

var errTorn = errors.New("the idx has another length than the server says")

// opened is an open file.
type opened struct {
	*fsx.File
	users int
	used  int64 // when, by cache.clock
	gone  bool  // not in cache.open any more: the last user closes it
}

// take returns an open file; give gives it back.
func (c *cache) take(path string) (*opened, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.open[path]
	if o == nil {
		f, err := c.fs.Open(path)
		if err != nil {
			return nil, err
		}
		o = &opened{File: f}
		c.open[path] = o
		c.trim()
	}
	c.clock++
	o.used = c.clock
	o.users++
	return o, nil
}

func (c *cache) give(o *opened) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.users--; o.gone && o.users == 0 {
		_ = o.Close()
	}
}

// trim closes the file that was not used for longest, if too many are open, with
// c.mu held.
func (c *cache) trim() {
	if len(c.open) <= cacheFiles {
		return
	}
	var oldest string
	for path, o := range c.open {
		if o.users == 0 && o.used > 0 && (oldest == "" || o.used < c.open[oldest].used) {
			oldest = path
		}
	}
	if oldest != "" {
		c.release(oldest, c.open[oldest])
	}
}

// forget closes a file that was removed or replaced.
func (c *cache) forget(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.open[path]; o != nil {
		c.release(path, o)
	}
}

// release takes a file out of c.open, with c.mu held.
func (c *cache) release(path string, o *opened) {
	delete(c.open, path)
	if o.gone = true; o.users == 0 {
		_ = o.Close()
	}
}

// cachedIdx is the idx of a closed pack that the server promises to keep.
type cachedIdx struct {
	pack  wire.PackInfo
	cache *cache
	path  string
	idx   *pack.Idx

	checked  atomic.Bool // its checksum is right
	filtered atomic.Bool
	mu       sync.Mutex // for one check at a time
	bad      atomic.Bool
}

// ReadAt reads from the file, which is opened for it if it is not open.
func (x *cachedIdx) ReadAt(p []byte, off int64) (int, error) {
	o, err := x.cache.take(x.path)
	if err != nil {
		return 0, err
	}
	defer x.cache.give(o)
	return o.ReadAt(p, off)
}

// has reports whether the pack has an object. A hit counts only after the checksum
// of the file was compared: it is an answer on which a save relies. An error says
// that the idx is of no use.
func (x *cachedIdx) has(id pack.ID) (bool, error) {
	_, ok, err := x.idx.Place(id)
	if err == nil && ok {
		err = x.check()
	}
	return ok && err == nil, err
}

// check compares the checksum, once.
func (x *cachedIdx) check() error {
	if x.checked.Load() {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.checked.Load() {
		return nil
	}
	if err := x.idx.CheckSum(); err != nil {
		return err
	}
	x.checked.Store(true)
	return nil
}

// filter checks the file and makes most look-ups that find nothing a matter of memory:
// ten bits for each object.
func (x *cachedIdx) filter() error {
	if x.filtered.Load() {
		return nil
	}
	if err := x.check(); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.filtered.Load() {
		return nil
	}
	if err := x.idx.BuildFilter(); err != nil {
		return err
	}
	x.filtered.Store(true)
	return nil
}

// drop removes the file.
func (x *cachedIdx) drop() {
	x.bad.Store(true)
	_ = x.cache.fs.Remove(x.path)
	x.cache.forget(x.path)
}

// view is what a session may believe of the packs that it was promised. It is never
// changed, only replaced.
type view struct {
	idx []*cachedIdx
	// whole says that every promised pack is among idx: what is in none of them
	// is missing, and nobody need be asked.
	whole bool
}

// find takes off ids what is present, appends the rest to dst, and returns those
// idx files that turned out to be of no use.
func (v *view) find(dst, ids []pack.ID, filtered bool) (_ []pack.ID, bad []*cachedIdx) {
	list := v.idx
	if filtered {
		list = slices.Clone(list)
		list = slices.DeleteFunc(list, func(x *cachedIdx) bool {
			if x.filter() == nil {
				return false
			}
			bad = append(bad, x)
			return true
		})
	}
	last := 0 // where the one before was found: the chunks of a file are neighbours
	for _, id := range ids {
		found := false
		for k := 0; k < len(list) && !found; k++ {
			i := k
			if k == 0 {
				i = last
			} else if k <= last {
				i = k - 1
			}
			x := list[i]
			if x.bad.Load() {
				continue
			}
			var err error
			if found, err = x.has(id); err != nil {
				x.bad.Store(true)
				bad = append(bad, x)
			} else if found {
				last = i
			}
		}
		if !found {
			dst = append(dst, id)
		}
	}
	return dst, bad
}

// incoming is an idx that is being fetched.
type incoming struct {
	c    *cache
	pack wire.PackInfo
	path string
	f    *fsx.File
}

// create begins the file of an idx.
func (c *cache) create(p wire.PackInfo) (*incoming, error) {
	if err := c.fs.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	in := &incoming{c: c, pack: p, path: filepath.Join(c.dir, fsx.TempName())}
	f, err := c.fs.Create(in.path, 0o600)
	if err != nil {
		return nil, err
	}
	in.f = f
	return in, nil
}

// abort throws the file away.
func (in *incoming) abort() {
	_ = in.f.Close()
	_ = in.c.fs.Remove(in.path)
}

// finish reads all of the file once, and gives it its name if it is right.
func (in *incoming) finish() (*cachedIdx, error) {
	x, err := pack.OpenIdx(in.path, in.f, in.pack.IdxSize)
	if err == nil {
		err = x.Verify(in.pack.Size)
	}
	if err != nil {
		in.abort()
		return nil, err
	}
	if err := in.f.Close(); err != nil {
		_ = in.c.fs.Remove(in.path)
		return nil, err
	}
	path := in.c.path(in.pack.Name)
	if err := in.c.fs.Rename(in.path, path); err != nil {
		_ = in.c.fs.Remove(in.path)
		return nil, err
	}
	in.c.forget(path)
	got, err := in.c.openIdx(in.pack)
	if err == nil {
		got.checked.Store(true)
	}
	return got, err
}
