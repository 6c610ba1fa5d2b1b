package index

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Limits of a record. What the kernel gives stays far below them, but for the
// paths of trees that somebody made deep on purpose.
const (
	maxPath    = 8 << 20
	maxTarget  = 64 << 10
	maxExtras  = 16 << 20
	maxChunker = 255
	maxSize    = math.MaxInt64 - 4095 // so that plainBlocksOf does not overflow
)

// The bits of a record's state byte; the first two are Flags.
const (
	hasID      = 0x04
	hasChunker = 0x08
	hasTarget  = 0x10
	hasExtras  = 0x20
	hasBelow   = 0x40
	hasTotals  = 0x80
)

// The bits of a record's word of abbreviations: each says something of a field
// that is then left out.
const (
	sameDev = 1 << iota
	sameMode
	sameOwner
	sameGitMode
	oneLink
	noRdev
	plainBlocks
	ctimeIsMtime
	atimeIsMtime
	mtimeWhole
	ctimeWhole
	atimeWhole
	shortBits = 1<<iota - 1
)

// plainBlocksOf is what st_blocks says of a file without holes on a file system
// with blocks of 4 KiB.
func plainBlocksOf(size int64) int64 { return (size + 4095) / 4096 * 8 }

func zigzag(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// An encoder makes one block.
type encoder struct {
	buf     []byte
	count   int
	key     []byte // of the last record
	stat    fsx.Stat
	gitMode uint32
	chunker string // named last
}

func (e *encoder) reset() {
	*e = encoder{buf: e.buf[:0], key: e.key[:0]}
}

// append adds a record. It fails if the record breaks a limit or the order.
func (e *encoder) append(r *Record) error {
	key := keyOf(r.Path)
	shared := commonPrefix(stringOf(e.key), key)
	why := checkRecord(r)
	if why == "" && e.count > 0 {
		why = checkOrder(stringOf(e.key), shared, key[shared:])
	}
	if why == "" {
		why = checkClean(key, shared)
	}
	if why != "" {
		return fmt.Errorf("%s: %s", r.Path, why)
	}
	b := binary.AppendUvarint(e.buf, uint64(shared))
	b = binary.AppendUvarint(b, uint64(len(key)-shared))
	b = append(b, key[shared:]...)
	e.key = append(e.key[:shared], key[shared:]...)

	b = append(b, r.state())
	short := e.short(r)
	b = binary.LittleEndian.AppendUint16(b, short)
	b = e.appendStat(b, &r.Stat, short)
	if short&sameGitMode == 0 {
		b = binary.AppendUvarint(b, uint64(r.GitMode))
	}
	if !r.ID.IsZero() {
		b = r.ID.AppendBytes(b)
	}
	if r.Chunker != "" {
		if r.Chunker == e.chunker {
			b = append(b, 0)
		} else {
			b = append(b, byte(len(r.Chunker)))
			b = append(b, r.Chunker...)
			e.chunker = string(bytesOf(r.Chunker))
		}
	}
	if r.Target != "" {
		b = binary.AppendUvarint(b, uint64(len(r.Target)))
		b = append(b, r.Target...)
	}
	if len(r.Extras) > 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Extras)))
		b = append(b, r.Extras...)
	}
	if r.Below > 0 {
		b = binary.AppendUvarint(b, r.Below)
	}
	if r.Files > 0 {
		b = binary.AppendUvarint(b, r.Files)
		b = binary.AppendUvarint(b, r.Bytes)
	}
	e.buf, e.stat, e.gitMode = b, r.Stat, r.GitMode
	e.count++
	return nil
}

// state returns a record's state byte.
func (r *Record) state() byte {
	s := byte(r.Flags)
	if !r.ID.IsZero() {
		s |= hasID
	}
	if r.Chunker != "" {
		s |= hasChunker
	}
	if r.Target != "" {
		s |= hasTarget
	}
	if len(r.Extras) > 0 {
		s |= hasExtras
	}
	if r.Below > 0 {
		s |= hasBelow
	}
	if r.Files > 0 {
		s |= hasTotals
	}
	return s
}

