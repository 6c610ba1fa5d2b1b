package index

import (
	"errors"
	"fmt"
)

// Rewrite makes the next version of the file: the records as they are, but for
// those that were Set or Dropped. Blocks without a change are copied whole, and
// not even read.
//
// It keeps the promises of the format whatever the caller does: the Below counts
// of the directories above dropped records go down, and a directory is not valid
// if a record below it was Set and is not.
type Rewrite struct {
	f    *File
	m    merge
	next uint64 // the least ordinal that may come
	// The directories above what was dropped, or became invalid, have to be
	// looked at.
	guard   guard
	drops   []dropped
	invalid uint64 // one more than the ordinal of the last record Set invalid, 0: none
	err     error
	over    bool
}

// dropped counts dropped records at and after an ordinal of the old version,
// which lie in no directory that has been passed on since.
type dropped struct{ at, n uint64 }

var errFinished = errors.New("index: the rewrite is finished")

// Rewrite begins a new version of an index opened exclusively.
func (f *File) Rewrite() *Rewrite {
	w := &Rewrite{f: f, m: merge{old: f.e, c: cursor{e: f.e}}}
	w.m.w = writer{fs: f.fs, name: f.name, old: f.e}
	if f.lock == nil {
		w.err = fmt.Errorf("%s: opened for reading only", f.name)
	}
	return w
}

// Set replaces a record. Ordinals must ascend over all calls of Set and Drop.
// The path must be the one it has; rec.Below is not looked at.
func (w *Rewrite) Set(ordinal uint64, rec *Record) error {
	old, err := w.to(ordinal)
	if err != nil {
		return err
	}
	if rec.Path != old.Path {
		return w.fail(fmt.Errorf("%s: record %d is %s, not %s", w.f.name, ordinal, old.Path, rec.Path))
	}
	r := *rec
	r.Below = old.Below
	w.settle(ordinal, old.Below, &r)
	if r.Flags&Valid == 0 {
		w.invalid = ordinal + 1
		if old.Flags&Valid != 0 {
			w.guard.watch(keyOf(old.Path))
		}
	}
	return w.fail(w.m.replace(&r))
}

// Drop leaves a record out.
func (w *Rewrite) Drop(ordinal uint64) error {
	old, err := w.to(ordinal)
	if err != nil {
		return err
	}
	w.guard.watch(keyOf(old.Path))
	w.drops = append(w.drops, dropped{ordinal, 1})
	w.collapse(ordinal - old.Below)
	return w.fail(w.m.drop())
}

// fail keeps the first error, after which nothing goes on.
func (w *Rewrite) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// to passes on everything before an ordinal, and returns its record.
func (w *Rewrite) to(ordinal uint64) (*Record, error) {
	switch {
	case w.err != nil:
		return nil, w.err
	case w.over:
		return nil, errFinished
	case ordinal < w.next || ordinal >= w.m.old.records:
		return nil, w.fail(fmt.Errorf("%s: record %d out of turn: %d of %d are passed", w.f.name, ordinal, w.next, w.m.old.records))
	}
	w.next = ordinal + 1
	if err := w.pass(ordinal); err != nil {
		return nil, w.fail(err)
	}
	rec, err := w.m.current()
	return rec, w.fail(err)
}

// pass passes on everything before an ordinal.
func (w *Rewrite) pass(ordinal uint64) error {
	for w.m.ordinal() < ordinal {
		if w.m.canSkip() {
			if blocks, i := w.m.old.blocks, w.m.c.blk; blocks[i].end() <= ordinal && !w.guard.mayBeIn(blocks, i) {
				if err := w.m.skipBlock(); err != nil {
					return err
				}
				continue
			}
		}
		rec, err := w.m.current()
		if err != nil {
			return err
		}
		if err := w.passRecord(rec); err != nil {
			return err
		}
	}
	return nil
}

// passRecord passes on the current record, corrected if it has to be.
func (w *Rewrite) passRecord(rec *Record) error {
	if rec.Below == 0 {
		return w.m.keep()
	}
	r := *rec
	w.settle(w.m.ordinal(), rec.Below, &r)
	if r.Below == rec.Below && r.Flags == rec.Flags {
		return w.m.keep()
	}
	return w.m.replace(&r)
}

// settle corrects a record that had so many below it.
func (w *Rewrite) settle(ordinal, below uint64, r *Record) {
	r.Below -= w.collapse(ordinal - below)
	if w.invalid > ordinal-below {
		r.Flags &^= Valid
	}
}

// collapse returns how many records were dropped since an ordinal, and makes one
// entry of them, so that the list grows with the width of one directory only.
func (w *Rewrite) collapse(since uint64) uint64 {
	n, sum := len(w.drops), uint64(0)
	for ; n > 0 && w.drops[n-1].at >= since; n-- {
		sum += w.drops[n-1].n
	}
	w.drops = w.drops[:n]
	if sum > 0 {
		w.drops = append(w.drops, dropped{since, sum})
	}
	return sum
}

// Commit puts the new version in place, durably. If nothing was set or dropped
// the file is not touched. The File reads the new version then; iterators that
// were made before are over.
func (w *Rewrite) Commit() error {
	if w.err == nil && w.over {
		w.err = errFinished
	}
	if w.err == nil && w.m.changed && w.fail(w.pass(w.m.old.records)) == nil {
		e, err := w.m.w.finish()
		if w.fail(err) == nil {
			_ = w.f.e.file.Close() // it was only read
			w.f.e = e
		}
	}
	w.Abort()
	return w.err
}

// Abort throws the new version away; after Commit it does nothing.
func (w *Rewrite) Abort() {
	if !w.over {
		w.over = true
		w.m.w.abort()
	}
}
