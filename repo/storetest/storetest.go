// Package storetest is the conformance suite of repo.Store, which every
// implementation runs:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) repo.Store { return open(t) })
//	}
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"testing"

	"github.com/kedgebackup/kedge/repo"
)

// Run tests a Store. open returns an empty one each time.
func Run(t *testing.T, open func(t *testing.T) repo.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s repo.Store)
	}{
		{"round trip", testRoundTrip},
		{"invisible before commit", testInvisible},
		{"same bytes again", testSameBytes},
		{"other bytes are refused", testOtherBytes},
		{"racing for a name", testRace},
		{"nothing after the end", testAfterEnd},
		{"list", testList},
		{"remove", testRemove},
		{"names that lead out", testNames},
		{"cancelled", testCancelled},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// put commits a file of the given bytes.
func put(t *testing.T, s repo.Store, name string, data []byte) error {
	t.Helper()
	p, err := s.Create(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Abort()
	if _, err := p.Write(data); err != nil {
		t.Fatal(err)
	}
	return p.Commit(name)
}

// get reads a whole file.
func get(t *testing.T, s repo.Store, name string) []byte {
	t.Helper()
	b, err := s.Open(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	data := make([]byte, b.Size())
	if n, err := b.ReadAt(data, 0); n != len(data) {
		t.Fatalf("read %d bytes of %d: %v", n, len(data), err)
	}
	return data
}

// names returns what List says.
func names(t *testing.T, s repo.Store, dir string) []string {
	t.Helper()
	var list []string
	err := s.List(context.Background(), dir, func(name string, _ int64) error {
		list = append(list, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func testRoundTrip(t *testing.T, s repo.Store) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	p, err := s.Create(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(big); i += 70_001 {
		if _, err := p.Write(big[i:min(len(big), i+70_001)]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.WriteAt([]byte("HEAD"), 8); err != nil {
		t.Fatal(err)
	}
	copy(big[8:], "HEAD")
	part := make([]byte, 100)
	if _, err := p.ReadAt(part, 0); err != nil || !bytes.Equal(part, big[:100]) {
		t.Fatalf("a file being written reads back as %q, %v", part, err)
	}
	if _, err := p.Write([]byte("tail")); err != nil { // WriteAt does not move the end
		t.Fatal(err)
	}
	big = append(big, "tail"...)
	const name = "objects/pack/pack-1.pack"
	if err := p.Commit(name); err != nil {
		t.Fatal(err)
	}
	p.Abort() // does nothing now
	if got := get(t, s, name); !bytes.Equal(got, big) {
		t.Fatalf("%d bytes came back of %d, or others", len(got), len(big))
	}
	b, err := s.Open(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if n, err := b.ReadAt(part, int64(len(big)-10)); n != 10 || err == nil {
		t.Fatalf("a read across the end returned %d, %v", n, err)
	}
	if err := put(t, s, "empty", nil); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, "empty"); len(got) != 0 {
		t.Fatalf("empty file came back as %q", got)
	}
}

func testInvisible(t *testing.T, s repo.Store) {
	ctx := context.Background()
	if _, err := s.Open(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a file that was never there: %v", err)
	}
	p, err := s.Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if list := names(t, s, "a"); len(list) != 0 {
		t.Fatal("visible before commit:", list)
	}
	p.Abort()
	if err := p.Commit("a/b"); err == nil {
		t.Fatal("commit after abort succeeded")
	}
	if _, err := s.Open(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("after abort: %v", err)
	}
}

func testSameBytes(t *testing.T, s repo.Store) {
	for range 3 {
		if err := put(t, s, "a/b", []byte("same")); err != nil {
			t.Fatal(err)
		}
	}
	if got := get(t, s, "a/b"); string(got) != "same" {
		t.Fatalf("%q", got)
	}
}

func testOtherBytes(t *testing.T, s repo.Store) {
	if err := put(t, s, "a/b", []byte("first")); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"", "fir", "firsT", "first and more"} {
		err := put(t, s, "a/b", []byte(other))
		if exists := new(repo.ExistsError); !errors.As(err, &exists) || exists.Name != "a/b" {
			t.Fatalf("%q over %q: %v", other, "first", err)
		}
	}
	if got := get(t, s, "a/b"); string(got) != "first" {
		t.Fatalf("%q", got)
	}
}

func testRace(t *testing.T, s repo.Store) {
	const racers = 8
	errs := make([]error, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			p, err := s.Create(context.Background())
			if err == nil {
				_, err = fmt.Fprintf(p, "racer %d", i)
			}
			if err == nil {
				err = p.Commit("prize")
			}
			errs[i] = err
		})
	}
	wg.Wait()
	got := string(get(t, s, "prize"))
	for i, err := range errs {
		if won := got == fmt.Sprintf("racer %d", i); won != (err == nil) {
			t.Fatalf("the file is %q, racer %d was told %v", got, i, err)
		}
		if err != nil && !errors.As(err, new(*repo.ExistsError)) {
			t.Fatalf("racer %d: %v", i, err)
		}
	}
}

func testAfterEnd(t *testing.T, s repo.Store) {
	p, err := s.Create(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Commit("one"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write([]byte("more")); err == nil {
		t.Fatal("write after commit succeeded")
	}
	if err := p.Commit("two"); err == nil {
		t.Fatal("second commit succeeded")
	}
	if list := names(t, s, "two"); len(list) != 0 || len(get(t, s, "one")) != 0 {
		t.Fatal("second commit changed something")
	}
}

func testList(t *testing.T, s repo.Store) {
	for _, name := range []string{"a/x", "a/y/z", "ab/x", "a.b", "b/a/x"} {
		if err := put(t, s, name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, s, "a"); !slices.Equal(got, []string{"a/x", "a/y/z"}) {
		t.Fatal(got)
	}
	if got := names(t, s, "nothing"); len(got) != 0 {
		t.Fatal(got)
	}
	stop := errors.New("stop")
	calls := 0
	err := s.List(context.Background(), "a", func(name string, size int64) error {
		calls++
		if size != int64(len(name)) {
			t.Errorf("%s has %d bytes, said List", name, size)
		}
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Fatalf("fn's error after call %d came back as %v", calls, err)
	}
}

func testRemove(t *testing.T, s repo.Store) {
	ctx := context.Background()
	if err := s.Remove(ctx, "a/b"); err != nil {
		t.Fatal("removing nothing:", err)
	}
	if err := put(t, s, "a/b", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, "a/b"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := put(t, s, "a/b", []byte("2")); err != nil {
		t.Fatal("the name of a removed file is not free:", err)
	}
}

func testNames(t *testing.T, s repo.Store) {
	for _, name := range []string{"", ".", "..", "../x", "a/../../x", "/x", "a//x", "a/", "a/./x"} {
		if err := put(t, s, name, []byte("x")); err == nil {
			t.Errorf("committed as %q", name)
		}
	}
}

func testCancelled(t *testing.T, s repo.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	if err := put(t, s, "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := s.Open(ctx, "a/b"); !errors.Is(err, context.Canceled) {
		t.Error("open:", err)
	}
	if _, err := s.Create(ctx); !errors.Is(err, context.Canceled) {
		t.Error("create:", err)
	}
	if err := s.List(ctx, "a", func(string, int64) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error("list:", err)
	}
}
