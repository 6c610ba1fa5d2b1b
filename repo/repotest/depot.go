package repotest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const dirPacks = "objects/pack/"

// Depot is a repo.Depot in memory, where several may work at once. What is dropped can no
// longer be read by anybody, so a test sees at once who still relied on it.
type Depot struct {
	// Before is called before every step, "send" or "swap"; an error makes it fail.
	Before func(step string) error

	own *Seat

	mu    sync.Mutex
	n     int // states made
	state repo.State
	packs map[string]bool   // that the state has
	files map[string][]byte // of all packs that are there
}

// NewDepot returns a depot with an empty repository.
func NewDepot(o repo.InitOptions) (*Depot, error) {
	text, err := repo.NewConfig(o)
	d := &Depot{state: repo.State{Head: "refs/heads/main", Config: text}, packs: make(map[string]bool), files: make(map[string][]byte)}
	d.own = d.Seat(func(step string) error {
		if d.Before == nil || step != StepSend && step != StepSwap {
			return nil
		}
		return d.Before(step)
	})
	return d, err
}

// States returns how many states were made.
func (d *Depot) States() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n
}

// Packs returns how many packs the state has.
func (d *Depot) Packs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.packs)
}

// Latest returns the state and its files.
func (d *Depot) Latest(ctx context.Context) (repo.FarStore, repo.State, error) {
	return d.own.Latest(ctx)
}

// Send takes a pack.
func (d *Depot) Send(ctx context.Context, from *repo.Dir, name string) error {
	return d.own.Send(ctx, from, name)
}

// Swap makes the next state.
func (d *Depot) Swap(ctx context.Context, s repo.Step) error { return d.own.Swap(ctx, s) }

// The steps of a Seat: all points at which something may happen at another one that it
// would notice.
const (
	StepLatest = "latest" // the state is read, for Latest or for Swap
	StepSend   = "send"   // a file is sent
	StepSwap   = "swap"   // the next state, which is worked out, takes the place of the one before it
)

// Seat is a depot as one machine sees it: what was sent from elsewhere and is in no state is
// not known here.
type Seat struct {
	d      *Depot
	before func(step string) error

	sent map[string]bool // under the depot's lock
}

// Seat returns the depot as another machine sees it. Before is called before every step; an
// error makes it fail.
func (d *Depot) Seat(before func(step string) error) *Seat {
	return &Seat{d, before, make(map[string]bool)}
}

// Latest returns the state and its files.
func (t *Seat) Latest(ctx context.Context) (repo.FarStore, repo.State, error) {
	f, s, _, err := t.latest(ctx)
	return f, s, err
}

func (t *Seat) latest(ctx context.Context) (*depotFiles, repo.State, int, error) {
	if err := t.before(StepLatest); err != nil {
		return nil, repo.State{}, 0, err
	}
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	return &depotFiles{t, maps.Clone(t.d.packs), make(map[string]*pack.Idx)}, t.d.state, t.d.n, ctx.Err()
}

// Send takes a pack.
func (t *Seat) Send(ctx context.Context, from *repo.Dir, name string) error {
	for _, ending := range []string{".pack", ".idx"} {
		if err := t.before(StepSend); err != nil {
			return err
		}
		b, err := from.Open(ctx, dirPacks+name+ending)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
		if err = errors.Join(err, b.Close()); err != nil {
			return err
		}
		t.d.mu.Lock()
		t.d.files[dirPacks+name+ending] = text
		t.d.mu.Unlock()
	}
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	t.sent[name] = true
	return nil
}

// Swap makes the next state. As with an object store, the change is made beside the lock, and
// again if somebody was faster.
func (t *Seat) Swap(ctx context.Context, s repo.Step) error {
	for {
		files, state, n, err := t.latest(ctx)
		if err != nil {
			return err
		}
		if err := s.Change(files, &state); err != nil {
			return err
		}
		if err := t.before(StepSwap); err != nil {
			return err
		}
		if done, err := t.replace(n, s, state); done || err != nil {
			return err
		}
	}
}

func (t *Seat) replace(before int, s repo.Step, state repo.State) (bool, error) {
	d := t.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n != before {
		return false, nil
	}
	for _, name := range s.Add {
		if d.files[dirPacks+name+".pack"] == nil || d.files[dirPacks+name+".idx"] == nil {
			delete(t.sent, name)
			return false, &repo.BusyError{What: name, Hint: "it was taken away before it was named; run it again"}
		}
	}
	for _, name := range s.Add {
		d.packs[name] = true
		delete(t.sent, name)
	}
	for _, name := range s.Drop {
		delete(d.packs, name)
		delete(d.files, dirPacks+name+".pack")
		delete(d.files, dirPacks+name+".idx")
	}
	d.n++
	d.state = state
	return true, nil
}

// depotFiles are the files of a state.
type depotFiles struct {
	t     *Seat
	packs map[string]bool
	idx   map[string]*pack.Idx
}

// Open opens a file, that of a pack that was only sent, too. What an older state names may be gone.
func (f *depotFiles) Open(_ context.Context, name string) (repo.Blob, error) {
	f.t.d.mu.Lock()
	defer f.t.d.mu.Unlock()
	text, ok := f.t.d.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return depotBlob{bytes.NewReader(text)}, nil
}

type depotBlob struct{ *bytes.Reader }

// Close does nothing.
func (depotBlob) Close() error { return nil }

// List lists the files of the state, and packs that were sent from here since.
func (f *depotFiles) List(_ context.Context, dir string, fn func(string, int64) error) error {
	f.t.d.mu.Lock()
	sizes := make(map[string]int64)
	for name, text := range f.t.d.files {
		stem := strings.TrimSuffix(path.Base(name), path.Ext(name))
		if strings.HasPrefix(name, dir+"/") && (f.packs[stem] || path.Ext(name) == ".pack" && f.t.sent[stem]) {
			sizes[name] = int64(len(text))
		}
	}
	f.t.d.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		if err := fn(name, sizes[name]); err != nil {
			return err
		}
	}
	return nil
}

// Create is refused.
func (f *depotFiles) Create(context.Context) (repo.Pending, error) { return nil, repo.ErrReadOnly }

// Remove is refused.
func (f *depotFiles) Remove(context.Context, string) error { return repo.ErrReadOnly }

// Parallel is 2.
func (f *depotFiles) Parallel() int { return 2 }

// Locate looks into the idx files of the state's packs.
func (f *depotFiles) Locate(ctx context.Context, ids []pack.ID, skip func(string) bool) ([]repo.Located, error) {
	f.t.d.mu.Lock()
	defer f.t.d.mu.Unlock()
	out := make([]repo.Located, len(ids))
	for _, name := range slices.Sorted(maps.Keys(f.packs)) {
		text := f.t.d.files[dirPacks+name+".idx"]
		if text == nil || skip(name) {
			continue
		}
		if f.idx[name] == nil {
			x, err := pack.OpenIdx(name, bytes.NewReader(text), int64(len(text)))
			if err != nil {
				return nil, err
			}
			f.idx[name] = x
		}
		for i, id := range ids {
			if off, ok, err := f.idx[name].Find(id); ok && err == nil {
				out[i] = repo.Located{Pack: name, Off: off}
			}
		}
	}
	return out, ctx.Err()
}
