package index

// A cursor reads an edition record by record.
type cursor struct {
	e    *edition
	d    decoder
	buf  []byte
	blk  int    // the block that is decoded, or will be
	next uint64 // ordinal of the record that step gives
	in   bool   // the block is in d, which stands before next
}

// step decodes the record next into d.rec. There must be one.
func (c *cursor) step() error {
	if !c.in {
		if err := c.load(); err != nil {
			return err
		}
	}
	b := &c.e.blocks[c.blk]
	at := c.d.pos
	if at == len(c.d.b) {
		return c.e.corrupt(b.off+int64(at), "block has fewer records than the %d that the table tells", b.count)
	}
	if !c.d.next() {
		return c.e.corrupt(b.off+int64(at), "record %d: %s", c.next, c.d.why)
	}
	if c.next == b.first && c.blk > 0 && compareKeys(c.e.blocks[c.blk-1].last, stringOf(c.d.key)) >= 0 {
		return c.e.corrupt(b.off, "records out of order")
	}
	c.next++
	if c.next < b.end() {
		return nil
	}
	// The block ends here, and the table says with which path.
	if c.d.pos != len(c.d.b) {
		return c.e.corrupt(b.off+int64(c.d.pos), "block has more records than the %d that the table tells", b.count)
	}
	if string(c.d.key) != b.last {
		return c.e.corrupt(b.off+int64(at), "last path of a block is not the one in the table")
	}
	c.blk++
	c.in = false
	return nil
}

// load reads the block c.blk.
func (c *cursor) load() error {
	var err error
	if c.buf, err = c.e.read(c.blk, c.buf); err != nil {
		return err
	}
	c.d.reset(c.buf)
	c.in = true
	c.next = c.e.blocks[c.blk].first
	return nil
}

// seek moves before the record with an ordinal that exists.
func (c *cursor) seek(ordinal uint64) error {
	if c.in && ordinal >= c.next && ordinal < c.e.blocks[c.blk].end() {
		return c.decodeTo(ordinal)
	}
	c.blk, c.in = c.e.blockOf(ordinal), false
	c.next = c.e.blocks[c.blk].first
	return c.decodeTo(ordinal)
}

func (c *cursor) decodeTo(ordinal uint64) error {
	for c.next < ordinal {
		if err := c.step(); err != nil {
			return err
		}
	}
	return nil
}

// Iter is a position in an index file. It reads the version of the file that
// was in place when it was made. It is used by one goroutine at a time.
type Iter struct {
	c          cursor
	start, end uint64
	ord        uint64
	err        error
}

// iter iterates over the records from start on, before end.
func (e *edition) iter(start, end uint64) *Iter {
	it := &Iter{c: cursor{e: e}, start: start, end: end}
	it.SkipTo(start)
	return it
}

// Next advances to the next record. It returns false at the end, or if
// something is wrong: see Err.
func (it *Iter) Next() bool {
	if it.err != nil || it.c.next >= it.end {
		return false
	}
	if it.err = it.c.step(); it.err != nil {
		return false
	}
	it.ord = it.c.next - 1
	return true
}

// Record returns the current record, valid until the next call of Next (strings
// and slices included: clone what is kept). It may not be changed.
func (it *Iter) Record() *Record { return &it.c.d.rec }

// Ordinal returns the number of the current record in the whole file, from 0.
func (it *Iter) Ordinal() uint64 { return it.ord }

// SkipTo moves so that the next call of Next gives the record with this ordinal,
// or the first that the iterator was asked for. What lies between is passed over
// by whole blocks. It may go back too, which means to decode a block anew.
func (it *Iter) SkipTo(ordinal uint64) {
	ordinal = max(ordinal, it.start)
	if it.err != nil {
		return
	}
	if ordinal >= it.end {
		it.c.in, it.c.next = false, it.end
		return
	}
	it.err = it.c.seek(ordinal)
}

// Err returns the error that ended the iteration, if any.
func (it *Iter) Err() error { return it.err }
