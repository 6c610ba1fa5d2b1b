package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// Get fetches ids in requests of about as many as one reply of 1 MiB has room for,
// and keeps replies of up to getWindow bytes under way: at 100 ms of delay that is what
// fills a line of 600 Mbit/s. How large objects are is learnt from the replies; it is
// remembered from one call to the next.
const (
	getWindow = 8 << 20
	getFirst  = 2 << 20 // until the first reply: objects may be 64 MiB each
	getReply  = 1 << 20 // a full reply
	getIDs    = 512     // in one request, at most
	getGuess  = 8 << 10 // bytes of an object, until one is seen
	getFlight = 64      // requests
	getFew    = 32      // ids that are not worth a goroutine
)

// Limits of what is read: those of repo.Packs.
const (
	maxBlob = 64 << 20
	maxTree = 1 << 30
)

// reader is what one goroutine needs to decode objects.
type reader struct {
	dec    *pack.Decoder
	hasher *pack.Hasher
	body   []byte
}

func newReader() *reader {
	return &reader{dec: pack.NewDecoder(maxTree), hasher: pack.NewHasher()}
}

// readerKept is how much room for a body is kept for the next one.
const readerKept = 1 << 20

// span is a run of the ids of a Get.
type span struct {
	at, n int
	guess int64 // bytes of the reply
}

// getting is one call of Get.
type getting struct {
	f   *frames
	ctx context.Context
	ids []pack.ID
	fn  func(i int, t pack.Type, body []byte) error
}

// Get calls fn once for each id; see repo.Repo.
func (f *frames) Get(ctx context.Context, ids []pack.ID, fn func(i int, t pack.Type, body []byte) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(ids) > getFew {
		return f.getMany(ctx, ids, fn)
	}
	return f.getFew(ctx, ids, fn)
}

// getFew gets a few objects, as who walks from tree to tree does: some were got ahead, the
// others are asked for. More is got ahead while they are awaited.
func (f *frames) getFew(ctx context.Context, ids []pack.ID, fn func(i int, t pack.Type, body []byte) error) error {
	list, known := f.ahead.take(ids)
	var rest []pack.ID
	var which []int // of ids
	for i := range list {
		if list[i].early == nil {
			rest, which = append(rest, ids[i]), append(which, i)
		}
	}
	var kids []kid
	var trees [][]byte
	g := &getting{f, ctx, rest, func(i int, t pack.Type, body []byte) error {
		i = which[i]
		switch {
		case t != pack.Tree:
		case list[i].known:
			kids, trees = append(kids, list[i].kid), append(trees, bytes.Clone(body))
		case len(ids) == 1:
			f.ahead.begin(body)
		}
		return fn(i, t, body)
	}}
	pump := func() {
		if known {
			f.ahead.pump(ctx)
		}
	}
	if err := g.few(pump); err != nil {
		return err
	}
	f.ahead.saw(kids, trees)
	pump()
	return f.giveEarly(ctx, ids, list, fn)
}

