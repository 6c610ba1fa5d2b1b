package midx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/kedgebackup/kedge/pack"
)

const (
	magic      = "MIDX"
	version    = 1
	hashSHA1   = 1
	headSize   = 12
	chunkEntry = 12 // of the chunk table
	fanoutSize = 4 * 256
	bigOffset  = 1 << 31
	maxNames   = 16 << 20 // bytes of PNAM
	scanStep   = 4096     // rows per read when a whole table is read
)

// idSize is the width of an id, which only pack knows.
var idSize = len(pack.ID{}.AppendBytes(nil))

// File looks ids up in a multi-pack-index by ranged reads. It may be used by
// several goroutines at once.
type File struct {
	name  string
	r     io.ReaderAt
	size  int64
	packs []string
	ids   *pack.Table
	offs  span      // OOFF
	bigs  span      // LOFF, empty if there is none
	rows  sync.Pool // of *[8]byte, because what is read into escapes
}

// span is a part of the file.
type span struct{ off, end int64 }

func (s span) len() int64 { return s.end - s.off }

// Open checks header, chunk table and size arithmetic of a multi-pack-index.
func Open(name string, r io.ReaderAt, size int64) (*File, error) {
	f := &File{name: name, r: r, size: size}
	f.rows.New = func() any { return new([8]byte) }
	if size < headSize+chunkEntry+int64(idSize) {
		return nil, f.corrupt(-1, "too short for a multi-pack-index")
	}
	var head [headSize]byte
	if err := f.read(head[:], 0); err != nil {
		return nil, err
	}
	switch {
	case string(head[:4]) != magic:
		return nil, f.corrupt(0, "not a multi-pack-index")
	case head[4] != version:
		return nil, f.corrupt(4, fmt.Sprintf("unknown multi-pack-index version %d", head[4]))
	case head[5] != hashSHA1:
		return nil, f.corrupt(5, fmt.Sprintf("unknown hash %d", head[5]))
	case head[7] != 0:
		return nil, f.corrupt(7, "builds on another multi-pack-index")
	}
	chunks, err := f.chunks(int(head[6]))
	if err != nil {
		return nil, err
	}
	if err := f.tables(chunks); err != nil {
		return nil, err
	}
	if err := f.names(chunks["PNAM"], binary.BigEndian.Uint32(head[8:])); err != nil {
		return nil, err
	}
	return f, nil
}

// chunks reads the chunk table. The chunks lie without gaps between it and the
// trailer.
func (f *File) chunks(n int) (map[string]span, error) {
	table := make([]byte, (n+1)*chunkEntry)
	trailer := f.size - int64(idSize)
	first := headSize + int64(len(table))
	if first > trailer {
		return nil, f.corrupt(headSize, "chunk table is cut short")
	}
	if err := f.read(table, headSize); err != nil {
		return nil, err
	}
	chunks := make(map[string]span, n)
	at := func(i int) int64 { return int64(binary.BigEndian.Uint64(table[i*chunkEntry+4:])) }
	for i := range n {
		name := string(table[i*chunkEntry:][:4])
		s := span{at(i), at(i + 1)}
		_, twice := chunks[name]
		if s.off < first || s.end < s.off || s.end > trailer || twice || name == "\x00\x00\x00\x00" {
			return nil, f.corrupt(headSize+int64(i)*chunkEntry, fmt.Sprintf("chunk %q out of place", name))
		}
		chunks[name] = s
	}
	last := table[n*chunkEntry:]
	if string(last[:4]) != "\x00\x00\x00\x00" || n > 0 && at(0) != first || at(n) != trailer {
		return nil, f.corrupt(headSize, "chunk table does not span the file")
	}
	return chunks, nil
}

// tables checks the sizes of the chunks against the number of objects.
func (f *File) tables(chunks map[string]span) (err error) {
	for _, name := range []string{"PNAM", "OIDF", "OIDL", "OOFF"} {
		if _, ok := chunks[name]; !ok {
			return f.corrupt(headSize, "no chunk "+name)
		}
	}
	fan, ids := chunks["OIDF"], chunks["OIDL"]
	f.offs, f.bigs = chunks["OOFF"], chunks["LOFF"]
	if fan.len() != fanoutSize {
		return f.corrupt(fan.off, "fan-out table of a wrong size")
	}
	if f.ids, err = pack.NewTable(f.name, f.r, fan.off, ids.off, idSize); err != nil {
		return err
	}
	n := int64(f.Len())
	if ids.len() != n*int64(idSize) || f.offs.len() != n*8 || f.bigs.len()%8 != 0 || f.bigs.len()/8 > n {
		return f.corrupt(-1, fmt.Sprintf("tables do not fit %d objects", n))
	}
	return nil
}

