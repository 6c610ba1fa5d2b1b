package repo

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// The size at which a pack is finished and the next one begun.
const (
	defaultPackSize    = 128 << 20
	defaultPackObjects = 200_000
)

// kidsAtOnce is how many children of new trees and commits are gathered before
// it is looked whether they are there.
const kidsAtOnce = 32 << 10

// scratchKept is how much room for the body of an object is kept for the next one.
const scratchKept = 1 << 20

// Begin starts a session that adds objects.
func (p *Packs) Begin(ctx context.Context) (Session, error) {
	if p.readOnly {
		return nil, ErrReadOnly
	}
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	if p.dir != nil {
		if err := p.dir.cleanRefLocks(ctx); err != nil {
			return nil, err
		}
	}
	promised, names := promise(p.table.Load(), nil)
	dir, err := p.desk.begin(ctx, names)
	if err != nil {
		return nil, err
	}
	s := &session{p: p, dir: dir, promised: promised, store: dir, dec: pack.NewDecoder(maxTree), hasher: pack.NewHasher()}
	s.maxSize, s.maxObjects = int64(defaultPackSize), defaultPackObjects
	if p.config.PackSizeLimit > 0 {
		s.maxSize = p.config.PackSizeLimit
	}
	if p.config.PackObjects > 0 {
		s.maxObjects = p.config.PackObjects
	}
	// What was there when the promise was given counts; packs may have come
	// and gone between the first look and the promise.
	if err := firstErr(s.rely(ctx, 0), s.checkTables(ctx)); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// LimitPacks says when the packs of sessions that begin from now on are finished: at a
// size, or at a number of objects. 0 leaves what the config says.
func (p *Packs) LimitPacks(size int64, objects int) {
	if size > 0 {
		p.config.PackSizeLimit = size
	}
	if objects > 0 {
		p.config.PackObjects = objects
	}
}

// promise returns the packs of a table, and the names of those that are not
// among the packs promised before.
func promise(t *table, before map[string]bool) (all map[string]bool, add []string) {
	all = make(map[string]bool, len(t.packs))
	for _, f := range t.packs {
		all[f.name] = true
		if !before[f.name] {
			add = append(add, f.name)
		}
	}
	return all, add
}

// rely looks for packs that came or went, and has the session rely on the new
// ones: it adds them to its list, and while nobody can decide to delete
// anything it makes sure that they are still there. What came less than age ago
// may stay unseen.
func (s *session) rely(ctx context.Context, age time.Duration) error {
	if err := s.p.refreshAfter(ctx, age); err != nil || s.p.table.Load() == s.seen.Load() {
		return err
	}
	s.promising.Lock()
	defer s.promising.Unlock()
	t := s.p.table.Load()
	all, add := promise(t, s.promised)
	if len(add) > 0 {
		maint, err := s.dir.lock(ctx, fileMaint, fsx.Shared)
		if err != nil {
			return err
		}
		defer maint.Unlock()
		if err := firstErr(s.dir.promise(add), s.p.refresh(ctx)); err != nil {
			return err
		}
	}
	// Packs that came in this moment are promised the next time.
	s.promised = all
	s.seen.Store(t)
	return nil
}

// session adds objects to packs of its own: one for data and one for trees is
// open at any time, and one of each may be on its way out in the background.
// Which objects are in packs that are not yet listed as closed is known by
// their sets of ids; all others are looked up in the repository.
type session struct {
	p     *Packs
	dir   *Dir  // lease
	store Store // dir

	maxSize    int64
	maxObjects int

	open   [2]*newPack // by class; nil if nothing was added since the last one
	last   [2]*newPack // by class; the one before, finished or on its way
	dec    *pack.Decoder
	hasher *pack.Hasher
	body   []byte
	ids    []pack.ID // scratch of Add
	lacks  []pack.ID // scratch of Add
	kids   []link    // children not yet looked for

	seen      atomic.Pointer[table] // the packs of which are all promised
	promising sync.Mutex            // guards what follows
	promised  map[string]bool       // names of packs that the session lists

	mu      sync.RWMutex // guards what follows
	live    []*newPack   // packs whose objects are not yet found through p
	objects int64
	bytes   int64
	stored  int64 // bytes of entries
	err     error // sticky
	closed  bool
	// published are the packs that got their names, for Upload.Published.
	published []*packFile

	free []map[pack.ID]struct{} // sets to be used again
}

// link is a child that a new object names.
type link struct {
	kid, parent pack.ID
	class       Class // of the parent
}

// newPack is a pack being made.
type newPack struct {
	class Class
	out   Pending
	w     *pack.Writer
	ids   map[pack.ID]struct{} // guarded by session.mu
	leans bool                 // data that names objects of the pack of trees
	done  chan struct{}        // closed when it is published, or has failed
	file  *packFile            // set then, if it has not failed
}

// missingAge: after every pack of its own a session would list the directory at
// each question for a tenth of a second, until the clock has ticked for certain.
// A pack of another writer that it overlooks so long costs room for an object.
const missingAge = 50 * time.Millisecond

// Missing is Repo.Missing, and counts as present what this session added.
func (s *session) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	if err := s.failed(); err != nil {
		return dst, err
	}
	start := len(dst)
	s.mu.RLock()
	for _, id := range ids {
		if s.has(id) == nil {
			dst = append(dst, id)
		}
	}
	s.mu.RUnlock()
	if len(dst) == start {
		return dst, nil
	}
	if err := s.rely(ctx, missingAge); err != nil {
		return dst[:start], err
	}
	return s.p.missing(ctx, dst[:start], dst[start:])
}

