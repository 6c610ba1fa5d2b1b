package s3sync_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
