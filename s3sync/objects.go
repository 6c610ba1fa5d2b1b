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

// Parted is what a store implements that takes a large object in parts. An upload that the
// store does not know, or of which it lost a part, is fs.ErrNotExist.
type Parted interface {
	// Begin begins an upload and returns its id. Nothing has the key yet.
	Begin(ctx context.Context, key string) (upload string, err error)
	// PutPart stores part n, which counts from 1, in place of any that was there. The store
	// compares the bytes with the checksum.
	PutPart(ctx context.Context, key, upload string, n int, b Body) (Part, error)
	// Parts returns the parts that are there, by number.
	Parts(ctx context.Context, key, upload string) ([]Part, error)
	// Complete makes the parts an object, and fails with ErrExists if there is one of
	// that key.
	Complete(ctx context.Context, key, upload string, parts []Part) (version string, err error)
	// Abort forgets an upload. One that is not there is no error.
	Abort(ctx context.Context, key, upload string) error
}

// Versioned is what a store implements that tells of all versions, be they the newest or not.
type Versioned interface {
	// Versions calls fn for every version of the objects whose key begins with prefix and
	// comes after a key, in byte order of the keys, the oldest version of each first. Delete
	// markers are none.
	Versions(ctx context.Context, prefix, after string, fn func(Object) error) error
}

// versionedOf returns the Versioned that a store is.
func versionedOf(s Objects) (Versioned, bool) {
	if p, ok := s.(*Patient); ok { // has the method whatever it wraps
		_, ok = versionedOf(p.Objects)
		return p, ok
	}
	v, ok := s.(Versioned)
	return v, ok
}

// Part is a part of an upload.
type Part struct {
	N      int
	Size   int64
	SHA256 Sum    // zero if the store does not tell
	Tag    string // what the store calls it
}

// partedOf returns the Parted that a store is.
func partedOf(s Objects) (Parted, bool) {
	if p, ok := s.(*Patient); ok { // has the methods whatever it wraps
		_, ok = partedOf(p.Objects)
		return p, ok
	}
	p, ok := s.(Parted)
	return p, ok
}

// Body is what an object is to hold.
type Body struct {
	io.ReaderAt
	Size   int64
	SHA256 Sum
	// PartSums is that of the parts that it is sent in, as Object has it; zero if it has none.
	PartSums Sum
}

// Object describes an object of a store.
type Object struct {
	Key     string
	Version string // "" where the bucket keeps none
	Size    int64
	SHA256  Sum // zero if the store does not tell
	// PartSums is the SHA-256 of the SHA-256 of its parts, one after the other, which is what
	// stores tell of an object of several parts in place of SHA256.
	PartSums Sum
	Modified time.Time
	// Until is how long the object cannot be deleted; zero if the store does not tell.
	Until time.Time
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
