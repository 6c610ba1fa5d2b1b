package s3sync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Far above the newest good manifest a number is somebody's mischief: it does not count.
const farAbove = 1_000_000

// Manifests that are no good are passed over. There may be many that are as they should be, made
// by savers whom this reader does not trust; and somebody who may write to the bucket, and no
// more, may put as many as he likes there, of all of which something has to be read. So a few are
// read one after the other, as the first is good nearly always, and more of them several at once:
// half a minute for maxPassed of them, where a request takes 50 ms. Who then has found nothing
// names a generation. passNamed is how many are named one by one.
const (
	maxPassed = 10_000
	passFew   = 4
	passBatch = 16
	passNamed = 20
)

// errEnough ends a listing.
var errEnough = errors.New("enough")

// Latest returns the newest generation whose manifest is good; *repo.NotFoundError if there
// is none. It lists the first copies of manifests, and the second ones if none of these is
// good: see Recover.
func (b *Bucket) Latest(ctx context.Context) (*Generation, error) {
	s := search{b: b}
	err := s.list(ctx, ^uint64(0))
	if err == nil && s.found == nil {
		err = s.copies(ctx)
	}
	return s.result(err)
}

// Recover is Latest, but finds a newer generation, too, of which no more than the second copy
// of the manifest is left. That shows in a listing of the second copies alone: one request
// more, which is worth it for all but a look at a directory.
func (b *Bucket) Recover(ctx context.Context) (*Generation, error) {
	s := search{b: b}
	err := s.list(ctx, ^uint64(0))
	if err == nil {
		err = s.copies(ctx)
	}
	return s.result(err)
}

// newest returns the newest good generation that is not newer than n, of those that are listed.
func (b *Bucket) newest(ctx context.Context, n uint64) (*Generation, error) {
	s := search{b: b}
	return s.result(s.list(ctx, n))
}

// search looks for the newest good generation.
type search struct {
	b      *Bucket
	found  *Generation
	passed []passedOver // the newest first
	taken  []uint64     // numbers of second copies that are no good
}

// passedOver is a manifest that is no good.
type passedOver struct {
	g   *Generation // with the number, and what can be told of it
	err error
}