// short returns a record's word of abbreviations.
func (e *encoder) short(r *Record) uint16 {
	st, prev := &r.Stat, &e.stat
	w := uint16(0)
	set := func(bit uint16, holds bool) {
		if holds {
			w |= bit
		}
	}
	set(sameDev, st.Dev == prev.Dev)
	set(sameMode, st.Mode == prev.Mode)
	set(sameOwner, st.UID == prev.UID && st.GID == prev.GID)
	set(sameGitMode, r.GitMode == e.gitMode)
	set(oneLink, st.Nlink == 1)
	set(noRdev, st.Rdev == 0)
	set(plainBlocks, st.Blocks == plainBlocksOf(st.Size))
	set(mtimeWhole, st.Mtime.Nsec == 0)
	if st.Ctime == st.Mtime {
		w |= ctimeIsMtime
	} else {
		set(ctimeWhole, st.Ctime.Nsec == 0)
	}
	if st.Atime == st.Mtime {
		w |= atimeIsMtime
	} else {
		set(atimeWhole, st.Atime.Nsec == 0)
	}
	return w
}

func (e *encoder) appendStat(b []byte, st *fsx.Stat, short uint16) []byte {
	prev := &e.stat
	if short&sameDev == 0 {
		b = binary.AppendUvarint(b, st.Dev)
	}
	b = binary.AppendUvarint(b, zigzag(int64(st.Ino-prev.Ino)))
	if short&sameMode == 0 {
		b = binary.AppendUvarint(b, uint64(st.Mode))
	}
	if short&sameOwner == 0 {
		b = binary.AppendUvarint(b, uint64(st.UID))
		b = binary.AppendUvarint(b, uint64(st.GID))
	}
	if short&oneLink == 0 {
		b = binary.AppendUvarint(b, st.Nlink)
	}
	if short&noRdev == 0 {
		b = binary.AppendUvarint(b, st.Rdev)
	}
	b = binary.AppendUvarint(b, uint64(st.Size))
	if short&plainBlocks == 0 {
		b = binary.AppendUvarint(b, uint64(st.Blocks))
	}
	b = appendTime(b, st.Mtime, prev.Mtime, short&mtimeWhole != 0)
	if short&ctimeIsMtime == 0 {
		b = appendTime(b, st.Ctime, prev.Ctime, short&ctimeWhole != 0)
	}
	if short&atimeIsMtime == 0 {
		b = appendTime(b, st.Atime, prev.Atime, short&atimeWhole != 0)
	}
	return b
}

func appendTime(b []byte, t, prev fsx.Time, whole bool) []byte {
	b = binary.AppendUvarint(b, zigzag(t.Sec-prev.Sec))
	if !whole {
		b = binary.LittleEndian.AppendUint32(b, uint32(t.Nsec))
	}
	return b
}

// checkRecord returns what is wrong with a record, its path's place and form
// aside, "" if nothing is.
func checkRecord(r *Record) string {
	switch {
	case len(r.Path) >= maxPath:
		return "path too long"
	case len(r.Target) > maxTarget:
		return "target of the link too long"
	case len(r.Extras) > maxExtras:
		return "extended attributes too large"
	case len(r.Chunker) > maxChunker:
		return "name of the chunker too long"
	case r.Flags&^(Exists|Valid) != 0:
		return "unknown flag"
	case r.Flags == Valid:
		return "valid, but does not exist"
	case r.Stat.Size < 0 || r.Stat.Size > maxSize || r.Stat.Blocks < 0:
		return "size out of range"
	case r.Files == 0 && r.Bytes > 0:
		return "bytes in no files"
	}
	for _, t := range [...]fsx.Time{r.Stat.Mtime, r.Stat.Ctime, r.Stat.Atime} {
		if t.Nsec < 0 || t.Nsec > 999_999_999 {
			return "nanoseconds out of range"
		}
	}
	return ""
}
