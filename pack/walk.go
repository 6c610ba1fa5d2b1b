package pack

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
)

// Item is an entry of a pack as Walk meets it.
type Item struct {
	Off  int64
	Len  int64  // of the entry in the pack
	CRC  uint32 // of the entry
	Type Type
	Body []byte // valid until fn returns
	Err  error  // if not nil, why there is no Body
}

// Walk reads a whole pack from front to end in large steps, gives every object
// to fn, deltas resolved (through find where their base is given by id), and
// checks the trailer and the number of objects. It does not hash the objects.
//
// offs says where the entries begin, ascending, as an idx knows it. Then an
// entry that is damaged, or does not end where the next one begins, is given to
// fn with its Err, and Walk goes on with the next; the error that Walk returns
// is about the pack as a whole, or a failed read, or fn's. Without offs (nil)
// Walk finds the entries itself; that ends at the first whose end can't be
// found, while a delta whose base is missing is merely one Item with an Err.
func (p *Pack) Walk(s *Scratch, offs []int64, find FindFunc, fn func(*Item) error) error {
	w := walk{p: p, s: s, find: find, sum: sha1.New(), far: NewScratch(s.limit)}
	s.step = writeStep
	defer func() { s.step = 0 }()
	var header [packHead]byte
	if err := readFull(p.name, p.r, header[:], 0); err != nil {
		return err
	}
	w.sum.Write(header[:])
	n := p.n
	if offs != nil {
		if n = len(offs); n != p.n {
			return p.corrupt(8, fmt.Sprintf("header claims %d objects, the idx has %d", p.n, n))
		}
		if n > 0 && offs[0] != packHead {
			return p.corrupt(packHead, "idx leaves a gap")
		}
	}
	at := int64(packHead)
	for i := range n {
		end := int64(-1)
		if offs != nil {
			if end = p.end; i+1 < n {
				end = offs[i+1]
			}
			if end <= at || end > p.end {
				return p.corrupt(at, "idx says that no object begins here, or two")
			}
		}
		it, err := w.next(at, end)
		if err != nil {
			return err
		}
		if err := fn(it); err != nil {
			return err
		}
		at += it.Len
	}
	if at != p.end {
		return p.corrupt(at, "bytes after the last object")
	}
	if got := (ID{[idSize]byte(w.sum.Sum(nil))}); got != p.sum {
		return p.corrupt(p.end, fmt.Sprintf("checksum mismatch: the bytes sum up to %v", got))
	}
	return nil
}

// walk is the state of one Walk.
type walk struct {
	p    *Pack
	s    *Scratch
	find FindFunc
	sum  hash.Hash
	far  *Scratch // reads the bases of deltas, which lie elsewhere
	item Item
}

// next reads the entry at at, which ends at end, or where it says so if end is -1.
func (w *walk) next(at, end int64) (*Item, error) {
	w.item = Item{Off: at}
	ends, err := w.entry(at)
	if err == nil && end >= 0 && ends != end {
		err = w.p.corrupt(ends, fmt.Sprintf("object ends here and not at %d", end))
	}
	if end >= 0 {
		ends = end
	}
	if err != nil {
		var c *CorruptError
		damage := errors.As(err, &c) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrDelta)
		if ends == 0 || !damage {
			return nil, err
		}
		w.item.Err, w.item.Body = err, nil
	}
	w.item.Len = ends - at
	return &w.item, w.skip(at, ends)
}

// entry decodes the entry at at into w.item and returns where it ends, 0 if
// that is not known.
func (w *walk) entry(at int64) (ends int64, err error) {
	p, s := w.p, w.s
	if _, err := s.view(p, at, windowSize); err != nil {
		return 0, err
	}
	h, err := p.head(s, at, w.find)
	if err != nil && h.data == 0 {
		return 0, err
	}
	dst := &s.body
	if h.kind >= ofsDelta {
		dst = &s.delta
	}
	var ns int
	var broken error
	if *dst, ns, broken = p.inflate(s, *dst, h); broken != nil {
		return 0, broken
	}
	ends = h.data + int64(ns)
	w.item.Type = Type(h.kind)
	if err == nil && h.kind >= ofsDelta {
		w.item.Type, err = w.delta(h)
	}
	w.item.Body = s.body
	return ends, err
}

// delta applies the delta in w.s, whose header is h, to its base.
func (w *walk) delta(h head) (Type, error) {
	t, base, err := w.p.Object(w.far, h.base, w.find)
	if err != nil {
		return 0, err
	}
	if w.far.depth == maxDepth {
		return 0, w.p.tooDeep(h.off)
	}
	w.far.bases.put(w.p, h.base, t, w.far.depth, base)
	w.s.body = append(w.s.body[:0], base...)
	if err := w.s.apply(); err != nil {
		return 0, inFile(w.p.name, h.off, noPlace(err))
	}
	return t, nil
}

// skip adds the bytes from at to end to the sums.
func (w *walk) skip(at, end int64) error {
	for at < end {
		n := min(end-at, writeStep)
		b, err := w.s.span(w.p, at, int(n))
		if err != nil {
			return err
		}
		w.sum.Write(b)
		w.item.CRC = crc32.Update(w.item.CRC, crc32.IEEETable, b)
		at += n
	}
	return nil
}
