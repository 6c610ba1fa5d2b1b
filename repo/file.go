package repo

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"

	"github.com/kedgebackup/kedge/pack"
)

// File reads the content of a saved file. Its methods may be called by several
// goroutines at once. All reading is bounded by the context of OpenFile.
//
// Every chunk was compared with its id by the Repo; File compares its place:
// chunks that overlap, leave gaps or are longer or shorter than the names of
// their tree say are a *pack.CorruptError.
type File struct {
	ctx     context.Context
	r       Repo
	id      pack.ID
	chunked bool

	mu   sync.Mutex
	path chunkPath
	size int64 // -1: not known yet
}

// OpenFile returns the content that an entry of a saved directory stands for: a
// blob, or with chunked a tree of chunks. Nothing is read yet.
func OpenFile(ctx context.Context, r Repo, id pack.ID, chunked bool) *File {
	return &File{ctx: ctx, r: r, id: id, chunked: chunked, size: -1}
}

// Chunks calls fn for each chunk from the one that holds offset off on.
func (f *File) Chunks(off int64, fn func(Chunk) error) error {
	var w chunkWalk
	if err := f.walk(&w, off); err != nil {
		return err
	}
	for {
		c, ok, err := w.next(f.ctx)
		if err != nil || !ok {
			return err
		}
		if err := fn(c); err != nil {
			return err
		}
	}
}

// walk begins a walk at the chunk that holds off.
func (f *File) walk(w *chunkWalk, off int64) error {
	w.r = f.r
	if !f.chunked {
		w.stack = append(w.stack[:0], chunkNode{refs: []chunkRef{{id: f.id}}, end: -1})
		return nil
	}
	if off > 0 { // a walk from the beginning needs no second look at its path
		f.mu.Lock()
		defer f.mu.Unlock()
		return w.start(f.ctx, f.id, off, &f.path)
	}
	return w.start(f.ctx, f.id, off, nil)
}

// Size returns the number of bytes: it follows the last names of the trees and
// gets the last chunk.
func (f *File) Size() (int64, error) {
	f.mu.Lock()
	size := f.size
	f.mu.Unlock()
	if size >= 0 {
		return size, nil
	}
	var w chunkWalk
	if err := f.walk(&w, math.MaxInt64); err != nil {
		return 0, err
	}
	c, _, err := w.next(f.ctx)
	if err != nil {
		return 0, err
	}
	err = getTyped(f.ctx, f.r, c.ID, pack.Blob, func(body []byte) error {
		size = c.Off + int64(len(body))
		return f.fits(c, body)
	})
	if err != nil {
		return 0, err
	}
	f.mu.Lock()
	f.size = size
	f.mu.Unlock()
	return size, nil
}

// fits says why body cannot be the chunk c, or nil.
func (f *File) fits(c Chunk, body []byte) error {
	switch {
	case c.Size >= 0 && int64(len(body)) != c.Size:
		return corruptTree(f.id, "chunk %v at %#x has %d bytes, not %d", c.ID, c.Off, len(body), c.Size)
	case len(body) == 0 && f.chunked:
		return corruptTree(f.id, "chunk %v at %#x is empty", c.ID, c.Off)
	case int64(len(body)) > math.MaxInt64-c.Off:
		return corruptTree(f.id, "file has more than 2^63-1 bytes")
	}
	return nil
}

// The most that is asked for with one Get.
const (
	batchBytes  = 2 << 20
	batchChunks = 512
)

// chunkBatch is a run of chunks that are got together.
type chunkBatch struct {
	chunks []Chunk
	ids    []pack.ID // each once, if its repetitions stand together, as those of holes do
	which  []int     // for each chunk its place in ids
	bodies [][]byte  // for each id
	buf    []byte    // holds those bodies whose size was known, but for huge ones
	err    error
}

// fill takes the next chunks off a walk, up to the one that begins at end or behind
// it, and gets them.
func (b *chunkBatch) fill(f *File, w *chunkWalk, end int64) {
	var first []Chunk // for each id
	if first, b.err = b.take(f.ctx, w, end); b.err != nil || len(first) == 0 {
		return
	}
	b.err = f.r.Get(f.ctx, b.ids, func(i int, t pack.Type, body []byte) error {
		c := first[i]
		if t != pack.Blob {
			return wrongType(c.ID, t, pack.Blob)
		}
		if err := f.fits(c, body); err != nil {
			return err
		}
		b.bodies[i] = append(b.bodies[i][:0], body...)
		return nil
	})
	for i, c := range b.chunks {
		if b.err == nil {
			b.err = f.fits(c, b.bodies[b.which[i]])
		}
	}
}

