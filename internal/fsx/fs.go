package fsx

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
)

// FS performs the changes kedge makes to its own files. The zero value, and a
// nil pointer too, is the operating system's file system. An FS may be used by
// several goroutines.
type FS struct {
	// Intercept, if not nil, is called around every operation. do performs the
	// operation; Intercept may run it, replace its error, or never return.
	// It is called by several goroutines at once.
	//
	// An operation that Intercept answers with EINTR is asked for again, as it
	// would be if the kernel had said so; all but a close, which is over in
	// either case.
	Intercept func(op Op, do func() error) error
}

// Kind says what an operation does.
type Kind uint8

// The kinds of operation, in the order of their first use in a save.
const (
	KindMkdir Kind = iota + 1
	KindCreate
	KindOpen
	KindRead
	KindWrite
	KindTruncate
	KindSync
	KindClose
	KindLink
	KindRename
	KindRemove
	KindSyncDir
	KindReadDir
	KindStat
	KindLock
)

// String returns the name of the operation, as a trace prints it.
func (k Kind) String() string {
	names := [...]string{"?", "mkdir", "create", "open", "read", "write", "truncate", "sync",
		"close", "link", "rename", "remove", "syncdir", "readdir", "stat", "lock"}
	if int(k) >= len(names) {
		return "?"
	}
	return names[k]
}

// Op describes one operation before it happens.
type Op struct {
	Kind Kind
	Path string // the file or directory
	To   string // the new name, of a link or rename
	Off  int64  // of a read or write; the new size of a truncate
	Data []byte // the bytes to be written, valid during the call
}

// errNotRun is the answer when Intercept claims success for an operation that
// gives a result, and did not perform it.
var errNotRun = errors.New("operation was intercepted and not performed")

// maxInterrupts is how often one operation is tried again after EINTR. A
// system that interrupts more often than that is broken, and must not hang us.
const maxInterrupts = 100

// observed reports whether anybody watches. The operations that must not
// allocate ask it first, because a closure handed to do is always on the heap.
func (f *FS) observed() bool { return f != nil && f.Intercept != nil }

