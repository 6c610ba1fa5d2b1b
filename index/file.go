package index

import (
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// File is an index file, open for reading (Open), or locked so that Rewrite may
// replace it (OpenExclusive). The lock dies with the process.
type File struct {
	fs   *fsx.FS
	name string
	lock *fsx.Lock // nil: for reading only
	e    *edition
}

// lockName is the file that writers lock. It is not the index itself, which
// gets a new inode with every version.
func lockName(name string) string { return name + ".lock" }

// tempName is where the next version is written. One name is enough, since
// whoever writes holds the lock; what a killed process left there is overwritten.
func tempName(name string) string { return name + ".tmp" }

// Open opens an index for reading only. It fails with an error that matches
// fs.ErrNotExist if there is none, *pack.CorruptError if damaged, *VersionError if
// a newer program wrote it.
//
// It takes no lock. A new version takes the place of the old one by a rename, so
// a reader has a whole version in hand whatever writers do; with a lock a pager
// left open at night would keep the nightly save waiting, and a listing would
// have to wait for a save, and for the right to create the lock file.
func Open(fs *fsx.FS, name string) (*File, error) {
	e, err := open(fs, name)
	if err != nil {
		return nil, err
	}
	return &File{fs: fs, name: name, e: e}, nil
}

func open(fs *fsx.FS, name string) (*edition, error) {
	file, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	return openEdition(name, file)
}

// OpenExclusive opens an index so that Rewrite may replace it, waiting for other
// writers for at most wait (then fsx.ErrLocked). If there is no index it fails
// as Open does, and leaves nothing behind.
func OpenExclusive(fs *fsx.FS, name string, wait time.Duration) (*File, error) {
	if _, err := fs.Lstat(name); err != nil {
		return nil, err
	}
	lock, err := fs.Lock(lockName(name), fsx.Exclusive, wait)
	if err != nil {
		return nil, err
	}
	e, err := open(fs, name)
	if err != nil {
		lock.Unlock()
		return nil, err
	}
	return &File{fs: fs, name: name, lock: lock, e: e}, nil
}

// Len returns the number of records.
func (f *File) Len() uint64 { return f.e.records }

// Records iterates over the records at and below root ("/" for all), in order.
func (f *File) Records(root string) *Iter {
	start, end, err := f.e.subtree(keyOf(root))
	it := f.e.iter(start, end)
	if err != nil {
		it.err = err
	}
	return it
}

// Lookup returns the record of one path and its ordinal. It decodes one block,
// found by the block table. The record's strings and slices are its own.
func (f *File) Lookup(path string) (rec Record, ordinal uint64, ok bool, err error) {
	key := keyOf(path)
	ordinal, err = f.e.search(func(k string) bool { return compareKeys(k, key) >= 0 })
	if err != nil || ordinal == f.e.records {
		return Record{}, 0, false, err
	}
	it := f.e.iter(ordinal, ordinal+1)
	if !it.Next() {
		return Record{}, 0, false, it.err
	}
	if it.Record().Path != path {
		return Record{}, 0, false, nil
	}
	return it.Record().Clone(), ordinal, true, nil
}

// Close gives up the lock, and the file that iterators read.
func (f *File) Close() error {
	err := f.e.file.Close()
	if f.lock != nil {
		if unlockErr := f.lock.Unlock(); err == nil {
			err = unlockErr
		}
	}
	return err
}

// Check reads the whole file and verifies checksums, order, that every block is
// encoded as a writer would, the Below counts, and that nothing below a valid
// directory is not valid.
func (f *File) Check() error {
	var enc encoder
	var t tally
	c := cursor{e: f.e}
	for c.next < f.e.records {
		b := &f.e.blocks[c.blk]
		if !c.in {
			enc.reset()
		}
		ordinal := c.next
		prev := string(c.d.key)
		if err := c.step(); err != nil {
			return err
		}
		if err := enc.append(&c.d.rec); err != nil {
			return f.e.corrupt(b.off, "record %d: %v", ordinal, err)
		}
		below, invalid := t.add(prev, &c.d.rec)
		if r := &c.d.rec; r.Below != below {
			return f.e.corrupt(b.off, "record %d (%s) tells of %d below it, there are %d", ordinal, r.Path, r.Below, below)
		} else if r.Flags&Valid != 0 && invalid > 0 {
			return f.e.corrupt(b.off, "record %d (%s) is valid, %d below it are not", ordinal, r.Path, invalid)
		}
		if !c.in && string(enc.buf) != string(c.d.b) {
			return f.e.corrupt(b.off, "block is not encoded in the one way allowed")
		}
	}
	return nil
}

// A tally counts what lies below each record of a whole file, without trust in
// any record: at[n] are the records at and below depth n that the directory
// above them, which is still to come, has to account for.
type tally struct {
	at []struct{ records, invalid uint64 }
}

// add takes the next record, and returns how many records lie below it, and how
// many of these are not valid. prev is the key before.
func (t *tally) add(prev string, r *Record) (below, invalid uint64) {
	key := keyOf(r.Path)
	depth := depthOf(key)
	for len(t.at) <= depth+1 {
		t.at = append(t.at, struct{ records, invalid uint64 }{})
	}
	if within(prev, key) {
		for n := depth + 1; n < len(t.at); n++ {
			below += t.at[n].records
			invalid += t.at[n].invalid
		}
		t.at = t.at[:depth+1]
	} else {
		// The directories of prev that key is not in are over. Those that are no
		// records themselves leave what was below them to the next one above.
		top := depthOf(key[:commonPrefix(prev, key)])
		for n := len(t.at) - 1; n > top; n-- {
			t.at[n-1].records += t.at[n].records
			t.at[n-1].invalid += t.at[n].invalid
			t.at = t.at[:n]
		}
		for len(t.at) <= depth {
			t.at = append(t.at, struct{ records, invalid uint64 }{})
		}
	}
	t.at[depth].records += below + 1
	t.at[depth].invalid += invalid
	if r.Flags&Valid == 0 {
		t.at[depth].invalid++
	}
	return below, invalid
}

// depthOf counts the components of a key.
func depthOf(key string) int {
	n := 0
	for i := range len(key) {
		if key[i] == '/' {
			n++
		}
	}
	return n
}
