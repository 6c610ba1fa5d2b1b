package repo

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// lockPatience is how long a command waits for a lock, ours or git's, before it
// says that somebody else is busy.
const lockPatience = 30 * time.Second

// patience returns how long an option says to wait.
func patience(wait time.Duration) time.Duration {
	if wait == 0 {
		return lockPatience
	}
	return max(0, wait)
}

// lease is what makes a session known to other processes: a file under
// kedge/sessions, locked as long as the session lives, and a directory of its
// own under kedge/tmp. The kernel drops the lock when the process dies, so
// nothing has to be unlocked by hand (I5).
type lease struct {
	lock *fsx.Lock
	file string // kedge/sessions/<id>
	tmp  string // kedge/tmp/<id>
}

// takeLease begins a session on d:
//
//	flock kedge/maint (shared), flock kedge/sessions/<id>, write the promised
//	packs into it, unlock kedge/maint, remove what dead sessions left,
//	mkdir kedge/tmp/<id>
//
// Who decides what to delete holds kedge/maint exclusively, so it either sees
// the session with all it relies on, or the session begins after the deletion
// and sees what is left. None of it needs to be durable: after a crash the
// session is gone, and its promises with it.
func takeLease(ctx context.Context, d *Dir, promised []string) (*lease, error) {
	for _, dir := range []string{dirSessions, dirTmp} {
		if err := d.fs.MkdirAll(d.name(dir), modeDir); err != nil {
			return nil, err
		}
	}
	maint, err := d.lock(ctx, fileMaint, fsx.Shared)
	if err != nil {
		return nil, err
	}
	defer maint.Unlock()
	id := randomName(16)
	l := &lease{file: d.name(dirSessions + "/" + id), tmp: d.name(dirTmp + "/" + id)}
	// Who cleans up may look just now whether the file is a dead one's, and remove it.
	if l.lock, err = d.fs.Lock(l.file, fsx.Exclusive, lockPatience); err != nil {
		return nil, err
	}
	if err = l.promise(promised); err == nil {
		err = cleanSessions(d)
	}
	if err == nil {
		err = d.fs.Mkdir(l.tmp, modeDir)
	}
	if err != nil {
		_ = l.end(d.fs)
		return nil, err
	}
	return l, nil
}

// promise notes packs that the session relies on, one name a line.
func (l *lease) promise(packs []string) error {
	if len(packs) == 0 {
		return nil
	}
	_, err := l.lock.File().Write([]byte(strings.Join(packs, "\n") + "\n"))
	return err
}

// end removes what the session left and gives up the lock, in this order: as
// long as the lock is held nobody else touches the directory.
func (l *lease) end(fsys *fsx.FS) error {
	err := fsys.RemoveAll(l.tmp)
	if e := fsys.Remove(l.file); e != nil && !errors.Is(e, fs.ErrNotExist) && err == nil {
		err = e
	}
	if e := l.lock.Unlock(); e != nil && err == nil {
		err = e
	}
	return err
}

// cleanSessions removes the files of sessions whose process is gone. A
// directory whose session file is missing belongs to nobody either: the file
// comes first and goes last.
func cleanSessions(d *Dir) error {
	ids := make(map[string]bool)
	for _, dir := range []string{dirSessions, dirTmp} {
		list, err := d.fs.ReadDir(d.name(dir))
		if err != nil {
			return err
		}
		for _, e := range list {
			ids[e.Name()] = true
		}
	}
	for id := range ids {
		file := d.name(dirSessions + "/" + id)
		lock, err := d.fs.Lock(file, fsx.Exclusive, 0)
		if err != nil {
			continue // it lives
		}
		dead := lease{lock: lock, file: file, tmp: d.name(dirTmp + "/" + id)}
		_ = dead.end(d.fs) // somebody else's litter is no reason to fail
	}
	return nil
}

// lock takes a flock on a file of the repository, waiting for d.patience.
func (d *Dir) lock(ctx context.Context, name string, mode fsx.LockMode) (*fsx.Lock, error) {
	return d.lockUntil(ctx, name, mode, time.Now().Add(d.patience))
}

// lockUntil takes a flock on a file of the repository, if need be until a time
// has come. The directory of kedge's own files is made where bup or git made the
// repository.
func (d *Dir) lockUntil(ctx context.Context, name string, mode fsx.LockMode, end time.Time) (*fsx.Lock, error) {
	if err := d.fs.MkdirAll(d.name("kedge"), modeDir); err != nil {
		return nil, err
	}
	const step = 200 * time.Millisecond // after which a cancelled context is noticed
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		left := time.Until(end)
		l, err := d.fs.Lock(d.name(name), mode, max(0, min(step, left)))
		if !errors.Is(err, fsx.ErrLocked) {
			return l, err
		}
		if left <= step {
			return nil, &BusyError{What: d.name(name), Hint: "another kedge works on this repository"}
		}
	}
}
