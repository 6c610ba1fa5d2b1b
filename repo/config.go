package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/format/config"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

const (
	fileConfig     = "config"
	maxConfig      = 64 << 10 // bytes; the parser is quadratic in hostile ones
	formatVersion  = 1        // [kedge] version that this code reads and writes
	defaultChunker = "rabin:13"
)

// Config is what a repository says of itself.
type Config struct {
	Version       int    // of kedge's format: [kedge] version; 0: bup made it
	ID            string // bup.repo.id
	Chunker       string // [kedge] chunker, or "rollsum:N" after bup.split.files
	SplitTrees    bool   // bup.split.trees
	PackSizeLimit int64  // bytes; 0: the default
	PackObjects   int    // objects in a pack; 0: the default
	Compression   int    // zlib level; -1: the default
	Living        bool   // [kedge] living: it stands in a depot and is changed there
}

// Configured is what a Repo implements whose config can be asked for.
type Configured interface{ Config() Config }

// DirOptions says how a directory is opened.
type DirOptions struct {
	FS       *fsx.FS
	ReadOnly bool // Begin and SetRef are refused; nothing is cleaned up
	// Wait is how long to wait for a lock that somebody else holds, another kedge,
	// git or bup. 0: 30 s; negative: not at all.
	Wait time.Duration
	// Clock tells the time of the repository, by which receipts are dated and by which
	// garbage becomes old; nil: time.Now.
	Clock func() time.Time
}

// OpenDir opens a repository in a directory: dir itself, or dir/.git if that is there.
func OpenDir(ctx context.Context, dir string, o DirOptions) (*Packs, error) {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	at, err := gitDir(o.FS, dir)
	if err != nil {
		return nil, err
	}
	d := NewDir(o.FS, at)
	d.patience = patience(o.Wait)
	if o.Clock != nil {
		d.clock = o.Clock
	}
	text, err := d.fs.ReadFile(d.name(fileConfig), maxConfig)
	if noFile(err) {
		return nil, &NotFoundError{What: "repository", Name: dir}
	} else if err != nil {
		return nil, err
	}
	if info, err := d.fs.Lstat(d.name(dirPacks)); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, &NotFoundError{What: "repository", Name: dir}
	} else if err != nil {
		return nil, err
	}
	c, err := ParseConfig(text)
	if err != nil {
		return nil, d.inConfig(err)
	}
	p := newPacks(d, d, c, o.ReadOnly)
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// inConfig gives an error of the parser the name of the file that was parsed.
func (d *Dir) inConfig(err error) error {
	if c := new(pack.CorruptError); errors.As(err, &c) && c.File == fileConfig {
		return &pack.CorruptError{File: d.name(fileConfig), Off: c.Off, Reason: c.Reason}
	}
	return err
}

// gitDir returns the absolute path of dir/.git if that is a directory, else of dir.
func gitDir(fsys *fsx.FS, dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	inner := filepath.Join(dir, ".git")
	info, err := fsys.Lstat(inner)
	if err == nil && info.IsDir() {
		return inner, nil
	}
	if err != nil && !noFile(err) {
		return "", err
	}
	return dir, nil
}

// ParseConfig reads the config file of a repository. Keys that it does not
// know are git's or somebody else's and mean nothing to it. It does not follow
// include.path: a config that came with a repository must not make us read
// files outside of it (I6).
func ParseConfig(text []byte) (Config, error) {
	raw, err := decodeConfig(text)
	if err != nil {
		return Config{}, err
	}
	c := Config{Compression: -1}
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	note(checkGitFormat(raw))
	c.ID = lastOption(raw, "bup", "repo", "id")
	c.PackSizeLimit = sizeOption(raw, note, "pack", "packSizeLimit")
	if n := sizeOption(raw, note, "kedge", "packObjects"); n > 0 {
		c.PackObjects = int(min(n, 1<<30))
	}
	for _, section := range []string{"core", "pack"} {
		if v := lastOption(raw, section, "", "compression"); v != "" {
			c.Compression, err = strconv.Atoi(v)
			if err != nil || c.Compression < -1 || c.Compression > 9 {
				note(badOption(section+".compression", v))
			}
		}
	}
	c.SplitTrees, err = boolOption(raw, "bup", "split", "trees")
	note(err)
	c.Living, err = boolOption(raw, "kedge", "", "living")
	note(err)
	note(c.parseChunker(raw))
	return c, firstErr(errs...)
}

// parseChunker fills in how files are split, which decides what they
// deduplicate against.
func (c *Config) parseChunker(raw *config.Config) error {
	if !raw.HasSection("kedge") {
		bits := 13
		if v := lastOption(raw, "bup", "split", "files"); v != "" {
			n, ok := strings.CutPrefix(v, "legacy:")
			var err error
			if bits, err = strconv.Atoi(n); !ok || err != nil || bits < 13 || bits > 21 {
				return badOption("bup.split.files", v)
			}
		}
		c.Chunker = "rollsum:" + strconv.Itoa(bits)
		return nil
	}
	v := lastOption(raw, "kedge", "", "version")
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return badOption("kedge.version", v)
	}
	if n > formatVersion {
		return &ConfigError{fmt.Sprintf("config: repository has format version %d, this kedge knows %d: use a newer kedge", n, formatVersion)}
	}
	c.Version = n
	c.Chunker = lastOption(raw, "kedge", "", "chunker")
	if _, _, err := splitChunker(c.Chunker); err != nil {
		return badOption("kedge.chunker", c.Chunker)
	}
	return nil
}

