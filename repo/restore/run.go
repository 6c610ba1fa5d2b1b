package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// run is one restore. The walk and the fetching of windows are two goroutines;
// the workers that write small files are more.
type run struct {
	Options
	ctx    context.Context
	cancel context.CancelCauseFunc
	out    string // absolute, and without symbolic links
	system bool   // Options.System, or the target is new and root's
	euid   uint32

	tally
	appliers chan *meta.Applier // those that nobody uses
	hashers  sync.Pool          // of *checker

	dirs  dirCache // of the goroutine that works on windows
	slabs slabs
	trail trail

	mu    sync.Mutex         // holds what follows, and what linkSets hold
	zeros map[pack.ID]int64  // chunks of zero bytes only, and their sizes
	open  map[*file]struct{} // files of several chunks that were begun
	sets  map[linkKey]*linkSet
	seals []seal
}

// tally counts, and calls the functions of Options.
type tally struct {
	say      sync.Mutex // held while a function is called
	res      Result
	total    Progress
	withheld map[string]int
	quiet    time.Time // no Progress before
}

func newRun(ctx context.Context, o Options) (*run, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0) + 1
	}
	r := &run{
		Options: o, system: o.System, euid: uint32(os.Geteuid()),
		appliers: make(chan *meta.Applier, 4*o.Workers),
		sets:     make(map[linkKey]*linkSet),
		zeros:    make(map[pack.ID]int64), open: make(map[*file]struct{}),
	}
	r.withheld = make(map[string]int)
	r.hashers.New = func() any { return &checker{hasher: pack.NewHasher()} }
	a, err := r.applier()
	if err != nil {
		return nil, err
	}
	r.free(a)
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	return r, nil
}

// close gives back what a run that was stopped has left.
func (r *run) close() {
	r.cancel(nil)
	for f := range r.open {
		f.target.Close()
	}
	r.dirs.close()
	r.trail.close()
}

// applier returns an Applier that nobody else uses; free gives it back.
func (r *run) applier() (*meta.Applier, error) {
	select {
	case a := <-r.appliers:
		return a, nil
	default:
	}
	return meta.NewApplier(meta.Options{
		Numeric: r.Numeric, MapUser: r.MapUser, MapGroup: r.MapGroup,
		MapUID: r.MapUID, MapGID: r.MapGID, System: r.system,
	}, &meta.Names{})
}

func (r *run) free(a *meta.Applier) {
	select {
	case r.appliers <- a:
	default:
	}
}

func (r *run) restore() (Result, error) {
	list, err := roots(r.ctx, r.Repo, r.Paths)
	if err != nil {
		return Result{}, err
	}
	top, fresh, err := r.openOut()
	if err != nil {
		return Result{}, err
	}
	if top != nil {
		defer top.Close()
	}
	if fresh && r.euid == 0 && !r.system {
		r.system = true
		for len(r.appliers) > 0 {
			<-r.appliers // they were made without
		}
	}
	e := startExecutor(r)
	w := &walk{batch: batch{r: r, flush: e.submit}}
	for i := range list {
		if err = w.root(&list[i], fresh); err != nil {
			break
		}
	}
	if err == nil {
		err = w.end()
	}
	e.unused = append(e.unused, w.folders()...)
	if end := e.wait(err); err == nil || r.ctx.Err() != nil {
		err = end
	}
	if err == nil {
		err = r.sealAll()
	}
	return r.result(), err
}

// result makes the last report.
func (r *run) result() Result {
	r.say.Lock()
	defer r.say.Unlock()
	if r.Progress != nil {
		r.report()
	}
	return r.res
}

// openOut makes sure that the target is there and opens it; in a dry run it may
// stay nil. Fresh says that nobody has been there before us: it is new, or an
// empty directory of root's. Symbolic links on the way to it are the caller's
// wish and are resolved once; after that none is followed any more.
func (r *run) openOut() (dir *fsx.Dir, fresh bool, err error) {
	out := r.Out
	if out == "" {
		out = "."
	}
	if out, err = filepath.Abs(out); err != nil {
		return nil, false, err
	}
	var missing []string
	for {
		real, err := filepath.EvalSymlinks(out)
		if err == nil {
			out = real
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || out == "/" {
			return nil, false, err
		}
		if _, err := os.Lstat(out); err == nil {
			return nil, false, fmt.Errorf("%s: symbolic link that leads nowhere", out)
		}
		missing = append(missing, filepath.Base(out))
		out = filepath.Dir(out)
	}
	if dir, err = fsx.OpenDir(out); err != nil {
		return nil, false, err
	}
	for i := len(missing) - 1; i >= 0; i-- {
		fresh = true
		out = filepath.Join(out, missing[i])
		if r.DryRun {
			continue
		}
		err := dir.Mkdir(missing[i], 0o777)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			dir.Close()
			return nil, false, err
		}
		fresh = err == nil
		next, err := dir.Open(missing[i])
		dir.Close()
		if err != nil {
			return nil, false, err
		}
		dir = next
	}
	r.out = out
	if r.DryRun && len(missing) > 0 {
		dir.Close()
		return nil, true, nil
	}
	if !fresh {
		fresh, err = isEmptyAndRoots(dir)
	}
	return dir, fresh, err
}

