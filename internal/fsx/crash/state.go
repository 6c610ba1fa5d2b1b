package crash

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/kedgebackup/kedge/internal/fsx"
)

const (
	page   = 4096 // what a disk is asked to write
	sector = 512  // what it writes at once
	tears  = 8    // one in so many surviving pages is torn
)

// change is a change of the names in a directory.
type change struct {
	name string
	node int // -1: the name goes
	// needs is the change, in directory in, that must be on the disk before this
	// one can be: the new name of a rename before the old one goes. -1: none.
	in, needs int
	kept      bool // it is on the disk
}

// file is what is known of a file's bytes.
type file struct {
	events []int // that wrote or truncated it
	synced int   // how many of them are durable
}

// disk is the tree at the moment of the cut.
type disk struct {
	*Recorder
	dirs  map[int][]change
	files map[int]*file
	rand  *rand.Rand
	p     float64 // of survival
}

// State makes in dir, which must be empty or missing, what the disk could hold
// after a cut that follows change k; 0 is before the first. What is not durable
// survives with a probability of survival. The same arguments give the same state.
func (r *Recorder) State(k int, seed uint64, survival float64, dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k < 0 || k > len(r.events) {
		return fmt.Errorf("cut after change %d of %d", k, len(r.events))
	}
	d := disk{
		Recorder: r,
		dirs:     map[int][]change{},
		files:    map[int]*file{},
		rand:     rand.New(rand.NewPCG(seed, uint64(k))),
		p:        survival,
	}
	for i := range r.events[:k] {
		d.replay(i)
	}
	d.survive()
	return d.write(0, dir, map[int]string{})
}

// replay does change i.
func (d *disk) replay(i int) {
	ev := &d.events[i]
	switch ev.op.Kind {
	case fsx.KindMkdir, fsx.KindCreate, fsx.KindLock, fsx.KindLink:
		d.rename(ev.dir, change{name: ev.name, node: ev.node, needs: -1})
	case fsx.KindRemove:
		d.rename(ev.dir, change{name: ev.name, node: -1, needs: -1})
	case fsx.KindRename:
		d.rename(ev.dir, change{name: ev.name, node: ev.node, needs: -1})
		d.rename(ev.from, change{name: ev.old, node: -1, in: ev.dir, needs: len(d.dirs[ev.dir]) - 1})
	case fsx.KindSyncDir:
		d.keepAll(ev.node)
	case fsx.KindWrite, fsx.KindTruncate:
		f := d.file(ev.node)
		f.events = append(f.events, i)
	case fsx.KindSync:
		f := d.file(ev.node)
		f.synced = len(f.events)
	}
}

func (d *disk) rename(dir int, c change) { d.dirs[dir] = append(d.dirs[dir], c) }

func (d *disk) file(id int) *file {
	if d.files[id] == nil {
		d.files[id] = new(file)
	}
	return d.files[id]
}

// keepAll makes the names of one directory durable, but for the old names of
// renames whose new name is not.
func (d *disk) keepAll(dir int) {
	for i := range d.dirs[dir] {
		c := &d.dirs[dir][i]
		c.kept = c.kept || d.allowed(c)
	}
}

// allowed reports whether a change may be on the disk.
func (d *disk) allowed(c *change) bool { return c.needs < 0 || d.dirs[c.in][c.needs].kept }

// survive decides for each name that is not durable. The halves of a rename in
// one directory share their fate. New names are decided on before old ones.
func (d *disk) survive() {
	for _, dir := range sorted(d.dirs) {
		for i := range d.dirs[dir] {
			c := &d.dirs[dir][i]
			c.kept = c.kept || c.needs < 0 && d.rand.Float64() < d.p
		}
	}
	for _, dir := range sorted(d.dirs) {
		for i := range d.dirs[dir] {
			c := &d.dirs[dir][i]
			if !c.kept && c.needs >= 0 && d.allowed(c) {
				c.kept = c.in == dir || d.rand.Float64() < d.p
			}
		}
	}
}

