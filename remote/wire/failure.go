package wire

import (
	"errors"
	"fmt"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Failure is why a request came to nothing: byte code, then the fields of the error
// that it stands for, as encodes lists them. The client gets the error that it would
// have had from a repository of its own, so that a command need not know where its
// repository is.
type Failure struct{ Err error }

// The codes of failures. One that a client does not know has a text.
const (
	failText byte = iota
	failMissing
	failRefChanged
	failNotFound
	failBusy
	failCorrupt
	failConfig
	failRefused
	failReadOnly
	failExists
	failNotHere // an operation of the protocol that this server does not do
)

// ErrUnsupported says that the server does not do what was asked.
var ErrUnsupported = errors.New("the server cannot do this")

// Append appends the encoded failure. What an error says beyond the known types is
// sent as text.
func (f Failure) Append(b []byte) []byte {
	var (
		missing  *repo.MissingError
		changed  *repo.RefChangedError
		notFound *repo.NotFoundError
		busy     *repo.BusyError
		corrupt  *pack.CorruptError
		config   *repo.ConfigError
		refused  *repo.RefusedError
		exists   *repo.ExistsError
	)
	switch err := f.Err; {
	case errors.As(err, &refused):
		return putText(append(b, failRefused), refused.Reason)
	case errors.As(err, &missing):
		return putText(putID(append(b, failMissing), missing.ID), err.Error())
	case errors.As(err, &changed):
		return putID(putID(putText(append(b, failRefChanged), changed.Ref), changed.Want), changed.Got)
	case errors.As(err, &notFound):
		return Names(notFound.Near).Append(putText(putText(append(b, failNotFound), notFound.What), notFound.Name))
	case errors.As(err, &busy):
		return putText(putText(append(b, failBusy), busy.What), busy.Hint)
	case errors.As(err, &corrupt):
		return putText(putInt(putText(append(b, failCorrupt), corrupt.File), corrupt.Off), corrupt.Reason)
	case errors.As(err, &config):
		return putText(append(b, failConfig), config.Reason)
	case errors.As(err, &exists):
		return putText(append(b, failExists), exists.Name)
	case errors.Is(err, repo.ErrReadOnly):
		return append(b, failReadOnly)
	case errors.Is(err, ErrUnsupported):
		return putText(append(b, failNotHere), err.Error())
	default:
		return putText(append(b, failText), err.Error())
	}
}

// ServerError is a failure on the server that has no type of its own.
type ServerError struct{ Reason string }

// Error says what is wrong.
func (e *ServerError) Error() string { return "server: " + e.Reason }

// ParseFailure reads a failure and returns the error that it stands for; err says that
// the message itself is wrong.
func ParseFailure(b []byte) (failure, err error) {
	p := parser{b: b, what: "failure"}
	switch code := p.byte(); code {
	case failText:
		failure = &ServerError{p.text()}
	case failMissing:
		missing := &repo.MissingError{ID: p.id()}
		failure = &wrapped{p.text(), missing}
	case failRefChanged:
		failure = &repo.RefChangedError{Ref: p.text(), Want: p.id(), Got: p.id()}
	case failNotFound:
		e := &repo.NotFoundError{What: p.text(), Name: p.text()}
		for range p.count(1) {
			e.Near = append(e.Near, p.text())
		}
		failure = e
	case failBusy:
		failure = &repo.BusyError{What: p.text(), Hint: p.text()}
	case failCorrupt:
		failure = &pack.CorruptError{File: p.text(), Off: p.int(), Reason: p.text()}
	case failConfig:
		failure = &repo.ConfigError{Reason: p.text()}
	case failRefused:
		failure = &repo.RefusedError{Reason: p.text()}
	case failReadOnly:
		failure = repo.ErrReadOnly
	case failExists:
		failure = &repo.ExistsError{Name: p.text()}
	case failNotHere:
		failure = &wrapped{p.text(), ErrUnsupported}
	default:
		return nil, badFrame("failure of unknown code %d", code)
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	return failure, nil
}

// wrapped has the text of the server and the type of an error.
type wrapped struct {
	text string
	err  error
}

// Error says what is wrong, in the server's words.
func (w *wrapped) Error() string { return fmt.Sprintf("server: %s", w.text) }

// Unwrap returns the error that it stands for.
func (w *wrapped) Unwrap() error { return w.err }
