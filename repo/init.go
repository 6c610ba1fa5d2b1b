package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// InitOptions says what a new repository is like.
type InitOptions struct {
	FS      *fsx.FS
	Chunker string        // "": rabin:13
	Expect  int64         // bytes the repository is expected to grow to; picks N if Chunker is ""
	Wait    time.Duration // for the locks of others, as in DirOptions
	// Bup makes a repository as bup makes one, without a [kedge] section: its files are
	// split as bup splits them, so that bup and kedge share what they save. Chunker and
	// Expect mean nothing then.
	Bup bool
}

// initDirs are the directories of a repository, in the order they are made.
// git takes a directory for a repository if it has objects, refs and HEAD.
var initDirs = [...]string{
	"objects", "objects/pack", "objects/info", "refs", "refs/heads", "refs/tags",
	"kedge", dirSessions, dirTmp,
}

// hardening are the settings that keep git, when somebody runs it on the
// repository, from deleting what only kedge knows to be needed, from losing
// what it wrote at a power cut, and from giving up on deep trees or on a ref
// that kedge holds for a moment.
var hardening = []option{
	{"core", "", "logAllRefUpdates", "true"},
	{"core", "", "fsync", "all"},
	{"core", "", "maxTreeDepth", "4096"},
	{"core", "", "filesRefLockTimeout", "30000"},
	{"core", "", "packedRefsTimeout", "30000"},
	{"pack", "", "indexVersion", "2"},
	{"gc", "", "auto", "0"},
	{"gc", "", "pruneExpire", "never"},
	{"gc", "", "reflogExpire", "never"},
	{"gc", "", "reflogExpireUnreachable", "never"},
	{"maintenance", "", "auto", "false"},
	{"receive", "", "autogc", "false"},
}

// InitDir makes a directory a repository. On a repository it is harmless: what
// is missing is added, nothing that is there is changed, and a bup repository
// stays one.
//
// A repository is there when its config is, so the config comes last:
//
//	mkdir ..., create HEAD (replace), create kedge/* (replace), config (replace)
//
// A crash before that leaves directories that the next init completes.
func InitDir(ctx context.Context, dir string, o InitOptions) (Config, error) {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	chunker, err := o.chunker()
	if err != nil {
		return Config{}, err
	}
	at, err := gitDir(o.FS, dir)
	if err != nil {
		return Config{}, err
	}
	d := NewDir(o.FS, at)
	d.patience = patience(o.Wait)
	if err := d.makeDirs(ctx); err != nil {
		return Config{}, err
	}
	if err := d.addFile("HEAD", []byte("ref: refs/heads/main\n")); err != nil {
		return Config{}, err
	}
	old, err := o.FS.ReadFile(d.name(fileConfig), maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		text := configText(o, chunker)
		if err := o.FS.Replace(d.name(fileConfig), text, modeState); err != nil {
			return Config{}, err
		}
		return ParseConfig(text)
	} else if err != nil {
		return Config{}, err
	}
	if _, err := ParseConfig(old); err != nil {
		return Config{}, d.inConfig(err) // a newer kedge's, or not to be understood: hands off
	}
	if raw, err := decodeConfig(old); err != nil || lastOption(raw, "core", "", "bare") == "false" {
		return Config{}, firstErr(err, &ConfigError{at + " is the repository of a work tree; a backup needs one of its own"})
	}
	text, err := d.addOptions(ctx, append(hardening, option{"bup", "repo", "id", newRepoID()}))
	if err != nil {
		return Config{}, err
	}
	return ParseConfig(text)
}

// configText returns the config of a new repository.
func configText(o InitOptions, chunker string) []byte {
	want := slices.Concat([]option{
		{"core", "", "repositoryformatversion", "0"},
		{"core", "", "filemode", "true"},
		{"core", "", "bare", "true"},
	}, hardening, []option{{"bup", "repo", "id", newRepoID()}})
	if !o.Bup {
		want = append(want, option{"kedge", "", "version", fmt.Sprint(formatVersion)}, option{"kedge", "", "chunker", chunker})
	}
	return editConfig(nil, want)
}

