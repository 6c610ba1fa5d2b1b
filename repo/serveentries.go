package repo

import (
	"cmp"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"slices"

	"github.com/kedgebackup/kedge/pack"
)

// EntryReader reads objects as they stand in packs, to be sent elsewhere: what is not a
// delta is copied and not inflated. It is used by one goroutine at a time.
//
// How long an entry is stands nowhere. It ends where the next one begins, so the offsets
// of a pack are needed in their order. They are kept, eight bytes an object with the
// CRC, for the packs that are read much; of the others single objects are inflated to
// find their ends. What is copied is compared with the CRC that the idx has of it, what
// is inflated with its id; whoever gets it will hash it in any case.
//
// Deltas are resolved and encoded anew, and so are loose objects. A damaged entry is
// looked for in other packs, as Get does.
type EntryReader struct {
	p      *Packs
	tables map[*packFile]*entryTable
	kept   int // objects in all tables
	tick   int

	dec    *pack.Decoder
	hasher *pack.Hasher
	enc    *pack.Encoder
	buf    []byte
	body   []byte
	arena  []byte
}

const (
	tableLimit = 2 << 20  // objects in all tables of an EntryReader
	largeEntry = 1 << 20  // bytes of an object from which its end is not found by inflating
	firstGuess = 16 << 10 // bytes read to find the end of an entry
)

// entryTable is what an EntryReader knows of a pack.
type entryTable struct {
	rows []uint64 // offset<<32 | CRC, ascending; nil: not read
	bad  bool     // no rows can be had
	cold int      // ends that were found by inflating
	used int      // when it was used last
}

// NewEntryReader returns a reader of the objects in p.
func NewEntryReader(p *Packs) *EntryReader {
	return &EntryReader{
		p: p, tables: make(map[*packFile]*entryTable),
		dec: pack.NewDecoder(largeEntry), hasher: pack.NewHasher(), enc: pack.NewEncoder(1),
	}
}

