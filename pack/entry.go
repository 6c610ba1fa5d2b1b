package pack

// Entry is an object as it stands in a pack: header and zlib stream, the form
// in which it crosses the network and reaches the disk unchanged.
type Entry struct {
	ID    ID
	CRC   uint32 // CRC-32 (IEEE) of Bytes
	Bytes []byte
}

// ParseHeader returns the type and the inflated size that an entry claims, and
// the length of the header. Deltas are refused with ErrDelta.
func ParseHeader(b []byte) (t Type, size int64, n int, err error) { panic("stub") }

// Encoder makes entries. It is used by one goroutine at a time.
type Encoder struct{}

// NewEncoder returns an encoder at a zlib level, 0 (stored) to 9. Content that
// does not compress is found by a cheap probe and stored.
func NewEncoder(level int) *Encoder { panic("stub") }

// Append appends the entry of an object to dst and returns dst and the CRC of
// what was appended. It does not allocate if dst is large enough
// (len(dst)+EncodedLimit(len(body)) always is).
func (e *Encoder) Append(dst []byte, t Type, body []byte) ([]byte, uint32) { panic("stub") }

// EncodedLimit returns the size that an entry of n bytes never exceeds.
func EncodedLimit(n int) int { panic("stub") }

// Decoder inflates entries. It is used by one goroutine at a time.
type Decoder struct{}

// NewDecoder returns a decoder that refuses objects larger than limit bytes.
func NewDecoder(limit int64) *Decoder { panic("stub") }

// Append inflates the entry at the front of entry, appends its body to dst and
// returns dst, the type, and how many bytes of entry it took. It stops at the
// declared size, and fails if there is more or less. Deltas: ErrDelta.
func (d *Decoder) Append(dst []byte, entry []byte) (out []byte, t Type, n int, err error) {
	panic("stub")
}
