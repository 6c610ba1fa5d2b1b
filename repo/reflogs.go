package repo

import (
	"bytes"
	"context"
	"strings"

	"github.com/kedgebackup/kedge/pack"
)

// maxReflog bounds a reflog that is taken into memory as a whole.
const maxReflog = 1 << 30

// TrimReflogs drops the entries of git's reflogs that name commits which are going to be
// taken away: git fsck calls those broken. What moved and when is in kedge/receipts, which
// nobody trims.
func (u *Upkeep) TrimReflogs(ctx context.Context, has func(pack.ID) (bool, error)) error {
	d := u.p.dir
	if d == nil {
		return ctx.Err() // a depot has none
	}
	return d.withRefLock(ctx, func(l *refLock) error {
		var names []string
		err := d.List(ctx, "logs", func(name string, _ int64) error {
			if ref := strings.TrimPrefix(name, "logs/"); CheckRefName(ref) == nil || ref == "HEAD" {
				names = append(names, ref)
			}
			return nil
		})
		for _, ref := range names {
			if err != nil {
				return err
			}
			err = l.trimReflog(ref, has)
		}
		return err
	})
}

// trimReflog trims one reflog: stage the new text, fsync, link NAME.lock, compare, rename,
// remove NAME.lock. Who added a line meanwhile makes it begin again.
func (l *refLock) trimReflog(ref string, has func(pack.ID) (bool, error)) error {
	file := l.d.name("logs/" + ref)
	for range maxMoves {
		text, err := l.d.fs.ReadFile(file, maxReflog)
		if err != nil {
			return err
		}
		var kept []byte
		for line := range bytes.Lines(text) {
			ok, err := reflogHolds(line, has)
			if err != nil {
				return err
			}
			if ok {
				kept = append(kept, line...)
			}
		}
		if len(kept) == len(text) {
			return nil
		}
		if err := firstErr(l.stage(kept), l.hold(ref)); err != nil {
			return err
		}
		now, err := l.d.fs.ReadFile(file, maxReflog)
		same := bytes.Equal(now, text)
		if err == nil && same {
			err = l.d.fs.Rename(l.d.name(fileStage), file)
		}
		if err = firstErr(err, l.release(ref)); err != nil || same {
			return err
		}
	}
	return nil // somebody writes all the time: the next collection will trim it
}

// reflogHolds reports whether both ids of a line, "OLD NEW who date\tmessage", are there.
func reflogHolds(line []byte, has func(pack.ID) (bool, error)) (bool, error) {
	f := bytes.SplitN(line, []byte(" "), 3)
	if len(f) < 3 {
		return false, nil
	}
	for _, hex := range f[:2] {
		id, err := pack.ParseID(string(hex))
		if err != nil {
			return false, nil
		}
		if id.IsZero() {
			continue
		}
		if ok, err := has(id); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}