// do is the one way by which an operation reaches the file system.
func (f *FS) do(op Op, run func() error) error {
	if !f.observed() {
		return run()
	}
	for tries := 0; ; tries++ {
		err := f.Intercept(op, run)
		if op.Kind == KindClose || tries >= maxInterrupts || !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// open opens or creates a file, which is closed again if Intercept turns the
// success into a failure.
func (f *FS) open(kind Kind, name string, flag int, perm fs.FileMode) (*File, error) {
	var file *os.File
	err := f.do(Op{Kind: kind, Path: name}, func() (err error) {
		file, err = os.OpenFile(name, flag, perm)
		return err
	})
	return f.adopt(name, file, err)
}

// adopt makes a File of what an operation opened, and of its error.
func (f *FS) adopt(name string, file *os.File, err error) (*File, error) {
	if err == nil && file == nil {
		err = &fs.PathError{Op: "open", Path: name, Err: errNotRun}
	}
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, err
	}
	return &File{fs: f, file: file, name: name}, nil
}

// Create makes a new file and opens it for reading and writing. It fails with
// fs.ErrExist if there is one of that name.
func (f *FS) Create(name string, perm fs.FileMode) (*File, error) {
	return f.open(KindCreate, name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
}

// Open opens a file for reading.
func (f *FS) Open(name string) (*File, error) { return f.open(KindOpen, name, os.O_RDONLY, 0) }

// OpenWrite opens an existing file for reading and writing.
func (f *FS) OpenWrite(name string) (*File, error) { return f.open(KindOpen, name, os.O_RDWR, 0) }

// Mkdir makes one directory; it is no error if it is there.
func (f *FS) Mkdir(name string, perm fs.FileMode) error {
	_, err := f.mkdir(name, perm)
	return err
}

// mkdir makes one directory and reports whether it was missing. What has the
// name already must be a directory, or a symbolic link to one: people move
// parts of a repository to other disks that way.
func (f *FS) mkdir(name string, perm fs.FileMode) (made bool, err error) {
	err = f.do(Op{Kind: KindMkdir, Path: name}, func() error { return os.Mkdir(name, perm) })
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	if info, statErr := f.stat(name, os.Stat); statErr == nil && info.IsDir() {
		return false, nil
	}
	return false, err
}

// MkdirAll makes a directory with all its parents and syncs the parent of each
// one that it made, so that they outlast a power cut:
//
//	mkdir a, syncdir ., mkdir a/b, syncdir a, …
//
// A directory that is there already is taken to be durable.
func (f *FS) MkdirAll(name string, perm fs.FileMode) error {
	var missing []string // innermost first
	for dir := filepath.Clean(name); ; dir = filepath.Dir(dir) {
		info, err := f.stat(dir, os.Stat)
		if err == nil && info.IsDir() {
			break
		}
		if err == nil {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	for i := len(missing) - 1; i >= 0; i-- {
		made, err := f.mkdir(missing[i], perm)
		if err != nil {
			return err
		}
		if !made { // another process was faster, and syncs what it made
			continue
		}
		if err := f.SyncDir(filepath.Dir(missing[i])); err != nil {
			return err
		}
	}
	return nil
}

// Link gives a file a second name. It fails with fs.ErrExist if the name is taken.
func (f *FS) Link(from, to string) error {
	return f.do(Op{Kind: KindLink, Path: from, To: to}, func() error { return os.Link(from, to) })
}

// Rename moves a file over whatever has the new name.
func (f *FS) Rename(from, to string) error {
	return f.do(Op{Kind: KindRename, Path: from, To: to}, func() error { return os.Rename(from, to) })
}

// Remove removes one file or empty directory.
func (f *FS) Remove(name string) error {
	return f.do(Op{Kind: KindRemove, Path: name}, func() error { return os.Remove(name) })
}

// RemoveAll removes a tree; it is no error if there is none. Each name goes in
// an operation of its own, children first, so that a test can stop it anywhere.
func (f *FS) RemoveAll(name string) error {
	err := f.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := f.ReadDir(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := f.RemoveAll(filepath.Join(name, e.Name())); err != nil {
			return err
		}
	}
	if err := f.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// SyncDir makes the names in a directory durable. A file system that has no
// sync for directories says EINVAL or ENOTSUP: there is nothing more that we
// could do on it, so that is no error.
func (f *FS) SyncDir(name string) error {
	return f.do(Op{Kind: KindSyncDir, Path: name}, func() error {
		dir, err := os.Open(name)
		if err != nil {
			return err
		}
		err = dir.Sync()
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
			err = nil
		}
		if closeErr := dir.Close(); err == nil {
			err = closeErr
		}
		return err
	})
}

// ReadDir returns the entries of a directory in the byte order of their names.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	var entries []fs.DirEntry
	err := f.do(Op{Kind: KindReadDir, Path: name}, func() (err error) {
		entries, err = os.ReadDir(name)
		return err
	})
	if err != nil {
		return nil, err // half a listing is worse than none
	}
	return entries, nil
}

// Lstat returns what the system knows of a name, without following a link.
func (f *FS) Lstat(name string) (fs.FileInfo, error) { return f.stat(name, os.Lstat) }

func (f *FS) stat(name string, call func(string) (fs.FileInfo, error)) (fs.FileInfo, error) {
	var info fs.FileInfo
	err := f.do(Op{Kind: KindStat, Path: name}, func() (err error) {
		info, err = call(name)
		return err
	})
	if err == nil && info == nil {
		err = &fs.PathError{Op: "stat", Path: name, Err: errNotRun}
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

// ReadFile returns the bytes of a file of at most limit bytes; a larger one is
// an error.
func (f *FS) ReadFile(name string, limit int64) ([]byte, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	tooLarge := func(n int64) error { return fmt.Errorf("%s: %d bytes, the limit is %d", name, n, limit) }
	if size > limit {
		return nil, tooLarge(size)
	}
	// One byte more than the size shows the end in one read; a file that grew
	// meanwhile is read as far as the limit allows.
	buf := make([]byte, 0, size+1)
	for {
		n, err := file.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > limit {
			return nil, tooLarge(int64(len(buf)))
		}
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
	}
}

// Replace puts data in place of whatever has the name, so that after a crash
// there is the old file or the new one, complete:
//
//	create name.tmp-XXXX, write, sync, close, rename, syncdir of the directory
//
// If it fails the temporary file is removed. An error of the last step leaves
// the new file in place, and its durability unknown.
func (f *FS) Replace(name string, data []byte, perm fs.FileMode) error {
	file, err := f.createTemp(name, perm)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = f.Rename(file.Name(), name)
	}
	if err != nil {
		_ = f.Remove(file.Name()) // what failed first is what is told
		return err
	}
	return f.SyncDir(filepath.Dir(name))
}

// createTemp creates a file of a random name beside name.
func (f *FS) createTemp(name string, perm fs.FileMode) (*File, error) {
	for tries := 0; ; tries++ {
		file, err := f.Create(fmt.Sprintf("%s.tmp-%08x", name, rand.Uint32()), perm)
		if err == nil || tries >= 100 || !errors.Is(err, fs.ErrExist) {
			return file, err
		}
	}
}
