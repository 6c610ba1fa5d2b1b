// Package fault watches, fails or kills a program at its file operations. It is
// used by tests alone: each of its types has an Intercept method for fsx.FS.
//
//	Trace   writes down what is done, to be compared with the wanted order
//	Fail    lets operation k fail, once or for ever
//	Kill    ends the process at operation k, as if by kill -9
//
// Operations are numbered from 1, in the order in which they begin. A sweep
// fails operation 1, then 2, and so on, until a run meets no failure:
//
//	fault.Plan{Err: syscall.EIO}.Sweep(func(f *fault.Fail) {
//		fs := &fsx.FS{Intercept: f.Intercept}
//		…
//	})
//
// What a power cut leaves on the disk is not for this package but for
// fsx/crash.
package fault

import (
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Intercept is the type of the hook of fsx.FS.
type Intercept = func(op fsx.Op, do func() error) error

// Only returns a test for operations of some kinds.
func Only(kinds ...fsx.Kind) func(fsx.Op) bool {
	return func(op fsx.Op) bool { return slices.Contains(kinds, op.Kind) }
}

// Mutates reports whether an operation changes anything on the disk, or is one
// of the two that make a change durable.
func Mutates(op fsx.Op) bool {
	switch op.Kind {
	case fsx.KindOpen, fsx.KindRead, fsx.KindClose, fsx.KindReadDir, fsx.KindStat:
		return false
	}
	return true
}

// run performs an operation through the next hook, if there is one.
func run(next Intercept, op fsx.Op, do func() error) error {
	if next == nil {
		return do()
	}
	return next(op, do)
}

// Trace writes down every operation. The zero value is ready for use.
type Trace struct {
	Next  Intercept         // performs the operation; nil: the operation itself
	Match func(fsx.Op) bool // what is written down; nil: everything

	mu  sync.Mutex
	ops []fsx.Op
}

// Intercept is the hook.
func (t *Trace) Intercept(op fsx.Op, do func() error) error {
	if t.Match == nil || t.Match(op) {
		t.mu.Lock()
		op := op
		op.Data = slices.Clone(op.Data)
		t.ops = append(t.ops, op)
		t.mu.Unlock()
	}
	return run(t.Next, op, do)
}

// Ops returns the operations so far.
func (t *Trace) Ops() []fsx.Op {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.ops)
}

// Reset forgets them.
func (t *Trace) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ops = nil
}

// Lines returns the operations as text, one a line, with paths relative to root:
//
//	create tmp/a
//	write tmp/a 0+4096
//	link tmp/a pack/a
//
// A random name is told from no other: "tmp-" with eight hexadecimal digits is
// "tmp-XXXX".
func (t *Trace) Lines(root string) []string {
	var lines []string
	for _, op := range t.Ops() {
		lines = append(lines, Line(op, root))
	}
	return lines
}

var randomName = regexp.MustCompile(`tmp-[0-9a-f]{8}`)

// Line returns one operation as text.
func Line(op fsx.Op, root string) string {
	rel := func(path string) string {
		if path == root {
			return "."
		}
		return strings.TrimPrefix(path, root+"/")
	}
	line := op.Kind.String() + " " + rel(op.Path)
	switch op.Kind {
	case fsx.KindWrite:
		line += fmt.Sprintf(" %d+%d", op.Off, len(op.Data))
	case fsx.KindRead, fsx.KindTruncate:
		line += fmt.Sprintf(" %d", op.Off)
	case fsx.KindLink, fsx.KindRename:
		line += " " + rel(op.To)
	}
	return randomName.ReplaceAllString(line, "tmp-XXXX")
}

// Plan says how operations fail.
type Plan struct {
	Err     error             // what the operation answers; nil: EIO
	Match   func(fsx.Op) bool // which operations are counted; nil: all
	Forever bool              // every counted operation after the first failed one fails too
	After   bool              // the operation is performed, and its success denied
	Short   bool              // of a write that fails, the first half reaches the file
	// Drop makes a failed sync lose what was written since the last good one, as
	// Linux does: the pages are marked clean, and a second sync would succeed.
	Drop bool
	Next Intercept // performs what does not fail; nil: the operation itself
}

// At returns a hook that lets the k-th counted operation fail. For k = 0
// nothing fails, and the operations are counted.
func (p Plan) At(k int) *Fail { return &Fail{plan: p, at: k} }

