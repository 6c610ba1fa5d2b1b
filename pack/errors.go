package pack

import (
	"errors"
	"fmt"
	"io"
)

// ErrDelta says that an entry is a delta where none may be.
var ErrDelta = errors.New("delta entry")

// ErrTooLarge says that an object is larger than the reader allows.
var ErrTooLarge = errors.New("object too large")

// ErrCollision says that an object's bytes are one half of a collision attack
// on SHA-1. Such an object is refused, whatever its id.
var ErrCollision = errors.New("SHA-1 collision attack")

// CorruptError says that a file does not hold what its format or its name says.
type CorruptError struct {
	File   string // empty if the bytes did not come from a file
	Off    int64  // -1 if the place is not known
	Reason string
}

// Error names file, reason and place, as far as they are known.
func (e *CorruptError) Error() string {
	s := e.Reason
	if e.Off >= 0 {
		s = fmt.Sprintf("%s at offset %d", s, e.Off)
	}
	if e.File != "" {
		s = e.File + ": " + s
	}
	return s
}

// corrupt is the error of the pure parsers, which know places but no file.
func corrupt(off int, reason string) error {
	return &CorruptError{Off: int64(off), Reason: reason}
}

// inFile gives an error of a pure parser, which read the bytes at off, the name
// of the file they came from. It passes everything else on under that name.
func inFile(name string, off int64, err error) error {
	if c, ok := err.(*CorruptError); ok {
		e := CorruptError{File: name, Off: c.Off, Reason: c.Reason}
		if e.Off >= 0 {
			e.Off += off
		}
		return &e
	}
	return fmt.Errorf("%s: object at offset %d: %w", name, off, err)
}

// readFull reads len(b) bytes at off. A file that ends before is corrupt: its
// size was known when it was opened.
func readFull(name string, r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil // ReaderAt may add io.EOF to a complete read
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return &CorruptError{File: name, Off: off + int64(n), Reason: "file is cut short"}
	case err == nil:
		err = io.ErrNoProgress
	}
	return fmt.Errorf("%s: %w", name, err)
}
