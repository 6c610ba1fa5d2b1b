package restore

import (
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// The size of a window. Four are held at a time: one is gathered, one waits, of
// one the objects are fetched, one is worked on.
const (
	windowReads   = 16 << 10
	windowBytes   = 64 << 20
	windowFolders = 128
	windowLarge   = 512 // files of several chunks, which stay open until the last one
)

// window is work that is done together.
type window struct {
	reads []read
	ids   []pack.ID // of the reads; reads of one id that stand together share one
	first []int32   // the first read of each id
	ready []*file   // files without a byte
	nodes []*item   // devices, FIFOs, sockets
	later []*file   // files that are further names of others
	left  []*folder // complete but for what is in this window; children before parents

	bytes   int64
	large   int
	folders int
	last    *folder // that was counted in folders last

	writing sync.WaitGroup // files that workers have
	there   chan error     // told when all files are written, or why not
}

// read is one chunk of a file.
type read struct {
	f    *file
	off  int64
	size int64 // -1: not known
}

// unknownSize is what an object of unknown size is taken for when windows are
// measured, and maxObject the most that a recorded size is believed.
const (
	unknownSize = 32 << 10
	maxObject   = 64 << 20
)

func (w *window) add(f *file, id pack.ID, off, size int64) {
	if n := len(w.ids); n == 0 || w.ids[n-1] != id {
		w.ids = append(w.ids, id)
		w.first = append(w.first, int32(len(w.reads)))
		if size < 0 {
			w.bytes += unknownSize
		} else {
			w.bytes += min(size, maxObject)
		}
	}
	w.reads = append(w.reads, read{f, off, size})
}

func (w *window) count(f *folder) {
	if w.last != f {
		w.last = f
		w.folders++
	}
}

func (w *window) full() bool {
	return len(w.reads)+len(w.ready)+len(w.nodes)+len(w.later) >= windowReads || w.bytes >= windowBytes ||
		w.large >= windowLarge || w.folders >= windowFolders
}

// readsOf returns the reads of id i.
func (w *window) readsOf(i int) []read {
	end := len(w.reads)
	if i+1 < len(w.first) {
		end = int(w.first[i+1])
	}
	return w.reads[w.first[i]:end]
}

// batch gathers windows.
type batch struct {
	r     *run
	w     *window
	flush func(*window) error
}

// window returns the current window; it is never full.
func (b *batch) window() *window {
	if b.w == nil {
		b.w = new(window)
	}
	return b.w
}

// end hands the current window on.
func (b *batch) end() error {
	w := b.w
	if w == nil {
		return nil
	}
	b.w = nil
	return b.flush(w)
}

func (b *batch) endIfFull() error {
	if b.w != nil && b.w.full() {
		return b.end()
	}
	return nil
}

// add adds all chunks of a file, which may take many windows. An error is one
// that stops the run; others are the file's.
func (b *batch) add(f *file) error {
	f.f.pins.Add(1)
	w := b.window()
	w.count(f.f)
	switch {
	case f.chunked:
		return b.addChunks(f)
	case f.id == emptyBlob:
		w.ready = append(w.ready, f)
	default:
		w.add(f, f.id, 0, f.meta.Size)
	}
	return b.endIfFull()
}

// emptyBlob is the id of a file without a byte, which need not be asked for.
var emptyBlob = pack.Sum(pack.Blob, nil)

func (b *batch) addChunks(f *file) error {
	f.left.Store(1)
	f.holds.Store(1)
	b.window().large++
	in := b.w
	err := repo.OpenFile(b.r.ctx, b.r.Repo, f.id, true).Chunks(0, func(c repo.Chunk) error {
		if c.Size >= 0 {
			f.grow(c.Off + c.Size)
			if b.r.isHole(c.ID, c.Size) {
				return nil
			}
		}
		w := b.window()
		if in != w { // the file goes on in a new window
			in = w
			w.large++
			w.count(f.f)
		}
		f.left.Add(1)
		w.add(f, c.ID, c.Off, c.Size)
		return b.endIfFull()
	})
	if err != nil && (b.r.ctx.Err() != nil || !damage(err)) {
		return err
	}
	if err != nil {
		f.fail(b.r, asObject(f.saved(), err))
	}
	f.release(b.r)
	return b.endIfFull()
}

// addLater adds a file that is to be linked to another one.
func (b *batch) addLater(f *file) error {
	f.f.pins.Add(1)
	w := b.window()
	w.count(f.f)
	w.later = append(w.later, f)
	return b.endIfFull()
}

// addNode adds a device, FIFO or socket.
func (b *batch) addNode(it *item) error {
	it.f.pins.Add(1)
	w := b.window()
	w.count(it.f)
	w.nodes = append(w.nodes, it)
	return b.endIfFull()
}

// leave adds a folder of which all is in this window or earlier ones.
func (b *batch) leave(f *folder) error {
	w := b.window()
	w.left = append(w.left, f)
	w.folders++
	return b.endIfFull()
}
