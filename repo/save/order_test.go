package save

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// A wrapped is a repository whose sessions a test looks into.
type wrapped struct {
	*repo.Packs
	begin func(repo.Session) repo.Session
}

func (w *wrapped) Begin(ctx context.Context) (repo.Session, error) {
	s, err := w.Packs.Begin(ctx)
	if err == nil {
		s = w.begin(s)
	}
	return s, err
}

// An ordered is a session that refuses an object before what it refers to, one
// that it was not asked about before, and two callers of Add at once.
type ordered struct {
	repo.Session
	t    *testing.T
	one  sync.Mutex
	mu   sync.Mutex
	has  map[pack.ID]bool // added, or said to be there
	lack map[pack.ID]bool // said to be missing
	tip  pack.ID          // what the save stands on
	n    int
	dec  *pack.Decoder
}

func (o *ordered) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	from := len(dst)
	dst, err := o.Session.Missing(ctx, dst, ids)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range dst[from:] { // which may have been added since it was asked
		o.lack[id] = true
	}
	for _, id := range ids {
		if !slices.Contains(dst[from:], id) {
			o.has[id] = true
		}
	}
	return dst, err
}

func (o *ordered) Add(ctx context.Context, class repo.Class, entries []pack.Entry) error {
	if !o.one.TryLock() {
		o.t.Error("two add at once")
	}
	defer o.one.Unlock()
	if err := o.Session.Add(ctx, class, entries); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range entries {
		o.n++
		body, kind, _, err := o.dec.Append(nil, e.Bytes)
		if err != nil || pack.Sum(kind, body) != e.ID {
			o.t.Errorf("%v: entry of something else: %v", e.ID, err)
		}
		if !o.lack[e.ID] {
			o.t.Errorf("%v %v was not missing", kind, e.ID)
		}
		for _, kid := range children(o.t, kind, body) {
			if !o.has[kid] && (kind != pack.Commit || kid != o.tip) {
				o.t.Errorf("%v %v is added before %v, which it holds", kind, e.ID, kid)
			}
		}
		o.has[e.ID] = true
	}
	return nil
}

func children(t *testing.T, kind pack.Type, body []byte) (ids []pack.ID) {
	t.Helper()
	switch kind {
	case pack.Tree:
		must(t, repo.ParseTree(body, func(e repo.TreeEntry) error {
			ids = append(ids, e.ID)
			return nil
		}))
	case pack.Commit:
		c, err := repo.ParseCommit(body)
		must(t, err)
		return append(c.Parents, c.Tree)
	}
	return ids
}

// Every object is added after all that it refers to, by one goroutine, and only
// if it is missing (I9).
func TestOrder(t *testing.T) {
	for _, chunker := range []string{"rabin:10", "rollsum:13"} {
		b := newBench(t, chunker)
		b.zoo()
		for i := range 400 {
			b.write(fmt.Sprintf("many/%d/%d", i%11, i), noise(i%90, i*37%9000))
		}
		b.writeExtents("holes", 5<<20, []extent{{1 << 20, 100_000}}, true)
		for range 2 {
			age()
			b.update()
			o := b.options()
			o.Streams = []Stream{text("/dump", string(noise(9, 1_000_000)))}
			var session *ordered
			o.Repo = &wrapped{b.repo, func(s repo.Session) repo.Session {
				session = &ordered{Session: s, t: t, tip: b.tip("x"), has: map[pack.ID]bool{}, lack: map[pack.ID]bool{}, dec: pack.NewDecoder(1 << 30)}
				return session
			}}
			res := b.save(o)
			if session.n == 0 || int64(session.n) < res.ObjectsStored {
				t.Errorf("%d objects were added, %d stored", session.n, res.ObjectsStored)
			}
			b.write("many/3/new", []byte("new"))
		}
	}
}
