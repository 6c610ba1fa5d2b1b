// Package remote is a repository on another machine: Client is a repo.Repo over a
// connection to a server, Dial makes the connection.
package remote

import (
	"context"
	"io"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// Address is where a repository is.
type Address struct {
	User string // "": as the SSH client has it
	Host string // "" with a Command: no SSH, the command is run here
	Port int    // 0: as the SSH client has it
	Path string // as the server takes it; "": the repository that the key is pinned to
}

// ParseAddress reads ssh://[user@]host[:port]/path, [user@]host:path, and -:path for a
// server that is a child process of this machine.
func ParseAddress(s string) (Address, error) { panic("stub") }

// String returns the address as ssh://…, as messages show it.
func (a Address) String() string { panic("stub") }

// Options says how a client connects.
type Options struct {
	FS *fsx.FS
	// SSH is "system" (the program ssh), "builtin", or "": the program, if there is one.
	SSH        string
	Identities []string // files of private keys; nil: the agent and ~/.ssh/id_*
	KnownHosts string   // file; "": ~/.ssh/known_hosts
	AcceptNew  bool     // add the key of a host that is not known yet
	Cache      string   // directory of caches; "": none
	// BytesPerSecond bounds what is sent; 0: nothing does.
	BytesPerSecond int64
	Timeout        time.Duration // of connecting; 0: 30 s
	// Stderr gets what the other side says to people.
	Stderr io.Writer
	// Server is what a child process of Address{} runs; nil: this program.
	Server []string
	Create *CreateOptions // make the repository if it is not there
}

// CreateOptions says what a new repository is like.
type CreateOptions struct {
	Chunker string
	Expect  int64
}

// Dial connects to a server and opens a repository. The server may be kedge's or bup's.
// Errors: *repo.NotFoundError, *repo.RefusedError, *HostKeyError.
func Dial(ctx context.Context, a Address, o Options) (*Client, error) { panic("stub") }

// List returns the names of the repositories that a key may see.
func List(ctx context.Context, a Address, o Options) ([]string, error) { panic("stub") }

// HostKeyError says that a host is not the one that is known, or not known at all.
type HostKeyError struct {
	Host        string
	Fingerprint string // SHA256:…, of the key that it showed
	Changed     bool   // another key is known
	KnownHosts  string // the file
}

// Error says what is wrong.
func (e *HostKeyError) Error() string { panic("stub") }

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
