package s3sync_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// readable returns how many objects of the first saves can be read, and fails if one comes
// with wrong bytes. The others must end in errors that speak of damage.
func (s *source) readable(p *repo.Packs) (good, all int, said []string) {
	s.t.Helper()
	for _, x := range s.saves {
		for _, id := range x.IDs() {
			all++
			err := p.Get(context.Background(), []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
				if pack.Sum(t, body) != id {
					s.t.Errorf("%v has the bytes of another object", id)
				}
				return nil
			})
			switch {
			case err == nil:
				good++
			case !errors.As(err, new(*pack.CorruptError)) && !errors.As(err, new(*repo.MissingError)):
				s.t.Errorf("%v: %v", id, err)
			}
			if err != nil {
				said = append(said, err.Error())
			}
		}
	}
	return good, all, said
}

// Segments and idx files can be lost or rotten: what one of them does not tell the other does,
// and what is passed over is named.
func TestLostIndexes(t *testing.T) { kinds(t, testLostIndexes) }

func testLostIndexes(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	m := newMemory()
	b := lock(&s3sync.Bucket{Objects: m, Prefix: "b/"})
	s := newSource(t)
	for range 3 {
		s.save(20)
		s.mirror(b)
	}
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	look := func(what string, wantAll bool, named ...string) {
		t.Helper()
		snap := b.Snapshot(g, s3sync.NewCache(0))
		p, err := snap.Packs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		good, all, said := s.readable(p)
		if wantAll != (good == all) {
			t.Errorf("%s: %d of %d objects are readable", what, good, all)
		}
		for _, err := range slices.Concat(snap.Warnings(), p.Warnings()) {
			said = append(said, err.Error())
		}
		for _, name := range named {
			if !strings.Contains(strings.Join(said, "\n"), name) {
				t.Errorf("%s: %s is not named in %q", what, name, said)
			}
		}
	}
	keys := func(part string) (list []string) {
		for _, f := range g.Files {
			if strings.Contains(f.Name, part) {
				list = append(list, f.Key)
			}
		}
		return list
	}
	segments, idxes, packs := keys("kedge/segments/"), keys(".idx"), keys(".pack")
	if len(segments) == 0 || len(segments) > 6 {
		t.Fatalf("segments %q", segments)
	}
	look("all is well", true)
	saved := make(map[string][]byte)
	for key, data := range m.objects {
		saved[key] = data
	}
	restore := func() {
		for key, data := range saved {
			m.objects[key] = data
		}
	}
	for _, how := range []string{"missing", "rotten", "short"} {
		spoil := func(keys ...string) {
			for _, key := range keys {
				data := slices.Clone(m.objects[b.Prefix+key])
				switch how {
				case "missing":
					delete(m.objects, b.Prefix+key)
					continue
				case "rotten":
					for i := range data {
						data[i] ^= 0x55
					}
				case "short":
					data = data[:len(data)/2]
				}
				m.objects[b.Prefix+key] = data
			}
		}
		for _, key := range segments {
			spoil(key)
			look(how+" "+key, true)
			restore()
		}
		spoil(segments...)
		look(how+" segments", true, segments...)
		restore()
		spoil(idxes...)
		look(how+" idx files", true)
		restore()
		spoil(segments...)
		spoil(idxes[0])
		look(how+" segments and one idx", false, filepath.Base(strings.TrimSuffix(idxes[0], ".idx")))
		restore()
		spoil(packs[0])
		look(how+" pack", false, filepath.Base(packs[0]))
		restore()
		// The next run writes segments anew that it cannot read.
		spoil(segments...)
		s.save(1)
		s.mirror(b)
		if g, err = b.Latest(ctx); err != nil {
			t.Fatal(err)
		}
		segments, idxes, packs = keys("kedge/segments/"), keys(".idx"), keys(".pack")
		look("after "+how+" segments", true)
		for key, data := range m.objects {
			saved[key] = data
		}
	}
}

// Whatever byte of a segment is wrong, every object is found.
func TestSegmentRot(t *testing.T) { kinds(t, testSegmentRot) }

func testSegmentRot(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	m := newMemory()
	b := lock(&s3sync.Bucket{Objects: m, Prefix: "b/"})
	s := newSource(t)
	s.save(30)
	s.mirror(b)
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range g.Files {
		if !strings.HasPrefix(f.Name, "kedge/segments/") {
			continue
		}
		good := m.objects[b.Prefix+f.Key]
		for i := 0; i < len(good); i++ {
			if i > 100 && i < 16<<10 { // zeros
				continue
			}
			bad := slices.Clone(good)
			bad[i] ^= 1 << (i % 8)
			m.objects[b.Prefix+f.Key] = bad
			p, err := b.Open(ctx, g, s3sync.NewCache(0))
			if err != nil {
				t.Fatal(err)
			}
			if got, all, _ := s.readable(p); got != all {
				t.Fatalf("byte %d of %s is wrong: %d of %d objects", i, f.Name, got, all)
			}
			p.Close()
		}
		m.objects[b.Prefix+f.Key] = good
	}
}

// Blocks on disk serve the next process. What is wrong there is not believed, and there is
// never much more than the limit.
func TestDiskCache(t *testing.T) { kinds(t, testDiskCache) }

func testDiskCache(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	store := &counted{Objects: newMemory()}
	b := lock(&s3sync.Bucket{Objects: store, Prefix: "b/"})
	s := newSource(t)
	s.save(500)
	s.mirror(b)
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "cache")
	look := func(limit int64) int64 {
		t.Helper()
		cache := s3sync.NewCache(8 << 20)
		cache.Disk = &s3sync.DiskCache{FS: new(fsx.FS), Dir: dir, Limit: limit}
		p, err := b.Open(ctx, g, cache)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		store.reset()
		if good, all, _ := s.readable(p); good != all {
			t.Errorf("%d of %d objects", good, all)
		}
		return store.requests.Load()
	}
	first := look(0)
	if again := look(0); first == 0 || again != 0 {
		t.Errorf("%d requests, then %d", first, again)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) == 0 {
		t.Fatalf("%d entries, %v", len(list), err)
	}
	for i, e := range list {
		name := filepath.Join(dir, e.Name())
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 3 {
		case 0:
			data[len(data)/2] ^= 1
		case 1:
			data = data[:len(data)-1]
		case 2:
			other, err := os.ReadFile(filepath.Join(dir, list[0].Name()))
			if err != nil {
				t.Fatal(err)
			}
			data = other
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if again := look(0); again != first {
		t.Errorf("with a spoilt cache: %d requests, not %d", again, first)
	}
	stray := filepath.Join(dir, fsx.TempName())
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(stray, past, past); err != nil {
		t.Fatal(err)
	}
	const limit = 1 << 10
	store.reset()
	for _, e := range list {
		_ = os.Remove(filepath.Join(dir, e.Name()))
	}
	look(limit)
	look(limit)
	if _, err := os.Stat(stray); err == nil {
		t.Error("what a dead process left is still there")
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // nothing can be kept there
		t.Fatal(err)
	}
	look(0)
}
