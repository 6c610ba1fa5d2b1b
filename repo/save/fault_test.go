package save

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

var errFault = errors.New("fault")

// A faulty is a repository that does something else at its k-th call.
type faulty struct {
	*repo.Packs
	k     int64
	calls atomic.Int64
	at    func(call string) error // at call k; with nil the call goes on
	moved bool                    // SetRef did its work
}

func (f *faulty) call(name string) error {
	if f.calls.Add(1) == f.k {
		return f.at(name)
	}
	return nil
}

func (f *faulty) Refs(ctx context.Context, prefix string) ([]repo.Ref, error) {
	if err := f.call("Refs"); err != nil {
		return nil, err
	}
	return f.Packs.Refs(ctx, prefix)
}

func (f *faulty) SetRef(ctx context.Context, m repo.Move) (pack.ID, error) {
	if err := f.call("SetRef"); err != nil {
		return pack.ID{}, err
	}
	id, err := f.Packs.SetRef(ctx, m)
	f.moved = err == nil
	return id, err
}

func (f *faulty) AllowNames(ctx context.Context, names []string) error {
	if err := f.call("AllowNames"); err != nil {
		return err
	}
	return f.Packs.AllowNames(ctx, names)
}

func (f *faulty) Begin(ctx context.Context) (repo.Session, error) {
	if err := f.call("Begin"); err != nil {
		return nil, err
	}
	s, err := f.Packs.Begin(ctx)
	return &faultySession{s, f}, err
}

type faultySession struct {
	repo.Session
	f *faulty
}

func (s *faultySession) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	if err := s.f.call("Missing"); err != nil {
		return dst, err
	}
	return s.Session.Missing(ctx, dst, ids)
}

func (s *faultySession) Add(ctx context.Context, class repo.Class, entries []pack.Entry) error {
	if err := s.f.call("Add"); err != nil {
		return err
	}
	return s.Session.Add(ctx, class, entries)
}

func (s *faultySession) Commit(ctx context.Context) error {
	if err := s.f.call("Commit"); err != nil {
		return err
	}
	return s.Session.Commit(ctx)
}

// faultBench has something of everything that calls the repository.
func faultBench(t *testing.T) *bench {
	b := newBench(t, "rabin:13")
	b.zoo()
	b.write(".git/config", []byte("a name that git frowns on"))
	b.write("dump", noise(5, 9_000_000)) // more than all batches hold
	b.writeExtents("holes", 3<<20, []extent{{1 << 20, 5}}, true)
	age()
	b.update()
	b.save(b.options())
	b.write("dump", noise(6, 9_000_000))
	b.write("dir/sub/new", noise(7, 500_000))
	b.write(".gitmodules", []byte("another"))
	must(t, os.Remove(b.src+"/zz"))
	age()
	b.update()
	return b
}

// run saves through f under a context.
func (b *bench) run(ctx context.Context, f *faulty) (Result, error) {
	b.t.Helper()
	ix, err := index.OpenExclusive(noSync(), b.file, time.Minute)
	must(b.t, err)
	defer ix.Close()
	o := b.options()
	o.Repo, o.Index, o.Workers = f, ix, 2
	o.Streams = []Stream{text("/stream", string(noise(8, 3_000_000)))}
	res, err := Run(ctx, o)
	noneLeft(b.t)
	return res, err
}

// check looks at what a failed save left: the ref and the index as they were.
func (b *bench) check(f *faulty, call string, tip pack.ID, ix string) (done bool) {
	b.t.Helper()
	if f.moved {
		return true
	}
	if now := b.tip("x"); now != tip {
		b.t.Fatalf("%s failed, and the ref moved to %v", call, now)
	}
	now, err := os.ReadFile(b.file)
	must(b.t, err)
	if string(now) != ix {
		b.t.Fatalf("%s failed, and the index is another one", call)
	}
	if _, err := os.Stat(b.file + ".tmp"); err == nil {
		b.t.Fatalf("%s failed, and a temporary file is left", call)
	}
	return false
}

// Whatever call of the repository fails, the save fails with that error, moves
// no ref, marks nothing, and leaves nothing running.
func TestFaults(t *testing.T) {
	b := faultBench(t)
	tip := b.tip("x")
	ix, err := os.ReadFile(b.file)
	must(t, err)
	failed := map[string]int{}
	for k := int64(1); ; k++ {
		name := ""
		f := &faulty{Packs: b.repo, k: k, at: func(call string) error { name = call; return errFault }}
		res, err := b.run(context.Background(), f)
		if name == "" {
			must(t, err)
			b.same(part(b.tree(res.Tree), b.src), b.expect())
			break
		}
		failed[name]++
		if !errors.Is(err, errFault) {
			t.Fatalf("call %d, %s: %v", k, name, err)
		}
		if b.check(f, name, tip, string(ix)) {
			t.Fatalf("%s failed, and the save goes on", name)
		}
	}
	for _, name := range []string{"Refs", "Begin", "Missing", "Add", "AllowNames", "Commit", "SetRef"} {
		if failed[name] == 0 {
			t.Errorf("%s was never called", name)
		}
	}
	t.Log(failed)
}

