package s3sync

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// The names of an encrypted mirror are a text file in the state directory, beside the journal.
// A server cannot read what it sent, so this is how it knows what stands under which key. Lines,
// each ending in a newline:
//
//	kedge-names 1
//	for https://s3.example.org/bucket/ p/8d3c…/ q1pky36gbwdvwxohnasgpmwref48uiw
//	file data/5f2e…c1 objects/pack/pack-….pack 1048 2c26b4…66e7 1264 fcde2b…0eb9 -
//	packs kedge/segments/trees-… 5210 3f2a… 91bc…
//	generation 9f86d0…0a08 7d865e…a4b3
//
// "for" says which store, prefix and repository. "file" has the key of an object, the name of the
// file in it, its size and SHA-256, size and SHA-256 of the age file, and the SHA-256 of
// the SHA-256 of its parts. It is synced before the first byte is sent: a ciphertext cannot be
// made again, so whoever finds an object after a cut can tell by this line alone whether it is
// whole. "packs" has the name of an index segment, how many rows it has, and the packs in
// it. "generation" has the SHA-256 of a manifest, and of the refs and HEAD that are sealed in
// it; it is synced before the manifest is sent. What is not printable in a word, and %, is written as
// % and two hexadecimal digits.
//
// Without the file, or of what it does not know, everything is sent anew. So a line that cannot be read ends
// it, and what follows is cut off. When most of it speaks of keys that no generation needs any
// more it is written anew.
type names struct {
	lineLog
	id     string // of the repository
	byKey  map[string]File
	byName map[string][]File        // in the order in which they were noted
	packs  map[string]*segmentPacks // by the name of the segment
	refs   map[Sum]Sum              // of manifests
	lines  int
	tip    Sum // the manifest that was noted last
}

// segmentPacks is what a segment has.
type segmentPacks struct {
	rows  int64
	packs []pack.ID
}

const (
	namesHead = "kedge-names 1\n"
	maxNames  = 1 << 30 // bytes; some million files
)

// openNames reads the names that belong to a journal, whose lock is held.
func openNames(j *journal, id string) (*names, error) {
	rest := strings.TrimPrefix(j.head, journalHead)
	n := &names{
		lineLog: lineLog{fs: j.fs, name: filepath.Join(filepath.Dir(j.name), strings.Replace(filepath.Base(j.name), "mirror-", "names-", 1)), head: namesHead + rest},
		id:      id,
	}
	n.clear()
	text, err := n.fs.ReadFile(n.name, maxNames)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if lines, ok := bytes.CutPrefix(text, []byte(n.head)); ok {
		n.length = int64(len(n.head)) + n.takeText(lines)
	}
	return n, nil
}

// takeText notes what lines say, and returns how much of them counts.
func (n *names) takeText(text []byte) (length int64) {
	for rest := text; ; {
		line, next, ok := bytes.Cut(rest, []byte("\n"))
		if !ok || !n.take(strings.Split(string(line), " ")) {
			return int64(len(text) - len(rest))
		}
		rest = next
	}
}

func (n *names) clear() {
	n.byKey, n.byName = make(map[string]File), make(map[string][]File)
	n.packs, n.refs = make(map[string]*segmentPacks), make(map[Sum]Sum)
	n.lines = 0
}

// take notes what a line says, and reports whether it could be read.
func (n *names) take(words []string) bool {
	n.lines++
	switch {
	case words[0] == "file" && len(words) == 8:
		f, err := parseNamed(words[1:])
		if err == nil {
			n.put(f)
		}
		return err == nil
	case words[0] == "packs" && len(words) >= 3:
		rows, err := strconv.ParseInt(words[2], 10, 64)
		s := &segmentPacks{rows: rows}
		for _, word := range words[3:] {
			id, ierr := pack.ParseID(word)
			err = errors.Join(err, ierr)
			s.packs = append(s.packs, id)
		}
		if err != nil || rows < 0 {
			return false
		}
		n.packs[words[1]] = s
		return true
	case words[0] == "generation" && len(words) == 3:
		manifest, err1 := ParseSum(words[1])
		refs, err2 := ParseSum(words[2])
		if err1 != nil || err2 != nil {
			return false
		}
		n.refs[manifest] = refs
		return true
	}
	return false
}

