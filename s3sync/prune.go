package s3sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// A prune deletes what no generation needs any more, in two runs with days between them:
//
//	run 1   mark, PUT a manifest of kind prune that drops keys
//	run 2   mark again, PUT a manifest that still drops them, delete
//
// Nobody names a dropped key again. Who commits a manifest has read all that came before it,
// because its number was free: so after the second manifest no generation can appear that
// needs what is deleted, however long a mirror has been under way, and a generation that
// appeared before it was seen by the second mark. Nothing here depends on clocks but how long
// the grace is, and that is measured by the clock of the store: from the manifest that drops a
// key first, which is read. A line about it in a later one may be anybody's word.
//
// That has to hold for whoever stands still for weeks, a mirror as well as a prune that may
// delete. So each manifest of a prune says two things more. First, of what numbers the manifests
// may be gone: one that is put there later does not count, and who put it begins again
// (Bucket.counts). Second, by what prunes each key may be deleted. If that was one, a key that is
// gone is forgotten, as it is not deleted twice (deleteOld). If another prune took over, because the
// first one was slow or had died, the key stays dropped for a long time (sharedGrace) even when
// it is gone: it is not named again, so that the slow one can do no harm.
//
// Manifests go first, those that list differences before those that they are based on, then
// what they named. So whatever is listed can be read at each moment.
const (
	// pruneGrace is the time between the manifest that drops a key and its deletion: time to
	// find out that it was a mistake.
	pruneGrace = 72 * time.Hour
	// unnamedAge is how old an object must be that no manifest names before it is dropped: a
	// mirror that is under way has sent it, maybe.
	unnamedAge = 7 * 24 * time.Hour
	// sharedGrace is how long a key that is gone stays dropped after the last of several prunes
	// was allowed to delete it; sweepTime is after what time a prune deletes no more.
	sharedGrace = 180 * 24 * time.Hour
	sweepTime   = 90 * 24 * time.Hour
)

// PruneOptions says what a prune keeps.
type PruneOptions struct {
	Keep   int  // generations made by mirrors, at least 1
	DryRun bool // nothing is changed
	// Sign signs a manifest; nil: it is not signed.
	Sign     func(text []byte) ([]byte, error)
	Now      func() time.Time // nil: time.Now
	Workers  int              // deletions at once; 0: 8
	Progress func(PruneResult)
}

// PruneResult is what a prune did, or would do.
type PruneResult struct {
	Generation   uint64 // of the manifest that this run made; 0: none
	Generations  int    // that are kept
	Dropped      int    // objects that this run was the first to drop
	DroppedBytes int64
	Waiting      int // objects that were dropped before, and whose grace is not over
	WaitingBytes int64
	Next         time.Time // when the first of these may be deleted
	Deleted      int
	DeletedBytes int64
	Locked       int // objects that the store did not delete yet
	LockedBytes  int64
}

