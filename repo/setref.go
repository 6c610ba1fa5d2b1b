package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

// maxMoves is how often a save is put on top of a ref that moves on all the time.
const maxMoves = 20

// SetRef moves one ref. What it moves to is present with everything below it
// (I2), which is asked first. The order of what follows is that of tryMove.
//
// A ref that is at New already is no error, whatever Old is: the command may
// have been run before. With Reparent the same holds for a ref that reaches New
// or a commit with New's tree, author and message, which a prune may have
// written anew; and a ref that has moved on gets a copy of New on top, up to
// maxMoves times. If the ref is gone meanwhile, the copy begins a new history.
// The caller sees all this in the id that is returned.
func (p *Packs) SetRef(ctx context.Context, m Move) (pack.ID, error) {
	if p.readOnly {
		return pack.ID{}, ErrReadOnly
	}
	if err := CheckRefName(m.Ref); err != nil {
		return pack.ID{}, err
	}
	commit, isCommit, err := p.moveTarget(ctx, m)
	if err != nil {
		return pack.ID{}, err
	}
	if m.Reparent && !isCommit {
		return pack.ID{}, fmt.Errorf("%s: %v is no commit", m.Ref, m.New)
	}
	for try := 1; ; try++ {
		err := p.move(ctx, m, commit, isCommit)
		changed := new(RefChangedError)
		if err == nil {
			return m.New, nil
		} else if !m.Reparent || !errors.As(err, &changed) {
			return pack.ID{}, err
		}
		if try == maxMoves {
			return pack.ID{}, &BusyError{What: m.Ref, Hint: fmt.Sprintf("others moved it %d times", try)}
		}
		done, err := p.reaches(ctx, changed.Got, m, commit)
		if err != nil {
			return pack.ID{}, err
		} else if done {
			return changed.Got, nil
		}
		if err := sleep(ctx, time.Duration(rand.Int64N(int64(try)*int64(2*time.Millisecond)))); err != nil {
			return pack.ID{}, err
		}
		m.Old = changed.Got
		if m.New, err = p.reparent(ctx, &commit, m.Old); err != nil {
			return pack.ID{}, err
		}
	}
}

// moveTarget makes sure that what a ref is to move to is there, and reads it.
func (p *Packs) moveTarget(ctx context.Context, m Move) (c Commit, ok bool, err error) {
	if m.New.IsZero() {
		return c, false, nil
	}
	missing, err := p.Missing(ctx, nil, []pack.ID{m.New})
	if err != nil {
		return c, false, err
	} else if len(missing) > 0 {
		return c, false, &MissingError{ID: m.New}
	}
	t, err := p.commit(ctx, m.New, &c)
	if err == nil {
		err = CheckRefTarget(m.Ref, m.New, t)
	}
	return c, t == pack.Commit, err
}

// commit reads a commit; of another object it only tells the type.
func (p *Packs) commit(ctx context.Context, id pack.ID, c *Commit) (t pack.Type, err error) {
	err = p.Get(ctx, []pack.ID{id}, func(_ int, typ pack.Type, body []byte) error {
		t = typ
		if typ != pack.Commit {
			return nil
		}
		var err error
		*c, err = ParseCommit(body)
		return err
	})
	return t, err
}

// reaches looks for the save in the history of tip. It need not look further
// than where the save itself begins: what is below that was there before.
func (p *Packs) reaches(ctx context.Context, tip pack.ID, m Move, want Commit) (bool, error) {
	for at := tip; !at.IsZero() && at != m.Old; {
		if at == m.New {
			return true, nil
		}
		var c Commit
		t, err := p.commit(ctx, at, &c)
		if err != nil || t != pack.Commit {
			return false, err
		}
		if c.Tree == want.Tree && c.Message == want.Message &&
			bytes.Equal(appendSignature(nil, c.Author), appendSignature(nil, want.Author)) {
			return true, nil
		}
		if len(c.Parents) == 0 {
			return false, nil
		}
		at = c.Parents[0]
	}
	return false, nil
}

// reparent stores a copy of a commit on top of another one. A signature in its
// header would not fit the copy and is left off.
func (p *Packs) reparent(ctx context.Context, c *Commit, parent pack.ID) (pack.ID, error) {
	c.Parents, c.Extra = nil, ""
	if !parent.IsZero() {
		c.Parents = []pack.ID{parent}
	}
	body := c.Append(nil)
	id := pack.Sum(pack.Commit, body)
	bytes, crc := pack.NewEncoder(1).Append(nil, pack.Commit, body)
	s, err := p.Begin(ctx)
	if err != nil {
		return id, err
	}
	defer s.Close()
	if err := s.Add(ctx, Trees, []pack.Entry{{ID: id, CRC: crc, Bytes: bytes}}); err != nil {
		return id, err
	}
	return id, s.Commit(ctx)
}

