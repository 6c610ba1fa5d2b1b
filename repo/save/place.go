package save

import (
	"path"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
)

// A place is the directory that the feeder works in, held by descriptor, so that
// a file is opened by its last name and no link on the way is ever followed.
type place struct {
	stack *fsx.Stack
	path  string
}

// enter moves to a directory, by way of the one that both have in common.
func (p *place) enter(dir string) (*fsx.Dir, error) {
	if p.stack == nil {
		root, err := fsx.OpenDir("/")
		if err != nil {
			return nil, err
		}
		p.stack, p.path = fsx.NewStack(root), "/"
	}
	if dir == p.path {
		return p.stack.Top(), nil
	}
	for !index.Within(dir, p.path) {
		if err := p.stack.Pop(); err != nil {
			p.close()
			return nil, err
		}
		p.path = path.Dir(p.path)
	}
	for p.path != dir {
		next := below(p.path, dir)
		if err := p.stack.Push(path.Base(next)); err != nil {
			return nil, err
		}
		p.path = next
	}
	return p.stack.Top(), nil
}

func (p *place) close() {
	if p.stack != nil {
		p.stack.Close()
		p.stack, p.path = nil, ""
	}
}
