package index

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// A writer makes the next version of an index. What it does, in this order:
//
//	remove NAME.tmp (what a killed process left), create NAME.tmp,
//	write header, blocks, block table and trailer,
//	sync NAME.tmp, rename NAME.tmp to NAME, syncdir of the directory
//
// Nothing is done before the first block is full or finish is called, so that
// the caller may find at the very end that there was nothing to write.
//
// Of the old version whole blocks can be taken over as they are.
type writer struct {
	fs   *fsx.FS
	name string
	old  *edition // may be nil

	file    *fsx.File // nil until something is written
	off     int64
	enc     encoder
	blocks  []block
	records uint64

	from, to int // blocks of old to be copied before anything else is written
	buf      []byte
}

// copyUnit is how much of the old version is copied at once.
const copyUnit = 1 << 20

// full reports whether the block in the making is large enough to stand alone.
// A copied block ends it, and many small ones would cost more than they save.
func (w *writer) full() bool { return len(w.enc.buf) >= blockTarget/2 }

// append adds a record.
func (w *writer) append(r *Record) error {
	if err := w.enc.append(r); err != nil {
		return err
	}
	if len(w.enc.buf) < blockTarget {
		return nil
	}
	return w.flush()
}

// copyBlock takes over a block of the old version.
func (w *writer) copyBlock(i int) error {
	if w.enc.count > 0 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if w.to != i {
		if err := w.copyBlocks(); err != nil {
			return err
		}
		w.from = i
	}
	w.to = i + 1
	return nil
}

// copyBlocks copies the blocks that copyBlock was called for. They keep their
// checksums: damage in them is as visible in the copy.
func (w *writer) copyBlocks() error {
	if w.from == w.to {
		return nil
	}
	if err := w.begin(); err != nil {
		return err
	}
	run := w.old.blocks[w.from:w.to]
	w.from = w.to
	pos, last := run[0].off, &run[len(run)-1]
	for end := last.off + int64(last.size); pos < end; {
		if w.buf == nil {
			w.buf = make([]byte, copyUnit)
		}
		part := w.buf[:min(copyUnit, end-pos)]
		if _, err := w.old.file.ReadAt(part, pos); err != nil {
			return err
		}
		if _, err := w.file.Write(part); err != nil {
			return err
		}
		pos += int64(len(part))
	}
	for _, b := range run {
		w.add(b)
	}
	return nil
}

// flush writes the block in the making.
func (w *writer) flush() error {
	if err := w.copyBlocks(); err != nil {
		return err
	}
	if w.enc.count == 0 {
		return nil
	}
	if err := w.begin(); err != nil {
		return err
	}
	if _, err := w.file.Write(w.enc.buf); err != nil {
		return err
	}
	w.add(block{
		size:  len(w.enc.buf),
		count: uint64(w.enc.count),
		crc:   checksum(w.enc.buf),
		last:  string(w.enc.key),
	})
	w.enc.reset()
	return nil
}

// add enters a block that was written in the table.
func (w *writer) add(b block) {
	b.off, b.first = w.off, w.records
	w.blocks = append(w.blocks, b)
	w.off += int64(b.size)
	w.records += b.count
}

// begin creates the file.
func (w *writer) begin() error {
	if w.file != nil {
		return nil
	}
	temp := tempName(w.name)
	if err := w.fs.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := w.fs.Create(temp, 0o600)
	if err != nil {
		return err
	}
	w.file, w.off = file, int64(headerSize)
	_, err = file.Write(header())
	return err
}

// finish completes the file and puts it in place. The edition it returns reads
// from the file that was written; if the error is of the last step only, the new
// version is in place, and its durability unknown.
func (w *writer) finish() (*edition, error) {
	if err := w.flush(); err != nil {
		return nil, err
	}
	if err := w.begin(); err != nil {
		return nil, err
	}
	var table []byte
	for i := range w.blocks {
		table = appendTableEntry(table, &w.blocks[i])
	}
	end := appendTail(table, w.off, len(w.blocks), w.records, table)
	if _, err := w.file.Write(end); err != nil {
		return nil, err
	}
	if err := w.file.Sync(); err != nil {
		return nil, err
	}
	if err := w.fs.Rename(tempName(w.name), w.name); err != nil {
		return nil, err
	}
	e := &edition{name: w.name, file: w.file, blocks: w.blocks, records: w.records}
	w.file = nil
	if err := w.fs.SyncDir(filepath.Dir(w.name)); err != nil {
		e.file.Close()
		return nil, err
	}
	return e, nil
}

// abort throws away what was written. After finish it does nothing.
func (w *writer) abort() {
	if w.file != nil {
		_ = w.file.Close()
		_ = w.fs.Remove(tempName(w.name)) // if not now, the next writer does
		w.file = nil
	}
}
