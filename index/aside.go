package index

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// A VersionError says that an index is of a newer format. It is no damage: the
// program that wrote it still needs it, so Update leaves it where it is.
type VersionError struct {
	File    string
	Version uint32
}

// Error says what is wrong.
func (e *VersionError) Error() string {
	return fmt.Sprintf("%s: version %d of the format of an index, this program knows %d", e.File, e.Version, version)
}

// DamagedName is where Update sets a damaged index aside. One name is enough:
// the last one is what somebody may want to look at.
func DamagedName(name string) string { return name + ".damaged" }

// damaged reports whether an error says that the index of that name is damaged.
// What else may be damaged is not the index's business, and an index that cannot
// be read at the moment (EIO, EACCES) may be whole.
func damaged(err error, name string) bool {
	var corrupt *pack.CorruptError
	return errors.As(err, &corrupt) && corrupt.File == name
}

// setAside makes room for a new index. The lock is held:
//
//	rename NAME to NAME.damaged, syncdir of the directory
//
// A power cut in between leaves the one name or the other; with neither a new
// index is made just as well.
func setAside(fsys *fsx.FS, name string) error {
	if err := fsys.Rename(name, DamagedName(name)); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// Clear removes an index, and one that was set aside, waiting for others that
// write it for at most wait. It is no error if there is none.
func Clear(fsys *fsx.FS, name string, wait time.Duration) error {
	there := false
	for _, p := range []string{name, DamagedName(name)} {
		if _, err := fsys.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			there = true
		}
	}
	if !there {
		return nil // and no lock file is left behind
	}
	lock, err := fsys.Lock(lockName(name), fsx.Exclusive, wait)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	for _, p := range []string{name, DamagedName(name)} {
		if err := fsys.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fsys.SyncDir(filepath.Dir(name))
}
