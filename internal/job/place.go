package job

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// This file is the part of a Loading whose target is a file or a directory.

// findFile finds out what is where the dump goes.
func (l *Loading) findFile() error {
	l.path = orElse(l.Stream.File, redisFile)
	if real, err := filepath.EvalSymlinks(l.path); err == nil {
		l.path = real
	}
	l.count = "0"
	info, err := l.FS.Lstat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.count = "absent"
	case err != nil:
		return err
	case l.kind.into == intoDir && info.IsDir():
		list, err := l.FS.ReadDir(l.path)
		if err != nil {
			return err
		}
		l.count = fmt.Sprint(len(list))
	case info.Mode()&fs.ModeDevice != 0 && l.kind.name == "device":
		l.block = true
		l.unsure = errors.New("it is a device, and would be overwritten")
		return l.unused(info)
	case !info.Mode().IsRegular():
		return fmt.Errorf("stream %s: %s is no regular file", l.Stream.Name, l.path)
	case info.Size() > 0:
		l.count = "1"
	}
	for _, name := range l.companions() {
		if _, err := l.FS.Lstat(name); err == nil {
			l.count = "1"
		}
	}
	return nil
}

// companions are the paths of what belongs to the file: its logs, and what the server would
// read in its place.
func (l *Loading) companions() (list []string) {
	for _, end := range l.kind.beside {
		list = append(list, l.path+end)
	}
	for _, name := range l.kind.also {
		list = append(list, filepath.Join(filepath.Dir(l.path), name))
	}
	return list
}

// old returns what is moved aside.
func (l *Loading) old() (list []string) {
	for _, name := range append([]string{l.path}, l.companions()...) {
		if _, err := l.FS.Lstat(name); err == nil {
			list = append(list, name)
		}
	}
	return list
}

// unused refuses a device that is mounted, or swapped to: writing to it would damage what the
// system keeps of it in memory, and be undone by that.
func (l *Loading) unused(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	for file, column := range map[string]int{"/proc/self/mounts": 0, "/proc/swaps": 0} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // there is no swap in some containers
		}
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if len(words) <= column || !strings.HasPrefix(words[column], "/dev/") {
				continue
			}
			var used syscall.Stat_t
			if syscall.Stat(words[column], &used) == nil && used.Rdev == st.Rdev && used.Mode&syscall.S_IFMT == st.Mode&syscall.S_IFMT {
				return fmt.Errorf("stream %s: %s is in use (%s): unmount it first", l.Stream.Name, l.path, file)
			}
		}
	}
	return nil
}

// newFile is where a file is made before it takes its place, beside it.
func (l *Loading) newFile() string {
	if l.path == "" || l.block {
		return l.path
	}
	return l.path + ".restoring"
}

// giveUp removes a file that did not become whole.
func (l *Loading) giveUp() error {
	err := l.FS.Remove(l.newFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// place puts the new file in its place. There is a whole file of that name at any moment: the
// old one, which gets a second name, and then the new one. In order:
//
//	fsync  FILE.restoring
//	link   FILE  FILE.before-restore-TIME
//	rename FILE-wal FILE-wal.before-restore-TIME    what belongs to the old one
//	rename FILE.restoring FILE
//	fsync  the directory
func (l *Loading) place() error {
	if err := l.own(); err != nil {
		return errors.Join(err, l.giveUp())
	}
	for _, name := range l.old() {
		var err error
		if name == l.path {
			err = l.FS.Link(name, name+l.suffix())
		} else {
			err = l.FS.Rename(name, name+l.suffix())
		}
		if err != nil {
			return errors.Join(err, l.giveUp())
		}
	}
	if err := l.FS.Rename(l.newFile(), l.path); err != nil {
		return err
	}
	return l.FS.SyncDir(filepath.Dir(l.path))
}

// own gives the new file the owner and the mode of the old one, or else the owner of the
// directory, and makes it durable.
func (l *Loading) own() error {
	f, err := os.OpenFile(l.newFile(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	like, err := l.FS.Lstat(l.path)
	if err == nil {
		err = f.Chmod(like.Mode().Perm())
	} else if errors.Is(err, fs.ErrNotExist) {
		if like, err = l.FS.Lstat(filepath.Dir(l.path)); err == nil {
			err = f.Chmod(0o640)
		}
	}
	if err != nil {
		return err
	}
	if st, ok := like.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return f.Sync()
}
