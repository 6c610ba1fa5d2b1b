package repo

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

const (
	fileClosed = "kedge/closed"
	maxClosed  = 64 << 20 // bytes; a million packs
)

// kedge/closed lists the packs of which it was proved that every object in
// them has everything below it in the repository (I9). A line is the name of a
// pack without its ending:
//
//	pack-4b825dc642cb6eb9a060e54bf8d69288fbee4904
//	uses pack-e69de29bb2d1d6434b8b29ae775ad8c2e48c5391
//
// "uses" stands before a pack that is not closed, while the proof of another
// one rests on objects in it that were looked at one by one.
//
// A line is added after the pack was published and its proof was made, so the
// worst a crash can do is to lose one, and the proof is made again. Lines that
// are neither, such as a torn last one, mean nothing.
//
// A proof holds as long as nobody takes packs away. Kedge's own gc takes names
// off the list before it hides packs. If a pack of the list is not in the
// repository, somebody else has (git repack, bup gc, rm), and then no line is
// believed: what counts is proved anew, and the list is replaced.

// parseClosed returns the names in the file, in its order.
func parseClosed(text []byte) (closed, uses []string) {
	for line := range bytes.Lines(text) {
		name, whole := strings.CutSuffix(string(line), "\n")
		name, isUse := strings.CutPrefix(name, "uses ")
		hex, isPack := strings.CutPrefix(name, "pack-")
		if _, err := pack.ParseID(hex); !whole || !isPack || err != nil {
			continue
		}
		if isUse {
			uses = append(uses, name)
		} else {
			closed = append(closed, name)
		}
	}
	return closed, uses
}

// closedPacks reads the list.
func (d *Dir) closedPacks() (closed, uses []string, err error) {
	text, err := d.fs.ReadFile(d.name(fileClosed), maxClosed)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, nil, err
	}
	closed, uses = parseClosed(text)
	return closed, uses, nil
}

// markClosed marks the packs of a table that are on the list. What this
// process has proved itself stays, unless packs were taken away since.
func (p *Packs) markClosed(t *table, closed, uses []string) {
	lost := false
	for _, name := range append(slices.Clone(uses), closed...) {
		lost = lost || t.byName[name] == nil
	}
	for name, f := range p.table.Load().byName {
		if t.byName[name] == nil {
			p.proof.stale.Store(true)
			lost = lost || f.closed.Load() || f.relied.Load()
		}
	}
	if lost {
		p.proof.stale.Store(true)
	}
	for _, f := range t.packs {
		if lost {
			f.closed.Store(false)
		}
	}
	for _, name := range closed {
		if !lost {
			t.byName[name].closed.Store(true)
		}
	}
}

// addClosed lists packs as closed and makes that durable: flock, [truncate],
// write, fsync, close. If the list holds names of packs that are gone, it is
// replaced by one of those that are proved.
func (p *Packs) addClosed(ctx context.Context, packs []*packFile) error {
	if p.readOnly || len(packs) == 0 {
		return nil
	}
	lock, err := p.dir.lock(ctx, fileClosed, fsx.Exclusive)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	text, err := p.dir.fs.ReadFile(p.dir.name(fileClosed), maxClosed)
	if err != nil {
		return err
	}
	closed, uses := parseClosed(text)
	listed := make(map[string]bool)
	stale := false
	for _, name := range uses {
		listed["uses "+name] = true
	}
	for _, name := range closed {
		listed[name] = true
	}
	for _, name := range append(uses, closed...) {
		// Somebody may have published a pack that is not in the table yet.
		if p.table.Load().byName[name] == nil {
			_, err := p.dir.fs.Lstat(p.dir.name(dirPacks + "/" + name + ".pack"))
			stale = stale || errors.Is(err, fs.ErrNotExist)
		}
	}
	if stale {
		// Looking again makes the packs open whose proofs may have rested on
		// those that were taken away.
		if err := p.refresh(ctx); err != nil {
			return err
		}
		packs, listed = p.table.Load().packs, nil
	}
	var add []byte
	for _, f := range p.table.Load().packs {
		if f.relied.Load() && !f.closed.Load() && !listed["uses "+f.name] {
			add = append(append(append(add, "uses "...), f.name...), '\n')
		}
	}
	for _, f := range packs {
		if f.closed.Load() && !listed[f.name] {
			add = append(append(add, f.name...), '\n')
		}
	}
	if stale {
		return p.dir.fs.Replace(p.dir.name(fileClosed), add, modeState)
	}
	if len(add) == 0 {
		return nil
	}
	f := lock.File()
	good := int64(bytes.LastIndexByte(text, '\n') + 1)
	if good < int64(len(text)) {
		if err := f.Truncate(good); err != nil {
			return err
		}
	}
	if _, err := f.WriteAt(add, good); err != nil {
		return err
	}
	return f.Sync()
}
