package s3sync_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/s3sync"
)

// full says that all of a sweep is run, and not a sample.
var full = os.Getenv("KEDGE_SWEEP") == "full"

// The ways in which a request goes wrong.
const (
	failInternal  = "500"
	failSlowDown  = "503 SlowDown"
	failReset     = "reset mid-body"
	failTruncated = "truncated body"
	failWrong     = "wrong bytes of right length"
	failTimeout   = "timeout"
	failLost      = "answer lost"
	failError200  = "error body in a 200"
	fail412       = "412"
	fail409       = "409"
)

var failures = []string{
	failInternal, failSlowDown, failReset, failTruncated, failWrong, failTimeout, failLost, failError200, fail412, fail409,
}

// faulty is a store of which one request goes wrong, or all from one on.
type faulty struct {
	in      *memory
	at      int64 // which; 0: none
	forever bool
	how     string
	calls   atomic.Int64
}

func (f *faulty) hit() bool {
	k := f.calls.Add(1)
	return f.at > 0 && (k == f.at || f.forever && k > f.at)
}

// plain does a request that has no bytes to be mangled.
func (f *faulty) plain(ctx context.Context, do func() error, pretend error) error {
	if !f.hit() {
		return do()
	}
	switch f.how {
	case failTimeout:
		<-ctx.Done()
		return ctx.Err()
	case failLost:
		if err := do(); err != nil {
			return err
		}
		return s3sync.Temporary(io.ErrUnexpectedEOF)
	case failError200:
		return pretend
	case fail412:
		return fmt.Errorf("412: %w", s3sync.ErrExists)
	case failWrong:
		return do()
	}
	return s3sync.Temporary(errors.New(f.how))
}

// sending does a request with a body.
func (f *faulty) sending(ctx context.Context, b s3sync.Body, do func(s3sync.Body) error) error {
	k := f.calls.Load() + 1
	if f.at > 0 && (k == f.at || f.forever && k > f.at) {
		switch f.how {
		case failReset, failTruncated:
			f.calls.Add(1)
			if _, err := io.Copy(io.Discard, io.NewSectionReader(b, 0, b.Size/2)); err != nil {
				return err
			}
			return s3sync.Temporary(syscall.ECONNRESET)
		case failWrong:
			f.calls.Add(1)
			b.ReaderAt = flipped{b.ReaderAt}
			return do(b)
		}
	}
	return f.plain(ctx, func() error { return do(b) }, nil)
}

// flipped is a file whose first byte is another one.
type flipped struct{ io.ReaderAt }

func (r flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	if off == 0 && n > 0 {
		p[0] ^= 1
	}
	return n, err
}

func (f *faulty) Put(ctx context.Context, key string, b s3sync.Body) (version string, err error) {
	err = f.sending(ctx, b, func(b s3sync.Body) (err error) { version, err = f.in.Put(ctx, key, b); return err })
	return version, err
}

func (f *faulty) PutPart(ctx context.Context, key, id string, n int, b s3sync.Body) (p s3sync.Part, err error) {
	p = s3sync.Part{N: n, Size: b.Size, SHA256: b.SHA256, Tag: "never stored"}
	err = f.sending(ctx, b, func(b s3sync.Body) (err error) { p, err = f.in.PutPart(ctx, key, id, n, b); return err })
	return p, err
}

func (f *faulty) Get(ctx context.Context, key, version string, p []byte, off int64) (n int, err error) {
	k := f.calls.Load() + 1
	hit := f.at > 0 && (k == f.at || f.forever && k > f.at)
	err = f.plain(ctx, func() error { n, err = f.in.Get(ctx, key, version, p, off); return err }, s3sync.Temporary(errors.New("no range")))
	if hit && n == 0 && (f.how == failReset || f.how == failTruncated) {
		n, _ = f.in.Get(ctx, key, version, p[:len(p)/2], off)
	}
	if hit && n > 0 && f.how == failWrong {
		p[n/2] ^= 1
	}
	return n, err
}

