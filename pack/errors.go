package pack

import (
	"errors"
	"fmt"
)

// ErrDelta says that an entry is a delta where none may be.
var ErrDelta = errors.New("delta entry")

// ErrTooLarge says that an object is larger than the reader allows.
var ErrTooLarge = errors.New("object too large")

// CorruptError says that a file does not hold what its format or its name says.
type CorruptError struct {
	File   string
	Off    int64 // -1 if the place is not known
	Reason string
}

func (e *CorruptError) Error() string {
	if e.Off < 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Reason)
	}
	return fmt.Sprintf("%s: %s at offset %d", e.File, e.Reason, e.Off)
}
