package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

// swap makes the next state of the depot: all packs of the desk come into it, and
// change is applied to the rest. What target reaches is looked for again if the state is
// not the one that was looked at before (I2, I9).
func (p *Packs) swap(ctx context.Context, target pack.ID, drop []string, change func(*State) error) error {
	add, err := p.sendRest(ctx, drop)
	if err != nil {
		return err
	}
	step := Step{Add: add, Drop: drop, Change: func(files FarStore, s *State) error {
		if err := p.followed(ctx, files, s, target); err != nil {
			return err
		}
		p.listIn(s, add)
		return change(s)
	}}
	select {
	case p.depot.moving <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.depot.moving }()
	if err := p.depot.depot.Swap(ctx, step); err != nil {
		return err
	}
	if err := p.depot.forget(drop); err != nil {
		return err
	}
	files, s, err := p.depot.depot.Latest(ctx)
	if err != nil {
		return err
	}
	return p.follow(ctx, files, s)
}

// follow goes on from another state of the depot.
func (p *Packs) follow(ctx context.Context, files FarStore, s State) error {
	p.depot.follow(files, s)
	p.mu.Lock()
	p.sure, p.scanned = false, time.Time{}
	p.mu.Unlock()
	return p.refresh(ctx)
}

// followed goes on from the state that a step is to replace, if it is another one, and makes
// sure that what the step wants to rest on is still there.
func (p *Packs) followed(ctx context.Context, files FarStore, s *State, target pack.ID) error {
	_, known := p.depot.at()
	if sameState(known, s) {
		return nil
	}
	if err := p.follow(ctx, files, *s); err != nil || target.IsZero() {
		return err
	}
	lacks, err := p.missing(ctx, nil, []pack.ID{target})
	if err == nil && len(lacks) > 0 {
		err = fmt.Errorf("garbage was collected meanwhile, and with it what the save rests on; run it again: %w", &MissingError{ID: target})
	}
	return err
}

// sameState reports whether two states are one: every move writes a receipt, and every other
// change one of the files.
func sameState(a, b *State) bool {
	for name, text := range a.Files() {
		if !bytes.Equal(*text, *b.Files()[name]) {
			return false
		}
	}
	return a.Head == b.Head && slices.Equal(a.Refs, b.Refs)
}

