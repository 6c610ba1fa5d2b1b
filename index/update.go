package index

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"golang.org/x/sys/unix"
)

// Options says what Update walks and how.
type Options struct {
	FS            *fsx.FS
	File          string   // path of the index file; its directory is made if need be
	Roots         []string // absolute, resolved but for a final symbolic link
	OneFileSystem bool     // list mount points, do not enter them
	NoCheckDevice bool     // a changed device number alone is no change
	Exclude       *Exclude // nil: nothing
	// Skip are paths that are not listed at all: the repository, the cache. A
	// directory among them is known by its inode as well, whatever path leads to
	// it. The index file and what stands beside it are always skipped.
	Skip        []string
	FakeValid   bool             // mark everything as saved; what never was gets an id that no object has
	FakeInvalid bool             // mark everything as changed
	Wait        time.Duration    // for the lock
	Now         func() time.Time // nil: time.Now

	// SetAside is called when the index proves to be damaged, after it was renamed
	// to DamagedName. Update then begins again, with an empty index: Warn and Seen
	// may tell of paths a second time. If it is nil, Update fails with the damage.
	SetAside func(damage error)

	// Warn is called for everything that could not be read; Seen for every path
	// with its status: 'A' new, 'M' changed, 'D' gone, ' ' as it was. Either may be nil.
	Warn func(path string, err error)
	Seen func(path string, st *fsx.Stat, status byte)
	// Progress is called now and then with the number of paths so far.
	Progress func(paths uint64)
}

// Result is what an update found.
type Result struct {
	Paths, New, Changed, Gone uint64
	Errors                    uint64
	Rewritten                 bool // false: nothing changed, the file was not touched
}

// Update walks the roots and brings the index up to date. An interrupted or
// failed update leaves the old index. It reads all of the old index, outside the
// roots too, so after it the index is known to be whole.
//
// The walk and the old index are both in the order of the records, so they are
// merged as they come, and neither is ever held in memory. Records outside the
// roots stay as they are, but for the directories above a root: they are not
// valid if something below them changed. Paths that are gone keep their records,
// without Exists, until a save drops them. Where the walk could not look, the
// records stay, and the directory is not valid.
//
// Symbolic links are not followed, kernel file systems (proc, sysfs, …) not
// entered unless a root is in one. Everything is reached by directory
// descriptors, so nobody who can change the tree can lead the walk out of it.
func Update(ctx context.Context, o Options) (Result, error) {
	roots, err := cleanRoots(o.Roots)
	if err != nil {
		return Result{}, err
	}
	if err := o.FS.MkdirAll(filepath.Dir(o.File), 0o700); err != nil {
		return Result{}, err
	}
	lock, err := o.FS.Lock(lockName(o.File), fsx.Exclusive, o.Wait)
	if err != nil {
		return Result{}, err
	}
	defer lock.Unlock()
	res, damage := refresh(ctx, &o, roots)
	if o.SetAside == nil || !damaged(damage, o.File) {
		return res, damage
	}
	if err := setAside(o.FS, o.File); err != nil {
		return Result{}, err
	}
	o.SetAside(damage)
	return refresh(ctx, &o, roots)
}

// refresh is Update with the lock held.
func refresh(ctx context.Context, o *Options, roots []string) (Result, error) {
	old, err := open(o.FS, o.File)
	if errors.Is(err, fs.ErrNotExist) {
		old, err = &edition{name: o.File}, nil
	}
	if err != nil {
		return Result{}, err
	}
	if old.file != nil {
		defer old.file.Close()
	}
	now := o.Now
	if now == nil {
		now = time.Now
	}
	u := &updater{o: o, start: now(), m: merge{old: old, c: cursor{e: old}}}
	u.m.w = writer{fs: o.FS, name: o.File, old: old}
	defer u.m.w.abort()
	if err := u.walkRoots(ctx, roots); err != nil {
		return u.res, err
	}
	if !u.m.changed {
		return u.res, nil
	}
	e, err := u.m.w.finish()
	if err != nil {
		return u.res, err
	}
	u.res.Rewritten = true
	return u.res, e.file.Close()
}

// cleanRoots puts the roots in order and drops those inside others.
func cleanRoots(roots []string) ([]string, error) {
	var keys []string
	for _, r := range roots {
		if !filepath.IsAbs(r) || strings.IndexByte(r, 0) >= 0 {
			return nil, fmt.Errorf("path %q is not absolute", r)
		}
		if len(r) >= maxPath {
			return nil, fmt.Errorf("path of %d bytes: the limit is %d", len(r), maxPath)
		}
		keys = append(keys, keyOf(filepath.Clean(r)))
	}
	slices.SortFunc(keys, compareKeys)
	var clean []string
	for _, k := range slices.Backward(keys) { // a directory before what is below it
		if n := len(clean); n == 0 || !within(k, clean[n-1]) {
			clean = append(clean, k)
		}
	}
	slices.Reverse(clean)
	return clean, nil
}

