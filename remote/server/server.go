// Package server answers one client: bup's protocol, and from the request "kedge" on
// the frames of package wire. It trusts nothing that comes in.
package server

import (
	"context"
	"io"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/remote/access"
)

// Options says whom a server answers, and with what.
type Options struct {
	FS    *fsx.FS
	Grant access.Grant
	// Default is the repository of a grant of role Owner when the client names none.
	Default string
	Limits  Limits
	// Log is told of what an operator should know: refusals, failures. One line each.
	Log func(format string, args ...any)
	// BupNames makes the server list only bup's commands, as an old server would.
	BupNames bool
}

// Limits bound what one client can cost. A zero field means the default.
type Limits struct {
	First time.Duration // until the first request: 20 s
	Idle  time.Duration // between two requests: 5 min; a Ping is one
}

// Serve answers the client on conn until it leaves, ctx ends, or a limit is met. It
// returns nil if the client left between two requests. If conn has a SetReadDeadline,
// as connections and pipes have, limits of time are kept with it; else by closing conn,
// if that is an io.Closer.
func Serve(ctx context.Context, conn io.ReadWriter, o Options) error { panic("stub") }
