package repo

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kedgebackup/kedge/pack"
)

// census numbers the objects of all packs: those of a pack stand in a row, in the
// order of its idx. What is known of an object is kept in arrays, so that twenty
// million of them take 50 MB.
type census struct {
	packs []*countedPack
	of    map[*packFile]*countedPack
	n     int

	recent [2]atomic.Pointer[countedPack] // where blobs and trees were found last

	size []uint16 // of a blob; sizeUnknown if it is not known or does not fit
	blob bitmap   // it is a blob
	bad  bitmap   // its bytes are wrong
	seen bitmap   // it was reached from a ref
	fine bitmap   // of a tree: nothing below it is damaged

	fineLoose map[pack.ID]struct{} // fine, of trees that are in no pack
}

const sizeUnknown = math.MaxUint16

// countedPack is a pack of the census.
type countedPack struct {
	*packFile     // of the table
	base      int // number of its first object
	own       packFile
	err       error // it could not be opened
}

// bitmap is a set of numbers that several goroutines may add to at once.
type bitmap []uint32

func makeBitmap(n int) bitmap { return make(bitmap, (n+31)/32) }

func (b bitmap) has(i int) bool { return atomic.LoadUint32(&b[i/32])>>(i%32)&1 != 0 }

// add adds a number and reports whether it is new.
func (b bitmap) add(i int) bool {
	bit := uint32(1) << (i % 32)
	return atomic.OrUint32(&b[i/32], bit)&bit == 0
}

// openPacks takes the census.
func (c *checker) openPacks() error {
	c.of = make(map[*packFile]*countedPack)
	for _, f := range c.p.table.Load().packs {
		if info, named := f.info(); c.o.Packs != nil && (!named || !c.o.Packs[info.Name]) {
			continue
		}
		cp := &countedPack{packFile: f, base: c.n}
		cp.own.name, cp.own.size, cp.own.idxSize = f.name, f.size, f.idxSize
		if cp.err = c.p.tryOpen(&cp.own); cp.err == nil {
			c.n += cp.own.idx.Len()
		} else if !damaged(cp.err) {
			return cp.err
		}
		c.packs = append(c.packs, cp)
		c.of[f] = cp
	}
	if c.o.Quick {
		return nil
	}
	c.blob, c.bad, c.seen = makeBitmap(c.n), makeBitmap(c.n), makeBitmap(c.n)
	c.size = make([]uint16, c.n)
	for i := range c.size {
		c.size[i] = sizeUnknown
	}
	return nil
}

// reader returns the bytes of a file of a pack.
func (c *checker) reader(name string) handle { return handle{&c.p.files, name} }

// sums compares packs and idx files with their checksums.
func (c *checker) sums() error {
	return c.parallel(func(run func(func(*checkWorker) error)) error {
		for _, cp := range c.packs {
			run(func(*checkWorker) error {
				if c.checkIdx(cp) == BadPack { // which was told of
					return nil
				}
				return c.checkSum(cp)
			})
		}
		return nil
	})
}

// checkSum compares a pack with its checksum.
func (c *checker) checkSum(cp *countedPack) error {
	err := pack.CheckTrailer(cp.packName(), c.reader(cp.packName()), cp.size)
	if err != nil && !damaged(err) {
		return err
	}
	if err != nil {
		c.findErr(BadPack, cp.packName(), err)
	}
	if !c.o.Quick {
		return nil // they are counted when their objects are
	}
	c.progress(CheckResult{Packs: 1, Bytes: cp.size})
	return nil
}

// checkIdx reads a whole idx and tells what is wrong: with it, or with the pack if
// that does not fit it; "" if it can be used.
func (c *checker) checkIdx(cp *countedPack) FindingKind {
	err := cp.err
	if err == nil {
		err = cp.own.idx.Verify(cp.size)
	}
	if err == nil {
		return ""
	}
	kind, file := BadIdx, cp.idxName()
	if corruptFile(err) == cp.packName() {
		kind, file = BadPack, cp.packName()
		if alone := c.idxAlone(cp); damaged(alone) { // then it is to blame
			kind, file, err = BadIdx, cp.idxName(), alone
		}
	}
	c.findErr(kind, file, err)
	return kind
}

// idxAlone reads an idx without its pack.
func (c *checker) idxAlone(cp *countedPack) error {
	idx, err := pack.OpenIdx(cp.idxName(), c.reader(cp.idxName()), cp.idxSize)
	if err == nil {
		err = idx.Verify(cp.size)
	}
	return err
}