// makeDirs makes the directories of a repository, and makes sure that they are durable: those
// that an interrupted init made may not be yet.
func (d *Dir) makeDirs(ctx context.Context) error {
	for _, name := range append([]string{"."}, initDirs[:]...) {
		if err := firstErr(ctx.Err(), d.fs.MkdirAll(d.name(name), modeDir)); err != nil {
			return err
		}
	}
	for _, name := range []string{"..", ".", "objects", "refs", "kedge"} {
		err := firstErr(ctx.Err(), d.fs.SyncDir(d.name(name)))
		if err != nil && !(name == ".." && errors.Is(err, fs.ErrPermission)) {
			return err
		}
	}
	return nil
}

// chunker returns the name of the chunker of a new repository. A repository is
// good to a thousand million objects; larger ones get larger chunks.
func (o InitOptions) chunker() (string, error) {
	if o.Chunker != "" {
		name, bits, err := splitChunker(o.Chunker)
		if err == nil && (bits > 20 || name != "rabin" && name != "gear") {
			err = fmt.Errorf("%q is no chunker of a new repository: want rabin:N or gear:N, N from 10 to 20", o.Chunker)
		}
		return o.Chunker, err
	}
	const tera = 1e12
	switch {
	case o.Expect <= tera:
		return "rabin:13", nil
	case o.Expect <= 30*tera:
		return "rabin:16", nil
	}
	return "rabin:20", nil
}

// addFile makes a file with its content if there is none of that name.
func (d *Dir) addFile(name string, data []byte) error {
	_, err := d.fs.Lstat(d.name(name))
	if errors.Is(err, fs.ErrNotExist) {
		return d.fs.Replace(d.name(name), data, modeState)
	}
	return err
}

// newRepoID returns a name for a repository, by which clients tell their caches
// apart: 31 characters as bup makes them.
func newRepoID() string {
	const digits = "abcdefghijklmnopqrstuvwxyz0123456789"
	id := make([]byte, 0, 31)
	var b [64]byte
	for len(id) < cap(id) {
		rand.Read(b[:])
		for _, c := range b {
			// Bytes above the largest multiple of 36 would favour some digits.
			if c < 252 && len(id) < cap(id) {
				id = append(id, digits[c%36])
			}
		}
	}
	return string(id)
}

// option is one setting of a git config.
type option struct{ section, sub, key, value string }

// addOptions adds those options to the config file that have no value there.
// The file is changed the way git does it, under config.lock.
func (d *Dir) addOptions(ctx context.Context, want []option) ([]byte, error) {
	old, err := d.fs.ReadFile(d.name(fileConfig), maxConfig)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(editConfig(old, want), old) {
		return old, nil
	}
	var text []byte
	err = d.withRefLock(ctx, func(l *refLock) error {
		return l.rewrite(ctx, fileConfig, func(old []byte) ([]byte, error) {
			text = editConfig(old, want)
			return text, nil
		}, nil)
	})
	return text, err
}

// editConfig adds options that have no value yet and leaves every other byte
// as it is. An option goes below the last header of its section, so that the
// file stays readable for people; a new section goes to the end.
func editConfig(text []byte, want []option) []byte {
	raw, err := decodeConfig(text)
	if err != nil {
		return text
	}
	for _, o := range want {
		if lastOption(raw, o.section, o.sub, o.key) != "" {
			continue
		}
		text = appendOption(text, o)
	}
	return text
}

// sectionHeader returns the line that begins a section.
func sectionHeader(section, sub string) string {
	if sub == "" {
		return "[" + section + "]"
	}
	return "[" + section + ` "` + sub + `"]`
}

// sectionEnd finds where a line can be added to the last section of a name:
// behind its last line that is not empty. Only headers that stand alone on
// their line count, as git and kedge write them.
func sectionEnd(text []byte, section, sub string) (end int, ok bool) {
	header := sectionHeader(section, sub)
	isHeader := func(line string) bool { // the name of a section has no case, that of a subsection has
		n := len(section) + 1
		return len(line) == len(header) && strings.EqualFold(line[:n], header[:n]) && line[n:] == header[n:]
	}
	at, inside, continued := 0, false, false
	for line := range bytes.Lines(text) {
		at += len(line)
		trimmed := bytes.TrimSpace(line)
		switch {
		case continued:
		case len(trimmed) > 0 && trimmed[0] == '[':
			inside = isHeader(string(trimmed))
		}
		// A line that ends in a backslash goes on in the next one.
		continued = bytes.HasSuffix(bytes.TrimRight(line, "\r\n"), []byte(`\`))
		if inside && len(trimmed) > 0 && !continued && bytes.HasSuffix(line, []byte("\n")) {
			end, ok = at, true
		}
	}
	return end, ok
}
