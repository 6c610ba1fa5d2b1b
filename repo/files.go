package repo

import (
	"container/list"
	"context"
	"sync"
)

// maxOpenFiles bounds how many pack and idx files are held open at once.
const maxOpenFiles = 128

// files keeps the files of a Store open that were used last. A file that is
// being read stays open until the read is over, even if others push it out.
type files struct {
	store Store

	mu   sync.Mutex
	open map[string]*list.Element // of *openFile
	lru  list.List                // the one used last in front
}

// openFile is a file and how many reads of it are under way.
type openFile struct {
	name    string
	blob    Blob
	reading int
	pushed  bool // out of the table: the last reader closes it
}

// handle is an io.ReaderAt of a file that may be closed and opened again
// between two reads.
type handle struct {
	files *files
	name  string
}

// ReadAt reads at off.
func (h handle) ReadAt(p []byte, off int64) (int, error) {
	f, err := h.files.acquire(h.name)
	if err != nil {
		return 0, err
	}
	n, err := f.blob.ReadAt(p, off)
	h.files.release(f)
	return n, err
}

// prefetch asks for bytes that are read soon, of a Store that can begin to read them.
func (h handle) prefetch(off, n int64) {
	f, err := h.files.acquire(h.name)
	if err != nil {
		return // the read says why
	}
	if disk, ok := f.blob.(interface{ Prefetch(off, n int64) }); ok {
		disk.Prefetch(off, n)
	}
	h.files.release(f)
}

// acquire returns the file open; release must follow.
func (fs *files) acquire(name string) (*openFile, error) {
	fs.mu.Lock()
	if e, ok := fs.open[name]; ok {
		f := e.Value.(*openFile)
		f.reading++
		fs.lru.MoveToFront(e)
		fs.mu.Unlock()
		return f, nil
	}
	fs.mu.Unlock()
	// Reads belong to no one call, and closing a Packs closes what they open.
	blob, err := fs.store.Open(context.Background(), name)
	if err != nil {
		return nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if e, ok := fs.open[name]; ok { // somebody else was as fast
		blob.Close()
		f := e.Value.(*openFile)
		f.reading++
		return f, nil
	}
	f := &openFile{name: name, blob: blob, reading: 1}
	fs.open[name] = fs.lru.PushFront(f)
	for fs.lru.Len() > maxOpenFiles {
		fs.push(fs.lru.Back())
	}
	return f, nil
}

// release ends a read.
func (fs *files) release(f *openFile) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.reading--
	if f.pushed && f.reading == 0 {
		f.blob.Close()
	}
}

// push takes a file out of the table, with fs.mu held.
func (fs *files) push(e *list.Element) {
	f := fs.lru.Remove(e).(*openFile)
	delete(fs.open, f.name)
	f.pushed = true
	if f.reading == 0 {
		f.blob.Close()
	}
}

// forget closes a file that is gone, or all.
func (fs *files) forget(names ...string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, name := range names {
		if e, ok := fs.open[name]; ok {
			fs.push(e)
		}
	}
}

// close closes all files.
func (fs *files) close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for fs.lru.Len() > 0 {
		fs.push(fs.lru.Back())
	}
}
