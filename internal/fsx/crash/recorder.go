package crash

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// node is a file, directory or symbolic link of the recorded tree; what it
// holds is what a running process sees.
type node struct {
	mode  fs.FileMode
	data  []byte         // of a file that New found
	link  string         // of a symbolic link
	names map[string]int // of a directory, by node number, now
	first map[string]int // of a directory, as New found it
}

// event is one change, with the paths resolved to nodes.
type event struct {
	op   fsx.Op // of a write with its own copy of the data
	node int    // that is written, synced, or gets or loses a name
	dir  int    // where a name appears or disappears
	name string
	from int // of a rename: where the old name is
	old  string
}

// Recorder performs operations and writes them down. It lets one operation run
// at a time, so that what it writes down has the order of what happened.
type Recorder struct {
	root string
	Next func(op fsx.Op, do func() error) error // performs the operations; nil: they themselves

	mu     sync.Mutex
	nodes  []*node // 0 is the root
	open   map[string]int
	events []event
}

// New takes what is in root for durable, and records from now on.
func New(root string) (*Recorder, error) {
	r := &Recorder{root: filepath.Clean(root), open: map[string]int{}}
	if _, err := r.load(r.root); err != nil {
		return nil, err
	}
	return r, nil
}

// load makes a node of what stands at path, with all below it. Hard links that
// New finds become files of their own, which is the same as long as nobody
// writes in place to one.
func (r *Recorder) load(path string) (int, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	n := &node{mode: info.Mode()}
	id := len(r.nodes)
	r.nodes = append(r.nodes, n)
	switch {
	case info.Mode().IsRegular():
		n.data, err = os.ReadFile(path)
	case info.Mode()&fs.ModeSymlink != 0:
		n.link, err = os.Readlink(path)
	case info.IsDir():
		n.names, n.first = map[string]int{}, map[string]int{}
		var entries []fs.DirEntry
		if entries, err = os.ReadDir(path); err != nil {
			return 0, err
		}
		for _, e := range entries {
			child, err := r.load(filepath.Join(path, e.Name()))
			if err != nil {
				return 0, err
			}
			n.names[e.Name()], n.first[e.Name()] = child, child
		}
	default:
		err = fmt.Errorf("%s: neither file, directory nor link", path)
	}
	return id, err
}

// Len returns the number of changes so far.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

// Op returns change k, from 1.
func (r *Recorder) Op(k int) fsx.Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[k-1].op
}

// Intercept is the hook.
func (r *Recorder) Intercept(op fsx.Op, do func() error) error {
	if op.Kind == fsx.KindLock { // may wait for one who waits for us
		err := r.run(op, do)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err == nil {
			r.record(op)
		}
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.run(op, do)
	if err == nil {
		r.record(op)
	}
	return err
}

func (r *Recorder) run(op fsx.Op, do func() error) error {
	if r.Next != nil {
		return r.Next(op, do)
	}
	return do()
}

// record resolves the names of an operation that succeeded, and changes the
// tree as it did.
func (r *Recorder) record(op fsx.Op) {
	dir, name, ok := r.find(op.Path)
	if !ok {
		return // outside the root
	}
	ev := event{op: op, dir: dir, name: name, node: -1}
	if id, there := r.entry(dir, name); there {
		ev.node = id
	}
	switch op.Kind {
	case fsx.KindMkdir:
		if ev.node >= 0 {
			return
		}
		ev.node = r.add(dir, name, &node{mode: fs.ModeDir | 0o755, names: map[string]int{}})
	case fsx.KindCreate:
		ev.node = r.add(dir, name, &node{mode: 0o644})
		r.open[op.Path] = ev.node
	case fsx.KindLock:
		made := ev.node < 0
		if made {
			ev.node = r.add(dir, name, &node{mode: 0o640})
		}
		r.open[op.Path] = ev.node
		if !made {
			return
		}
	case fsx.KindOpen:
		r.open[op.Path] = ev.node
		return
	case fsx.KindClose:
		delete(r.open, op.Path)
		return
	case fsx.KindWrite, fsx.KindTruncate, fsx.KindSync:
		if id, there := r.open[op.Path]; there { // it may have been renamed since
			ev.node = id
		}
		ev.op.Data = slices.Clone(op.Data)
	case fsx.KindLink, fsx.KindRename:
		to, toName, inside := r.find(op.To)
		if !inside {
			return
		}
		ev.from, ev.old, ev.dir, ev.name = dir, name, to, toName
		if old, taken := r.entry(to, toName); op.Kind == fsx.KindRename && taken && old == ev.node {
			return // two names of one file: rename(2) leaves both
		}
		if op.Kind == fsx.KindRename {
			delete(r.nodes[dir].names, name)
		}
		r.nodes[to].names[toName] = ev.node
	case fsx.KindRemove:
		delete(r.nodes[dir].names, name)
	case fsx.KindSyncDir:
	default:
		return
	}
	r.events = append(r.events, ev)
}

// add gives a new node its name.
func (r *Recorder) add(dir int, name string, n *node) int {
	r.nodes = append(r.nodes, n)
	id := len(r.nodes) - 1
	r.nodes[dir].names[name] = id
	return id
}

// entry looks a name up; "" is the directory itself.
func (r *Recorder) entry(dir int, name string) (int, bool) {
	if name == "" {
		return dir, true
	}
	id, ok := r.nodes[dir].names[name]
	return id, ok
}

// find splits a path into the node of its directory and its last name. The root
// is the name "" in itself.
func (r *Recorder) find(path string) (dir int, name string, ok bool) {
	path, err := filepath.Abs(path)
	if err != nil {
		return 0, "", false
	}
	if path == r.root {
		return 0, "", true
	}
	rest, ok := strings.CutPrefix(path, r.root+"/")
	if !ok {
		return 0, "", false
	}
	for {
		part, more, deeper := strings.Cut(rest, "/")
		if !deeper {
			return dir, part, true
		}
		dir, ok = r.nodes[dir].names[part]
		if !ok || r.nodes[dir].names == nil {
			return 0, "", false
		}
		rest = more
	}
}