// has returns the live pack that holds an object, with s.mu held.
func (s *session) has(id pack.ID) *newPack {
	for _, n := range s.live {
		if _, ok := n.ids[id]; ok {
			return n
		}
	}
	return nil
}

// failed returns the error that ended the session, if one did.
func (s *session) failed() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return ErrClosed
	}
	return s.err
}

// fail ends the session with its first error; an end that the caller wished is
// one as well, because nobody knows how far the operation came.
func (s *session) fail(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	return err
}

// Add appends objects, children before parents.
//
// Trees and commits are decoded, their ids compared and their children noted,
// to be looked for in time; that of blobs the ids are right is the caller's
// word, of which the reading back of the pack takes a sample.
func (s *session) Add(ctx context.Context, class Class, entries []pack.Entry) error {
	if err := s.failed(); err != nil {
		return err
	}
	return s.fail(s.add(ctx, class, entries))
}

func (s *session) add(ctx context.Context, class Class, entries []pack.Entry) error {
	if class > Trees {
		return fmt.Errorf("unknown class %d", class)
	}
	s.ids = s.ids[:0]
	for i := range entries {
		s.ids = append(s.ids, entries[i].ID)
	}
	var err error
	if s.lacks, err = s.Missing(ctx, s.lacks[:0], s.ids); err != nil {
		return err
	}
	lacks := s.lacks // in the order of entries
	for i := range entries {
		e := &entries[i]
		if len(lacks) == 0 || e.ID != lacks[0] {
			continue
		}
		lacks = lacks[1:]
		if err := s.addOne(ctx, class, e); err != nil {
			return err
		}
	}
	return nil
}

// addOne appends an object that is not there yet, unless it came twice at once.
func (s *session) addOne(ctx context.Context, class Class, e *pack.Entry) error {
	n, err := s.room(ctx, class, len(e.Bytes))
	if err != nil {
		return err
	}
	s.mu.Lock()
	again := s.has(e.ID) != nil
	if !again {
		n.ids[e.ID] = struct{}{}
		s.objects++
		s.stored += int64(len(e.Bytes))
	}
	s.mu.Unlock()
	if again {
		return nil
	}
	t, _, _, err := pack.ParseHeader(e.Bytes)
	if err == nil && t != pack.Blob {
		err = s.note(ctx, class, e)
	}
	if err != nil {
		return fmt.Errorf("object %v: %w", e.ID, err)
	}
	return n.w.Add([]pack.Entry{*e})
}

// note checks the id of an object that has children, and notes them.
func (s *session) note(ctx context.Context, class Class, e *pack.Entry) error {
	body, t, used, err := s.dec.Append(s.body[:0], e.Bytes)
	s.body = body
	if err != nil {
		return err
	}
	id, err := s.hasher.Sum(t, body)
	if err != nil {
		return err
	}
	if id != e.ID || used != len(e.Bytes) {
		return &pack.CorruptError{File: "entry", Off: -1, Reason: fmt.Sprintf("it is %v %v", t, id)}
	}
	s.ids, err = children(s.ids[:0], t, body)
	if err != nil {
		return err
	}
	for _, kid := range s.ids {
		if len(s.kids) >= kidsAtOnce {
			if err := s.checkKids(ctx); err != nil {
				return err
			}
		}
		s.kids = append(s.kids, link{kid, id, class})
	}
	if cap(s.body) > scratchKept { // a tree of a million names comes once
		s.body, s.ids = nil, nil
	}
	return nil
}

