package s3sync_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kedgebackup/kedge/s3sync"
)

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func bodyOf(b []byte) s3sync.Body {
	return s3sync.Body{ReaderAt: bytes.NewReader(b), Size: int64(len(b)), SHA256: s3sync.SumOf(b)}
}

func TestMemory(t *testing.T) { conformance(t, newMemory()) }

func TestGateway(t *testing.T) {
	s, err := s3sync.NewS3(startGateway(t))
	if err != nil {
		t.Fatal(err)
	}
	conformance(t, s)
}

// conformance is what every object store must do.
func conformance(t *testing.T, s s3sync.Objects) {
	ctx := context.Background()
	put := func(key, text string) error {
		_, err := s.Put(ctx, key, bodyOf([]byte(text)))
		return err
	}
	t.Run("exclusive", func(t *testing.T) {
		if err := put("x/one", "first"); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"second", "first"} {
			if err := put("x/one", text); !errors.Is(err, s3sync.ErrExists) {
				t.Errorf("a second Put of %q: %v", text, err)
			}
		}
		if got, err := s3sync.ReadAll(ctx, s, "x/one", "", 100); err != nil || string(got) != "first" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("racers", func(t *testing.T) {
		var won sync.Map
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				switch err := put("x/race", fmt.Sprint("racer ", i)); {
				case err == nil:
					won.Store(i, true)
				case !errors.Is(err, s3sync.ErrExists) && !s3sync.IsTemporary(err):
					t.Errorf("racer %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		n := 0
		won.Range(func(k, _ any) bool {
			n++
			if got, _ := s3sync.ReadAll(ctx, s, "x/race", "", 100); string(got) != fmt.Sprint("racer ", k) {
				t.Errorf("racer %d won, and %q is there", k, got)
			}
			return true
		})
		if n != 1 {
			t.Errorf("%d racers won", n)
		}
	})
	t.Run("wrong checksum", func(t *testing.T) {
		b := bodyOf([]byte("right"))
		b.SHA256 = s3sync.SumOf([]byte("wrong"))
		if _, err := s.Put(ctx, "x/wrong", b); err == nil {
			t.Error("it was taken")
		}
		if _, err := s.Stat(ctx, "x/wrong", ""); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is there: %v", err)
		}
	})
	t.Run("ranges", func(t *testing.T) {
		want := strings.Repeat("0123456789", 1000)
		if err := put("x/ranges", want); err != nil {
			t.Fatal(err)
		}
		for _, r := range []struct{ off, n, got int }{{0, 10, 10}, {5, 10000, 9995}, {9990, 10, 10}, {9999, 5, 1}, {10000, 5, 0}, {20000, 5, 0}, {0, 10000, 10000}} {
			p := make([]byte, r.n)
			n, err := s.Get(ctx, "x/ranges", "", p, int64(r.off))
			if n != r.got || n == r.n && err != nil || n < r.n && err != io.EOF {
				t.Errorf("%d bytes at %d: %d, %v", r.n, r.off, n, err)
			} else if string(p[:n]) != want[min(r.off, len(want)):min(r.off+n, len(want))] {
				t.Errorf("%d bytes at %d are wrong", r.n, r.off)
			}
		}
	})
	t.Run("nothing", func(t *testing.T) {
		if _, err := s.Get(ctx, "x/none", "", make([]byte, 1), 0); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("get: %v", err)
		}
		if _, err := s.Stat(ctx, "x/none", ""); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat: %v", err)
		}
		if err := s.Delete(ctx, "x/none", ""); err != nil {
			t.Errorf("delete: %v", err)
		}
		if err := put("x/empty", ""); err != nil {
			t.Fatal(err)
		}
		if got, err := s3sync.ReadAll(ctx, s, "x/empty", "", 100); err != nil || len(got) > 0 {
			t.Errorf("an empty object: %q, %v", got, err)
		}
	})
	t.Run("list", func(t *testing.T) {
		var want []string
		for i := range 1100 {
			want = append(want, fmt.Sprintf("l/%04d", i))
		}
		var wg sync.WaitGroup
		for part := range slices.Chunk(want, 140) {
			wg.Go(func() {
				for _, key := range part {
					if err := put(key, key); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for _, from := range []int{0, 7, 1099} {
			after := ""
			if from > 0 {
				after = want[from-1]
			}
			var got []string
			if err := s.List(ctx, "l/", after, func(o s3sync.Object) error { got = append(got, o.Key); return nil }); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want[from:]) {
				t.Errorf("%d keys after %q", len(got), after)
			}
		}
	})
	if p, ok := s.(s3sync.Parted); ok {
		t.Run("parts", func(t *testing.T) { conformParts(t, s, p) })
	}
	t.Run("delete", func(t *testing.T) {
		if err := put("x/gone", "soon"); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(ctx, "x/gone", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(ctx, "x/gone", ""); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is there: %v", err)
		}
	})
}

// conformParts is what a store must do that takes objects in parts.
func conformParts(t *testing.T, s s3sync.Objects, p s3sync.Parted) {
	ctx := context.Background()
	first, last := bytes.Repeat([]byte("first "), 1<<20), []byte("last")
	parts := make([]s3sync.Part, 2)
	var sums []byte
	begin := func(key string) string {
		t.Helper()
		id, err := p.Begin(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		for i, data := range [][]byte{last, first} { // in any order
			n := 2 - i
			if parts[n-1], err = p.PutPart(ctx, key, id, n, bodyOf(data)); err != nil {
				t.Fatal(err)
			}
		}
		return id
	}
	for _, data := range [][]byte{first, last} {
		sum := s3sync.SumOf(data)
		sums = append(sums, sum[:]...)
	}
	id := begin("m/one")
	if _, err := s.Stat(ctx, "m/one", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it is complete: %v", err)
	}
	wrong := bodyOf(last)
	wrong.SHA256 = s3sync.SumOf(first)
	if _, err := p.PutPart(ctx, "m/one", id, 2, wrong); err == nil {
		t.Error("a part with a wrong checksum was taken")
	}
	got, err := p.Parts(ctx, "m/one", id)
	if err != nil || len(got) != 2 {
		t.Fatalf("%d parts, %v", len(got), err)
	}
	for i, want := range parts {
		if got[i].N != want.N || got[i].Size != want.Size || got[i].Tag != want.Tag || !got[i].SHA256.IsZero() && got[i].SHA256 != want.SHA256 {
			t.Errorf("part %+v, not %+v", got[i], want)
		}
	}
	if _, err := p.Complete(ctx, "m/one", id, parts); err != nil {
		t.Fatal(err)
	}
	o, err := s.Stat(ctx, "m/one", "")
	if err != nil || o.Size != int64(len(first)+len(last)) || !o.SHA256.IsZero() || !o.PartSums.IsZero() && o.PartSums != s3sync.SumOf(sums) {
		t.Errorf("%+v, %v", o, err)
	}
	if got, err := s3sync.ReadAll(ctx, s, "m/one", "", 10<<20); err != nil || !bytes.Equal(got, append(slices.Clone(first), last...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}

	id = begin("m/one")
	if _, err := p.Complete(ctx, "m/one", id, parts); !errors.Is(err, s3sync.ErrExists) {
		t.Errorf("a second one of that key: %v", err)
	}
	for range 2 {
		if err := p.Abort(ctx, "m/one", id); err != nil {
			t.Errorf("abort: %v", err)
		}
	}
	if _, err := p.PutPart(ctx, "m/one", id, 2, bodyOf(last)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a part of an aborted upload: %v", err)
	}
	if _, err := p.Parts(ctx, "m/one", id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("parts of an aborted upload: %v", err)
	}
	if _, err := p.Complete(ctx, "m/two", id, parts); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("completing an aborted upload: %v", err)
	}
	id = begin("m/two")
	parts[1].Tag = parts[0].Tag
	if _, err := p.Complete(ctx, "m/two", id, parts); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("completing with parts that are not there: %v", err)
	}
	if err := p.Abort(ctx, "m/two", id); err != nil {
		t.Error(err)
	}
}