// parseNamed reads the words of a file.
func parseNamed(words []string) (f File, err error) {
	f.Key = words[0]
	var errs [7]error
	f.Name, errs[0] = unword(words[1])
	f.Size, errs[1] = strconv.ParseInt(words[2], 10, 64)
	f.SHA256, errs[2] = ParseSum(words[3])
	f.Cipher.Size, errs[3] = strconv.ParseInt(words[4], 10, 64)
	f.Cipher.SHA256, errs[4] = ParseSum(words[5])
	if words[6] != "-" {
		f.PartSums, errs[5] = ParseSum(words[6])
	}
	errs[6] = checkFileName(f.Key)
	if f.Size < 0 || f.Cipher.Size < f.Size {
		return f, errors.New("sizes that do not fit")
	}
	return f, errors.Join(errs[:]...)
}

// fileLine is the line of a file.
func fileLine(f *File) string {
	parts := "-"
	if !f.PartSums.IsZero() {
		parts = f.PartSums.String()
	}
	return fmt.Sprintf("file %s %s %d %v %d %v %s\n", f.Key, word(f.Name), f.Size, f.SHA256, f.Cipher.Size, f.Cipher.SHA256, parts)
}

// packsLine is the line of a segment.
func packsLine(name string, s *segmentPacks) string {
	var b strings.Builder
	fmt.Fprintf(&b, "packs %s %d", name, s.rows)
	for _, id := range s.packs {
		b.WriteString(" " + id.String())
	}
	b.WriteByte('\n')
	return b.String()
}

// put keeps a file in memory.
func (n *names) put(f File) {
	n.byKey[f.Key] = f
	n.byName[f.Name] = append(n.byName[f.Name], f)
}

// note notes a file that is about to be sent.
func (n *names) note(f File) error {
	if err := n.start(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.put(f)
	n.lines++
	return n.append(fileLine(&f), true)
}

// noteSegment notes the packs of a segment that is about to be sent.
func (n *names) noteSegment(name string, s *segmentPacks) error {
	if err := n.start(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.packs[name] = s
	n.lines++
	return n.append(packsLine(name, s), false)
}

// noteGeneration notes a manifest that is about to be sent.
func (n *names) noteGeneration(manifest, refs Sum) error {
	if err := n.start(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refs[manifest], n.tip = refs, manifest
	n.lines++
	return n.append(fmt.Sprintf("generation %v %v\n", manifest, refs), true)
}

// of returns the objects that were made of a file, the newest first.
func (n *names) of(name string) []File {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := slices.Clone(n.byName[name])
	slices.Reverse(list)
	return list
}

// unlock gives the files of a locked generation their names. Those that it does not know are
// left out and counted.
func (n *names) unlock(g *Generation) {
	var list []File
	for _, at := range g.Files {
		if name, _, _ := strings.Cut(at.Key, "~"); name == nameRestoreText { // not encrypted
			at.Name = name
			list = append(list, at)
			continue
		}
		f, ok := n.byKey[at.Key]
		if !ok || f.Cipher != (Stored{at.Size, at.SHA256}) {
			g.unknown++
			continue
		}
		f.Version, f.PartSums = at.Version, at.PartSums
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	g.Files = list
	if g.Repo == repoDigest(n.id) {
		g.Repo = n.id
	}
}

// keep writes the file anew if most of it speaks of other keys than those of these files.
func (n *names) keep(lists ...[]File) error {
	live := make(map[string]File)
	for _, list := range lists {
		for _, f := range list {
			if old, ok := n.byKey[f.Key]; ok {
				live[f.Key] = old
			}
		}
	}
	if n.lines <= 3*len(live)+100 {
		return nil
	}
	var b strings.Builder
	b.WriteString(n.head)
	for _, f := range live {
		b.WriteString(fileLine(&f))
		if s := n.packs[f.Name]; s != nil {
			b.WriteString(packsLine(f.Name, s))
		}
	}
	if refs, ok := n.refs[n.tip]; ok {
		fmt.Fprintf(&b, "generation %v %v\n", n.tip, refs)
	}
	return n.fs.Replace(n.name, []byte(b.String()), 0o600)
}

// refsSum is the SHA-256 of refs and HEAD.
func refsSum(head string, refs []repo.Ref) Sum {
	b := fmt.Appendf(nil, "head %s\n", orDash(head))
	for _, r := range refs {
		b = append(append(append(r.ID.AppendHex(b), ' '), r.Name...), '\n')
	}
	return SumOf(b)
}
