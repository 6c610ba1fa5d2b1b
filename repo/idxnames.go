package repo

import (
	"context"
	"strings"

	"github.com/kedgebackup/kedge/pack"
)

// proveAtOnce is how much that git or bup wrote Indexes reads to find out whether it is
// closed: some seconds' work, which is done once.
const proveAtOnce = 1 << 30

// Indexes returns the names of the idx files, "pack-….idx", that a client may take for
// a list of what it need not send: those of closed packs (I9), in byte order. A client
// of bup's protocol believes an idx for good, with all below what it lists. So a pack
// that git or bup wrote is among them only after it was proved to be closed. That is
// done here if all such packs together are not large; otherwise Missing does it, pack by
// pack, as their objects are asked for, and Check for all.
func (p *Packs) Indexes(ctx context.Context) ([]string, error) {
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	if err := p.proveSmall(ctx); err != nil {
		return nil, err
	}
	var names []string
	for _, f := range p.table.Load().packs {
		if !f.closed.Load() {
			continue
		}
		if ok, err := p.open(f); err != nil {
			return nil, err
		} else if ok {
			names = append(names, f.name+".idx")
		}
	}
	return names, nil
}

// proveSmall looks at the packs that are not closed, if together they are not large.
func (p *Packs) proveSmall(ctx context.Context) error {
	if p.readOnly {
		return nil // nobody could remember it
	}
	var open []*packFile
	size := int64(0)
	for _, f := range p.table.Load().packs {
		if !f.closed.Load() && !f.gone.Load() {
			open = append(open, f)
			size += f.size
		}
	}
	if size > proveAtOnce {
		return nil
	}
	pr := &p.proof
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.begin()
	for _, f := range open {
		if f.closed.Load() || pr.tried[f] {
			continue
		}
		if err := p.proveWhole(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// OpenIndex opens an idx that Indexes lists. Others are a *NotFoundError.
func (p *Packs) OpenIndex(ctx context.Context, name string) (Blob, error) {
	stem, ok := strings.CutSuffix(name, ".idx")
	f := p.table.Load().byName[stem]
	if ok && f == nil { // it may have come since
		if err := p.refresh(ctx); err != nil {
			return nil, err
		}
		f = p.table.Load().byName[stem]
	}
	if !ok || f == nil || !f.closed.Load() || f.gone.Load() {
		return nil, &NotFoundError{What: "idx", Name: name}
	}
	return p.store.Open(ctx, f.idxName())
}

// Dumb reports whether somebody marked the repository, in bup's way, as one whose clients
// are to load all idx files before they send anything.
func (p *Packs) Dumb() bool {
	if p.dir == nil {
		return false
	}
	_, err := p.dir.fs.Lstat(p.dir.name("bup-dumb-server"))
	return err == nil
}

// IndexOf returns the name of an idx that Indexes lists and that has an object; "" if
// there is none.
func (p *Packs) IndexOf(id pack.ID) (string, error) {
	at, ok, err := p.find(p.table.Load(), id, isClosed)
	if !ok || err != nil {
		return "", err
	}
	return at.file.name + ".idx", nil
}

// minAbbrev is the least number of digits of an id that is not written out.
const minAbbrev = 4

// Abbreviated returns the id that begins with some hexadecimal digits, the zero id if
// there is none in a pack or more than one.
func (p *Packs) Abbreviated(ctx context.Context, hex string) (id pack.ID, err error) {
	if len(hex) < minAbbrev {
		return id, nil
	}
	if err := p.refresh(ctx); err != nil {
		return id, err
	}
	several := false
	for _, f := range p.table.Load().packs {
		if ok, err := p.open(f); err != nil {
			return id, err
		} else if !ok {
			continue
		}
		err := f.idx.Prefixed(hex, func(found pack.ID) error {
			several = several || !id.IsZero() && id != found
			id = found
			return nil
		})
		if err != nil {
			return id, p.lost(f, err)
		}
	}
	if several {
		return pack.ID{}, nil
	}
	return id, nil
}
