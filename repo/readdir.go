package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// DirItem is an item of a saved directory.
type DirItem struct {
	Name    string // real name; "." is the directory itself
	Mode    uint32 // of the tree entry
	Chunked bool   // a regular file stored as a tree of chunks; Mode is ModeDir
	ID      pack.ID

	// Meta is what is recorded of the item. Its Mode is 0 if nothing is, and of
	// directories other than "." nothing ever is: theirs is in their own tree
	// (DirMetas). It is valid until the function it was passed to returns.
	Meta *meta.Meta
	// Lost says that there should be metadata, but they are gone or are not to be
	// told from others'; for "." also that this is so for items. Err says why, once
	// for all the items that it befell.
	Lost bool
	Err  error
}

// IsDir reports whether the item is a directory.
func (d *DirItem) IsDir() bool { return d.Mode == ModeDir && !d.Chunked }

// StatMode returns the item's whole st_mode: what is recorded or, where nothing
// is, what suits the tree entry. Of an item whose metadata were lost, group and
// others may do nothing: it may have been a secret.
func (d *DirItem) StatMode() uint32 {
	if d.Meta != nil && d.Meta.Mode != 0 {
		return d.Meta.Mode
	}
	mode := defaultMode(d.Mode, d.Chunked)
	if d.Lost {
		mode &^= 0o077
	}
	return mode
}

// defaultMode returns the st_mode of something of which only the tree entry is known.
func defaultMode(mode uint32, chunked bool) uint32 {
	switch {
	case chunked:
		return meta.TypeFile | 0o644
	case mode == ModeDir:
		return meta.TypeDir | 0o755
	case mode == ModeSymlink:
		return meta.TypeSymlink | 0o755
	case mode == modeExec:
		return meta.TypeFile | 0o755
	}
	return meta.TypeFile | 0o644
}

// fits reports whether metadata of a mode can belong to a tree entry.
func fits(mode uint32, chunked bool, stat uint32) bool {
	switch stat & meta.TypeMask {
	case 0:
		return stat == 0
	case meta.TypeFile:
		return chunked || mode != ModeDir && mode != ModeSymlink
	case meta.TypeSymlink:
		return mode == ModeSymlink
	case meta.TypeDir:
		return mode == ModeDir && !chunked
	}
	return mode != ModeDir && mode != ModeSymlink
}

// ReadDir calls fn for the directory stored as tree, as ".", and then for each of
// its items in byte order of their names. Metadata are joined from .bupm; where
// that is missing or does not fit the items, they come without (DirItem.Lost).
// Split directories appear as one. The item may be kept, but for its Meta.
//
// A directory of a million files takes about 100 MB while it is read.
//
// Tree objects that are missing are a *MissingError; trees no writer makes, such
// as one with two items of one real name, are a *pack.CorruptError.
func ReadDir(ctx context.Context, r Repo, tree pack.ID, fn func(*DirItem) error) error {
	top, err := loadDir(ctx, r, tree)
	if err != nil {
		return err
	}
	d := dirReader{ctx: ctx, r: r, fn: fn}
	if !top.split() {
		return d.list(top, true)
	}
	leaves, err := d.leaves(tree, top)
	if err != nil {
		return err
	}
	if err := d.list(top, true); err != nil {
		return err
	}
	for _, leaf := range leaves {
		l, err := loadDir(ctx, r, leaf.id)
		if err != nil {
			return err
		}
		if err := d.list(l, false); err != nil {
			return err
		}
	}
	return nil
}

// dirReader gives out the items of one directory.
type dirReader struct {
	ctx    context.Context
	r      Repo
	fn     func(*DirItem) error
	hasTop bool  // the directory has a .bupm: then its items had metadata
	why    error // not yet given out: why the metadata of the items that follow are lost
	n      int   // items given out
	item   DirItem
	meta   meta.Meta
}

