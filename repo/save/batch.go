package save

import (
	"context"

	"github.com/kedgebackup/kedge/chunk"
	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// A batch is what crosses goroutines: the bytes of many small files or of a part
// of a large one, cut into pieces, and the items that say what the pieces are
// for. The feeder fills it, a worker hashes and deflates it, the sink takes it
// apart in order and gives it back. Its arrays are used again and again.
type batch struct {
	buf    []byte
	pieces []piece
	items  []item

	ids     []pack.ID    // of the pieces
	missing []pack.ID    // of those, what the repository lacks
	enc     []byte       // encoded entries, back to back
	entries []pack.Entry // what is to be added
	sizes   []int        // of the pieces that entries were made of
	err     error
	done    chan struct{} // a token when the worker is done
}

// The bytes of a batch, and how many batches there are. Hand-offs between
// goroutines cost about a microsecond, which is nothing beside a quarter of a
// megabyte; and that much, with what it is encoded to, stays in the cache of
// a core while it is read and cut, and while it is hashed, looked at and encoded:
// a megabyte takes 3 to 5 % more CPU time. Memory is bounded for any number of
// processors, and for the largest chunkers, which need room for two chunks.
const (
	batchSize = 256 << 10
	flightMax = 32 << 20 // all batches together, if that leaves four of them
)

// flight returns the number and the size of batches.
func flight(workers int, s *chunk.Splitter) (n, size int) {
	n = 4*workers + 8
	size = max(min(batchSize, flightMax/n), 2*(s.Max()+s.Min()))
	return max(min(n, flightMax/size), 4), size
}

// A piece is one chunk: buf[off:end].
type piece struct {
	off, end int
	level    uint8
}

type itemKind uint8

const (
	dataItem itemKind = iota + 1 // n pieces of the current file
	zeroItem                     // n chunks of zeros, of the largest size, of the current file
	fileItem                     // the current file is complete
	dropItem                     // the current file or this path could not be read; it was named already
	overItem                     // a file is left out because of its size
	keepItem                     // unchanged: what the index says
	linkItem                     // a further name of an inode that this save has read
	nodeItem                     // a symbolic link (one piece) or a special file (none)
	dirItem                      // a directory, everything below it being done
	goneItem                     // a record of something that is no more
	flowItem                     // the current file is a stream, and complete
)

// An item is one step of building the saved tree.
type item struct {
	kind   itemKind
	racy   bool // may have changed since it was read: not to be marked
	lost   bool // a directory that is not there any more
	n      int64
	src    *source
	ord    uint64 // of rec in the index
	rec    index.Record
	st     fsx.Stat // as found now
	extras []byte
	link   *linked // for the other names of the inode, if there are any
	first  string  // the name of the set of hard links it belongs to
	stream string  // path of a stream
}

// weight is roughly what an item holds besides itself: paths of deep trees are
// long.
func (it *item) weight() int {
	return len(it.rec.Path) + len(it.rec.Target) + len(it.rec.Extras) + len(it.extras) + len(it.first)
}

func newBatch(size int) *batch {
	return &batch{buf: make([]byte, 0, size), done: make(chan struct{}, 1)}
}

func (b *batch) reset() {
	b.buf = b.buf[:0]
	b.pieces = b.pieces[:0]
	clear(b.items)
	b.items = b.items[:0]
	b.err = nil
}

// A worker hashes the pieces of batches and encodes those that the repository lacks.
type worker struct {
	sess repo.Session
	hash *pack.Hasher
	enc  *pack.Encoder
}

// loop works on batches until there are none.
func (w *worker) loop(ctx context.Context, work <-chan *batch) {
	for b := range work {
		b.err = w.run(ctx, b)
		b.done <- struct{}{}
	}
}

func (w *worker) run(ctx context.Context, b *batch) error {
	b.ids, b.missing, b.entries = b.ids[:0], b.missing[:0], b.entries[:0]
	b.enc, b.sizes = b.enc[:0], b.sizes[:0]
	for _, p := range b.pieces {
		id, err := w.hash.Sum(pack.Blob, b.buf[p.off:p.end])
		if err != nil {
			return err
		}
		b.ids = append(b.ids, id)
	}
	if len(b.ids) == 0 {
		return nil
	}
	var err error
	if b.missing, err = w.sess.Missing(ctx, b.missing, b.ids); err != nil {
		return err
	}
	w.encode(b)
	return nil
}

// encode makes the entries of the missing pieces, which stand in the order of
// the pieces. The entries are cut out of enc at the end: it may move as it grows.
func (w *worker) encode(b *batch) {
	next := 0
	for i, p := range b.pieces {
		if next == len(b.missing) {
			break
		}
		if b.ids[i] != b.missing[next] {
			continue
		}
		next++
		from := len(b.enc)
		var crc uint32
		b.enc, crc = w.enc.Append(b.enc, pack.Blob, b.buf[p.off:p.end])
		b.entries = append(b.entries, pack.Entry{ID: b.ids[i], CRC: crc, Bytes: b.enc[from:]})
		b.sizes = append(b.sizes, p.end-p.off)
	}
	cutEntries(b.entries, b.enc)
}

// cutEntries gives entries that were encoded back to back into enc, which has
// moved since, their bytes in it.
func cutEntries(entries []pack.Entry, enc []byte) {
	off := 0
	for i := range entries {
		n := len(entries[i].Bytes)
		entries[i].Bytes = enc[off : off+n : off+n]
		off += n
	}
}
