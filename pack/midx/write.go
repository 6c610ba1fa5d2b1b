package midx

import (
	"container/heap"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/kedgebackup/kedge/pack"
)

// cursorMemory is what the read buffers of all inputs may take together.
const cursorMemory = 16 << 20

// Write merges the idx files of packs, which are sorted by name, into a
// multi-pack-index. Memory does not grow with the number of objects: the
// inputs are read in step and the tables are written in one pass each.
func Write(w io.Writer, names []string, packs []*pack.Idx) error {
	if len(names) != len(packs) {
		return errors.New("multi-pack-index: as many names as packs are needed")
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		return errors.New("multi-pack-index: pack names are not in ascending order")
	}
	m := &merge{packs: packs}
	c, err := m.count()
	if err != nil {
		return err
	}
	o := pack.NewSumWriter(w)
	writeHead(o, names, c)
	for _, n := range c.fanout {
		o.Uint32(n)
	}
	if err := m.each(func(_ int, r pack.Record) { o.ID(r.ID) }); err != nil {
		return err
	}
	if err := m.writeOffsets(o, c); err != nil {
		return err
	}
	_, _, err = o.Finish()
	return err
}

// counts is what the first pass finds out.
type counts struct {
	fanout [256]uint32
	big    int  // offsets from 2^31 on
	wide   bool // one needs more than 32 bits: there must be a LOFF
}

func (m *merge) count() (c counts, err error) {
	n := 0
	var first [32]byte
	err = m.each(func(_ int, r pack.Record) {
		n++
		c.fanout[r.ID.AppendBytes(first[:0])[0]]++
		if r.Off >= bigOffset {
			c.big++
		}
		c.wide = c.wide || r.Off > math.MaxUint32
	})
	if err == nil && (n > math.MaxUint32 || c.wide && c.big > bigOffset) {
		err = errors.New("multi-pack-index: too many objects")
	}
	sum := uint32(0)
	for i := range c.fanout {
		sum += c.fanout[i]
		c.fanout[i] = sum
	}
	return c, err
}

// writeHead writes header, chunk table and PNAM.
func writeHead(o *pack.SumWriter, names []string, c counts) {
	var pnam []byte
	for _, n := range names {
		pnam = append(append(pnam, n...), 0)
	}
	for len(pnam)%4 != 0 {
		pnam = append(pnam, 0)
	}
	n := int64(c.fanout[255])
	chunks := []struct {
		name string
		size int64
	}{
		{"PNAM", int64(len(pnam))},
		{"OIDF", fanoutSize},
		{"OIDL", n * int64(idSize)},
		{"OOFF", n * 8},
		{"LOFF", int64(c.big) * 8},
	}
	if !c.wide {
		chunks = chunks[:4]
	}
	o.Bytes([]byte{magic[0], magic[1], magic[2], magic[3], version, hashSHA1, byte(len(chunks)), 0})
	o.Uint32(uint32(len(names)))
	at := int64(headSize + (len(chunks)+1)*chunkEntry)
	for _, ch := range chunks {
		o.Bytes([]byte(ch.name))
		o.Uint64(uint64(at))
		at += ch.size
	}
	o.Uint32(0)
	o.Uint64(uint64(at))
	o.Bytes(pnam)
}

// writeOffsets writes OOFF, and LOFF if it is needed.
func (m *merge) writeOffsets(o *pack.SumWriter, c counts) error {
	big := uint32(0)
	err := m.each(func(p int, r pack.Record) {
		o.Uint32(uint32(p))
		if c.wide && r.Off >= bigOffset {
			o.Uint32(big | bigOffset)
			big++
		} else {
			o.Uint32(uint32(r.Off))
		}
	})
	if err != nil || !c.wide {
		return err
	}
	return m.each(func(_ int, r pack.Record) {
		if r.Off >= bigOffset {
			o.Uint64(uint64(r.Off))
		}
	})
}

// merge reads the idx files of packs in step.
type merge struct {
	packs []*pack.Idx
	next  []input // a heap
}

// input is one idx file and its next record.
type input struct {
	p int
	c *pack.Cursor
	r pack.Record
}

// each calls fn for every object once, in id order, with the first pack that
// has it.
func (m *merge) each(fn func(p int, r pack.Record)) error {
	m.next = m.next[:0]
	step := min(scanStep, cursorMemory/40/max(1, len(m.packs)))
	for p, x := range m.packs {
		in := input{p: p, c: x.Cursor(step)}
		ok, err := in.advance()
		if err != nil {
			return err
		}
		if ok {
			m.next = append(m.next, in)
		}
	}
	heap.Init(m)
	var last pack.ID
	for some := false; len(m.next) > 0; some = true {
		in := &m.next[0]
		if !some || in.r.ID != last {
			fn(in.p, in.r)
			last = in.r.ID
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

// advance reads the next record. An idx out of order would make a table out of
// order, so it is refused.
func (in *input) advance() (ok bool, err error) {
	last := in.r.ID
	if in.r, ok, err = in.c.Next(); err != nil || !ok {
		return false, err
	}
	if !last.IsZero() && last.Compare(in.r.ID) >= 0 {
		return false, fmt.Errorf("multi-pack-index: pack %d: ids are not in ascending order", in.p)
	}
	return true, nil
}

// Len, Less, Swap, Push and Pop are what container/heap wants.
func (m *merge) Len() int { return len(m.next) }

// Less orders the heap.
func (m *merge) Less(i, j int) bool {
	a, b := &m.next[i], &m.next[j]
	if c := a.r.ID.Compare(b.r.ID); c != 0 {
		return c < 0
	}
	return a.p < b.p
}

// Swap exchanges two elements of the heap.
func (m *merge) Swap(i, j int) { m.next[i], m.next[j] = m.next[j], m.next[i] }

// Push is never called.
func (m *merge) Push(any) {}

// Pop removes the last input.
func (m *merge) Pop() any {
	m.next = m.next[:len(m.next)-1]
	return nil
}
