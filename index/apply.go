package index

import (
	"bytes"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// How far passGone goes.
const (
	toKey   = iota // to the key
	toTree         // to the first record at or below the key
	through        // to the first record after the key
)

// passGone marks the old records up to a key as gone: the walk has passed their
// places and has not seen them.
func (w *walk) passGone(f *frame, key string, how int) error {
	for {
		old, err := w.m.current()
		if old == nil {
			return err
		}
		k := keyOf(old.Path)
		if c := compareKeys(k, key); c > 0 || c == 0 && how != through || how == toTree && within(k, key) {
			return nil
		}
		f.invalid = true
		if old.Flags&Exists == 0 {
			if err := w.m.keep(); err != nil {
				return err
			}
			continue
		}
		w.res.Gone++
		w.see(old.Path, &old.Stat, 'D')
		w.rec = *old
		w.rec.Flags = 0
		if err := w.m.replace(&w.rec); err != nil {
			return err
		}
	}
}

// passBelow leaves the old records below a directory as they are: nobody could
// look.
func (w *walk) passBelow(f *frame, key string) error {
	f.invalid = true
	for {
		old, err := w.m.current()
		if old == nil {
			return err
		}
		if k := keyOf(old.Path); k == key || !within(k, key) {
			return nil
		}
		if err := w.m.keep(); err != nil {
			return err
		}
	}
}

// passUnread leaves the old records at and below a path as they are, but for
// that of the path itself, which is not valid.
func (w *walk) passUnread(f *frame, key string) error {
	if err := w.passBelow(f, key); err != nil {
		return err
	}
	old, err := w.m.current()
	if old == nil || keyOf(old.Path) != key {
		return err
	}
	if old.Flags&Valid == 0 {
		return w.m.keep()
	}
	w.rec = *old
	w.rec.Flags &^= Valid
	return w.m.replace(&w.rec)
}

// record notes what was found at a path: in f, with so many records below it, of
// which some may be not valid. The old records before it have been passed.
func (w *walk) record(f *frame, key string, st *fsx.Stat, below uint64, invalid bool) error {
	old, err := w.m.current()
	if err != nil {
		return err
	}
	if old == nil || keyOf(old.Path) != key {
		old = nil
	}
	status := w.status(old, st)
	flags := Exists
	switch {
	case invalid || w.o.FakeInvalid:
	case w.o.FakeValid:
		flags |= Valid
	case status == ' ':
		flags |= old.Flags & Valid
	}
	if flags&Valid == 0 {
		f.invalid = true
	}
	switch status {
	case 'A':
		w.res.New++
	case 'M':
		w.res.Changed++
	}
	w.see(pathOf(key), st, status)
	if status == ' ' && flags == old.Flags && below == old.Below {
		return w.m.keep()
	}

	r := &w.rec
	*r = Record{}
	if old != nil {
		*r = *old
	}
	r.Path, r.Flags, r.Below = pathOf(key), flags, below
	if status != ' ' {
		r.Stat = *st
		r.Target = w.target(f, key, st)
	}
	if flags&Valid != 0 && r.ID.IsZero() {
		r.ID, r.GitMode = fakeID(), gitModeOf(st.Mode)
	}
	if old != nil {
		return w.m.replace(r)
	}
	return w.m.insert(r)
}

// status compares what is there with what was: 'A' new, 'M' changed, ' ' as it
// was.
func (w *walk) status(old *Record, st *fsx.Stat) byte {
	switch {
	case old == nil || old.Flags&Exists == 0:
		return 'A'
	case w.changed(&old.Stat, st):
		return 'M'
	case old.Flags&Valid != 0 && Racy(*st, w.start):
		// It was not when it was saved, so the clock was set back since, and could
		// stamp a change with the times that the file has already.
		return 'M'
	}
	return ' '
}

// changed compares what changes with a file. The count of links is left out: it
// moves the ctime. So are the blocks and the atime, which change by themselves.
func (w *walk) changed(old, st *fsx.Stat) bool {
	return old.Ctime != st.Ctime || old.Mtime != st.Mtime || old.Size != st.Size || old.Ino != st.Ino ||
		old.Mode != st.Mode || old.UID != st.UID || old.GID != st.GID || old.Rdev != st.Rdev ||
		old.Dev != st.Dev && !w.o.NoCheckDevice
}

// target reads a symbolic link.
func (w *walk) target(f *frame, key string, st *fsx.Stat) string {
	if st.Mode&modeType != modeSymlink {
		return ""
	}
	target, err := f.dir.Readlink(key[f.key+1:])
	if err == nil && len(target) <= maxTarget {
		return target
	}
	if err != nil {
		w.warn(pathOf(key), err)
	}
	return "" // the record is not valid, so a save reads the link again
}

// fakeID is the id of --fake-valid for what was never saved: all bytes are 1. No
// object has it, so a save that asks for it reads the file.
func fakeID() pack.ID {
	id, _, _ := pack.CutID(bytes.Repeat([]byte{1}, 64))
	return id
}

// gitModeOf returns the git mode under which a file is saved: what is neither a
// directory nor a link is saved as a file.
func gitModeOf(mode uint32) uint32 {
	switch mode & modeType {
	case modeDir:
		return modeDir
	case modeSymlink:
		return modeSymlink
	}
	return modeRegular | 0o644
}
