package get

import (
	"context"
	"errors"
	"hash/crc32"
	"slices"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// object is an object of the source, as it stands in a pack and inflated.
type object struct {
	id    pack.ID
	kind  pack.Type
	entry []byte
	crc   uint32
	body  []byte // nil of a blob
}

func (o object) clone() object {
	o.entry, o.body = slices.Clone(o.entry), slices.Clone(o.body)
	return o
}

// entries is a source that gives its objects out as they stand in packs.
type entries interface {
	Entries(ctx context.Context, ids []pack.ID, fn func(i int, entry []byte, err error) error) error
}

// maxObject is the largest object that is copied: trees are as large as a directory is.
const maxObject = 1 << 30

// reader reads objects from a source, and compares each with its id.
type reader struct {
	source  repo.Repo
	workers []*worker
	spare   chan *worker
	arena   []byte
}

// worker is what one goroutine needs.
type worker struct {
	dec  *pack.Decoder
	sum  *pack.Hasher
	enc  *pack.Encoder
	body []byte
}

func newReader(o Options) *reader {
	n := max(1, o.Workers)
	r := &reader{source: o.Source, spare: make(chan *worker, n)}
	for range n {
		w := &worker{dec: pack.NewDecoder(maxObject), sum: pack.NewGuard(), enc: pack.NewEncoder(o.Level)}
		r.workers = append(r.workers, w)
		r.spare <- w
	}
	return r
}

// each calls fn for the objects of ids, some at a time and valid until it returns; gone is
// called for those that are not there.
func (r *reader) each(ctx context.Context, ids []pack.ID, fn func([]object) error, gone func(pack.ID) error) error {
	if len(ids) == 0 {
		return nil
	}
	if e, ok := r.source.(entries); ok {
		return r.raw(ctx, e, ids, fn, gone)
	}
	return r.anew(ctx, ids, fn, gone)
}

// raw copies entries as they stand.
func (r *reader) raw(ctx context.Context, src entries, ids []pack.ID, fn func([]object) error, gone func(pack.ID) error) error {
	var list []object
	var ends []int
	r.arena = r.arena[:0]
	flush := func() error {
		from := 0
		for i := range list { // the arena does not move any more
			list[i].entry = r.arena[from:ends[i]]
			from = ends[i]
		}
		err := r.compare(list)
		if err == nil {
			err = fn(list)
		}
		list, ends, r.arena = list[:0], ends[:0], r.arena[:0]
		return err
	}
	err := src.Entries(ctx, ids, func(i int, entry []byte, err error) error {
		if m := new(repo.MissingError); errors.As(err, &m) {
			return gone(ids[i])
		} else if err != nil {
			return err
		}
		list = append(list, object{id: ids[i]})
		r.arena = append(r.arena, entry...)
		if ends = append(ends, len(r.arena)); len(r.arena) < arenaMax {
			return nil
		}
		return flush()
	})
	if err == nil && len(list) > 0 {
		err = flush()
	}
	if cap(r.arena) > 2*arenaMax {
		r.arena = nil
	}
	return err
}

// compare inflates objects and compares them with their ids.
func (r *reader) compare(list []object) error {
	errs := make([]error, len(r.workers))
	var wg sync.WaitGroup
	for n, w := range r.workers {
		wg.Go(func() {
			for i := n; i < len(list) && errs[n] == nil; i += len(r.workers) {
				errs[n] = w.compare(&list[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *worker) compare(o *object) error {
	body, t, n, err := w.dec.Append(w.body[:0], o.entry)
	if err != nil {
		return err
	}
	if w.body = body; cap(w.body) > 1<<20 {
		w.body = nil
	}
	id, err := w.sum.Sum(t, body)
	if err != nil {
		return err
	}
	if id != o.id || n != len(o.entry) {
		return &pack.CorruptError{File: "object " + o.id.String(), Off: -1, Reason: "its bytes are not what its id says"}
	}
	o.kind, o.crc = t, crc32.ChecksumIEEE(o.entry)
	if t != pack.Blob {
		o.body = slices.Clone(body)
	}
	return nil
}

// anew reads objects from a source that gives out bodies, which it has compared with
// their ids, and encodes them.
func (r *reader) anew(ctx context.Context, ids []pack.ID, fn func([]object) error, gone func(pack.ID) error) error {
	var mu sync.Mutex
	var list []object
	held := 0
	flush := func() error {
		err := fn(list)
		list, held = list[:0], 0
		return err
	}
	encode := func(id pack.ID, t pack.Type, body []byte) error {
		w := <-r.spare
		o := object{id: id, kind: t}
		o.entry, o.crc = w.enc.Append(nil, t, body)
		r.spare <- w
		if t != pack.Blob {
			o.body = slices.Clone(body)
		}
		mu.Lock()
		defer mu.Unlock()
		list = append(list, o)
		if held += len(o.entry); held < arenaMax {
			return nil
		}
		return flush()
	}
	for at := 0; at < len(ids); {
		part := ids[at:min(at+groupMax, len(ids))]
		err := r.source.Get(ctx, part, func(i int, t pack.Type, body []byte) error { return encode(part[i], t, body) })
		if m := new(repo.MissingError); errors.As(err, &m) {
			// Which of the others came before is not known: one by one they are asked for again.
			list, held = list[:0], 0
			err = r.oneByOne(ctx, part, encode, gone)
		}
		if err == nil && len(list) > 0 {
			err = flush()
		}
		if err != nil {
			return err
		}
		at += len(part)
	}
	return nil
}

func (r *reader) oneByOne(ctx context.Context, ids []pack.ID, fn func(pack.ID, pack.Type, []byte) error, gone func(pack.ID) error) error {
	for _, id := range ids {
		err := r.source.Get(ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error { return fn(id, t, body) })
		if m := new(repo.MissingError); errors.As(err, &m) {
			err = gone(id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