// isEmptyAndRoots reports whether nobody but root can have anything in a directory.
func isEmptyAndRoots(dir *fsx.Dir) (bool, error) {
	st, err := dir.Stat()
	if err != nil || st.UID != 0 || st.Mode&0o022 != 0 {
		return false, err
	}
	err = dir.Read(func(fsx.DirName) error { return errStop })
	if err == errStop {
		return false, nil
	}
	return err == nil, err
}

var errStop = errors.New("stop")

// stops reports whether an error of the target is one that every other file
// will meet: it is not worth going on.
func stops(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)
}

// fail counts an item that could not be restored, or not fully.
func (r *run) fail(path string, errs ...error) {
	r.say.Lock()
	r.res.Errors++
	if r.Warn != nil {
		for _, err := range errs {
			r.Warn(path, err)
		}
	}
	r.say.Unlock()
	for _, err := range errs {
		if stops(err) {
			r.cancel(fmt.Errorf("%s: %w", path, err))
		}
	}
}

// namedWithheld is how often one kind of thing that is left off is named. A
// machine with SELinux has one on every file.
const namedWithheld = 100

// withhold counts what was left off an item.
func (r *run) withhold(path string, what ...string) {
	if len(what) == 0 {
		return
	}
	r.say.Lock()
	defer r.say.Unlock()
	for _, w := range what {
		r.res.Withheld++
		if r.withheld[w]++; r.withheld[w] <= namedWithheld && r.Warn != nil {
			r.Warn(path, &WithheldError{w})
		}
	}
}

// The kinds of Options.Seen.
const (
	written = '+'
	kept    = '='
	removed = '-'
)

// done counts what was dealt with: an item of a folder, or with name "" the
// folder itself.
func (r *run) done(f *folder, name string, what byte, bytes int64) {
	r.say.Lock()
	defer r.say.Unlock()
	switch what {
	case removed:
		r.res.Removed++
	case kept:
		r.res.Kept++
		r.total.Bytes += bytes
	default:
		if name == "" {
			r.res.Dirs++
		} else {
			r.res.Files++
		}
		r.res.Bytes += bytes
	}
	if name != "" && what != removed {
		r.total.Files++
	}
	if r.Seen != nil {
		r.Seen(f.path()+name, what)
	}
	r.reportNow()
}

// found adds a file to what there is to do.
func (r *run) found(bytes int64) {
	r.say.Lock()
	r.total.FilesTotal++
	r.total.BytesTotal += bytes
	r.say.Unlock()
}

// moved adds to the bytes that were written, while the file is not complete.
func (r *run) moved(bytes int64) {
	if r.Progress == nil {
		return
	}
	r.say.Lock()
	r.total.Bytes += bytes
	r.reportNow()
	r.say.Unlock()
}

// reportNow calls Progress if it was not called for a while.
func (r *run) reportNow() {
	if r.Progress == nil {
		return
	}
	if now := time.Now(); now.After(r.quiet) {
		r.quiet = now.Add(100 * time.Millisecond)
		r.report()
	}
}

func (r *run) report() { r.Progress(r.total) }

// checker hashes what was read back.
type checker struct {
	hasher *pack.Hasher
	buf    []byte
}

// same reports whether n bytes of a file at off are the blob id. What lies
// behind the end of the file counts as zeros: a hole there is not made yet.
func (c *checker) same(f io.ReaderAt, off, n int64, id pack.ID) (bool, error) {
	if int64(cap(c.buf)) < n {
		c.buf = make([]byte, n)
	}
	b := c.buf[:n]
	k, err := f.ReadAt(b, off)
	if err != nil && err != io.EOF {
		return false, err
	}
	clear(b[k:])
	got, err := c.hasher.Sum(pack.Blob, b)
	return got == id, err
}

// asObject names the file of a save in an error that is about an object of it.
func asObject(path string, err error) error { return &ObjectError{Path: path, Err: err} }

// damage reports whether an error is about objects of the repository, so that
// others may be all right.
func damage(err error) bool {
	return errors.As(err, new(*repo.MissingError)) || errors.As(err, new(*pack.CorruptError)) ||
		errors.Is(err, pack.ErrTooLarge) || errors.Is(err, syscall.EIO)
}
