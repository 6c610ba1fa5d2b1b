package repo

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// State is what changes in a repository. Files of a Store are written once; these are
// not, and whoever copies a repository copies them together, as they were at one
// moment.
type State struct {
	Refs     []Ref  // sorted by name
	Head     string // what HEAD stands for, "refs/heads/main"
	Config   []byte // the text of config
	Receipts []byte // the text of kedge/receipts
	Closed   []byte // the text of kedge/closed
	Pruned   []byte // the text of kedge/pruned
	Pins     []byte // the text of kedge/pins
}

// Files returns the parts of the state that are files, by their names in the repository.
func (s *State) Files() map[string]*[]byte {
	return map[string]*[]byte{
		fileConfig: &s.Config, fileReceipts: &s.Receipts, fileClosed: &s.Closed, filePruned: &s.Pruned, filePins: &s.Pins,
	}
}

// Path returns the directory of the repository, "" if it is in none.
func (p *Packs) Path() string {
	if p.dir == nil {
		return ""
	}
	return p.dir.path
}

// maxReceipts bounds the diary that is taken into memory as a whole.
const maxReceipts = 1 << 30

// State reads the state of a directory while no ref can move. What its refs reach is
// in packs that are there when State returns, or was missing before.
func (d *Dir) State(ctx context.Context) (s State, err error) {
	err = d.withRefLock(ctx, func(*refLock) error {
		s, err = d.readState(ctx)
		return err
	})
	return s, err
}

// State returns the state of the repository: of its directory, while no ref can move, or of
// the depot, as it is known here.
func (p *Packs) State(ctx context.Context) (State, error) {
	switch {
	case p.depot != nil:
		_, s := p.depot.at()
		return *s, ctx.Err()
	case p.dir == nil:
		return State{}, ErrReadOnly
	}
	return p.dir.State(ctx)
}

func (d *Dir) readState(ctx context.Context) (s State, err error) {
	read := func(name string, limit int64) []byte {
		text, rerr := d.fs.ReadFile(d.name(name), limit)
		if !errors.Is(rerr, fs.ErrNotExist) {
			err = firstErr(err, rerr)
		}
		return text
	}
	for name, to := range s.Files() {
		*to = read(name, maxReceipts)
	}
	head := strings.TrimSpace(string(read("HEAD", 4096)))
	if to, ok := strings.CutPrefix(head, "ref: "); ok {
		s.Head = to
	}
	if err != nil {
		return s, err
	}
	s.Refs, err = d.refs(ctx, "refs/")
	return s, err
}

// NewMirrorDir makes the directories of a repository that is to become a copy of another
// one. It is no repository until SetState gives it a config.
func NewMirrorDir(ctx context.Context, fsys *fsx.FS, dir string) (*Dir, error) {
	at, err := gitDir(fsys, dir)
	if err != nil {
		return nil, err
	}
	d := NewDir(fsys, at)
	return d, d.makeDirs(ctx)
}

// SetState makes a directory stand where a state says. What its refs reach must be there
// (I2). The order, under the lock of the refs:
//
//	receipts, packed-refs, remove loose refs, HEAD, kedge/closed, kedge/pruned, kedge/pins,
//	config (replace each)
//
// All refs are in packed-refs then. A crash in between leaves some refs as they were and some
// as they are to be; the next SetState completes it.
func (d *Dir) SetState(ctx context.Context, s State) error {
	return d.withPackedRefs(ctx, func(l *refLock) error { return d.stand(ctx, l, s) })
}

// withPackedRefs is withRefLock, and sees to it that there is a packed-refs to be locked.
func (d *Dir) withPackedRefs(ctx context.Context, fn func(*refLock) error) error {
	if _, err := d.fs.Lstat(d.name(filePackedRefs)); errors.Is(err, fs.ErrNotExist) {
		if err := d.fs.Replace(d.name(filePackedRefs), nil, modeState); err != nil {
			return err
		}
	}
	return d.withRefLock(ctx, fn)
}

