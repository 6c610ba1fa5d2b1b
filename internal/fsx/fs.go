package fsx

import (
	"io/fs"
	"time"
)

// FS performs the changes kedge makes to its own files. The zero value is the
// operating system's file system. An FS may be used by several goroutines.
type FS struct {
	// Intercept, if not nil, is called around every operation. do performs the
	// operation; Intercept may run it, replace its error, or never return.
	// It is called by several goroutines at once.
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

// Op describes one operation before it happens.
type Op struct {
	Kind Kind
	Path string // the file or directory
	To   string // the new name, of a link or rename
	Off  int64  // of a read or write; the new size of a truncate
	Data []byte // the bytes to be written, valid during the call
}

// Create makes a new file and opens it for reading and writing. It fails with
// fs.ErrExist if there is one of that name.
func (f *FS) Create(name string, perm fs.FileMode) (*File, error) { panic("stub") }

// Open opens a file for reading.
func (f *FS) Open(name string) (*File, error) { panic("stub") }

// OpenWrite opens an existing file for reading and writing.
func (f *FS) OpenWrite(name string) (*File, error) { panic("stub") }

// Mkdir makes one directory; it is no error if it is there.
func (f *FS) Mkdir(name string, perm fs.FileMode) error { panic("stub") }

// MkdirAll makes a directory with all its parents and syncs the parent of each
// one that it made, so that they outlast a power cut.
func (f *FS) MkdirAll(name string, perm fs.FileMode) error { panic("stub") }

// Link gives a file a second name. It fails with fs.ErrExist if the name is taken.
func (f *FS) Link(from, to string) error { panic("stub") }

// Rename moves a file over whatever has the new name.
func (f *FS) Rename(from, to string) error { panic("stub") }

// Remove removes one file or empty directory.
func (f *FS) Remove(name string) error { panic("stub") }

// RemoveAll removes a tree; it is no error if there is none.
func (f *FS) RemoveAll(name string) error { panic("stub") }

// SyncDir makes the names in a directory durable.
func (f *FS) SyncDir(name string) error { panic("stub") }

// ReadDir returns the entries of a directory in the byte order of their names.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) { panic("stub") }

// Lstat returns what the system knows of a name, without following a link.
func (f *FS) Lstat(name string) (fs.FileInfo, error) { panic("stub") }

// ReadFile returns the bytes of a file of at most limit bytes; a larger one is
// an error.
func (f *FS) ReadFile(name string, limit int64) ([]byte, error) { panic("stub") }

// Replace puts data in place of whatever has the name, so that after a crash
// there is the old file or the new one, complete:
//
//	create name.tmp-XXXX, write, fsync, close, rename, fsync of the directory
func (f *FS) Replace(name string, data []byte, perm fs.FileMode) error { panic("stub") }

// File is an open file. After the first failed write, sync or close every
// later change fails with the same error.
type File struct{}

// Name returns the path the file was opened by.
func (f *File) Name() string { panic("stub") }

// Write appends at the file's own offset.
func (f *File) Write(p []byte) (int, error) { panic("stub") }

// WriteAt writes at off.
func (f *File) WriteAt(p []byte, off int64) (int, error) { panic("stub") }

// Read reads from the file's own offset.
func (f *File) Read(p []byte) (int, error) { panic("stub") }

// ReadAt reads at off.
func (f *File) ReadAt(p []byte, off int64) (int, error) { panic("stub") }

// Seek sets the file's own offset.
func (f *File) Seek(off int64, whence int) (int64, error) { panic("stub") }

// Truncate sets the file's size.
func (f *File) Truncate(size int64) error { panic("stub") }

// Size returns the file's size now.
func (f *File) Size() (int64, error) { panic("stub") }

// Sync makes the file's bytes durable.
func (f *File) Sync() error { panic("stub") }

// Close closes the file. A file that was written to and not synced is not durable.
func (f *File) Close() error { panic("stub") }

// LockMode says how a lock is shared.
type LockMode uint8

// Shared locks go together; an exclusive one goes with none.
const (
	Shared LockMode = iota
	Exclusive
)

// Lock is a held flock(2). It ends with the process that holds it.
type Lock struct{}

// Lock takes an advisory lock on name, which is created if it is not there. It
// waits for at most wait (0: not at all) and fails with ErrLocked then. After
// the lock is taken the file must still be the one of that name, else it is
// opened again (someone removed it in between).
func (f *FS) Lock(name string, mode LockMode, wait time.Duration) (*Lock, error) { panic("stub") }

// File returns the locked file; it stays open as long as the lock is held.
func (l *Lock) File() *File { panic("stub") }

// Unlock gives the lock back.
func (l *Lock) Unlock() error { panic("stub") }
