package access

import (
	"context"
	"errors"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// OpenToRead opens the repository that a client calls path for reading, as
// git-upload-pack does. One that is not there and one that the grant does not name have
// the same answer, which tells nothing of where repositories are.
func (g *Grant) OpenToRead(ctx context.Context, files *fsx.FS, path string) (*repo.Packs, error) {
	if g.Rights()&wire.MayRead == 0 {
		return nil, &repo.RefusedError{Reason: "this key may not read"}
	}
	dir, _, err := g.Resolve(path)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		return nil, unknown(path)
	}
	r, _, err := g.Open(ctx, files, dir, true, nil)
	var none *repo.NotFoundError
	if errors.As(err, &none) {
		return nil, unknown(path)
	}
	return r, err
}