// Sweep calls try with a failure at operation 1, then 2, and so on, until a run
// met none. It returns the number of failures.
func (p Plan) Sweep(try func(f *Fail)) int {
	for k := 1; ; k++ {
		f := p.At(k)
		try(f)
		if !f.Fired() {
			return k - 1
		}
	}
}

// Fail lets one operation fail, or all from one on.
type Fail struct {
	plan  Plan
	at    int
	count atomic.Int64
	fired atomic.Bool
	where atomic.Pointer[fsx.Op]

	mu    sync.Mutex
	dirty map[string][]preimage // by path, if Drop is set
}

// preimage is what stood in a file before a write that is not synced.
type preimage struct {
	off  int64
	data []byte
	size int64
}

// Count returns the number of counted operations so far.
func (f *Fail) Count() int { return int(f.count.Load()) }

// Fired reports whether an operation failed.
func (f *Fail) Fired() bool { return f.fired.Load() }

// Op returns the first operation that failed, or a zero Op.
func (f *Fail) Op() fsx.Op {
	if op := f.where.Load(); op != nil {
		return *op
	}
	return fsx.Op{}
}

// Intercept is the hook.
func (f *Fail) Intercept(op fsx.Op, do func() error) error {
	fails := false
	if f.plan.Match == nil || f.plan.Match(op) {
		n := f.count.Add(1)
		fails = f.at > 0 && (n == int64(f.at) || f.plan.Forever && n > int64(f.at))
	}
	if !fails {
		if f.plan.Drop {
			f.watch(op)
		}
		return run(f.plan.Next, op, do)
	}
	seen := op
	seen.Data = nil
	f.where.CompareAndSwap(nil, &seen)
	f.fired.Store(true)
	if f.plan.Short && op.Kind == fsx.KindWrite {
		half := op
		half.Data = op.Data[:len(op.Data)/2]
		_ = run(f.plan.Next, half, func() error { return writeAt(op.Path, half.Data, op.Off) })
	}
	if f.plan.Drop && op.Kind == fsx.KindSync {
		f.drop(op.Path)
	}
	if f.plan.After {
		_ = run(f.plan.Next, op, do)
	}
	err := f.plan.Err
	if err == nil {
		err = syscall.EIO
	}
	return &fs.PathError{Op: op.Kind.String(), Path: op.Path, Err: err}
}

// watch keeps what a write is about to change, and forgets it at a sync.
func (f *Fail) watch(op fsx.Op) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch op.Kind {
	case fsx.KindSync:
		delete(f.dirty, op.Path)
	case fsx.KindWrite:
		file, err := os.Open(op.Path)
		if err != nil {
			return
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return
		}
		old := preimage{off: op.Off, data: make([]byte, len(op.Data)), size: info.Size()}
		n, _ := file.ReadAt(old.data, op.Off)
		old.data = old.data[:n]
		if f.dirty == nil {
			f.dirty = map[string][]preimage{}
		}
		f.dirty[op.Path] = append(f.dirty[op.Path], old)
	}
}

// drop takes the writes since the last sync back, the last first. The size
// stays: metadata went its own way to the disk, and where the data should be
// there are zeros.
func (f *Fail) drop(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(path)
	if err != nil {
		return
	}
	lost := f.dirty[path]
	for _, old := range slices.Backward(lost) {
		_ = os.Truncate(path, old.size)
		_ = writeAt(path, old.data, old.off)
	}
	_ = os.Truncate(path, info.Size())
	delete(f.dirty, path)
}

func writeAt(path string, data []byte, off int64) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(data, off)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Kill ends the process with SIGKILL at an operation: nothing is flushed, no
// deferred call runs, and locks are given back by the kernel.
type Kill struct {
	At    int               // which of the counted operations; 0: none
	After bool              // perform it first
	Match func(fsx.Op) bool // which are counted; nil: all
	Next  Intercept         // performs them; nil: the operation itself

	count atomic.Int64
}

// Intercept is the hook.
func (k *Kill) Intercept(op fsx.Op, do func() error) error {
	hit := false
	if k.Match == nil || k.Match(op) {
		hit = k.count.Add(1) == int64(k.At)
	}
	if hit && !k.After {
		die()
	}
	err := run(k.Next, op, do)
	if hit {
		die()
	}
	return err
}

// die does not return: the signal may take a moment to arrive.
func die() {
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {}
}
