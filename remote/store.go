package remote

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"

	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// store is the files of a repository, read through a server (role mirror).
type store struct {
	f *frames

	mu    sync.Mutex
	sizes map[string]int64 // of files that List told of and that are written once
}

// fixedDir is where files are that are never changed. Refs and receipts are served
// too, and have another size each time.
const fixedDir = "objects/"

// sizesKept bounds how many sizes are remembered.
const sizesKept = 1 << 16

// Store returns the files of the repository, read-only.
func (f *frames) Store() repo.Store { return &store{f: f, sizes: make(map[string]int64)} }

// List calls fn for every file whose name begins with dir + "/".
func (s *store) List(ctx context.Context, dir string, fn func(name string, size int64) error) error {
	body, err := s.f.askText(ctx, wire.List, dir)
	if err != nil {
		return err
	}
	return wire.EachFile(body, func(f wire.FileInfo) error {
		s.know(f)
		return fn(f.Name, f.Size)
	})
}

// know remembers the size of a file that does not change.
func (s *store) know(f wire.FileInfo) {
	if !strings.HasPrefix(f.Name, fixedDir) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sizes) >= sizesKept {
		clear(s.sizes)
	}
	s.sizes[f.Name] = f.Size
}

// Open opens a file. Its first bytes are asked for, so that it is known to be
// there; its size is known from List, or from the list of its directory.
func (s *store) Open(ctx context.Context, name string) (repo.Blob, error) {
	if !fs.ValidPath(name) || name == "." {
		return nil, fmt.Errorf("%q is no name of a repository's file", name)
	}
	s.mu.Lock()
	size, known := s.sizes[name]
	s.mu.Unlock()
	b := &blob{f: s.f, ctx: ctx, name: name, size: size}
	if !known {
		b.size = aheadFirst
	}
	first, err := b.request(0, aheadFirst)
	if err != nil {
		return nil, err
	}
	body, err := first.wait(ctx)
	if err != nil {
		return nil, notExist(name, err)
	}
	if len(body) < aheadFirst {
		b.size = int64(len(body))
	} else if !known {
		if b.size, err = s.size(ctx, name); err != nil {
			return nil, err
		}
	}
	b.ahead = []piece{{off: 0, n: len(body), body: body}}
	return b, nil
}

// size looks a file up in its directory.
func (s *store) size(ctx context.Context, name string) (size int64, err error) {
	err = s.List(ctx, path.Dir(name), func(at string, n int64) error {
		if at == name {
			size = n
			return io.EOF
		}
		return nil
	})
	switch err {
	case io.EOF:
		return size, nil
	case nil:
		return 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return 0, err
}

// Create returns repo.ErrReadOnly.
func (s *store) Create(context.Context) (repo.Pending, error) { return nil, repo.ErrReadOnly }

// Remove returns repo.ErrReadOnly.
func (s *store) Remove(context.Context, string) error { return repo.ErrReadOnly }

// blob is an open file of a store. Its reading is bounded by the context of Open.
//
// Who reads on where the last read ended is read ahead for, twice as far each time.
type blob struct {
	f    *frames
	ctx  context.Context
	name string
	size int64

	mu    sync.Mutex
	next  int64   // where the last read ended
	far   int     // how far to read ahead
	ahead []piece // without gaps, the first one holds next
}

// piece is a part of a file that was asked for.
type piece struct {
	off   int64
	n     int
	reply future // nil when body is there
	body  []byte
}

const (
	aheadFirst = 32 << 10
	aheadMost  = 4 << 20
)

// Size returns the size of the file.
func (b *blob) Size() int64 { return b.size }

// Close lets go of what was read ahead.
func (b *blob) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ahead = nil
	return nil
}

// ReadAt reads at an offset, as io.ReaderAt says.
func (b *blob) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: read at %d", b.name, off)
	}
	if off >= b.size {
		return 0, io.EOF
	}
	whole := len(p)
	p = p[:min(int64(len(p)), b.size-off)]
	b.mu.Lock()
	if b.follows(off) {
		defer b.mu.Unlock()
		n, err = b.readOn(p, off)
	} else {
		b.next, b.far, b.ahead = off+int64(len(p)), 0, nil
		b.mu.Unlock()
		var pieces []piece
		if pieces, err = b.pieces(nil, off, off+int64(len(p))); err == nil {
			n, err = b.copy(p, off, pieces)
		}
	}
	if err == nil && n < whole {
		err = io.EOF
	}
	return n, err
}

// follows reports whether a read goes on where the last one ended, or lies in what
// was read ahead.
func (b *blob) follows(off int64) bool {
	if off == b.next {
		return true
	}
	k := len(b.ahead)
	return k > 0 && off >= b.ahead[0].off && off < b.ahead[k-1].off+int64(b.ahead[k-1].n)
}

// readOn reads what follows the last read, and asks for more.
func (b *blob) readOn(p []byte, off int64) (n int, err error) {
	for len(b.ahead) > 0 && b.ahead[0].off+int64(b.ahead[0].n) <= off {
		b.ahead = b.ahead[1:]
	}
	end, have := off+int64(len(p)), off
	if k := len(b.ahead); k > 0 {
		have = b.ahead[k-1].off + int64(b.ahead[k-1].n)
	}
	if off == b.next && off > 0 {
		b.far = min(max(2*b.far, aheadFirst), aheadMost)
	}
	// Half of what is ahead may be used up before more is asked for, so that
	// requests do not become as small as the reads.
	if want := min(end+int64(b.far), b.size); have < end || have < end+int64(b.far)/2 && have < b.size {
		if b.ahead, err = b.pieces(b.ahead, have, want); err != nil {
			b.ahead = nil
			return 0, err
		}
	}
	b.next = end
	if n, err = b.copy(p, off, b.ahead); err != nil {
		b.ahead = nil
	}
	return n, err
}

// pieces asks for a part of the file and appends what is to come.
func (b *blob) pieces(dst []piece, from, to int64) ([]piece, error) {
	for from < to {
		n := int(min(to-from, wire.MaxFrame))
		reply, err := b.request(from, n)
		if err != nil {
			return dst, err
		}
		dst = append(dst, piece{off: from, n: n, reply: reply})
		from += int64(n)
	}
	return dst, nil
}

func (b *blob) request(off int64, n int) (future, error) {
	m := wire.ReadRequest{Name: b.name, Off: off, N: n}
	return b.f.start(b.ctx, wire.Read, m.Append(nil))
}

// copy fills p from pieces that hold all of it.
func (b *blob) copy(p []byte, off int64, pieces []piece) (n int, err error) {
	for i := range pieces {
		c := &pieces[i]
		if n == len(p) {
			break
		}
		if c.off+int64(c.n) <= off {
			continue
		}
		if c.reply != nil {
			if c.body, err = c.reply.wait(b.ctx); err != nil {
				return n, err
			}
			if c.reply = nil; len(c.body) != c.n {
				return n, fmt.Errorf("%s: %d bytes came of %d at %d: %w", b.name, len(c.body), c.n, c.off, io.ErrUnexpectedEOF)
			}
		}
		k := copy(p[n:], c.body[off-c.off:])
		n += k
		off += int64(k)
	}
	return n, nil
}
