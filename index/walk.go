package index

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kedgebackup/kedge/internal/fsx"
	"golang.org/x/sys/unix"
)

// openLevels is how many directories of the path that the walk is at have
// descriptors and descriptions waiting. Of those further up only the names are
// kept. It is less than a fsx.Stack keeps open, so what a worker was given is
// open until he is done.
const openLevels = 32

// A walk goes through the tree at one root, in the order of the records.
type walk struct {
	*updater
	ctx    context.Context
	fetch  *fetcher
	root   string // key
	path   []byte // key of what the walk is at
	stack  *fsx.Stack
	frames []frame
}

// A frame is a directory on the path that the walk is at. The first one is the
// directory that the root is in, with the root as its only name.
type frame struct {
	l       *listing
	dir     *fsx.Dir // nil: none in l needs it
	st      fsx.Stat
	key     int // length of the directory's key in walk.path
	next    int // name that is next
	pre     []opened
	preNext int    // name after the last one looked at for pre
	start   uint64 // records in the new index when the directory was entered
	invalid bool   // something in it is not valid
	above   bool   // the first frame
	stacked bool   // dir is on the stack
	lost    bool   // the directory is not where it was
}

// opened is a sub-directory that is being opened in advance.
type opened struct {
	name int
	l    *listing
}

// run walks. It reports whether something at or below the root is not valid.
func (w *walk) run() (invalid bool, err error) {
	defer w.close()
	if err := w.begin(); err != nil {
		return w.noRoot(err)
	}
	for {
		f := w.top()
		switch {
		case f.next < len(f.l.names.list) && !f.lost:
			err = w.name(f)
		case f.above:
			err = w.passGone(f, w.root, through) // the root itself, if it was not there
			return f.invalid, err
		default:
			err = w.leave()
		}
		if err != nil {
			return true, err
		}
	}
}

func (w *walk) top() *frame { return &w.frames[len(w.frames)-1] }

// begin makes the first frame, and if the root is "/" the one of it too, since
// no directory has a name for it.
func (w *walk) begin() error {
	dir, base := "/", ""
	if w.root != "" {
		up := parentKey(w.root)
		dir, base = pathOf(up), w.root[len(up)+1:]
	}
	d, err := fsx.OpenDir(dir)
	if err != nil {
		return err
	}
	w.stack = fsx.NewStack(d)
	st, err := d.Stat()
	if err != nil {
		return err
	}
	l := w.fetch.newListing()
	w.path = append(w.path[:0], keyOf(dir)...)
	w.frames = append(w.frames, frame{l: l, dir: d, st: st, key: len(w.path), above: true})
	if base != "" {
		l.chunks, l.asked = append(l.chunks, nil), true
		err = l.names.add(base, unix.DT_UNKNOWN)
		w.fetch.hide(l, dir)
		return err
	}
	l = w.fetch.newListing()
	w.fetch.list(l, d, dir, nil)
	if l.err != nil {
		w.fetch.release(l)
		return l.err
	}
	w.frames = append(w.frames, frame{l: l, dir: d, st: st, start: w.m.emitted})
	w.lookAhead(w.top())
	return nil
}

// noRoot deals with a root above which something cannot be opened. If that is
// because it is not there, or no directory, the root is gone. Directories above
// are concerned only if something was known of it.
func (w *walk) noRoot(err error) (invalid bool, _ error) {
	w.warn(pathOf(w.root), err)
	start := w.m.emitted
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		err = w.passGone(&frame{}, w.root, through)
	} else {
		err = w.passUnread(&frame{}, w.root)
	}
	return w.m.emitted > start, err
}

// name deals with the next name in a directory.
func (w *walk) name(f *frame) error {
	i := f.next
	c, err := w.chunk(f, i)
	if err != nil {
		return err
	}
	f.next++
	if f.l.names.list[i].hide {
		return nil
	}
	w.path = append(append(w.path[:f.key], '/'), f.l.names.bytes(i)...)
	key := stringOf(w.path)
	if len(w.path) >= maxPath {
		f.invalid = true
		w.warn(key, fmt.Errorf("path of %d bytes: the index takes less than %d", len(w.path), maxPath))
		return nil
	}
	st := &c.st[i%chunkSize]
	if c.errs != nil && c.errs[i%chunkSize] != nil {
		return w.noStat(f, key, c.errs[i%chunkSize])
	}
	if isDir(st.Mode) {
		return w.directory(f, i, key, *st)
	}
	if err := w.passGone(f, key, toTree); err != nil {
		return err
	}
	return w.leaf(f, key, st)
}

// noStat deals with a name that could not be described.
func (w *walk) noStat(f *frame, key string, err error) error {
	gone := errors.Is(err, fs.ErrNotExist)
	if !gone || f.above {
		w.warn(key, err)
	}
	if gone { // just now; what was below it goes as the walk goes on
		return nil
	}
	if err := w.passGone(f, key, toTree); err != nil {
		return err
	}
	return w.passUnread(f, key)
}

