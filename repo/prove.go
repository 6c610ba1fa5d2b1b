package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kedgebackup/kedge/pack"
)

const (
	// maxProved bounds the memory of proofs. When it is full they are all
	// forgotten, which costs time and nothing else.
	maxProved = 1 << 19

	// A pack of which one object after the other was read is read as a whole
	// when these many bytes, and an eighth of it, have been asked for: that
	// is faster per object, and lasts, because the pack can be listed.
	minWholeProof = 4 << 20
)

// proof remembers what was proved of objects outside of closed packs.
type proof struct {
	stale atomic.Bool // packs were taken away: forget everything

	mu    sync.Mutex
	known map[pack.ID]bool    // whether all below is there; only for objects in open packs
	read  map[*packFile]int64 // bytes read of a pack, one object after the other
	tried map[*packFile]bool  // packs that were read as a whole
}

// begin forgets, with mu held, what can no longer be believed and what is too much.
func (pr *proof) begin() {
	if pr.stale.Swap(false) || pr.read == nil {
		pr.known, pr.read, pr.tried = nil, make(map[*packFile]int64), make(map[*packFile]bool)
	}
	if pr.known == nil || len(pr.known) > maxProved {
		pr.known = make(map[pack.ID]bool)
	}
}

// step is an object whose children are being looked at.
type step struct {
	id   pack.ID
	kids []pack.ID
}

// prove reports whether an object that is in no closed pack is there with all
// below it. It walks down in depth, as far as objects in closed packs, and
// reads and hashes everything on the way.
func (p *Packs) prove(ctx context.Context, id pack.ID) (bool, error) {
	pr := &p.proof
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.begin()
	good, known := pr.known[id]
	if known {
		return good, nil
	}
	r := newReader()
	s, here, err := p.enter(ctx, r, id)
	if err != nil || !here {
		return false, err
	}
	stack := []step{s}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if len(top.kids) == 0 {
			pr.known[top.id] = true
			stack = stack[:len(stack)-1]
			continue
		}
		kid := top.kids[len(top.kids)-1]
		top.kids = top.kids[:len(top.kids)-1]
		good, known := pr.known[kid]
		if !known {
			s, good, err = p.enter(ctx, r, kid)
			if err != nil {
				return false, err
			}
		}
		switch {
		case !good: // and so is nothing that has it below
			for _, s := range stack {
				pr.known[s.id] = false
			}
			return false, nil
		case !known && len(s.kids) > 0:
			stack = append(stack, s)
		}
	}
	return pr.known[id], nil
}

// enter looks at one object: here is false if it is not there or its bytes are
// wrong. The step that it returns has no kids if there is nothing to walk down to.
func (p *Packs) enter(ctx context.Context, r *reader, id pack.ID) (s step, here bool, err error) {
	if err := ctx.Err(); err != nil {
		return s, false, err
	}
	t := p.table.Load()
	s.id = id
	_, closed, err := p.find(t, id, isClosed)
	if err != nil || closed {
		return s, closed, err
	}
	at, here, err := p.find(t, id, nil)
	if err != nil || !here {
		return s, false, err
	}
	if p.wantWhole(at.file) {
		if err := p.proveWhole(ctx, at.file); err != nil {
			return s, false, err
		}
		if at.file.closed.Load() {
			return s, true, nil
		}
	}
	typ, body, err := p.objectAt(r, id, at)
	if isWrong(err) {
		p.proof.known[id] = false
		return s, false, nil
	} else if err != nil {
		return s, false, err
	}
	p.proof.read[at.file] += int64(len(body))
	at.file.relied.Store(true)
	if s.kids, err = children(nil, typ, body); err != nil {
		p.proof.known[id] = false
		return s, false, nil
	}
	if len(s.kids) == 0 {
		p.proof.known[id] = true
	}
	return s, true, nil
}

// isWrong reports whether an error speaks about the bytes of an object, and not
// about the attempt to read them.
func isWrong(err error) bool {
	return errors.As(err, new(*pack.CorruptError)) || errors.Is(err, pack.ErrTooLarge) || errors.Is(err, errGone)
}

// wantWhole reports whether it is time to read the whole pack.
func (p *Packs) wantWhole(f *packFile) bool {
	n := p.proof.read[f]
	return !p.proof.tried[f] && n >= min(minWholeProof, f.size/2) && n >= f.size/8
}

