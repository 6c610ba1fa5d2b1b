package repo

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/pack/midx"
)

const (
	dirPacks = "objects/pack"
	fileMidx = dirPacks + "/multi-pack-index"
)

// Packs is a Repo over a Store: all the logic of a repository, whatever holds
// its files.
//
// Which packs there are is a table that is never changed, only replaced; so
// readers take it as it is at one moment, without a lock. It is made anew when
// the directory of packs changes.
type Packs struct {
	store    Store
	far      FarStore // store, if it is one
	keeper   keeper   // refs, config, receipts, the list of closed packs
	dir      *Dir     // the same, to be written to; nil if no directory holds it
	desk     *Dir     // where sessions have their locks and what they write; nil if it is readOnly for good
	depot    *desk    // what holds it, if no directory does
	config   Config
	readOnly bool
	files    files
	hold     atomic.Int64 // bytes of idx files that may be held
	held     atomic.Int64 // and are, or were; see makeRoom

	table  atomic.Pointer[table]
	recent atomic.Pointer[packFile] // where the last object was found

	distrusts atomic.Int64 // how often all proofs were forgotten

	mu       sync.Mutex // held while the table is replaced
	stamp    time.Time  // of the directory when the table was made
	sure     bool       // the stamp tells of every change since
	scanned  time.Time  // when the table was made; zero: it is to be made anew
	gcs      int64      // how often gc had replaced the list of closed packs
	warnings map[string]error

	allowed struct { // ids of git fsck that the config is known to ignore
		sync.Mutex
		ids map[string]bool
	}
	proof proof    // objects proved to be there with all below them
	trash struct { // what garbage collection took away; nil: not opened
		mu    sync.Mutex
		packs *Packs
	}
	scratch sync.Pool
	ended   atomic.Bool
}

// packFile is a pack with its idx.
type packFile struct {
	name    string // "pack-<hex>", without directory and ending
	size    int64  // of the .pack
	idxSize int64
	closed  atomic.Bool // all its objects have everything below them (I9)
	relied  atomic.Bool // it is not closed, but proofs rest on objects in it
	gone    atomic.Bool // it is damaged or was removed, and counts as absent
	damage  atomic.Pointer[error]
	checked atomic.Bool // its idx was compared with its checksum
	misses  misses
	held    atomic.Pointer[heldIdx] // what idx reads

	mu    sync.Mutex
	ready atomic.Bool // idx and pack are set
	idx   *pack.Idx
	pack  *pack.Pack

	bare    atomic.Pointer[pack.Pack] // of a FarStore: the pack while nobody needs its idx
	nearIdx atomic.Pointer[pack.Idx]  // of a pack that was published here and goes to a depot
}

func (f *packFile) packName() string { return dirPacks + "/" + f.name + ".pack" }
func (f *packFile) idxName() string  { return dirPacks + "/" + f.name + ".idx" }

// table is the packs of a repository at one moment.
type table struct {
	packs  []*packFile
	byName map[string]*packFile

	midx      *midxFile   // nil if there is none
	midxPacks []*packFile // what midx calls pack i; nil if there is no such pack
	single    []*packFile // the packs that midx does not cover
	near      []*packFile // of a depot: the packs of which the desk has the idx
}

// midxFile is a multi-pack-index, which tables share as long as it does not
// change. It is the one file that another may take the place of, so it stays
// open until no table has it any more.
type midxFile struct {
	*midx.File
	size    int64
	sum     pack.ID // the checksum at its end
	checked atomic.Bool
	misses  misses
	blob    Blob
	unused  runtime.Cleanup // closes blob
}

// newPacks returns a Packs that has not looked at its packs yet.
func newPacks(store Store, dir *Dir, c Config, readOnly bool) *Packs {
	p := &Packs{store: store, dir: dir, desk: dir, config: c, readOnly: readOnly, warnings: make(map[string]error)}
	p.hold.Store(defaultHold)
	p.keeper = dir
	p.far, _ = store.(FarStore)
	p.files = files{store: store, open: make(map[string]*list.Element)}
	p.scratch.New = func() any { return newReader() }
	p.table.Store(&table{byName: map[string]*packFile{}})
	return p
}

// Config returns what the repository said of itself when it was opened.
func (p *Packs) Config() Config { return p.config }

// Warnings returns what was found wrong and could be done without: packs and
// idx files that do not fit each other and are passed over.
func (p *Packs) Warnings() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := make([]string, 0, len(p.warnings))
	for name := range p.warnings {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make([]error, len(names))
	for i, name := range names {
		out[i] = p.warnings[name]
	}
	return out
}

// warn notes one warning for each file.
func (p *Packs) warn(file string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warnings[file] = err
}

