package remote

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// ahead gets trees before they are asked for.
//
// Who restores a save, lists it or checks it reads one directory after the other: its
// tree, its .bupm, the chunk trees of its files, then its sub-directories. Each is a
// round trip for an object of a few KB; at 100 ms of delay 10,000 directories take
// half an hour. What will be asked for stands in the trees that were seen, so it can
// be under way before it is.
//
// It is guessed from what is asked. Who looks up a path asks for one child of each
// tree, and gets nothing for nothing. Once a second child of the same tree is asked
// for, someone is walking: a few objects are got ahead, and twice as many with each
// further child, or each further batch of children as those who read trees of chunks
// ask for, up to aheadObjects. Contents of files are not: who wants them asks
// for many at once. A tree that nobody could expect begins anew.
//
// What was got ahead is decoded and compared like all other objects. Small ones are kept
// for a while after they were given out: directories that look alike share them.
type ahead struct {
	f *frames

	mu     sync.Mutex
	window int                 // how many objects may be held or under way
	flight int                 // requests
	kids   map[pack.ID]*family // of trees that were seen, until they are asked for
	todo   []pack.ID           // of those, what is to be got, the next one last
	held   map[pack.ID]*early
	order  []*early              // held, in the order of their requests; some are gone from held
	bytes  int64                 // of bodies in held
	given  [2]map[pack.ID]*early // small ones that were given out, of late and before
	worth  int                   // bytes of given[0]
}

const (
	aheadStart   = 8
	aheadObjects = 1024
	aheadBytes   = 8 << 20 // of bodies: more is not got ahead until some were taken
	aheadRequest = 128     // objects
	aheadFlight  = 4       // requests
	aheadKids    = 1 << 16 // names that are remembered
	aheadSmall   = 32 << 10
	aheadGiven   = 1 << 20 // bytes of small ones, twice
)

// family is what the children of a tree have in common.
type family struct {
	asked int
	meta  bool // they are a .bupm, or the parts of one
}

// earlySize is about what an object takes besides its body.
const earlySize = 200

// early is an object that was asked for ahead of time.
type early struct {
	id   pack.ID
	fam  *family
	done chan struct{} // closed when it is here, or will not come
	t    pack.Type     // 0: it will not come
	body []byte
}

func newAhead(f *frames) *ahead {
	a := &ahead{f: f}
	a.reset()
	return a
}

// reset forgets everything, with a.mu held.
func (a *ahead) reset() {
	a.window, a.bytes, a.todo, a.order = 0, 0, nil, nil
	a.kids, a.held = make(map[pack.ID]*family), make(map[pack.ID]*early)
}

// take takes note that ids are asked for. It returns, in their places, those of them that
// were got ahead or are on their way, and whether any is a child of a tree that was seen.
func (a *ahead) take(ids []pack.ID) (list []*early, expected bool) {
	list = make([]*early, len(ids))
	a.mu.Lock()
	defer a.mu.Unlock()
	walking := false
	for i, id := range ids {
		fam, known := a.kids[id]
		if known {
			expected = true
			delete(a.kids, id)
			if !fam.meta {
				fam.asked++
				walking = walking || fam.asked > 1
			}
		}
		e := a.held[id]
		if e == nil {
			e = cmp.Or(a.given[0][id], a.given[1][id])
		}
		if e == nil && known && len(a.held) >= a.window {
			a.evict()
		}
		list[i] = e
	}
	if walking {
		a.window = min(2*max(a.window, len(ids), aheadStart/2), aheadObjects)
	}
	return list, expected
}