// proveWhole reads whole packs: f, those that hold children of its objects, and
// so on. All objects of a pack must be what the idx says, and have their
// children in closed packs or among the packs read. Those that pass are listed
// as closed together; that they may lean on each other does no harm, because
// ids are hashes and no object can be below itself.
func (p *Packs) proveWhole(ctx context.Context, f *packFile) error {
	leans := make(map[*packFile]map[*packFile]bool)
	bad := make(map[*packFile]bool)
	for todo := []*packFile{f}; len(todo) > 0; {
		at := todo[0]
		todo = todo[1:]
		if leans[at] != nil || at.closed.Load() {
			continue
		}
		if p.proof.tried[at] {
			bad[at] = true
			continue
		}
		p.proof.tried[at] = true
		on, err := p.walkPack(ctx, at)
		leans[at] = on
		if on == nil {
			leans[at] = map[*packFile]bool{}
		}
		if isWrong(err) || errors.Is(err, errOpen) {
			bad[at] = true
		} else if err != nil {
			return err
		}
		for other := range on {
			todo = append(todo, other)
		}
	}
	for again := true; again; { // who leans on a bad one is bad
		again = false
		for at, on := range leans {
			for other := range on {
				if !bad[at] && bad[other] {
					bad[at], again = true, true
				}
			}
		}
	}
	var good []*packFile
	for at := range leans {
		if !bad[at] {
			at.closed.Store(true)
			good = append(good, at)
		}
	}
	return p.addClosed(ctx, good)
}

// errOpen says that a pack has an object that lacks something below it.
var errOpen = errors.New("object without its children")

// walkPack reads one pack and returns the other packs that hold children of
// its objects.
func (p *Packs) walkPack(ctx context.Context, f *packFile) (on map[*packFile]bool, err error) {
	if ok, err := p.open(f); err != nil || !ok {
		return nil, firstErr(err, errGone)
	}
	on = make(map[*packFile]bool)
	hasher := pack.NewHasher()
	var kids []pack.ID
	err = f.pack.Walk(pack.NewScratch(maxBlob), nil, f.idx.Find, func(it *pack.Item) error {
		if err := firstErr(ctx.Err(), it.Err); err != nil {
			return err
		}
		id, err := hasher.Sum(it.Type, it.Body)
		if err != nil {
			return err
		}
		off, ok, err := f.idx.Find(id)
		if err != nil {
			return err
		}
		if !ok || off != it.Off {
			return &pack.CorruptError{File: f.packName(), Off: it.Off, Reason: fmt.Sprintf("object %v is not in the idx", id)}
		}
		if kids, err = children(kids[:0], it.Type, it.Body); err != nil {
			return err
		}
		for _, kid := range kids {
			if err := p.leansOn(f, kid, on); err != nil {
				return err
			}
		}
		return nil
	})
	if isGone(err) {
		err = errGone
	}
	return on, err
}

// leansOn finds the pack of a child of an object in f, and notes it if it is
// another one and not closed.
func (p *Packs) leansOn(f *packFile, kid pack.ID, on map[*packFile]bool) error {
	if _, ok, err := p.findIn(f, kid); ok || err != nil {
		return err
	}
	t := p.table.Load()
	if _, ok, err := p.find(t, kid, isClosed); ok || err != nil {
		return err
	}
	at, ok, err := p.find(t, kid, nil)
	if err == nil && !ok {
		return errOpen
	}
	if ok {
		on[at.file] = true
	}
	return err
}

// children appends the ids that an object names and that must be there with it.
// The commit of another repository's that a gitlink names is not.
func children(dst []pack.ID, t pack.Type, body []byte) ([]pack.ID, error) {
	switch t {
	case pack.Tree:
		s := NewTreeScanner(body)
		for s.Next() {
			if s.Mode != modeGitlink {
				dst = append(dst, s.ID)
			}
		}
		return dst, s.Err()
	case pack.Commit:
		c, err := ParseCommit(body)
		return append(append(dst, c.Tree), c.Parents...), err
	case pack.Tag:
		line, _, _ := bytes.Cut(body, []byte("\n"))
		hex, ok := bytes.CutPrefix(line, []byte("object "))
		id, err := pack.ParseID(string(hex))
		if err != nil || !ok {
			return dst, &pack.CorruptError{Off: 0, Reason: "tag without an object"}
		}
		return append(dst, id), nil
	}
	return dst, nil
}
