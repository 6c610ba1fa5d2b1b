package s3sync

import (
	"context"
	"errors"
	"fmt"
)

// A manifest names the SHA-256 of the one before it, so whoever replaces one has to replace all
// that came after, too. Where a manifest and the one before it are both there, and good, the
// hash is compared: by who lists generations, all of them; by who verifies one, or makes the next
// one, back to the one that it is based on, as what that says counts as much as its own words.
// What a prune has deleted is not missed, and what came in its place does not count, and a manifest that was passed over when the next one
// was made is named by nobody.

// follows returns an error if g was made on top of another generation than before, which has
// the number in front of it.
func (g *Generation) follows(before *Generation) error {
	if before == nil || before.N+1 != g.N || g.Prev.IsZero() || g.Prev == before.Sum {
		return nil
	}
	return fmt.Errorf("generation %d was made on top of another generation %d than the one that is there: the manifest of one of them was replaced", g.N, before.N)
}

// Breaks looks whether the manifests from a generation back to the one that it is based on, or
// to the one before if it lists everything, follow one another, and returns where they do not.
func (b *Bucket) Breaks(ctx context.Context, g *Generation) ([]error, error) {
	last := g.Base
	if g.Kind != Diff {
		last = g.N - 1
	}
	var list []candidate
	b = b.shut()
	err := b.manifests(ctx, keyManifests, b.Prefix+manifestKey(keyManifests, g.N), func(n uint64, versions []Object) error {
		if n < last || len(list) > maxBreaks {
			return errEnough
		}
		if g.Freed.has(n) {
			return nil
		}
		list = append(list, candidate{n: n, versions: versions})
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	inParallel(len(list), func(i int) {
		list[i].g, list[i].err = b.either(ctx, list[i].n, list[i].versions)
	})
	var broken []error
	next := g
	for _, x := range list {
		switch {
		case x.err == nil:
			if err := next.follows(x.g); err != nil {
				broken = append(broken, err)
			}
			next = x.g
		case aboutAttempt(ctx, x.err):
			return nil, x.err
		}
	}
	return broken, nil
}

// maxBreaks bounds how many manifests are looked at: more than a generation is ever away from
// its base, if nobody has made it up.
const maxBreaks = 4 * fullEvery
