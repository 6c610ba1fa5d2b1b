package sshd

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// trusted returns nil if what stands in a file is what the user of the server, or root,
// has put there, as sshd's StrictModes wants it: the file, wherever links lead, and all
// directories above it are theirs and nobody else's to write. Directories in which nobody
// can take away what is another's, such as /tmp, are good enough. A secret file nobody
// else may read, either.
func trusted(files *fsx.FS, name string, secret bool) error {
	name, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	if name, err = filepath.EvalSymlinks(name); err != nil {
		return err
	}
	info, err := files.Lstat(name)
	if err != nil {
		return err
	}
	mode := info.Mode()
	switch {
	case !mode.IsRegular():
		return fmt.Errorf("%s: it is no regular file", name)
	case secret && mode.Perm()&0o077 != 0:
		return fmt.Errorf("%s: others may read it (mode %#o); chmod 600 it, or better make a new one", name, mode.Perm())
	case mode.Perm()&0o022 != 0:
		return fmt.Errorf("%s: others may write it (mode %#o); chmod 600 it", name, mode.Perm())
	case !ours(info):
		return fmt.Errorf("%s: it belongs to another user", name)
	}
	for dir := filepath.Dir(name); ; dir = filepath.Dir(dir) {
		info, err := files.Lstat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("%s: others may write the directory %s (mode %#o), and so replace it; chmod go-w it", name, dir, info.Mode().Perm())
		}
		if !ours(info) {
			return fmt.Errorf("%s: the directory %s belongs to another user", name, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// ours reports whether a file belongs to the user of this process or to root.
func ours(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid())
}