// An updater merges what is found with what was known.
type updater struct {
	o     *Options
	start time.Time
	m     merge
	res   Result
	rec   Record // to be written
	guard guard
	done  []doneRoot

	passed  []byte // the block that was passed on unread
	skipIDs map[inode]bool
}

type inode struct{ dev, ino uint64 }

// A doneRoot is what the directories above a root have to know.
type doneRoot struct {
	key      string
	inserted uint64
	invalid  bool
}

// walkRoots does all the work but for the last of the writing. roots are keys.
func (u *updater) walkRoots(ctx context.Context, roots []string) error {
	skip := u.skips()
	f := newFetcher(ctx, u.o.OneFileSystem, u.o.Exclude, skip)
	defer f.close()
	for _, root := range roots {
		if u.skipped(root) {
			continue
		}
		if err := u.passOutside(func(key string) bool { return within(key, root) || compareKeys(key, root) > 0 }); err != nil {
			return err
		}
		before := u.m.inserted
		w := &walk{updater: u, ctx: ctx, fetch: f, root: root}
		invalid, err := w.run()
		if err != nil {
			return err
		}
		d := doneRoot{root, u.m.inserted - before, invalid}
		u.done = append(u.done, d)
		if d.inserted > 0 || d.invalid {
			u.guard.watch(root)
		}
	}
	return u.passOutside(func(string) bool { return false })
}

// skips returns the names not to be listed, by directory, and notes inodes.
func (u *updater) skips() map[string][]string {
	names := map[string][]string{}
	u.skipIDs = map[inode]bool{}
	own := []string{u.o.File, lockName(u.o.File), tempName(u.o.File), DamagedName(u.o.File)}
	for _, p := range own {
		// The file may have been named by way of a link; the walk will not be.
		if dir, err := filepath.EvalSymlinks(filepath.Dir(p)); err == nil {
			own = append(own, filepath.Join(dir, filepath.Base(p)))
		}
	}
	for _, p := range append(own, u.o.Skip...) {
		p, err := filepath.Abs(p)
		if err != nil {
			continue
		}
		names[filepath.Dir(p)] = append(names[filepath.Dir(p)], filepath.Base(p))
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil && isDir(st.Mode) {
			u.skipIDs[inode{uint64(st.Dev), st.Ino}] = true
		}
	}
	return names
}

// skipped reports whether a root is not to be walked since it lies in what is
// to be skipped.
func (u *updater) skipped(root string) bool {
	for _, p := range u.o.Skip {
		if within(root, keyOf(filepath.Clean(p))) {
			return true
		}
	}
	return false
}

// passOutside passes on the records outside the roots up to the first whose key
// is at or beyond the end.
func (u *updater) passOutside(end func(key string) bool) error {
	for {
		if i := u.m.c.blk; u.m.canSkip() && !end(u.m.old.blocks[i].last) && !u.guard.mayBeIn(u.m.old.blocks, i) {
			// Only its checksum is looked at, or damage would go unseen until a save
			// meets it, which has nothing to put in its place.
			var err error
			if u.passed, err = u.m.old.read(i, u.passed); err != nil {
				return err
			}
			if err := u.m.skipBlock(); err != nil {
				return err
			}
			continue
		}
		old, err := u.m.current()
		if old == nil || end(keyOf(old.Path)) {
			return err
		}
		if err := u.passAbove(old); err != nil {
			return err
		}
	}
}

// passAbove passes on a record outside the roots, which may be of a directory
// above some of them.
func (u *updater) passAbove(old *Record) error {
	key := keyOf(old.Path)
	if n := len(u.done); n == 0 || !within(u.done[n-1].key, key) {
		return u.m.keep()
	}
	u.rec = *old
	for _, d := range u.done {
		if within(d.key, key) {
			u.rec.Below += d.inserted
			if d.invalid {
				u.rec.Flags &^= Valid
			}
		}
	}
	if u.rec.Below == old.Below && u.rec.Flags == old.Flags {
		return u.m.keep()
	}
	return u.m.replace(&u.rec)
}

// warn names something that could not be read.
func (u *updater) warn(path string, err error) {
	u.res.Errors++
	if u.o.Warn != nil {
		u.o.Warn(string(bytesOf(path)), err)
	}
}

// see tells of a path, and of progress.
func (u *updater) see(path string, st *fsx.Stat, status byte) {
	if status != 'D' {
		if u.res.Paths++; u.res.Paths%1024 == 0 && u.o.Progress != nil {
			u.o.Progress(u.res.Paths)
		}
	}
	if u.o.Seen != nil {
		seen := *st
		u.o.Seen(string(bytesOf(path)), &seen, status)
	}
}
