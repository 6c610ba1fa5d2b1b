package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
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
// pack without its ending, and the sizes of its pack and idx files in bytes:
//
//	pack-4b825dc642cb6eb9a060e54bf8d69288fbee4904 1048 1156
//	uses pack-e69de29bb2d1d6434b8b29ae775ad8c2e48c5391 23 1100
//
// "uses" stands before a pack that is not closed, while the proof of another
// one rests on objects in it that were looked at one by one.
//
// A line is added after the pack was published and its proof was made, so the
// worst a crash can do is to lose one, and the proof is made again. Lines that
// are neither, such as a torn last one, mean nothing.
//
// A proof holds as long as nobody takes packs away. Kedge's own gc replaces the
// list before it hides packs, by one of what will still be closed then, and says so:
//
//	gc 3
//
// is the first line after the third time. Whoever remembers a list of an earlier time
// forgets it, and believes the new one. If a pack of the list is not in the
// repository, or not of that size, somebody else has (git repack, bup gc, rm, a
// damaged disk), and then no line is believed: what counts is proved anew, and
// the list is replaced.

// closedLine is one line of the list.
type closedLine struct {
	gc            int64 // how often gc replaced the list; nothing else is set then
	uses          bool
	name          string
	size, idxSize int64
}

// append appends the line.
func (l closedLine) append(dst []byte) []byte {
	if l.gc > 0 {
		return fmt.Appendf(dst, "gc %d\n", l.gc)
	}
	if l.uses {
		dst = append(dst, "uses "...)
	}
	return fmt.Appendf(dst, "%s %d %d\n", l.name, l.size, l.idxSize)
}

// lineOf returns the line for a pack.
func lineOf(f *packFile, uses bool) closedLine {
	return closedLine{uses: uses, name: f.name, size: f.size, idxSize: f.idxSize}
}

// parseClosed returns the lines of the file, in its order.
func parseClosed(text []byte) (lines []closedLine) {
	for raw := range bytes.Lines(text) {
		l, ok := parseClosedLine(string(raw))
		if ok {
			lines = append(lines, l)
		}
	}
	return lines
}

func parseClosedLine(raw string) (l closedLine, ok bool) {
	if n, found := strings.CutPrefix(raw, "gc "); found {
		l.gc, _ = strconv.ParseInt(strings.TrimSuffix(n, "\n"), 10, 64)
		return l, l.gc > 0 && string(l.append(nil)) == raw
	}
	rest, uses := strings.CutPrefix(raw, "uses ")
	name, sizes, _ := strings.Cut(rest, " ")
	size, idxSize, _ := strings.Cut(strings.TrimSuffix(sizes, "\n"), " ")
	hex, isPack := strings.CutPrefix(name, "pack-")
	_, err := pack.ParseID(hex)
	n, err1 := strconv.ParseInt(size, 10, 64)
	m, err2 := strconv.ParseInt(idxSize, 10, 64)
	if !isPack || firstErr(err, err1, err2) != nil {
		return l, false
	}
	l = closedLine{uses: uses, name: name, size: n, idxSize: m}
	return l, string(l.append(nil)) == raw
}