func (f *faulty) Stat(ctx context.Context, key, version string) (o s3sync.Object, err error) {
	err = f.plain(ctx, func() error { o, err = f.in.Stat(ctx, key, version); return err }, s3sync.Temporary(errors.New("no object")))
	return o, err
}

func (f *faulty) List(ctx context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	k := f.calls.Load() + 1
	hit := f.at > 0 && (k == f.at || f.forever && k > f.at)
	var all []s3sync.Object
	err := f.plain(ctx, func() error {
		return f.in.List(ctx, prefix, after, func(o s3sync.Object) error { all = append(all, o); return nil })
	}, s3sync.Temporary(errors.New("no list")))
	if hit && f.how == failWrong && len(all) > 0 {
		all = all[1:] // as it was a while ago
	}
	for _, o := range all {
		if err := fn(o); err != nil {
			return err
		}
	}
	return err
}

func (f *faulty) Delete(ctx context.Context, key, version string) error {
	return f.plain(ctx, func() error { return f.in.Delete(ctx, key, version) }, nil)
}

func (f *faulty) Retain(ctx context.Context, key, version string, until time.Time) error {
	return f.plain(ctx, func() error { return f.in.Retain(ctx, key, version, until) }, nil)
}

func (f *faulty) Begin(ctx context.Context, key string) (id string, err error) {
	err = f.plain(ctx, func() error { id, err = f.in.Begin(ctx, key); return err }, s3sync.Temporary(errors.New("no id")))
	return id, err
}

func (f *faulty) Parts(ctx context.Context, key, id string) (parts []s3sync.Part, err error) {
	err = f.plain(ctx, func() error { parts, err = f.in.Parts(ctx, key, id); return err }, s3sync.Temporary(errors.New("no list")))
	return parts, err
}

func (f *faulty) Complete(ctx context.Context, key, id string, parts []s3sync.Part) (version string, err error) {
	err = f.plain(ctx, func() error { version, err = f.in.Complete(ctx, key, id, parts); return err }, nil)
	return version, err
}

func (f *faulty) Abort(ctx context.Context, key, id string) error {
	return f.plain(ctx, func() error { return f.in.Abort(ctx, key, id) }, nil)
}

func TestFaulty(t *testing.T) { conformance(t, &faulty{in: newMemory()}) }

// clone returns a store that has the same objects.
func (m *memory) clone() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMemory()
	c.objects, c.times, c.sums = maps.Clone(m.objects), maps.Clone(m.times), maps.Clone(m.sums)
	return c
}

// unsynced is a file system for tests in which nobody pulls the plug.
func unsynced() *fsx.FS {
	return &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		if op.Kind == fsx.KindSync || op.Kind == fsx.KindSyncDir {
			return nil
		}
		return do()
	}}
}

// sweep is a mirror run that goes wrong somewhere, from generation 1, which has one save, to
// generation 2, which has two.
type sweep struct {
	t        *testing.T
	s        *source
	sign     func([]byte) ([]byte, error)
	partSize int64
	first    string // the state directory of generation 1
}

// partSize makes the packs of these tests ones of several parts.
const partSize = 1500

