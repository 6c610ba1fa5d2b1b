package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/kedgebackup/kedge/repo"
)

// dialTimeout is how long connecting may take if Options say nothing, and askTimeout how
// long if ssh may be asking somebody for a passphrase.
const (
	dialTimeout = 30 * time.Second
	askTimeout  = 5 * time.Minute
)

// The programs that a client asks a server for, one after the other: the second if the
// first is not there. It is one of the two forms in which bup's own clients ask, because
// a server with a forced command may know these alone.
const (
	kedgeServer = "kedge server"
	bupServer   = "sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0  bup server'"
)

// Dial connects to a server and opens a repository. The server may be kedge's or bup's.
// Ctx is for connecting; a Client lives on when it ends.
// Errors: *repo.NotFoundError, *repo.RefusedError, *HostKeyError.
func Dial(ctx context.Context, a Address, o Options) (*Client, error) {
	var c *Client
	err := reach(ctx, a, o, func(conn io.ReadWriteCloser, o Options) (err error) {
		c, err = NewClient(ctx, conn, a.Path, o)
		return err
	})
	return c, err
}

// List returns the names of the repositories that a key may see.
func List(ctx context.Context, a Address, o Options) ([]string, error) {
	var names []string
	err := reach(ctx, a, o, func(conn io.ReadWriteCloser, o Options) (err error) {
		names, err = listRepos(ctx, conn, o)
		return err
	})
	return names, err
}

// reach connects and gives the connection to use. If the server has no kedge, it connects
// again and asks for bup.
func reach(ctx context.Context, a Address, o Options, use func(io.ReadWriteCloser, Options) error) error {
	if err := a.check(); err != nil {
		return fmt.Errorf("address %s: %w", a, err)
	}
	if o.Timeout <= 0 {
		o.Timeout = dialTimeout
	}
	connect, err := way(a, &o)
	if err != nil {
		return err
	}
	for _, command := range []string{kedgeServer, bupServer} {
		l, err := connect(ctx, a, o, command)
		if err != nil {
			return atHost(a, err)
		}
		err = use(l, o)
		if err == nil {
			return nil
		}
		_ = l.Close()
		if !l.absent() {
			return atHost(a, l.explain(a, &o, err))
		}
	}
	return atHost(a, errors.New("there is neither kedge nor bup, or not where a login that is not interactive finds programs"))
}

// way chooses how to connect.
func way(a Address, o *Options) (func(context.Context, Address, Options, string) (*link, error), error) {
	if a.Host == "" {
		return startServer, nil
	}
	switch program := o.sshProgram(); o.SSH {
	case "builtin":
		return dialSSH, nil
	case "system":
		return startSSH, nil
	case "":
		if _, err := exec.LookPath(program); err != nil && program == usualSSH {
			return dialSSH, nil
		}
		return startSSH, nil
	default:
		return nil, fmt.Errorf("%q is no way to connect, system and builtin are", o.SSH)
	}
}

// atHost names the server in an error that does not say by itself whom it is about.
func atHost(a Address, err error) error {
	var (
		key      *HostKeyError
		lost     *LostError
		notFound *repo.NotFoundError
	)
	if err == nil || errors.As(err, &key) || errors.As(err, &lost) || errors.As(err, &notFound) {
		return err
	}
	a.Path = ""
	return fmt.Errorf("%s: %w", a, err)
}

// timeoutError says that time ran out. It is a context.DeadlineExceeded with words
// of its own.
type timeoutError struct{ msg string }

// Error says what took too long.
func (e *timeoutError) Error() string { return e.msg }

// Unwrap makes it comparable.
func (e *timeoutError) Unwrap() error { return context.DeadlineExceeded }
