package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// Depot keeps a repository that no directory holds, such as one behind S3. It knows
// states, each of which has its packs and replaces the one before it as a whole: that is
// the one commit point. All else (which objects there are, what is closed, what a receipt
// says) is the business of Packs.
type Depot interface {
	// Latest returns the newest state and the files of it, together with the packs, not the
	// idx files, that were sent from here and that no state names yet; *NotFoundError if
	// there is no state.
	Latest(ctx context.Context) (FarStore, State, error)
	// Send makes a pack, which is published in a directory, durable in the depot. When it
	// returns the pack's own file may go; its idx is wanted here until a state names it.
	Send(ctx context.Context, from *Dir, pack string) error
	// Swap makes the next state. Change is given the newest one and its files, and is
	// called again if another one was faster. What it fails with is what Swap fails with.
	Swap(ctx context.Context, s Step) error
}

// Step is what becomes of one state when the next one is made.
type Step struct {
	Add    []string // packs that were sent, "pack-…"
	Drop   []string // packs that the next state does not have any more
	Change func(files FarStore, s *State) error
}

// desk is where a repository in a depot is worked on: a directory with the sessions and
// what they write. A pack that is published stands there until it was sent, its idx until
// a state names the pack. It is a cache of what an interrupted save did, no more: it may be
// lost at any time.
//
// The desk is the Store of the repository's Packs, and what keeps its state in memory.
type desk struct {
	*Dir
	depot Depot

	sending sync.Map      // of packs, a *sync.Mutex each: the one who is sending it
	moving  chan struct{} // has room for the one who makes the next state: who follows goes forth only

	mu    sync.Mutex
	files FarStore
	state State
}

