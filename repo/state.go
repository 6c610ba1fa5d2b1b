package repo

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"
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

func (d *Dir) readState(ctx context.Context) (s State, err error) {
	read := func(name string, limit int64) []byte {
		text, rerr := d.fs.ReadFile(d.name(name), limit)
		if !errors.Is(rerr, fs.ErrNotExist) {
			err = firstErr(err, rerr)
		}
		return text
	}
	s.Config = read(fileConfig, maxConfig)
	s.Receipts = read(fileReceipts, maxReceipts)
	s.Closed = read(fileClosed, maxClosed)
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
	Close() error
}

// frozen is a state as a keeper.
type frozen struct{ State }

func (f frozen) stamp() (time.Time, bool, error)    { return time.Unix(0, 0), true, nil }
func (f frozen) closedPacks() ([]closedLine, error) { return parseClosed(f.Closed), nil }

// Close does nothing.
func (f frozen) Close() error { return nil }

func (f frozen) refs(_ context.Context, prefix string) ([]Ref, error) {
	return slices.DeleteFunc(slices.Clone(f.Refs), func(r Ref) bool { return !strings.HasPrefix(r.Name, prefix) }), nil
}

func (f frozen) receipts(ctx context.Context, fn func(Receipt) error) error {
	return scanReceipts(ctx, bytes.NewReader(f.Receipts), fn)
}