// names reads the names of the n idx files.
func (f *File) names(s span, n uint32) error {
	if s.len() > maxNames {
		return f.corrupt(s.off, "pack names take more than 16 MiB")
	}
	b := make([]byte, s.len())
	if err := f.read(b, s.off); err != nil {
		return err
	}
	rest := string(b)
	for range n {
		name, after, ok := strings.Cut(rest, "\x00")
		at := s.off + int64(len(b)-len(rest))
		if !ok {
			return f.corrupt(at, "fewer pack names than packs")
		}
		if name == "" || strings.Contains(name, "/") {
			return f.corrupt(at, "not the name of an idx file")
		}
		if k := len(f.packs); k > 0 && f.packs[k-1] >= name {
			return f.corrupt(at, "pack names are not in ascending order")
		}
		f.packs = append(f.packs, name)
		rest = after
	}
	if len(rest) > 3 || strings.Trim(rest, "\x00") != "" {
		return f.corrupt(s.off, "more pack names than packs")
	}
	return nil
}

// Packs returns the names of the idx files it covers, sorted, e.g. "pack-….idx".
func (f *File) Packs() []string { return f.packs }

// Len returns the number of objects.
func (f *File) Len() int { return f.ids.Len() }

// Find returns the pack (an index into Packs) and the offset of an object.
func (f *File) Find(id pack.ID) (p int, off int64, ok bool, err error) {
	i, ok, err := f.ids.Find(id)
	if err != nil || !ok {
		return 0, 0, false, err
	}
	row := f.rows.Get().(*[8]byte)
	defer f.rows.Put(row)
	at := f.offs.off + 8*int64(i)
	if err := f.read(row[:], at); err != nil {
		return 0, 0, false, err
	}
	p, off, err = f.row(row, at)
	return p, off, err == nil, err
}

// row understands a row of OOFF, which stands at at, and may overwrite it.
func (f *File) row(row *[8]byte, at int64) (p int, off int64, err error) {
	n := binary.BigEndian.Uint32(row[:])
	if int64(n) >= int64(len(f.packs)) {
		return 0, 0, f.corrupt(at, fmt.Sprintf("pack %d of %d", n, len(f.packs)))
	}
	v := binary.BigEndian.Uint32(row[4:])
	if f.bigs.len() == 0 || v < bigOffset {
		return int(n), int64(v), nil
	}
	big := f.bigs.off + 8*int64(v&^bigOffset)
	if big >= f.bigs.end {
		return 0, 0, f.corrupt(at, "offset points outside the table of large offsets")
	}
	if err := f.read(row[:], big); err != nil {
		return 0, 0, err
	}
	off = int64(binary.BigEndian.Uint64(row[:]))
	if off < 0 {
		return 0, 0, f.corrupt(big, "offset above 2^63")
	}
	return int(n), off, nil
}

// BuildFilter makes Find answer most misses from memory.
func (f *File) BuildFilter() error { return f.ids.BuildFilter() }

// Verify checks the whole file: order, checksum, pack numbers.
func (f *File) Verify() error {
	if err := pack.CheckTrailer(f.name, f.r, f.size); err != nil {
		return err
	}
	if err := f.ids.Check(); err != nil {
		return err
	}
	buf := make([]byte, 8*min(scanStep, f.Len()))
	for at := f.offs.off; at < f.offs.end; {
		rows := buf[:min(int64(len(buf)), f.offs.end-at)]
		if err := f.read(rows, at); err != nil {
			return err
		}
		for ; len(rows) > 0; rows = rows[8:] {
			if _, _, err := f.row((*[8]byte)(rows), at); err != nil {
				return err
			}
			at += 8
		}
	}
	return nil
}

// read fills b from off on.
func (f *File) read(b []byte, off int64) error {
	n, err := f.r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil // ReaderAt may add io.EOF to a complete read
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return f.corrupt(off+int64(n), "file is cut short")
	case err == nil:
		err = io.ErrNoProgress
	}
	return fmt.Errorf("%s: %w", f.name, err)
}

func (f *File) corrupt(off int64, reason string) error {
	return &pack.CorruptError{File: f.name, Off: off, Reason: reason}
}