// Close gives back what the repository holds open.
func (p *Packs) Close() error {
	if p.ended.Swap(true) {
		return nil
	}
	p.files.close()
	if p.trash.packs != nil {
		p.trash.packs.Close()
	}
	if m := p.table.Load().midx; m != nil {
		m.unused.Stop()
		m.blob.Close()
	}
	return p.keeper.Close()
}

// refresh makes a new table if the directory of packs may have changed.
func (p *Packs) refresh(ctx context.Context) error { return p.refreshAfter(ctx, 0) }

// refreshAfter is refresh, but is satisfied with a table that is not older than
// that if only the clock's being too coarse speaks against it.
func (p *Packs) refreshAfter(ctx context.Context, age time.Duration) error {
	if p.ended.Load() {
		return ErrClosed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// The stamp is taken first: a change while we read shows the next time.
	stamp, sure, err := p.keeper.stamp()
	if err != nil {
		return err
	}
	now := time.Now()
	if stamp.Equal(p.stamp) && (p.sure || now.Sub(p.scanned) < age) {
		return nil
	}
	// The list of closed packs before the packs themselves: whoever adds to it
	// has published the pack before.
	closed, err := p.keeper.closedPacks()
	if err != nil {
		return err
	}
	t, err := p.scan(ctx)
	if err != nil {
		return err
	}
	p.markClosed(t, closed)
	p.table.Store(t)
	p.stamp, p.sure, p.scanned = stamp, sure, now
	return nil
}

// scan lists the packs, and keeps what is known of those that are still there.
func (p *Packs) scan(ctx context.Context) (*table, error) {
	type pair struct{ pack, idx int64 }
	found := make(map[string]pair)
	hasMidx := false
	err := p.store.List(ctx, dirPacks, func(name string, size int64) error {
		hasMidx = hasMidx || name == fileMidx
		base := path.Base(name)
		stem, ending := strings.TrimSuffix(base, path.Ext(base)), path.Ext(base)
		if path.Dir(name) != dirPacks || !strings.HasPrefix(stem, "pack-") {
			return nil
		}
		f := found[stem]
		switch ending {
		case ".pack":
			f.pack = size
		case ".idx":
			f.idx = size
		}
		found[stem] = f
		return nil
	})
	if err != nil {
		return nil, err
	}
	old := p.table.Load()
	t := &table{byName: make(map[string]*packFile, len(found))}
	clear(p.warnings)
	for stem, size := range found {
		if size.idx == 0 || size.pack == 0 {
			// A pack without an idx is being published. Not so the other way round.
			if size.pack == 0 && size.idx != 0 {
				name := dirPacks + "/" + stem + ".idx"
				p.warnings[name] = fmt.Errorf("%s: ignored, as its pack is missing", name)
			}
			continue
		}
		f := old.byName[stem]
		if f == nil || f.size != size.pack || f.idxSize != size.idx || f.gone.Load() {
			f = p.look(f, &packFile{name: stem, size: size.pack, idxSize: size.idx})
		}
		t.add(f)
	}
	// The latest first would be best, but a Store knows no times. Names are
	// hashes, so any order serves; what matters is that it does not change.
	slices.SortFunc(t.packs, func(a, b *packFile) int { return strings.Compare(a.name, b.name) })
	for name := range old.byName {
		if t.byName[name] == nil {
			p.files.forget(dirPacks+"/"+name+".pack", dirPacks+"/"+name+".idx")
		}
	}
	if p.depot != nil {
		near, err := p.depot.near(ctx)
		for name := range near {
			if f := t.byName[name]; f != nil {
				t.near = append(t.near, f)
			}
		}
		return t, err
	}
	if hasMidx {
		p.openMidx(ctx, t)
	}
	t.setSingle()
	return t, nil
}

// look decides what stands for a pack in a new table, with p.mu held. One that
// was damaged may have been replaced by a good one, which only opening it can
// tell; if it is still as it was, what was known of it stays.
func (p *Packs) look(old, now *packFile) *packFile {
	p.files.forget(now.packName(), now.idxName())
	if old == nil || old.damage.Load() == nil || old.size != now.size || old.idxSize != now.idxSize {
		return now
	}
	if errors.As(p.tryOpen(now), new(*pack.CorruptError)) {
		p.warnings[old.packName()] = *old.damage.Load()
		return old
	}
	now.ready.Store(now.idx != nil)
	return now
}

// add takes a pack into a table that is being made.
func (t *table) add(f *packFile) {
	t.packs = append(t.packs, f)
	t.byName[f.name] = f
}

// setSingle fills in what the multi-pack-index does not cover.
func (t *table) setSingle() {
	covered := make(map[*packFile]bool)
	for _, f := range t.midxPacks {
		covered[f] = true
	}
	t.single = nil
	for _, f := range t.packs {
		if !covered[f] {
			t.single = append(t.single, f)
		}
	}
}

// openMidx takes the multi-pack-index into a table. It is derived: one that
// cannot be read is as good as none.
func (p *Packs) openMidx(ctx context.Context, t *table) {
	m, err := p.loadMidx(ctx)
	if err != nil {
		p.warnings[fileMidx] = err
		return
	}
	t.midx = m
	for _, name := range m.Packs() {
		t.midxPacks = append(t.midxPacks, t.byName[strings.TrimSuffix(name, ".idx")])
	}
}

// loadMidx opens the multi-pack-index, or returns the one at hand if it is
// still the same, with the filter that was perhaps built for it.
func (p *Packs) loadMidx(ctx context.Context) (*midxFile, error) {
	b, err := p.store.Open(ctx, fileMidx)
	if err != nil {
		return nil, err
	}
	tail := make([]byte, packTrailer)
	size := b.Size()
	if _, err := b.ReadAt(tail, max(0, size-packTrailer)); err != nil && err != io.EOF {
		b.Close()
		return nil, err
	}
	sum, _, _ := pack.CutID(tail)
	if old := p.table.Load().midx; old != nil && old.size == size && old.sum == sum {
		b.Close()
		return old, nil
	}
	f, err := midx.Open(fileMidx, b, size)
	if err != nil {
		b.Close()
		return nil, err
	}
	unused := runtime.AddCleanup(f, func(b Blob) { b.Close() }, b)
	return &midxFile{File: f, size: size, sum: sum, blob: b, unused: unused}, nil
}

// open makes sure that idx and pack of f are open and belong together. ok is
// false if the pack does not count: it is damaged, or gone.
func (p *Packs) open(f *packFile) (ok bool, err error) {
	if f.ready.Load() {
		return !f.gone.Load(), nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ready.Load() || f.gone.Load() {
		return !f.gone.Load(), nil
	}
	if err = p.tryOpen(f); err != nil {
		return false, p.lost(f, err)
	}
	f.ready.Store(true)
	return true, nil
}

// lost makes a pack absent that cannot be opened or whose idx cannot be read.
// Errors that speak of the attempt and not of the files are returned.
func (p *Packs) lost(f *packFile, err error) error {
	damaged := errors.As(err, new(*pack.CorruptError))
	if !damaged && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if damaged {
		err := fmt.Errorf("%w; the pack is passed over", err) // it names the file
		f.damage.Store(&err)
		p.warn(f.packName(), err)
	}
	f.gone.Store(true)
	if f.closed.Load() || f.relied.Load() {
		p.distrust(p.table.Load())
	}
	return nil
}

func (p *Packs) tryOpen(f *packFile) error {
	held := &heldIdx{handle: handle{&p.files, f.idxName()}, p: p, f: f}
	idx, err := pack.OpenIdx(f.idxName(), held, f.idxSize)
	if err != nil {
		return err
	}
	sum, err := idx.PackSum()
	if err != nil {
		return err
	}
	pk, err := pack.OpenPack(f.packName(), handle{&p.files, f.packName()}, f.size, sum)
	if err != nil {
		return err
	}
	if pk.Len() != idx.Len() {
		return &pack.CorruptError{File: f.idxName(), Off: -1, Reason: fmt.Sprintf("%d objects, its pack has %d", idx.Len(), pk.Len())}
	}
	f.idx, f.pack = idx, pk
	f.held.Store(held)
	return nil
}

// drop takes a pack out of the table whose files were replaced.
func (p *Packs) drop(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if gone := p.table.Load().byName[name]; gone != nil {
		gone.gone.Store(true)
		p.files.forget(gone.packName(), gone.idxName())
		p.exchange(gone, nil)
	}
}

// adopt takes a pack that this process has published, and found closed, into
// the table, and returns what stands for it there.
func (p *Packs) adopt(f *packFile) *packFile {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.table.Load().byName[f.name]
	if known != nil && !known.gone.Load() {
		f = known
	} else {
		p.exchange(known, f)
	}
	f.closed.Store(true)
	return f
}

// exchange makes a table with one pack in place of another; either may be nil.
func (p *Packs) exchange(out, in *packFile) {
	old := p.table.Load()
	t := &table{byName: make(map[string]*packFile, len(old.packs)+1)}
	t.midx, t.midxPacks = old.midx, slices.Clone(old.midxPacks)
	for i, f := range t.midxPacks {
		if f == out && f != nil {
			t.midxPacks[i] = in
		}
	}
	if in != nil {
		t.add(in)
	}
	for _, f := range old.packs {
		if f != out {
			t.add(f)
		}
	}
	t.setSingle()
	t.near = slices.DeleteFunc(slices.Clone(old.near), func(f *packFile) bool { return f == out })
	if in != nil && p.depot != nil { // only what is published here comes this way
		t.near = append(t.near, in)
	}
	p.table.Store(t)
}
