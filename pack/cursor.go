package pack

import "encoding/binary"

// Cursor reads the records of an idx from first to last. It is used by one
// goroutine; several cursors over one idx do not disturb each other.
type Cursor struct {
	x    *Idx
	step int
	i    int // the next record
	base int // the records base to end are in memory
	end  int
	ids  []byte // v1: whole rows
	crcs []byte
	offs []byte
	bigs []byte // entries bigAt onward of the 64-bit table
	big0 int
}

// Cursor returns a cursor that reads the three tables in step, so many records
// at once; it takes some 40 bytes of memory for each of them.
func (x *Idx) Cursor(step int) *Cursor { return &Cursor{x: x, step: max(step, 1)} }

// Next returns the next record, or false at the end.
func (c *Cursor) Next() (r Record, ok bool, err error) {
	if c.i == c.end {
		if c.i == c.x.Len() {
			return Record{}, false, nil
		}
		if err := c.fill(); err != nil {
			return Record{}, false, err
		}
	}
	k := c.i - c.base
	if c.x.v1 {
		row := c.ids[k*v1Row:][:v1Row]
		r.Off = int64(binary.BigEndian.Uint32(row))
		r.ID.h = [idSize]byte(row[4:])
		c.i++
		return r, true, nil
	}
	r.ID.h = [idSize]byte(c.ids[k*idSize:])
	r.CRC = binary.BigEndian.Uint32(c.crcs[4*k:])
	v := binary.BigEndian.Uint32(c.offs[4*k:])
	if r.Off = int64(v); v >= bigOffset {
		if r.Off, err = c.bigOffset(v, c.x.offs+4*int64(c.i)); err != nil {
			return Record{}, false, err
		}
	}
	c.i++
	return r, true, nil
}

// fill reads the next records.
func (c *Cursor) fill() error {
	x, i := c.x, int64(c.i)
	n := min(c.step, x.Len()-c.i)
	c.base, c.end = c.i, c.i
	var err error
	if x.v1 {
		if c.ids, err = x.load(c.ids, fanoutSize+v1Row*i, v1Row*n); err != nil {
			return err
		}
		c.end += n
		return nil
	}
	if c.ids, err = x.load(c.ids, idxHead+fanoutSize+idSize*i, idSize*n); err != nil {
		return err
	}
	if c.crcs, err = x.load(c.crcs, x.crcs+4*i, 4*n); err != nil {
		return err
	}
	if c.offs, err = x.load(c.offs, x.offs+4*i, 4*n); err != nil {
		return err
	}
	c.end += n
	return nil
}

// bigOffset looks v, read at at, up in the 64-bit table. Writers number that
// table in id order, so a window that moves forward serves nearly all of it.
func (c *Cursor) bigOffset(v uint32, at int64) (int64, error) {
	x := c.x
	j, err := x.bigPlace(v, at)
	if err != nil {
		return 0, err
	}
	if j < c.big0 || j >= c.big0+len(c.bigs)/8 {
		n := min(c.step, x.nbig-j)
		c.big0 = j
		if c.bigs, err = x.load(c.bigs, x.bigs+8*int64(j), 8*n); err != nil {
			c.bigs = c.bigs[:0]
			return 0, err
		}
	}
	return x.bigValue(c.bigs[8*(j-c.big0):], j)
}

// load reads n bytes at off into buf, which grows if it must.
func (x *Idx) load(buf []byte, off int64, n int) ([]byte, error) {
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	return buf, readFull(x.name, x.r, buf, off)
}
