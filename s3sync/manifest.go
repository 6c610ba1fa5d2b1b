package s3sync

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Kind says what a manifest lists.
type Kind string

// The kinds of manifests.
const (
	Full  Kind = "full"  // everything
	Diff  Kind = "diff"  // what its base has otherwise
	Prune Kind = "prune" // everything, made to let go of keys
)

// Manifest is a generation of a repository in a bucket.
type Manifest struct {
	N    uint64
	Time time.Time // seconds, UTC
	Repo string    // id of the repository; "" if it has none
	Kind Kind
	// Encrypted says that names and refs are encrypted, and Locked that they have not been
	// opened: Files go by their keys then and are described as they are stored, Repo is a
	// digest of the id, and there are no refs.
	Encrypted, Locked bool

	Prev Sum    // of manifest N-1; zero if there is none
	Base uint64 // of a Diff
	Head string // "" if HEAD stands for nothing

	Files []File   // sorted by name
	Gone  []string // of a Diff; sorted
	// Drops are the keys that are to be deleted, sorted. A Diff has those of its base.
	Drops []Drop
	// Freed are numbers below N of which the manifest may have been deleted, so that the number
	// is to be had again. One that is found there is no generation. A Diff has those of its base.
	Freed Spans
	Refs  []repo.Ref

	Signature []byte // armored SSHSIG; nil if it is not signed
	Signer    string // SHA256:…, of the key of a signature that is right (Trust)

	sealed   []byte   // of a locked one: what is encrypted in it
	replaced []string // of a Diff that is being made: keys that the base has and this has not
}

// File is a file of a generation.
type File struct {
	Name    string // in the repository
	Size    int64
	SHA256  Sum
	Key     string // below the repository's prefix
	Version string // "" where the bucket keeps none
	// PartSums is what the store tells of an object that was sent in parts, as Object has it.
	PartSums Sum
	// Cipher is what stands there, if it is encrypted; zero: the file as it is.
	Cipher Stored
}

// maxManifest bounds the text of a manifest: a million files.
const maxManifest = 512 << 20

const (
	manifestHead = "kedge-manifest 1\n"
	manifestEnd  = "end\n"
	keyManifests = "manifests/"
	keyBases     = "bases/"
)

// manifestKey returns the key of generation n below manifests/ or bases/.
func manifestKey(dir string, n uint64) string { return fmt.Sprintf("%s%016x", dir, ^n) }

// parseManifestKey returns the generation that a key stands for.
func parseManifestKey(key string) (n uint64, ok bool) {
	hex := key[strings.LastIndexByte(key, '/')+1:]
	v, err := strconv.ParseUint(hex, 16, 64)
	return ^v, err == nil && manifestKey("", ^v) == hex
}

// orDash writes what may be missing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Append appends the text of the manifest without the signature.
func (m *Manifest) Append(b []byte) []byte {
	prev := ""
	if !m.Prev.IsZero() {
		prev = m.Prev.String()
	}
	if m.Locked {
		b = append(b, sealedHead...)
	} else {
		b = append(b, manifestHead...)
	}
	b = fmt.Appendf(b, "n %d\ntime %s\nrepo %s\nkind %s\nprev %s\n", m.N,
		m.Time.UTC().Format(time.RFC3339), orDash(m.Repo), m.Kind, orDash(prev))
	if m.Kind == Diff {
		b = fmt.Appendf(b, "base %d\n", m.Base)
	}
	if !m.Locked {
		b = fmt.Appendf(b, "head %s\n", orDash(m.Head))
	}
	for i := range m.Files {
		if f := &m.Files[i]; m.Locked {
			b = f.appendStored(fmt.Appendf(b, "+ %s %d %v", f.Name, f.Size, f.SHA256))
		} else {
			b = f.append(b)
		}
	}
	for _, name := range m.Gone {
		b = fmt.Appendf(b, "- %s\n", name)
	}
	for i := range m.Drops {
		b = m.Drops[i].append(b)
	}
	b = m.Freed.append(b)
	if m.Locked {
		return append(b, m.sealed...)
	}
	b = append(b, "refs\n# pack-refs with: sorted\n"...)
	for _, r := range m.Refs {
		b = append(append(append(r.ID.AppendHex(b), ' '), r.Name...), '\n')
	}
	return append(b, manifestEnd...)
}

