package s3sync_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/s3sync"
)

// Each file of a generation that is missing, cut short or changed is named; what a store
// says of its checksums finds a file that is another one, and reading finds rot below it.
func TestVerify(t *testing.T) { kinds(t, testVerify) }

func testVerify(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	m := newMemory()
	b := lock(&s3sync.Bucket{Objects: m, Prefix: "b/"})
	s := newSource(t)
	s.save(3)
	s.mirror(b)
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	look := func(o s3sync.VerifyOptions) (s3sync.VerifyResult, []string) {
		t.Helper()
		var bad []string
		r, err := b.Verify(ctx, g, o, func(f s3sync.File, err error) { bad = append(bad, f.Name) })
		if err != nil {
			t.Fatal(err)
		}
		return r, bad
	}
	if r, bad := look(s3sync.VerifyOptions{}); len(bad) > 0 || r.Checked != len(g.Files) || r.Read != 0 {
		t.Errorf("a good generation: %+v, %q", r, bad)
	}
	if r, bad := look(s3sync.VerifyOptions{ReadShare: 1}); len(bad) > 0 || r.Read != len(g.Files) || r.ReadBytes != r.Bytes {
		t.Errorf("a good generation, read: %+v, %q", r, bad)
	}
	half := 0
	for turn := range uint64(100) {
		r, _ := look(s3sync.VerifyOptions{ReadShare: 0.5, Turn: turn})
		half += r.Read
	}
	if n := 100 * len(g.Files); half < n/3 || half > 2*n/3 {
		t.Errorf("half of the files were %d of %d", half, n)
	}
	for _, f := range g.Files {
		key, good := b.Prefix+f.Key, m.objects[b.Prefix+f.Key]
		changed := slices.Clone(good)
		changed[0] ^= 1
		for what, data := range map[string][]byte{"missing": nil, "short": good[1:], "changed": changed} {
			if m.objects[key] = data; what == "missing" {
				delete(m.objects, key)
			}
			if r, bad := look(s3sync.VerifyOptions{}); r.Damaged != 1 || !slices.Equal(bad, []string{f.Name}) {
				t.Errorf("%s is %s: %+v, %q", f.Name, what, r, bad)
			}
		}
		m.objects[key] = good
	}
}

func TestGenerations(t *testing.T) { kinds(t, testGenerations) }

func testGenerations(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	m := newMemory()
	b := lock(&s3sync.Bucket{Objects: m, Prefix: "b/"})
	s := newSource(t)
	for range 3 {
		s.save(1)
		s.mirror(b)
	}
	for key := range m.objects {
		if strings.HasSuffix(key, "/fffffffffffffffd") {
			m.objects[key] = []byte("rot")
		}
	}
	var got []uint64
	var bad int
	err := b.Generations(ctx, func(l s3sync.Listed) error {
		got = append(got, l.N)
		if l.Err != nil {
			bad++
		} else if l.Refs != 1 || l.Files == 0 || l.Bytes == 0 || l.Time.IsZero() {
			t.Errorf("%+v", l)
		}
		return nil
	})
	if err != nil || !slices.Equal(got, []uint64{3, 2, 1}) || bad != 1 {
		t.Errorf("%v, %d bad, %v", got, bad, err)
	}
}

// Of a file that was sent in parts the store tells the sum of their sums, which the manifest
// has, too: that costs no egress either.
func TestVerifyParts(t *testing.T) { kinds(t, testVerifyParts) }

func testVerifyParts(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	m := newMemory()
	b := lock(&s3sync.Bucket{Objects: m, Prefix: "b/", Check: s3sync.Trust()})
	newSweep(t, b)
	g, err := b.Latest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	parted := 0
	look := func() s3sync.VerifyResult {
		t.Helper()
		r, err := b.Verify(context.Background(), g, s3sync.VerifyOptions{}, func(s3sync.File, error) {})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := look(); r.Checked != len(g.Files) || r.Damaged > 0 {
		t.Errorf("a good generation: %+v", r)
	}
	for _, f := range g.Files {
		if f.PartSums.IsZero() {
			continue
		}
		parted++
		key := b.Prefix + f.Key
		good := m.sums[key]
		m.sums[key] = s3sync.SumOf([]byte("other parts"))
		if r := look(); r.Damaged != 1 {
			t.Errorf("%s has other parts: %+v", f.Name, r)
		}
		m.sums[key] = good
	}
	if parted == 0 {
		t.Error("nothing was sent in parts")
	}
}
