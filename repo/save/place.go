package save

import (
	"path"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
)

// A place is the directory that the feeder works in, held by descriptor, so that
// a file is opened by its last name and no link on the way is ever followed.
type place struct {
	base  string // what is entered is here or below
	stack *fsx.Stack
	path  string // of its top

	bad    string // a directory that could not be entered
	badErr error
}

// enter moves to a directory, by way of the one that both have in common.
//
// What could not be entered once is not tried again: if it is gone with a
// million files, that is no reason to ask a million times, and the save holds
// either all that can be read of a directory or nothing.
func (p *place) enter(dir string) (*fsx.Dir, error) {
	if p.bad != "" && index.Within(dir, p.bad) {
		return nil, p.badErr
	}
	for p.stack != nil && !index.Within(dir, p.path) {
		if err := p.stack.Pop(); err != nil {
			p.close() // somebody moved a directory: begin again at the base
			break
		}
		p.path = dirOf(p.path)
	}
	if p.stack == nil {
		root, err := fsx.OpenDir(p.base)
		if err != nil {
			return nil, p.fail(p.base, err)
		}
		p.stack, p.path = fsx.NewStack(root), p.base
	}
	for len(p.path) != len(dir) {
		next := below(p.path, dir)
		if err := p.stack.Push(baseOf(next)); err != nil {
			return nil, p.fail(next, err)
		}
		p.path = next
	}
	return p.stack.Top(), nil
}

func (p *place) fail(dir string, err error) error {
	p.bad, p.badErr = dir, err
	return err
}

// begin prepares for a root, which is a directory or something in one.
func (p *place) begin(root string, isDir bool) {
	p.close()
	p.bad, p.badErr = "", nil
	p.base = root
	if !isDir {
		p.base = path.Dir(root)
	}
}

func (p *place) close() {
	if p.stack != nil {
		p.stack.Close()
		p.stack, p.path = nil, ""
	}
}

// below returns the directory one step from dir towards name, which lies below
// it. It is a part of name.
func below(dir, name string) string {
	n := len(dir) + 1
	if dir == "/" {
		n = 1
	}
	for n < len(name) && name[n] != '/' {
		n++
	}
	return name[:n]
}
