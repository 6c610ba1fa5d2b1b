package pack

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"

	"github.com/pjbgf/sha1cd"
)

// idSize is the width of an id in bytes.
const idSize = 20

// ID names a git object: the hash of its type, size and content. It is
// comparable; the zero ID names nothing. No other package knows how wide it is.
type ID struct{ h [idSize]byte }

// ParseID reads the hexadecimal form: as many lower-case digits as an id has,
// and nothing else.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*idSize {
		return ID{}, fmt.Errorf("object id %.50q: not %d digits long", s, 2*idSize)
	}
	for i := range id.h {
		hi, lo := unhex(s[2*i]), unhex(s[2*i+1])
		if hi|lo > 15 {
			return ID{}, fmt.Errorf("object id %q: not in lower-case hexadecimal digits", s)
		}
		id.h[i] = hi<<4 | lo
	}
	return id, nil
}

// unhex returns the value of a lower-case hexadecimal digit, or 255.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

// CutID takes an id in binary form off the front of b.
func CutID(b []byte) (id ID, rest []byte, ok bool) {
	if len(b) < idSize {
		return ID{}, b, false
	}
	return ID{[idSize]byte(b)}, b[idSize:], true
}

// AppendBytes appends the binary form.
func (id ID) AppendBytes(dst []byte) []byte { return append(dst, id.h[:]...) }

// AppendHex appends the hexadecimal form.
func (id ID) AppendHex(dst []byte) []byte { return hex.AppendEncode(dst, id.h[:]) }

// String returns the hexadecimal form.
func (id ID) String() string { return hex.EncodeToString(id.h[:]) }

// IsZero reports whether the id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders ids by their bytes.
func (id ID) Compare(o ID) int { return bytes.Compare(id.h[:], o.h[:]) }

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
func (t Type) String() string {
	switch t {
	case Commit:
		return "commit"
	case Tree:
		return "tree"
	case Blob:
		return "blob"
	case Tag:
		return "tag"
	}
	return "type " + strconv.Itoa(int(t))
}

// Hasher computes ids without allocating. It is used by one goroutine at a time.
type Hasher struct {
	h     hash.Hash
	guard sha1cd.CollisionResistantHash // the same hash, if it detects attacks
	head  [32]byte
	sum   [idSize]byte
}

// NewHasher returns a hasher on the fastest SHA-1 there is, for bytes that this
// machine read itself.
func NewHasher() *Hasher { return &Hasher{h: sha1.New()} }

// NewGuard returns a hasher that detects the known collision attacks on SHA-1,
// for bytes from someone else.
func NewGuard() *Hasher {
	g := sha1cd.New().(sha1cd.CollisionResistantHash)
	return &Hasher{h: g, guard: g}
}

// Sum returns the id of an object. A Guard fails on an attack with
// ErrCollision; other hashers never fail.
func (h *Hasher) Sum(t Type, body []byte) (ID, error) {
	h.h.Reset()
	h.h.Write(appendObjectHead(h.head[:0], t, len(body)))
	h.h.Write(body)
	if h.guard == nil {
		h.h.Sum(h.sum[:0])
		return ID{h.sum}, nil
	}
	// The plain Sum of a detecting hash answers an attack with a different
	// hash and no word about it, so it must not be used here.
	if _, attack := h.guard.CollisionResistantSum(h.sum[:0]); attack {
		return ID{}, fmt.Errorf("%v %v: %w", t, Sum(t, body), ErrCollision)
	}
	return ID{h.sum}, nil
}

// Sum returns the id of an object (convenience for small, rare ones).
func Sum(t Type, body []byte) ID {
	id, _ := NewHasher().Sum(t, body)
	return id
}

// appendObjectHead appends what git hashes in front of an object's content:
// its type, a blank, its length in decimal, a zero byte.
func appendObjectHead(dst []byte, t Type, n int) []byte {
	dst = append(dst, t.String()...)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(n), 10)
	return append(dst, 0)
}
