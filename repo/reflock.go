package repo

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// fileStage is where the new content of a ref, of packed-refs or of the config
// is made durable before it is renamed to its place. One name is enough: only
// who holds the flock stages anything.
const fileStage = "kedge/stage"

// refLock is the flock on kedge/reflock: who holds it may change refs, the
// config and the receipts of a repository.
//
// Git and bup know nothing of it. They take the file NAME.lock for the lock of
// NAME, made with O_EXCL and removed, or renamed to NAME, at the end. So that
// file has to be there while NAME changes, but it outlives a process that
// dies. Ours is a hard link to kedge/reflock: whoever holds the flock and
// meets a NAME.lock of that inode knows that its maker is dead, and removes
// it. Every other NAME.lock is git's or bup's and is waited for, without the
// flock, because its owner may itself be waiting for us.
//
// Nothing is synced while a NAME.lock stands: git and bup wait for only a tenth
// of a second where nobody has told them otherwise.
type refLock struct {
	d    *Dir
	info fs.FileInfo // of kedge/reflock
}

// foreignLock says that git or bup holds a NAME.lock.
type foreignLock struct{ file string }

// Error says what is wrong.
func (e *foreignLock) Error() string { return e.file + " exists" }

// withRefLock calls fn with the lock held, and again as long as git or bup is
// in the way. For d.patience in all it waits for them and for other kedges.
func (d *Dir) withRefLock(ctx context.Context, fn func(l *refLock) error) error {
	end := time.Now().Add(d.patience)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := d.tryRefLock(ctx, end, fn)
		foreign := new(foreignLock)
		if !errors.As(err, &foreign) {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return &BusyError{What: foreign.file, Hint: "git or bup holds it; if none of them is running, remove this file"}
		}
		if err := sleep(ctx, min(pause, left)); err != nil {
			return err
		}
	}
}

// tryRefLock takes the lock, calls fn and gives the lock back. It waits for the
// lock until end.
func (d *Dir) tryRefLock(ctx context.Context, end time.Time, fn func(l *refLock) error) error {
	lock, err := d.lockUntil(ctx, fileRefLock, fsx.Exclusive, end)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	l, err := d.haveRefLock()
	if err != nil {
		return err
	}
	return fn(l)
}

// haveRefLock is called with the flock held. A power cut must not leave a
// NAME.lock and take kedge/reflock, by whose inode we know that it is ours; so
// that name is made durable before the first link to it.
func (d *Dir) haveRefLock() (*refLock, error) {
	if !d.refLockSynced.Load() {
		if err := d.fs.SyncDir(d.name("kedge")); err != nil {
			return nil, err
		}
		d.refLockSynced.Store(true)
	}
	info, err := d.fs.Lstat(d.name(fileRefLock))
	return &refLock{d, info}, err
}

// hold makes NAME.lock. A stale one is removed before. If the directory is
// gone, git took it for empty in this moment, and it is made again.
func (l *refLock) hold(name string) (err error) {
	file := l.d.name(name) + ".lock"
	for range 10 {
		if err := l.d.fs.MkdirAll(filepath.Dir(file), modeDir); err != nil {
			return err
		}
		err = l.d.fs.Link(l.d.name(fileRefLock), file)
		if errors.Is(err, fs.ErrExist) {
			if err := l.clear(name); err != nil {
				return err
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

// clear removes NAME.lock if it is stale, and fails with *foreignLock if it
// is not ours.
func (l *refLock) clear(name string) error {
	file := l.d.name(name) + ".lock"
	info, err := l.d.fs.Lstat(file)
	if noFile(err) {
		return nil
	} else if err != nil {
		return err
	}
	if !os.SameFile(info, l.info) {
		return &foreignLock{file}
	}
	return l.release(name)
}

// release removes NAME.lock.
func (l *refLock) release(name string) error {
	err := l.d.fs.Remove(l.d.name(name) + ".lock")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// stage makes data durable in a file that is about to be renamed.
func (l *refLock) stage(data []byte) error {
	name := l.d.name(fileStage)
	if err := l.d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := l.d.fs.Create(name, modeState)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return firstErr(err, f.Close())
}

// errAgain says that a file changed between two looks at it.
var errAgain = errors.New("changed meanwhile")

// rewrite changes a file that git changes under NAME.lock as well:
//
//	stage, fsync, link NAME.lock, compare, rename, remove NAME.lock, fsync of the directory
//
// guard, if not nil, is called with the lock held and can still say no.
func (l *refLock) rewrite(ctx context.Context, name string, edit func(old []byte) ([]byte, error), guard func() error) error {
	for {
		err := l.tryRewrite(name, edit, guard)
		if err != errAgain {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (l *refLock) tryRewrite(name string, edit func(old []byte) ([]byte, error), guard func() error) error {
	fsys, file := l.d.fs, l.d.name(name)
	old, err := fsys.ReadFile(file, maxPackedRefs)
	if err != nil {
		return err
	}
	text, err := edit(old)
	if err != nil || bytes.Equal(text, old) {
		return err
	}
	if err := firstErr(l.clear(name), l.stage(text)); err != nil {
		return err
	}
	if err := l.hold(name); err != nil {
		return err
	}
	if now, e := fsys.ReadFile(file, maxPackedRefs); e != nil {
		err = e
	} else if !bytes.Equal(now, old) {
		err = errAgain
	}
	if err == nil && guard != nil {
		err = guard()
	}
	if err == nil {
		err = fsys.Rename(l.d.name(fileStage), file)
	}
	if e := l.release(name); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(file))
}

// cleanRefLocks removes the lock files of dead processes, so that git and bup
// do not stumble over them. Who finds the flock taken leaves it to its holder;
// where there is no directory for it nobody of us has been yet.
func (d *Dir) cleanRefLocks(ctx context.Context) error {
	lock, err := d.fs.Lock(d.name(fileRefLock), fsx.Exclusive, 0)
	if errors.Is(err, fsx.ErrLocked) || errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer lock.Unlock()
	l, err := d.haveRefLock()
	if err != nil {
		return err
	}
	names := []string{filePackedRefs, fileConfig}
	err = d.walkRefs(ctx, "refs", "", func(name string) error {
		if base, ok := strings.CutSuffix(name, ".lock"); ok {
			names = append(names, base)
		}
		return nil
	})
	for _, name := range names {
		if e := l.clear(name); e != nil && !errors.As(e, new(*foreignLock)) {
			err = firstErr(err, e)
		}
	}
	return err
}

// sleep waits, or fails when the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
