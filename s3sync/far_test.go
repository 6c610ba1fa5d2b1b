package s3sync_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
	"github.com/kedgebackup/kedge/s3sync"
)

// counted counts the requests and bytes of a store.
type counted struct {
	s3sync.Objects
	requests, bytes atomic.Int64

	mu  sync.Mutex
	log []string
}

func (c *counted) note(format string, args ...any) {
	c.requests.Add(1)
	c.mu.Lock()
	c.log = append(c.log, fmt.Sprintf(format, args...))
	c.mu.Unlock()
}

func (c *counted) reset() {
	c.requests.Store(0)
	c.bytes.Store(0)
	c.log = nil
}

func (c *counted) Get(ctx context.Context, key, version string, p []byte, off int64) (int, error) {
	n, err := c.Objects.Get(ctx, key, version, p, off)
	c.bytes.Add(int64(n))
	c.note("get %s %d at %d", key, n, off)
	return n, err
}

func (c *counted) Stat(ctx context.Context, key, version string) (s3sync.Object, error) {
	c.note("stat %s", key)
	return c.Objects.Stat(ctx, key, version)
}

// List counts a page, of a thousand keys at most, as 300 bytes a key.
func (c *counted) List(ctx context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	c.note("list %s", prefix)
	n := 0
	err := c.Objects.List(ctx, prefix, after, func(o s3sync.Object) error {
		if n++; n%1000 == 0 {
			c.note("list %s, more", prefix)
		}
		return fn(o)
	})
	c.bytes.Add(300_000)
	return err
}

// The shape of a made-up source: leafs directories in each of mids in each of tops, with
// so many files each. Every night some leafs change, with one file in each.
type shape struct {
	tops, mids, leafs, files int
	nights, changes          int
}

// nightly is a source that is saved every night.
type nightly struct {
	shape
	rnd   *rand.Rand
	enc   *pack.Encoder
	files [][]repo.TreeEntry // of each leaf
	trees []pack.ID          // of each leaf
	inner map[[2]int]pack.ID // of the others, by the size of the level below and number
	dirty map[int]bool
	n     uint64
	count int // objects
}

func (w *nightly) entry(t pack.Type, body []byte) pack.Entry {
	b, crc := w.enc.Append(nil, t, body)
	w.count++
	return pack.Entry{ID: pack.Sum(t, body), CRC: crc, Bytes: b}
}

// body is the content of a file that nothing else has.
func (w *nightly) body() []byte {
	w.n++
	b := make([]byte, 40+w.rnd.IntN(100))
	for i := range b {
		b[i] = byte(w.rnd.Uint32())
	}
	binary.BigEndian.PutUint64(b, w.n)
	return b
}

// dir makes a directory with metadata.
func (w *nightly) dir(trees []pack.Entry, list []repo.TreeEntry) ([]pack.Entry, pack.ID) {
	w.n++
	m := meta.Meta{Mode: meta.TypeDir | 0o755, Size: -1, UID: int64(w.n)}
	bupm := m.Append(nil)
	m.Mode = meta.TypeFile | 0o644
	for range list {
		if list[0].Mode == repo.ModeFile {
			m.Size = w.rnd.Int64N(1 << 20)
			bupm = m.Append(bupm)
		}
	}
	e := w.entry(pack.Blob, bupm)
	t := w.entry(pack.Tree, repo.AppendTree(nil, append([]repo.TreeEntry{{Mode: repo.ModeFile, Name: ".bupm", ID: e.ID}}, list...)))
	return append(trees, e, t), t.ID
}

// save makes the objects of one night.
func (w *nightly) save(parents ...pack.ID) (data, trees []pack.Entry, tip pack.ID) {
	leafs := w.tops * w.mids * w.leafs
	if w.files == nil {
		w.files, w.trees = make([][]repo.TreeEntry, leafs), make([]pack.ID, leafs)
		w.inner = make(map[[2]int]pack.ID)
	}
	for i := range leafs {
		first := w.trees[i].IsZero()
		if !first && !w.dirty[i] {
			continue
		}
		pick := w.rnd.IntN(w.shape.files)
		for k := range w.shape.files {
			if first {
				w.files[i] = append(w.files[i], repo.TreeEntry{Mode: repo.ModeFile, Name: fmt.Sprintf("f%04d", k)})
			}
			if first || k == pick {
				e := w.entry(pack.Blob, w.body())
				data = append(data, e)
				w.files[i][k].ID = e.ID
			}
		}
		trees, w.trees[i] = w.dir(trees, w.files[i])
	}
	level, width := w.trees, w.leafs
	old := w.dirty
	for _, n := range []int{w.mids, w.tops, 1} {
		trees, level, old = w.level(trees, level, width, old)
		width = n
	}
	who := repo.Signature{Who: "A B <a@b>", When: time.Unix(1_700_000_000+int64(w.n), 0).UTC()}
	c := repo.Commit{Tree: level[0], Parents: parents, Author: who, Committer: who, Message: "save\n"}
	e := w.entry(pack.Commit, c.Append(nil))
	return data, append(trees, e), e.ID
}