// directory deals with a name that is a directory.
func (w *walk) directory(f *frame, i int, key string, st fsx.Stat) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.skipIDs[inode{st.Dev, st.Ino}] {
		return nil
	}
	if err := w.passGone(f, key, toTree); err != nil {
		return err
	}
	if w.foreign(f, &st) {
		return w.leaf(f, key, &st)
	}
	l := w.opened(f, i)
	if err := w.ctx.Err(); err != nil {
		w.discard(l)
		return err
	}
	switch {
	case errors.Is(l.err, fs.ErrNotExist):
		w.fetch.release(l)
		return nil
	case l.err != nil:
		w.warn(key, l.err)
		w.fetch.release(l)
		start := w.m.emitted
		if err := w.passBelow(f, key); err != nil {
			return err
		}
		return w.record(f, key, &st, w.m.emitted-start, true)
	case l.foreign:
		w.fetch.release(l)
		return w.leaf(f, key, &st)
	}
	return w.push(l)
}

// foreign reports whether a directory is on another file system than the one
// above it, and therefore not to be opened.
func (w *walk) foreign(f *frame, st *fsx.Stat) bool {
	return w.o.OneFileSystem && st.Dev != f.st.Dev && !f.above
}

// leaf records what is no directory, or one that is not entered. What the index
// knows below it is gone, and makes it not valid as long as it is known.
func (w *walk) leaf(f *frame, key string, st *fsx.Stat) error {
	start := w.m.emitted
	if err := w.passGone(f, key, toKey); err != nil {
		return err
	}
	return w.record(f, key, st, w.m.emitted-start, w.m.emitted > start)
}

// push enters a directory.
func (w *walk) push(l *listing) error {
	f := frame{l: l, dir: l.dir, st: l.st, key: len(w.path), start: w.m.emitted}
	l.dir = nil
	w.frames = append(w.frames, f)
	if n := len(w.frames) - 1 - openLevels; n >= 0 {
		w.shed(&w.frames[n])
	}
	if f.dir != nil {
		w.top().stacked = true
		if err := w.stack.PushDir(f.dir); err != nil {
			return w.reopen(err)
		}
	}
	w.lookAhead(w.top())
	return nil
}

// leave records the directory that the walk is in and goes back to the one
// above.
func (w *walk) leave() error {
	f := w.top()
	w.path = w.path[:f.key]
	key := stringOf(w.path)
	var err error
	if f.lost {
		err = w.passBelow(f, key)
	} else {
		err = w.passGone(f, key, toKey)
	}
	if err != nil {
		return err
	}
	left := *f
	w.frames = w.frames[:len(w.frames)-1]
	if left.stacked {
		if err := w.stack.Pop(); err != nil {
			if err := w.reopen(err); err != nil {
				return err
			}
		}
	}
	up := w.top()
	if up.dir == nil && !up.lost {
		up.dir = w.stack.Top()
	}
	err = w.record(up, key, &left.st, w.m.emitted-left.start, left.invalid)
	w.shed(&left)
	w.fetch.release(left.l)
	return err
}

// reopen opens the path that the walk is at anew, from the first frame on,
// because the stack lost its way: a directory deep in the tree was moved. Those
// that are not found in their places any more are given up.
func (w *walk) reopen(cause error) error {
	for i := range w.frames {
		w.shed(&w.frames[i])
	}
	w.stack.Close()
	lost := false
	for i := range w.frames {
		f := &w.frames[i]
		if !lost && (f.above || f.stacked) {
			if lost = !w.reopenFrame(i); lost {
				w.warn(pathOf(stringOf(w.path[:f.key])), cause)
			}
		}
		if lost {
			f.stacked, f.lost, f.invalid = false, true, true
		}
	}
	if f := w.top(); !f.lost {
		f.dir = w.stack.Top()
	}
	return w.ctx.Err()
}

// reopenFrame opens the directory of a frame, if it is still the same.
func (w *walk) reopenFrame(i int) bool {
	f := &w.frames[i]
	if f.above {
		d, err := fsx.OpenDir(pathOf(stringOf(w.path[:f.key])))
		if err != nil {
			return false
		}
		w.stack = fsx.NewStack(d)
		st, err := d.Stat()
		return err == nil && sameInode(&st, &f.st)
	}
	d, err := w.stack.Top().Open(string(w.path[w.frames[i-1].key+1 : f.key]))
	if err != nil {
		return false
	}
	if st, err := d.Stat(); err != nil || !sameInode(&st, &f.st) {
		d.Close()
		return false
	}
	return w.stack.PushDir(d) == nil
}

func sameInode(a, b *fsx.Stat) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// close gives back what is open.
func (w *walk) close() {
	for i := range w.frames {
		w.shed(&w.frames[i])
	}
	if w.stack != nil {
		w.stack.Close()
	}
}
