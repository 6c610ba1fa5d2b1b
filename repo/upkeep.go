package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// fileUpkeep is locked by whoever prunes, undoes, removes saves or collects garbage.
const fileUpkeep = "kedge/upkeep"

// Upkeep is the right to take things away from a repository. One process has it at a
// time. Saves go on meanwhile: what they rely on is known from their session files, and
// what they add is looked for again before anything is taken away.
type Upkeep struct {
	p    *Packs
	lock *fsx.Lock
}

// Upkeep takes the right to take things away.
func (p *Packs) Upkeep(ctx context.Context) (*Upkeep, error) {
	if p.readOnly {
		return nil, ErrReadOnly
	}
	lock, err := p.desk.lock(ctx, fileUpkeep, fsx.Exclusive)
	if err != nil {
		return nil, err
	}
	return &Upkeep{p, lock}, nil
}

// Close gives the right back.
func (u *Upkeep) Close() error { return u.lock.Unlock() }

// Now returns the time of the repository: never before its last receipt.
func (u *Upkeep) Now(ctx context.Context) (time.Time, error) {
	now := u.p.desk.now()
	last, err := u.p.LastReceipt(ctx)
	if err == nil && last.After(now) {
		now = last
	}
	return now, err
}

// LastReceipt returns the time of the last line of the diary, zero if there is none.
func (p *Packs) LastReceipt(ctx context.Context) (at time.Time, err error) {
	err = p.Receipts(ctx, func(r Receipt) error {
		at = time.Unix(r.Time, 0)
		return nil
	})
	return at, err
}

// Sessions returns how many sessions live: saves, restores and mirror runs.
func (u *Upkeep) Sessions(ctx context.Context) (int, error) {
	live, _, err := u.p.desk.liveSessions()
	return live, firstErr(ctx.Err(), err)
}

// quietPoll is how often Quiet looks.
const quietPoll = 250 * time.Millisecond

// Quiet waits until no session lives, at most as long as wait says, and returns how many do then.
// Others begin meanwhile, so this is patience and no promise: Decide tells what nobody may take.
func (u *Upkeep) Quiet(ctx context.Context, wait time.Duration) (int, error) {
	end := time.Now().Add(wait)
	for {
		n, err := u.Sessions(ctx)
		left := time.Until(end)
		if err != nil || n == 0 || left <= 0 {
			return n, err
		}
		select {
		case <-ctx.Done():
			return n, context.Cause(ctx)
		case <-time.After(min(left, quietPoll)):
		}
	}
}

// liveSessions returns how many sessions live, and the packs that they rely on.
func (d *Dir) liveSessions() (n int, relied map[pack.ID]bool, err error) {
	relied = make(map[pack.ID]bool)
	list, err := d.fs.ReadDir(d.name(dirSessions))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, relied, nil
	} else if err != nil {
		return 0, relied, err
	}
	for _, e := range list {
		file := d.name(dirSessions + "/" + e.Name())
		lock, err := d.fs.Lock(file, fsx.Exclusive, 0)
		if err == nil { // its process is gone; cleanSessions removes the file
			if err := lock.Unlock(); err != nil {
				return n, relied, err
			}
			continue
		}
		if !errors.Is(err, fsx.ErrLocked) {
			return n, relied, err
		}
		n++
		text, err := d.fs.ReadFile(file, maxClosed)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, relied, err
		}
		for line := range bytes.Lines(text) {
			if id, ok := packOf(strings.TrimSuffix(string(line), "\n") + ".pack"); ok {
				relied[id] = true
			}
		}
	}
	return n, relied, nil
}

// Decide calls fn while no session can begin. It is told how many live and which packs
// they rely on, which must stay.
func (u *Upkeep) Decide(ctx context.Context, fn func(live int, relied map[pack.ID]bool) error) error {
	maint, err := u.p.desk.lock(ctx, fileMaint, fsx.Exclusive)
	if err != nil {
		return err
	}
	defer maint.Unlock()
	live, relied, err := u.p.desk.liveSessions()
	if err != nil {
		return err
	}
	return fn(live, relied)
}

// Retirement says which packs leave a repository, and what is left.
type Retirement struct {
	Trees, Data []pack.ID          // packs to take away; those with trees or commits first
	Closed      func(pack.ID) bool // whether a pack that stays is closed then (I9)
	Delete      bool               // delete them at once, and do not keep them in the trash
}