// newSweep mirrors generation 1. Beside the blobs of the second save there may be others.
func newSweep(t *testing.T, b *s3sync.Bucket, beside ...pack.Entry) *sweep {
	key, _, err := s3sync.MirrorKey(unsynced(), filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	w := &sweep{t, newSource(t), func(text []byte) ([]byte, error) { return s3sync.Sign(key, text) }, partSize, t.TempDir()}
	if beside != nil {
		w.partSize = 5 << 20 // the least that S3 takes
	}
	w.s.save(150)
	if _, err := w.mirror(b, w.first); err != nil {
		t.Fatal(err)
	}
	w.s.saveWith(150, beside...)
	return w
}

func (w *sweep) mirror(b *s3sync.Bucket, state string) (s3sync.MirrorResult, error) {
	return b.Mirror(context.Background(), s3sync.MirrorOptions{
		FS: unsynced(), Dir: w.s.dir, StateDir: state, PartSize: w.partSize, Sign: w.sign, Workers: 2,
	})
}

// state makes a state directory as generation 1 left it.
func (w *sweep) state() string {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(w.first)); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// whole makes sure that the newest generation is all there, and can be brought back.
func (w *sweep) whole(what string, b *s3sync.Bucket) {
	w.t.Helper()
	ctx := context.Background()
	g, err := b.Latest(ctx)
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	refs := 1
	if g.Refs[0].ID == w.s.saves[1].Commit {
		refs = 2
	}
	if g.N > 1 && refs != 2 {
		w.t.Errorf("%s: generation %d has %d saves", what, g.N, refs)
	}
	w.s.check(b, g, refs)
	r, err := b.Verify(ctx, g, s3sync.VerifyOptions{ReadShare: 1}, func(f s3sync.File, err error) {
		w.t.Errorf("%s: %s: %v", what, f.Name, err)
	})
	if err != nil || r.Damaged > 0 {
		w.t.Errorf("%s: %+v, %v", what, r, err)
	}
	to := filepath.Join(w.t.TempDir(), "copy")
	if _, err := b.Pull(ctx, g, s3sync.PullOptions{FS: unsynced(), Dir: to}); err != nil {
		w.t.Errorf("%s: pull: %v", what, err)
		return
	}
	(&source{t: w.t, dir: to, saves: w.s.saves}).checkDir(refs)
	if err := os.RemoveAll(to); err != nil { // there will be hundreds
		w.t.Error(err)
	}
}

// Each request of a mirror run goes wrong in each way, once or from then on: the run succeeds
// or says why not, and what is in the bucket is always whole; the next run completes it.
func TestMirrorFaultMatrix(t *testing.T) { kinds(t, testMirrorFaultMatrix) }

func testMirrorFaultMatrix(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	first := newMemory()
	bucket := func(s s3sync.Objects) *s3sync.Bucket {
		return lock(&s3sync.Bucket{Prefix: "p/build/", Check: s3sync.Trust(), Objects: &s3sync.Patient{
			Objects: s, Tries: 3, Pause: time.Microsecond, Timeout: 10 * time.Millisecond, Slowest: 1 << 30,
		}})
	}
	w := newSweep(t, bucket(first))
	count := &faulty{in: first.clone()}
	if r, err := w.mirror(bucket(count), w.state()); err != nil || r.Generation != 2 || count.in.orphans() > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(count.in.sums) == 0 {
		t.Fatal("no pack was sent in parts")
	}
	requests, ran := count.calls.Load(), 0
	for k := range requests {
		for i, how := range failures {
			for _, forever := range []bool{false, true} {
				if !full && (int(k)+i)%12 != 0 {
					continue
				}
				ran++
				what := fmt.Sprintf("request %d: %s, for ever: %v", k+1, how, forever)
				f := &faulty{in: first.clone(), at: k + 1, how: how, forever: forever}
				state := w.state()
				_, err := w.mirror(bucket(f), state)
				if err != nil {
					named(t, what, err)
				}
				if err != nil && !forever && how != failWrong && how != fail412 {
					t.Errorf("%s: one failure is too many: %v", what, err)
				}
				good := bucket(f.in)
				w.whole(what, good)
				if r, err := w.mirror(good, state); err != nil || r.Generation < 2 {
					t.Fatalf("%s: the next run: %+v, %v", what, r, err)
				}
				w.whole(what+", then the next run", good)
				// A store that says that it has ended an upload has it to itself.
				if n := f.in.orphans(); n > 1 || n > 0 && how != failError200 {
					t.Errorf("%s: %d uploads with parts are left", what, n)
				}
			}
		}
	}
	t.Logf("%d requests, %d runs", requests, ran)
}

// named makes sure that an error is one that says what was done and why it failed.
func named(t *testing.T, what string, err error) {
	t.Helper()
	var gave *s3sync.GaveUpError
	switch {
	case errors.As(err, &gave) && gave.Op != "" && gave.Key != "" && gave.Tries > 0 && gave.Err != nil:
	case errors.Is(err, s3sync.ErrExists), errors.As(err, new(*s3sync.UnsafeStoreError)), errors.As(err, new(*pack.CorruptError)):
	default:
		t.Errorf("%s: %T: %v", what, err, err)
	}
}

// A run is killed at each of its requests, before or after it was done. The next run sends
// what was not there, and nothing twice: of a store that does not list parts, at most the
// parts whose answer was not journalled.
func TestMirrorResume(t *testing.T) { kinds(t, testMirrorResume) }

func testMirrorResume(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	dead := errors.New("killed")
	for _, blind := range []bool{false, true} {
		first := newMemory()
		bucket := func(m *memory) *s3sync.Bucket {
			return lock(&s3sync.Bucket{Prefix: "p/build/", Objects: &s3sync.Patient{Objects: m}, Check: s3sync.Trust()})
		}
		w := newSweep(t, bucket(first))
		for k, done := int64(1), false; !done; k++ {
			for i, when := range []string{"before", "after"} {
				if !full && (int(k)+i)%3 != 0 {
					continue
				}
				what := fmt.Sprintf("blind: %v, killed %s request %d", blind, when, k)
				m, state := first.clone(), w.state()
				m.blind = blind
				hook := func(n int64, _, _ string) error {
					if n >= k {
						return dead
					}
					return nil
				}
				if when == "before" {
					m.before = hook
				} else {
					m.after = hook
				}
				_, err := w.mirror(bucket(m), state)
				if done = err == nil; !done && !errors.Is(err, dead) {
					t.Fatalf("%s: %v", what, err)
				}
				m.before, m.after = nil, nil
				w.whole(what, bucket(m))
				if _, err := w.mirror(bucket(m), state); err != nil {
					t.Fatalf("%s: the next run: %v", what, err)
				}
				w.whole(what+", then the next run", bucket(m))
				slack := int64(0)
				if blind {
					slack = 2 * partSize // of each worker
				}
				sent, stored := int64(0), int64(0)
				for key, n := range m.taken {
					if strings.Contains(key, "/data/") { // a new key for each try
						sent, stored = sent+n, stored+int64(len(m.objects[key]))
					}
					if size := int64(len(m.objects[key])); strings.Contains(key, "/objects/") && n > size+slack ||
						strings.Contains(key, "/state/") && n > size {
						t.Errorf("%s: %d bytes were sent of %s, which has %d", what, n, key, size)
					}
				}
				// What was under way, for each worker, begins anew.
				if sent > stored+2*maxObject(m, "/data/") {
					t.Errorf("%s: %d bytes were sent of what has %d", what, sent, stored)
				}
				if n := m.orphans(); n > 0 {
					t.Errorf("%s: %d uploads with parts are left", what, n)
				}
			}
		}
	}
}

// An upload that the store has forgotten, and one of a pack that is not the same any more.
func TestMirrorLostUpload(t *testing.T) { kinds(t, testMirrorLostUpload) }

func testMirrorLostUpload(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	dead := errors.New("killed")
	for _, loss := range []string{"upload", "part"} {
		m := newMemory()
		b := lock(&s3sync.Bucket{Prefix: "p/build/", Objects: &s3sync.Patient{Objects: m}, Check: s3sync.Trust()})
		w := newSweep(t, b)
		state := w.state()
		m.before = func(_ int64, op, _ string) error {
			if op == "complete" {
				return dead
			}
			return nil
		}
		if _, err := w.mirror(b, state); !errors.Is(err, dead) {
			t.Fatal(err)
		}
		m.before = nil
		for _, u := range m.uploads {
			if loss == "upload" {
				u.key, u.parts = "", nil
			} else {
				delete(u.parts, 1)
			}
		}
		if _, err := w.mirror(b, state); err != nil {
			t.Fatalf("%s: %v", loss, err)
		}
		w.whole(loss+" lost", b)
		left, err := os.ReadDir(state)
		left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "names-") })
		if err != nil || len(left) != 1 || !strings.HasSuffix(left[0].Name(), ".lock") {
			t.Errorf("%s: more than the lock is left: %v, %v", loss, left, err)
		}
	}
}

