// Package upload is the server's side of git fetch and git clone: git-upload-pack over a
// repository, with git's protocol, versions 0 and 1.
package upload

import (
	"context"
	"io"

	"github.com/kedgebackup/kedge/repo"
)

// Serve answers one git-upload-pack on conn.
func Serve(ctx context.Context, conn io.ReadWriter, r *repo.Packs) error { panic("stub") }
