package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// Client is a repository behind a connection. It implements repo.Repo, repo.Configured,
// repo.CommitWalker and repo.NameAllower. Its methods may be called by several
// goroutines at once.
//
// When the connection is lost, all that is under way and all that follows fails with one
// *LostError. A context that ends ends its call and nothing else; what the call asked
// for may be done by the server nevertheless.
type Client struct {
	driver
	info wire.Info
}

var (
	_ repo.Repo         = (*Client)(nil)
	_ repo.Configured   = (*Client)(nil)
	_ repo.CommitWalker = (*Client)(nil)
	_ repo.NameAllower  = (*Client)(nil)
)

// NewClient speaks to a server over a connection that somebody else made. Close closes it.
func NewClient(ctx context.Context, conn io.ReadWriteCloser, path string, o Options) (*Client, error) {
	c := new(Client)
	err := inTime(ctx, conn, o, func(ctx context.Context) error {
		g, err := greet(conn, o)
		if err != nil {
			return err
		}
		if g.offers(verb) {
			c.driver, c.info, err = newFrames(ctx, g, path, o)
		} else {
			c.driver, c.info, err = newBup(ctx, g, path, o)
		}
		return err
	})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

// listRepos returns the names of the repositories that a server shows, and closes the
// connection.
func listRepos(ctx context.Context, conn io.ReadWriteCloser, o Options) (names []string, err error) {
	defer conn.Close()
	err = inTime(ctx, conn, o, func(ctx context.Context) error {
		g, err := greet(conn, o)
		if err != nil {
			return err
		}
		if !g.offers(verb) {
			return fmt.Errorf("%w: %s speaks bup's protocol, which has no list of repositories", wire.ErrUnsupported, g.name)
		}
		if err := g.frames(); err != nil {
			return err
		}
		l := newLine(g, usualLimits)
		defer l.close()
		body, err := l.ask(ctx, wire.Repos, nil)
		if err == nil {
			names, err = wire.ParseNames(body)
		}
		return err
	})
	return names, err
}

// Info returns what the server said of the repository and of the client's rights.
func (c *Client) Info() wire.Info { return c.info }

// MayMove returns nil, or what the server would refuse a move of a ref with, as far as it
// said when the repository was opened. It costs nothing.
func (c *Client) MayMove(ref string) error {
	switch {
	case c.info.Rights&wire.MayAppend == 0:
		return &repo.RefusedError{Reason: "the key may not write"}
	case !wire.MatchRef(c.info.Globs, ref):
		return &repo.RefusedError{Reason: fmt.Sprintf("this key may not write %q", ref)}
	}
	return nil
}

// Config returns what the repository says of itself.
func (c *Client) Config() repo.Config { return c.info.Config }

// IsFar reports that a read costs a round trip; see repo.IsFar.
func (c *Client) IsFar() bool { return true }

// Commits calls fn for a commit and all that it reaches; see repo.CommitWalker.
func (c *Client) Commits(ctx context.Context, tip pack.ID, fn func(id pack.ID, body []byte) error) error {
	if w, ok := c.driver.(repo.CommitWalker); ok {
		return w.Commits(ctx, tip, fn)
	}
	return repo.WalkCommits(ctx, c.driver, tip, func(id pack.ID, commit *repo.Commit) error {
		return fn(id, commit.Append(nil))
	})
}

// AllowNames has the server tell git which names it is not to complain about. A bup
// server cannot; git fsck then complains, and nothing else comes of it.
func (c *Client) AllowNames(ctx context.Context, names []string) error {
	if a, ok := c.driver.(repo.NameAllower); ok {
		return a.AllowNames(ctx, names)
	}
	return nil
}

// Check has the server check the repository; see repo.Check. Zone, Workers and Progress
// are of no concern to the server.
func (c *Client) Check(ctx context.Context, o repo.CheckOptions, report func(repo.Finding)) (repo.CheckResult, error) {
	if d, ok := c.driver.(checker); ok {
		return d.Check(ctx, o, report)
	}
	return repo.CheckResult{}, fmt.Errorf("check: %w", wire.ErrUnsupported)
}

// Store returns the files of the repository, read-only, for a key of role mirror.
func (c *Client) Store() repo.Store {
	if d, ok := c.driver.(storer); ok {
		return d.Store()
	}
	return noStore{}
}

// noStore is the files of a repository whose server does not give them away.
type noStore struct{}

var errNoStore = fmt.Errorf("files of a repository: %w", wire.ErrUnsupported)

// Open returns an error.
func (noStore) Open(context.Context, string) (repo.Blob, error) { return nil, errNoStore }

// List returns an error.
func (noStore) List(context.Context, string, func(string, int64) error) error { return errNoStore }

// Create returns an error.
func (noStore) Create(context.Context) (repo.Pending, error) { return nil, repo.ErrReadOnly }

// Remove returns an error.
func (noStore) Remove(context.Context, string) error { return repo.ErrReadOnly }

// notExist turns the server's word for a file that is not there into the word for it.
func notExist(name string, err error) error {
	if none := new(repo.NotFoundError); errors.As(err, &none) {
		return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return err
}
