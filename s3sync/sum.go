package s3sync

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
)

// Sum is a SHA-256.
type Sum [sha256.Size]byte

// SumOf returns the SHA-256 of b.
func SumOf(b []byte) Sum { return sha256.Sum256(b) }

// String returns it in hexadecimal digits.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// IsZero reports whether the sum is not known.
func (s Sum) IsZero() bool { return s == Sum{} }

// ParseSum reads 64 hexadecimal digits in lower case.
func ParseSum(text string) (s Sum, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(s) || hex.EncodeToString(b) != text {
		return s, errors.New("not a SHA-256")
	}
	return Sum(b), nil
}

// sumReader returns the SHA-256 of the first size bytes of r.
func sumReader(r io.ReaderAt, size int64) (s Sum, err error) {
	h := sha256.New()
	n, err := io.CopyBuffer(h, io.NewSectionReader(r, 0, size), make([]byte, 256<<10))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	h.Sum(s[:0])
	return s, err
}
