package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// The modes of what kedge makes in a repository: published files never change,
// so nobody may write to them; nothing is for strangers.
const (
	modeDir       = 0o750
	modePublished = 0o440
	modeState     = 0o640
)

// The places of a repository that are kedge's own and not git's.
const (
	dirTmp      = "kedge/tmp"      // one directory for each live session
	dirSessions = "kedge/sessions" // one flocked file for each live session
	fileMaint   = "kedge/maint"    // flock: who begins a session, and who decides what to delete
	fileRefLock = "kedge/reflock"  // flock: who changes refs; also the inode of our NAME.lock files
)

// Dir is a Store in a directory.
//
// A file being written stands in kedge/tmp/<session>/, where <session> is a
// random name. The directory belongs to whoever holds a flock on
// kedge/sessions/<session>; when that process is gone, the next one that writes
// removes it. The lock is taken by the first Create, or by begin.
//
// A Dir may be used by several goroutines at once.
type Dir struct {
	fs       *fsx.FS
	path     string
	patience time.Duration // with the locks of others
	clock    func() time.Time

	mu    sync.Mutex
	lease *lease // nil until something is created
	n     int    // files created

	refLockSynced atomic.Bool // the name of kedge/reflock is durable
}

// NewDir returns the Store in a git directory.
func NewDir(fs *fsx.FS, path string) *Dir {
	if fs == nil {
		fs = new(fsx.FS)
	}
	return &Dir{fs: fs, path: path, patience: lockPatience, clock: time.Now}
}

// now returns the time of the repository, in whole seconds.
func (d *Dir) now() time.Time { return time.Unix(d.clock().Unix(), 0) }

// name returns the path of a file of the repository.
func (d *Dir) name(rel string) string { return filepath.Join(d.path, filepath.FromSlash(rel)) }

// checkName refuses the names that could lead out of the repository (I6).
func checkName(name string) error {
	if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\x00\\") {
		return fmt.Errorf("%q is no name of a repository's file", name)
	}
	return nil
}

// Open opens a file for reading.
func (d *Dir) Open(ctx context.Context, name string) (Blob, error) {
	if err := firstErr(ctx.Err(), checkName(name)); err != nil {
		return nil, err
	}
	f, err := d.fs.Open(d.name(name))
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &dirBlob{f, size}, nil
}

// dirBlob is an open file whose size does not change any more.
type dirBlob struct {
	*fsx.File
	size int64
}

// Size returns the size of the file.
func (b *dirBlob) Size() int64 { return b.size }

