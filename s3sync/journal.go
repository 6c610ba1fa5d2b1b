package s3sync

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// The journal of a mirror is a text file in the state directory. It is there while a run is
// under way, and stays if the run was cut short: then what the bucket has beyond its last
// generation is looked up before it is sent again. Lines, each ending in a newline:
//
//	kedge-uploads 1
//	for https://s3.example.org/bucket/ p/build/ q1pky36gbwdvwxohnasgpmwref48uiw
//	begin p/build/objects/pack/pack-….pack 134217728 2c26b4…66e7 16777216 VXBsb2Fk
//	part VXBsb2Fk 3 16777216 fcde2b…0eb9 9bb5…
//	end VXBsb2Fk
//
// "for" says which store, prefix and repository. "begin" has the key, the size and SHA-256
// of what is to be there, the size of its parts, and the id of the upload; it is synced before
// the first part is sent, because servers can't be trusted to list uploads. "part" has
// the id, and the number, size, SHA-256 and tag of a part that the store has; it is not synced, as
// all that is lost with it is a part. "end" says that the upload was completed or aborted. What is
// not printable in a word, and %, is written as % and two hexadecimal digits.
//
// The file is a hint: whatever it says is compared with the store. So a line that cannot be
// read ends it, and what follows is cut off.
type journal struct {
	lineLog
	cut  bool // the last run was cut short
	lock *fsx.Lock
	open map[string]*openUpload // by their ids
}

// openUpload is an upload that was begun and has not ended.
type openUpload struct {
	key      string
	size     int64
	sum      Sum
	partSize int64
	id       string
	parts    map[int]Part
}

const (
	journalHead = "kedge-uploads 1\n"
	maxJournal  = 256 << 20 // bytes; a million parts
)

// openJournal takes the journal of one mirror in a directory, which is made if it is not there.
// *fsx.ErrLocked if another run has it.
func openJournal(fsys *fsx.FS, dir, store, prefix, id string) (*journal, error) {
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	head := journalHead + "for " + word(orDash(store)) + " " + word(orDash(prefix)) + " " + word(orDash(id)) + "\n"
	sum := SumOf([]byte(head))
	j := &journal{lineLog: lineLog{fs: fsys, head: head, name: filepath.Join(dir, "mirror-"+sum.String()[:16])}}
	var err error
	// The lock has a file of its own, which stays: the journal is removed.
	if j.lock, err = fsys.Lock(j.name+".lock", fsx.Exclusive, 0); err != nil {
		return nil, err
	}
	text, err := fsys.ReadFile(j.name, maxJournal)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, j.lock.Unlock())
	}
	j.cut = err == nil
	j.open, j.length = parseJournal(text, head)
	return j, nil
}

// parseJournal returns the uploads that are open, and how much of the text counts.
func parseJournal(text []byte, head string) (open map[string]*openUpload, length int64) {
	open = make(map[string]*openUpload)
	rest, ok := bytes.CutPrefix(text, []byte(head))
	if !ok {
		return open, 0
	}
	for {
		line, next, ok := bytes.Cut(rest, []byte("\n"))
		if !ok || !note(open, strings.Split(string(line), " ")) {
			return open, int64(len(text) - len(rest))
		}
		rest = next
	}
}

// note changes what is open as a line says, and reports whether it could be read.
func note(open map[string]*openUpload, words []string) bool {
	if len(words) < 2 {
		return false
	}
	first, err := unword(words[1])
	if err != nil {
		return false
	}
	u := open[first] // if it is an id
	switch {
	case words[0] == "begin" && len(words) == 6:
		size, err1 := strconv.ParseInt(words[2], 10, 64)
		sum, err2 := ParseSum(words[3])
		partSize, err3 := strconv.ParseInt(words[4], 10, 64)
		id, err4 := unword(words[5])
		if errors.Join(err1, err2, err3, err4) != nil || size < 0 || partSize <= 0 {
			return false
		}
		open[id] = &openUpload{first, size, sum, partSize, id, make(map[int]Part)}
	case words[0] == "part" && len(words) == 6 && u != nil:
		n, err1 := strconv.Atoi(words[2])
		size, err2 := strconv.ParseInt(words[3], 10, 64)
		sum, err3 := ParseSum(words[4])
		tag, err4 := unword(words[5])
		if errors.Join(err1, err2, err3, err4) != nil {
			return false
		}
		u.parts[n] = Part{n, size, sum, tag}
	case words[0] == "end" && len(words) == 2 && u != nil:
		delete(open, first)
	default:
		return false
	}
	return true
}

// word writes a word so that it has no blanks.
func word(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func unword(s string) (string, error) { return url.PathUnescape(s) }

// begin notes an upload whose first part is about to be sent.
func (j *journal) begin(u *openUpload) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	u.parts = make(map[int]Part)
	j.open[u.id] = u
	return j.append(fmt.Sprintf("begin %s %d %v %d %s\n", word(u.key), u.size, u.sum, u.partSize, word(u.id)), true)
}

// part notes a part that the store has.
func (j *journal) part(u *openUpload, p Part) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	u.parts[p.N] = p
	return j.append(fmt.Sprintf("part %s %d %d %v %s\n", word(u.id), p.N, p.Size, p.SHA256, word(p.Tag)), false)
}

// end notes that there is no such upload any more.
func (j *journal) end(u *openUpload) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.open, u.id)
	return j.append("end "+word(u.id)+"\n", false)
}

// of returns the uploads of a key.
func (j *journal) of(key string) []*openUpload {
	return slices.DeleteFunc(j.pending(), func(u *openUpload) bool { return u.key != key })
}

// noted returns the parts of an upload that the journal has.
func (j *journal) noted(u *openUpload) map[int]Part {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(u.parts)
}

// pending returns the uploads that are open.
func (j *journal) pending() []*openUpload {
	j.mu.Lock()
	defer j.mu.Unlock()
	list := slices.Collect(maps.Values(j.open))
	slices.SortFunc(list, func(a, b *openUpload) int { return strings.Compare(a.id, b.id) })
	return list
}

// close gives the journal back. If all was done and no upload is open it is removed; else
// the next run reads it.
func (j *journal) close(done bool) error {
	done = done && len(j.pending()) == 0
	err := j.closeFile()
	if done && (j.file != nil || j.cut) {
		err = errors.Join(err, j.fs.Remove(j.name))
	}
	return errors.Join(err, j.lock.Unlock())
}
