package s3sync

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

// VerifyOptions says how a generation is looked at.
type VerifyOptions struct {
	// ReadShare is the share of the files that are read and hashed, 0 to 1. The others are
	// judged by the checksum that the store keeps, which costs no egress.
	ReadShare float64
	Turn      uint64 // another turn reads other files
	Workers   int    // files at once; 0: 16
	Progress  func(VerifyResult)
}

// VerifyResult is what a Verify saw.
type VerifyResult struct {
	Files     int   // of the generation
	Bytes     int64 // of them
	Checked   int   // files whose checksum the store told, and it is right
	Read      int   // files that were read and hashed
	ReadBytes int64
	Unknown   int // files of which the store tells no more than the size
	Damaged   int // files that are missing or wrong
}

// Verify compares the files of a generation with its manifest. bad is told of each that is
// missing or wrong, from one goroutine at a time.
func (b *Bucket) Verify(ctx context.Context, g *Generation, o VerifyOptions, bad func(f File, err error)) (VerifyResult, error) {
	workers := o.Workers
	if workers == 0 {
		workers = 16
	}
	r := VerifyResult{Files: len(g.Files)}
	for _, f := range g.Files {
		r.Bytes += f.Size
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, len(g.Files)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(g.Files) {
					return
				}
				f := g.Files[i]
				how, err := b.verify(ctx, f, o.reads(f))
				if err != nil && !errors.Is(err, errDamaged) {
					cancel(fmt.Errorf("%s: %w", f.Name, err))
					return
				}
				mu.Lock()
				r.note(f, how)
				if err != nil {
					bad(f, err)
				}
				if o.Progress != nil {
					o.Progress(r)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return r, context.Cause(ctx)
}

// reads reports whether a file is one of those that are read in this turn.
func (o *VerifyOptions) reads(f File) bool {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %s", o.Turn, f.Name)
	return float64(h.Sum64()>>11)/(1<<53) < o.ReadShare
}

// outcome is what was found out about a file.
type outcome int

const (
	outDamaged outcome = iota
	outUnknown
	outChecked
	outRead
)

func (r *VerifyResult) note(f File, how outcome) {
	switch how {
	case outDamaged:
		r.Damaged++
	case outUnknown:
		r.Unknown++
	case outChecked:
		r.Checked++
	case outRead:
		r.Read++
		r.ReadBytes += f.Size
	}
}

// errDamaged says that a file is not what its manifest says.
var errDamaged = errors.New("damaged")

func damagedf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errDamaged}, args...)...)
}

func (b *Bucket) verify(ctx context.Context, f File, read bool) (outcome, error) {
	key, at := b.Prefix+f.Key, f.stored()
	o, err := b.Objects.Stat(ctx, key, f.Version)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return outDamaged, damagedf("%s is missing", key)
	case err != nil:
		return outDamaged, err
	case o.Size != at.Size:
		return outDamaged, damagedf("%s has %d bytes, not %d", key, o.Size, at.Size)
	case !o.SHA256.IsZero() && o.SHA256 != at.SHA256:
		return outDamaged, damagedf("%s has another checksum", key)
	case !o.PartSums.IsZero() && !f.PartSums.IsZero() && o.PartSums != f.PartSums:
		return outDamaged, damagedf("%s has parts of other checksums", key)
	case read:
		sum, err := b.sumFile(ctx, f)
		if damaged(err) {
			return outDamaged, damagedf("%v", err)
		}
		if err != nil {
			return outDamaged, err
		}
		if sum != f.SHA256 {
			return outDamaged, damagedf("%s holds other bytes", key)
		}
		return outRead, nil
	case o.SHA256.IsZero() && (o.PartSums.IsZero() || f.PartSums.IsZero()):
		return outUnknown, nil
	}
	return outChecked, nil
}

// sumFile reads a file and returns its SHA-256. One that is encrypted is decrypted.
func (b *Bucket) sumFile(ctx context.Context, f File) (Sum, error) {
	from, err := b.reader(ctx, f)
	if err != nil {
		return Sum{}, err
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{from}, make([]byte, 256<<10)); err != nil {
		return Sum{}, err
	}
	return Sum(h.Sum(nil)), nil
}

// Listed is a generation as a list of them shows it.
type Listed struct {
	N     uint64
	Time  time.Time
	Kind  Kind
	Files int
	Bytes int64
	Refs  int
	// Locked says that it is encrypted and was not opened: how many refs it has is not known.
	Locked bool
	Sum    Sum // of its manifest
	// Own are the bytes of files that no newer generation has, in Bytes, too.
	Own int64
	// Signer is the key of its signature; "" if there is none.
	Signer string
	Err    error // why it is no good; all but N is missing then
	// Warnings tell what is wrong with its manifest, or that of its base, and was done without.
	Warnings []error
	// Broken says that the next generation was not made on top of this one.
	Broken error
	// Pruned says that it does not count any more: a prune may be deleting it, or somebody who
	// stood still for days put it where one was deleted.
	Pruned bool
}

// Generations calls fn for the generations of a bucket, the newest first. Those that are newer
// than all that are listed, and have nothing but the second copy of their manifest left, are
// among them.
func (b *Bucket) Generations(ctx context.Context, fn func(Listed) error) error {
	w := walk{b: b, fn: fn, seen: make(map[string]bool), bad: make(map[uint64]bool)}
	if err := b.manifests(ctx, keyManifests, "", func(n uint64, versions []Object) error { return w.show(ctx, n, versions) }); err != nil || w.good {
		return err
	}
	return w.copies(ctx, 0)
}

// walk goes through the generations of a bucket, the newest first.
type walk struct {
	b    *Bucket
	fn   func(Listed) error
	seen map[string]bool // keys of files
	bad  map[uint64]bool // generations that are no good
	good bool            // one was seen that is listed
	next *Generation     // the good one that was shown last, but for those that were pruned

	freed Spans
}

// copies shows the generations above n of which there is a second copy.
func (w *walk) copies(ctx context.Context, n uint64) error {
	w.good = true
	err := w.b.manifests(ctx, keyBases, "", func(k uint64, _ []Object) error {
		if k <= n {
			return errEnough
		}
		if w.bad[k] {
			return nil
		}
		return w.show(ctx, k, nil)
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// show reads a generation and passes on what there is to tell of it.
func (w *walk) show(ctx context.Context, n uint64, versions []Object) error {
	g, err := w.b.load(ctx, n, versions)
	if err != nil {
		if ctx.Err() != nil || IsTemporary(err) {
			return err
		}
		w.bad[n] = true
		return w.fn(Listed{N: n, Err: err, Pruned: w.freed.has(n)})
	}
	if !w.good {
		w.freed = g.allFreed()
		if err := w.copies(ctx, n); err != nil {
			return err
		}
	}
	l := Listed{N: n, Time: g.Time, Kind: g.Kind, Files: len(g.Files), Refs: len(g.Refs), Locked: g.Locked, Sum: g.Sum, Signer: g.Signer,
		Warnings: g.Warnings(), Pruned: w.freed.has(n)}
	if !l.Pruned {
		if w.next != nil {
			l.Broken = w.next.follows(g)
		}
		w.next = g
	}
	for _, f := range g.Files {
		l.Bytes += f.Size
		if !w.seen[f.Key] {
			l.Own += f.Size
		}
		w.seen[f.Key] = true
	}
	return w.fn(l)
}
