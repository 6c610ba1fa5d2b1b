package index

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sort"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

const (
	magic      = "kedge index\n"
	version    = 1
	headerSize = len(magic) + 4
	tailSize   = 32

	// blockTarget is the size at which a block is full. The record that makes it
	// full stays in it.
	blockTarget = 64 << 10
	// blockLimit is what no block exceeds: full but for one byte, and one record
	// with everything at its limit.
	blockLimit = blockTarget + maxPath + maxTarget + maxExtras + 1024
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// A block is an entry of the block table.
type block struct {
	off   int64
	size  int
	first uint64 // ordinal of the first record
	count uint64
	crc   uint32
	last  string // key of the last record
}

func (b *block) end() uint64 { return b.first + b.count }

// An edition is one version of an index file: the table in memory, and the open
// file that the blocks are read from. Nobody changes either, so iterators go on
// reading their edition while the next one is written.
type edition struct {
	name    string
	file    *fsx.File
	blocks  []block
	records uint64
}

func (e *edition) corrupt(off int64, format string, a ...any) error {
	return &pack.CorruptError{File: e.name, Off: off, Reason: fmt.Sprintf(format, a...)}
}

func header() []byte { return binary.LittleEndian.AppendUint32([]byte(magic), version) }

func appendTableEntry(dst []byte, b *block) []byte {
	dst = binary.AppendUvarint(dst, uint64(b.size))
	dst = binary.AppendUvarint(dst, b.count)
	dst = binary.LittleEndian.AppendUint32(dst, b.crc)
	dst = binary.AppendUvarint(dst, uint64(len(b.last)))
	return append(dst, b.last...)
}

// appendTail appends the trailer of a file whose block table stands at off.
func appendTail(dst []byte, off int64, blocks int, records uint64, table []byte) []byte {
	n := len(dst)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(off))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(blocks))
	dst = binary.LittleEndian.AppendUint64(dst, records)
	dst = binary.LittleEndian.AppendUint32(dst, checksum(table))
	crc := crc32.Update(checksum(header()), castagnoli, dst[n:])
	return binary.LittleEndian.AppendUint32(dst, crc)
}

// openEdition reads header, trailer and block table. It takes the file over.
func openEdition(name string, file *fsx.File) (*edition, error) {
	e := &edition{name: name, file: file}
	if err := e.load(); err != nil {
		file.Close()
		return nil, err
	}
	return e, nil
}

func (e *edition) load() error {
	size, err := e.file.Size()
	if err != nil {
		return err
	}
	if size < int64(headerSize+tailSize) {
		return e.corrupt(-1, "%d bytes are too few for an index", size)
	}
	head := make([]byte, headerSize)
	if _, err := e.file.ReadAt(head, 0); err != nil {
		return err
	}
	if string(head[:len(magic)]) != magic {
		return e.corrupt(0, "not an index of kedge")
	}
	tail := make([]byte, tailSize)
	tailOff := size - tailSize
	if _, err := e.file.ReadAt(tail, tailOff); err != nil {
		return err
	}
	crc := crc32.Update(checksum(header()), castagnoli, tail[:tailSize-4])
	sealed := binary.LittleEndian.Uint32(tail[tailSize-4:]) == crc
	switch v := binary.LittleEndian.Uint32(head[len(magic):]); {
	case v > version && !sealed:
		return &VersionError{e.name, v}
	case v != version: // all the rest is as we write it, so the number itself is damaged
		return e.corrupt(int64(len(magic)), "version %d of the format, this program knows %d", v, version)
	case !sealed:
		return e.corrupt(tailOff, "trailer does not match its checksum: cut short or damaged")
	}
	off := binary.LittleEndian.Uint64(tail)
	if off < uint64(headerSize) || off > uint64(tailOff) {
		return e.corrupt(tailOff, "block table at %d of %d bytes", off, size)
	}
	table := make([]byte, tailOff-int64(off))
	if _, err := e.file.ReadAt(table, int64(off)); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(tail[24:]) != checksum(table) {
		return e.corrupt(int64(off), "block table does not match its checksum")
	}
	return e.parseTable(table, int64(off), binary.LittleEndian.Uint64(tail[8:]), binary.LittleEndian.Uint64(tail[16:]))
}

