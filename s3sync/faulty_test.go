package s3sync_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/s3sync"
)

// faulty is a store of which one request goes wrong, or all from one on.
type faulty struct {
	in      *memory
	at      int64 // which; 0: none
	forever bool
	how     string
	calls   atomic.Int64
}

func (f *faulty) hit() bool {
	k := f.calls.Add(1)
	return f.at > 0 && (k == f.at || f.forever && k > f.at)
}

// plain does a request that has no bytes to be mangled.
func (f *faulty) plain(ctx context.Context, do func() error, pretend error) error {
	if !f.hit() {
		return do()
	}
	switch f.how {
	case failTimeout:
		<-ctx.Done()
		return ctx.Err()
	case failLost:
		if err := do(); err != nil {
			return err
		}
		return s3sync.Temporary(io.ErrUnexpectedEOF)
	case failError200:
		return pretend
	case fail412:
		return fmt.Errorf("412: %w", s3sync.ErrExists)
	case failWrong:
		return do()
	}
	return s3sync.Temporary(errors.New(f.how))
}

// sending does a request with a body.
func (f *faulty) sending(ctx context.Context, b s3sync.Body, do func(s3sync.Body) error) error {
	k := f.calls.Load() + 1
	if f.at > 0 && (k == f.at || f.forever && k > f.at) {
		switch f.how {
		case failReset, failTruncated:
			f.calls.Add(1)
			if _, err := io.Copy(io.Discard, io.NewSectionReader(b, 0, b.Size/2)); err != nil {
				return err
			}
			return s3sync.Temporary(syscall.ECONNRESET)
		case failWrong:
			f.calls.Add(1)
			b.ReaderAt = flipped{b.ReaderAt}
			return do(b)
		}
	}
	return f.plain(ctx, func() error { return do(b) }, nil)
}

// flipped is a file whose first byte is another one.
type flipped struct{ io.ReaderAt }

func (r flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	if off == 0 && n > 0 {
		p[0] ^= 1
	}
	return n, err
}

func (f *faulty) Put(ctx context.Context, key string, b s3sync.Body) (version string, err error) {
	err = f.sending(ctx, b, func(b s3sync.Body) (err error) { version, err = f.in.Put(ctx, key, b); return err })
	return version, err
}

func (f *faulty) PutPart(ctx context.Context, key, id string, n int, b s3sync.Body) (p s3sync.Part, err error) {
	p = s3sync.Part{N: n, Size: b.Size, SHA256: b.SHA256, Tag: "never stored"}
	err = f.sending(ctx, b, func(b s3sync.Body) (err error) { p, err = f.in.PutPart(ctx, key, id, n, b); return err })
	return p, err
}

func (f *faulty) Get(ctx context.Context, key, version string, p []byte, off int64) (n int, err error) {
	k := f.calls.Load() + 1
	hit := f.at > 0 && (k == f.at || f.forever && k > f.at)
	err = f.plain(ctx, func() error { n, err = f.in.Get(ctx, key, version, p, off); return err }, s3sync.Temporary(errors.New("no range")))
	if hit && n == 0 && (f.how == failReset || f.how == failTruncated) {
		n, _ = f.in.Get(ctx, key, version, p[:len(p)/2], off)
	}
	if hit && n > 0 && f.how == failWrong {
		p[n/2] ^= 1
	}
	return n, err
}

func (f *faulty) Stat(ctx context.Context, key, version string) (o s3sync.Object, err error) {
	err = f.plain(ctx, func() error { o, err = f.in.Stat(ctx, key, version); return err }, s3sync.Temporary(errors.New("no object")))
	return o, err
}

func (f *faulty) List(ctx context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	k := f.calls.Load() + 1
	hit := f.at > 0 && (k == f.at || f.forever && k > f.at)
	var all []s3sync.Object
	err := f.plain(ctx, func() error {
		return f.in.List(ctx, prefix, after, func(o s3sync.Object) error { all = append(all, o); return nil })
	}, s3sync.Temporary(errors.New("no list")))
	if hit && f.how == failWrong && len(all) > 0 {
		all = all[1:] // as it was a while ago
	}
	for _, o := range all {
		if err := fn(o); err != nil {
			return err
		}
	}
	return err
}

func (f *faulty) Delete(ctx context.Context, key, version string) error {
	return f.plain(ctx, func() error { return f.in.Delete(ctx, key, version) }, nil)
}

func (f *faulty) Retain(ctx context.Context, key, version string, until time.Time) error {
	return f.plain(ctx, func() error { return f.in.Retain(ctx, key, version, until) }, nil)
}

func (f *faulty) Begin(ctx context.Context, key string) (id string, err error) {
	err = f.plain(ctx, func() error { id, err = f.in.Begin(ctx, key); return err }, s3sync.Temporary(errors.New("no id")))
	return id, err
}

func (f *faulty) Parts(ctx context.Context, key, id string) (parts []s3sync.Part, err error) {
	err = f.plain(ctx, func() error { parts, err = f.in.Parts(ctx, key, id); return err }, s3sync.Temporary(errors.New("no list")))
	return parts, err
}

func (f *faulty) Complete(ctx context.Context, key, id string, parts []s3sync.Part) (version string, err error) {
	err = f.plain(ctx, func() error { version, err = f.in.Complete(ctx, key, id, parts); return err }, nil)
	return version, err
}

func (f *faulty) Abort(ctx context.Context, key, id string) error {
	return f.plain(ctx, func() error { return f.in.Abort(ctx, key, id) }, nil)
}

func TestFaulty(t *testing.T) { conformance(t, &faulty{in: newMemory()}) }

// clone returns a store that has the same objects.
func (m *memory) clone() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMemory()
	c.objects, c.times, c.sums = maps.Clone(m.objects), maps.Clone(m.times), maps.Clone(m.sums)
	return c
}
