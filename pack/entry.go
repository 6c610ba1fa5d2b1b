package pack

import (
	"fmt"
	"hash/crc32"
	"math"
	"slices"
)

// Entry is an object as it stands in a pack: header and zlib stream, the form
// in which it crosses the network and reaches the disk unchanged.
type Entry struct {
	ID    ID
	CRC   uint32 // CRC-32 (IEEE) of Bytes
	Bytes []byte
}

// The kinds of a pack entry that are no object types.
const (
	ofsDelta = 6
	refDelta = 7
)

// maxVarint is the number of bytes that a length of 63 bits may take. A longer
// one is an error even if its upper bits are zero.
const maxVarint = 10

// maxInflation bounds what a deflate stream can hold: at best two bits, one
// length and one distance, stand for 258 bytes. It is what lets readers
// allocate from bytes present and not from sizes claimed.
const maxInflation = 1032

// appendHeader appends the header of an entry.
func appendHeader(dst []byte, kind uint8, size int) []byte {
	c := kind<<4 | byte(size)&0x0f
	n := uint(size) >> 4
	for n != 0 {
		dst = append(dst, c|0x80)
		c = byte(n) & 0x7f
		n >>= 7
	}
	return append(dst, c)
}

// parseHeader reads the header of an entry, a delta's too.
func parseHeader(b []byte) (kind uint8, size int64, n int, err error) {
	if len(b) == 0 {
		return 0, 0, 0, corrupt(0, "entry is cut short")
	}
	c := b[0]
	kind = c >> 4 & 7
	v := uint64(c & 0x0f)
	n = 1
	for shift := 4; c&0x80 != 0; shift += 7 {
		if n == len(b) {
			return 0, 0, n, corrupt(n, "entry is cut short")
		}
		c = b[n]
		if n++; n > maxVarint || uint64(c&0x7f)>>(63-shift) != 0 {
			return 0, 0, n, corrupt(0, "entry claims more than 2^63-1 bytes")
		}
		v |= uint64(c&0x7f) << shift
	}
	if kind == 0 || kind == 5 {
		return 0, 0, n, corrupt(0, fmt.Sprintf("entry of unknown type %d", kind))
	}
	return kind, int64(v), n, nil
}

// ParseHeader returns the type and the inflated size that an entry claims, and
// the length of the header. Deltas are refused with ErrDelta.
func ParseHeader(b []byte) (t Type, size int64, n int, err error) {
	kind, size, n, err := parseHeader(b)
	if err == nil && kind >= ofsDelta {
		return 0, size, n, ErrDelta
	}
	return Type(kind), size, n, err
}

// Encoder makes entries. It is used by one goroutine at a time.
type Encoder struct {
	z deflater
}

// NewEncoder returns an encoder at a zlib level, 0 (stored) to 9; numbers
// outside mean the nearest. Content that does not compress is found by a cheap
// probe and stored. The same objects in the same order become the same bytes;
// what one object becomes may depend on those before it.
func NewEncoder(level int) *Encoder {
	return &Encoder{z: newDeflater(min(max(level, 0), 9))}
}

// Append appends the entry of an object to dst and returns dst and the CRC of
// what was appended. It does not allocate if dst is large enough
// (len(dst)+EncodedLimit(len(body)) always is).
func (e *Encoder) Append(dst []byte, t Type, body []byte) ([]byte, uint32) {
	at := len(dst)
	dst = slices.Grow(dst, EncodedLimit(len(body)))
	dst = appendHeader(dst, uint8(t), len(body))
	dst = e.z.append(dst, body)
	return dst, crc32.ChecksumIEEE(dst[at:])
}

// EncodedLimit returns the size that an entry of n bytes never exceeds: header,
// zlib header and checksum, and the body in stored blocks. What would become
// larger by compression is stored.
func EncodedLimit(n int) int {
	return maxVarint + 2 + n + storedHead*storedBlocks(n) + 4
}

// Decoder inflates entries. It is used by one goroutine at a time.
type Decoder struct {
	limit int64
	z     inflater
}

// NewDecoder returns a decoder that refuses objects larger than limit bytes.
func NewDecoder(limit int64) *Decoder { return &Decoder{limit: limit} }

// Append inflates the entry at the front of entry, appends its body to dst and
// returns dst, the type, and how many bytes of entry it took. It stops at the
// declared size, and fails if there is more or less: *CorruptError with File
// "" and the place counted from the front of entry. Deltas: ErrDelta. Above
// the limit: ErrTooLarge. What follows the entry is not looked at. After an
// error dst comes back as it was.
func (d *Decoder) Append(dst []byte, entry []byte) (out []byte, t Type, n int, err error) {
	t, size, n, err := ParseHeader(entry)
	if err != nil {
		return dst, 0, n, err
	}
	if err := checkSize(size, d.limit); err != nil {
		return dst, 0, n, err
	}
	if size/maxInflation > int64(len(entry)-n) {
		return dst, 0, n, corrupt(0, "entry claims more than its bytes can hold")
	}
	at := len(dst)
	out = slices.Grow(dst, int(size))[:at+int(size)]
	ns, err := d.z.run(out[at:], entry[n:])
	if err == errShort {
		return dst, 0, len(entry), corrupt(len(entry), errShort.Error())
	}
	if err != nil {
		return dst, 0, n + ns, shift(err, n)
	}
	return out, t, n + ns, nil
}

// shift moves the place of a parser's error n bytes on, because the parser saw
// only what came after them.
func shift(err error, n int) error {
	if c, ok := err.(*CorruptError); ok && c.Off >= 0 {
		c.Off += int64(n)
	}
	return err
}

// checkSize fails if an object of size bytes is not to be read.
func checkSize(size, limit int64) error {
	if size > limit || size > math.MaxInt-1<<20 {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, limit)
	}
	return nil
}