// splitChunker takes the name of a chunker and its bits apart. What they mean
// is known to package chunk; here it is only made sure that there is one of each.
func splitChunker(s string) (name string, bits int, err error) {
	name, n, ok := strings.Cut(s, ":")
	bits, err = strconv.Atoi(n)
	if !ok || err != nil || bits < 10 || bits > 21 || name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz") != "" {
		return "", 0, fmt.Errorf("%q is no chunker: want NAME:BITS, such as %s", s, defaultChunker)
	}
	return name, bits, nil
}

// checkGitFormat refuses repositories that differ from git's plain format in a
// way that would make us misread or damage them.
func checkGitFormat(raw *config.Config) error {
	v := lastOption(raw, "core", "", "repositoryformatversion")
	if v == "" || v == "0" {
		return nil
	}
	if v != "1" {
		return badOption("core.repositoryformatversion", v)
	}
	for _, o := range raw.Section("extensions").Options {
		switch strings.ToLower(o.Key) {
		case "noop", "preciousobjects":
		case "objectformat":
			if o.Value != "sha1" {
				return badOption("extensions.objectFormat", o.Value)
			}
		case "refstorage":
			if o.Value != "files" {
				return badOption("extensions.refStorage", o.Value)
			}
		default:
			return badOption("extensions."+o.Key, o.Value)
		}
	}
	return nil
}

// decodeConfig parses git's syntax. The parser was written for files that one
// trusts, so its size is limited and its panics are errors.
func decodeConfig(text []byte) (raw *config.Config, err error) {
	if len(text) > maxConfig {
		return nil, &pack.CorruptError{File: fileConfig, Off: maxConfig, Reason: "too large"}
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return nil, &pack.CorruptError{File: fileConfig, Off: int64(i), Reason: "NUL byte"}
	}
	defer func() {
		if r := recover(); r != nil {
			raw, err = nil, &pack.CorruptError{File: fileConfig, Off: -1, Reason: fmt.Sprint(r)}
		}
	}()
	raw = config.New()
	text, added := splitHeaders(text)
	if err := config.NewDecoder(bytes.NewReader(text)).Decode(raw); err != nil {
		return nil, &pack.CorruptError{File: fileConfig, Off: -1, Reason: atLine(err.Error(), added)}
	}
	return raw, nil
}

// atLine puts the place in the parser's message, "3:7: why", into words. added are
// the lines that splitHeaders made.
func atLine(msg string, added []int) string {
	line, rest, _ := strings.Cut(msg, ":")
	_, why, ok := strings.Cut(rest, ": ")
	n, err := strconv.Atoi(line)
	if err != nil || !ok {
		return msg
	}
	for _, a := range slices.Backward(added) {
		if n >= a {
			n--
		}
	}
	return fmt.Sprintf("line %d: %s", n, why)
}

// splitHeaders puts the headers of sections on lines of their own: git takes
// "[core] bare = true", the parser does not. It returns the numbers of the lines
// that it added.
func splitHeaders(text []byte) (out []byte, added []int) {
	out = make([]byte, 0, len(text)+16)
	continued, n := false, 0
	for line := range bytes.Lines(text) {
		n++
		end := 0
		if trimmed := bytes.TrimLeft(line, " \t"); !continued && len(trimmed) > 0 && trimmed[0] == '[' {
			end = len(line) - len(trimmed) + headerLen(trimmed)
		}
		out = append(out, line[:end]...)
		if end > 0 && len(bytes.TrimSpace(line[end:])) > 0 {
			out = append(out, '\n')
			n++
			added = append(added, n)
		}
		out = append(out, line[end:]...)
		continued = bytes.HasSuffix(bytes.TrimRight(line, "\r\n"), []byte(`\`))
	}
	return out, added
}

// headerLen returns the length of the header at the front of a line, 0 if it
// has no end.
func headerLen(line []byte) int {
	quoted := false
	for i := 1; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ']' && !quoted:
			return i + 1
		}
	}
	return 0
}

// lastOption returns the last value of a key, which is the one that counts.
func lastOption(raw *config.Config, section, sub, key string) string {
	if !raw.HasSection(section) {
		return ""
	}
	s := raw.Section(section)
	if sub == "" {
		return s.Options.Get(key)
	}
	if !s.HasSubsection(sub) {
		return ""
	}
	return s.Subsection(sub).Options.Get(key)
}

// sizeOption reads a number with git's suffixes k, m and g.
func sizeOption(raw *config.Config, note func(error), section, key string) int64 {
	v := lastOption(raw, section, "", key)
	if v == "" {
		return 0
	}
	digits := strings.TrimRight(strings.ToLower(v), "kmg")
	shift := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30}
	by, ok := shift[strings.ToLower(v[len(digits):])]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 || n > 1<<62>>by {
		note(badOption(section+"."+key, v))
		return 0
	}
	return n << by
}

// boolOption reads one of git's words for yes and no.
func boolOption(raw *config.Config, section, sub, key string) (bool, error) {
	switch v := strings.ToLower(lastOption(raw, section, sub, key)); v {
	case "", "false", "no", "off", "0":
		return false, nil
	case "true", "yes", "on", "1":
		return true, nil
	default:
		return false, badOption(section+"."+sub+"."+key, v)
	}
}

// badOption says that a value is not one that kedge can work with.
func badOption(key, value string) error {
	return &ConfigError{fmt.Sprintf("config: %s = %q is not supported", key, value)}
}
