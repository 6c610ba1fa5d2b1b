package s3sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// MirrorOptions says what is mirrored and how.
type MirrorOptions struct {
	FS  *fsx.FS
	Dir string // the repository
	// Name is what the repository is called in a mirror that is encrypted.
	Name string
	// Sign signs a manifest; nil: it is not signed.
	Sign    func(text []byte) ([]byte, error)
	Workers int              // requests that send at once; 0: 4
	Now     func() time.Time // nil: time.Now
	// StateDir is where a run notes what it has begun; "": kedge/ in the repository. Store
	// tells stores apart there: its endpoint and bucket.
	StateDir, Store string
	PartSize        int64 // of what is sent in parts, which S3 wants to have 5 MiB at least; 0: 16 MiB
	BytesPerSecond  int64 // limit on what is sent; 0: none
	// Unsafe mirrors to a store that ignores preconditions, where two runs at once can
	// replace what the other sent.
	Unsafe bool
	// LockDays keeps what the generations need that no prune has dropped from being deleted
	// for so many days from now on. 0: nothing is locked.
	LockDays int
	// Progress is told what has been done so far, from several goroutines.
	Progress func(MirrorResult)
}

// MirrorResult is what a mirror run did.
type MirrorResult struct {
	Generation uint64
	Files      int   // that the generation has
	Bytes      int64 // of them
	Todo       int   // files that the last generation does not have
	TodoBytes  int64
	Sent       int   // of these, files of which anything was sent: the others were there already
	SentBytes  int64 // what was sent of them
	Unchanged  bool  // nothing was to be done: no new generation
	Locked     int   // objects whose lock was set or extended
	// Unknown is how many files of the last generation, which is encrypted, are sent anew
	// because nothing here tells what they are: the names in the state directory are lost.
	Unknown int
	// Broken tells where the last generation does not go back to the one that it is based on by
	// the hashes that manifests have of one another. Nothing is taken from it then, as with Before.
	Broken []error
	// Warnings tell what is wrong with the manifests that led to the last generation.
	Warnings []error
	// Before is the key that signed the last generation, if it is not the one that signs this
	// run: the key was lost, or somebody who may write to the bucket wants to be believed. Then
	// nothing is taken from that generation: each file is compared with what the store has, and
	// the manifest is a full one, which who trusts the new key alone can read.
	Before string
}

// A full manifest is written at least for every fullEvery generations, and when a diff would
// be as large as a quarter of it.
const (
	fullEvery = 16
	fullShare = 4
)

// maxConflicts is how often a manifest is made anew because somebody else took its number.
const maxConflicts = 20

// Mirror makes the next generation of a bucket from a directory:
//
//	state of the repository, under the lock of its refs
//	PUT packs, PUT their indexes, PUT segments, PUT the files that change, PUT the manifest
//
// Each is created exclusively and verified, and nothing is sent that the last generation
// has. Saves may go on meanwhile; gc hides no pack that is being sent, because the run is a
// session. A run that is cut short leaves a journal, by which the next one knows that it has
// to look for what is there beyond the last generation, down to the parts of a pack.
func (b *Bucket) Mirror(ctx context.Context, o MirrorOptions) (MirrorResult, error) {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p, err := repo.OpenDir(ctx, o.Dir, repo.DirOptions{FS: o.FS})
	if err != nil {
		return MirrorResult{}, err
	}
	defer func() { _ = p.Close() }()
	if p.Config().Living {
		return MirrorResult{}, &repo.ConfigError{Reason: fmt.Sprintf("%s is a copy of a repository that lives in a bucket, and is changed there", o.Dir)}
	}
	session, err := p.Begin(ctx)
	if err != nil {
		return MirrorResult{}, err
	}
	defer session.Close()
	if o.StateDir == "" {
		o.StateDir = filepath.Join(p.Path(), "kedge")
	}
	dir := repo.NewDir(o.FS, p.Path())
	m := mirror{b: b, o: o, id: p.Config().ID, p: p, dir: dir, from: dir, scratch: filepath.Join(p.Path(), "kedge", "tmp")}
	return m.journalled(ctx, m.run)
}

// journalled calls run with a journal.
func (m *mirror) journalled(ctx context.Context, run func(context.Context) error) (MirrorResult, error) {
	if m.o.Workers == 0 {
		m.o.Workers = 4
	}
	if m.o.PartSize == 0 {
		m.o.PartSize = defaultPartSize
	}
	m.slots = make(chan struct{}, m.o.Workers)
	m.pace = &pace{perSecond: m.o.BytesPerSecond}
	m.signer = signerOf(m.o.Sign)
	var err error
	if m.journal, err = openJournal(m.o.FS, m.o.StateDir, m.o.Store, m.b.Prefix, m.id); err != nil {
		return m.result, err
	}
	if err = m.sealing(); err == nil {
		err = run(ctx)
	}
	if m.names != nil {
		err = errors.Join(err, m.names.closeFile())
	}
	if cerr := m.journal.close(err == nil); err == nil {
		err = cerr
	}
	return m.result, err
}

