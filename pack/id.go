package pack

// ID names a git object: the hash of its type, size and content. It is
// comparable; the zero ID names nothing. No other package knows how wide it is.
type ID struct{ h [20]byte }

// ParseID reads the hexadecimal form.
func ParseID(s string) (ID, error) { panic("stub") }

// CutID takes an id in binary form off the front of b.
func CutID(b []byte) (id ID, rest []byte, ok bool) { panic("stub") }

// AppendBytes appends the binary form.
func (id ID) AppendBytes(dst []byte) []byte { panic("stub") }

// AppendHex appends the hexadecimal form.
func (id ID) AppendHex(dst []byte) []byte { panic("stub") }

// String returns the hexadecimal form.
func (id ID) String() string { panic("stub") }

// IsZero reports whether the id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders ids by their bytes.
func (id ID) Compare(o ID) int { panic("stub") }

// Type is the type of a git object, with the numbers of the pack format.
type Type uint8

// The four types. Deltas have no Type: readers resolve them.
const (
	Commit Type = 1
	Tree   Type = 2
	Blob   Type = 3
	Tag    Type = 4
)

// String returns git's word for the type.
func (t Type) String() string { panic("stub") }

// Hasher computes ids without allocating. It is used by one goroutine at a time.
type Hasher struct{}

// NewHasher returns a hasher on the fastest SHA-1 there is, for bytes that this
// machine read itself.
func NewHasher() *Hasher { panic("stub") }

// NewGuard returns a hasher that detects the known collision attacks on SHA-1,
// for bytes from someone else.
func NewGuard() *Hasher { panic("stub") }

// Sum returns the id of an object. A Guard fails on an attack; other hashers never fail.
func (h *Hasher) Sum(t Type, body []byte) (ID, error) { panic("stub") }

// Sum returns the id of an object (convenience for small, rare ones).
func Sum(t Type, body []byte) ID { panic("stub") }