// Entries calls fn for each id in order with the object's entry, valid until fn returns,
// or with what is wrong with it: *MissingError, *pack.CorruptError. An error of fn stops it.
func (p *Packs) Entries(ctx context.Context, ids []pack.ID, fn func(i int, entry []byte, err error) error) error {
	r := NewEntryReader(p)
	for at := 0; at < len(ids); {
		run, err := r.Locate(ctx, ids[at:], largeEntry)
		if err != nil {
			return err
		}
		n, err := run.Read(ctx, func(i int, entry []byte, err error) error { return fn(at+i, entry, err) })
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// EntryRun is objects of an EntryReader that were located. It is valid until the next
// use of its reader.
type EntryRun struct {
	r     *EntryReader
	ids   []pack.ID
	found []foundEntry
	size  int64
	limit int64
}

// foundEntry is where an entry is, or the entry itself.
type foundEntry struct {
	place
	n     int64
	crc   uint32
	bytes []byte // set if it need not be read
	err   error
}

// Locate finds the objects of ids, from the first on, whose entries have limit bytes
// together: at least one.
func (r *EntryReader) Locate(ctx context.Context, ids []pack.ID, limit int64) (*EntryRun, error) {
	run := &EntryRun{r: r, limit: limit}
	for i, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := r.locate(ctx, id)
		if err != nil {
			return nil, err
		}
		if i > 0 && run.size+f.n > limit {
			break
		}
		run.size += f.n
		run.found = append(run.found, f)
	}
	run.ids = ids[:len(run.found)]
	return run, nil
}

// locate finds one object.
func (r *EntryReader) locate(ctx context.Context, id pack.ID) (foundEntry, error) {
	at, ok, err := r.p.findFresh(ctx, id)
	if err != nil {
		return foundEntry{}, err
	}
	if !ok {
		return r.remake(ctx, id)
	}
	t := r.table(at.file)
	if t.rows == nil && !t.bad {
		if t.cold < max(8, at.file.idx.Len()/512) {
			entry, err := r.inflate(id, at)
			if err == nil {
				t.cold++
				return foundEntry{n: int64(len(entry)), bytes: entry}, nil
			} else if err != pack.ErrTooLarge {
				return r.remake(ctx, id)
			}
		}
		r.load(at.file, t)
	}
	if t.bad {
		return r.remake(ctx, id)
	}
	i, _ := slices.BinarySearch(t.rows, uint64(at.off)<<32)
	if i == len(t.rows) || int64(t.rows[i]>>32) != at.off {
		return r.remake(ctx, id)
	}
	end := at.file.size - packTrailer
	if i+1 < len(t.rows) {
		end = int64(t.rows[i+1] >> 32)
	}
	return foundEntry{place: at, n: end - at.off, crc: uint32(t.rows[i])}, nil
}

// table returns what is known of a pack.
func (r *EntryReader) table(f *packFile) *entryTable {
	t := r.tables[f]
	if t == nil {
		if len(r.tables) >= maxOpenFiles {
			r.forget(nil)
		}
		t = new(entryTable)
		r.tables[f] = t
	}
	r.tick++
	t.used = r.tick
	return t
}

// forget drops the table that was used least recently, not that of keep.
func (r *EntryReader) forget(keep *packFile) {
	var oldest *packFile
	for f, t := range r.tables {
		if f != keep && (oldest == nil || t.used < r.tables[oldest].used) {
			oldest = f
		}
	}
	if oldest != nil {
		r.kept -= len(r.tables[oldest].rows)
		delete(r.tables, oldest)
	}
}

// load reads where the entries of a pack begin. A pack above 4 GiB, one of a million
// objects, and one whose idx has no CRCs do without.
func (r *EntryReader) load(f *packFile, t *entryTable) {
	t.bad = true
	n := f.idx.Len()
	if f.size > math.MaxUint32 || n > tableLimit/2 {
		return
	}
	for r.kept+n > tableLimit && len(r.tables) > 1 {
		r.forget(f)
	}
	rows := make([]uint64, 0, n)
	err := f.idx.Records(func(rec pack.Record) error {
		if rec.Off < 0 || rec.Off >= f.size-packTrailer {
			return &pack.CorruptError{File: f.idxName(), Off: -1, Reason: "an object is outside of its pack"}
		}
		rows = append(rows, uint64(rec.Off)<<32|uint64(rec.CRC))
		return nil
	})
	if err != nil {
		return
	}
	slices.Sort(rows)
	t.rows, t.bad = rows, false
	r.kept += n
}

// inflate finds the end of an entry by inflating it, and compares its id. An object of
// more than largeEntry bytes: pack.ErrTooLarge.
func (r *EntryReader) inflate(id pack.ID, at place) ([]byte, error) {
	pk, left := at.file.pack, at.file.size-packTrailer-at.off
	var err error
	if r.buf, err = pk.Range(r.buf, at.off, int(min(firstGuess, left))); err != nil {
		return nil, err
	}
	_, size, _, err := pack.ParseHeader(r.buf)
	if err != nil {
		return nil, err
	}
	if size > largeEntry {
		return nil, pack.ErrTooLarge
	}
	if most := min(int64(pack.EncodedLimit(int(size))), left); most > int64(len(r.buf)) {
		if r.buf, err = pk.Range(r.buf, at.off, int(most)); err != nil {
			return nil, err
		}
	}
	var t pack.Type
	var n int
	if r.body, t, n, err = r.dec.Append(r.body[:0], r.buf); err != nil {
		return nil, err
	}
	if got, err := r.hasher.Sum(t, r.body); err != nil || got != id {
		return nil, &pack.CorruptError{File: at.file.packName(), Off: at.off, Reason: "bytes of another object"}
	}
	return slices.Clone(r.buf[:n]), nil
}

// remake encodes an object anew. That it is missing or damaged is part of the answer.
func (r *EntryReader) remake(ctx context.Context, id pack.ID) (foundEntry, error) {
	var f foundEntry
	err := r.p.Get(ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
		f.bytes, _ = r.enc.Append(nil, t, body)
		f.n = int64(len(f.bytes))
		return nil
	})
	if errors.As(err, new(*MissingError)) || errors.As(err, new(*pack.CorruptError)) || errors.Is(err, pack.ErrTooLarge) {
		return foundEntry{err: err}, nil
	}
	return f, err
}