// Prune keeps the newest generations, with what they are based on, and lets go of the others.
// It changes nothing if it cannot read one of those that are newer than the oldest to be kept,
// or finds that one of them lacks a file: then an older one may be what is needed.
func (b *Bucket) Prune(ctx context.Context, o PruneOptions) (PruneResult, error) {
	if o.Keep < 1 {
		return PruneResult{}, &repo.ConfigError{Reason: "a prune keeps at least one generation"}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Workers == 0 {
		o.Workers = 8
	}
	for try := 0; ; try++ {
		p := prune{b: b.shut(), o: o, now: o.Now()}
		if err := p.mark(ctx); err != nil || o.DryRun || !p.changes {
			return p.result, err
		}
		err := p.commit(ctx)
		if errors.Is(err, ErrExists) && try < maxConflicts {
			continue // a generation came in between
		}
		if err == nil {
			err = p.sweep(ctx)
		}
		return p.result, err
	}
}

type prune struct {
	b   *Bucket
	o   PruneOptions
	now time.Time // once: what was dropped together is deleted together

	there   map[string][]Object // what is in the bucket, by keys below the prefix
	all     bool                // and all versions of it
	numbers []uint64            // of manifests, the newest first
	copied  map[uint64]bool     // of them, those of which there is but the second copy
	last    *Generation         // the newest good one
	highest uint64
	needed  map[string]bool // keys
	named   map[string]bool // by what is not kept
	drops   []Drop          // sorted by key
	freed   Spans           // numbers
	due     map[string]bool // keys that this run may delete
	dated   map[uint64]dropping
	changes bool // there is something to be done
	result  PruneResult
}

// mark finds out what is needed and what is not.
func (p *prune) mark(ctx context.Context) error {
	if err := p.list(ctx); err != nil {
		return err
	}
	if err := p.keep(ctx); err != nil {
		return err
	}
	if err := p.old(ctx); err != nil {
		return err
	}
	if err := p.date(ctx); err != nil {
		return err
	}
	p.decide()
	return nil
}

// list reads what is in the bucket.
func (p *prune) list(ctx context.Context) (err error) {
	p.there = make(map[string][]Object)
	p.all, err = versions(ctx, p.b.Objects, p.b.Prefix, "", func(o Object) error {
		key := o.Key[len(p.b.Prefix):]
		p.there[key] = append(p.there[key], o)
		return nil
	})
	p.copied = make(map[uint64]bool)
	for key := range p.there {
		n, ok := parseManifestKey(key)
		switch {
		case ok && strings.HasPrefix(key, keyManifests):
			p.numbers = append(p.numbers, n)
		case ok && strings.HasPrefix(key, keyBases) && p.there[manifestKey(keyManifests, n)] == nil:
			p.numbers = append(p.numbers, n)
			p.copied[n] = true
		}
	}
	slices.Sort(p.numbers)
	slices.Reverse(p.numbers)
	return err
}

// keep finds the generations that are kept, and what they need.
func (p *prune) keep(ctx context.Context) error {
	p.needed = make(map[string]bool)
	deletable := make(map[string]bool)
	var bad error
	for _, n := range p.numbers {
		key := manifestKey(keyManifests, n)
		// Older than others, the second copy is what a prune left: it tells the time.
		if p.copied[n] && p.last != nil {
			continue
		}
		if p.last != nil && p.last.Freed.has(n) {
			continue
		}
		g, err := p.b.load(ctx, n, p.there[key])
		if ctx.Err() != nil || IsTemporary(err) {
			return err
		}
		if err != nil {
			if !p.copied[n] && (p.last == nil || n+farAbove > p.last.N) {
				bad = errors.Join(bad, fmt.Errorf("generation %d: %w", n, err))
			}
			if p.last == nil {
				p.highest = max(p.highest, n)
			}
			continue
		}
		if p.last == nil {
			p.last = g
			if p.highest > n+farAbove { // somebody's mischief
				p.highest, bad = n, nil
			}
			p.highest = max(p.highest, n)
			for _, d := range g.Drops {
				deletable[d.Key] = d.First > 0
			}
		}
		if g != p.last && slices.ContainsFunc(g.Files, func(f File) bool { return deletable[f.Key] }) {
			continue
		}
		if err := p.need(ctx, g); err != nil {
			return err
		}
		if g.Kind != Prune {
			if p.result.Generations++; p.result.Generations == p.o.Keep {
				break
			}
		}
	}
	switch {
	case bad != nil:
		return fmt.Errorf("nothing is pruned while a manifest cannot be read: %w", bad)
	case p.last == nil:
		return &repo.NotFoundError{What: "repository", Name: p.b.name()}
	}
	return nil
}

// need notes what a generation needs, with the one that it is based on.
func (p *prune) need(ctx context.Context, g *Generation) error {
	if p.needed[manifestKey(keyManifests, g.N)] {
		return nil
	}
	p.needed[manifestKey(keyManifests, g.N)] = true
	p.needed[manifestKey(keyBases, g.N)] = true
	for _, f := range g.Files {
		if !p.needed[f.Key] {
			if err := p.whole(ctx, f); err != nil {
				return fmt.Errorf("generation %d: %s: %w", g.N, f.Name, err)
			}
			p.needed[f.Key] = true
		}
	}
	if g.Kind != Diff {
		return nil
	}
	base, err := p.b.load(ctx, g.Base, p.there[manifestKey(keyManifests, g.Base)])
	if err != nil {
		return err
	}
	return p.need(ctx, base)
}

// whole makes sure that a file is there. What is deleted may be all that is left of it
// otherwise.
func (p *prune) whole(ctx context.Context, f File) error {
	for _, o := range p.there[f.Key] {
		if o.Size == f.Size && (f.Version == "" || o.Version == f.Version) {
			return nil
		}
	}
	o, err := p.b.Objects.Stat(ctx, p.b.Prefix+f.Key, f.Version) // behind a delete marker
	if errors.Is(err, fs.ErrNotExist) {
		return &pack.CorruptError{File: p.b.Prefix + f.Key, Off: -1, Reason: "it is missing; nothing is pruned"}
	}
	if err == nil && o.Size != f.Size {
		return &pack.CorruptError{File: p.b.Prefix + f.Key, Off: -1, Reason: "it has another size; nothing is pruned"}
	}
	return err
}

// old notes what generations name that are not kept. One that cannot be read names nothing.
func (p *prune) old(ctx context.Context) error {
	p.named = make(map[string]bool)
	for _, n := range p.numbers {
		key := manifestKey(keyManifests, n)
		if n > p.last.N || p.needed[key] || p.copied[n] || p.last.Freed.has(n) {
			continue
		}
		g, err := p.b.load(ctx, n, p.there[key])
		if ctx.Err() != nil || IsTemporary(err) {
			return err
		}
		if err != nil {
			continue
		}
		for _, f := range g.Files {
			p.named[f.Key] = true
		}
	}
	return nil
}

// commit makes the manifest: the newest generation again, with what is dropped now.
func (p *prune) commit(ctx context.Context) error {
	if err := probe(ctx, p.b); err != nil {
		return err
	}
	x := p.last.Manifest
	x.N, x.Kind, x.Base, x.Gone, x.Files, x.Drops, x.Freed = p.highest+1, Prune, 0, nil, p.last.Files, p.drops, p.freed
	x.Time, x.Prev, x.Signature = p.o.Now().UTC().Truncate(time.Second), Sum{}, nil
	if p.last.N+1 == x.N {
		x.Prev = p.last.Sum
	}
	err := p.b.putManifest(ctx, &x, p.o.Sign)
	if err == nil {
		p.result.Generation = x.N
	}
	return err
}