// append appends the line of a file.
func (f *File) append(b []byte) []byte {
	return f.appendStored(fmt.Appendf(b, "+ %s %d %v %s", f.Name, f.Size, f.SHA256, f.Key))
}

// appendStored ends the line of a file with what the store tells of it.
func (f *File) appendStored(b []byte) []byte {
	switch {
	case !f.PartSums.IsZero():
		b = fmt.Appendf(b, " %s %v", orDash(f.Version), f.PartSums)
	case f.Version != "":
		b = append(append(b, ' '), f.Version...)
	}
	return append(b, '\n')
}

// lines takes lines off a text.
type lines struct {
	text []byte
	off  int
	err  error
}

func (l *lines) fail(reason string) {
	if l.err == nil {
		l.err = &pack.CorruptError{File: "manifest", Off: int64(l.off), Reason: reason}
	}
}

// peek returns the next line without its newline.
func (l *lines) peek() string {
	line, _, ok := bytes.Cut(l.text[l.off:], []byte("\n"))
	if !ok {
		l.fail("a line is cut short")
	}
	return string(line)
}

func (l *lines) next() string {
	line := l.peek()
	if l.err == nil {
		l.off += len(line) + 1
	}
	return line
}

// value takes a line of a word and a value.
func (l *lines) value(word string) string {
	at := l.off
	v, ok := strings.CutPrefix(l.next(), word+" ")
	if !ok || v == "" {
		l.off = at
		l.fail("no line " + word)
	}
	return v
}

// unsigned takes a line of a word and a number.
func (l *lines) unsigned(word string) uint64 {
	v := l.value(word)
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != v {
		l.fail(word + " is no number")
	}
	return n
}

// optional takes a line of a word and a value or -.
func (l *lines) optional(word string) string {
	if v := l.value(word); v != "-" {
		return v
	}
	return ""
}

// ParseManifest reads a manifest. Only the text that Append would write is accepted. Whether
// the signature is right is not looked at.
func ParseManifest(text []byte) (Manifest, error) {
	l := &lines{text: text}
	var m Manifest
	head := l.next() + "\n"
	m.Locked = head == sealedHead
	m.Encrypted = m.Locked
	if head != manifestHead && !m.Locked {
		l.off = 0
		l.fail("it is no manifest, or one of a newer version")
	}
	m.N = l.unsigned("n")
	var err error
	if m.Time, err = time.Parse(time.RFC3339, l.value("time")); err != nil {
		l.fail("time is none")
	}
	m.Repo = l.optional("repo")
	m.Kind = Kind(l.value("kind"))
	if prev := l.optional("prev"); prev != "" {
		if m.Prev, err = ParseSum(prev); err != nil {
			l.fail("prev is no SHA-256")
		}
	}
	switch m.Kind {
	case Full, Prune:
	case Diff:
		m.Base = l.unsigned("base")
	default:
		l.fail("unknown kind")
	}
	if !m.Locked {
		m.Head = l.optional("head")
	}
	m.files(l)
	if m.Locked {
		m.takeSealed(l)
	} else {
		m.refs(l)
	}
	if l.err != nil {
		return Manifest{}, l.err
	}
	if !bytes.Equal(m.Append(nil), text[:l.off]) {
		return Manifest{}, &pack.CorruptError{File: "manifest", Reason: "it is not written as manifests are"}
	}
	if l.off < len(text) {
		m.Signature = text[l.off:]
	}
	return m, nil
}

