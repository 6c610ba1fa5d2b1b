package save

import (
	"context"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// dryRun is a session that finds out what a save would store. It begins none in
// the repository, in which nothing is created, not even a lock.
//
// What it was given it remembers in a filter, for which a save of any size has
// room: one object in a hundred may be taken for another one at filterIDs
// objects, which are about 200 GB, and next to none far below.
type dryRun struct {
	repo  repo.Repo
	mu    sync.RWMutex
	added *pack.Filter
	sum   struct{ objects, bytes int64 }
}

const filterIDs = 20_000_000

func newDryRun(r repo.Repo) *dryRun { return &dryRun{repo: r, added: pack.NewFilter(filterIDs)} }

// Missing is that of the repository, but for what was added.
func (d *dryRun) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	from := len(dst)
	dst, err := d.repo.Missing(ctx, dst, ids)
	if err != nil {
		return dst, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	kept := dst[:from]
	for _, id := range dst[from:] {
		if !d.added.Has(id) {
			kept = append(kept, id)
		}
	}
	return kept, nil
}

// Add counts.
func (d *dryRun) Add(_ context.Context, _ repo.Class, entries []pack.Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range entries {
		if e := &entries[i]; !d.added.Has(e.ID) {
			d.added.Add(e.ID)
			d.sum.objects++
			d.sum.bytes += int64(len(e.Bytes))
		}
	}
	return nil
}

// Commit does nothing.
func (d *dryRun) Commit(context.Context) error { return nil }

// Stats returns what a save would store.
func (d *dryRun) Stats() (objects, bytes int64) { return d.sum.objects, d.sum.bytes }

// Close does nothing: nothing was begun.
func (d *dryRun) Close() error { return nil }