// A store that overwrites is found out before anything is sent to it, and used only by those
// who want it.
func TestUnsafeStore(t *testing.T) { kinds(t, testUnsafeStore) }

func testUnsafeStore(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	for _, parts := range []bool{false, true} {
		m := newMemory()
		b := lock(&s3sync.Bucket{Prefix: "p/build/", Objects: &s3sync.Patient{Objects: m}, Check: s3sync.Trust()})
		w := newSweep(t, b)
		m.lenient = !parts
		m.lenientParts = parts
		var unsafe *s3sync.UnsafeStoreError
		_, err := w.mirror(b, w.state())
		if !errors.As(err, &unsafe) || unsafe.Key != "p/build/probe" {
			t.Errorf("in parts: %v: %v", parts, err)
		}
		if g, err := b.Latest(context.Background()); err != nil || g.N != 1 {
			t.Errorf("in parts: %v: generation %v, %v", parts, g, err)
		}
		if n := m.orphans(); n > 0 {
			t.Errorf("%d uploads are left", n)
		}
		r, err := b.Mirror(context.Background(), s3sync.MirrorOptions{Dir: w.s.dir, StateDir: w.state(), PartSize: partSize, Unsafe: true, Sign: w.sign})
		if err != nil || r.Generation != 2 {
			t.Errorf("in parts: %v: %+v, %v", parts, r, err)
		}
		w.whole("unsafe", b)
	}
}

