package s3sync

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// MaxText bounds the size of a file that is mirrored outside of repositories.
const MaxText = 16 << 20

// MirrorTexts makes the next generation of a bucket of files that belong to no repository, by
// their names: the keys and the config of a server. Of the options Dir means nothing, and
// StateDir has to be set. If there never were any nothing is done.
func (b *Bucket) MirrorTexts(ctx context.Context, files map[string][]byte, o MirrorOptions) (MirrorResult, error) {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	texts := make(map[string]*[]byte)
	for name, text := range files {
		if err := checkTextName(name); err != nil {
			return MirrorResult{}, err
		}
		texts[name] = &text
	}
	m := mirror{b: b, o: o}
	return m.journalled(ctx, func(ctx context.Context) error {
		if err := m.follow(ctx); err != nil {
			return err
		}
		if m.last == nil && len(texts) == 0 {
			m.result.Unchanged = true
			return nil
		}
		if err := m.sendTexts(ctx, texts); err != nil {
			return err
		}
		return m.finish(ctx)
	})
}

// PullTexts returns the files of a generation of MirrorTexts, by their names, which have no
// slash in them.
func (b *Bucket) PullTexts(ctx context.Context, g *Generation) (map[string][]byte, error) {
	if g.Locked {
		return nil, &LockedError{b.name()}
	}
	files := make(map[string][]byte)
	for _, f := range g.Files {
		if err := checkTextName(f.Name); err != nil {
			return nil, err
		}
		text, err := b.readSmall(ctx, f, MaxText)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		if SumOf(text) != f.SHA256 {
			return nil, &pack.CorruptError{File: b.Prefix + f.Key, Off: -1, Reason: "its SHA-256 is not what the manifest says"}
		}
		files[f.Name] = text
	}
	return files, nil
}

// checkTextName fails for a name that is not that of a file in one directory.
func checkTextName(name string) error {
	if strings.Contains(name, "/") {
		return fmt.Errorf("%q is no name of a file", name)
	}
	return checkFileName(name)
}