// take collects chunks up to the size of a batch, and makes room for them. It
// returns those that brought a new id.
func (b *chunkBatch) take(ctx context.Context, w *chunkWalk, end int64) (first []Chunk, err error) {
	b.chunks, b.ids, b.which, b.bodies = b.chunks[:0], b.ids[:0], b.which[:0], b.bodies[:0]
	sum := int64(0)
	for len(b.chunks) < batchChunks && sum < batchBytes {
		c, ok, err := w.next(ctx)
		if err != nil {
			return nil, err
		}
		if !ok || c.Off >= end {
			w.stack = w.stack[:0]
			break
		}
		if n := len(b.ids); n == 0 || b.ids[n-1] != c.ID {
			b.ids = append(b.ids, c.ID)
			first = append(first, c)
			if inBuffer(c) {
				sum += c.Size
			}
		}
		b.chunks = append(b.chunks, c)
		b.which = append(b.which, len(b.ids)-1)
	}
	if int64(cap(b.buf)) < sum {
		b.buf = make([]byte, sum)
	}
	room := b.buf[:cap(b.buf)]
	for _, c := range first {
		var place []byte
		if inBuffer(c) {
			place, room = room[:0:c.Size], room[c.Size:]
		}
		b.bodies = append(b.bodies, place)
	}
	return first, nil
}

// inBuffer reports whether room is kept for a chunk beforehand. The others get
// theirs when their bytes are there.
func inBuffer(c Chunk) bool { return c.Size >= 0 && c.Size < batchBytes }

// WriteTo writes the whole content.
func (f *File) WriteTo(out io.Writer) (n int64, err error) {
	return f.WriteRange(out, 0, math.MaxInt64)
}

// WriteRange writes size bytes from off on, or what there is of them. While one
// batch of chunks is written the next is being read.
func (f *File) WriteRange(out io.Writer, off, size int64) (n int64, err error) {
	if off < 0 || size < 0 {
		return 0, errors.New("negative offset or size")
	}
	end := off + min(size, math.MaxInt64-off)
	err = f.batches(off, end, func(b *chunkBatch) error {
		for i, c := range b.chunks {
			body := b.bodies[b.which[i]]
			from := min(max(off-c.Off, 0), int64(len(body)))
			to := max(from, min(end-c.Off, int64(len(body))))
			k, err := out.Write(body[from:to])
			n += int64(k)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// batches calls fn for one batch of chunks after another, from the chunk that
// holds off to the one in front of end, reading one ahead.
func (f *File) batches(off, end int64, fn func(*chunkBatch) error) error {
	var w chunkWalk
	if err := f.walk(&w, off); err != nil {
		return err
	}
	cur, next := new(chunkBatch), new(chunkBatch)
	cur.fill(f, &w, end)
	for {
		if cur.err != nil || len(cur.chunks) == 0 {
			return cur.err
		}
		last := len(w.stack) == 0
		done := make(chan struct{})
		if !last {
			go func() {
				next.fill(f, &w, end)
				close(done)
			}()
		}
		err := fn(cur)
		if last {
			return err
		}
		<-done
		if err != nil {
			return err
		}
		cur, next = next, cur
	}
}

// ReadAt reads at an offset, as io.ReaderAt says.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if len(p) == 0 {
		return 0, nil
	}
	var w chunkWalk
	if err := f.walk(&w, off); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		k, more, err := f.readChunks(&w, p[n:], off+int64(n))
		n += k
		if err != nil {
			return n, err
		}
		if !more {
			break
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readChunks gets the next chunks of a walk and copies what of them belongs at
// off into p. It returns the number of bytes up to the end of the last chunk.
func (f *File) readChunks(w *chunkWalk, p []byte, off int64) (n int, more bool, err error) {
	var chunks []Chunk
	var ids []pack.ID
	end := off + int64(len(p))
	for bytes := int64(0); len(chunks) < batchChunks && bytes < batchBytes; {
		c, ok, err := w.next(f.ctx)
		if err != nil {
			return 0, false, err
		}
		if !ok {
			break
		}
		chunks, ids = append(chunks, c), append(ids, c.ID)
		bytes += c.Size
		if more = c.Size >= 0 && c.Off+c.Size < end; !more {
			break
		}
	}
	if len(chunks) == 0 {
		return 0, false, nil
	}
	lens := make([]int64, len(chunks)) // of the bodies
	err = f.r.Get(f.ctx, ids, func(i int, t pack.Type, body []byte) error {
		c := chunks[i]
		if t != pack.Blob {
			return wrongType(c.ID, t, pack.Blob)
		}
		if err := f.fits(c, body); err != nil {
			return err
		}
		lens[i] = int64(len(body))
		if c.Off < off {
			body = body[min(off-c.Off, int64(len(body))):]
			c.Off = off
		}
		if c.Off < end {
			copy(p[c.Off-off:], body)
		}
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	last := len(chunks) - 1
	n = int(min(max(chunks[last].Off+lens[last]-off, 0), int64(len(p))))
	return n, more, nil
}
