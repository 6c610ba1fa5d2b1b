package s3sync

import (
	"context"
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

// oldSegment is a segment of the last generation.
type oldSegment struct {
	file  File
	rows  int64
	packs []pack.ID
	stale bool // it has packs that are gone
	head  segmentHead
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
		s, err := m.oldSegment(ctx, f, packs)
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
		kind, s, err := m.source(ctx, id, size, "")
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
	if m.last == nil || m.doubted() {
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
func (m *mirror) oldSegment(ctx context.Context, f File, packs map[pack.ID]int64) (*oldSegment, error) {
	if m.names != nil {
		return m.sealedSegment(ctx, f, packs)
	}
	s := m.b.Snapshot(m.last, NewCache(0))
	g := segment{file: s.file(f, pageSize)}
	if g.open(); g.err != nil {
		return nil, g.err
	}
	o := &oldSegment{file: f, rows: g.rows, head: g.segmentHead}
	var ids []pack.ID
	for _, p := range g.packs {
		if p.base == 0 {
			ids = append(ids, p.id)
		}
	}
	o.take(ids, packs)
	return o, nil
}

// take notes which packs of a segment are still there.
func (o *oldSegment) take(ids []pack.ID, packs map[pack.ID]int64) {
	for _, id := range ids {
		if _, ok := packs[id]; !ok {
			o.stale = true
			continue
		}
		o.packs = append(o.packs, id)
	}
}

// segmentsOf adds the segments of one class.
func (m *mirror) segmentsOf(ctx context.Context, kind string, old []*oldSegment, fresh []*source, packs map[pack.ID]int64) error {
	rows, stretches := int64(0), 0
	for _, s := range fresh {
		rows += s.rows()
		stretches += s.stretches()
	}
	slices.SortFunc(old, func(a, b *oldSegment) int { return int(min(1, max(-1, a.rows-b.rows))) })
	for _, o := range old {
		small := rows > 0 && o.rows < absorbRatio*rows && stretches+len(o.packs) < maxSegmentPacks/2
		if !o.stale && !small {
			m.add(o.file)
			continue
		}
		list, err := m.absorbed(ctx, o, kind, packs)
		if err != nil {
			return err
		}
		for _, s := range list {
			rows += s.rows()
			stretches += s.stretches()
		}
		fresh = append(fresh, list...)
	}
	if rows == 0 {
		return nil
	}
	return m.sendSegment(ctx, kind, fresh, rows)
}

// absorbed returns what an old segment brings into a new one: the idx files of its packs, or
// where it is at hand itself, its rows.
func (m *mirror) absorbed(ctx context.Context, o *oldSegment, kind string, packs map[pack.ID]int64) (list []*source, err error) {
	if at := m.copies[o.file.SHA256]; at != nil {
		return o.sources(at, packs)
	}
	for _, id := range o.packs {
		_, s, err := m.source(ctx, id, packs[id], kind)
		if damaged(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// source opens the idx of a pack, and finds out its class if that is not known.
func (m *mirror) source(ctx context.Context, id pack.ID, size int64, kind string) (string, *source, error) {
	stem := dirPacks + "/" + packName(id)
	at := reopened{ctx, m.from, stem + ".idx"}
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
	if kind == "" {
		kind = m.kinds[id]
	}
	if kind == "" {
		kind, err = m.classOf(reopened{ctx, m.from, stem + ".pack"}, size, x)
	}
	return kind, &source{packs: []segmentPack{{id, 0}}, sizes: []int64{size}, idx: x}, err
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
	from opener
	name string
}

// opener opens files of a repository.
type opener interface {
	Open(ctx context.Context, name string) (repo.Blob, error)
}

// ReadAt reads at off.
func (r reopened) ReadAt(p []byte, off int64) (int, error) {
	b, err := r.from.Open(r.ctx, r.name)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	return b.ReadAt(p, off)
}

func (r reopened) size() (int64, error) {
	b, err := r.from.Open(r.ctx, r.name)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	return b.Size(), nil
}

// sendSegment writes a segment to a file that has no name any more, and sends it.
func (m *mirror) sendSegment(ctx context.Context, kind string, list []*source, rows int64) error {
	temp := filepath.Join(m.scratch, fsx.TempName())
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
	if m.names != nil {
		return m.sealSegment(ctx, kind, f, size, list, rows)
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
