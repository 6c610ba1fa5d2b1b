package sshd

import (
	"context"
	"errors"

	"github.com/kedgebackup/kedge/repo"
)

// forClient returns what a client is told of an error: of those that are about it, their
// text; the rest is for the log alone.
func forClient(err error) string {
	var (
		refused *repo.RefusedError
		none    *repo.NotFoundError
		busy    *repo.BusyError
	)
	switch {
	case errors.As(err, &refused):
		return refused.Error()
	case errors.As(err, &none):
		return none.Error()
	case errors.As(err, &busy):
		return busy.Error()
	}
	return "the session ended with an error, which the log of the server names"
}

// exitStatus returns the exit code of an error, as kedge server under OpenSSH has it.
func exitStatus(err error) uint32 {
	var (
		refused *repo.RefusedError
		none    *repo.NotFoundError
		busy    *repo.BusyError
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refused):
		return 6
	case errors.As(err, &none):
		return 4
	case errors.As(err, &busy), errors.Is(err, context.DeadlineExceeded):
		return 7
	}
	return 1
}
