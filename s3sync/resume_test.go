package s3sync_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/s3sync"
)

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