// Len returns how many objects were located.
func (run *EntryRun) Len() int { return len(run.found) }

// Size returns how many bytes the entries have together; deltas may become more.
func (run *EntryRun) Size() int64 { return run.size }

// Read calls fn for the objects in their order and returns how many it was called for:
// fewer than Len if deltas among them made them longer than the limit.
func (run *EntryRun) Read(ctx context.Context, fn func(i int, entry []byte, err error) error) (int, error) {
	if err := run.fetch(ctx); err != nil {
		return 0, err
	}
	total := int64(0)
	for i := range run.found {
		f := &run.found[i]
		if f.bytes == nil && f.err == nil { // a delta, or damaged
			again, err := run.r.remake(ctx, run.ids[i])
			if err != nil {
				return i, err
			}
			again.place = f.place
			*f = again
		}
		if total += int64(len(f.bytes)); i > 0 && total > run.limit {
			return i, nil
		}
		if err := fn(i, f.bytes, f.err); err != nil {
			return i, err
		}
		f.bytes = nil
	}
	return len(run.found), nil
}

// fetch reads the entries that are to be copied, neighbours with one read. Those that
// turn out to be deltas or damaged are left out.
func (run *EntryRun) fetch(ctx context.Context) error {
	r := run.r
	var want []wanted
	total := 0
	for i := range run.found {
		if f := &run.found[i]; f.bytes == nil && f.err == nil {
			want = append(want, wanted{i, f.place})
			total += int(f.n)
		}
	}
	slices.SortFunc(want, func(a, b wanted) int {
		if a.file != b.file {
			return cmp.Compare(a.file.name, b.file.name)
		}
		return cmp.Compare(a.off, b.off)
	})
	r.arena = slices.Grow(r.arena[:0], total)
	defer func() {
		if cap(r.arena) > rangeLimit {
			r.arena = nil
		}
	}()
	for len(want) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := cutRange(want)
		last := &run.found[want[n-1].i]
		start, file := want[0].off, want[0].file
		buf, err := file.pack.Range(r.buf, start, int(last.off+last.n-start))
		if isGone(err) {
			file.gone.Store(true)
		}
		if r.buf = buf; err == nil {
			for _, w := range want[:n] {
				f := &run.found[w.i]
				run.keep(f, buf[f.off-start:][:f.n])
			}
		}
		want = want[n:]
	}
	if cap(r.buf) > rangeLimit {
		r.buf = nil
	}
	return nil
}

// keep copies an entry, if it is what the idx says and no delta.
func (run *EntryRun) keep(f *foundEntry, entry []byte) {
	if _, _, _, err := pack.ParseHeader(entry); err != nil || f.crc == 0 || crc32.ChecksumIEEE(entry) != f.crc {
		return
	}
	at := len(run.r.arena)
	run.r.arena = append(run.r.arena, entry...)
	f.bytes = run.r.arena[at:len(run.r.arena):len(run.r.arena)]
}

// Large returns a reader of the first entry, if it stands whole and sound in a pack, so
// that it can be sent without being in memory. The reader goes over it once before, to
// compare its CRC.
func (run *EntryRun) Large(ctx context.Context) (r io.Reader, n int64, ok bool) {
	f := &run.found[0]
	if f.file == nil || f.bytes != nil || f.err != nil {
		return nil, 0, false
	}
	in := io.NewSectionReader(handle{&run.r.p.files, f.file.packName()}, f.off, f.n)
	var head [firstGuess]byte
	k, _ := io.ReadFull(in, head[:])
	if _, _, _, err := pack.ParseHeader(head[:k]); err != nil {
		return nil, 0, false
	}
	sum := crc32.ChecksumIEEE(head[:k])
	buf := make([]byte, 256<<10)
	for {
		k, err := in.Read(buf)
		sum = crc32.Update(sum, crc32.IEEETable, buf[:k])
		if err == io.EOF {
			break
		} else if err != nil || ctx.Err() != nil {
			return nil, 0, false
		}
	}
	if sum != f.crc {
		return nil, 0, false
	}
	_, _ = in.Seek(0, io.SeekStart)
	return in, f.n, true
}