// List calls fn for every file whose name begins with dir + "/", in the order
// of their names.
func (d *Dir) List(ctx context.Context, dir string, fn func(name string, size int64) error) error {
	if err := checkName(dir); err != nil {
		return err
	}
	todo := []string{dir}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if err := ctx.Err(); err != nil {
			return err
		}
		list, err := d.fs.ReadDir(d.name(at))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		for _, e := range list {
			name := path.Join(at, e.Name())
			if e.IsDir() {
				todo = append(todo, name)
				continue
			}
			info, err := d.fs.Lstat(d.name(name))
			if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
				continue
			} else if err != nil {
				return err
			}
			if err := fn(name, info.Size()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove removes a file and makes that durable.
func (d *Dir) Remove(ctx context.Context, name string) error {
	if err := firstErr(ctx.Err(), checkName(name)); err != nil {
		return err
	}
	err := d.fs.Remove(d.name(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return d.fs.SyncDir(filepath.Dir(d.name(name)))
}

// Create begins a file in the directory of the session.
func (d *Dir) Create(ctx context.Context) (Pending, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lease == nil {
		l, err := takeLease(ctx, d, nil)
		if err != nil {
			return nil, err
		}
		d.lease = l
	}
	d.n++
	f, err := d.fs.Create(filepath.Join(d.lease.tmp, fmt.Sprintf("%06d", d.n)), modePublished)
	if err != nil {
		return nil, err
	}
	return &dirPending{File: f, d: d}, nil
}

// begin returns a Dir of its own session on the same directory. promised are
// the packs it relies on.
func (d *Dir) begin(ctx context.Context, promised []string) (*Dir, error) {
	own := &Dir{fs: d.fs, path: d.path, patience: d.patience, clock: d.clock}
	l, err := takeLease(ctx, own, promised)
	if err != nil {
		return nil, err
	}
	own.lease = l
	return own, nil
}

// promise adds packs to those that the session says it relies on.
func (d *Dir) promise(packs []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lease == nil {
		return ErrClosed
	}
	return d.lease.promise(packs)
}

// Close ends the session and removes what it left unfinished. The Dir can be
// used for reading on, and a Create begins another session.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lease == nil {
		return nil
	}
	err := d.lease.end(d.fs)
	d.lease = nil
	return err
}

// dirPending is a file without a name in the repository yet.
type dirPending struct {
	*fsx.File
	d       *Dir
	passing bool // nobody reads it soon
	closed  bool
	done    bool
	err     error // sticky
}

// Commit gives the file its name:
//
//	fsync FILE, close FILE, link FILE NAME, fsync of NAME's directory, remove FILE
//
// Link, and not rename, because it fails if the name is taken. After EEXIST the
// bytes are compared: the same bytes mean that somebody has published them
// before, perhaps ourselves before a crash that came between link and fsync, so
// the directory is synced then as well.
func (w *dirPending) Commit(name string) error {
	return publishFiles(linkNew, naming{w, name})
}

// replace is Commit for the few derived files that take the place of an older one.
func (w *dirPending) replace(name string) error {
	return publishFiles(func(n naming) error { return n.file.d.fs.Rename(n.file.Name(), n.path()) }, naming{w, name})
}

// naming is the wish to give a file a name.
type naming struct {
	file *dirPending
	name string
}

func (n naming) path() string { return n.file.d.name(n.name) }

// linkNew gives a file a name that is free, or that has the same bytes.
func linkNew(n naming) error {
	d, from := n.file.d, n.file.Name()
	err := d.fs.Link(from, n.path())
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	same, err := d.sameBytes(from, n.path())
	if err == nil && !same {
		err = &ExistsError{Name: n.name}
	}
	return err
}

// commitPair gives two files names in one directory, which is then synced only
// once. The first name is there before the second one.
func (w *dirPending) commitPair(name string, other Pending, otherName string) error {
	o, ok := other.(*dirPending)
	if !ok || path.Dir(name) != path.Dir(otherName) {
		return firstErr(w.Commit(name), other.Commit(otherName))
	}
	return publishFiles(linkNew, naming{w, name}, naming{o, otherName})
}

// publishFiles makes the bytes of all files durable, then gives them their
// names in one directory by move, and makes those durable. A file takes no
// second attempt, because after an error nobody knows what of it is on the
// disk; but if only its name was taken it can still be given another one.
func publishFiles(move func(naming) error, files ...naming) (err error) {
	defer func() {
		for _, n := range files {
			if n.file.err == nil && !errors.As(err, new(*ExistsError)) {
				n.file.err = err
			}
		}
	}()
	for _, n := range files {
		if err := n.file.finish(n.name); err != nil {
			return err
		}
	}
	fsys, dir := files[0].file.d.fs, filepath.Dir(files[0].path())
	if err := fsys.MkdirAll(dir, modeDir); err != nil {
		return err
	}
	var moved error
	for _, n := range files {
		if moved = move(n); moved != nil {
			break
		}
	}
	// After a failure too: the caller may go on with those that have a name.
	if err := firstErr(moved, fsys.SyncDir(dir)); err != nil {
		return err
	}
	for _, n := range files {
		n.file.done = true
		// The bytes are safe under their name. What cannot be removed now is
		// removed with the directory of the session.
		_ = fsys.Remove(n.file.Name())
	}
	return nil
}

// finish makes the bytes durable and closes the file, before it gets a name.
func (w *dirPending) finish(name string) error {
	if w.done {
		return ErrClosed
	}
	if err := firstErr(w.err, checkName(name)); err != nil || w.closed {
		return err
	}
	if err := w.Sync(); err != nil {
		return err
	}
	if w.passing {
		w.DropCache(0, 0)
	}
	w.closed = true
	return w.File.Close()
}

// Abort throws the file away.
func (w *dirPending) Abort() {
	if w.done {
		return
	}
	w.done = true
	if w.err == nil {
		w.err = ErrClosed
	}
	if !w.closed {
		w.closed = true
		_ = w.File.Close()
	}
	_ = w.d.fs.Remove(w.Name())
}

// Close hides the Close of the file: a Pending ends by Commit or Abort.
func (w *dirPending) Close() error { w.Abort(); return nil }

// sameBytes reports whether two files hold the same.
func (d *Dir) sameBytes(a, b string) (bool, error) {
	fa, err := d.fs.Open(a)
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := d.fs.Open(b)
	if err != nil {
		return false, err
	}
	defer fb.Close()
	return sameReader(fa, fb)
}

// sameReader compares two readers to their ends.
func sameReader(a, b io.Reader) (bool, error) {
	var x, y [32 << 10]byte
	for {
		n, errA := io.ReadFull(a, x[:])
		m, errB := io.ReadFull(b, y[:])
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, firstErr(notEOF(errA), notEOF(errB))
		}
		if errA != nil || errB != nil {
			return true, firstErr(notEOF(errA), notEOF(errB))
		}
	}
}

// notEOF drops the errors by which a reader says that it is at its end.
func notEOF(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// stamp tells whether the directory of packs may have changed since an equal
// stamp was taken. sure is false if it was changed so short a time ago that a
// further change might not show: the clock of a file system ticks every few
// milliseconds, or, where times have no fractions, every two seconds.
func (d *Dir) stamp() (at time.Time, sure bool, err error) {
	info, err := d.fs.Lstat(d.name(dirPacks))
	if err != nil {
		return time.Time{}, false, err
	}
	at = info.ModTime()
	tick := 100 * time.Millisecond
	if at.Nanosecond() == 0 {
		tick = 2 * time.Second
	}
	return at, time.Since(at) > tick, nil
}

// firstErr returns the first error that is one.
func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// randomName returns n random hexadecimal digits.
func randomName(n int) string {
	b := make([]byte, (n+1)/2)
	rand.Read(b)
	return hex.EncodeToString(b)[:n]
}
