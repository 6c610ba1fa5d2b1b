package repo

import (
	"fmt"
	"slices"

	"github.com/kedgebackup/kedge/pack"
)

// A saved directory is a tree of its items under their mangled names
// (MangleName) and an entry .bupm, the metadata of the directory: a blob, or a
// tree of chunks like any large file. Its bytes are records of package meta, one
// after another: first the directory's own; then one for every item that is no
// directory, in byte order of the items' real names. That is not the order of
// the tree. A directory's metadata is the first record of its own .bupm.
//
//	real names      a   a.x/   b.bup   big (chunked)   z -> a
//	tree            .bupm   a   a.x   b.bup.bupl   big.bup   z
//	records         (self) a b.bup big z

// DirEntry is one item of a directory about to be stored.
type DirEntry struct {
	Name    string // real name
	Mode    uint32 // ModeFile, ModeDir, ModeSymlink
	Chunked bool   // a regular file stored as a tree: Mode is ModeDir
	ID      pack.ID
	Meta    []byte // encoded metadata; nil for directories
}

// dir reports whether the item is a directory, which has no record in the
// .bupm of the directory it stands in.
func (e *DirEntry) dir() bool { return e.Mode == ModeDir && !e.Chunked }

// emptyMeta is the record of something whose metadata is not known.
var emptyMeta = []byte{0}

// DirWriter turns the items of one directory into its tree, .bupm included, and
// into several where the repository splits directories (bup.split.trees).
//
// Items are given one by one to Add, or all to Write. What is kept of them is
// what the tree and the .bupm come to, and an allocation now and then; with
// SplitTrees it is one part of the directory. After an error a DirWriter is
// done with; after Finish it is ready for the next directory.
type DirWriter struct {
	Split      func(body []byte) (TreeEntry, error) // stores .bupm bytes: a blob or a chunk tree
	Emit       func(body []byte) (pack.ID, error)   // stores a tree
	SplitTrees bool

	entries  blocks // of the tree, as they will stand in it
	metas    blocks // records for the .bupm, without the first
	lastName []byte // of the item added last
	disorder bool   // entries are not in git's order

	group  dirGroup    // the part that entries and metas belong to
	cut    bool        // the part is complete if anything follows
	splits nameRoll    // where parts end
	parts  []groupItem // complete ones
}

// Write stores a directory whose items are in byte order of their real names;
// self is the encoded metadata of the directory, nil if there is none.
func (w *DirWriter) Write(self []byte, items []DirEntry) (pack.ID, error) {
	for i := range items {
		if err := w.Add(items[i]); err != nil {
			return pack.ID{}, err
		}
	}
	return w.Finish(self)
}

// Add adds an item. Items come in byte order of their real names. Meta may be
// reused afterwards.
func (w *DirWriter) Add(e DirEntry) error {
	if err := validName(e.Name); err != nil {
		return err
	}
	if e.Chunked && e.Mode != ModeDir || !knownMode(e.Mode) {
		return fmt.Errorf("%q: mode %o", e.Name, e.Mode)
	}
	if w.group.n+len(w.parts) > 0 && e.Name <= string(w.lastName) {
		return fmt.Errorf("%q after %q in one directory", e.Name, w.lastName)
	}
	if w.cut {
		if err := w.endPart(); err != nil {
			return err
		}
	}
	w.append(&e)
	if w.SplitTrees {
		w.group.add(e.Name)
		w.cut = w.splits.feed(e.Name) && w.group.n >= 2
	} else {
		w.group.n++
	}
	return nil
}

// append adds to the tree and to the .bupm.
func (w *DirWriter) append(e *DirEntry) {
	w.lastName = append(w.lastName[:0], e.Name...)
	room := w.entries.room(len("100644  ") + len(e.Name) + len(literalEnd) + idRoom)
	from := len(*room)
	*room = appendMode(*room, e.Mode)
	*room = append(*room, ' ')
	*room = append(*room, e.Name...)
	if e.Chunked {
		*room = append(*room, chunkedEnd...)
	} else if literal(e.Name) {
		*room = append(*room, literalEnd...)
	}
	*room = append(*room, 0)
	*room = e.ID.AppendBytes(*room)
	w.checkOrder(from)
	if !e.dir() {
		m := e.Meta
		if len(m) == 0 {
			m = emptyMeta
		}
		w.metas.append(m)
	}
}

// idRoom is room enough for any id in binary form.
const idRoom = 32

