package s3sync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/repo"
)

// next is the number of the next generation. One that is taken by a manifest that was
// passed over is no more to be had.
func (m *mirror) next() uint64 {
	if m.last == nil {
		return 1
	}
	return m.last.highest + 1
}

// commit makes the manifest. That its number was free proves that nobody has dropped or
// deleted anything since the last generation was read.
func (m *mirror) commit(ctx context.Context) error {
	slices.SortFunc(m.files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	if m.unchanged() {
		m.result.Generation, m.result.Unchanged = m.last.N, true
		return nil
	}
	for try := 0; ; try++ {
		manifest, err := m.manifest(ctx)
		if err != nil {
			return err
		}
		err = m.putManifest(ctx, manifest)
		m.result.Generation = manifest.N
		if !errors.Is(err, ErrExists) || try == maxConflicts {
			return err
		}
		// Somebody else mirrors the same repository, or has pruned it.
		if err := m.catchUp(ctx); err != nil {
			return err
		}
	}
}

// catchUp reads what others did since the last generation was read, and sends again what they
// dropped of what is to be named. What the newest generation names they have not: but of what
// else is there now it is looked up, as nobody may have known that it is needed.
func (m *mirror) catchUp(ctx context.Context) error {
	before := m.last
	if err := m.follow(ctx); err != nil || m.last == nil {
		return err
	}
	if err := m.overtaken(ctx, before); err != nil {
		return err
	}
	was := m.files
	m.files = nil
	for _, f := range was {
		if old, ok := m.last.File(f.Name); ok && old == f && !m.doubted() {
			m.add(f)
			continue
		}
		_, err := m.b.verify(ctx, f, false) // others may have sent other bytes when it was gone
		switch {
		case err == nil && !m.dropped[f.Key]:
			m.add(f)
		case err != nil && !errors.Is(err, errDamaged):
			return err
		default:
			if err := m.sendAgain(ctx, f.Name); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
		}
	}
	slices.SortFunc(m.files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// overtaken fails if another run made a generation since the one before, of a state that may be
// newer than this one: the newest generation would go back to what was.
func (m *mirror) overtaken(ctx context.Context, before *Generation) error {
	same := func(head string, refs []repo.Ref) bool { return m.last.Head == head && slices.Equal(m.last.Refs, refs) }
	if m.dir == nil || m.last.Locked || same(m.state.Head, m.state.Refs) || before != nil && same(before.Head, before.Refs) {
		return nil
	}
	now, err := m.dir.State(ctx)
	if err != nil || now.Head == m.state.Head && slices.Equal(now.Refs, m.state.Refs) {
		return err
	}
	return &repo.BusyError{What: m.b.name(), Hint: fmt.Sprintf("another run made generation %d of it meanwhile; the next run sends what is missing there", m.last.N)}
}

// unchanged reports whether the last generation is what this one would be.
func (m *mirror) unchanged() bool {
	if m.last == nil || m.last.unknown > 0 || m.doubted() || !slices.Equal(m.last.Files, m.files) {
		return false
	}
	if m.names != nil {
		return m.sameRefs()
	}
	return m.last.Head == m.state.Head && slices.Equal(m.last.Refs, m.state.Refs)
}

// manifest returns the next manifest. One of a prune is no base: who believes the mirror may
// not believe it.
func (m *mirror) manifest(ctx context.Context) (*Manifest, error) {
	x := &Manifest{
		N: m.next(), Time: m.o.Now().UTC().Truncate(time.Second), Repo: m.id, Kind: Full,
		Head: m.state.Head, Refs: m.state.Refs, Files: m.files,
	}
	if m.last == nil {
		return x, nil
	}
	if m.last.N+1 == x.N {
		x.Prev = m.last.Sum
	}
	x.Drops, x.Freed = m.last.allDrops(), m.last.allFreed()
	base := m.last.N
	if m.last.Kind == Diff {
		base = m.last.Base
	}
	if x.N-base >= fullEvery || m.last.Kind == Prune || len(m.result.Broken) > 0 || !slices.Equal(x.Drops, m.last.Drops) || !slices.Equal(x.Freed, m.last.Freed) {
		return x, nil
	}
	full, err := m.b.At(ctx, base)
	if err != nil || full.Kind != Full || full.unknown > 0 || m.other(full) != "" {
		return x, err
	}
	m.base = full.Files
	d := *x
	d.Kind, d.Base, d.Drops, d.Freed, d.replaced = Diff, base, nil, nil, replacedKeys(full.Files, m.files)
	d.diff(full.Files, m.files)
	if fullShare*(len(d.Files)+len(d.Gone)) > len(m.files) {
		return x, nil
	}
	return &d, nil
}

// putManifest puts a manifest.
func (m *mirror) putManifest(ctx context.Context, x *Manifest) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	return m.b.putManifest(ctx, x, m.o.Sign)
}

// putManifest signs a manifest and puts it where it counts. One that others may build on
// gets a second copy; only who made the first may make that, so both are the same. ErrExists:
// somebody else has the number, or had it.
func (b *Bucket) putManifest(ctx context.Context, x *Manifest, sign func([]byte) ([]byte, error)) error {
	text, err := b.text(x)
	if err != nil {
		return err
	}
	if sign != nil {
		signature, err := sign(text)
		if err != nil {
			return err
		}
		text = append(text, signature...)
	}
	body := Body{ReaderAt: bytes.NewReader(text), Size: int64(len(text)), SHA256: SumOf(text)}
	if b.names != nil {
		if err := b.names.noteGeneration(body.SHA256, refsSum(x.Head, x.Refs)); err != nil {
			return err
		}
	}
	version, err := b.Objects.Put(ctx, b.Prefix+manifestKey(keyManifests, x.N), body)
	if err != nil {
		return err
	}
	if err := b.counts(ctx, x.N, version); err != nil || x.Kind == Diff {
		return err
	}
	_, err = b.Objects.Put(ctx, b.Prefix+manifestKey(keyBases, x.N), body)
	return err
}

// counts makes sure that the number of a manifest that was put was not free because a prune had
// deleted the one that had it, or somebody had hidden that behind a delete marker: who has stood
// still for days comes too late. ErrExists then. What was put is no generation to anybody, and
// goes with the next prune.
func (b *Bucket) counts(ctx context.Context, n uint64, version string) error {
	newest, first := uint64(0), version
	err := b.manifests(ctx, keyManifests, "", func(at uint64, versions []Object) error {
		if newest = at; versions[0].Version != "" {
			first = versions[0].Version
		}
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	switch {
	case newest == n && (version == "" || first == version):
		return nil
	case newest == n:
		return fmt.Errorf("generation %d is there, though hidden: %w", n, ErrExists)
	}
	g, err := b.Latest(ctx)
	if err != nil {
		return err
	}
	if g.allFreed().has(n) {
		return fmt.Errorf("generation %d was made and pruned by others meanwhile: %w", n, ErrExists)
	}
	return nil
}
