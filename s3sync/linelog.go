package s3sync

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// lineLog is a text file to which lines are appended. After a write that failed it refuses
// everything.
type lineLog struct {
	fs   *fsx.FS
	name string
	head string // its first lines

	mu     sync.Mutex
	file   *fsx.File // nil: nothing was written by this run
	length int64     // of what counts of the file
	err    error     // of the write that failed
}

// start makes the file, if it is not there, and opens it to append to it:
//
//	create, write the head, sync, syncdir      or      open, truncate
//
// What is behind the part that counts is cut off.
func (l *lineLog) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil || l.err != nil {
		return l.err
	}
	l.err = l.open()
	return l.err
}

func (l *lineLog) open() error {
	f, err := l.fs.OpenWrite(l.name)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = l.fs.Create(l.name, 0o600)
	}
	if err != nil {
		return err
	}
	l.file = f
	if err := f.Truncate(l.length); err != nil {
		return err
	}
	if l.length > 0 {
		return nil
	}
	if err := l.append(l.head, true); err != nil {
		return err
	}
	return l.fs.SyncDir(filepath.Dir(l.name))
}

// append writes a line. The lock is held.
func (l *lineLog) append(line string, sync bool) error {
	if l.err != nil {
		return l.err
	}
	if _, l.err = l.file.WriteAt([]byte(line), l.length); l.err != nil {
		return l.err
	}
	l.length += int64(len(line))
	if sync {
		l.err = l.file.Sync()
	}
	return l.err
}

// closeFile closes the file, if it was opened.
func (l *lineLog) closeFile() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