// appendSignature appends who and when as they stand in a commit.
func appendSignature(dst []byte, s Signature) []byte {
	dst = append(append(dst, s.Who...), ' ')
	return appendStamp(dst, s.When)
}

// appendStamp appends a date as receipts have it: "1700000000+0100".
func appendStamp(dst []byte, t time.Time) []byte {
	return t.AppendFormat(strconv.AppendInt(dst, t.Unix(), 10), "-0700")
}

// move is the part of SetRef that happens under the lock, or makes the next state of a depot.
func (p *Packs) move(ctx context.Context, m Move, c Commit, isCommit bool) error {
	r := Receipt{
		Ref: m.Ref, Old: m.Old, New: m.New,
		Principal: m.Stats.Principal,
		Objects:   m.Stats.Objects, Bytes: m.Stats.Bytes,
		Seconds: m.Stats.Seconds, ClientTime: m.Stats.ClientTime,
	}
	who := "kedge <kedge@localhost>"
	if isCommit {
		r.Tree = c.Tree
		r.Author = c.Author.stamp()
		who = c.Committer.Who
	}
	if p.depot != nil {
		return p.moveDepot(ctx, r)
	}
	return p.dir.withRefLock(ctx, func(l *refLock) error {
		for {
			err := l.tryMove(ctx, r, who)
			if err != errAgain {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	})
}

// tryMove is one try at a move:
//
//	stage the value, fsync, compare, receipt, fsync, link NAME.lock, compare
//	again, rename, reflog, remove NAME.lock, fsync of the directory
//
// The first compare keeps moves that cannot be out of the receipts. The second
// one is what counts, because from the link on git keeps its hands off.
func (l *refLock) tryMove(ctx context.Context, r Receipt, who string) error {
	d := l.d
	if !r.New.IsZero() {
		if err := l.stage(append(r.New.AppendHex(nil), '\n')); err != nil {
			return err
		}
	}
	if done, err := l.compare(r); done || err != nil {
		return err
	}
	err := firstErr(l.noConflict(ctx, r), l.clear(r.Ref))
	if err == nil && r.New.IsZero() {
		err = l.clear(filePackedRefs)
	}
	if err != nil {
		return err
	}
	if r, err = l.addReceipt(r); err != nil {
		return err
	}
	if r.New.IsZero() {
		return l.remove(ctx, r)
	}
	// Made before the lock is, because new directories are synced.
	_ = d.fs.MkdirAll(parentOf(d.name("logs/"+r.Ref)), modeDir)
	if err := l.hold(r.Ref); err != nil {
		return err
	}
	done, err := l.compare(r)
	if err == nil && !done {
		err = l.place(r)
	}
	if err == nil && !done {
		l.reflog(r, who)
	}
	if e := l.release(r.Ref); err == nil {
		err = e
	}
	if err != nil || done {
		return err
	}
	return d.fs.SyncDir(parentOf(d.name(r.Ref)))
}

// compare looks where the ref is: done if it is at New, an error if it is not
// at Old.
func (l *refLock) compare(r Receipt) (done bool, err error) {
	symbolic, err := l.d.isSymbolic(r.Ref)
	if err != nil {
		return false, err
	} else if symbolic {
		return false, fmt.Errorf("%s is a symbolic ref, which kedge does not move", r.Ref)
	}
	at, err := l.d.ref(r.Ref)
	if err != nil {
		return false, err
	}
	if at == r.New {
		return true, nil
	}
	if at != r.Old {
		return false, &RefChangedError{Ref: r.Ref, Want: r.Old, Got: at}
	}
	return false, nil
}

// isSymbolic reports whether the file of a ref names another ref.
func (d *Dir) isSymbolic(name string) (bool, error) {
	text, err := d.fs.ReadFile(d.name(name), maxLooseRef)
	if noFile(err) {
		return false, nil
	}
	return bytes.HasPrefix(text, []byte("ref:")), err
}

// noConflict refuses a new ref whose name would have to be a file and a
// directory at once.
func (l *refLock) noConflict(ctx context.Context, r Receipt) error {
	if !r.Old.IsZero() {
		return nil
	}
	list, err := l.d.refs(ctx, "refs/")
	if err != nil && !errors.As(err, new(*pack.CorruptError)) {
		return err
	}
	return conflict(r.Ref, list)
}

// conflict refuses a name that would have to be a directory of another's, or the other way round.
func conflict(name string, refs []Ref) error {
	for _, other := range refs {
		if strings.HasPrefix(other.Name, name+"/") || strings.HasPrefix(name, other.Name+"/") {
			return fmt.Errorf("%s cannot be made as long as there is %s", name, other.Name)
		}
	}
	return nil
}

// place renames the staged value to the ref. Directories that were left over
// from refs below that name are empty and give way.
func (l *refLock) place(r Receipt) error {
	fsys, to := l.d.fs, l.d.name(r.Ref)
	info, err := fsys.Lstat(to)
	if err == nil && info.IsDir() {
		err = l.removeEmpty(r.Ref)
	} else if noFile(err) {
		err = nil
	}
	if err != nil {
		return err
	}
	return fsys.Rename(l.d.name(fileStage), to)
}

// removeEmpty removes a directory that holds nothing but empty directories.
func (l *refLock) removeEmpty(dir string) error {
	list, err := l.d.fs.ReadDir(l.d.name(dir))
	if err != nil {
		return err
	}
	for _, e := range list {
		if !e.IsDir() {
			return fmt.Errorf("%s is in the way of a ref", path.Join(dir, e.Name()))
		}
		if err := l.removeEmpty(path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return l.d.fs.Remove(l.d.name(dir))
}

// remove deletes a ref. If it is both loose and packed the packed one, which
// nobody sees, goes first and durably: a crash must not bring it back to life
// at its old place.
func (l *refLock) remove(ctx context.Context, r Receipt) error {
	d := l.d
	drop := func(text []byte) ([]byte, error) { return dropPackedRef(text, r.Ref) }
	_, loose, err := d.looseRef(r.Ref)
	if err != nil {
		return err
	}
	_, packed, err := d.packedRef(r.Ref)
	if err != nil {
		return err
	}
	if loose && packed {
		if err := l.rewrite(ctx, filePackedRefs, drop, nil); err != nil {
			return err
		}
	}
	if err := l.hold(r.Ref); err != nil {
		return err
	}
	done, err := l.compare(r)
	if err == nil && !done {
		if loose {
			err = l.removeLoose(r)
		} else {
			err = l.rewrite(ctx, filePackedRefs, drop, func() error {
				if _, ok, err := d.looseRef(r.Ref); ok || err != nil {
					return firstErr(err, errAgain)
				}
				return nil
			})
		}
	}
	if err == nil {
		_ = d.fs.Remove(d.name("logs/" + r.Ref)) // as git does
	}
	if e := l.release(r.Ref); err == nil {
		err = e
	}
	if err == nil && loose && !done {
		err = d.fs.SyncDir(parentOf(d.name(r.Ref)))
	}
	return err
}

// removeLoose removes the file of a ref, unless git has packed it meanwhile.
func (l *refLock) removeLoose(r Receipt) error {
	_, packed, err := l.d.packedRef(r.Ref)
	if err != nil {
		return err
	} else if packed {
		return errAgain
	}
	return l.d.fs.Remove(l.d.name(r.Ref))
}

// reflog appends git's own line about a move:
//
//	<old> <new> Full Name <login@host> 1700000000 +0100<TAB>kedge
//
// It is not synced and its loss is no failure: receipts are the diary that counts.
func (l *refLock) reflog(r Receipt, who string) {
	name := l.d.name("logs/" + r.Ref)
	f, err := l.d.fs.OpenWrite(name)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = l.d.fs.Create(name, modeState)
	}
	if err != nil {
		return
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return
	}
	var line []byte
	if last := []byte{'\n'}; size > 0 {
		if _, err := f.ReadAt(last, size-1); err == nil && last[0] != '\n' {
			line = append(line, '\n') // the line of a process that died
		}
	}
	line = r.Old.AppendHex(line)
	line = r.New.AppendHex(append(line, ' '))
	line = fmt.Appendf(line, " %s %d +0000\tkedge\n", who, r.Time)
	_, _ = f.WriteAt(line, size)
}

// parentOf returns the directory of a file.
func parentOf(name string) string { return filepath.Dir(name) }