func (m *Manifest) files(l *lines) {
	for l.err == nil && strings.HasPrefix(l.peek(), "+ ") {
		words := strings.Split(l.next(), " ")[1:]
		if m.Locked && len(words) >= 3 { // the name is the key
			words = slices.Insert(words, 3, words[0])
		}
		f, err := parseFile(words)
		if err == nil && len(m.Files) > 0 && m.Files[len(m.Files)-1].Name >= f.Name {
			err = errors.New("files are out of order")
		}
		if err != nil {
			l.fail(err.Error())
		}
		m.Files = append(m.Files, f)
	}
	for l.err == nil && strings.HasPrefix(l.peek(), "- ") {
		name := l.next()[2:]
		if m.Kind != Diff || checkFileName(name) != nil || len(m.Gone) > 0 && m.Gone[len(m.Gone)-1] >= name {
			l.fail("a file that cannot be gone")
		}
		m.Gone = append(m.Gone, name)
	}
	for l.err == nil && strings.HasPrefix(l.peek(), "drop ") {
		d, err := parseDrop(l.next()[len("drop "):], m.N)
		if m.Kind == Diff || err != nil || len(m.Drops) > 0 && m.Drops[len(m.Drops)-1].Key >= d.Key {
			l.fail("a key that cannot be dropped")
		}
		m.Drops = append(m.Drops, d)
	}
	if l.err == nil && strings.HasPrefix(l.peek(), "freed ") {
		var err error
		if m.Freed, err = parseSpans(l.next()[len("freed "):], m.N); m.Kind == Diff || err != nil {
			l.fail("numbers that cannot be free")
		}
	}
}

func parseFile(words []string) (f File, err error) {
	if len(words) < 4 || len(words) > 6 {
		return f, errors.New("a file has too few words or too many")
	}
	f.Name, f.Key = words[0], words[3]
	size, err1 := strconv.ParseInt(words[1], 10, 64)
	sum, err2 := ParseSum(words[2])
	f.Size, f.SHA256 = size, sum
	if len(words) > 4 && (len(words) == 5 || words[4] != "-") {
		f.Version = words[4]
	}
	var err3 error
	if len(words) == 6 {
		f.PartSums, err3 = ParseSum(words[5])
	}
	if size < 0 {
		err1 = errors.New("a size is negative")
	}
	return f, errors.Join(err1, err2, err3, checkFileName(f.Name), checkFileName(f.Key))
}

// checkFileName fails for a name that a repository has no file of, or that would lead out
// of one: a manifest may be anybody's.
func checkFileName(name string) error {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("%q is no name of a file", name)
		}
	}
	return nil
}

func (m *Manifest) refs(l *lines) {
	if l.next() != "refs" {
		l.fail("no refs")
		return
	}
	start := l.off
	for l.err == nil && l.peek()+"\n" != manifestEnd {
		l.next()
	}
	if l.err != nil {
		return
	}
	refs, err := repo.ParsePackedRefs(l.text[start:l.off])
	for _, r := range refs {
		err = errors.Join(err, repo.CheckRefName(r.Name))
	}
	if err != nil {
		l.off = start
		l.fail(err.Error())
	}
	m.Refs = refs
	l.next()
}

// Apply returns the files of a generation, sorted by name: those of its base, changed as
// the manifest says.
func (m *Manifest) Apply(base []File) []File {
	if m.Kind != Diff {
		return m.Files
	}
	changed := make(map[string]bool, len(m.Files)+len(m.Gone))
	for i := range m.Files {
		changed[m.Files[i].Name] = true
	}
	for _, name := range m.Gone {
		changed[name] = true
	}
	all := slices.Clone(m.Files)
	for _, f := range base {
		if !changed[f.Name] {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// diff sets Files and Gone to what is other in all than in base.
func (m *Manifest) diff(base, all []File) {
	was := make(map[string]File, len(base))
	for _, f := range base {
		was[f.Name] = f
	}
	m.Files, m.Gone = nil, nil
	for _, f := range all {
		if was[f.Name] != f {
			m.Files = append(m.Files, f)
		}
		delete(was, f.Name)
	}
	for name := range was {
		m.Gone = append(m.Gone, name)
	}
	slices.Sort(m.Gone)
}
