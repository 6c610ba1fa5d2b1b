package s3sync

import (
	"context"
	"errors"
	"io"
	"time"
)

// Objects is what is asked of an object store. Keys are whole: nothing is put before them.
// Errors: fs.ErrNotExist, ErrExists, *repo.RefusedError; others may be temporary, which
// IsTemporary tells.
type Objects interface {
	// Put creates an object, and fails with ErrExists if there is one of that key. The
	// store compares the bytes with the checksum.
	Put(ctx context.Context, key string, b Body) (version string, err error)
	// Get reads len(p) bytes at off, fewer only at the end of the object (io.EOF).
	Get(ctx context.Context, key, version string, p []byte, off int64) (int, error)
	// Stat describes an object.
	Stat(ctx context.Context, key, version string) (Object, error)
	// List calls fn for every object whose key begins with prefix and comes after a key,
	// in byte order.
	List(ctx context.Context, prefix, after string, fn func(Object) error) error
	// Delete deletes an object; with a version that version alone. One that is not there is
	// no error.
	Delete(ctx context.Context, key, version string) error
	// Retain keeps an object from being deleted until a time.
	Retain(ctx context.Context, key, version string, until time.Time) error
}

// Body is what an object is to hold.
type Body struct {
	io.ReaderAt
	Size   int64
	SHA256 Sum
}

// Object describes an object of a store.
type Object struct {
	Key      string
	Version  string // "" where the bucket keeps none
	Size     int64
	SHA256   Sum // zero if the store does not tell
	Modified time.Time
}

// ErrExists says that there is an object of that key.
var ErrExists = errors.New("object exists")

// temporaryError is an error that may be gone at the next try.
type temporaryError struct{ err error }

// Error says what is wrong.
func (e *temporaryError) Error() string { return e.err.Error() }

// Unwrap returns the error itself.
func (e *temporaryError) Unwrap() error { return e.err }

// Temporary marks an error as one that may be gone at the next try.
func Temporary(err error) error { return &temporaryError{err} }

// IsTemporary reports whether trying again may help.
func IsTemporary(err error) bool { return errors.As(err, new(*temporaryError)) }
