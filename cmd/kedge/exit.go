package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/save"
)

// The exit codes. A script may rely on them: they are part of the interface,
// and docs/exit-codes.md explains each.
const (
	exitDone        = 0   // everything was done
	exitFailed      = 1   // it failed, for a reason that has no code of its own
	exitUsage       = 2   // the command line or the configuration is wrong; nothing was done
	exitPartial     = 3   // done, but some items could not be read or fully restored
	exitNotFound    = 4   // there is no such repository, save name, save or path
	exitDamaged     = 5   // something stored is damaged
	exitRefused     = 6   // the other side refused: role, quota, host key
	exitBusy        = 7   // something else held a lock for too long, or time ran out
	exitInterrupted = 130 // stopped by a signal
)

// exitText is the table that `kedge help exit-codes` prints. A test holds it
// against docs/exit-codes.md.
var exitText = [...]struct {
	code int
	text string
}{
	{exitDone, "done"},
	{exitFailed, "failed"},
	{exitUsage, "the command line or the configuration is wrong; nothing was done"},
	{exitPartial, "done, but some items could not be read or fully restored"},
	{exitNotFound, "no such repository, save name, save or path"},
	{exitDamaged, "something stored is damaged"},
	{exitRefused, "refused by the other side: role, quota, host key"},
	{exitBusy, "busy, or out of time: something else held a lock for too long"},
	{exitInterrupted, "interrupted by a signal"},
}

// usageError says that the command line is wrong.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// codedError is an error whose exit code is decided where it arises.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// partialError is the outcome of a command that did all it could: every item it
// could not do was named in a warning before.
type partialError struct{ msg string }

func (e *partialError) Error() string { return e.msg }

// hintedError carries advice apart from the error, so that the error stays one
// plain sentence and JSON has the two in two fields.
type hintedError struct {
	err   error
	hints []string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

func withHint(err error, hints ...string) error {
	return &hintedError{err: err, hints: hints}
}

// exitCode is the one place that maps errors to exit codes. The first rule
// that fits decides, so what is certain stands above what is general: an
// interrupted command fails in many ways, and all of them are the interruption.
func exitCode(ctx context.Context, err error) int {
	var (
		coded    *codedError
		usage    *usageError
		partial  *partialError
		notFound *repo.NotFoundError
		corrupt  *pack.CorruptError
		missing  *repo.MissingError
		moved    *repo.RefChangedError
		busy     *repo.BusyError
		notDir   *repo.NotDirError
		noLink   *repo.LinkError
		unknown  *save.NotIndexedError
		twice    *save.CollisionError
		config   *repo.ConfigError
		newer    *index.VersionError
		refused  *repo.RefusedError
		host     *remote.HostKeyError
	)
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil, errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &usage), errors.As(err, &twice), errors.As(err, &config), errors.As(err, &newer):
		return exitUsage
	case errors.As(err, &partial):
		return exitPartial
	case errors.As(err, &refused):
		return exitRefused
	case errors.As(err, &notFound), errors.As(err, &notDir), errors.As(err, &noLink), errors.As(err, &unknown):
		return exitNotFound
	case errors.As(err, &corrupt), errors.As(err, &missing):
		return exitDamaged
	case errors.As(err, &refused), errors.As(err, &host):
		return exitRefused
	case errors.Is(err, fsx.ErrLocked), errors.As(err, &busy), errors.As(err, &moved),
		errors.Is(err, context.DeadlineExceeded):
		return exitBusy
	}
	return exitFailed
}

// hints returns what a user may do about an error. name is how the program was
// called.
func hints(name string, err error) []string {
	var h []string
	var hinted *hintedError
	for e := err; errors.As(e, &hinted); e = hinted.err {
		h = append(h, hinted.hints...)
	}
	var (
		usage    *usageError
		notFound *repo.NotFoundError
		corrupt  *pack.CorruptError
		missing  *repo.MissingError
	)
	switch {
	case errors.As(err, &usage) && len(h) == 0:
		h = append(h, fmt.Sprintf("'%s COMMAND --help' lists the options of a command", name))
	case errors.As(err, &notFound) && (notFound.What != "repository" || len(h) == 0): // which may have been told better
		h = append(h, notFoundHints(name, notFound)...)
	case len(h) > 0:
	case errors.As(err, &corrupt) && path.Base(corrupt.File) == "config":
		h = append(h, "correct that line by hand: 'git config -f FILE --list' tells when the file is in order; what is saved is not affected")
	case errors.As(err, &corrupt), errors.As(err, &missing):
		h = append(h, fmt.Sprintf("'%s fsck' tells which saves and paths are affected", name))
	case errors.Is(err, fsx.ErrLocked):
		h = append(h, fmt.Sprintf("another %s is at work there; wait for it, or see who with fuser(1)", name))
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		h = append(h, "nothing that was saved before is lost; make room and run the command again")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		h = append(h, "check who owns it, and how it is mounted")
	}
	return h
}

func notFoundHints(name string, e *repo.NotFoundError) []string {
	var h []string
	near := make([]string, len(e.Near))
	for i, n := range e.Near {
		near[i] = escape(n)
	}
	switch {
	case e.Front != "" && len(near) > 0:
		h = append(h, escape(e.Front)+" alone is no name; it is the front of "+strings.Join(near, ", "))
	case len(near) > 0:
		h = append(h, "did you mean "+strings.Join(near, " or ")+"?")
	}
	switch e.What {
	case "repository":
		h = append(h, fmt.Sprintf("'%s init' makes one; -d DIR or $%s says where it is", name, dirVariable(name)))
	case "name":
		h = append(h, fmt.Sprintf("'%s ls' lists the save names", name))
	case "save":
		dir := path.Dir(e.Name)
		if dir == "." {
			dir = e.Name
		}
		h = append(h, fmt.Sprintf("'%s ls %s' lists the saves; latest is the newest", name, escape(dir)))
	}
	return h
}
