package remote

import (
	"bufio"
	"context"
	"io"

	"github.com/kedgebackup/kedge/repo"
)

// driver is one of the two protocols that a Client can speak, after the repository was
// chosen: frames (kedge's own) or bup's. It is a repo.Repo and nothing more; what only
// one of them can do is an interface of its own (repo.CommitWalker, repo.NameAllower,
// checker, storer), and a Client whose driver has it not does it another way or returns
// wire.ErrUnsupported.
type driver = repo.Repo

// checker is a driver whose server checks the repository.
type checker interface {
	Check(ctx context.Context, o repo.CheckOptions, report func(repo.Finding)) (repo.CheckResult, error)
}

// storer is a driver whose server gives the repository's files away.
type storer interface{ Store() repo.Store }

// greeting is a connection on which help was answered: both protocols begin here.
type greeting struct {
	conn     io.Closer
	r        *bufio.Reader
	heard    *counter  // below r
	w        *throttle // no faster than Options.BytesPerSecond
	commands []string  // that the server listed
	// name is the server, as messages call it; lastWords the end of what it said on
	// stderr, "" for nothing.
	name      string
	lastWords func() string
}

// peer is what a connection implements that knows who is at its other end.
type peer interface {
	String() string    // the server, as messages name it
	LastWords() string // the last lines of its stderr, "" for none
}
