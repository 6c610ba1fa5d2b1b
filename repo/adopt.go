package repo

import (
	"context"
	"errors"
	"strconv"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// lockTimeouts are how long git waits for a lock, in milliseconds: longer than kedge ever
// holds one. An adopted repository may have shorter ones.
var lockTimeouts = []string{"filesRefLockTimeout", "packedRefsTimeout"}

const lockTimeout = 30000

// Adopt makes a repository that bup made one of kedge's, in place: its config gets a
// [kedge] section with the chunker that it has been split with so far, so that what is
// saved from now on still shares with what is there, and the settings that keep git from
// deleting or losing anything. It is undone by removing that section.
//
// All that bup wrote stays as it is. Whoever calls it has checked the repository. The
// order is that of InitDir; the config, which is replaced in one moment, comes last:
//
//	mkdir kedge ..., config (replace)
//
// A repository that has the section already comes back as it is, with changed false.
func Adopt(ctx context.Context, dir string, o DirOptions) (c Config, changed bool, err error) {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	at, err := gitDir(o.FS, dir)
	if err != nil {
		return c, false, err
	}
	d := NewDir(o.FS, at)
	d.patience = patience(o.Wait)
	old, err := d.fs.ReadFile(d.name(fileConfig), maxConfig)
	if noFile(err) {
		return c, false, &NotFoundError{What: "repository", Name: dir}
	} else if err != nil {
		return c, false, err
	}
	if c, err = ParseConfig(old); err != nil || c.Version > 0 {
		return c, false, d.inConfig(err)
	}
	raw, err := decodeConfig(old)
	if err != nil || lastOption(raw, "core", "", "bare") == "false" {
		return c, false, firstErr(err, &ConfigError{at + " is the repository of a work tree; a backup needs one of its own"})
	}
	if err := d.makeDirs(ctx); err != nil {
		return c, false, err
	}
	text, err := d.adopt(ctx)
	if err != nil {
		return c, false, err
	}
	c, err = ParseConfig(text)
	return c, true, err
}

// adopt edits the config under its lock.
func (d *Dir) adopt(ctx context.Context) (text []byte, err error) {
	err = d.withRefLock(ctx, func(l *refLock) error {
		return l.rewrite(ctx, fileConfig, func(old []byte) ([]byte, error) {
			c, err := ParseConfig(old)
			if err != nil {
				return nil, err
			}
			if c.Version > 0 {
				return nil, errors.New("config changed meanwhile")
			}
			raw, err := decodeConfig(old)
			if err != nil {
				return nil, err
			}
			text = editConfig(old, append(hardening, option{"bup", "repo", "id", newRepoID()}))
			for _, key := range lockTimeouts {
				n, err := strconv.Atoi(lastOption(raw, "core", "", key))
				if err == nil && n >= 0 && n < lockTimeout { // negative: git waits without end
					text = appendOption(text, option{"core", "", key, strconv.Itoa(lockTimeout)})
				}
			}
			text = appendOption(text, option{"kedge", "", "version", strconv.Itoa(formatVersion)})
			text = appendOption(text, option{"kedge", "", "chunker", c.Chunker})
			return text, nil
		}, nil)
	})
	return text, err
}

// appendOption adds an option behind all others of its section: of several values the last
// is the one that counts.
func appendOption(text []byte, o option) []byte {
	line := "\t" + o.key + " = " + o.value + "\n"
	if at, ok := sectionEnd(text, o.section, o.sub); ok {
		return append(text[:at:at], append([]byte(line), text[at:]...)...)
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text[:len(text):len(text)], '\n')
	}
	return append(text[:len(text):len(text)], sectionHeader(o.section, o.sub)+"\n"+line...)
}
