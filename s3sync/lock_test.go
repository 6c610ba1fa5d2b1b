package s3sync_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// vault is an object store in memory that keeps versions and locks.
type vault struct {
	mu      sync.Mutex
	objects map[string][]vaultVersion // the oldest first
	made    int
	now     func() time.Time
	// mum does not tell what is locked; short lists no versions.
	mum, short bool
}

type vaultVersion struct {
	id     string
	data   []byte
	at     time.Time
	marker bool
	until  time.Time
}

func newVault() *vault { return &vault{objects: make(map[string][]vaultVersion), now: time.Now} }

func (v *vault) add(key string, x vaultVersion) string {
	v.made++
	x.id, x.at = fmt.Sprint("v", v.made), v.now()
	v.objects[key] = append(v.objects[key], x)
	return x.id
}

// find returns a version, or the newest. The lock is held.
func (v *vault) find(key, version string) (*vaultVersion, error) {
	list := v.objects[key]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].id == version || version == "" {
			if list[i].marker {
				break
			}
			return &list[i], nil
		}
	}
	return nil, &fs.PathError{Op: "get", Path: key + " " + version, Err: fs.ErrNotExist}
}

func (v *vault) Put(_ context.Context, key string, b s3sync.Body) (string, error) {
	data, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size))
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil || s3sync.SumOf(data) != b.SHA256 {
		return "", s3sync.Temporary(fmt.Errorf("the checksum does not match, %w", errors.Join(err)))
	}
	if _, err := v.find(key, ""); err == nil {
		return "", fmt.Errorf("%s: %w", key, s3sync.ErrExists)
	}
	return v.add(key, vaultVersion{data: data}), nil
}

