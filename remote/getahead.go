package remote

import (
	"bytes"
	"cmp"
	"context"
	"maps"
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
// for many at once. A tree that nobody could expect begins anew. What the walk comes to
// first is got first, whatever was seen first: else the brothers of a directory fill the
// room that its children need, and each of these costs a round trip again.
//
// What was got ahead is decoded and compared like all other objects. Small ones are kept
// for a while after they were given out: directories that look alike share them.
type ahead struct {
	f *frames

	mu     sync.Mutex
	window int             // how many objects may be held or under way
	flight int             // requests
	kids   map[pack.ID]kid // of trees that were seen
	todo   queue           // of those, what is to be got
	at     place           // of the last one that was asked for
	held   map[pack.ID]*early
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

// earlySize is about what an object takes besides its body.
const earlySize = 200

// early is an object that was asked for ahead of time.
type early struct {
	id   pack.ID
	kid  kid
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
	a.window, a.bytes, a.todo, a.at = 0, 0, nil, ""
	a.kids, a.held = make(map[pack.ID]kid), make(map[pack.ID]*early)
}

// asked is an object that somebody asks for.
type asked struct {
	early *early // not nil: it was got ahead, or is on its way
	kid   kid    // where it stands, if it is a child of a tree that was seen
	known bool   // it is
}

// forget forgets those kids that were asked for, with a.mu held, and all if these are few.
func (a *ahead) forget() {
	maps.DeleteFunc(a.kids, func(_ pack.ID, k kid) bool { return k.taken })
	if len(a.kids) > aheadKids/2 {
		a.reset()
	}
}

// take takes note that ids are asked for. known says that one at least was expected.
func (a *ahead) take(ids []pack.ID) (list []asked, known bool) {
	list = make([]asked, len(ids))
	a.mu.Lock()
	defer a.mu.Unlock()
	walking := false
	for i, id := range ids {
		x := &list[i]
		x.kid, x.known = a.kids[id]
		known = known || x.known
		if x.known && !x.kid.taken {
			x.kid.taken = true
			a.kids[id] = x.kid
			a.at = x.kid.at
			if fam := x.kid.of; !fam.meta {
				fam.asked++
				walking = walking || fam.asked > 1
			}
		}
		x.early = cmp.Or(a.held[id], a.given[0][id], a.given[1][id])
		if x.early == nil && x.known && len(a.held) >= a.window {
			a.evict()
		}
	}
	if walking {
		a.window = min(2*max(a.window, len(ids), aheadStart/2), aheadObjects)
	}
	return list, known
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

// evict lets go of what the walk has passed by, and of what it comes to last, up to half
// of what is held, with a.mu held.
func (a *ahead) evict() {
	var list []*early
	for _, e := range a.held {
		if isClosed(e.done) {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(x, y *early) int { return cmp.Compare(x.kid.at, y.kid.at) })
	for _, e := range list {
		if e.kid.at < a.at {
			a.drop(e)
		}
	}
	for _, e := range slices.Backward(list) {
		if len(a.held) <= a.window/2 {
			return
		}
		if a.held[e.id] == e {
			a.drop(e)
			a.todo.add(e.kid.at, e.id)
		}
	}
}

// saw takes note of trees that somebody has got and who asked for them.
func (a *ahead) saw(kids []kid, trees [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, body := range trees {
		a.expect(body, kids[i])
	}
}

// begin takes note of a tree that nobody could expect: it is the root of another walk.
func (a *ahead) begin(body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reset()
	a.expect(body, kid{of: new(family)})
}

// bupm is the name of what holds the metadata of a directory.
var bupm = []byte(".bupm")

// expect takes note of the children of a tree, with a.mu held: its metadata, then trees
// of chunks, then directories, as a walk takes them. Of a .bupm all is wanted, of others
// no contents.
func (a *ahead) expect(body []byte, tree kid) {
	if len(a.kids) > aheadKids {
		a.forget()
	}
	fam, meta := new(family), &family{meta: true}
	var lists [3][]pack.ID // metadata, trees of chunks, directories
	s := repo.NewTreeScanner(body)
	for n := 0; s.Next() && n < aheadKids; n++ {
		k := 2
		if tree.of.meta || bytes.Equal(s.Name, bupm) {
			k = 0
		} else if s.Mode != repo.ModeDir {
			continue
		} else if _, chunked := repo.UnmangleName(s.Mode, string(s.Name)); chunked {
			k = 1
		}
		lists[k] = append(lists[k], s.ID)
	}
	n := 0
	for k, of := range [...]*family{meta, fam, fam} {
		for _, id := range lists[k] {
			if k, again := a.kids[id]; again && !k.taken {
				continue
			}
			at := tree.at.child(n)
			n++
			a.kids[id] = kid{of: of, at: at}
			a.todo.add(at, id)
		}
	}
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
	for len(list) < room {
		id, ok := a.todo.first()
		if !ok {
			break
		}
		k, wanted := a.kids[id]
		if !wanted || k.taken || a.held[id] != nil {
			continue // it was asked for meanwhile
		}
		e := &early{id: id, kid: k, done: make(chan struct{})}
		a.held[id] = e
		list = append(list, e)
	}
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
	for _, e := range list[n:] { // there was no room for it
		a.drop(e)
		a.todo.add(e.kid.at, e.id)
	}
	for _, e := range list[:n] {
		if a.held[e.id] == e {
			a.bytes += int64(len(e.body))
		}
		if e.t == pack.Tree {
			a.expect(e.body, e.kid)
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