// giveEarly gives out what was got ahead, as it comes.
func (f *frames) giveEarly(ctx context.Context, ids []pack.ID, list []asked, fn func(i int, t pack.Type, body []byte) error) error {
	for i := range list {
		e := list[i].early
		if e == nil {
			continue
		}
		if f.ahead.wait(ctx, e); ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var err error
		if e.t != 0 {
			err = fn(i, e.t, e.body)
		} else { // it did not come; why not is seen when it alone is asked for
			alone := &getting{f, ctx, ids[i : i+1], func(_ int, t pack.Type, body []byte) error {
				return fn(i, t, body)
			}}
			err = alone.few(func() {})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// few asks for all, and again for what there was no room for. It calls sent when the
// first request is on its way, or none is needed.
func (g *getting) few(sent func()) error {
	for at := 0; ; {
		var reply future
		var err error
		if at < len(g.ids) {
			reply, err = g.f.start(g.ctx, wire.Get, wire.IDs(g.ids[at:]).Append(nil))
		}
		if at == 0 {
			sent()
		}
		if err != nil || at == len(g.ids) {
			return err
		}
		body, err := reply.wait(g.ctx)
		if err != nil {
			return err
		}
		n, err := g.decode(span{at: at, n: len(g.ids) - at}, body)
		if err != nil {
			return err
		}
		at += n
	}
}

// fetched is a reply to Get.
type fetched struct {
	span
	answer
}

// decoded says how many objects of a reply were given to fn, and how long the reply was.
type decoded struct {
	span
	got  int
	size int
}

// getMany sends requests from this goroutine and decodes the replies in others.
func (f *frames) getMany(parent context.Context, ids []pack.ID, fn func(i int, t pack.Type, body []byte) error) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	g := &getting{f, ctx, ids, fn}
	ready := make(chan fetched, getFlight) // never full: the goroutine that reads must not wait
	done := make(chan decoded, getFlight)
	var wg sync.WaitGroup
	for range min(f.workers, 1+len(ids)/getFew) {
		wg.Go(func() {
			for {
				select {
				case r := <-ready:
					if err := g.work(r, done); err != nil {
						cancel(err)
						return
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
	if err := g.drive(ready, done); err != nil {
		cancel(err)
	}
	err := context.Cause(ctx)
	cancel(nil)
	wg.Wait()
	if err == nil && parent.Err() != nil {
		err = context.Cause(parent)
	}
	return err
}

// drive sends requests until everything was given to fn.
func (g *getting) drive(ready chan<- fetched, done <-chan decoded) error {
	var again []span // the rests of what came in part
	var flight int64 // bytes of replies under way, as far as one can tell
	next, under := 0, 0
	for left := len(g.ids); left > 0; {
		for under < getFlight && (len(again) > 0 || next < len(g.ids)) {
			s := g.cut(&again, next)
			if under > 0 && flight+s.guess > g.window() {
				if s.at != next { // not now
					again = append(again, s)
				}
				break
			}
			if s.at == next {
				next += s.n
			}
			c := &call{kind: wire.Get, done: func(b []byte, err error) { ready <- fetched{s, answer{b, err}} }}
			if err := g.f.send(g.ctx, c, wire.IDs(g.ids[s.at:s.at+s.n]).Append(nil)); err != nil {
				return err
			}
			under++
			flight += s.guess
		}
		select {
		case d := <-done:
			under--
			flight -= d.guess
			left -= d.got
			if d.got < d.n {
				again = append(again, span{at: d.at + d.got, n: d.n - d.got})
			}
		case <-g.ctx.Done():
			return context.Cause(g.ctx)
		}
	}
	return nil
}

// cut returns the next ids to ask for: what is left of an earlier request, or those
// from next on.
func (g *getting) cut(again *[]span, next int) span {
	mean := g.f.mean.Load()
	if mean == 0 {
		mean = getGuess
	}
	s := span{at: next, n: len(g.ids) - next}
	if k := len(*again); k > 0 {
		s, *again = (*again)[k-1], (*again)[:k-1]
	} else {
		s.n = min(s.n, int(max(1, min(getReply/mean, getIDs))))
	}
	s.guess = min(int64(s.n)*mean, max(getReply, mean))
	return s
}

// window returns how many bytes of replies may be under way.
func (g *getting) window() int64 {
	if g.f.mean.Load() == 0 {
		return getFirst
	}
	return getWindow
}

// work decodes a reply and says so.
func (g *getting) work(r fetched, done chan<- decoded) error {
	if r.err != nil {
		return r.err
	}
	size := len(r.body)
	n, err := g.decode(r.span, r.body)
	if err != nil {
		return err
	}
	g.f.learn(size / n)
	done <- decoded{r.span, n, size}
	return nil
}

// learn takes note of how large objects are. What came last counts most: trees
// and data come in turns.
func (f *frames) learn(size int) {
	if old := f.mean.Load(); old != 0 {
		size = int((3*old + int64(size)) / 4)
	}
	f.mean.Store(max(1, int64(size)))
}

// decode gives the objects of a reply to fn and returns how many there are.
func (g *getting) decode(s span, reply []byte) (int, error) {
	r := g.f.readers.Get().(*reader)
	defer g.f.free(r)
	n, err := wire.ParseEntries(reply, s.n, func(i int, how byte, what []byte) error {
		if g.ctx.Err() != nil {
			return context.Cause(g.ctx)
		}
		i += s.at
		switch how {
		case wire.GotNone:
			return &repo.MissingError{ID: g.ids[i]}
		case wire.GotDamaged:
			return &pack.CorruptError{File: "object " + g.ids[i].String(), Off: -1, Reason: string(what)}
		}
		t, err := r.object(g.ids[i], what)
		if err != nil {
			return err
		}
		return g.fn(i, t, r.body)
	})
	if err == nil {
		g.f.bufs.put(reply)
	}
	return n, err
}

// free takes a reader back.
func (f *frames) free(r *reader) {
	if cap(r.body) > readerKept {
		r.body = nil
	}
	f.readers.Put(r)
}

// object decodes an entry into r.body and compares its hash.
func (r *reader) object(id pack.ID, entry []byte) (pack.Type, error) {
	wrong := func(off int64, format string, a ...any) error {
		return &pack.CorruptError{File: "object " + id.String(), Off: off, Reason: "as it came: " + fmt.Sprintf(format, a...)}
	}
	t, size, _, err := pack.ParseHeader(entry)
	if err == nil && t != pack.Tree && size > maxBlob {
		return t, wrong(0, "%v of %d bytes, more than %d", t, size, maxBlob)
	}
	used := 0
	if err == nil {
		r.body, t, used, err = r.dec.Append(r.body[:0], entry)
	}
	if corrupt := new(pack.CorruptError); errors.As(err, &corrupt) {
		return t, wrong(corrupt.Off, "%s", corrupt.Reason)
	} else if err != nil {
		return t, wrong(-1, "%v", err)
	}
	got, err := r.hasher.Sum(t, r.body)
	if err != nil {
		return t, err
	}
	if got != id || used != len(entry) {
		return t, wrong(-1, "%d bytes are %v %v, and %d are left over", used, t, got, len(entry)-used)
	}
	return t, nil
}
