package s3sync

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ownKey is what keys of a repository look like, apart from manifests. Others are left alone:
// another repository may be mirrored to a prefix below this one.
var ownKey = regexp.MustCompile(`^(objects/pack/pack-[^/]+|data/[0-9a-f]{32}|kedge/segments/[^/]+|state/[0-9a-f]{64}(~[0-9]+)?|RESTORE\.txt(~[0-9]+)?)$`)

// unneeded reports whether a key is one that a prune drops.
func (p *prune) unneeded(key string) bool {
	if p.needed[key] {
		return false
	}
	if n, ok := parseManifestKey(key); ok && (strings.HasPrefix(key, keyManifests) || strings.HasPrefix(key, keyBases)) {
		return n <= p.last.N
	}
	if !ownKey.MatchString(key) {
		return false
	}
	for _, o := range p.there[key] {
		if !p.named[key] && p.now.Sub(o.Modified) < unnamedAge {
			return false
		}
	}
	return true
}

// decide says what is dropped, and how long it has been.
func (p *prune) decide() {
	was := make(map[string]Drop)
	for _, d := range p.last.allDrops() {
		was[d.Key] = d
		if p.there[d.Key] != nil && p.dated[d.Since].keys[d.Key] {
			p.needed[manifestKey(keyBases, d.Since)] = true // tells the time
		}
		if d.shared() {
			p.needed[manifestKey(keyBases, d.Last)] = true
		}
	}
	next := p.highest + 1
	p.due = make(map[string]bool)
	for key, versions := range p.there {
		d, old := was[key]
		delete(was, key)
		if !p.unneeded(key) {
			switch {
			case old && d.First == 0:
				p.changes = true
			case old && !p.needed[key]: // it was gone, and was sent by somebody who does not know that it is dropped
				p.drops = append(p.drops, d)
			}
			continue
		}
		bytes := int64(0)
		for _, o := range versions {
			bytes += o.Size
		}
		at, known := p.droppedAt(d)
		switch {
		case !old || !known:
			d.Key, d.Since = key, next
			p.result.Dropped++
			p.result.DroppedBytes += bytes
			p.changes = true
		case p.now.Sub(at) < pruneGrace:
			p.wait(at, bytes)
		case p.o.DryRun:
			p.result.Deleted++
			p.result.DeletedBytes += bytes
		default:
			p.changes = true
			p.due[key] = true
			if d.First == 0 || !p.exact(versions) {
				d.allow(next)
			}
		}
		p.drops = append(p.drops, d)
	}
	for _, d := range was {
		p.keepDropped(d)
	}
	slices.SortFunc(p.drops, func(a, b Drop) int { return strings.Compare(a.Key, b.Key) })
	p.free()
}

// keepDropped keeps a key dropped that is gone, if somebody may yet delete what comes to stand
// there.
func (p *prune) keepDropped(d Drop) {
	if !d.shared() {
		return
	}
	at, _, known := p.dateOf(d.Last)
	if known && p.now.Sub(at) >= sharedGrace {
		return
	}
	if !known { // the time begins anew
		d.Last = p.highest + 1
	}
	p.drops = append(p.drops, d)
}

// exact reports whether no more than what is listed is deleted, and nothing that comes later
// under the same key. What was put before a bucket kept versions, or while it does not, has the
// version "null" each time.
func (p *prune) exact(versions []Object) bool {
	return p.all && !slices.ContainsFunc(versions, func(o Object) bool { return o.Version == "" || o.Version == "null" })
}

// free finds the numbers of which the manifest is gone, or may go.
func (p *prune) free() {
	var taken []uint64
	for _, n := range slices.Backward(p.numbers) {
		if !p.copied[n] {
			taken = append(taken, n)
		}
	}
	freed := gaps(p.highest+1, taken)
	for _, d := range p.drops {
		n, ok := parseManifestKey(d.Key)
		if ok && d.First > 0 && strings.HasPrefix(d.Key, keyManifests) && n > 0 && n <= p.highest { // it may be anybody's word
			freed = append(freed, Span{n, n})
		}
	}
	p.freed = p.last.allFreed().and(freed)
}

func (p *prune) wait(since time.Time, bytes int64) {
	p.result.Waiting++
	p.result.WaitingBytes += bytes
	if due := since.Add(pruneGrace); p.result.Next.IsZero() || due.Before(p.result.Next) {
		p.result.Next = due
	}
}

// dropping is a manifest that was the first to drop keys.
type dropping struct {
	at   time.Time // by the clock of the store
	keys map[string]bool
}

// date reads the manifests that are said to have been the first to drop what is there. Whether
// they are to be trusted is no matter: it is the store that tells when they came.
func (p *prune) date(ctx context.Context) error {
	p.dated = make(map[uint64]dropping)
	b := *p.b
	b.Check = nil
	for _, d := range p.last.allDrops() {
		if _, ok := p.dated[d.Since]; ok || p.there[d.Key] == nil {
			continue
		}
		at, dir, known := p.dateOf(d.Since)
		if !known {
			continue
		}
		g, err := b.oldest(ctx, dir, d.Since, p.there[manifestKey(dir, d.Since)][:1])
		if ctx.Err() != nil || IsTemporary(err) {
			return err
		}
		x := dropping{at: at, keys: make(map[string]bool)}
		if err == nil {
			for _, d := range g.Drops {
				x.keys[d.Key] = true
			}
		}
		p.dated[d.Since] = x
	}
	return nil
}

// dateOf returns when the store says that a generation was made, and below what its manifest is
// that this is true of.
func (p *prune) dateOf(n uint64) (at time.Time, dir string, known bool) {
	for _, dir := range []string{keyBases, keyManifests} {
		if list := p.there[manifestKey(dir, n)]; len(list) > 0 {
			return list[0].Modified, dir, !list[0].Modified.IsZero()
		}
	}
	return time.Time{}, "", false
}

// droppedAt returns when a key was dropped first.
func (p *prune) droppedAt(d Drop) (at time.Time, known bool) {
	x := p.dated[d.Since]
	return x.at, x.keys[d.Key]
}