type mirror struct {
	b   *Bucket
	o   MirrorOptions
	id  string      // of the repository; "": what is mirrored is none
	p   *repo.Packs // nil then, as dir is
	dir *repo.Dir

	from    opener              // where the files of packs are read
	scratch string              // a directory for files that have no name
	kinds   map[pack.ID]string  // classes of packs that are known
	copies  map[Sum]io.ReaderAt // segments of the last generation that are at hand

	state   repo.State
	last    *Generation // nil: this is the first
	dropped map[string]bool
	texts   map[string][]byte // that were sent, by their names
	journal *journal
	names   *names        // nil: nothing is encrypted
	slots   chan struct{} // one taken for each request that sends
	pace    *pace
	signer  string // the key of this run; "": it signs nothing

	shared bool // others may send the same to the same keys

	probing             sync.Mutex
	probed, probedParts bool // and found to create exclusively

	mu     sync.Mutex
	result MirrorResult
	files  []File
	base   []File // of the generation that this one is a difference to
}

func (m *mirror) run(ctx context.Context) error {
	var err error
	if m.state, err = m.dir.State(ctx); err != nil {
		return err
	}
	if err := m.whole(ctx); err != nil {
		return err
	}
	if err := m.follow(ctx); err != nil {
		return err
	}
	packs, idxes, err := m.packs(ctx)
	if err != nil {
		return err
	}
	groups := [][]string{packs, idxes}
	for i := range groups {
		if groups[i], err = m.plan(ctx, groups[i]); err != nil {
			return err
		}
	}
	for _, group := range groups {
		if err := m.sendAll(ctx, group); err != nil {
			return err
		}
	}
	if err := m.segments(ctx); err != nil {
		return err
	}
	if err := m.sendTexts(ctx, m.state.Files()); err != nil {
		return err
	}
	return m.finish(ctx)
}

// follow finds the generation that this one comes after.
func (m *mirror) follow(ctx context.Context) (err error) {
	if m.last, err = m.b.Recover(ctx); errors.As(err, new(*repo.NotFoundError)) {
		m.last, err = nil, nil
	}
	if err == nil {
		err = m.sameKind()
	}
	if err == nil && m.last != nil {
		m.result.Unknown, m.result.Warnings = m.last.unknown, m.last.Warnings()
		if m.result.Before, err = m.before(ctx); err != nil {
			return err
		}
		if m.result.Broken, err = m.b.Breaks(ctx, m.last); err != nil {
			return err
		}
		m.dropped = dropsOf(m.last)
	}
	if err == nil && m.last != nil && m.last.Repo != m.id {
		return &repo.ConfigError{Reason: fmt.Sprintf("%s holds another repository: its id is %s, that of %s is %s",
			m.b.Prefix, orDash(m.last.Repo), m.o.Dir, orDash(m.id))}
	}
	return err
}

// doubted reports whether nothing that the last generation says is believed. A manifest that was
// passed over may say that the number of the last one was free: what that names may be gone.
func (m *mirror) doubted() bool {
	return m.result.Before != "" || len(m.result.Broken) > 0 || m.last != nil && m.last.allFreed().has(m.last.N)
}

// finish makes the manifest, and ends what earlier runs began.
func (m *mirror) finish(ctx context.Context) error {
	if err := m.sendName(ctx); err != nil {
		return err
	}
	if err := m.b.putBack(ctx, m.last, m.begin); err != nil {
		return err
	}
	if err := m.commit(ctx); err != nil {
		return err
	}
	if m.names != nil && !m.result.Unchanged {
		if err := m.names.keep(m.files, m.base); err != nil {
			return err
		}
	}
	m.result.Files = len(m.files)
	for _, f := range m.files {
		m.result.Bytes += f.Size
	}
	if err := m.lock(ctx); err != nil {
		return err
	}
	return m.abortOthers(ctx)
}

// whole makes sure that all that the refs reach is in packs.
func (m *mirror) whole(ctx context.Context) error {
	ids := make([]pack.ID, len(m.state.Refs))
	for i, r := range m.state.Refs {
		ids[i] = r.ID
	}
	missing, err := m.p.Missing(ctx, nil, ids)
	if err != nil {
		return err
	}
	for i, id := range ids {
		if slices.Contains(missing, id) {
			return fmt.Errorf("%s: %w, or what it reaches is not in a pack (git repack -d puts it there)",
				m.state.Refs[i].Name, &repo.MissingError{ID: id})
		}
	}
	return nil
}

// packs returns the names of the files of packs, which are complete: both are there.
func (m *mirror) packs(ctx context.Context) (packs, idxes []string, err error) {
	has := make(map[string]bool)
	err = m.dir.List(ctx, "objects/pack", func(name string, _ int64) error {
		has[name] = true
		return nil
	})
	for name := range has {
		if stem, ok := strings.CutSuffix(name, ".pack"); ok && strings.HasPrefix(path.Base(name), "pack-") && has[stem+".idx"] {
			packs, idxes = append(packs, name), append(idxes, stem+".idx")
		}
	}
	slices.Sort(packs)
	slices.Sort(idxes)
	return packs, idxes, err
}
