package index

import (
	"encoding/binary"
	"math"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// A decoder reads one block, in which every length is checked against the bytes
// that are there before anything is done with it.
type decoder struct {
	b       []byte
	pos     int
	key     []byte // of the current record
	rec     Record
	chunker string // named last in this block, "" if none was
	intern  string // the last name of all, to save the allocation of the same again
	first   bool
	why     string // what is wrong, once something is
}

func (d *decoder) reset(block []byte) {
	*d = decoder{b: block, key: d.key[:0], intern: d.intern, first: true}
}

// next decodes a record into d.rec. It returns false, and why is set, if the
// bytes are none. The caller has seen to it that there are bytes left.
func (d *decoder) next() bool {
	shared := d.uvarint()
	if shared > uint64(len(d.key)) {
		return d.fail("shared part longer than the path before")
	}
	suffix := d.bytes(d.uvarint())
	if int(shared)+len(suffix) >= maxPath {
		return d.fail("path too long")
	}
	// The order first: the key of the record before is about to be overwritten.
	if !d.first {
		if why := checkOrder(stringOf(d.key), int(shared), stringOf(suffix)); why != "" {
			return d.fail(why)
		}
	}
	d.key = append(d.key[:shared], suffix...)
	if why := checkClean(stringOf(d.key), int(shared)); why != "" {
		return d.fail(why)
	}
	d.rec.Path = "/"
	if len(d.key) > 0 {
		d.rec.Path = stringOf(d.key)
	}

	state := d.byte()
	d.rec.Flags = Flags(state) & (Exists | Valid)
	if d.rec.Flags == Valid {
		return d.fail("valid, but does not exist")
	}
	short := d.uint16()
	if short&^shortBits != 0 {
		return d.fail("unknown abbreviations")
	}
	d.stat(short)
	if short&sameGitMode == 0 {
		d.rec.GitMode = d.uint32()
	}
	d.tail(state)
	d.first = false
	return d.why == ""
}

// stat decodes the stat data.
func (d *decoder) stat(short uint16) {
	st := &d.rec.Stat
	if short&sameDev == 0 {
		st.Dev = d.uvarint()
	}
	st.Ino += uint64(unzigzag(d.uvarint()))
	if short&sameMode == 0 {
		st.Mode = d.uint32()
	}
	if short&sameOwner == 0 {
		st.UID, st.GID = d.uint32(), d.uint32()
	}
	st.Nlink = 1
	if short&oneLink == 0 {
		st.Nlink = d.uvarint()
	}
	st.Rdev = 0
	if short&noRdev == 0 {
		st.Rdev = d.uvarint()
	}
	size := d.uvarint()
	if size > maxSize {
		d.fail("size out of range")
	}
	st.Size = int64(size)
	st.Blocks = plainBlocksOf(st.Size)
	if short&plainBlocks == 0 {
		st.Blocks = int64(d.uvarint())
		if st.Blocks < 0 {
			d.fail("size out of range")
		}
	}
	st.Mtime = d.time(st.Mtime, short&mtimeWhole != 0)
	if short&ctimeIsMtime != 0 {
		st.Ctime = st.Mtime
	} else {
		st.Ctime = d.time(st.Ctime, short&ctimeWhole != 0)
	}
	if short&atimeIsMtime != 0 {
		st.Atime = st.Mtime
	} else {
		st.Atime = d.time(st.Atime, short&atimeWhole != 0)
	}
}

func (d *decoder) time(prev fsx.Time, whole bool) fsx.Time {
	t := fsx.Time{Sec: prev.Sec + unzigzag(d.uvarint())}
	if !whole {
		if b := d.bytes(4); b != nil {
			nsec := binary.LittleEndian.Uint32(b)
			if nsec > 999_999_999 {
				d.fail("nanoseconds out of range")
			}
			t.Nsec = int32(nsec)
		}
	}
	return t
}

// tail decodes what only some records have.
func (d *decoder) tail(state byte) {
	r := &d.rec
	r.ID, r.Chunker, r.Target, r.Extras, r.Below, r.Files, r.Bytes = pack.ID{}, "", "", nil, 0, 0, 0
	if state&hasID != 0 {
		id, rest, ok := pack.CutID(d.b[d.pos:])
		if !ok || id.IsZero() {
			d.fail("no id")
			return
		}
		r.ID, d.pos = id, len(d.b)-len(rest)
	}
	if state&hasChunker != 0 {
		d.namedChunker()
	}
	if state&hasTarget != 0 {
		r.Target = stringOf(d.sized(maxTarget))
	}
	if state&hasExtras != 0 {
		r.Extras = d.sized(maxExtras)
	}
	if state&hasBelow != 0 {
		if r.Below = d.uvarint(); r.Below == 0 {
			d.fail("nothing where there should be something")
		}
	}
	if state&hasTotals != 0 {
		if r.Files, r.Bytes = d.uvarint(), d.uvarint(); r.Files == 0 {
			d.fail("nothing where there should be something")
		}
	}
}

// namedChunker reads the name of a chunker, or that it is the one named last.
func (d *decoder) namedChunker() {
	if n := d.byte(); n > 0 {
		name := d.bytes(uint64(n))
		if string(name) != d.intern {
			d.intern = string(name)
		}
		d.chunker = d.intern
	}
	if d.rec.Chunker = d.chunker; d.chunker == "" {
		d.fail("chunker not named yet")
	}
}

// fail notes what is wrong, and sees to it that nothing more is read.
func (d *decoder) fail(why string) bool {
	if d.why == "" {
		d.why = why
	}
	d.pos = len(d.b)
	return false
}

func (d *decoder) uvarint() uint64 {
	if d.pos < len(d.b) && d.b[d.pos] < 0x80 {
		d.pos++
		return uint64(d.b[d.pos-1])
	}
	v, n := binary.Uvarint(d.b[d.pos:])
	if n <= 0 || d.b[d.pos+n-1] == 0 { // the last byte is 0 only if there was a shorter way
		d.fail("bad number")
		return 0
	}
	d.pos += n
	return v
}

func (d *decoder) uint32() uint32 {
	v := d.uvarint()
	if v > math.MaxUint32 {
		d.fail("number out of range")
		return 0
	}
	return uint32(v)
}

// bytes takes n bytes; they belong to the block.
func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)-d.pos) {
		d.fail("record cut short")
		return nil
	}
	d.pos += int(n)
	return d.b[d.pos-int(n) : d.pos : d.pos]
}

// sized takes a length, which may not be 0, and as many bytes.
func (d *decoder) sized(limit uint64) []byte {
	n := d.uvarint()
	if n == 0 || n > limit {
		d.fail("length out of range")
		return nil
	}
	return d.bytes(n)
}

func (d *decoder) byte() byte {
	if d.pos >= len(d.b) {
		d.fail("record cut short")
		return 0
	}
	d.pos++
	return d.b[d.pos-1]
}

func (d *decoder) uint16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}
