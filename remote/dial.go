package remote

import "context"

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
