// Package sshd is an SSH server that can do nothing but serve repositories: no shell, no
// system users, no files. It obeys the same authorized_keys lines as OpenSSH.
package sshd

import (
	"context"
	"net"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/remote/server"
)

// Options says how a Server is reached and whom it lets in.
type Options struct {
	FS             *fsx.FS
	Root           string // directory of the repositories
	HostKey        string // file of a private key
	AuthorizedKeys string // file, read anew for every connection
	Limits         Limits
	Session        server.Limits
	Log            func(format string, args ...any)
}

// Limits bound what clients can cost together. A zero field means the default.
type Limits struct {
	Total      int // sessions at once: 128
	PerKey     int // sessions at once of one key: 8
	Handshakes int // connections that have not proved a key: 64, and 16 from one address
}

// Server is an SSH server.
type Server struct{}

// New returns a Server; it reads the host key and checks authorized_keys once, so that a
// mistake in it is told at the start.
func New(o Options) (*Server, error) { panic("stub") }

// Serve accepts connections until ctx ends, then waits for those that are open; it cuts
// them when grace is over.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { panic("stub") }