// OpenDepot opens a repository in a depot, to be worked on in a directory, which is made if
// it is not there. It belongs to one repository and one depot. A depot that is an io.Closer is
// closed with the repository.
func OpenDepot(ctx context.Context, dir string, depot Depot, o DirOptions) (*Packs, error) {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	if err := o.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	at := NewDir(o.FS, dir)
	at.patience = patience(o.Wait)
	if o.Clock != nil {
		at.clock = o.Clock
	}
	for _, name := range []string{"objects", dirPacks, "kedge"} {
		if err := o.FS.MkdirAll(at.name(name), modeDir); err != nil {
			return nil, err
		}
	}
	files, state, err := depot.Latest(ctx)
	if err != nil {
		return nil, err
	}
	c, err := ParseConfig(state.Config)
	if err != nil {
		return nil, err
	}
	if !c.Living {
		return nil, fmt.Errorf("%w: it is a mirror, which only its source changes", ErrReadOnly)
	}
	d := &desk{Dir: at, depot: depot, moving: make(chan struct{}, 1), files: files, state: state}
	if err := d.tidy(ctx); err != nil {
		return nil, err
	}
	p := newPacks(d, nil, c, o.ReadOnly)
	p.keeper, p.desk, p.depot = d, at, d
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// at returns files and state as they are known here.
func (d *desk) at() (FarStore, *State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.state
	return d.files, &s
}

// follow goes on from another state.
func (d *desk) follow(files FarStore, s State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files, d.state = files, s
}

// tidy removes packs that the state names, and what they were listed in, if nobody works
// at the desk.
func (d *desk) tidy(ctx context.Context) error {
	maint, err := d.lock(ctx, fileMaint, fsx.Exclusive)
	if err != nil {
		return err
	}
	defer maint.Unlock()
	if live, _, err := d.liveSessions(); live > 0 || err != nil {
		return err
	}
	named := make(map[string]bool)
	if err := d.files.List(ctx, dirPacks, func(name string, _ int64) error {
		if stem, ok := strings.CutSuffix(name, ".idx"); ok {
			named[stem] = true
		}
		return nil
	}); err != nil {
		return err
	}
	var gone []string
	err = d.Dir.List(ctx, dirPacks, func(name string, _ int64) error {
		if named[strings.TrimSuffix(name, path.Ext(name))] {
			gone = append(gone, name)
		}
		return nil
	})
	for _, name := range gone {
		err = firstErr(err, d.fs.Remove(d.name(name)))
	}
	return err
}

// Close ends the work, and that of a depot that is an io.Closer.
func (d *desk) Close() error {
	err := d.Dir.Close()
	if c, ok := d.depot.(io.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return err
}

// Open opens a file: that of the desk, or that of the depot.
func (d *desk) Open(ctx context.Context, name string) (Blob, error) {
	b, err := d.Dir.Open(ctx, name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	files, _ := d.at()
	return files.Open(ctx, name)
}

// List calls fn for the files of the depot and those of the desk.
func (d *desk) List(ctx context.Context, dir string, fn func(name string, size int64) error) error {
	sizes := make(map[string]int64)
	note := func(name string, size int64) error {
		sizes[name] = size
		return nil
	}
	files, _ := d.at()
	err := files.List(ctx, dir, note)
	if err == nil {
		err = d.Dir.List(ctx, dir, note)
	}
	names := make([]string, 0, len(sizes))
	for name := range sizes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err = firstErr(err, ctx.Err()); err != nil {
			return err
		}
		err = fn(name, sizes[name])
	}
	return err
}

// Locate returns where objects of the depot are; those of the desk are found by its idx
// files before (findNear).
func (d *desk) Locate(ctx context.Context, ids []pack.ID, skip func(string) bool) ([]Located, error) {
	files, _ := d.at()
	return files.Locate(ctx, ids, skip)
}

// Parallel is that of the depot.
func (d *desk) Parallel() int {
	files, _ := d.at()
	return files.Parallel()
}

// near returns the packs of which the desk has the idx.
func (d *desk) near(ctx context.Context) (map[string]bool, error) {
	has := make(map[string]bool)
	err := d.Dir.List(ctx, dirPacks, func(name string, _ int64) error {
		if stem, ok := strings.CutSuffix(path.Base(name), ".idx"); ok {
			has[stem] = true
		}
		return nil
	})
	return has, err
}

func (d *desk) refs(ctx context.Context, prefix string) ([]Ref, error) {
	_, s := d.at()
	return frozen{*s}.refs(ctx, prefix)
}

func (d *desk) receipts(ctx context.Context, fn func(Receipt) error) error {
	_, s := d.at()
	return frozen{*s}.receipts(ctx, fn)
}

// closedPacks returns the list of the state, and that of the desk unless gc has replaced
// the state's since: then the proofs in it may rest on packs that are gone.
func (d *desk) closedPacks() ([]closedLine, error) {
	_, s := d.at()
	lines := parseClosed(s.Closed)
	own, err := d.Dir.closedPacks()
	if gcCount(own) != gcCount(lines) {
		own = nil
	}
	return append(lines, own...), err
}

// text returns the text of a file of the state.
func (d *desk) text(name string) ([]byte, error) {
	_, s := d.at()
	return frozen{*s}.text(name)
}

// findNear looks for an object in the packs of which the desk has the idx.
func (p *Packs) findNear(t *table, id pack.ID, counts func(string) *packFile) (Located, bool) {
	for _, f := range t.near {
		if counts(f.name) == nil {
			continue
		}
		x, err := p.nearIdx(f)
		if err != nil {
			p.warn(f.idxName(), err)
			continue
		}
		if off, ok, err := x.Find(id); ok && err == nil {
			return Located{Pack: f.name, Off: off}, true
		}
	}
	return Located{}, false
}

// nearIdx returns the idx of a pack of the desk, which is compared with its checksum once.
func (p *Packs) nearIdx(f *packFile) (*pack.Idx, error) {
	if x := f.nearIdx.Load(); x != nil {
		return x, nil
	}
	x, err := pack.OpenIdx(f.idxName(), handle{&p.files, f.idxName()}, f.idxSize)
	if err == nil {
		err = x.CheckSum()
	}
	if err != nil {
		return nil, err
	}
	f.nearIdx.Store(x)
	return x, nil
}

// NewConfig returns the text of the config of a new repository that no directory holds.
func NewConfig(o InitOptions) ([]byte, error) {
	chunker, err := o.chunker()
	if err != nil {
		return nil, err
	}
	return editConfig(configText(o, chunker), []option{{"kedge", "", "living", "true"}}), nil
}
