package remote

import (
	"context"
	"io"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// Client is a repository behind a connection. It implements repo.Repo, repo.Configured,
// repo.CommitWalker and repo.NameAllower. Its methods may be called by several
// goroutines at once.
type Client struct{}

var (
	_ repo.Repo         = (*Client)(nil)
	_ repo.Configured   = (*Client)(nil)
	_ repo.CommitWalker = (*Client)(nil)
	_ repo.NameAllower  = (*Client)(nil)
)

// NewClient speaks to a server over a connection that somebody else made. Close closes it.
func NewClient(ctx context.Context, conn io.ReadWriteCloser, path string, o Options) (*Client, error) {
	panic("stub")
}

// Info returns what the server said of the repository and of the client's rights.
func (c *Client) Info() wire.Info { panic("stub") }

// Config returns what the repository says of itself.
func (c *Client) Config() repo.Config { panic("stub") }

// Get calls fn once for each id; see repo.Repo.
func (c *Client) Get(ctx context.Context, ids []pack.ID, fn func(i int, t pack.Type, body []byte) error) error {
	panic("stub")
}

// Missing appends to dst those ids that are not present with all below them.
func (c *Client) Missing(ctx context.Context, dst, ids []pack.ID) ([]pack.ID, error) { panic("stub") }

// Refs returns the refs whose full names begin with prefix.
func (c *Client) Refs(ctx context.Context, prefix string) ([]repo.Ref, error) { panic("stub") }

// SetRef moves one ref; see repo.Repo.
func (c *Client) SetRef(ctx context.Context, m repo.Move) (pack.ID, error) { panic("stub") }

// Begin starts a session that adds objects.
func (c *Client) Begin(ctx context.Context) (repo.Session, error) { panic("stub") }

// Commits calls fn for a commit and all that it reaches; see repo.CommitWalker.
func (c *Client) Commits(ctx context.Context, tip pack.ID, fn func(id pack.ID, body []byte) error) error {
	panic("stub")
}

// AllowNames has the server tell git which names it is not to complain about.
func (c *Client) AllowNames(ctx context.Context, names []string) error { panic("stub") }

// Check has the server check the repository; see repo.Check.
func (c *Client) Check(ctx context.Context, o repo.CheckOptions, report func(repo.Finding)) (repo.CheckResult, error) {
	panic("stub")
}

// Store returns the files of the repository, read-only, for a key of role mirror.
func (c *Client) Store() repo.Store { panic("stub") }

// Close ends the connection.
func (c *Client) Close() error { panic("stub") }
