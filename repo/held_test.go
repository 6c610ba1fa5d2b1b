package repo

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// heldRepo returns a repository of packs that have n objects each, and the ids by pack.
func heldRepo(t *testing.T, packs, n int) (dir string, ids [][]pack.ID) {
	t.Helper()
	p, dir := newRepo(t, InitOptions{})
	for i := range packs {
		s, err := p.Begin(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var list []pack.ID
		var entries []pack.Entry
		for j := range n {
			e := entry(pack.Blob, fmt.Appendf(nil, "%d of pack %d", j, i))
			entries, list = append(entries, e), append(list, e.ID)
		}
		if err := firstErr(s.Add(context.Background(), Data, entries), s.Commit(context.Background()), s.Close()); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, list)
	}
	return dir, ids
}

// An idx that is read often is held, as far as there is room, and says what the file says.
func TestHeldIdx(t *testing.T) {
	const n = 2000
	dir, ids := heldRepo(t, 3, n)
	idxSize := int64(8 + 1024 + n*28 + 40)
	for _, c := range []struct {
		name       string
		room, held int64
	}{
		{"none", 0, 0},
		{"too little for one", idxSize - 1, 0},
		{"one", idxSize, idxSize},
		{"two", 2*idxSize + idxSize/2, 2 * idxSize},
		{"all", defaultHold, 3 * idxSize},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := openRepo(t, dir, DirOptions{ReadOnly: true})
			p.HoldIdx(c.room)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for i, list := range ids {
						for j := 0; j < n; j += 7 {
							want := fmt.Appendf(nil, "%d of pack %d", j, i)
							err := p.Get(context.Background(), list[j:j+1], func(_ int, _ pack.Type, body []byte) error {
								if !bytes.Equal(body, want) {
									return fmt.Errorf("%q, want %q", body, want)
								}
								return nil
							})
							if err != nil {
								t.Error(err)
							}
						}
					}
					if _, ok, err := p.find(p.table.Load(), pack.Sum(pack.Blob, []byte("not there")), nil); ok || err != nil {
						t.Error(ok, err)
					}
				})
			}
			wg.Wait()
			held := int64(0)
			for _, f := range p.table.Load().packs {
				if b := f.held.Load().bytes.Load(); b != nil {
					held += int64(len(*b))
				}
			}
			if held != c.held || p.held.Load() != held {
				t.Errorf("%d bytes are held, %d counted, want %d", held, p.held.Load(), c.held)
			}
		})
	}
}

// What packs hold that are gone is room for others.
func TestHeldMakesRoom(t *testing.T) {
	const n = 2000
	dir, ids := heldRepo(t, 2, n)
	p := openRepo(t, dir, DirOptions{})
	p.HoldIdx(int64(8 + 1024 + n*28 + 40))
	look := func(list []pack.ID) *heldIdx {
		var at place
		for _, id := range list {
			var ok bool
			var err error
			if at, ok, err = p.find(p.table.Load(), id, nil); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		return at.file.held.Load()
	}
	first := look(ids[0])
	if first.bytes.Load() == nil || look(ids[1]).bytes.Load() != nil {
		t.Fatal("not the first one is held")
	}
	p.drop(first.f.name)
	p.table.Load().packs[0].held.Load().reads.Store(0)
	if look(ids[1]).bytes.Load() == nil {
		t.Error("the second one is not held when the first one is gone")
	}
}