// checkOrder compares the entry at from, the newest, with the one before.
func (w *DirWriter) checkOrder(from int) {
	mode, name, _, _, _ := cutTreeEntry(w.entries.cur[from:])
	dir := mode == ModeDir
	if w.group.n > 0 && compareTreeNames(w.group.prev, w.group.prevDir, name, dir) >= 0 {
		w.disorder = true
	}
	w.group.prev, w.group.prevDir = append(w.group.prev[:0], name...), dir
}

// Finish stores the directory; self is its encoded metadata, nil if there is none.
func (w *DirWriter) Finish(self []byte) (pack.ID, error) {
	if len(self) == 0 {
		self = emptyMeta
	}
	var id pack.ID
	var err error
	if len(w.parts) == 0 {
		id, err = w.store(self)
	} else if err = w.endPart(); err == nil {
		id, err = w.join(self)
	}
	w.reset()
	return id, err
}

func (w *DirWriter) reset() {
	w.entries.reset()
	w.metas.reset()
	w.disorder, w.cut = false, false
	w.group.reset()
	w.splits = nameRoll{}
	w.parts = w.parts[:0]
}

// store stores the entries collected so far as one tree; first is the first
// record of its .bupm, and with nil it has none.
func (w *DirWriter) store(first []byte) (pack.ID, error) {
	var bupm []byte
	if first != nil {
		e, err := w.Split(w.metas.join(first))
		if err != nil {
			return pack.ID{}, err
		}
		bupm = appendTreeEntry(nil, e.Mode, bupmName, e.ID)
	}
	body := w.entries.join(bupm)
	if w.disorder {
		body = sortBody(body)
	} else if n := len(bupm); n > 0 {
		at := placeOf(body[n:], bupm)
		copy(body, body[n:n+at])
		copy(body[at:], bupm)
	}
	return w.Emit(body)
}

// placeOf returns the offset in a tree in order at which an entry belongs.
func placeOf(body, entry []byte) int {
	mode, name, _, _, _ := cutTreeEntry(entry)
	for off := 0; off < len(body); {
		m, other, _, n, _ := cutTreeEntry(body[off:])
		if compareTreeNames(name, mode == ModeDir, other, m == ModeDir) < 0 {
			return off
		}
		off += n
	}
	return len(body)
}

// sortBody returns the tree with its entries in git's order.
func sortBody(body []byte) []byte {
	var at []int
	for off := 0; off < len(body); {
		_, _, _, n, _ := cutTreeEntry(body[off:])
		at = append(at, off)
		off += n
	}
	slices.SortFunc(at, func(a, b int) int {
		am, an, _, _, _ := cutTreeEntry(body[a:])
		bm, bn, _, _, _ := cutTreeEntry(body[b:])
		return compareTreeNames(an, am == ModeDir, bn, bm == ModeDir)
	})
	out := make([]byte, 0, len(body))
	for _, off := range at {
		_, _, _, n, _ := cutTreeEntry(body[off:])
		out = append(out, body[off:off+n]...)
	}
	return out
}

// blocks collects bytes without moving them: a directory of a million files
// would otherwise be copied, and held twice, whenever a slice grows.
type blocks struct {
	full  [][]byte
	cur   []byte
	total int // bytes in full
}

const (
	firstBlock = 1 << 10
	largeBlock = 1 << 20
)

// room returns the current block, which has n bytes free at its end.
func (b *blocks) room(n int) *[]byte {
	if cap(b.cur)-len(b.cur) < n {
		if len(b.cur) > 0 {
			b.full = append(b.full, b.cur)
			b.total += len(b.cur)
		}
		b.cur = make([]byte, 0, max(n, firstBlock, min(2*cap(b.cur), largeBlock)))
	}
	return &b.cur
}

func (b *blocks) append(p []byte) {
	room := b.room(len(p))
	*room = append(*room, p...)
}

// join returns head and all bytes in a slice of its own, and forgets them.
func (b *blocks) join(head []byte) []byte {
	out := make([]byte, 0, len(head)+b.total+len(b.cur))
	out = append(out, head...)
	for i, f := range b.full {
		out = append(out, f...)
		b.full[i] = nil
	}
	out = append(out, b.cur...)
	b.reset()
	return out
}

// reset forgets the bytes and keeps one block.
func (b *blocks) reset() {
	clear(b.full)
	b.full, b.cur, b.total = b.full[:0], b.cur[:0], 0
}
