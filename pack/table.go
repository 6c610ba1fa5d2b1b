package pack

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"
)

// Table is a sorted table of ids in a file, with the fan-out table that git
// puts in front of it: for each first byte, how many ids begin with it or a
// lower one. The fan-out is in memory, the ids are read. Idx and midx are made
// of one. It may be used by several goroutines at once.
type Table struct {
	name   string
	r      io.ReaderAt
	off    int64 // of the first id
	stride int   // from one id to the next
	fanout [256]uint32
	filter atomic.Pointer[Filter]
	bufs   sync.Pool // of *[tableStep]byte
}

// tableStep is how much of a table one read of a search takes at most.
const tableStep = 8 << 10

// NewTable reads the fan-out table at fanout and checks that it is monotonic.
// The ids begin at off and are stride bytes apart; that they lie within the
// file is for the caller to check, who knows its size.
func NewTable(name string, r io.ReaderAt, fanout, off int64, stride int) (*Table, error) {
	t := &Table{name: name, r: r, off: off, stride: stride}
	t.bufs.New = func() any { return new([tableStep]byte) }
	var b [fanoutSize]byte
	if err := readFull(name, r, b[:], fanout); err != nil {
		return nil, err
	}
	last := uint32(0)
	for i := range t.fanout {
		n := binary.BigEndian.Uint32(b[4*i:])
		if n < last {
			return nil, &CorruptError{File: name, Off: fanout + int64(4*i), Reason: "fan-out table is not monotonic"}
		}
		t.fanout[i], last = n, n
	}
	return t, nil
}

// Len returns the number of ids.
func (t *Table) Len() int { return int(t.fanout[255]) }

// Range returns the places of the ids whose first byte is b.
func (t *Table) Range(b byte) (lo, hi int) {
	if b > 0 {
		lo = int(t.fanout[b-1])
	}
	return lo, int(t.fanout[b])
}

// Find returns the place of an id in the table.
//
// Ids are hashes and so are evenly spread: the place of an id within its
// fan-out bucket of n can be guessed with an error of about √n/2. One read of a
// few KiB around the guess finds it nearly always; what that read shows bounds
// a second guess. After a few guesses the search halves what is left instead,
// so that a table made to defy guessing costs 20 reads and not a thousand.
func (t *Table) Find(id ID) (i int, ok bool, err error) {
	if f := t.filter.Load(); f != nil && !f.Has(id) {
		return 0, false, nil
	}
	lo, hi := t.Range(id.h[0])
	key := prefix(id.h[:])
	loKey := key &^ (1<<56 - 1)
	hiKey := loKey | (1<<56 - 1)
	buf := t.bufs.Get().(*[tableStep]byte)
	defer t.bufs.Put(buf)
	for round := 0; lo < hi; round++ {
		a, b := t.window(lo, hi, round, key, loKey, hiKey)
		ids, err := t.read(buf[:0], a, b)
		if err != nil {
			return 0, false, err
		}
		first, last := t.at(ids, 0), t.at(ids, b-a-1)
		switch {
		case bytes.Compare(id.h[:], first) < 0:
			hi, hiKey = a, prefix(first)
		case bytes.Compare(id.h[:], last) > 0:
			lo, loKey = b, prefix(last)
		default:
			i, ok := t.search(ids, b-a, id.h[:])
			return a + i, ok, nil
		}
	}
	return 0, false, nil
}

// window returns the part of lo to hi to read next.
func (t *Table) window(lo, hi, round int, key, loKey, hiKey uint64) (a, b int) {
	n := hi - lo
	guess := n / 2
	if round < 4 && loKey <= key && key < hiKey {
		p, q := bits.Mul64(key-loKey, uint64(n))
		d, _ := bits.Div64(p, q, hiKey-loKey) // less than n, as key < hiKey
		guess = int(d)
	}
	half := 8 + 2<<(bits.Len(uint(n))/2) // at least three and a half standard deviations
	half = min(half, (tableStep/t.stride-1)/2)
	a = max(0, min(guess-half, n-2*half))
	return lo + a, lo + min(n, a+2*half)
}

// prefix returns the first eight bytes of an id as a number.
func prefix(id []byte) uint64 { return binary.BigEndian.Uint64(id) }

// read appends the rows a to b, without what follows the last id.
func (t *Table) read(dst []byte, a, b int) ([]byte, error) {
	n := (b-a-1)*t.stride + idSize
	if cap(dst) < n {
		dst = make([]byte, n)
	}
	dst = dst[:n]
	return dst, readFull(t.name, t.r, dst, t.off+int64(a)*int64(t.stride))
}

// at returns id i of the rows that read returned.
func (t *Table) at(rows []byte, i int) []byte {
	return rows[i*t.stride:][:idSize]
}

// search looks for id among n rows.
func (t *Table) search(rows []byte, n int, id []byte) (int, bool) {
	lo, hi := 0, n
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		switch c := bytes.Compare(id, t.at(rows, mid)); {
		case c == 0:
			return mid, true
		case c < 0:
			hi = mid
		default:
			lo = mid + 1
		}
	}
	return 0, false
}

// BuildFilter reads the ids once and makes Find answer most misses from memory.
func (t *Table) BuildFilter() error {
	f := NewFilter(t.Len())
	err := t.IDs(func(_ int, id ID) error {
		f.Add(id)
		return nil
	})
	if err == nil {
		t.filter.Store(f)
	}
	return err
}

// scanStep is how many rows a pass over a whole table reads at once.
const scanStep = 4096

// IDs calls fn for every id in the order of the table, reading it in large steps.
func (t *Table) IDs(fn func(i int, id ID) error) error {
	var rows []byte
	for a := 0; a < t.Len(); a += scanStep {
		b := min(a+scanStep, t.Len())
		var err error
		if rows, err = t.read(rows[:0], a, b); err != nil {
			return err
		}
		for i := range b - a {
			if err := fn(a+i, ID{[idSize]byte(t.at(rows, i))}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check reads all ids and checks that they ascend and that the fan-out table
// counts them.
func (t *Table) Check() error {
	var last ID
	return t.IDs(func(i int, id ID) error {
		at := t.off + int64(i)*int64(t.stride)
		if i > 0 && last.Compare(id) >= 0 {
			return &CorruptError{File: t.name, Off: at, Reason: "ids are not in ascending order"}
		}
		if lo, hi := t.Range(id.h[0]); i < lo || i >= hi {
			return &CorruptError{File: t.name, Off: at, Reason: "id is outside its fan-out bucket"}
		}
		last = id
		return nil
	})
}
