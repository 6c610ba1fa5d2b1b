package s3sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// LivingOptions says how a repository that lives in a bucket is worked on.
type LivingOptions struct {
	FS *fsx.FS
	// Dir is a directory of this repository's own, where stands what was sent and copies of
	// segments. It may be lost at any time.
	Dir string
	// Sign signs a manifest; nil: it is not signed.
	Sign           func(text []byte) ([]byte, error)
	Workers        int              // requests that send at once; 0: 4
	Now            func() time.Time // nil: time.Now
	Store          string           // tells stores apart in the journal: endpoint and bucket
	PartSize       int64            // 0: 16 MiB
	BytesPerSecond int64            // limit on what is sent; 0: none
	Cache          *Cache           // for what is read
	MaxFiles       int              // a save that would make it more is refused; 0: 2,000,000
}

// Living is a repository that lives in a bucket: a repo.Depot. Every move of a ref makes a
// generation, the manifest of which is created exclusively:
//
//	PUT packs and idx files, as they are published; at a move: PUT segments, PUT the files
//	that change, PUT the manifest n+1; if that is taken: read it, and begin again
//
// What is sent and named by no manifest yet is noted in the directory, so that a save that was
// cut short goes on with it.
type Living struct {
	b *Bucket
	o LivingOptions

	mu     sync.Mutex
	m      *mirror // how files are sent; nil: nothing was
	sent   *sentList
	last   *livingFiles
	texts  map[Sum][]byte // of state files that were read
	copies map[Sum]*fsx.File
}

// Live returns the repository as one that can be changed.
func (b *Bucket) Live(o LivingOptions) (*Living, error) {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Cache == nil {
		o.Cache = NewCache(32 << 20)
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = maxFiles
	}
	if err := o.FS.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	sent, err := openSent(o.FS, o.Dir, o.Now())
	if err != nil {
		return nil, err
	}
	return &Living{b: b, o: o, sent: sent, texts: make(map[Sum][]byte), copies: make(map[Sum]*fsx.File)}, nil
}

// Close ends the work.
func (l *Living) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.m != nil {
		err = l.m.journal.close(true)
		l.m = nil
	}
	for _, f := range l.copies {
		err = errors.Join(err, f.Close())
	}
	clear(l.copies)
	return err
}

// Init makes the first generation of an empty prefix. One that has a repository stays as it is.
func (l *Living) Init(ctx context.Context, config []byte) error {
	if _, err := l.b.Latest(ctx); !errors.As(err, new(*repo.NotFoundError)) {
		return err
	}
	c, err := repo.ParseConfig(config)
	if err != nil {
		return err
	}
	m, err := l.sender(c.ID)
	if err != nil {
		return err
	}
	s := repo.State{Head: "refs/heads/main", Config: config}
	err = l.make(ctx, m, nil, &s, repo.Step{})
	if errors.Is(err, ErrExists) { // somebody was faster
		return nil
	}
	return err
}

// sender returns what sends files.
func (l *Living) sender(id string) (*mirror, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m != nil {
		return l.m, nil
	}
	m := &mirror{b: l.b, id: id, shared: true, scratch: l.o.Dir, kinds: make(map[pack.ID]string)}
	m.o = MirrorOptions{FS: l.o.FS, Workers: l.o.Workers, Now: l.o.Now, Sign: l.o.Sign, PartSize: l.o.PartSize, BytesPerSecond: l.o.BytesPerSecond}
	if m.o.Workers == 0 {
		m.o.Workers = 4
	}
	if m.o.PartSize == 0 {
		m.o.PartSize = defaultPartSize
	}
	m.slots = make(chan struct{}, m.o.Workers)
	m.pace = &pace{perSecond: m.o.BytesPerSecond}
	// Several may work on one repository at once, each with a journal of its own.
	const journals = 64
	for i := range journals {
		var err error
		dir := filepath.Join(l.o.Dir, fmt.Sprintf("journal-%d", i))
		m.journal, err = openJournal(l.o.FS, dir, l.o.Store, l.b.Prefix, id)
		if err == nil {
			break
		}
		if !errors.Is(err, fsx.ErrLocked) || i == journals-1 {
			return nil, err
		}
	}
	l.m = m
	return m, nil
}

