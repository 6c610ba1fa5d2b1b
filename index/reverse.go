package index

import "slices"

// ReverseIter goes through an index in the order in which bup lists one: paths
// in descending byte order, those of directories with a '/' at their end, and so
// what is below a directory before it. It is for listings that scripts read: it
// is several times slower than an Iter, and keeps the ordinals of all that is in
// the directories it is in. It is used by one goroutine at a time.
type ReverseIter struct {
	e     *edition
	dirs  []reverseDir
	cache [2]decoded // the blocks used last, the last one first
	rec   *Record
	ord   uint64
	err   error
}

// reverseDir is a directory whose records are being given out: its children,
// and at the end itself.
type reverseDir struct {
	self     uint64 // its ordinal; that of no record for what is above the root
	children []uint64
}

// Reverse iterates over the records at and below root in the order of bup.
func (f *File) Reverse(root string) *ReverseIter {
	it := &ReverseIter{e: f.e}
	start, end, err := f.e.subtree(keyOf(root))
	if err != nil {
		it.err = err
		return it
	}
	it.enter(f.e.records, start, end)
	return it
}

// enter lists the records from start to end that lie below no other of them.
//
// They come from the end, in descending order. That is bup's order but for the
// '/' that it puts behind directories: "a/" is to come before "a-c", which begins
// with a and a byte that sorts before '/'. So each is moved forward past those
// that it has to precede, which are few, and nothing but ordinals is kept.
func (it *ReverseIter) enter(self, start, end uint64) {
	d := reverseDir{self: self}
	for next := end; next > start; {
		rec := it.record(next - 1)
		if rec == nil {
			return
		}
		below, name := rec.Below, bupName(rec)
		if below > next-1-start {
			it.err = it.e.corrupt(-1, "record %d tells of %d below it, there are %d at most", next-1, below, next-1-start)
			return
		}
		i := len(d.children)
		for ; i > 0; i-- {
			if rec = it.record(d.children[i-1]); rec == nil {
				return
			}
			if bupName(rec) > name {
				break
			}
		}
		d.children = slices.Insert(d.children, i, next-1)
		next -= below + 1
	}
	slices.Reverse(d.children)
	it.dirs = append(it.dirs, d)
}

// bupName returns a path as bup sorts it.
func bupName(rec *Record) string {
	if rec.IsDir() {
		return keyOf(rec.Path) + "/"
	}
	return rec.Path
}

// Tops calls fn for the records at and below root that lie below no other of
// them, in order: for root itself, if there is a record of it, else for the paths
// below it that were walked. The record is valid until fn returns.
func (f *File) Tops(root string, fn func(r *Record, ordinal uint64) error) error {
	it := f.Reverse(root)
	if it.err != nil || len(it.dirs) == 0 {
		return it.err
	}
	ordinals := it.dirs[0].children
	slices.Sort(ordinals) // they are in bup's order
	for _, ord := range ordinals {
		rec := it.record(ord)
		if rec == nil {
			return it.err
		}
		if err := fn(rec, ord); err != nil {
			return err
		}
	}
	return nil
}

// Next advances to the next record. It returns false at the end, or if
// something is wrong: see Err.
func (it *ReverseIter) Next() bool {
	for it.err == nil && len(it.dirs) > 0 {
		d := &it.dirs[len(it.dirs)-1]
		ord := d.self
		if n := len(d.children); n > 0 {
			ord = d.children[n-1]
			d.children = d.children[:n-1]
		} else {
			it.dirs = it.dirs[:len(it.dirs)-1]
			if ord == it.e.records {
				return false
			}
			return it.give(ord)
		}
		rec := it.record(ord)
		if rec == nil {
			return false
		}
		if rec.Below == 0 {
			return it.give(ord)
		}
		it.enter(ord, ord-rec.Below, ord)
	}
	return false
}

func (it *ReverseIter) give(ord uint64) bool {
	it.rec, it.ord = it.record(ord), ord
	return it.rec != nil
}

// Record returns the current record, valid until the next call of Next.
func (it *ReverseIter) Record() *Record { return it.rec }

// Ordinal returns the number of the current record in the whole file, from 0.
func (it *ReverseIter) Ordinal() uint64 { return it.ord }

// Err returns the error that ended the iteration, if any.
func (it *ReverseIter) Err() error { return it.err }

// decodedBytes is how many bytes of paths a decoded block may hold. Those of a
// deep tree are long, and prefix compression hides it.
const decodedBytes = 8 << 20

// decoded is a block, or the last part of its records up to one that was wanted.
type decoded struct {
	first uint64
	recs  []Record
}

// record returns a record, nil on errors.
func (it *ReverseIter) record(ord uint64) *Record {
	for i := range it.cache {
		if c := &it.cache[i]; ord >= c.first && ord-c.first < uint64(len(c.recs)) {
			if i > 0 {
				it.cache[0], it.cache[i] = it.cache[i], it.cache[0]
			}
			return &it.cache[0].recs[ord-it.cache[0].first]
		}
	}
	b := &it.e.blocks[it.e.blockOf(ord)]
	in := it.e.iter(b.first, b.end())
	d := decoded{first: b.first}
	size := 0
	for in.Next() {
		d.recs = append(d.recs, in.Record().Clone())
		size += len(in.Record().Path)
		if size <= decodedBytes {
			continue
		}
		if in.Ordinal() >= ord {
			break
		}
		d.first, d.recs, size = in.Ordinal()+1, nil, 0
	}
	if in.err != nil {
		it.err = in.err
		return nil
	}
	it.cache[1], it.cache[0] = it.cache[0], d
	return &d.recs[ord-d.first]
}
