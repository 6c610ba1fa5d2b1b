package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

const (
	filePruned = "kedge/pruned"
	filePins   = "kedge/pins"
	maxPins    = 16 << 20 // bytes of either
)

// UndoTime is how long a prune can be undone: so long garbage collection keeps what only
// the old history reaches.
const UndoTime = 14 * 24 * time.Hour

// Pruned is a line of kedge/pruned: a ref was moved, and saves that Old reaches were left
// out of New (zero: the ref was deleted). It is written before the ref moves.
//
//	1700000000 refs/heads/etc 5e1c…9b 77a0…e1
type Pruned struct {
	Time     time.Time
	Ref      string
	Old, New pack.ID
}

func (l *Pruned) append(dst []byte) []byte {
	return fmt.Appendf(dst, "%d %s %v %v\n", l.Time.Unix(), l.Ref, l.Old, l.New)
}

func parsePruned(line string) (l Pruned, ok bool) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(f) != 4 {
		return l, false
	}
	secs, err := strconv.ParseInt(f[0], 10, 64)
	old, err1 := pack.ParseID(f[2])
	now, err2 := pack.ParseID(f[3])
	l = Pruned{time.Unix(secs, 0), f[1], old, now}
	return l, firstErr(err, err1, err2, CheckRefName(l.Ref)) == nil && string(l.append(nil)) == line
}

// Pin is a line of kedge/pins: a save that no prune removes. It is known by what a prune
// does not change of it: its tree and its author date.
//
//	1700000000 refs/heads/etc 4b82…04 1699999990+0100 before%20the%20upgrade
type Pin struct {
	Time   time.Time
	Ref    string
	Tree   pack.ID
	Author string // "1699999990+0100"
	Note   string
}

// PinOf returns the pin of a save.
func PinOf(ref string, c *Commit) Pin {
	return Pin{Ref: ref, Tree: c.Tree, Author: c.Author.stamp()}
}

// Same reports whether two pins are of one save.
func (l *Pin) Same(o Pin) bool { return l.Ref == o.Ref && l.Tree == o.Tree && l.Author == o.Author }

func (l *Pin) append(dst []byte) []byte {
	return fmt.Appendf(dst, "%d %s %v %s %s\n", l.Time.Unix(), l.Ref, l.Tree, l.Author, escapeWord(l.Note))
}

func parsePin(line string) (l Pin, ok bool) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(f) != 5 {
		return l, false
	}
	secs, err := strconv.ParseInt(f[0], 10, 64)
	tree, err1 := pack.ParseID(f[2])
	note, ok := unescapeWord(f[4])
	l = Pin{time.Unix(secs, 0), f[1], tree, f[3], note}
	return l, ok && firstErr(err, err1, CheckRefName(l.Ref)) == nil && string(l.append(nil)) == line
}

// lines parses a file of the repository line by line. A line that
// is none is damage: what it said would be forgotten, and saves with it.
func lines[T any](file string, text []byte, parse func(string) (T, bool)) (list []T, err error) {
	off := int64(0)
	for line := range bytes.Lines(text) {
		l, ok := parse(string(line))
		if !ok {
			return nil, &pack.CorruptError{File: file, Off: off, Reason: fmt.Sprintf("line %q is none of this file's", bytes.TrimSuffix(line, []byte("\n")))}
		}
		list = append(list, l)
		off += int64(len(line))
	}
	return list, nil
}

// Pruned returns the prunes that are remembered, the oldest first.
func (p *Packs) Pruned(ctx context.Context) ([]Pruned, error) {
	text, err := p.text(ctx, filePruned)
	if err != nil {
		return nil, err
	}
	return lines(filePruned, text, parsePruned)
}

// text returns the text of a file of the state; none if it is not there.
func (p *Packs) text(ctx context.Context, name string) ([]byte, error) {
	text, err := p.keeper.text(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return text, firstErr(ctx.Err(), err)
}

// NotePruned remembers a prune, before the ref is moved, and forgets those that can no
// longer be undone.
func (u *Upkeep) NotePruned(ctx context.Context, add ...Pruned) error {
	now, err := u.Now(ctx)
	if err != nil {
		return err
	}
	return u.p.rewriteText(ctx, filePruned, func(was []byte) ([]byte, error) {
		old, err := lines(filePruned, was, parsePruned)
		if err != nil {
			return nil, err
		}
		var text []byte
		for _, l := range old {
			if now.Sub(l.Time) <= UndoTime {
				text = l.append(text)
			}
		}
		for _, l := range add {
			l.Time = now
			text = l.append(text)
		}
		return text, nil
	})
}

// Pins returns the pins of saves.
func (p *Packs) Pins(ctx context.Context) ([]Pin, error) {
	text, err := p.text(ctx, filePins)
	if err != nil {
		return nil, err
	}
	return lines(filePins, text, parsePin)
}

// SetPins changes the pins.
func (p *Packs) SetPins(ctx context.Context, change func([]Pin) ([]Pin, error)) error {
	if p.readOnly {
		return ErrReadOnly
	}
	return p.rewriteText(ctx, filePins, func(was []byte) ([]byte, error) {
		list, err := lines(filePins, was, parsePin)
		if err == nil {
			list, err = change(list)
		}
		if err != nil {
			return nil, err
		}
		var text []byte
		for _, l := range list {
			if l.Time.IsZero() {
				l.Time = p.desk.now()
			}
			text = l.append(text)
		}
		return text, nil
	})
}