// Latest returns the newest generation, and what was sent from here since. (repo.Depot)
func (l *Living) Latest(ctx context.Context) (repo.FarStore, repo.State, error) {
	f, s, err := l.latest(ctx)
	if err != nil {
		return nil, s, err
	}
	return f, s, nil
}

func (l *Living) latest(ctx context.Context) (*livingFiles, repo.State, error) {
	l.mu.Lock()
	last := l.last
	l.mu.Unlock()
	find := l.b.Latest
	if last == nil { // a manifest is not lost while one works: to look once is enough
		find = l.b.Recover
	}
	g, err := find(ctx)
	if err != nil {
		return nil, repo.State{}, err
	}
	if g.Encrypted {
		return nil, repo.State{}, &SealedError{l.b.name()}
	}
	if len(g.Passed) > 0 {
		// To go on from an older generation would take back what the newer ones did.
		return nil, repo.State{}, fmt.Errorf("%s: nothing can be saved on top of a manifest that is no good; mirror verify tells more, and when the key %s is deleted the repository goes on from generation %d: %w",
			l.b.name(), l.b.Prefix+manifestKey(keyManifests, g.highest), g.N, g.Passed[0])
	}
	if err := l.b.putBack(ctx, g, l.begin(g.Repo)); err != nil {
		return nil, repo.State{}, err
	}
	if last == nil || last.g.Sum != g.Sum {
		last = &livingFiles{Snapshot: l.b.Snapshot(g, l.o.Cache), l: l}
		if last.copies, err = l.segments(ctx, last.Snapshot); err != nil {
			return nil, repo.State{}, err
		}
	}
	s, err := l.state(ctx, last)
	if err != nil {
		return nil, s, err
	}
	l.mu.Lock()
	l.last = last
	l.mu.Unlock()
	l.sent.named(g)
	return last, s, nil
}

// state returns the state of a generation. Files that are as they were are not read again.
func (l *Living) state(ctx context.Context, f *livingFiles) (repo.State, error) {
	s := repo.State{Refs: f.g.Refs, Head: f.g.Head}
	fresh := make(map[Sum][]byte)
	for name, to := range s.Files() {
		file, ok := f.g.File(name)
		if !ok {
			continue
		}
		l.mu.Lock()
		text := l.texts[file.SHA256]
		l.mu.Unlock()
		if text == nil {
			var err error
			if text, err = f.text(ctx, file); err != nil {
				return s, fmt.Errorf("%s: %w", name, err)
			}
		}
		*to, fresh[file.SHA256] = text, text
	}
	l.mu.Lock()
	l.texts = fresh
	l.mu.Unlock()
	return s, nil
}

// Send sends a pack and its idx. (repo.Depot)
func (l *Living) Send(ctx context.Context, from *repo.Dir, name string) error {
	l.mu.Lock()
	last := l.last
	l.mu.Unlock()
	if last == nil {
		return errors.New("nothing is known of the repository yet")
	}
	shared, err := l.sender(last.g.Repo)
	if err != nil {
		return err
	}
	// What it gathers is its own; how it sends is everybody's.
	m := &mirror{b: l.b, o: shared.o, id: shared.id, shared: true, last: last.g, dropped: dropsOf(last.g), from: from, dir: from,
		journal: shared.journal, slots: shared.slots, pace: shared.pace, probed: true, probedParts: true}
	if err := l.probe(ctx, shared); err != nil {
		return err
	}
	stem := dirPacks + "/" + name
	for _, ending := range []string{".pack", ".idx"} {
		if err := m.sendFile(ctx, stem+ending); err != nil {
			return fmt.Errorf("%s%s: %w", stem, ending, err)
		}
	}
	id, err := pack.ParseID(strings.TrimPrefix(name, "pack-"))
	if err != nil {
		return err
	}
	kind, _, err := m.source(ctx, id, m.files[0].Size, "")
	if err != nil {
		return err
	}
	return l.sent.add(sentPack{name: name, kind: kind, at: l.o.Now(), pack: m.files[0], idx: m.files[1]})
}