// list goes through the first copies that are not newer than n.
func (s *search) list(ctx context.Context, n uint64) error {
	after := ""
	if n < ^uint64(0) {
		after = s.b.Prefix + manifestKey(keyManifests, n+1)
	}
	var batch []candidate
	err := s.b.manifests(ctx, keyManifests, after, func(n uint64, versions []Object) error {
		batch = append(batch, candidate{n: n, versions: versions})
		if len(s.passed) >= passFew && len(batch) < passBatch {
			return nil
		}
		err := s.read(ctx, batch)
		batch = nil
		return err
	})
	if err == nil {
		err = s.read(ctx, batch)
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// candidate is a manifest that is listed.
type candidate struct {
	n        uint64
	versions []Object
	g        *Generation
	err      error
}

// read reads manifests, the newest first, and takes the first good one. errEnough: there is one,
// or too many are not.
func (s *search) read(ctx context.Context, batch []candidate) error {
	inParallel(len(batch), func(i int) {
		batch[i].g, batch[i].err = s.b.load(ctx, batch[i].n, batch[i].versions)
	})
	for _, x := range batch {
		if x.err == nil {
			s.found = x.g
			return errEnough
		}
		if aboutAttempt(ctx, x.err) {
			return x.err
		}
		if x.g == nil {
			x.g = new(Generation)
		}
		x.g.N, x.g.Files, x.g.Manifest.Files = x.n, nil, nil
		if s.passed = append(s.passed, passedOver{x.g, x.err}); len(s.passed) >= maxPassed {
			return errEnough
		}
	}
	return nil
}

// aboutAttempt reports whether an error speaks of the attempt to read a manifest, and not of the
// manifest.
func aboutAttempt(ctx context.Context, err error) bool {
	return ctx.Err() != nil || IsTemporary(err) || !damaged(err) && !errors.As(err, new(*repo.RefusedError))
}

// copies goes through the second copies that are newer than what was found, but for those of
// which the first was read. One that is no good, without a first one, is no generation that
// anybody could have built on: it is as if it were not there, but for its number.
func (s *search) copies(ctx context.Context) error {
	seen := make(map[uint64]bool)
	for _, p := range s.passed {
		seen[p.g.N] = true
	}
	err := s.b.manifests(ctx, keyBases, "", func(n uint64, _ []Object) error {
		if s.found != nil && n <= s.found.N {
			return errEnough
		}
		if seen[n] {
			return nil
		}
		g, err := s.b.load(ctx, n, nil)
		if err == nil {
			s.found = g
			return errEnough
		}
		if aboutAttempt(ctx, err) {
			return err
		}
		if s.taken = append(s.taken, n); len(s.taken) == maxPassed {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// result returns what was found, with what was passed over for it.
func (s *search) result(err error) (*Generation, error) {
	g := s.found
	switch {
	case err != nil:
		return nil, err
	case g == nil && len(s.passed) >= maxPassed:
		return nil, fmt.Errorf("the newest %d manifests in %s are no good; --generation N reads an older one, and mirror status lists them: %w",
			len(s.passed), s.b.Prefix, s.passed[0].err)
	case g == nil && len(s.passed) > 0:
		return nil, fmt.Errorf("no manifest in %s is good: %w", s.b.Prefix, s.passed[0].err)
	case g == nil:
		return nil, &repo.NotFoundError{What: "repository", Name: s.b.name()}
	}
	g.highest = g.N
	more := 0
	for _, p := range s.passed {
		if p.g.N < g.N { // only a second copy is left of what was found
			continue
		}
		if len(g.Passed) < passNamed {
			g.Passed = append(g.Passed, fmt.Errorf("generation %d: %w", p.g.N, p.err))
		} else {
			more++
		}
		if p.g.N < g.N+farAbove {
			g.highest = max(g.highest, p.g.N)
			g.over = append(g.over, &p.g.Manifest)
		}
	}
	if more > 0 {
		g.Passed = append(g.Passed, fmt.Errorf("%d more that are newer than generation %d are no good either", more, g.N))
	}
	for _, n := range s.taken {
		if n < g.N+farAbove {
			g.highest = max(g.highest, n)
		}
	}
	return g, nil
}

// Warnings returns what is wrong with the manifests that led to the generation.
func (g *Generation) Warnings() []error {
	return append(append([]error(nil), g.Passed...), g.Copied...)
}

// either reads a manifest without its base, or its second copy if the first is damaged or
// lost. versions are those of the first; nil: they are listed, as those of the second are.
func (b *Bucket) either(ctx context.Context, n uint64, versions []Object) (*Generation, error) {
	g, err := b.oldest(ctx, keyManifests, n, versions)
	if !errors.As(err, new(*pack.CorruptError)) && !errors.Is(err, fs.ErrNotExist) {
		return g, err
	}
	second, serr := b.oldest(ctx, keyBases, n, nil)
	switch {
	case serr == nil:
		second.lost = errors.Is(err, fs.ErrNotExist)
		second.Copied = []error{fmt.Errorf("generation %d: the second copy of its manifest was read, as the first is no good: %w", n, err)}
		return second, nil
	case ctx.Err() != nil || IsTemporary(serr):
		return nil, serr
	}
	return g, err
}

// putBack makes the first copy of the manifest of a generation once more if it is lost, so
// that who looks at no others finds it, and nobody takes its number. begin is called before
// anything is written.
func (b *Bucket) putBack(ctx context.Context, g *Generation, begin func(context.Context) error) error {
	if g == nil || !g.lost {
		return nil
	}
	text, err := ReadAll(ctx, b.Objects, b.Prefix+manifestKey(keyBases, g.N), g.version, maxManifest)
	if err != nil {
		return err
	}
	if SumOf(text) != g.Sum { // replaced since, where the store keeps no versions
		return nil
	}
	if err := begin(ctx); err != nil {
		return err
	}
	body := Body{ReaderAt: bytes.NewReader(text), Size: int64(len(text)), SHA256: g.Sum}
	_, err = b.Objects.Put(ctx, b.Prefix+manifestKey(keyManifests, g.N), body)
	if errors.Is(err, ErrExists) { // somebody was faster
		return nil
	}
	return err
}