// closedPacks reads the list.
func (d *Dir) closedPacks() ([]closedLine, error) {
	text, err := d.fs.ReadFile(d.name(fileClosed), maxClosed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return parseClosed(text), err
}

// gcCount returns how often gc replaced the list.
func gcCount(lines []closedLine) (n int64) {
	for _, l := range lines {
		n = max(n, l.gc)
	}
	return n
}

// holds reports whether the pack of a line is there as it was.
func (t *table) holds(l closedLine) bool {
	if l.gc > 0 {
		return true
	}
	f := t.byName[l.name]
	return f != nil && f.size == l.size && f.idxSize == l.idxSize && f.damage.Load() == nil
}

// markClosed marks the packs of a table that are on the list. What this
// process has proved itself stays, unless packs were taken away since.
func (p *Packs) markClosed(t *table, lines []closedLine) {
	lost := false
	for _, l := range lines {
		lost = lost || !t.holds(l)
	}
	n := gcCount(lines)
	tidied := n > p.gcs
	p.gcs = n
	for name, f := range p.table.Load().byName {
		if t.byName[name] != f {
			p.proof.stale.Store(true)
			lost = lost || !tidied && (f.closed.Load() || f.relied.Load())
		}
	}
	if lost || tidied {
		p.distrust(t)
	}
	if lost {
		return
	}
	for _, l := range lines {
		if f := t.byName[l.name]; f != nil {
			f.closed.Store(!l.uses || f.closed.Load())
		}
	}
}

// distrust forgets all proofs.
func (p *Packs) distrust(t *table) {
	p.proof.stale.Store(true)
	for _, f := range t.packs {
		f.closed.Store(false)
	}
	p.distrusts.Add(1)
}

// addClosed lists packs as closed and makes that durable: flock, [truncate],
// write, fsync, close. If the list is not to be believed any more, it is
// replaced by one of the packs that are proved.
func (p *Packs) addClosed(ctx context.Context, packs []*packFile) error {
	if p.readOnly || len(packs) == 0 {
		return nil
	}
	lock, err := p.desk.lock(ctx, fileClosed, fsx.Exclusive)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	text, err := p.desk.fs.ReadFile(p.desk.name(fileClosed), maxClosed)
	if err != nil {
		return err
	}
	listed := make(map[closedLine]bool)
	stale := false
	for _, l := range parseClosed(text) {
		listed[l] = true
		stale = stale || !p.table.Load().holds(l)
	}
	if p.depot != nil {
		return p.addClosedDesk(ctx, lock.File(), text, stale)
	}
	if stale {
		// Somebody may have published a pack that is not in the table yet. If
		// not, looking again makes the packs open whose proofs may have rested
		// on those that were taken away.
		if err := p.refresh(ctx); err != nil {
			return err
		}
		stale = false
		for l := range listed {
			stale = stale || !p.table.Load().holds(l)
		}
	}
	t := p.table.Load()
	var add []byte
	if stale {
		packs = t.packs
		for l := range listed {
			if l.gc > 0 {
				add = l.append(add)
			}
		}
		clear(listed)
	}
	for _, f := range t.packs {
		if l := lineOf(f, true); f.relied.Load() && !f.closed.Load() && !listed[l] {
			add = l.append(add)
		}
	}
	for _, f := range packs {
		if l := lineOf(f, false); f.closed.Load() && !listed[l] {
			add = l.append(add)
		}
	}
	if stale {
		return p.dir.fs.Replace(p.dir.name(fileClosed), add, modeState)
	}
	return appendLines(lock.File(), text, add)
}

// addClosedDesk is addClosed for a desk. Its list has the packs of the desk that are proved,
// and counts gc as the state of the depot does: after the next gc it means nothing.
func (p *Packs) addClosedDesk(ctx context.Context, f *fsx.File, text []byte, stale bool) error {
	_, s := p.depot.at()
	count := gcCount(parseClosed(s.Closed))
	if old := parseClosed(text); stale || gcCount(old) != count {
		text = nil
		if err := firstErr(ctx.Err(), f.Truncate(0)); err != nil {
			return err
		}
	}
	var add []byte
	if len(text) == 0 && count > 0 {
		add = closedLine{gc: count}.append(add)
	}
	near, err := p.depot.near(ctx)
	if err != nil {
		return err
	}
	for _, f := range p.table.Load().packs {
		if l := lineOf(f, false).append(nil); near[f.name] && f.closed.Load() && !bytes.Contains(text, l) {
			add = append(add, l...)
		}
	}
	return appendLines(f, text, add)
}

// appendLines appends to a file of lines, in place of a torn last one.
func appendLines(f *fsx.File, text, add []byte) error {
	if len(add) == 0 {
		return nil
	}
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

// relist replaces the list by one of those packs that will be closed when gc has taken
// others away: flock, replace.
func (p *Packs) relist(ctx context.Context, closed, gone func(pack.ID) bool) error {
	lock, err := p.dir.lock(ctx, fileClosed, fsx.Exclusive)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	old, err := p.dir.closedPacks()
	if err != nil {
		return err
	}
	return p.dir.fs.Replace(p.dir.name(fileClosed), p.relisted(old, closed, gone), modeState)
}

// relisted returns the text of the list that takes the place of an old one.
func (p *Packs) relisted(old []closedLine, closed, gone func(pack.ID) bool) []byte {
	used := make(map[string]bool)
	for _, l := range old {
		used[l.name] = used[l.name] || l.uses
	}
	text := closedLine{gc: gcCount(old) + 1}.append(nil)
	for _, f := range p.table.Load().packs {
		info, ok := f.info()
		switch {
		case ok && gone(info.Name):
		case ok && closed(info.Name):
			text = lineOf(f, false).append(text)
		case used[f.name]:
			text = lineOf(f, true).append(text)
		}
	}
	return text
}
