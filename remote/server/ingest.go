package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// What comes in takes this way:
//
//	connection → batch of about 1 MiB → a worker looks at every object → in the order
//	in which they came: Session.Add → packs in kedge/tmp/<session>
//
// While workers look at some batches the next one is being read, and there are so many
// batches as the pipeline was made with and no more: who reads waits for a free one.
// That is what bounds memory. An object that does not pass ends its upload at once, and
// all that came with it is gone.
const (
	maxObject  = 64 << 20 // bytes of an object, inflated
	largeFrom  = 1 << 20  // bytes from which an object is looked at alone
	bufferKept = 2 << 20  // of a batch, for the next one
	maxWorkers = 4
)

// batch is some objects on their way.
type batch struct {
	up      *upload
	tag     uint32
	class   repo.Class
	buf     []byte // what holds the entries
	entries []pack.Entry
	seen    chan error // the word of the worker
}

// pipeline is the way of all that one connection sends. Its methods are called by one
// goroutine.
type pipeline struct {
	large  chan struct{}
	free   chan *batch
	check  chan *batch
	order  chan *batch
	flight sync.WaitGroup // batches on their way
	done   sync.WaitGroup // goroutines

	mu     sync.Mutex
	failed []failedBatch
}

// failedBatch is what has to be told about a batch.
type failedBatch struct {
	tag uint32
	err error
}

// newPipeline starts the goroutines of a pipeline. They end with stop; when ctx ends,
// what is on its way fails.
func newPipeline(ctx context.Context, large chan struct{}) *pipeline {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	n := workers + 2
	p := &pipeline{
		large: large, free: make(chan *batch, n),
		check: make(chan *batch, n), order: make(chan *batch, n),
	}
	for range n {
		p.free <- &batch{seen: make(chan error, 1)}
	}
	for range workers {
		p.done.Go(func() {
			v := newVerifier(large)
			for b := range p.check {
				b.seen <- v.entries(ctx, b.entries, false)
			}
		})
	}
	p.done.Go(func() {
		for b := range p.order {
			p.fail(b.tag, b.up.store(ctx, b.class, b.entries, <-b.seen))
			p.give(b)
			p.flight.Done()
		}
	})
	return p
}

// take waits for a batch that is free.
func (p *pipeline) take() *batch { return <-p.free }

// give takes a batch back.
func (p *pipeline) give(b *batch) {
	if cap(b.buf) > bufferKept {
		b.buf = nil
	}
	b.up, b.buf, b.entries = nil, b.buf[:0], b.entries[:0]
	p.free <- b
}

// put sends a batch on its way.
func (p *pipeline) put(b *batch) {
	p.flight.Add(1)
	p.order <- b
	p.check <- b
}

// drain waits until nothing is on its way.
func (p *pipeline) drain() { p.flight.Wait() }

// stop ends the goroutines, after what is on its way.
func (p *pipeline) stop() {
	close(p.order)
	close(p.check)
	p.done.Wait()
}

// fail notes a failure, if it is one.
func (p *pipeline) fail(tag uint32, err error) {
	if err == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = append(p.failed, failedBatch{tag, err})
}

// failures returns what failed since the last call.
func (p *pipeline) failures() []failedBatch {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.failed
	p.failed = nil
	return list
}

// verifier looks at objects that came from a client. It is used by one goroutine.
type verifier struct {
	large chan struct{}
	dec   *pack.Decoder
	guard *pack.Hasher
	body  []byte
}

func newVerifier(large chan struct{}) *verifier {
	return &verifier{large: large, dec: pack.NewDecoder(maxObject), guard: pack.NewGuard()}
}

// entries returns nil if all objects are what their ids say: one whole object each, not a
// delta, with nothing behind it. alone says that the caller is the one that may work on a
// large object.
func (v *verifier) entries(ctx context.Context, list []pack.Entry, alone bool) error {
	for i := range list {
		if err := v.entry(ctx, &list[i], alone); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) entry(ctx context.Context, e *pack.Entry, alone bool) error {
	if crc := crc32.ChecksumIEEE(e.Bytes); crc != e.CRC {
		return wrong(e.ID, "CRC is %08x and not %08x", crc, e.CRC)
	}
	_, size, _, err := pack.ParseHeader(e.Bytes)
	if errors.Is(err, pack.ErrDelta) {
		return &repo.RefusedError{Reason: fmt.Sprintf("object %v: a delta, which no client may send", e.ID)}
	} else if err != nil {
		return wrong(e.ID, "%v", err)
	}
	if size > maxObject {
		return &repo.RefusedError{Reason: fmt.Sprintf("object %v: %d bytes, the limit is %d", e.ID, size, maxObject)}
	}
	if size > largeFrom {
		defer func() { v.body = nil }()
		if !alone {
			select {
			case v.large <- struct{}{}:
				defer func() { v.body = nil; <-v.large }()
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	var used int
	var t pack.Type
	v.body, t, used, err = v.dec.Append(v.body[:0], e.Bytes)
	if err != nil {
		return wrong(e.ID, "%v", err)
	}
	if used != len(e.Bytes) {
		return wrong(e.ID, "%d bytes are left over", len(e.Bytes)-used)
	}
	id, err := v.guard.Sum(t, v.body)
	if err != nil {
		return &repo.RefusedError{Reason: err.Error()}
	}
	if id != e.ID {
		return wrong(e.ID, "it is %v %v", t, id)
	}
	if t == pack.Tag {
		return checkTag(id, v.body)
	}
	return nil
}

// checkTag refuses a tag object of a form that git would not accept. Trees and commits
// are looked at by the session, because it needs what they name.
func checkTag(id pack.ID, body []byte) error {
	head, _, ok := bytes.Cut(body, []byte("\n\n"))
	lines := bytes.Split(head, []byte("\n"))
	for i, key := range []string{"object ", "type ", "tag ", "tagger "} {
		if !ok || i >= len(lines) || !bytes.HasPrefix(lines[i], []byte(key)) || bytes.IndexByte(lines[i], 0) >= 0 {
			return wrong(id, "a tag without its lines")
		}
	}
	return nil
}

// wrong says what is wrong with an object as it came.
func wrong(id pack.ID, format string, args ...any) error {
	return &pack.CorruptError{File: "object " + id.String() + " as it was received", Off: -1, Reason: fmt.Sprintf(format, args...)}
}