func (v *vault) Get(_ context.Context, key, version string, p []byte, off int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	x, err := v.find(key, version)
	switch {
	case err != nil:
		return 0, err
	case off >= int64(len(x.data)):
		return 0, io.EOF
	}
	n := copy(p, x.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (v *vault) describe(key string, x *vaultVersion) s3sync.Object {
	o := s3sync.Object{Key: key, Version: x.id, Size: int64(len(x.data)), SHA256: s3sync.SumOf(x.data), Modified: x.at}
	if !v.mum {
		o.Until = x.until
	}
	return o
}

func (v *vault) Stat(_ context.Context, key, version string) (s3sync.Object, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	x, err := v.find(key, version)
	if err != nil {
		return s3sync.Object{}, err
	}
	return v.describe(key, x), nil
}

func (v *vault) list(prefix, after string, all bool, fn func(s3sync.Object) error) error {
	v.mu.Lock()
	var list []s3sync.Object
	for _, key := range slices.Sorted(maps.Keys(v.objects)) {
		if !strings.HasPrefix(key, prefix) || key <= after {
			continue
		}
		for i := range v.objects[key] {
			x := &v.objects[key][i]
			if !x.marker && (all || i == len(v.objects[key])-1) {
				list = append(list, v.describe(key, x))
			}
		}
	}
	v.mu.Unlock()
	for _, o := range list {
		if err := fn(o); err != nil {
			return err
		}
	}
	return nil
}

func (v *vault) List(_ context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	return v.list(prefix, after, false, fn)
}

func (v *vault) Versions(_ context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	if v.short {
		return &repo.RefusedError{Reason: "s3:ListBucketVersions"}
	}
	return v.list(prefix, after, true, fn)
}

func (v *vault) Delete(_ context.Context, key, version string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if version == "" {
		if v.objects[key] != nil {
			v.add(key, vaultVersion{marker: true})
		}
		return nil
	}
	x, err := v.find(key, version)
	if err != nil {
		return nil //nolint:nilerr // as it should be
	}
	if v.now().Before(x.until) {
		return errors.New("400 it is WORM protected")
	}
	v.objects[key] = slices.DeleteFunc(v.objects[key], func(x vaultVersion) bool { return x.id == version })
	if len(v.objects[key]) == 0 {
		delete(v.objects, key)
	}
	return nil
}

func (v *vault) Retain(_ context.Context, key, version string, until time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	x, err := v.find(key, version)
	if err != nil {
		return err
	}
	if until.Before(x.until) {
		return &repo.RefusedError{Reason: "a lock cannot be shortened"}
	}
	x.until = until
	return nil
}

// startVault starts a real S3 server with a bucket that keeps versions and locks.
func startVault(t *testing.T) *s3sync.S3 {
	t.Helper()
	dir := t.TempDir()
	o := startGatewayWith(t, dir, "--versioning-dir", filepath.Join(dir, "versions"))
	o.Bucket = "v" + strings.ToLower(rand.Text())
	makeBucket(t, o, true)
	s, err := s3sync.NewS3(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func vaults(t *testing.T, test func(t *testing.T, s s3sync.Objects)) {
	t.Run("memory", func(t *testing.T) { test(t, newVault()) })
	t.Run("gateway", func(t *testing.T) { test(t, startVault(t)) })
}

func TestVault(t *testing.T) {
	vaults(t, func(t *testing.T, s s3sync.Objects) {
		conformance(t, s)
		ctx := context.Background()
		var versions []string
		for _, text := range []string{"one", "two"} {
			version, err := s.Put(ctx, "v/x", bodyOf([]byte(text)))
			if errors.Is(err, s3sync.ErrExists) && len(versions) > 0 {
				break // this one counts what is behind a marker
			}
			if err != nil || version == "" {
				t.Fatalf("version %q, %v", version, err)
			}
			versions = append(versions, version)
			if err := s.Delete(ctx, "v/x", ""); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Stat(ctx, "v/x", ""); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("behind a marker: %v", err)
		}
		for i, version := range versions {
			if got, err := s3sync.ReadAll(ctx, s, "v/x", version, 100); err != nil || string(got) != []string{"one", "two"}[i] {
				t.Errorf("%q, %v", got, err)
			}
		}
		listed := func(after string) (got []string) {
			t.Helper()
			err := s.(s3sync.Versioned).Versions(ctx, "v/x", after, func(o s3sync.Object) error {
				got = append(got, o.Version)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		if got := listed(""); !slices.Equal(got, versions) {
			t.Errorf("versions %q, not %q", got, versions)
		}
		if got := listed("v/x"); len(got) > 0 {
			t.Errorf("versions %q after it", got)
		}
		until := time.Now().Add(time.Hour).Truncate(time.Second)
		if err := s.Retain(ctx, "v/x", versions[0], until); err != nil {
			t.Fatal(err)
		}
		plain, err := s.Put(ctx, "v/y", bodyOf([]byte("y"))) // versitygw tells it of the newest versions only
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Retain(ctx, "v/y", plain, until); err != nil {
			t.Fatal(err)
		}
		if o, err := s.Stat(ctx, "v/y", plain); err != nil || !o.Until.Equal(until) {
			t.Errorf("kept until %v, %v", o.Until, err)
		}
		for _, version := range versions {
			_ = s.Delete(ctx, "v/x", version)
		}
		if got := listed(""); !slices.Equal(got, versions[:1]) {
			t.Errorf("versions %q, not %q", got, versions[:1])
		}
	})
}

// Somebody with the right to delete puts markers on everything, and other objects under the
// same keys: what was mirrored is found, read and brought back, and the next run goes on.
func TestDeleteMarkers(t *testing.T) {
	vaults(t, func(t *testing.T, objects s3sync.Objects) {
		ctx := context.Background()
		b := &s3sync.Bucket{Objects: &s3sync.Patient{Objects: objects, Pause: time.Millisecond}, Prefix: "p/build/"}
		s := newSource(t)
		for range 3 {
			s.save(2)
			s.mirror(b)
		}
		var keys []string
		if err := objects.List(ctx, "", "", func(o s3sync.Object) error { keys = append(keys, o.Key); return nil }); err != nil {
			t.Fatal(err)
		}
		for i, key := range keys {
			if err := objects.Delete(ctx, key, ""); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				_, err := objects.Put(ctx, key, bodyOf([]byte("a ransom is wanted")))
				if err != nil && !errors.Is(err, s3sync.ErrExists) {
					t.Fatal(err)
				}
			}
		}
		names, err := s3sync.Names(ctx, b.Objects, "p/")
		if err != nil || !slices.Equal(names, []string{"build"}) {
			t.Fatalf("names %q, %v", names, err)
		}
		for n := uint64(1); n <= 3; n++ {
			g, err := b.At(ctx, n)
			if err != nil {
				t.Fatal(err)
			}
			s.check(b, g, int(n))
		}
		g, err := b.Latest(ctx)
		if err != nil || g.N != 3 || len(g.Passed) > 0 {
			t.Fatalf("generation %+v, %v", g, err)
		}
		r, err := b.Verify(ctx, g, s3sync.VerifyOptions{ReadShare: 1}, func(f s3sync.File, err error) { t.Errorf("%s: %v", f.Name, err) })
		if err != nil || r.Damaged > 0 {
			t.Errorf("%+v, %v", r, err)
		}
		to := filepath.Join(t.TempDir(), "copy")
		if _, err := b.Pull(ctx, g, s3sync.PullOptions{Dir: to}); err != nil {
			t.Fatal(err)
		}
		(&source{t: t, dir: to, saves: s.saves}).checkDir(3)
		gitClean(t, to)
		s.save(2)
		if r := s.mirror(b); r.Generation != 4 {
			t.Errorf("the run after: %+v", r)
		}
		if g, err = b.Latest(ctx); err != nil || g.N != 4 {
			t.Fatalf("%+v, %v", g, err)
		}
		s.check(b, g, 4)
	})
}

// What is locked survives who deletes everything, version by version; each run locks for
// longer what is still needed; and a prune waits until the locks are over.
func TestLock(t *testing.T) {
	ctx := context.Background()
	v := newVault()
	clock := &testClock{t: time.Now().Truncate(time.Second)}
	v.now = clock.now
	o := &orchard{source: newSource(t), clock: clock, aside: t.TempDir()}
	o.b = &s3sync.Bucket{Objects: &s3sync.Patient{Objects: v, Pause: time.Millisecond}, Prefix: "p/build/"}
	mirror := func(days int) s3sync.MirrorResult {
		t.Helper()
		r, err := o.b.Mirror(ctx, s3sync.MirrorOptions{Dir: o.dir, LockDays: days, Now: clock.now})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for i := range 4 {
		o.save(2)
		if i == 2 {
			o.repack()
		}
		if r := mirror(35); r.Locked == 0 {
			t.Fatalf("nothing is locked: %+v", r)
		}
		clock.add(7 * day)
	}
	if r := mirror(35); !r.Unchanged || r.Locked == 0 {
		t.Errorf("a run that had nothing to send: %+v", r)
	}
	if r := mirror(10); r.Locked == 0 { // shorter than they are locked already
		t.Errorf("%+v", r)
	}
	clock.add(34 * day)
	spoil := func() {
		for key, list := range maps.Clone(v.objects) {
			for _, x := range slices.Clone(list) {
				_ = v.Delete(ctx, key, x.id)
			}
			_ = v.Delete(ctx, key, "")
		}
	}
	spoil()
	if got := o.intact(); len(got) != 4 {
		t.Errorf("generations %v", got)
	}

	// The prune drops what is locked; the locks end, as no run makes them longer.
	mirror(35)
	first := o.mustPrune(1)
	if first.Dropped == 0 {
		t.Errorf("%+v", first)
	}
	for range 4 {
		clock.add(8 * day)
		o.save(1)
		mirror(35)
		if r := o.mustPrune(1); r.Deleted != 0 || r.Locked == 0 {
			t.Errorf("locked: %+v", r)
		}
		o.intact()
	}
	clock.add(4 * day)
	if r := o.mustPrune(1); r.Deleted < first.Dropped-2 {
		t.Errorf("%+v, then %+v", first, r)
	}
	o.intact()
	v.mum = true
	clock.add(-4 * day)
	if r, err := o.prune(1); err == nil && r.Deleted == 0 && r.Locked > 0 {
		t.Error("nothing can be deleted, nobody knows why, and that is no error")
	}
}

// Without the right to list versions the mirror works as without versions.
func TestNoVersionsListed(t *testing.T) {
	v := newVault()
	v.short = true
	b := &s3sync.Bucket{Objects: &s3sync.Patient{Objects: v, Pause: time.Millisecond}, Prefix: "p/build/"}
	o := &orchard{source: newSource(t), b: b, clock: &testClock{t: time.Now()}, aside: t.TempDir()}
	v.now = o.clock.now
	o.weeks(5)
	first := o.mustPrune(1)
	o.clock.add(4 * day)
	if r := o.mustPrune(1); r.Deleted != first.Dropped || r.Deleted == 0 {
		t.Errorf("%+v, then %+v", first, r)
	}
	o.intact()
}
