package repotest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

	mu    sync.Mutex
	n     int // states made
	state repo.State
	packs map[string]bool   // that the state has
	files map[string][]byte // of all packs that are there
}

// NewDepot returns a depot with an empty repository.
func NewDepot(o repo.InitOptions) (*Depot, error) {
	text, err := repo.NewConfig(o)
	return &Depot{state: repo.State{Head: "refs/heads/main", Config: text}, packs: make(map[string]bool), files: make(map[string][]byte)}, err
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

func (d *Depot) before(step string) error {
	if d.Before == nil {
		return nil
	}
	return d.Before(step)
}

// Latest returns the state and its files.
func (d *Depot) Latest(ctx context.Context) (repo.FarStore, repo.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &depotFiles{d, maps.Clone(d.packs), make(map[string]*pack.Idx)}, d.state, ctx.Err()
}

// Send takes a pack.
func (d *Depot) Send(ctx context.Context, from *repo.Dir, name string) error {
	if err := d.before("send"); err != nil {
		return err
	}
	for _, ending := range []string{".pack", ".idx"} {
		b, err := from.Open(ctx, dirPacks+name+ending)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
		if err = errors.Join(err, b.Close()); err != nil {
			return err
		}
		d.mu.Lock()
		d.files[dirPacks+name+ending] = text
		d.mu.Unlock()
	}
	return nil
}

// Swap makes the next state. As with an object store, the change is made beside the lock, and
// again if somebody was faster.
func (d *Depot) Swap(ctx context.Context, s repo.Step) error {
	for {
		files, state, err := d.Latest(ctx)
		if err != nil {
			return err
		}
		before := d.States()
		if err := s.Change(files, &state); err != nil {
			return err
		}
		if err := d.before("swap"); err != nil {
			return err
		}
		if done, err := d.replace(before, s, state); done || err != nil {
			return err
		}
	}
}

func (d *Depot) replace(before int, s repo.Step, state repo.State) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n != before {
		return false, nil
	}
	for _, name := range s.Add {
		if d.files[dirPacks+name+".pack"] == nil {
			return false, fmt.Errorf("%s was not sent", name)
		}
		d.packs[name] = true
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
	d     *Depot
	packs map[string]bool
	idx   map[string]*pack.Idx
}

// Open opens a file, that of a pack that was only sent, too.
func (f *depotFiles) Open(_ context.Context, name string) (repo.Blob, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	text, ok := f.d.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return depotBlob{bytes.NewReader(text)}, nil
}

type depotBlob struct{ *bytes.Reader }

// Close does nothing.
func (depotBlob) Close() error { return nil }

// List lists the files of the state, and packs that were sent.
func (f *depotFiles) List(_ context.Context, dir string, fn func(string, int64) error) error {
	f.d.mu.Lock()
	sizes := make(map[string]int64)
	for name, text := range f.d.files {
		stem := strings.TrimSuffix(path.Base(name), path.Ext(name))
		if strings.HasPrefix(name, dir+"/") && (f.packs[stem] || path.Ext(name) == ".pack" && !f.d.packs[stem]) {
			sizes[name] = int64(len(text))
		}
	}
	f.d.mu.Unlock()
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
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	out := make([]repo.Located, len(ids))
	for _, name := range slices.Sorted(maps.Keys(f.packs)) {
		text := f.d.files[dirPacks+name+".idx"]
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