// A save that is told to end at any call does so.
func TestCancel(t *testing.T) {
	b := faultBench(t)
	tip := b.tip("x")
	ix, err := os.ReadFile(b.file)
	must(t, err)
	for k := int64(1); ; k++ {
		name := ""
		ctx, cancel := context.WithCancel(context.Background())
		f := &faulty{Packs: b.repo, k: k, at: func(call string) error { name = call; cancel(); return nil }}
		_, err := b.run(ctx, f)
		cancel()
		if name == "" {
			must(t, err)
			break
		}
		if b.check(f, name, tip, string(ix)) {
			must(t, err) // the ref had moved already
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("call %d, %s: %v", k, name, err)
		}
	}
}

// A stream that ends badly, at any point, is a save that fails; and its producer
// is told to end when the save fails for another reason.
func TestStreamFails(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("file", []byte("file"))
	first := b.fresh()
	for _, size := range []int{0, 1, 100_000, 1 << 20, 5_000_000} {
		for _, bad := range []*producer{
			{readErr: errFault},
			{closeErr: errFault},
			{openErr: errFault},
		} {
			bad.data = strings.NewReader(string(noise(1, size)))
			o := b.options()
			o.Streams = []Stream{{Path: "/ok", Open: text("/ok", "fine").Open}, {Path: "/s", Open: bad.open}}
			if _, err := b.try(o); !errors.Is(err, errFault) {
				t.Errorf("%d bytes, %+v: %v", size, bad, err)
			}
			if bad.opened != bad.closed {
				t.Errorf("%d bytes, %+v: not closed", size, bad)
			}
			if b.tip("x") != first.Commit {
				t.Fatal("the ref moved")
			}
		}
	}
	// One that never ends by itself.
	endless := &producer{data: zeroReader{}}
	o := b.options()
	o.Streams = []Stream{{Path: "/s", Open: endless.open}}
	adds := 0
	o.Repo = &wrapped{b.repo, func(s repo.Session) repo.Session {
		return addHook{s, func() error {
			if adds++; adds == 3 {
				return errFault
			}
			return nil
		}}
	}}
	endless.data = io.MultiReader(strings.NewReader(string(noise(2, 20<<20))), zeroReader{})
	if _, err := b.try(o); !errors.Is(err, errFault) || !endless.closed {
		t.Errorf("an endless stream: %v, closed: %v", err, endless.closed)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type producer struct {
	data                       io.Reader
	openErr, readErr, closeErr error
	opened, closed             bool
}

func (p *producer) open(context.Context) (io.ReadCloser, error) {
	if p.openErr != nil {
		return nil, p.openErr
	}
	p.opened = true
	return p, nil
}

func (p *producer) Read(b []byte) (int, error) {
	n, err := p.data.Read(b)
	if err == io.EOF && p.readErr != nil {
		err = p.readErr
	}
	return n, err
}

func (p *producer) Close() error { p.closed = true; return p.closeErr }

// addHook is a session with a word before each Add.
type addHook struct {
	repo.Session
	hook func() error
}

func (s addHook) Add(ctx context.Context, class repo.Class, entries []pack.Entry) error {
	if err := s.hook(); err != nil {
		return err
	}
	return s.Session.Add(ctx, class, entries)
}

// The index is no part of the save: whichever of its operations fails once the
// save is under way, the save is made, and says that the index was not.
func TestIndexFails(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.zoo()
	age()
	b.update()
	ix, err := os.ReadFile(b.file)
	must(t, err)
	for k := 1; ; k++ {
		n, kind := 0, fsx.Kind(0)
		armed := false
		fs := noSync()
		pass := fs.Intercept
		fs.Intercept = func(op fsx.Op, do func() error) error {
			if armed && op.Kind != fsx.KindLock && strings.HasPrefix(op.Path, b.file) {
				if n++; n == k {
					kind = op.Kind
					return errFault
				}
			}
			return pass(op, do)
		}
		f, err := index.OpenExclusive(fs, b.file, time.Minute)
		must(t, err)
		o := b.options()
		o.Index = f
		o.Repo = &wrapped{b.repo, func(s repo.Session) repo.Session { armed = true; return s }}
		res, err := Run(context.Background(), o)
		noneLeft(t)
		armed = false
		must(t, f.Close())
		if n < k {
			must(t, err)
			break
		}
		now, readErr := os.ReadFile(b.file)
		must(t, readErr)
		if err != nil { // it was being read
			if !errors.Is(err, errFault) || string(now) != string(ix) {
				t.Errorf("operation %d, %v: %v", k, kind, err)
			}
			continue
		}
		if kind == fsx.KindClose && len(b.warn) == 0 && string(now) != string(ix) {
			// Of what was only read; the new index is there.
		} else if len(b.warn) != 1 || b.warn[0] != "" || res.Unreadable != 0 {
			t.Errorf("operation %d, %v: warned of %q", k, kind, b.warn)
		}
		if b.tip("x") != res.Commit {
			t.Errorf("operation %d, %v: no save", k, kind)
		}
		must(t, os.WriteFile(b.file, ix, 0o600))
	}
}
