package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/kedgebackup/kedge/repo"
)

// Mem is a Store in memory. The zero value is empty and ready for use, by
// several goroutines at once.
type Mem struct {
	mu    sync.Mutex
	files map[string][]byte
}

// Open opens a file for reading.
func (m *Mem) Open(ctx context.Context, name string) (repo.Blob, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return memBlob{bytes.NewReader(b)}, nil
}

type memBlob struct{ *bytes.Reader }

// Close gives the file back.
func (memBlob) Close() error { return nil }

// Create begins a file that has no name yet.
func (m *Mem) Create(ctx context.Context) (repo.Pending, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &memPending{m: m}, nil
}

// List calls fn for every file below dir, in the order of their names.
func (m *Mem) List(ctx context.Context, dir string, fn func(name string, size int64) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	sizes := make(map[string]int64)
	var names []string
	for name, b := range m.files {
		if strings.HasPrefix(name, dir+"/") {
			names = append(names, name)
			sizes[name] = int64(len(b))
		}
	}
	m.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		if err := fn(name, sizes[name]); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes a file.
func (m *Mem) Remove(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, name)
	return ctx.Err()
}

// memPending is a file being written.
type memPending struct {
	m    *Mem
	mu   sync.Mutex
	b    []byte
	done bool
}

var errDone = errors.New("file is finished")

// Write appends p.
func (p *memPending) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return 0, errDone
	}
	p.b = append(p.b, b...)
	return len(b), nil
}

// WriteAt writes p at off.
func (p *memPending) WriteAt(b []byte, off int64) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return 0, errDone
	}
	if end := int(off) + len(b); end > len(p.b) {
		p.b = append(p.b, make([]byte, end-len(p.b))...)
	}
	return copy(p.b[off:], b), nil
}

// ReadAt reads at off.
func (p *memPending) ReadAt(b []byte, off int64) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if off > int64(len(p.b)) {
		return 0, io.EOF
	}
	n := copy(b, p.b[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// Commit gives the file its name.
func (p *memPending) Commit(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return errDone
	}
	p.done = true
	if !fs.ValidPath(name) || name == "." {
		return fmt.Errorf("%q is no name of a file", name)
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if old, ok := p.m.files[name]; ok && !bytes.Equal(old, p.b) {
		return &repo.ExistsError{Name: name}
	}
	if p.m.files == nil {
		p.m.files = make(map[string][]byte)
	}
	p.m.files[name] = p.b
	return nil
}

// Abort throws the file away.
func (p *memPending) Abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
}