// stand is SetState under the lock.
func (d *Dir) stand(ctx context.Context, l *refLock, s State) error {
	packed := []byte("# pack-refs with: sorted\n")
	for _, r := range s.Refs {
		packed = append(append(append(r.ID.AppendHex(packed), ' '), r.Name...), '\n')
	}
	if err := d.replace(fileReceipts, s.Receipts); err != nil {
		return err
	}
	err := l.rewrite(ctx, filePackedRefs, func([]byte) ([]byte, error) { return packed, nil }, nil)
	if err == nil {
		err = l.dropLoose(ctx)
	}
	head := s.Head
	if head == "" {
		head = "refs/heads/main"
	}
	return firstErr(err, d.replace("HEAD", []byte("ref: "+head+"\n")), d.replace(fileClosed, s.Closed),
		d.replace(filePruned, s.Pruned), d.replace(filePins, s.Pins), d.replace(fileConfig, s.Config))
}

// replace gives a file other content, if it has other content.
func (d *Dir) replace(name string, data []byte) error {
	old, err := d.fs.ReadFile(d.name(name), maxReceipts)
	if err == nil && bytes.Equal(old, data) || errors.Is(err, fs.ErrNotExist) && len(data) == 0 {
		return nil
	}
	return d.fs.Replace(d.name(name), data, modeState)
}

// dropLoose removes the loose refs, each with its NAME.lock held.
func (l *refLock) dropLoose(ctx context.Context) error {
	return l.d.walkRefs(ctx, "refs", "", func(name string) error {
		if CheckRefName(name) != nil {
			return nil
		}
		if err := l.hold(name); err != nil {
			return err
		}
		err := l.d.fs.Remove(l.d.name(name))
		return firstErr(err, l.release(name), l.d.fs.SyncDir(parentOf(l.d.name(name))))
	})
}

// ParsePackedRefs reads a packed-refs file.
func ParsePackedRefs(text []byte) ([]Ref, error) {
	var list []Ref
	err := eachPackedRef(text, func(r Ref, _, _ int) error {
		list = append(list, r)
		return nil
	})
	return list, err
}

// OpenSnapshot opens a repository that does not change: the files of store with a
// state. It can only be read.
func OpenSnapshot(ctx context.Context, store Store, s State) (*Packs, error) {
	c, err := ParseConfig(s.Config)
	if err != nil {
		return nil, err
	}
	p := newPacks(store, nil, c, true)
	p.keeper = frozen{s}
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// keeper is where the state of a repository is read from: a Dir, or something that
// does not change.
type keeper interface {
	stamp() (at time.Time, sure bool, err error)
	closedPacks() ([]closedLine, error)
	refs(ctx context.Context, prefix string) ([]Ref, error)
	receipts(ctx context.Context, fn func(Receipt) error) error
	text(name string) ([]byte, error) // of kedge/pruned or kedge/pins
	Close() error
}

// frozen is a state as a keeper.
type frozen struct{ State }

func (f frozen) stamp() (time.Time, bool, error)    { return time.Unix(0, 0), true, nil }
func (f frozen) closedPacks() ([]closedLine, error) { return parseClosed(f.Closed), nil }

// text returns the text of a file of the state.
func (f frozen) text(name string) ([]byte, error) {
	if at := f.Files()[name]; at != nil {
		return *at, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Close does nothing.
func (f frozen) Close() error { return nil }

func (f frozen) refs(_ context.Context, prefix string) ([]Ref, error) {
	return slices.DeleteFunc(slices.Clone(f.Refs), func(r Ref) bool { return !strings.HasPrefix(r.Name, prefix) }), nil
}

func (f frozen) receipts(ctx context.Context, fn func(Receipt) error) error {
	return scanReceipts(ctx, bytes.NewReader(f.Receipts), fn)
}