// Retire takes packs away. It is called within Decide, and what is live in them has been
// published elsewhere. The order:
//
//	remove the multi-pack-index, bup's *.midx and bup.bloom, fsync of objects/pack
//	replace kedge/closed
//	move the packs with trees or commits to the trash, fsync; then those of data, fsync
//
// Parents go before children, so whatever is there at any moment is there with all below
// it. After a crash in between, packs that should have gone are still there, unlisted,
// and the next collection takes them.
func (u *Upkeep) Retire(ctx context.Context, r Retirement) error {
	if u.p.depot != nil {
		return u.p.retireDepot(ctx, r)
	}
	d := u.p.dir
	if err := d.dropTables(ctx); err != nil {
		return err
	}
	gone := make(map[pack.ID]bool)
	for _, names := range [][]pack.ID{r.Trees, r.Data} {
		for _, id := range names {
			gone[id] = true
		}
	}
	if err := u.p.refresh(ctx); err != nil {
		return err
	}
	if err := u.p.relist(ctx, r.Closed, func(id pack.ID) bool { return gone[id] }); err != nil {
		return err
	}
	for _, names := range [][]pack.ID{r.Trees, r.Data} {
		if len(names) == 0 {
			continue
		}
		if r.Delete {
			if err := d.deletePacks(ctx, names); err != nil {
				return err
			}
			continue
		}
		already, err := u.p.Trash(ctx)
		if err == nil {
			err = d.hide(ctx, names, already)
		}
		if err != nil {
			return err
		}
	}
	u.p.mu.Lock()
	u.p.sure = false
	u.p.mu.Unlock()
	return u.p.refresh(ctx)
}

// dropTables removes the tables over several packs, git's and bup's, which would claim
// objects that are gone. They are derived.
func (d *Dir) dropTables(ctx context.Context) error {
	var names []string
	err := d.List(ctx, dirPacks, func(name string, _ int64) error {
		base := path.Base(name)
		if strings.HasPrefix(base, "multi-pack-index") || base == "bup.bloom" ||
			strings.HasPrefix(base, "midx-") && path.Ext(base) == ".midx" {
			names = append(names, name)
		}
		return nil
	})
	for _, name := range names {
		err = firstErr(err, d.fs.Remove(d.name(name)))
	}
	if err != nil || len(names) == 0 {
		return err
	}
	return d.fs.SyncDir(d.name(dirPacks))
}

// deletePacks deletes packs for good, each idx before its pack.
func (d *Dir) deletePacks(ctx context.Context, names []pack.ID) error {
	for _, name := range names {
		for _, ending := range []string{".idx", ".pack"} {
			err := firstErr(ctx.Err(), d.fs.Remove(d.name(dirPacks+"/pack-"+name.String()+ending)))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := d.dropBeside(name); err != nil {
			return err
		}
	}
	return d.fs.SyncDir(d.name(dirPacks))
}

// EmptyTrash deletes packs from the trash for good.
func (u *Upkeep) EmptyTrash(ctx context.Context, names []pack.ID) error {
	if len(names) == 0 {
		return nil
	}
	all, err := u.p.Trash(ctx)
	if err != nil {
		return err
	}
	return u.p.dir.empty(ctx, names, all)
}

// Kept reports whether a pack has a .keep file, which says that it stays as it is.
func (p *Packs) Kept(name pack.ID) (bool, error) {
	if p.dir == nil {
		return false, nil
	}
	_, err := p.dir.fs.Lstat(p.dir.name(fmt.Sprintf("%s/pack-%v.keep", dirPacks, name)))
	if noFile(err) {
		return false, nil
	}
	return err == nil, err
}

// PackTime returns when a pack was written. A depot does not tell: there a pack that no ref
// leads to is as old as can be, and a save that went on with it would find out.
func (p *Packs) PackTime(name pack.ID) (time.Time, error) {
	if p.dir == nil {
		return time.Time{}, nil
	}
	info, err := p.dir.fs.Lstat(p.dir.name(fmt.Sprintf("%s/pack-%v.pack", dirPacks, name)))
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// fileLive remembers how many bytes were live when garbage was collected last, and when.
const fileLive = "kedge/live"

// Clock returns what the clock says, which may be before the last receipt.
func (u *Upkeep) Clock() time.Time { return u.p.desk.now() }

// LastLive returns how many bytes were live when garbage was collected last; 0 if it never
// was. It guards against a mistake, so what cannot be read is as good as nothing.
func (u *Upkeep) LastLive(ctx context.Context) (int64, error) {
	text, err := u.p.desk.fs.ReadFile(u.p.desk.name(fileLive), 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ctx.Err()
	}
	var at, n int64
	_, _ = fmt.Sscanf(string(text), "%d %d\n", &at, &n)
	return n, err
}

// NoteLive remembers how many bytes are live.
func (u *Upkeep) NoteLive(ctx context.Context, n int64) error {
	return firstErr(ctx.Err(), u.p.desk.fs.Replace(u.p.desk.name(fileLive), fmt.Appendf(nil, "%d %d\n", u.Clock().Unix(), n), modeState))
}
