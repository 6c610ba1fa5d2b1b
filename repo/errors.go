package repo

import (
	"errors"
	"fmt"

	"github.com/kedgebackup/kedge/pack"
)

// MissingError says that an object is not in the repository.
type MissingError struct{ ID pack.ID }

// Error says what is wrong.
func (e *MissingError) Error() string { return fmt.Sprintf("object %v is missing", e.ID) }

// RefChangedError says that a ref is not where the caller thought.
type RefChangedError struct {
	Ref       string
	Want, Got pack.ID
}

// Error says what is wrong.
func (e *RefChangedError) Error() string {
	return fmt.Sprintf("%s is at %v, not at %v", e.Ref, e.Got, e.Want)
}

// ExistsError says that a Store has another file of that name.
type ExistsError struct{ Name string }

// Error says what is wrong.
func (e *ExistsError) Error() string {
	return fmt.Sprintf("%s exists with other content", e.Name)
}

// NotFoundError says that there is no such repository, save name, save or path.
type NotFoundError struct {
	What string   // "repository", "name", "save", "path"
	Name string   // what was asked for
	Near []string // names that look like it
	// Front is what Name and all of Near begin with, if it is no name itself, only
	// the front of names: "a" where there are "a/b" and "a/c". Else it is empty.
	Front string
}

// Error says what is wrong.
func (e *NotFoundError) Error() string { return fmt.Sprintf("no such %s: %q", e.What, e.Name) }

// BusyError says that somebody else held something for longer than it was
// worth to wait. Trying again later is right; nothing is damaged.
type BusyError struct {
	What string // what is held, a file if there is one
	Hint string // the way out if it stays like that; may be empty
}

// Error says what is wrong.
func (e *BusyError) Error() string {
	if e.Hint == "" {
		return e.What + " is busy"
	}
	return e.What + " is busy: " + e.Hint
}

// ErrReadOnly says that the repository was opened for reading only.
var ErrReadOnly = errors.New("repository was opened for reading only")

// ErrClosed says that the session or the repository was closed before.
var ErrClosed = errors.New("already closed")

// ConfigError says that a repository is of a kind that this program does not
// work on: a newer format, an unknown chunker, somebody's work tree.
type ConfigError struct{ Reason string }

// Error says what is wrong.
func (e *ConfigError) Error() string { return e.Reason }

// RefusedError says that whoever keeps the repository does not allow it: the role
// of a key, a quota, a policy.
type RefusedError struct{ Reason string }

// Error says what is wrong.
func (e *RefusedError) Error() string { return "refused: " + e.Reason }
