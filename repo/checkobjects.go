package repo

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/kedgebackup/kedge/pack"
)

// check compares neighbouring objects with their ids; the last ends at end.
func (w *checkWorker) check(cp *countedPack, recs []placed, end int64, only bitmap) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	start := recs[0].off
	w.buf = w.buf[:0]
	if end-start <= 2*rangeLimit {
		b, err := cp.own.pack.Range(w.buf, start, int(end-start))
		if err != nil {
			return err
		}
		w.buf = b
	}
	var done CheckResult
	for i, rec := range recs {
		num := cp.base + int(rec.num)
		if only != nil && !only.has(num) {
			continue
		}
		stop := end
		if i+1 < len(recs) {
			stop = recs[i+1].off
		}
		var entry []byte
		if len(w.buf) > 0 {
			entry = w.buf[rec.off-start : stop-start]
		}
		t, body, err := w.object(cp, rec, entry, stop)
		if err != nil && !isWrong(err) {
			return err
		}
		if err != nil {
			w.c.damaged(cp, rec, num, err)
			continue
		}
		done.Objects++
		done.Bytes += int64(len(body))
		w.c.note(num, t, len(body))
	}
	w.trim()
	w.c.progress(done)
	return nil
}

// object decodes an object and compares length, CRC and id. Without entry, which
// is for the large ones, it is read from the pack.
func (w *checkWorker) object(cp *countedPack, rec placed, entry []byte, stop int64) (t pack.Type, body []byte, err error) {
	corrupt := func(format string, args ...any) error {
		return &pack.CorruptError{File: cp.packName(), Off: rec.off, Reason: fmt.Sprintf(format, args...)}
	}
	crc, err := w.crc(cp, rec.off, entry, stop)
	if err != nil {
		return 0, nil, err
	}
	if crc != rec.crc && rec.crc != 0 { // an idx of version 1 has none
		return 0, nil, corrupt("CRC is %08x and not %08x", crc, rec.crc)
	}
	if entry != nil {
		var n int
		w.body, t, n, err = w.dec.Append(w.body[:0], entry)
		body = w.body
		if err == nil && n != len(entry) {
			err = corrupt("object ends %d bytes before the next one begins", len(entry)-n)
		}
	}
	if entry == nil || errors.Is(err, pack.ErrDelta) || errors.Is(err, pack.ErrTooLarge) {
		t, body, err = cp.own.pack.Object(w.scratch, rec.off, cp.own.idx.Find)
	}
	if errors.Is(err, pack.ErrTooLarge) {
		big := pack.NewScratch(maxTree)
		t, body, err = cp.own.pack.Object(big, rec.off, cp.own.idx.Find)
		if err == nil && t != pack.Tree {
			err = corrupt("%v of %d bytes", t, len(body))
		}
	}
	var wrong *pack.CorruptError
	if errors.As(err, &wrong) && wrong.File == "" {
		err = corrupt("%s", wrong.Reason)
	}
	if err != nil {
		return t, body, err
	}
	got, err := w.hasher.Sum(t, body)
	if err != nil {
		return t, body, corrupt("%v", err)
	}
	if got != rec.id {
		return t, body, corrupt("has the bytes of %v %v", t, got)
	}
	return t, body, nil
}

// crc returns the CRC of the bytes from off to stop, which entry holds if it is
// not nil.
func (w *checkWorker) crc(cp *countedPack, off int64, entry []byte, stop int64) (uint32, error) {
	if entry != nil {
		return crc32.ChecksumIEEE(entry), nil
	}
	sum := uint32(0)
	for off < stop {
		n := min(stop-off, rangeLimit)
		b, err := cp.own.pack.Range(nil, off, int(n))
		if err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, crc32.IEEETable, b)
		off += n
	}
	return sum, nil
}

// note enters an object into the census.
func (c *checker) note(num int, t pack.Type, size int) {
	if t != pack.Blob {
		return
	}
	c.blob.add(num)
	if size < sizeUnknown {
		c.size[num] = uint16(size)
	}
}

// damaged reports an object whose bytes are wrong where it is.
func (c *checker) damaged(cp *countedPack, rec placed, num int, err error) {
	c.bad.add(num)
	reason := err.Error()
	var corrupt *pack.CorruptError
	if errors.As(err, &corrupt) {
		reason = corrupt.Reason
	}
	where := ""
	if err := c.p.Get(c.ctx, []pack.ID{rec.id}, func(int, pack.Type, []byte) error { return nil }); err == nil {
		where = "; another pack has it whole"
	} else {
		c.noteBad(BadObject, rec.id, reason)
	}
	c.find(Finding{Kind: BadObject, File: cp.packName(), Offset: rec.off, Object: rec.id, Reason: reason + where})
}