// sendRest sends what of the desk was not sent yet and is not to be dropped, and returns the
// packs that the next state is to name: all of them, as proofs may rest on some that are not closed.
func (p *Packs) sendRest(ctx context.Context, drop []string) (add []string, err error) {
	near, err := p.depot.near(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	for name := range near {
		if p.table.Load().byName[name] == nil || slices.Contains(drop, name) {
			continue // its pack is gone, or about to go
		}
		if err := p.depot.send(ctx, name); err != nil {
			return nil, err
		}
		add = append(add, name)
	}
	slices.Sort(add)
	return add, nil
}

// send sends a pack if the desk still has it.
func (d *desk) send(ctx context.Context, name string) error {
	one, _ := d.sending.LoadOrStore(name, new(sync.Mutex))
	one.(*sync.Mutex).Lock()
	defer one.(*sync.Mutex).Unlock()
	file := d.name(dirPacks + "/" + name + ".pack")
	if sent, err := d.wasSent(file); sent || err != nil {
		return err
	}
	if err := d.depot.Send(ctx, d.Dir, name); err != nil {
		if sent, _ := d.wasSent(file); sent && errors.Is(err, fs.ErrNotExist) {
			return nil // by another process, in the midst of it
		}
		return err
	}
	if err := d.fs.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// wasSent reports whether a pack is no more at the desk.
func (d *desk) wasSent(file string) (bool, error) {
	_, err := d.fs.Lstat(file)
	if noFile(err) {
		return true, nil
	}
	return false, err
}

// forget removes what the desk has of packs that were dropped.
func (d *desk) forget(names []string) error {
	for _, name := range names {
		for _, ending := range []string{".idx", ".pack"} {
			err := d.fs.Remove(d.name(dirPacks + "/" + name + ending))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// listIn adds to the list of closed packs of a state those that are added to it, and those
// that proofs rest on.
func (p *Packs) listIn(s *State, add []string) {
	listed := make(map[closedLine]bool)
	for _, l := range parseClosed(s.Closed) {
		listed[l] = true
	}
	text := s.Closed[:len(s.Closed):len(s.Closed)]
	for _, f := range p.table.Load().packs {
		closed, own := f.closed.Load(), slices.Contains(add, f.name)
		if l := lineOf(f, !closed); (closed && own || !closed && f.relied.Load()) && !listed[l] {
			text = l.append(text)
		}
	}
	s.Closed = text
}

// moveIn is move for a state.
func (d *desk) moveIn(s *State, r Receipt) error {
	var at pack.ID
	for _, ref := range s.Refs {
		if ref.Name == r.Ref {
			at = ref.ID
		}
	}
	if at == r.New {
		return errDone
	}
	if at != r.Old {
		return &RefChangedError{Ref: r.Ref, Want: r.Old, Got: at}
	}
	if r.Old.IsZero() {
		if err := conflict(r.Ref, s.Refs); err != nil {
			return err
		}
	}
	good, last, sum, err := receiptsTail(bytes.NewReader(s.Receipts), int64(len(s.Receipts)))
	if err != nil {
		return err
	}
	r.Seq, r.Prev = last.Seq+1, sum
	r.Time = max(d.now().Unix(), last.Time)
	line := r.Append(nil)
	if len(line) > maxReceipt {
		return fmt.Errorf("receipt for %s: line longer than %d bytes", r.Ref, maxReceipt)
	}
	s.Receipts = append(s.Receipts[:good:good], line...)
	s.Refs = slices.DeleteFunc(slices.Clone(s.Refs), func(ref Ref) bool { return ref.Name == r.Ref })
	if !r.New.IsZero() {
		s.Refs = append(s.Refs, Ref{Name: r.Ref, ID: r.New})
		slices.SortFunc(s.Refs, func(a, b Ref) int { return strings.Compare(a.Name, b.Name) })
	}
	return nil
}

// errDone says that nothing is to be done.
var errDone = errors.New("done already")

// moveDepot is the part of SetRef that makes the next state.
func (p *Packs) moveDepot(ctx context.Context, r Receipt) error {
	err := p.swap(ctx, r.New, nil, func(s *State) error { return p.depot.moveIn(s, r) })
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}

// rewriteText changes a file of the state: in its directory, under the lock of the refs, or
// by the next state of the depot.
func (p *Packs) rewriteText(ctx context.Context, name string, change func(old []byte) ([]byte, error)) error {
	if p.depot != nil {
		err := p.swap(ctx, pack.ID{}, nil, func(s *State) error {
			at := s.Files()[name]
			text, err := change(*at)
			if err == nil && bytes.Equal(text, *at) {
				err = errDone
			}
			*at = text
			return err
		})
		if errors.Is(err, errDone) {
			return nil
		}
		return err
	}
	return p.dir.withRefLock(ctx, func(*refLock) error {
		old, err := p.dir.text(name)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err == nil {
			old, err = change(old)
		}
		if err != nil {
			return err
		}
		return p.dir.replace(name, old)
	})
}

// text returns the text of one of the small files of the state.
func (d *Dir) text(name string) ([]byte, error) { return d.fs.ReadFile(d.name(name), maxPins) }

// retireDepot is Retire for a depot: one step, which drops the packs and replaces the list
// of closed ones. It goes on from the state that the decision was made on, and from no other.
// Who deletes what no state names any more is the depot's business.
func (p *Packs) retireDepot(ctx context.Context, r Retirement) error {
	var drop []string
	gone := make(map[pack.ID]bool)
	for _, id := range slices.Concat(r.Trees, r.Data) {
		gone[id] = true
		drop = append(drop, "pack-"+id.String())
	}
	_, decided := p.depot.at()
	return p.swap(ctx, pack.ID{}, drop, func(s *State) error {
		if !sameRefs(decided, s) {
			return &BusyError{What: "the repository", Hint: "somebody saved to it while garbage was looked for; run it again"}
		}
		s.Closed = p.relisted(parseClosed(s.Closed), r.Closed, func(id pack.ID) bool { return gone[id] })
		return nil
	})
}

// sameRefs reports whether no ref has moved from one state to the other.
func sameRefs(a, b *State) bool {
	return slices.Equal(a.Refs, b.Refs) && bytes.Equal(a.Receipts, b.Receipts)
}
