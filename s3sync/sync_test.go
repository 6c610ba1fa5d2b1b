package s3sync_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// A copy follows a repository, moves only what is new, and follows no other.
func TestSync(t *testing.T) {
	ctx := context.Background()
	s, to := newSource(t), filepath.Join(t.TempDir(), "copy")
	from := repo.NewDir(nil, s.dir)
	for night := range 3 {
		s.save(5)
		r, err := s3sync.Sync(ctx, to, from, s3sync.SyncOptions{})
		if err != nil || r.Got != 2 || r.Packs != 2*(night+1) {
			t.Fatalf("night %d: %+v, %v", night, r, err)
		}
		if r, err = s3sync.Sync(ctx, to, from, s3sync.SyncOptions{}); err != nil || r.Got != 0 {
			t.Errorf("again: %+v, %v", r, err)
		}
		(&source{t: t, dir: to, saves: s.saves}).checkDir(night + 1)
		gitClean(t, to)
	}
	if _, err := s3sync.Sync(ctx, newSource(t).dir, from, s3sync.SyncOptions{}); !errors.As(err, new(*repo.ConfigError)) {
		t.Errorf("a copy over another repository: %v", err)
	}
	lock, err := new(fsx.FS).Lock(to+"/kedge/standby.lock", fsx.Exclusive, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s3sync.Sync(ctx, to, from, s3sync.SyncOptions{}); !errors.Is(err, fsx.ErrLocked) {
		t.Errorf("two at once: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	// The copy takes over. What it followed may come back, and goes no further.
	copied := &source{t: t, dir: to, saves: slices.Clone(s.saves)}
	copied.save(4)
	s.save(3)
	if _, err := s3sync.Sync(ctx, to, from, s3sync.SyncOptions{}); !errors.As(err, new(*repo.RefusedError)) {
		t.Errorf("a copy that went its own way: %v", err)
	}
	copied.checkDir(4)
	gitClean(t, to)
}

// A bucket is a source as well.
func TestSyncBucket(t *testing.T) {
	ctx := context.Background()
	s, to := newSource(t), filepath.Join(t.TempDir(), "copy")
	b := &s3sync.Bucket{Objects: newMemory(), Prefix: "build/"}
	s.save(5)
	s.mirror(b)
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s3sync.Sync(ctx, to, b.Snapshot(g, s3sync.NewCache(8<<20)), s3sync.SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	(&source{t: t, dir: to, saves: s.saves}).checkDir(1)
}

// Wherever a run ends, the copy is what it was or what it was to be, and the next completes it.
func TestSyncFaults(t *testing.T) {
	ctx, broken := context.Background(), errors.New("the power is gone")
	s, base := newSource(t), filepath.Join(t.TempDir(), "copy")
	s.save(2)
	from := repo.NewDir(nil, s.dir)
	if _, err := s3sync.Sync(ctx, base, from, s3sync.SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	s.save(2)
	run := func(fsys *fsx.FS, to string) error {
		_, err := s3sync.Sync(ctx, to, from, s3sync.SyncOptions{FS: fsys})
		return err
	}
	for k, done := int64(1), false; !done; k += 5 {
		to := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(to, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		var n atomic.Int64
		faulty := &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
			if n.Add(1) >= k && op.Kind != fsx.KindClose {
				return broken
			}
			return do()
		}}
		err := run(faulty, to)
		if done = err == nil; !done && !errors.Is(err, broken) {
			t.Fatalf("operation %d: %v", k, err)
		}
		p, err := repo.OpenDir(ctx, to, repo.DirOptions{})
		if err != nil {
			t.Fatalf("operation %d: %v", k, err)
		}
		refs, err := p.Refs(ctx, "refs/")
		if err != nil || len(refs) != 1 || refs[0].ID != s.saves[0].Commit && refs[0].ID != s.saves[1].Commit {
			t.Fatalf("operation %d: refs %v, %v", k, refs, err)
		}
		if lost, err := p.Missing(ctx, nil, []pack.ID{refs[0].ID}); err != nil || len(lost) > 0 {
			t.Fatalf("operation %d: %v is not whole, %v", k, refs[0].ID, err)
		}
		p.Close()
		if err := run(nil, to); err != nil {
			t.Fatalf("after operation %d: %v", k, err)
		}
		(&source{t: t, dir: to, saves: s.saves}).checkDir(2)
	}
}

// liar is a source that does not tell the truth.
type liar struct {
	s3sync.Source
	state func(*repo.State)
	list  func(fn func(string, int64) error) error // after what there is
	size  func(name string, size int64) int64
	bytes func(name string, p []byte, off int64)
	open  func(name string) error
}

func (l *liar) State(ctx context.Context) (repo.State, error) {
	s, err := l.Source.State(ctx)
	if l.state != nil {
		l.state(&s)
	}
	return s, err
}

func (l *liar) List(ctx context.Context, dir string, fn func(string, int64) error) error {
	err := l.Source.List(ctx, dir, func(name string, size int64) error {
		if l.size != nil {
			size = l.size(name, size)
		}
		return fn(name, size)
	})
	if err == nil && l.list != nil {
		err = l.list(fn)
	}
	return err
}

func (l *liar) Open(ctx context.Context, name string) (repo.Blob, error) {
	if l.open != nil {
		if err := l.open(name); err != nil {
			return nil, err
		}
	}
	b, err := l.Source.Open(ctx, name)
	return &liarBlob{b, l, name}, err
}

type liarBlob struct {
	repo.Blob
	l    *liar
	name string
}

func (b *liarBlob) Size() int64 {
	if b.l.size != nil {
		return b.l.size(b.name, b.Blob.Size())
	}
	return b.Blob.Size()
}

func (b *liarBlob) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.Blob.ReadAt(p, off)
	if b.l.size != nil && n < len(p) && err == io.EOF { // as long as it was said to be
		clear(p[n:])
		n, err = len(p), nil
	}
	if b.l.bytes != nil {
		b.l.bytes(b.name, p[:n], off)
	}
	return n, err
}

// Whatever a source says, a copy stays what it was.
func TestSyncLiars(t *testing.T) {
	ctx := context.Background()
	s, to := newSource(t), filepath.Join(t.TempDir(), "copy")
	s.save(5)
	s.save(3)
	truth := repo.NewDir(nil, s.dir)
	if _, err := s3sync.Sync(ctx, to, truth, s3sync.SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	s.save(4)
	first, err := filepath.Glob(to + "/objects/pack/*.pack")
	if err != nil || len(first) != 4 {
		t.Fatal(first, err)
	}
	known := "objects/pack/" + filepath.Base(first[0])
	isNew := func(name string) bool {
		_, err := os.Lstat(filepath.Join(to, name))
		return err != nil && strings.HasSuffix(name, ".pack")
	}
	add := func(name string, size int64) *liar {
		return &liar{list: func(fn func(string, int64) error) error { return fn(name, size) }}
	}
	liars := map[string]*liar{
		"a bit is wrong": {bytes: func(name string, p []byte, off int64) {
			if isNew(name) {
				p[len(p)/2] ^= 4
			}
		}},
		"a checksum is wrong": {bytes: func(name string, p []byte, off int64) { p[len(p)-1] ^= 1 }},
		"all zeros":           {bytes: func(name string, p []byte, off int64) { clear(p) }},
		"shorter":             {size: func(name string, n int64) int64 { return n - 1 }},
		"nothing":             {size: func(name string, n int64) int64 { return 0 }},
		"less than nothing":   {size: func(name string, n int64) int64 { return -1 }},
		"longer":              {size: func(name string, n int64) int64 { return n + 100 }},
		"leads out":           add("objects/pack/../../../../pack-x.pack", 100),
		"leads elsewhere":     add("hooks/pack-x.pack", 100),
		"absolute":            add("/etc/pack-x.pack", 100),
		"not a pack":          add("objects/pack/evil.pack", 100),
		"a NUL":               add("objects/pack/pack-\x00.pack", 100),
		"twice": {list: func(fn func(string, int64) error) error {
			return errors.Join(fn(known, 1), fn(known, 1))
		}},
		"another size of a known one": {size: func(name string, n int64) int64 {
			if name == known {
				return n + 1
			}
			return n
		}},
		"goes away": {open: func(name string) error { return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist} }},
		"a ref to nowhere": {state: func(s *repo.State) {
			s.Refs = append(s.Refs, repo.Ref{Name: "refs/heads/y", ID: pack.Sum(pack.Blob, []byte("nobody has this"))})
		}},
		"a ref that leads out":  {state: func(s *repo.State) { s.Refs[0].Name = "refs/heads/../../x" }},
		"a ref twice":           {state: func(s *repo.State) { s.Refs = append(s.Refs, s.Refs[0]) }},
		"a HEAD that leads out": {state: func(s *repo.State) { s.Head = "../x" }},
		"another repository":    {state: func(s *repo.State) { s.Config = bytes.ReplaceAll(s.Config, []byte("id = "), []byte("id = x")) }},
		"no config":             {state: func(s *repo.State) { s.Config = []byte("[core") }},
		"no diary":              {state: func(s *repo.State) { s.Receipts = nil }},
		"a shorter diary":       {state: func(s *repo.State) { s.Receipts = s.Receipts[:bytes.IndexByte(s.Receipts, '\n')+1] }},
		"another diary":         {state: func(s *repo.State) { s.Receipts[30] ^= 1 }},
		"a broken chain":        {state: func(s *repo.State) { s.Receipts[len(s.Receipts)-2] ^= 1 }},
		"pruned what is none":   {state: func(s *repo.State) { s.Pruned = []byte("x\n") }},
		"pins that are none":    {state: func(s *repo.State) { s.Pins = []byte("x\n") }},
	}
	base, was := to, standing(t, to)
	for what, l := range liars {
		l.Source, to = truth, filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(to, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		if _, err := s3sync.Sync(ctx, to, l, s3sync.SyncOptions{}); err == nil {
			t.Errorf("%s: no error", what)
		}
		if now := standing(t, to); now != was {
			t.Fatalf("%s: the copy is\n%s\nand was\n%s", what, now, was)
		}
		(&source{t: t, dir: to, saves: s.saves}).checkDir(2)
		if left, err := os.ReadDir(to + "/kedge/tmp"); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left behind, %v", what, left, err)
		}
		if out, err := os.ReadDir(filepath.Dir(to)); err != nil || len(out) != 1 {
			t.Errorf("%s: outside of the copy: %v, %v", what, out, err)
		}
	}
	// Its own list of closed packs, and settings that make git run something, mean nothing.
	l := &liar{Source: truth, state: func(s *repo.State) {
		s.Closed = []byte("lies\n")
		s.Config = append(s.Config, "[core]\n\tfsmonitor = rm -rf /\n\thooksPath = /tmp\n[include]\n\tpath = /etc/passwd\n[alias]\n\tlog = !sh\n"...)
	}}
	if _, err := s3sync.Sync(ctx, to, l, s3sync.SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	(&source{t: t, dir: to, saves: s.saves}).checkDir(3)
	config, err := os.ReadFile(to + "/config")
	if err != nil || bytes.Contains(config, []byte("monitor")) || bytes.Contains(config, []byte("ooks")) ||
		bytes.Contains(config, []byte("passwd")) || bytes.Contains(config, []byte("alias")) || !bytes.Contains(config, []byte("pruneExpire = never")) {
		t.Errorf("the config of the copy: %s, %v", config, err)
	}
	gitClean(t, to)
}

// standing describes where a repository stands: refs, diary, settings.
func standing(t *testing.T, dir string) string {
	t.Helper()
	s, err := repo.NewDir(nil, dir).State(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(s.Refs, s.Head, string(s.Config), string(s.Receipts), string(s.Pruned), string(s.Pins))
}

// What gc takes away from the source between two looks is looked for anew; what stays away is
// dropped when its time has come, and not before.
func TestSyncGarbage(t *testing.T) {
	ctx := context.Background()
	s, to := newSource(t), filepath.Join(t.TempDir(), "copy")
	s.save(5)
	truth := repo.NewDir(nil, s.dir)
	away := 2
	l := &liar{Source: truth, open: func(name string) error {
		if away--; away >= 0 {
			return fs.ErrNotExist
		}
		return nil
	}}
	if _, err := s3sync.Sync(ctx, to, l, s3sync.SyncOptions{Workers: 1}); err != nil || away >= 0 {
		t.Fatal(away, err)
	}
	var extra []string
	for _, n := range []int{7, 8} { // packs that the source does not have, as after a gc there
		x := newSource(t)
		x.save(n)
		files, err := filepath.Glob(x.dir + "/objects/pack/pack-*")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err == nil {
				err = os.WriteFile(filepath.Join(to, "objects/pack", filepath.Base(f)), text, 0o400)
			}
			if err != nil {
				t.Fatal(err)
			}
			extra = append(extra, filepath.Join(to, "objects/pack", filepath.Base(f)))
		}
	}
	there := func() (n int) {
		for _, f := range extra {
			if _, err := os.Lstat(f); err == nil {
				n++
			}
		}
		return n
	}
	start := time.Now()
	for _, day := range []struct {
		after   time.Duration
		dropped int
	}{{0, 0}, {13 * 24 * time.Hour, 0}, {-time.Hour, 0}, {12 * 24 * time.Hour, 0}, {15 * 24 * time.Hour, 4}, {16 * 24 * time.Hour, 0}} {
		r, err := s3sync.Sync(ctx, to, truth, s3sync.SyncOptions{Now: func() time.Time { return start.Add(day.after) }})
		if err != nil || r.Dropped != day.dropped {
			t.Errorf("after %v: %+v, %v", day.after, r, err)
		}
		if n := there(); (n == 0) != (day.after > 14*24*time.Hour) {
			t.Errorf("after %v there are %d files of %d", day.after, n, len(extra))
		}
		(&source{t: t, dir: to, saves: s.saves}).checkDir(1)
		gitClean(t, to)
	}
}
