package restore

import (
	"context"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// root is what one of Options.Paths stands for.
type root struct {
	path string // in the repository, without what is at its end
	item repo.Node
	into bool    // the children of the directory go into Out
	self bool    // and Out becomes the directory
	save pack.ID // the commit it is from; zero if it is from none
}

// roots resolves the paths before anything is written: a name that is wrong
// must not leave half of the others restored.
func roots(ctx context.Context, r repo.Repo, paths []string) ([]root, error) {
	if len(paths) == 0 {
		return nil, errNoPaths
	}
	vfs := &repo.VFS{Repo: r}
	out := make([]root, 0, len(paths))
	for _, path := range paths {
		rt, err := resolveRoot(ctx, vfs, path)
		if err != nil {
			return nil, err
		}
		out = append(out, rt)
	}
	return out, nil
}

func resolveRoot(ctx context.Context, vfs *repo.VFS, path string) (root, error) {
	o := repo.ResolveOptions{Meta: true}
	chain, err := vfs.Resolve(ctx, path, o)
	if err != nil {
		return root{}, err
	}
	if chain[len(chain)-1].Kind == repo.NodeLatest { // it is restored as the save that it leads to
		if chain, err = vfs.Resolve(ctx, path+"/", o); err != nil {
			return root{}, err
		}
	}
	last := chain[len(chain)-1]
	switch last.Kind {
	case repo.NodeSave, repo.NodeItem:
	default:
		return root{}, &repo.NotFoundError{What: "save", Name: path}
	}
	rt := root{item: last}
	trimmed := strings.TrimRight(path, "/")
	rt.self = trimmed == "." || strings.HasSuffix(trimmed, "/.")
	rt.into = rt.self || len(trimmed) < len(path)
	for _, n := range chain {
		if n.Kind == repo.NodeSave {
			rt.save = n.Commit
		}
		if n.Kind != repo.NodeRoot {
			rt.path += "/" + n.Name
		}
	}
	rt.path = strings.TrimPrefix(rt.path, "/")
	return rt, nil
}