// A pack of another size or of other bytes is noticed, though its name is the same and its
// times are; so is one whose name does not tell its content, as bup's do not.
func TestMirrorSameName(t *testing.T) { kinds(t, testMirrorSameName) }

func testMirrorSameName(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	m := newMemory()
	b := lock(&s3sync.Bucket{Prefix: "p/", Objects: m})
	s := newSource(t)
	s.save(5)
	packs := func() []string {
		t.Helper()
		list, err := filepath.Glob(s.dir + "/objects/pack/*.pack")
		if err != nil || len(list) == 0 {
			t.Fatal(list, err)
		}
		return list
	}
	// What bup writes: a name that is no checksum of the pack.
	for i, name := range packs() {
		stem := fmt.Sprintf("%s/objects/pack/pack-%040x", s.dir, i+1)
		if err := errors.Join(os.Rename(name, stem+".pack"), os.Rename(strings.TrimSuffix(name, ".pack")+".idx", stem+".idx")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(s.dir + "/kedge/closed"); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	s.mirror(b)
	if r := s.mirror(b); !r.Unchanged || r.Sent > 0 {
		t.Errorf("nothing has changed: %+v", r)
	}
	// The same objects, packed anew to the same size: here with other bytes of the zlib header,
	// which say the same.
	name := packs()[0]
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(text, []byte{0x78, 0x01})
	if i < 0 {
		t.Fatal("no zlib header")
	}
	text[i+1] = 0x5e
	sum := sha1.Sum(text[:len(text)-sha1.Size])
	copy(text[len(text)-sha1.Size:], sum[:])
	if err := errors.Join(os.Chmod(name, 0o644), os.WriteFile(name, text, 0o644), os.Remove(strings.TrimSuffix(name, ".pack")+".idx")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("git", "index-pack", name).CombinedOutput(); err != nil {
		t.Fatalf("git index-pack: %v\n%s", err, out)
	}
	if err := os.Chtimes(name, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	r := s.mirror(b)
	if r.Unchanged || r.Todo < 2 {
		t.Errorf("a pack has changed: %+v", r)
	}
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	f, ok := g.File("objects/pack/" + filepath.Base(name))
	if !ok || f.SHA256 != s3sync.SumOf(text) || b.Recipients == nil && !strings.HasSuffix(f.Key, "~2") {
		t.Errorf("%+v", f)
	}
	s.check(b, g, 1)
}