// list gives out the items of one tree and, if it is the uppermost, the directory.
func (d *dirReader) list(l *dirList, top bool) error {
	m, state, err := d.openMeta(l)
	if err != nil {
		return err
	}
	last := d.item.Name
	d.why = state.err
	if top {
		d.hasTop = l.has
		d.item = DirItem{Name: ".", Mode: ModeDir, ID: l.id, Lost: state.lost}
		if err := d.give(m); err != nil {
			return err
		}
	} else if m != nil {
		if _, _, err := m.next(); err != nil { // the record in place of the directory's own
			return err
		}
	}
	if l.split() {
		return nil
	}
	if state.lost {
		m = nil
	}
	for _, ref := range l.items {
		d.item = l.item(ref)
		if d.n > 0 && d.item.Name <= last {
			return corruptTree(l.id, "%q after %q in a split directory", d.item.Name, last)
		}
		last = d.item.Name
		d.n++
		if err := d.give(m); err != nil {
			return err
		}
	}
	return nil
}

// item returns what an entry of the tree is.
func (l *dirList) item(ref dirRef) DirItem {
	return DirItem{Name: string(l.name(ref)), Mode: ref.mode(), Chunked: ref.kind() == kindChunked, ID: l.idOf(ref)}
}

// give gives out d.item with the next record of m, if it is one that has a record.
func (d *dirReader) give(m *bupm) error {
	d.meta = meta.Meta{Size: -1}
	d.item.Meta = &d.meta
	if !d.item.IsDir() || d.item.Name == "." {
		d.item.Err, d.why = d.why, nil
		if err := d.join(m); err != nil {
			return err
		}
	}
	return d.fn(&d.item)
}

// join takes the next record for d.item.
func (d *dirReader) join(m *bupm) error {
	if m != nil {
		record, _, err := m.next()
		if err != nil {
			return err
		}
		got, _, err := meta.Parse(record)
		if err == nil {
			d.meta = got
		} else if d.item.Err == nil {
			d.item.Err = m.corrupt(fmt.Errorf("record of %q: %w", d.item.Name, err))
		}
	}
	if d.meta.Mode == 0 && d.hasTop {
		d.item.Lost = true
	}
	return nil
}

// metaState says whether the records of a tree can be given to its items.
type metaState struct {
	lost bool
	err  error
}

// openMeta opens the .bupm of a tree, nil if it has none or cannot be used at
// all, and counts its records.
func (d *dirReader) openMeta(l *dirList) (*bupm, metaState, error) {
	if !l.has {
		return nil, metaState{}, nil
	}
	m, err := openBupm(d.ctx, d.r, l.bupm)
	if err == nil {
		err = m.keep()
	}
	var selfOK bool
	if err == nil {
		selfOK, err = l.checkMeta(m, nil)
	}
	state := metaState{lost: err != nil, err: err}
	if err != nil && !damaged(err) {
		return nil, state, err
	}
	if !selfOK {
		return nil, state, nil
	}
	return m, state, m.rewind()
}

// damaged reports whether an error says that something of the repository is
// wrong or gone, and not that it could not be asked.
func damaged(err error) bool {
	var missing *MissingError
	var corrupt *pack.CorruptError
	return errors.As(err, &missing) || errors.As(err, &corrupt)
}

// checkMeta compares number and types of the records with the items, and gives
// the records to each if that is not nil. SelfOK says that the first record, the
// directory's own, can be used whatever err is.
func (l *dirList) checkMeta(m *bupm, each func(name string, record []byte) error) (selfOK bool, err error) {
	if each == nil {
		each = func(string, []byte) error { return nil }
	}
	record, mode, err := m.next()
	if err != nil {
		return false, err
	}
	if record == nil {
		return false, m.corrupt(errors.New("no records"))
	}
	if !fits(ModeDir, false, mode) {
		return false, m.corrupt(fmt.Errorf("first record is of mode %o", mode))
	}
	if err := each(".", record); err != nil {
		return true, err
	}
	for _, ref := range l.items {
		if ref.dir() {
			continue
		}
		record, mode, err := m.next()
		switch {
		case err != nil:
			return true, err
		case record == nil:
			return true, m.corrupt(errors.New("too few records"))
		case !fits(ref.mode(), ref.kind() == kindChunked, mode):
			return true, m.corrupt(fmt.Errorf("record of mode %o for %q", mode, l.name(ref)))
		}
		if err := each(string(l.name(ref)), record); err != nil {
			return true, err
		}
	}
	record, _, err = m.next()
	if err == nil && record != nil {
		err = m.corrupt(errors.New("too many records"))
	}
	return true, err
}