// wait waits until an object is here, or will not come, and takes it out of what is held.
func (a *ahead) wait(ctx context.Context, e *early) {
	select {
	case <-e.done:
	case <-ctx.Done():
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(e)
	if e.t != 0 {
		a.keep(e)
	}
}

// sight is what one Get shows of a walk.
type sight struct {
	f        *frames
	ctx      context.Context
	expected bool
	one      bool
	trees    [][]byte // that are not yet taken note of
}

// start gets ahead what is already known, while the objects of the Get itself are awaited.
func (s *sight) start() {
	if s.expected {
		s.f.ahead.pump(s.ctx)
	}
}

// object takes note of an object. A single tree that was not expected is the root of a
// walk; several objects that were not are the contents of a file.
func (s *sight) object(t pack.Type, body []byte) {
	switch {
	case t != pack.Tree:
	case s.one:
		s.f.ahead.saw(s.ctx, s.expected, body)
	case s.expected:
		s.trees = append(s.trees, bytes.Clone(body))
	}
}

// end takes note of several trees, so that the children of the first one end on top.
func (s *sight) end() {
	for i, body := range slices.Backward(s.trees) {
		s.f.ahead.note(body)
		if i == 0 {
			s.f.ahead.pump(s.ctx)
		}
	}
}

// keep remembers a small object that was given out, with a.mu held.
func (a *ahead) keep(e *early) {
	if len(e.body) > aheadSmall || a.given[0][e.id] != nil {
		return
	}
	if a.worth += len(e.body) + earlySize; a.given[0] == nil || a.worth > aheadGiven {
		a.given[0], a.given[1], a.worth = make(map[pack.ID]*early), a.given[0], 0
	}
	a.given[0][e.id] = e
}

// drop takes an object out of held, with a.mu held.
func (a *ahead) drop(e *early) {
	if a.held[e.id] == e {
		delete(a.held, e.id)
		a.bytes -= int64(len(e.body))
	}
}

// evict lets go of half of what nobody asked for, the oldest, with a.mu held: the walk
// went another way.
func (a *ahead) evict() {
	most := len(a.held) / 2
	for len(a.held) > most && len(a.order) > 0 {
		e := a.order[0]
		if a.held[e.id] == e && !isClosed(e.done) {
			return
		}
		a.order = a.order[1:]
		a.drop(e)
	}
}

// saw takes note of a tree that its caller asked for. A tree that was not expected
// is the root of another walk.
func (a *ahead) saw(ctx context.Context, expected bool, body []byte) {
	a.mu.Lock()
	if !expected {
		a.reset()
	}
	a.expect(body, nil)
	a.mu.Unlock()
	a.pump(ctx)
}

// note is saw for a tree that was expected, without getting anything ahead.
func (a *ahead) note(body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expect(body, nil)
}

// bupm is the name of what holds the metadata of a directory.
var bupm = []byte(".bupm")

// expect puts the children of a tree in front of all that is to be got, with a.mu held:
// its metadata, then trees of chunks, then directories, as a walk takes them. of is the
// family of the tree itself: of a .bupm all is wanted, of others no contents.
func (a *ahead) expect(body []byte, of *family) {
	if len(a.kids) > aheadKids {
		a.reset()
	}
	fam, meta := new(family), &family{meta: true}
	var first, chunks, dirs []pack.ID
	s := repo.NewTreeScanner(body)
	for s.Next() && len(first)+len(chunks)+len(dirs) < aheadKids {
		_, again := a.kids[s.ID]
		switch {
		case again:
		case of != nil && of.meta, bytes.Equal(s.Name, bupm):
			first = append(first, s.ID)
			a.kids[s.ID] = meta
		case s.Mode != repo.ModeDir:
		default:
			if _, chunked := repo.UnmangleName(s.Mode, string(s.Name)); chunked {
				chunks = append(chunks, s.ID)
			} else {
				dirs = append(dirs, s.ID)
			}
			a.kids[s.ID] = fam
		}
	}
	start := len(a.todo)
	a.todo = append(append(append(a.todo, first...), chunks...), dirs...)
	slices.Reverse(a.todo[start:])
}

// pump asks for what is to be got, as far as the window goes.
func (a *ahead) pump(ctx context.Context) {
	for {
		list := a.next()
		if len(list) == 0 {
			return
		}
		ids := make([]pack.ID, len(list))
		for i, e := range list {
			ids[i] = e.id
		}
		err := a.f.send(ctx, &call{kind: wire.Get, done: func(body []byte, err error) {
			a.f.served.Go(func() { a.arrived(list, body, err) })
		}}, wire.IDs(ids).Append(nil))
		if err != nil {
			a.arrived(list, nil, err)
			return
		}
	}
}

// next returns what to ask for in one request.
func (a *ahead) next() (list []*early) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.flight >= aheadFlight || a.bytes > aheadBytes {
		return nil
	}
	// Requests for one or two objects each would come of answering every look
	// with another one.
	room := min(a.window-len(a.held), aheadRequest)
	if room < min(a.window/4, aheadRequest/2) {
		return nil
	}
	for len(a.todo) > 0 && len(list) < room {
		id := a.todo[len(a.todo)-1]
		a.todo = a.todo[:len(a.todo)-1]
		fam, wanted := a.kids[id]
		if !wanted || a.held[id] != nil {
			continue // it was asked for meanwhile
		}
		e := &early{id: id, fam: fam, done: make(chan struct{})}
		a.held[id] = e
		list = append(list, e)
	}
	a.order = append(a.order, list...)
	if len(list) > 0 {
		a.flight++
	}
	return list
}

// arrived takes a reply. What did not come is left to whoever needs it.
func (a *ahead) arrived(list []*early, reply []byte, err error) {
	r := a.f.readers.Get().(*reader)
	n := 0
	if err == nil {
		n, err = wire.ParseEntries(reply, len(list), func(i int, how byte, what []byte) error {
			if how != wire.GotEntry {
				return nil
			}
			e := list[i]
			if t, err := r.object(e.id, what); err == nil {
				e.t, e.body = t, bytes.Clone(r.body)
			}
			return nil
		})
		a.f.bufs.put(reply)
	}
	a.f.free(r)
	a.mu.Lock()
	a.flight--
	for _, e := range slices.Backward(list[n:]) { // there was no room for it
		a.drop(e)
		a.todo = append(a.todo, e.id)
	}
	for _, e := range slices.Backward(list[:n]) { // so that the first one's children end on top
		if a.held[e.id] == e {
			a.bytes += int64(len(e.body))
		}
		if e.t == pack.Tree {
			a.expect(e.body, e.fam)
		}
	}
	a.mu.Unlock()
	for _, e := range list {
		close(e.done)
	}
	if err == nil {
		a.pump(context.Background())
	}
}