// checkKids makes sure that all children noted so far are there (I9). In the
// order of their ids, duplicates fall together and look-ups read neighbouring
// parts of the tables.
func (s *session) checkKids(ctx context.Context) error {
	slices.SortFunc(s.kids, func(a, b link) int { return a.kid.Compare(b.kid) })
	var ask []pack.ID
	s.mu.RLock()
	for _, l := range s.kids {
		n := s.has(l.kid)
		if n == nil {
			if len(ask) == 0 || ask[len(ask)-1] != l.kid {
				ask = append(ask, l.kid)
			}
			continue
		}
		if o := s.open[Data]; l.class == Data && o != nil && n != o && (n.class == Trees || n.leans) {
			o.leans = true
		}
	}
	s.mu.RUnlock()
	if err := s.rely(ctx, 0); err != nil {
		return err
	}
	lacks, err := s.p.missing(ctx, nil, ask)
	if err != nil {
		return err
	}
	if len(lacks) > 0 {
		i, _ := slices.BinarySearchFunc(s.kids, lacks[0], func(l link, id pack.ID) int { return l.kid.Compare(id) })
		return fmt.Errorf("object %v cannot be stored: %w", s.kids[i].parent, &MissingError{ID: lacks[0]})
	}
	s.kids = s.kids[:0]
	return nil
}

// room returns the open pack of a class, a new one if the entry would not fit.
func (s *session) room(ctx context.Context, class Class, n int) (*newPack, error) {
	if o := s.open[class]; o != nil {
		if o.w.Len() < s.maxObjects && (o.w.Len() == 0 || o.w.Size()+int64(n) <= s.maxSize) {
			return o, nil
		}
		if err := s.rollOver(ctx, class); err != nil {
			return nil, err
		}
	}
	out, err := s.store.Create(ctx)
	if err != nil {
		return nil, err
	}
	o := &newPack{class: class, out: out, w: pack.NewWriter(out), done: make(chan struct{})}
	s.open[class] = o
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := len(s.free); k > 0 {
		o.ids, s.free = s.free[k-1], s.free[:k-1]
	} else {
		o.ids = make(map[pack.ID]struct{})
	}
	s.live = append(s.live, o)
	return o, nil
}

// rollOver sends the open pack of a class on its way. A pack of trees goes
// behind the data that its trees name.
func (s *session) rollOver(ctx context.Context, class Class) error {
	if err := s.checkKids(ctx); err != nil {
		return err
	}
	if class == Trees && s.open[Data] != nil {
		if err := s.rollOver(ctx, Data); err != nil {
			return err
		}
	}
	n := s.open[class]
	if n == nil {
		return nil
	}
	if before := s.last[class]; before != nil {
		<-before.done // one pack of a class at a time, to bound memory
	}
	after := s.last[Data]
	ctx = context.WithoutCancel(ctx) // the session ends it, not the call that began it
	s.open[class], s.last[class] = nil, n
	go func() {
		defer close(n.done)
		if class == Trees && after != nil {
			<-after.done
		}
		if s.failed() != nil {
			n.out.Abort()
			return
		}
		s.fail(s.publish(ctx, n))
	}()
	return s.failed()
}

// Commit makes everything added durable and visible.
func (s *session) Commit(ctx context.Context) error {
	if err := s.failed(); err != nil {
		return err
	}
	return s.fail(s.commit(ctx))
}

func (s *session) commit(ctx context.Context) error {
	for _, class := range []Class{Data, Trees} {
		if err := s.rollOver(ctx, class); err != nil {
			return err
		}
	}
	s.wait()
	if err := s.failed(); err != nil {
		return err
	}
	if err := s.listRest(ctx); err != nil {
		return err
	}
	s.p.coverPacks(ctx, s.store)
	return nil
}

// wait waits for what goes on in the background.
func (s *session) wait() {
	for _, n := range s.last {
		if n != nil {
			<-n.done
		}
	}
}

// Stats returns what was stored so far.
func (s *session) Stats() (objects, bytes int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.objects, s.bytes
}

// Close ends the session and throws away what was not committed.
func (s *session) Close() error {
	s.wait()
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return nil
	}
	for _, n := range s.open {
		if n != nil {
			n.out.Abort()
		}
	}
	return s.dir.Close()
}

// recycle keeps the set of a pack whose objects are found through the
// repository now.
func (s *session) recycle(n *newPack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = slices.DeleteFunc(s.live, func(o *newPack) bool { return o == n })
	if len(s.free) < 2 {
		clear(n.ids)
		s.free = append(s.free, n.ids)
	}
	n.ids = nil
}