// probe looks whether keys are written once only, in either way, before anything is sent.
func (l *Living) probe(ctx context.Context, m *mirror) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	if s, ok := partedOf(l.b.Objects); ok {
		return m.beginParts(ctx, s)
	}
	return nil
}

// Swap makes the next generation. (repo.Depot)
func (l *Living) Swap(ctx context.Context, step repo.Step) error {
	for try := 0; ; try++ {
		files, s, err := l.latest(ctx)
		if err != nil {
			return err
		}
		if err := step.Change(files, &s); err != nil {
			return err
		}
		m, err := l.sender(files.g.Repo)
		if err != nil {
			return err
		}
		err = l.make(ctx, m, files, &s, step)
		if err == nil && len(step.Drop) > 0 {
			return l.sent.drop(step.Drop)
		}
		if !errors.Is(err, ErrExists) || try == maxConflicts {
			return err
		}
	}
}

// make makes one generation on top of another, nil for the first one. ErrExists: somebody
// else made it.
func (l *Living) make(ctx context.Context, m *mirror, on *livingFiles, s *repo.State, step repo.Step) error {
	if err := l.probe(ctx, m); err != nil {
		return err
	}
	x := &mirror{b: l.b, o: m.o, id: m.id, shared: true, state: *s, scratch: l.o.Dir, kinds: make(map[pack.ID]string),
		journal: m.journal, slots: m.slots, pace: m.pace, probed: true, probedParts: true}
	if on != nil {
		x.last, x.dropped, x.copies = on.g, dropsOf(on.g), on.copies
		x.from = on
		if err := l.choose(ctx, x, on.g, step); err != nil {
			return err
		}
		if err := l.fits(len(x.files), step); err != nil {
			return err
		}
	}
	if err := x.segments(ctx); err != nil {
		return err
	}
	if err := x.sendTexts(ctx, s.Files()); err != nil {
		return err
	}
	slices.SortFunc(x.files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	manifest, err := x.manifest(ctx)
	if err != nil {
		return err
	}
	return x.putManifest(ctx, manifest)
}

// choose takes the packs of the generation before that stay, and those that were sent.
func (l *Living) choose(ctx context.Context, x *mirror, g *Generation, step repo.Step) error {
	gone := make(map[string]bool)
	for _, name := range step.Drop {
		gone[name] = true
	}
	has := make(map[string]bool)
	for _, f := range g.Files {
		if stem, ok := packOf(f.Name); ok && !gone[stem] {
			x.add(f)
			has[stem] = true
		}
	}
	for _, name := range step.Add {
		if has[name] {
			continue
		}
		p, ok := l.sent.get(name)
		ok = ok && p.visible(g.N) && !x.dropped[p.pack.Key] && !x.dropped[p.idx.Key]
		if ok && l.o.Now().Sub(p.at) >= sentAge {
			var err error
			if ok, err = l.there(ctx, &p); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if !ok {
			// Another machine may have sent the very same, named it, and let go of it. When it is
			// forgotten here, the next run sends it again.
			return errors.Join(&repo.BusyError{What: name, Hint: "it was sent long ago, or taken away at another machine; run it again"}, l.sent.drop([]string{name}))
		}
		x.add(p.pack)
		x.add(p.idx)
		if id, err := pack.ParseID(strings.TrimPrefix(name, "pack-")); err == nil {
			x.kinds[id] = p.kind
		}
	}
	return nil
}

// livingFiles are the files of a generation, and packs that were sent since.
type livingFiles struct {
	*Snapshot
	l *Living
}

// Open opens a file.
func (f *livingFiles) Open(ctx context.Context, name string) (repo.Blob, error) {
	if _, ok := f.g.File(name); ok {
		return f.Snapshot.Open(ctx, name)
	}
	if stem, ok := packOf(name); ok {
		if p, ok := f.l.sent.get(stem); ok && p.visible(f.g.N) {
			file := p.pack
			if name == p.idx.Name {
				file = p.idx
			}
			return f.file(file, blockSize), nil
		}
	}
	return f.Snapshot.Open(ctx, name)
}

// List calls fn for the files of the generation, and for packs that were sent since.
func (f *livingFiles) List(ctx context.Context, dir string, fn func(name string, size int64) error) error {
	if err := f.Snapshot.List(ctx, dir, fn); err != nil || dir != dirPacks {
		return err
	}
	for _, p := range f.l.sent.all() {
		if _, ok := f.g.File(p.pack.Name); ok || !p.visible(f.g.N) {
			continue
		}
		if err := fn(p.pack.Name, p.pack.Size); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// segments returns copies of the segments of a generation, which are fetched if they are not
// at hand: 26 bytes for each object, and no question per chunk. Copies of others are removed.
func (l *Living) segments(ctx context.Context, s *Snapshot) (map[Sum]io.ReaderAt, error) {
	at := make(map[Sum]io.ReaderAt)
	l.mu.Lock()
	old := maps.Clone(l.copies)
	l.mu.Unlock()
	keep := make(map[Sum]*fsx.File)
	for _, f := range s.g.Files {
		if _, ok := segmentClass(f.Name); !ok {
			continue
		}
		file := old[f.SHA256]
		if file == nil {
			var err error
			if file, err = l.fetch(ctx, s, f); err != nil {
				return nil, err
			}
		}
		at[f.SHA256], keep[f.SHA256] = file, file
	}
	l.mu.Lock()
	l.copies = keep
	l.mu.Unlock()
	// The files of the generation before stay open: who reads there may do so yet.
	l.forget(keep)
	return at, nil
}

// fetch opens the copy of a segment, which is made if it is not there or not what it should be.
func (l *Living) fetch(ctx context.Context, s *Snapshot, f File) (*fsx.File, error) {
	dir := filepath.Join(l.o.Dir, "segments")
	if err := l.o.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, f.SHA256.String())
	if file, err := l.o.FS.Open(name); err == nil {
		if sum, err := sumReader(file, f.Size); err == nil && sum == f.SHA256 {
			return file, nil
		}
		_ = file.Close()
	}
	temp := filepath.Join(dir, fsx.TempName())
	file, err := l.o.FS.Create(temp, 0o600)
	if err != nil {
		return nil, err
	}
	remote, buf := s.file(f, readStep), make([]byte, readStep)
	for off := int64(0); err == nil && off < f.Size; off += readStep {
		n := min(readStep, f.Size-off)
		if err = ctx.Err(); err == nil {
			_, err = remote.get(buf[:n], off)
		}
		if err == nil {
			_, err = file.WriteAt(buf[:n], off)
		}
	}
	var sum Sum
	if err == nil {
		sum, err = sumReader(file, f.Size)
	}
	if err == nil && sum != f.SHA256 {
		err = &pack.CorruptError{File: f.Key, Off: -1, Reason: "its SHA-256 is not what the manifest says"}
	}
	if err == nil {
		err = l.o.FS.Rename(temp, name)
	} else {
		_ = l.o.FS.Remove(temp)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", f.Name, err), file.Close())
	}
	return file, nil
}

// forget removes copies of segments that the newest generation does not have.
func (l *Living) forget(keep map[Sum]*fsx.File) {
	dir := filepath.Join(l.o.Dir, "segments")
	list, err := l.o.FS.ReadDir(dir)
	if err != nil {
		return // there are none
	}
	for _, e := range list {
		if sum, err := ParseSum(e.Name()); err == nil && keep[sum] == nil {
			_ = l.o.FS.Remove(filepath.Join(dir, e.Name())) // another process may have done it
		}
	}
}