// parallel calls feed with a function that has work done by one of the workers.
// After the first error, which it returns, workers find their context ended.
func (c *checker) parallel(feed func(run func(func(*checkWorker) error)) error) error {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	work := make(chan func(*checkWorker) error)
	var wg sync.WaitGroup
	for range c.o.Workers {
		wg.Go(func() {
			w := &checkWorker{c: c, ctx: ctx, reader: newReader()}
			w.hasher = pack.NewGuard()
			for do := range work {
				if err := do(w); err != nil {
					cancel(err)
				}
			}
		})
	}
	err := feed(func(do func(*checkWorker) error) { work <- do })
	close(work)
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// checkWorker reads and hashes objects.
type checkWorker struct {
	c   *checker
	ctx context.Context
	*reader
}

// placed is an object and where it is in its pack.
type placed struct {
	off int64
	id  pack.ID
	crc uint32
	num int32 // in the idx
}

// objects compares every object with its id, or those in only; then packs as a
// whole are left alone.
func (c *checker) objects(only bitmap) error {
	return c.parallel(func(run func(func(*checkWorker) error)) error {
		var parts [2]partBuffer // one is filled while the workers are at the other
		for k, cp := range c.packs {
			if cp.err != nil {
				if only == nil && c.checkIdx(cp) == BadIdx {
					run(func(*checkWorker) error { return c.checkSum(cp) }) // whether it can be made anew
				}
				continue
			}
			if only == nil {
				run(func(*checkWorker) error { return c.checkSum(cp) })
				if c.checkIdx(cp) != "" {
					continue
				}
			}
			l := packLister{cp: cp, most: partObjects}
			for l.at < cp.size {
				part := &parts[k%2]
				k++
				part.busy.Wait()
				if err := l.next(part); err != nil {
					return err
				}
				if l.reason != "" {
					c.find(Finding{Kind: BadIdx, File: cp.idxName(), Reason: l.reason})
					break
				}
				cp.cut(part, only, run)
			}
			c.progress(CheckResult{Packs: 1})
		}
		for i := range parts {
			parts[i].busy.Wait()
		}
		return nil
	})
}

// partBuffer holds the objects of a part of a pack, in the order of their places.
type partBuffer struct {
	recs []placed
	end  int64 // where the last one ends
	busy sync.WaitGroup
}

// partObjects is how many objects a part of a pack has, about. Packs that git made
// can hold all that there is; their idx is read once for every part.
const partObjects = 1 << 19

// packLister lists the objects of a pack by their places.
type packLister struct {
	cp     *countedPack
	most   int   // objects wanted in a part; it may be twice as many
	at     int64 // where the next object must begin
	reason string
}

// next fills a part with the objects from l.at on.
func (l *packLister) next(part *partBuffer) error {
	idx, last := l.cp.own.idx, l.cp.size-packTrailer
	from := l.at
	step := l.cp.size
	if n := idx.Len(); n > l.most {
		step = l.cp.size / int64(n/l.most+1)
	}
	for {
		limit := min(from+max(step, 1), last)
		n := int32(0)
		part.recs, part.end = part.recs[:0], last
		err := idx.Records(func(r pack.Record) error {
			switch {
			case r.Off >= limit:
				part.end = min(part.end, r.Off)
			case r.Off >= from && len(part.recs) <= 2*l.most:
				part.recs = append(part.recs, placed{r.Off, r.ID, r.CRC, n})
			}
			n++
			return nil
		})
		if err != nil {
			return err
		}
		if len(part.recs) > 2*l.most && step > 1 { // many small ones in one place
			step /= 4
			continue
		}
		break
	}
	slices.SortFunc(part.recs, func(a, b placed) int {
		switch {
		case a.off < b.off:
			return -1
		case a.off > b.off:
			return 1
		}
		return 0
	})
	l.check(part)
	if l.at = part.end; part.end == last {
		l.at = l.cp.size
	}
	return nil
}

// check looks for gaps and for objects in one place: from one offset to the next
// is one object, and the first begins behind the header.
func (l *packLister) check(part *partBuffer) {
	const packHeader = 12
	if l.at == 0 && (len(part.recs) == 0 && part.end != packHeader || len(part.recs) > 0 && part.recs[0].off != packHeader) {
		l.reason = "no object at the beginning of the pack"
	}
	for i := 1; i < len(part.recs); i++ {
		if part.recs[i].off == part.recs[i-1].off {
			l.reason = fmt.Sprintf("%v and %v in one place", part.recs[i-1].id, part.recs[i].id)
		}
	}
}

// checkRange is how many bytes of a pack a worker reads at a time, about: as many as
// the cache of a core still has when they are inflated.
const checkRange = 256 << 10

// cut gives the objects of a part to the workers, some at a time.
func (cp *countedPack) cut(part *partBuffer, only bitmap, run func(func(*checkWorker) error)) {
	recs := part.recs
	for len(recs) > 0 {
		n, any := 0, false
		for n < len(recs) && (n == 0 || recs[n].off-recs[0].off < checkRange) {
			any = any || only == nil || only.has(cp.base+int(recs[n].num))
			n++
		}
		end := part.end
		if n < len(recs) {
			end = recs[n].off
		}
		if any {
			some := recs[:n]
			part.busy.Add(1)
			run(func(w *checkWorker) error {
				defer part.busy.Done()
				return w.check(cp, some, end, only)
			})
		}
		recs = recs[n:]
	}
}
