package s3sync

import (
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const (
	dirPacks    = "objects/pack"
	dirSegments = "kedge/segments"
)

// segmentClasses are the two classes of segments: packs with trees and commits, of which
// browsing needs no others, and packs of nothing but the data of files.
var segmentClasses = []string{"trees", "data"}

// segmentClass returns the class of a segment by its name.
func segmentClass(name string) (string, bool) {
	kind, _, ok := strings.Cut(path.Base(name), "-")
	return kind, ok && path.Dir(name) == dirSegments && slices.Contains(segmentClasses, kind)
}

// absorbRatio: a segment that is not so many times larger than what is new is written
// anew together with it. So there is at most one for each power of it, and an id is
// written once for each.
const absorbRatio = 8

// source is a pack whose ids go into a segment.
type source struct {
	id   pack.ID
	size int64 // of the pack
	idx  *pack.Idx
}

// old is a segment of the last generation.
type oldSegment struct {
	file  File
	rows  int64
	packs []pack.ID
	stale bool // it has packs that are gone
}

// segments adds what the bucket has beyond the files of the repository: how to do without
// kedge, and segments.
func (m *mirror) segments(ctx context.Context) error {
	if err := m.sendRestoreText(ctx); err != nil {
		return err
	}
	return m.makeSegments(ctx)
}

// makeSegments adds the segments of this generation: those of the last one, and what is new.
func (m *mirror) makeSegments(ctx context.Context) error {
	packs := make(map[pack.ID]int64) // sizes
	for _, f := range m.files {
		name, ok := strings.CutSuffix(path.Base(f.Name), ".pack")
		if id, err := pack.ParseID(strings.TrimPrefix(name, "pack-")); ok && err == nil {
			packs[id] = f.Size
		}
	}
	last := m.lastSegments(packs)
	if m.segmentsFit(packs, last) {
		for _, f := range last {
			m.add(f)
		}
		return nil
	}
	old := make(map[string][]*oldSegment)
	covered := make(map[pack.ID]bool)
	for _, f := range last {
		s, err := m.oldSegment(f, packs)
		if err != nil {
			if ctx.Err() != nil || !damaged(err) {
				return err
			}
			continue // it is lost, and what it had is new
		}
		kind, _ := segmentClass(f.Name)
		old[kind] = append(old[kind], s)
		for _, id := range s.packs {
			covered[id] = true
		}
	}
	fresh := make(map[string][]*source)
	for id, size := range packs {
		if covered[id] {
			continue
		}
		kind, s, err := m.source(ctx, id, size)
		if err != nil && !damaged(err) {
			return err
		}
		if err == nil { // without a good idx here it is left to the idx in the bucket
			fresh[kind] = append(fresh[kind], s)
		}
	}
	for _, kind := range segmentClasses {
		if err := m.segmentsOf(ctx, kind, old[kind], fresh[kind], packs); err != nil {
			return err
		}
	}
	return nil
}

// lastSegments returns the segments of the last generation.
func (m *mirror) lastSegments(packs map[pack.ID]int64) (list []File) {
	if m.last == nil {
		return nil
	}
	for _, f := range m.last.Files {
		if _, ok := segmentClass(f.Name); ok && len(packs) > 0 {
			list = append(list, f)
		}
	}
	return list
}

// segmentsFit reports whether the segments of the last generation are those of this one,
// because it has the same packs.
func (m *mirror) segmentsFit(packs map[pack.ID]int64, last []File) bool {
	if len(packs) == 0 || len(last) == 0 {
		return len(packs) == 0
	}
	n := 0
	for _, f := range m.last.Files {
		name, ok := strings.CutSuffix(path.Base(f.Name), ".pack")
		if !ok || path.Dir(f.Name) != dirPacks {
			continue
		}
		if id, err := pack.ParseID(strings.TrimPrefix(name, "pack-")); err == nil {
			if _, ok := packs[id]; !ok {
				return false
			}
			n++
		}
	}
	return n == len(packs)
}

// oldSegment reads the head of a segment.
func (m *mirror) oldSegment(f File, packs map[pack.ID]int64) (*oldSegment, error) {
	s := m.b.Snapshot(m.last, NewCache(0))
	g := segment{file: s.file(f, pageSize)}
	if g.open(); g.err != nil {
		return nil, g.err
	}
	o := &oldSegment{file: f, rows: g.rows}
	for _, p := range g.packs {
		if p.base != 0 {
			continue
		}
		if _, ok := packs[p.id]; !ok {
			o.stale = true
			continue
		}
		o.packs = append(o.packs, p.id)
	}
	return o, nil
}

// segmentsOf adds the segments of one class.
func (m *mirror) segmentsOf(ctx context.Context, kind string, old []*oldSegment, fresh []*source, packs map[pack.ID]int64) error {
	rows, stretches := int64(0), 0
	for _, s := range fresh {
		rows += int64(s.idx.Len())
		stretches += s.stretches()
	}
	slices.SortFunc(old, func(a, b *oldSegment) int { return int(min(1, max(-1, a.rows-b.rows))) })
	for _, o := range old {
		small := rows > 0 && o.rows < absorbRatio*rows && stretches+len(o.packs) < maxSegmentPacks/2
		if !o.stale && !small {
			m.add(o.file)
			continue
		}
		for _, id := range o.packs {
			_, s, err := m.source(ctx, id, packs[id])
			if damaged(err) {
				continue
			} else if err != nil {
				return err
			}
			fresh = append(fresh, s)
			rows += int64(s.idx.Len())
			stretches += s.stretches()
		}
	}
	if rows == 0 {
		return nil
	}
	return m.sendSegment(ctx, kind, fresh, rows)
}

// stretches returns how many entries of a pack table the pack takes.
func (s *source) stretches() int { return int((s.size-1)/baseStep) + 1 }

// source opens the idx of a pack and finds out its class.
func (m *mirror) source(ctx context.Context, id pack.ID, size int64) (kind string, s *source, err error) {
	stem := dirPacks + "/" + packName(id)
	at := reopened{ctx, m.dir, stem + ".idx"}
	idxSize, err := at.size()
	if err != nil {
		return "", nil, err
	}
	x, err := pack.OpenIdx(stem+".idx", at, idxSize)
	if err == nil {
		err = x.CheckSum()
	}
	if err != nil {
		return "", nil, err
	}
	kind, err = m.classOf(reopened{ctx, m.dir, stem + ".pack"}, size, x)
	return kind, &source{id, size, x}, err
}

// classOf returns the class of a pack: that of data if its first object, its last and some
// others are blobs. Trees come last in kedge's packs and first in git's.
func (m *mirror) classOf(at reopened, size int64, x *pack.Idx) (string, error) {
	const samples = 16
	var offs []int64
	first, last, n := int64(math.MaxInt64), int64(0), 0
	err := x.Records(func(r pack.Record) error {
		first, last = min(first, r.Off), max(last, r.Off)
		if n%(x.Len()/samples+1) == 0 {
			offs = append(offs, r.Off)
		}
		n++
		return nil
	})
	if err != nil {
		return "", err
	}
	pk, scratch := pack.FarPack(at.name, at, size), pack.NewScratch(1<<30)
	for _, off := range append(offs, first, last) {
		t, _, err := pk.Header(scratch, off, x.Find)
		if err != nil {
			return "", err
		}
		if t != pack.Blob {
			return segmentClasses[0], nil
		}
	}
	return segmentClasses[1], nil
}

// reopened is a file of the repository that is opened for each read, so that any number of
// them may be read in step.
type reopened struct {
	ctx  context.Context
	dir  *repo.Dir
	name string
}

// ReadAt reads at off.
func (r reopened) ReadAt(p []byte, off int64) (int, error) {
	b, err := r.dir.Open(r.ctx, r.name)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	return b.ReadAt(p, off)
}

func (r reopened) size() (int64, error) {
	b, err := r.dir.Open(r.ctx, r.name)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	return b.Size(), nil
}

// sendSegment writes a segment to a file that has no name any more, and sends it.
func (m *mirror) sendSegment(ctx context.Context, kind string, list []*source, rows int64) error {
	slices.SortFunc(list, func(a, b *source) int { return a.id.Compare(b.id) })
	temp := filepath.Join(m.p.Path(), "kedge", "tmp", fsx.TempName())
	f, err := m.o.FS.Create(temp, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := m.o.FS.Remove(temp); err != nil {
		return err
	}
	if err := writeSegment(f, list, rows); err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	partSize := int64(0)
	if _, ok := partedOf(m.b.Objects); ok {
		partSize = partSizeOf(size, m.o.PartSize)
	}
	sums, err := sumBody(f, size, partSize)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.result.Todo++
	m.result.TodoBytes += size
	m.mu.Unlock()
	name := dirSegments + "/" + kind + "-" + sums.whole.String()[:32]
	body := Body{&paced{ctx, f, m.pace}, size, sums.whole, sums.partSums()}
	return m.send(ctx, name, name, body, sums.parts)
}

// segmentWriter writes the pages of a segment.
type segmentWriter struct {
	w    io.WriterAt
	at   int64
	buf  []byte
	page int // where in buf the page begins that is being filled
	head *segmentHead
}

// writeSegment merges the idx files of packs, which are sorted by id, into a segment.
// Memory does not grow with the number of objects.
func writeSegment(w io.WriterAt, list []*source, rows int64) error {
	h := &segmentHead{rows: rows}
	m := merge{list: list}
	for _, s := range list {
		m.first = append(m.first, len(h.packs))
		for base := range s.stretches() {
			h.packs = append(h.packs, segmentPack{s.id, uint32(base)})
		}
	}
	if len(h.packs) > maxSegmentPacks || rows > maxSegmentRows {
		return errors.New("too many packs for a segment")
	}
	sw := &segmentWriter{w: w, head: h}
	_, sw.at = headBytes(len(h.packs), rows)
	if err := m.each(sw.add); err != nil {
		return err
	}
	if err := sw.finish(); err != nil {
		return err
	}
	_, err := w.WriteAt(h.append(nil), 0)
	return err
}

// add adds a row.
func (w *segmentWriter) add(id pack.ID, k int, off int64) error {
	if len(w.buf) == w.page {
		var b [64]byte
		w.head.first = append(w.head.first, binary.BigEndian.Uint32(id.AppendBytes(b[:0])))
	}
	w.buf = appendRow(w.buf, id, uint16(k), uint32(off))
	if len(w.buf)-w.page == rowsPerPage*rowSize {
		w.endPage()
		if len(w.buf) >= 1<<20 {
			return w.flush()
		}
	}
	return nil
}

func (w *segmentWriter) endPage() {
	w.buf = binary.BigEndian.AppendUint32(w.buf, crc32.Checksum(w.buf[w.page:], castagnoli))
	w.page = len(w.buf)
}

func (w *segmentWriter) flush() error {
	_, err := w.w.WriteAt(w.buf, w.at)
	w.at += int64(len(w.buf))
	w.buf, w.page = w.buf[:0], 0
	return err
}

func (w *segmentWriter) finish() error {
	if len(w.buf) > w.page {
		w.endPage()
	}
	return w.flush()
}

// mergeMemory is what the read buffers of all inputs may take together.
const mergeMemory = 16 << 20

// merge reads idx files in step.
type merge struct {
	list  []*source
	first []int // the first stretch of each pack
	next  []mergeInput
}

type mergeInput struct {
	p int
	c *pack.Cursor
	r pack.Record
}

// each calls fn for every record, in the order of ids, and of packs where they are equal,
// with the stretch and the place in it.
func (m *merge) each(fn func(id pack.ID, k int, off int64) error) error {
	step := max(64, min(4096, mergeMemory/40/max(1, len(m.list))))
	for p, s := range m.list {
		in := mergeInput{p: p, c: s.idx.Cursor(step)}
		ok, err := in.advance()
		if err != nil {
			return err
		}
		if ok {
			m.next = append(m.next, in)
		}
	}
	heap.Init(m)
	for len(m.next) > 0 {
		in := &m.next[0]
		if in.r.Off < 0 || in.r.Off >= m.list[in.p].size {
			return &pack.CorruptError{File: packName(m.list[in.p].id) + ".idx", Off: -1, Reason: "an object is outside the pack"}
		}
		if err := fn(in.r.ID, m.first[in.p]+int(in.r.Off/baseStep), in.r.Off%baseStep); err != nil {
			return err
		}
		ok, err := in.advance()
		if err != nil {
			return err
		}
		if ok {
			heap.Fix(m, 0)
		} else {
			heap.Pop(m)
		}
	}
	return nil
}

func (in *mergeInput) advance() (ok bool, err error) {
	in.r, ok, err = in.c.Next()
	return ok, err
}

// Len, Less, Swap, Push and Pop are what container/heap wants.
func (m *merge) Len() int { return len(m.next) }

// Less orders the heap.
func (m *merge) Less(i, j int) bool {
	if c := m.next[i].r.ID.Compare(m.next[j].r.ID); c != 0 {
		return c < 0
	}
	return m.next[i].p < m.next[j].p
}

// Swap swaps two inputs.
func (m *merge) Swap(i, j int) { m.next[i], m.next[j] = m.next[j], m.next[i] }

// Push is not used.
func (m *merge) Push(any) {}

// Pop takes the last input off.
func (m *merge) Pop() any {
	m.next = m.next[:len(m.next)-1]
	return nil
}
