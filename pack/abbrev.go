package pack

import "strings"

// Prefixed calls fn for every id of the idx whose hexadecimal form begins with hex, in
// their order. Hex has two digits at least: so much the fan-out table tells, and a 256th
// of the ids is read.
func (x *Idx) Prefixed(hex string, fn func(ID) error) error { return x.ids.prefixed(hex, fn) }

func (t *Table) prefixed(hex string, fn func(ID) error) error {
	low, ok := lowest(hex)
	if !ok {
		return nil
	}
	buf := t.bufs.Get().(*[tableStep]byte)
	defer t.bufs.Put(buf)
	lo, hi := t.Range(low.h[0])
	for step := tableStep / t.stride; lo < hi; lo += step {
		n := min(step, hi-lo)
		rows, err := t.read(buf[:0], lo, lo+n)
		if err != nil {
			return err
		}
		first, _ := t.search(rows, n, low.h[:])
		for i := first; i < n; i++ {
			var id ID
			copy(id.h[:], t.at(rows, i))
			if !strings.HasPrefix(id.String(), hex) {
				return nil
			}
			if err := fn(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// lowest returns the first id that begins with some digits.
func lowest(hex string) (ID, bool) {
	if len(hex) < 2 || len(hex) > 2*idSize {
		return ID{}, false
	}
	id, err := ParseID(hex + strings.Repeat("0", 2*idSize-len(hex)))
	return id, err == nil
}
