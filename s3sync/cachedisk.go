package s3sync

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// DiskCache keeps blocks of files of mirrors in a directory:
//
//	DIR/<32 digits of the file's SHA-256>-<KiB of a block>-<number of the block>
//
// Each file is the bytes of the block and the SHA-256 of its name and these bytes. What
// does not fit that is no cache entry, so it can be torn, exchanged, lost or written by
// several processes at any time: a file is written under another name and renamed, and
// never synced. When there is too much, what was written first goes first.
//
// A nil DiskCache keeps nothing.
type DiskCache struct {
	FS    *fsx.FS
	Dir   string // made if it is not there
	Limit int64  // bytes; 0: 1 GiB

	mu      sync.Mutex
	written int64 // since the last sweep
	begun   bool
	full    bool // a write failed: nothing more is written
}

// sweepEvery is how much is written before the size of the directory is looked at again.
const sweepEvery = 64 << 20

// strayAge is how old a file has to be that no process writes any more.
const strayAge = time.Hour

func entryName(file Sum, step, i int64) string {
	return fmt.Sprintf("%s-%d-%d", file.String()[:32], step>>10, i)
}

// sumEntry is what stands behind the bytes of a block.
func sumEntry(name string, data []byte) Sum {
	h := sha256.New()
	h.Write([]byte(name))
	h.Write(data)
	return Sum(h.Sum(nil))
}

// get returns a block of n bytes.
func (d *DiskCache) get(file Sum, step, i int64, n int) ([]byte, bool) {
	if d == nil || d.Dir == "" {
		return nil, false
	}
	name := entryName(file, step, i)
	b, err := d.FS.ReadFile(filepath.Join(d.Dir, name), int64(n+len(Sum{})))
	if err != nil || len(b) != n+len(Sum{}) || sumEntry(name, b[:n]) != Sum(b[n:]) {
		return nil, false
	}
	return b[:n:n], true
}

// put keeps a block.
func (d *DiskCache) put(file Sum, step, i int64, data []byte) {
	if d == nil || d.Dir == "" || !d.room(int64(len(data))) {
		return
	}
	name := entryName(file, step, i)
	sum := sumEntry(name, data)
	temp := filepath.Join(d.Dir, fsx.TempName())
	f, err := d.FS.Create(temp, 0o600)
	if err == nil {
		_, err = f.Write(data)
		if err == nil {
			_, err = f.Write(sum[:])
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = d.FS.Rename(temp, filepath.Join(d.Dir, name))
		}
		if err != nil {
			_ = d.FS.Remove(temp)
		}
	}
	if err != nil {
		d.mu.Lock()
		d.full = true // the disk, most likely: the cache is not what it is needed for
		d.mu.Unlock()
	}
}

// room reports whether a block may be written, and makes room for it now and then.
func (d *DiskCache) room(n int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return false
	}
	if d.written += n; d.begun && d.written < min(sweepEvery, d.limit()/8) {
		return true
	}
	if !d.begun && d.FS.MkdirAll(d.Dir, 0o700) != nil {
		d.full = true
		return false
	}
	d.begun, d.written = true, n
	d.sweep()
	return true
}

func (d *DiskCache) limit() int64 {
	if d.Limit == 0 {
		return 1 << 30
	}
	return d.Limit
}

// sweep removes the oldest entries until an eighth of the limit is free, and what dead
// processes left. It looks at no file that it did not name.
func (d *DiskCache) sweep() {
	list, err := d.FS.ReadDir(d.Dir)
	if err != nil {
		return
	}
	type entry struct {
		name string
		size int64
		at   time.Time
	}
	var all []entry
	total := int64(0)
	for _, e := range list {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		switch {
		case fsx.IsTempName(e.Name()):
			if time.Since(info.ModTime()) > strayAge {
				_ = d.FS.Remove(filepath.Join(d.Dir, e.Name()))
			}
		case strings.Count(e.Name(), "-") == 2:
			all = append(all, entry{e.Name(), info.Size(), info.ModTime()})
			total += info.Size()
		}
	}
	if total <= d.limit()-d.limit()/8 {
		return
	}
	slices.SortFunc(all, func(a, b entry) int { return a.at.Compare(b.at) })
	for _, e := range all {
		if total <= d.limit()*3/4 {
			break
		}
		if d.FS.Remove(filepath.Join(d.Dir, e.name)) == nil {
			total -= e.size
		}
	}
}
