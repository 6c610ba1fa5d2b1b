package s3sync

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"sort"

	"github.com/kedgebackup/kedge/pack"
)

// The layout of an index segment stands in doc.go.
const (
	segmentMagic   = "kedgeSEG"
	segmentVersion = 1
	segmentFixed   = 24 // bytes before the pack table

	// pageSize is what one look-up reads.
	pageSize = 16 << 10
	// baseStep is how far apart the entries of one pack in the pack table are: what a
	// row's four bytes of offset can tell apart.
	baseStep = 1 << 32

	maxSegmentPacks = 1 << 16
	maxSegmentRows  = 1 << 40
)

// idWidth is the width of an id, which only package pack knows.
var idWidth = len(pack.ID{}.AppendBytes(nil))

// The sizes that follow from it.
var (
	rowSize     = idWidth + 2 + 4
	rowsPerPage = (pageSize - 4) / rowSize
	packEntry   = idWidth + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segmentPack is an entry of the pack table: a stretch of baseStep bytes of a pack.
type segmentPack struct {
	id   pack.ID
	base uint32 // the stretch begins at base*baseStep
}

// segmentHead is what stands before the pages of a segment. It stays in memory.
type segmentHead struct {
	rows  int64
	packs []segmentPack
	first []uint32 // the first four bytes of the first id of each page
}

// pageCount returns how many pages hold so many rows.
func pageCount(rows int64) int64 { return (rows + int64(rowsPerPage) - 1) / int64(rowsPerPage) }

// headBytes returns how many bytes the head takes with its checksum, and where the pages
// begin.
func headBytes(packs int, rows int64) (n, pages int64) {
	n = segmentFixed + int64(packs)*int64(packEntry) + 4*pageCount(rows) + 4
	return n, (n + pageSize - 1) / pageSize * pageSize
}

// segmentBytes returns the size of a segment.
func segmentBytes(packs int, rows int64) int64 {
	_, at := headBytes(packs, rows)
	return at + rows*int64(rowSize) + 4*pageCount(rows)
}

// append appends the head, its checksum and the zeros up to the first page.
func (h *segmentHead) append(b []byte) []byte {
	start := len(b)
	b = append(b, segmentMagic...)
	b = binary.BigEndian.AppendUint32(b, segmentVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(h.packs)))
	b = binary.BigEndian.AppendUint64(b, uint64(h.rows))
	for _, p := range h.packs {
		b = binary.BigEndian.AppendUint32(p.id.AppendBytes(b), p.base)
	}
	for _, v := range h.first {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	for (len(b)-start)%pageSize != 0 {
		b = append(b, 0)
	}
	return b
}

// corruptSegment says what is wrong with a segment.
func corruptSegment(off int64, format string, args ...any) error {
	return &pack.CorruptError{File: "segment", Off: off, Reason: fmt.Sprintf(format, args...)}
}

// segmentSizes reads the front of a segment of so many bytes, and returns how long its
// head is with its checksum.
func segmentSizes(front []byte, size int64) (n int64, err error) {
	if len(front) < segmentFixed || string(front[:8]) != segmentMagic {
		return 0, corruptSegment(0, "it is no segment")
	}
	if v := binary.BigEndian.Uint32(front[8:]); v != segmentVersion {
		return 0, corruptSegment(8, "unknown version %d", v)
	}
	packs, rows := binary.BigEndian.Uint32(front[12:]), binary.BigEndian.Uint64(front[16:])
	if packs == 0 || packs > maxSegmentPacks || rows == 0 || rows > maxSegmentRows {
		return 0, corruptSegment(12, "%d packs and %d objects", packs, rows)
	}
	if want := segmentBytes(int(packs), int64(rows)); want != size {
		return 0, corruptSegment(12, "%d packs and %d objects take %d bytes, it has %d", packs, rows, want, size)
	}
	n, _ = headBytes(int(packs), int64(rows))
	return n, nil
}

// parseSegmentHead reads the head of a segment of so many bytes, which b begins with.
func parseSegmentHead(b []byte, size int64) (h segmentHead, err error) {
	n, err := segmentSizes(b, size)
	if err != nil {
		return h, err
	}
	if int64(len(b)) < n {
		return h, corruptSegment(int64(len(b)), "its head is cut short")
	}
	b = b[:n]
	if crc32.Checksum(b[:n-4], castagnoli) != binary.BigEndian.Uint32(b[n-4:]) {
		return h, corruptSegment(n-4, "checksum mismatch")
	}
	h.rows = int64(binary.BigEndian.Uint64(b[16:]))
	h.packs = make([]segmentPack, binary.BigEndian.Uint32(b[12:]))
	rest := b[segmentFixed:]
	for i := range h.packs {
		h.packs[i].id, rest, _ = pack.CutID(rest)
		h.packs[i].base, rest = binary.BigEndian.Uint32(rest), rest[4:]
		if h.packs[i].base > math.MaxInt64>>32 {
			return h, corruptSegment(segmentFixed, "a pack is too large")
		}
	}
	h.first = make([]uint32, pageCount(h.rows))
	for i := range h.first {
		h.first[i] = binary.BigEndian.Uint32(rest[4*i:])
		if i > 0 && h.first[i] < h.first[i-1] {
			return h, corruptSegment(n-4-4*int64(len(h.first)-i), "pages are out of order")
		}
	}
	return h, nil
}

// pagesOf returns the pages that can have an id: nearly always one.
func (h *segmentHead) pagesOf(id pack.ID) (lo, hi int) {
	var b [64]byte
	key := binary.BigEndian.Uint32(id.AppendBytes(b[:0]))
	lo = sort.Search(len(h.first), func(i int) bool { return h.first[i] >= key })
	hi = lo
	for hi < len(h.first) && h.first[hi] == key {
		hi++
	}
	return max(0, lo-1), hi // the page before may end in the same four bytes
}

// page returns where a page is in the file.
func (h *segmentHead) page(i int) (off int64, n int) {
	_, off = headBytes(len(h.packs), h.rows)
	rows := min(int64(rowsPerPage), h.rows-int64(i)*int64(rowsPerPage))
	return off + int64(i)*int64(rowsPerPage*rowSize+4), int(rows)*rowSize + 4
}

// checkPage returns the rows of a page.
func checkPage(b []byte) ([]byte, error) {
	n := len(b) - 4
	if crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return nil, corruptSegment(-1, "checksum mismatch in a page")
	}
	return b[:n], nil
}

// spot is where an object is.
type spot struct {
	pack pack.ID
	off  int64
}

// spots calls fn for the places of an id among the rows of a page, until fn returns true.
func (h *segmentHead) spots(rows []byte, id pack.ID, fn func(spot) bool) (bool, error) {
	var b [64]byte
	key := id.AppendBytes(b[:0])
	n := len(rows) / rowSize
	i := sort.Search(n, func(i int) bool { return bytes.Compare(rows[i*rowSize:][:idWidth], key) >= 0 })
	for ; i < n && bytes.Equal(rows[i*rowSize:][:idWidth], key); i++ {
		row := rows[i*rowSize+idWidth:]
		k := int(binary.BigEndian.Uint16(row))
		if k >= len(h.packs) {
			return false, corruptSegment(-1, "pack %d of %d", k, len(h.packs))
		}
		if fn(spot{h.packs[k].id, int64(h.packs[k].base)*baseStep + int64(binary.BigEndian.Uint32(row[2:]))}) {
			return true, nil
		}
	}
	return false, nil
}

// appendRow appends a row.
func appendRow(b []byte, id pack.ID, k uint16, off uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(id.AppendBytes(b), k), off)
}