// level makes the directories above those of a level, of which the dirty ones changed.
func (w *nightly) level(trees []pack.Entry, below []pack.ID, width int, dirty map[int]bool) (_ []pack.Entry, above []pack.ID, changed map[int]bool) {
	changed = make(map[int]bool)
	for i := 0; i < len(below); i += width {
		var list []repo.TreeEntry
		touched := dirty == nil
		for k, id := range below[i : i+width] {
			list = append(list, repo.TreeEntry{Mode: repo.ModeDir, Name: fmt.Sprintf("d%02d", k), ID: id})
			touched = touched || dirty[i+k]
		}
		n := len(above)
		at := [2]int{len(below), n}
		if !touched {
			above = append(above, w.inner[at])
			continue
		}
		var id pack.ID
		trees, id = w.dir(trees, list)
		w.inner[at] = id
		above = append(above, id)
		changed[n] = true
	}
	return trees, above, changed
}

// fill saves all nights, and mirrors every week.
func (w *nightly) fill(t testing.TB, dir string, b *s3sync.Bucket) {
	t.Helper()
	ctx := context.Background()
	if _, err := repo.InitDir(ctx, dir, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := repo.OpenDir(ctx, dir, repo.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	w.rnd, w.enc = rand.New(rand.NewPCG(1, 2)), pack.NewEncoder(1)
	var tip pack.ID
	for night := range w.nights {
		if night > 0 {
			w.dirty = make(map[int]bool)
			for range w.changes {
				w.dirty[w.rnd.IntN(len(w.trees))] = true
			}
		}
		var parents []pack.ID
		if night > 0 {
			parents = []pack.ID{tip}
		}
		data, trees, next := w.save(parents...)
		s, err := p.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err = s.Add(ctx, repo.Data, data); err == nil {
			err = s.Add(ctx, repo.Trees, trees)
		}
		if err == nil {
			err = s.Commit(ctx)
		}
		s.Close()
		if err == nil {
			_, err = p.SetRef(ctx, repo.Move{Ref: "refs/heads/x", Old: tip, New: next})
		}
		if err != nil {
			t.Fatal(err)
		}
		if tip = next; night%7 == 6 || night == w.nights-1 {
			if _, err := b.Mirror(ctx, s3sync.MirrorOptions{Dir: dir}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// open opens the newest generation as a process does that has read nothing yet.
func open(t testing.TB, b *s3sync.Bucket) (*repo.Packs, *s3sync.Generation) {
	t.Helper()
	g, err := b.Latest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Open(context.Background(), g, s3sync.NewCache(64<<20))
	if err != nil {
		t.Fatal(err)
	}
	return p, g
}

// list does what ls does.
func list(t testing.TB, p *repo.Packs, path string) (nodes []repo.Node) {
	t.Helper()
	v := repo.VFS{Repo: p}
	chain, err := v.Resolve(context.Background(), path, repo.ResolveOptions{Follow: true})
	if err == nil {
		err = v.ReadDir(context.Background(), &chain[len(chain)-1], false, func(n *repo.Node) error {
			if n.Name != "." {
				nodes = append(nodes, *n)
			}
			return nil
		})
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return nodes
}

// What browsing and a restore of one file cost in requests and bytes, on a repository of a
// year.
func TestBudget(t *testing.T) { kinds(t, testBudget) }

func testBudget(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	sh := shape{tops: 8, mids: 8, leafs: 16, files: 30, nights: 60, changes: 30}
	if os.Getenv("KEDGE_SWEEP") == "full" {
		sh = shape{tops: 20, mids: 20, leafs: 40, files: 31, nights: 365, changes: 280}
	}
	const maxRequests, maxBytes, maxMore = 20, 5 << 20, 10
	store := &counted{Objects: newMemory()}
	b := lock(&s3sync.Bucket{Objects: store, Prefix: "p/build/"})
	w := &nightly{shape: sh}
	start := time.Now()
	w.fill(t, t.TempDir(), b)
	g, err := b.Latest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	segments, bytes := 0, int64(0)
	for _, f := range g.Files {
		if strings.HasPrefix(f.Name, "kedge/segments/") {
			segments++
			bytes += f.Size
		}
	}
	t.Logf("%d objects in %d nights; %d segments of %d bytes (%.1f an id); made in %v",
		w.count, sh.nights, segments, bytes, float64(bytes)/float64(w.count), time.Since(start).Round(time.Second))
	rnd := rand.New(rand.NewPCG(3, 4))
	worst, worstMore, worstBytes := int64(0), int64(0), int64(0)
	for range 40 {
		store.reset()
		p, _ := open(t, b)
		path := fmt.Sprintf("x/latest/d%02d/d%02d/d%02d", rnd.IntN(sh.tops), rnd.IntN(sh.mids), rnd.IntN(sh.leafs))
		nodes := list(t, p, path)
		if len(nodes) != sh.files {
			t.Fatalf("%s has %d files", path, len(nodes))
		}
		requests := store.requests.Load()
		if n := store.bytes.Load(); requests > maxRequests || n > maxBytes {
			t.Errorf("ls %s: %d requests, %d bytes\n%s", path, requests, n, strings.Join(store.log, "\n"))
		}
		worst, worstBytes = max(worst, requests), max(worstBytes, store.bytes.Load())
		store.reset()
		file := repo.OpenFile(context.Background(), p, nodes[rnd.IntN(len(nodes))].ID, false)
		if _, err := file.WriteTo(io.Discard); err != nil {
			t.Fatal(err)
		}
		if n := store.requests.Load(); n > maxMore {
			t.Errorf("one file more: %d requests\n%s", n, strings.Join(store.log, "\n"))
		}
		worstMore = max(worstMore, store.requests.Load())
		p.Close()
	}
	t.Logf("ls: at most %d requests and %d bytes; one file: %d more", worst, worstBytes, worstMore)
}