// parseTable fills in the blocks. They must fill the file from the header to
// the table, and their paths must ascend.
func (e *edition) parseTable(table []byte, off int64, blocks, records uint64) error {
	d := decoder{b: table}
	next := block{off: int64(headerSize)}
	for d.pos < len(table) {
		at := off + int64(d.pos)
		b := next
		size, count := d.uvarint(), d.uvarint()
		if crc := d.bytes(4); crc != nil {
			b.crc = binary.LittleEndian.Uint32(crc)
		}
		last := stringOf(d.bytes(d.uvarint()))
		switch {
		case d.why != "":
			return e.corrupt(at, "block table: %s", d.why)
		case size == 0 || size > blockLimit || int64(size) > off-b.off:
			return e.corrupt(at, "block table: %d bytes of block", size)
		case count == 0 || count > size:
			return e.corrupt(at, "block table: %d records in %d bytes", count, size)
		case len(last) >= maxPath || checkClean(last, 0) != "":
			return e.corrupt(at, "block table: bad path")
		case len(e.blocks) > 0 && compareKeys(e.blocks[len(e.blocks)-1].last, last) >= 0:
			return e.corrupt(at, "block table: blocks out of order")
		}
		b.size, b.count, b.last = int(size), count, last
		e.blocks = append(e.blocks, b)
		next = block{off: b.off + int64(b.size), first: b.end()}
	}
	if next.off != off {
		return e.corrupt(off, "block table: blocks end at %d", next.off)
	}
	if uint64(len(e.blocks)) != blocks || next.first != records {
		return e.corrupt(off, "block table: %d blocks with %d records instead of %d with %d",
			len(e.blocks), next.first, blocks, records)
	}
	e.records = records
	return nil
}

// read reads a block into buf, which it returns, larger if need be.
func (e *edition) read(i int, buf []byte) ([]byte, error) {
	b := &e.blocks[i]
	if cap(buf) < b.size {
		buf = make([]byte, b.size+b.size/16) // most blocks differ a little only
	}
	buf = buf[:b.size]
	if _, err := e.file.ReadAt(buf, b.off); err != nil {
		return buf, fmt.Errorf("%s: block at offset %d: %w", e.name, b.off, err)
	}
	if checksum(buf) != b.crc {
		return buf, e.corrupt(b.off, "block does not match its checksum")
	}
	return buf, nil
}

// blockOf returns the block that holds an ordinal, len(e.blocks) if none does.
func (e *edition) blockOf(ordinal uint64) int {
	return sort.Search(len(e.blocks), func(i int) bool { return e.blocks[i].end() > ordinal })
}

// search returns the ordinal of the first record whose key holds. There must be
// none after it whose key does not.
func (e *edition) search(holds func(key string) bool) (uint64, error) {
	i := sort.Search(len(e.blocks), func(i int) bool { return holds(e.blocks[i].last) })
	if i == len(e.blocks) {
		return e.records, nil
	}
	it := e.iter(e.blocks[i].first, e.blocks[i].end())
	for it.Next() {
		if holds(stringOf(it.c.d.key)) {
			return it.ord, nil
		}
	}
	if it.err != nil {
		return 0, it.err
	}
	return e.blocks[i].end(), nil
}

// subtree returns the ordinals of the records at and below a key: from start on,
// before end.
func (e *edition) subtree(key string) (start, end uint64, err error) {
	if key == "" {
		return 0, e.records, nil
	}
	start, err = e.search(func(k string) bool { return within(k, key) || compareKeys(k, key) > 0 })
	if err != nil {
		return 0, 0, err
	}
	end, err = e.search(func(k string) bool { return compareKeys(k, key) > 0 })
	return start, end, err
}
