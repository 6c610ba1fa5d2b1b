package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// What a server remembers of its own work is in ROOT/.kedge/state:
//
//	upkeep       JSON: for each repository and task, when it was done and what went wrong since
//	fsck-REPO    a line for each pack: its name, when it was read last, "bad" if it is damaged
//
// Both are notes: without them everything counts as never done, and is done again.
const (
	ownDir    = ".kedge"
	noteLimit = 64 << 20
	lockWait  = 30 * time.Second
)

// StateDir is where a server remembers its own work.
func StateDir(root string) string { return filepath.Join(root, ownDir, "state") }

// TaskNote is what is remembered of a task of a repository.
type TaskNote struct {
	Done  time.Time `json:"done,omitzero"`  // when it last went well
	Tried time.Time `json:"tried,omitzero"` // when it was last begun
	Error string    `json:"error,omitempty"`
}

// Notes are those of all repositories and their tasks.
type Notes map[string]map[string]TaskNote

// ReadNotes reads what a server remembers; nothing if there is nothing.
func ReadNotes(fsys *fsx.FS, root string) (Notes, error) {
	n := make(Notes)
	file := filepath.Join(StateDir(root), "upkeep")
	text, err := fsys.ReadFile(file, noteLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	} else if err != nil {
		return n, err
	}
	if err := json.Unmarshal(text, &n); err != nil || n == nil {
		return make(Notes), nil // a note that cannot be read is none
	}
	return n, nil
}

// NoteTask remembers that a task of a repository was tried at a time, and how it ended. One
// who has no server remembers nothing: there is no ROOT/.kedge then, or it is somebody's own
// repository.
func NoteTask(fsys *fsx.FS, root, repo, task string, at time.Time, failed error) error {
	if _, err := fsys.Lstat(filepath.Join(root, ownDir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := fsys.Lstat(filepath.Join(root, ownDir, "objects")); err == nil {
		return nil
	}
	dir := StateDir(root)
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := fsys.Lock(filepath.Join(dir, "upkeep.lock"), fsx.Exclusive, lockWait)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	notes, err := ReadNotes(fsys, root)
	if err != nil {
		return err
	}
	if notes[repo] == nil {
		notes[repo] = make(map[string]TaskNote)
	}
	n := notes[repo][task]
	n.Tried, n.Error = at, ""
	switch {
	case failed == nil:
		n.Done = at
	case !errors.As(failed, new(*skippedError)):
		n.Error = failed.Error()
	}
	notes[repo][task] = n
	text, err := json.MarshalIndent(notes, "", " ")
	if err != nil {
		return err
	}
	return fsys.Replace(filepath.Join(dir, "upkeep"), append(text, '\n'), 0o600)
}

// packRead is what is remembered of a pack that fsck read.
type packRead struct {
	at  int64
	bad bool
}

// readShares reads which packs of a repository were read when.
func readShares(fsys *fsx.FS, root, repo string) (map[pack.ID]packRead, error) {
	list := make(map[pack.ID]packRead)
	text, err := fsys.ReadFile(filepath.Join(StateDir(root), "fsck-"+repo), noteLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	} else if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		id, err := pack.ParseID(f[0])
		var at int64
		if _, serr := fmt.Sscanf(f[1], "%d", &at); err == nil && serr == nil {
			list[id] = packRead{at, len(f) > 2 && f[2] == "bad"}
		}
	}
	return list, nil
}

// writeShares remembers which packs of a repository were read when.
func writeShares(fsys *fsx.FS, root, repo string, list map[pack.ID]packRead) error {
	if err := fsys.MkdirAll(StateDir(root), 0o700); err != nil {
		return err
	}
	var b bytes.Buffer
	for id, r := range list {
		fmt.Fprintf(&b, "%v %d", id, r.at)
		if r.bad {
			b.WriteString(" bad")
		}
		b.WriteByte('\n')
	}
	return fsys.Replace(filepath.Join(StateDir(root), "fsck-"+repo), b.Bytes(), 0o600)
}

// Repositories returns the names of the repositories of a server, in order.
func Repositories(fsys *fsx.FS, root string) ([]string, error) {
	list, err := fsys.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".") || !e.IsDir() {
			continue
		}
		if _, err := fsys.Lstat(filepath.Join(root, e.Name(), "objects")); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