// sorted returns the keys in order, so that the same seed gives the same state.
func sorted(m map[int][]change) []int {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// names returns what stands in a directory on the disk.
func (d *disk) names(id int) map[string]int {
	names := map[string]int{}
	for name, child := range d.nodes[id].first {
		names[name] = child
	}
	for _, c := range d.dirs[id] {
		switch {
		case !c.kept:
		case c.node < 0:
			delete(names, c.name)
		default:
			names[c.name] = c.node
		}
	}
	return names
}

// write makes a node and all below it at path. A node that has more than one
// name is made once and linked; a directory, which has but one on any disk, is
// left out the second time.
func (d *disk) write(id int, path string, made map[int]string) error {
	n := d.nodes[id]
	first, again := made[id]
	made[id] = path
	switch {
	case again && n.names != nil:
		return nil
	case again:
		return os.Link(first, path)
	case n.mode&fs.ModeSymlink != 0:
		return os.Symlink(n.link, path)
	case n.names == nil:
		return os.WriteFile(path, d.content(id), n.mode.Perm())
	}
	if err := os.Mkdir(path, n.mode.Perm()|0o700); err != nil && (id != 0 || !os.IsExist(err)) {
		return err
	}
	names := d.names(id)
	order := make([]string, 0, len(names))
	for name := range names {
		order = append(order, name)
	}
	slices.Sort(order)
	for _, name := range order {
		if err := d.write(names[name], filepath.Join(path, name), made); err != nil {
			return err
		}
	}
	return nil
}

// content returns the bytes of a file on the disk.
func (d *disk) content(id int) []byte {
	data := slices.Clone(d.nodes[id].data)
	f := d.file(id)
	for i, e := range f.events {
		ev := &d.events[e]
		durable := i < f.synced
		if ev.op.Kind == fsx.KindTruncate {
			if durable || d.rand.Float64() < d.p {
				data = resize(data, ev.op.Off)
			}
			continue
		}
		end := ev.op.Off + int64(len(ev.op.Data))
		if int64(len(data)) < end && (durable || d.rand.Float64() < d.p) {
			data = resize(data, end)
		}
		if durable {
			copy(data[ev.op.Off:], ev.op.Data)
		} else {
			d.copyPages(data, ev.op.Data, ev.op.Off)
		}
	}
	return data
}

// copyPages copies what survives of a write that was not synced.
func (d *disk) copyPages(data, src []byte, off int64) {
	for len(src) > 0 {
		n := min(int64(len(src)), page-off%page)
		piece := src[:n]
		at := off
		src, off = src[n:], off+n
		if d.rand.Float64() >= d.p {
			continue
		}
		if d.p < 1 && d.rand.IntN(tears) == 0 {
			end := (at/page)*page + sector*d.rand.Int64N(page/sector)
			piece = piece[:min(n, max(0, end-at))]
		}
		if at < int64(len(data)) {
			copy(data[at:], piece)
		}
	}
}

// resize cuts or extends with zeros.
func resize(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size]
	}
	return append(data, make([]byte, size-int64(len(data)))...)
}

// Cut says which state a check is looking at.
type Cut struct {
	K        int    // the change that the cut followed
	Seed     uint64 // of what survived
	Survival int    // in percent
	After    fsx.Op // change K
}

// String describes the cut well enough to make it again.
func (c Cut) String() string {
	what := "before the first change"
	if c.K > 0 {
		what = fmt.Sprintf("after change %d (%s %s)", c.K, c.After.Kind, c.After.Path)
	}
	return fmt.Sprintf("power cut %s, %d %% survived, seed %d", what, c.Survival, c.Seed)
}

// Sweep makes every state that a test should look at and has it checked: after
// each change once with nothing surviving but what is durable, and with seeds
// seeds each for 10, 50 and 90 %. Each state stands in a directory of its own
// below scratch, which is removed after the check. Sweep returns the number of
// states, and the first error, with the cut it belongs to.
func (r *Recorder) Sweep(scratch string, seeds int, check func(cut Cut, dir string) error) (int, error) {
	states := 0
	one := func(cut Cut) error {
		if cut.K > 0 {
			cut.After = r.Op(cut.K)
			cut.After.Data = nil
		}
		dir := filepath.Join(scratch, fmt.Sprintf("cut-%d-%d-%d", cut.K, cut.Survival, cut.Seed))
		err := r.State(cut.K, cut.Seed, float64(cut.Survival)/100, dir)
		if err == nil {
			states++
			err = check(cut, dir)
		}
		if removeErr := os.RemoveAll(dir); err == nil {
			err = removeErr
		}
		if err != nil {
			return fmt.Errorf("%v: %w", cut, err)
		}
		return nil
	}
	for k := 0; k <= r.Len(); k++ {
		if err := one(Cut{K: k}); err != nil {
			return states, err
		}
		for _, percent := range []int{10, 50, 90} {
			for seed := 1; seed <= seeds; seed++ {
				if err := one(Cut{K: k, Seed: uint64(seed), Survival: percent}); err != nil {
					return states, err
				}
			}
		}
	}
	return states, nil
}
