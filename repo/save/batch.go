package save

import (
	"context"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// batchSize is the least capacity of a batch's buffer. Hand-offs between
// goroutines cost about a microsecond; a megabyte makes that nothing, and a few
// batches in flight still fit the cache.
const batchSize = 1 << 20

// A batch is what crosses goroutines: up to batchSize bytes of many small files
// or of a part of a large one, cut into pieces, and the items that say what the
// pieces are for. The feeder fills it, a worker hashes and deflates it, the sink
// takes it apart in order and gives it back.
type batch struct {
	buf    []byte
	pieces []piece
	items  []item

	ids     []pack.ID    // of the pieces
	missing []pack.ID    // of those, what the repository lacks
	enc     []byte       // encoded entries, back to back
	entries []pack.Entry // what is to be added
	fresh   int64        // bytes of the pieces that are to be added
	err     error
	done    chan struct{} // a token when the worker is done
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
	dropItem                     // the current file or this path is left out: it was named already
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
	n      int64
	src    *source
	ord    uint64 // of rec in the index
	rec    index.Record
	st     fsx.Stat // as found now
	extras []byte
	link   *inode // the set of hard links it belongs to
	stream string // path of a stream
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

func (w *worker) run(ctx context.Context, b *batch) error {
	b.ids, b.missing, b.entries = b.ids[:0], b.missing[:0], b.entries[:0]
	b.enc, b.fresh = b.enc[:0], 0
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
		b.fresh += int64(p.end - p.off)
	}
	off := 0
	for i := range b.entries {
		n := len(b.entries[i].Bytes)
		b.entries[i].Bytes = b.enc[off : off+n : off+n]
		off += n
	}
}
