package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

const mirrorVerifyHelp = `Verify compares every file of the newest generation (or that of --generation) with what
its manifest says: that it is there, its size, and its SHA-256 as the store keeps it, which
costs no egress. A store that does not keep it is told apart: then, and of all files now
and then, --read-data reads a share of the files as well; with --turn, another share.
Manifests name the hash of the one before: back to the one that the generation is based on
that is compared, too.`

func (a *app) mirrorVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "verify [--read-data PERCENT] s3://BUCKET/PREFIX/REPO",
		Short:   "compare a mirror with its manifest",
		Long:    mirrorVerifyHelp,
		Example: "  kedge mirror verify --read-data 10 s3://bucket/backup/build",
		Args:    cobra.ExactArgs(1),
	}
	read := cmd.Flags().Float64("read-data", 0, "read and hash `PERCENT` of the files")
	turn := cmd.Flags().Uint64("turn", 0, "read those of turn `N`, such as the number of the week")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if *read < 0 || *read > 100 {
			return usagef("option --read-data: %g is not from 0 to 100", *read)
		}
		b, at, err := a.mirrorAt(ctx, args[0])
		if err != nil {
			return err
		}
		g, err := a.generation(ctx, b, at)
		if err != nil {
			return err
		}
		a.warnOf(at, g.Warnings())
		return a.verifyMirror(ctx, b, at, g, s3sync.VerifyOptions{ReadShare: *read / 100, Turn: *turn, Progress: a.verifyProgress})
	})
}

// mirrorAt returns the repository at an address.
func (a *app) mirrorAt(ctx context.Context, arg string) (*s3sync.Bucket, bucketAt, error) {
	at, err := parseBucket(arg)
	if err != nil {
		return nil, at, err
	}
	s, err := a.objects(at)
	if err != nil {
		return nil, at, err
	}
	in, err := a.resolve(ctx, s, at)
	if err != nil {
		return nil, at, fmt.Errorf("%s: %w", escape(at.String()), err)
	}
	b, err := a.bucket(s, in)
	return b, at, err
}

// warnOf warns of what is wrong with the manifests of a mirror.
func (a *app) warnOf(at bucketAt, list []error) {
	for _, err := range list {
		a.ui.line("warning: %s: %s", escape(at.String()), escapeText(err.Error()))
	}
}

// generation returns the generation that this run is about. A run that is brief looks at second
// copies of manifests only if there is no first one.
func (a *app) generation(ctx context.Context, b *s3sync.Bucket, at bucketAt) (g *s3sync.Generation, err error) {
	switch n := a.common.store.generation; {
	case n != 0:
		g, err = b.At(ctx, n)
	case a.brief:
		g, err = b.Latest(ctx)
	default:
		g, err = b.Recover(ctx)
	}
	if err != nil {
		return nil, a.noMirror(ctx, b.Objects, at, err)
	}
	a.knowSigner(ctx, b, at, g)
	return g, nil
}

// knowSigner warns of a mirror that is signed by a key which signed nothing that was read here
// before, and makes a note of the key in the cache directory. Whoever names the keys to believe
// needs no warning, and what lives in a bucket is signed by all who save to it.
func (a *app) knowSigner(ctx context.Context, b *s3sync.Bucket, at bucketAt, g *s3sync.Generation) {
	if a.common.store.trust != "" {
		return
	}
	name, who := a.mirrorCache(at)+"-signers", cmp.Or(g.Signer, "nobody")
	text, err := a.FS.ReadFile(name, 64<<10)
	known := strings.Fields(string(text))
	if err != nil && !errors.Is(err, fs.ErrNotExist) || slices.Contains(known, who) {
		return
	}
	if len(known) > 0 && !lives(ctx, b, g) {
		a.ui.line("warning: %s: generation %d is signed by %s, and what was read here before by %s; with --trust FILE only keys that you know are believed",
			escape(at.String()), g.N, who, known[len(known)-1])
	}
	err = a.FS.MkdirAll(filepath.Dir(name), 0o700)
	if err == nil {
		err = a.FS.Replace(name, []byte(strings.Join(append(known, who), "\n")+"\n"), 0o600)
	}
	if err != nil {
		a.ui.note("who signed %s is not noted: %s", escape(at.String()), escapeText(err.Error()))
	}
}

// lives reports whether a generation is one of a repository that lives in the bucket.
func lives(ctx context.Context, b *s3sync.Bucket, g *s3sync.Generation) bool {
	f, ok := g.File("config")
	if !ok {
		return false
	}
	text, err := s3sync.ReadAll(ctx, b.Objects, b.Prefix+f.Key, f.Version, 1<<20)
	if err != nil || s3sync.SumOf(text) != f.SHA256 {
		return false
	}
	c, err := repo.ParseConfig(text)
	return err == nil && c.Living
}

func (a *app) verifyProgress(r s3sync.VerifyResult) {
	a.ui.progress(func() string {
		return fmt.Sprintf("verifying: %d of %s, %s read", r.Checked+r.Unknown+r.Read+r.Damaged, plural(int64(r.Files), "file"), formatSize(r.ReadBytes))
	})
}

func (a *app) verifyMirror(ctx context.Context, b *s3sync.Bucket, at bucketAt, g *s3sync.Generation, o s3sync.VerifyOptions) error {
	if err := a.doc.begin(a, "mirror verify"); err != nil {
		return err
	}
	var printed error
	r, err := b.Verify(ctx, g, o, func(f s3sync.File, err error) {
		if a.common.json {
			err = a.doc.entry(a, verifyFinding{f.Name, f.Key, err.Error()})
		} else {
			err = a.print([]byte(escapeText(fmt.Sprintf("%s: %v\n", f.Name, err))))
		}
		if printed == nil {
			printed = err
		}
	})
	a.ui.done()
	if err != nil {
		return err
	}
	broken, err := b.Breaks(ctx, g)
	if err != nil {
		return err
	}
	for _, err := range broken {
		a.ui.line("error: %s: %s", escape(at.String()), escapeText(err.Error()))
	}
	a.doc.result = verifyResult{g.N, r.Files, r.Bytes, r.Checked, r.Read, r.ReadBytes, r.Unknown, r.Damaged, len(broken)}
	switch {
	case r.Damaged > 0:
		return &codedError{exitDamaged, fmt.Errorf("generation %d is damaged: %s", g.N, plural(int64(r.Damaged), "file"))}
	case len(broken) > 0:
		return &codedError{exitDamaged, fmt.Errorf("generation %d: the manifests that it goes back to are not all what they were", g.N)}
	}
	if r.Unknown == 0 {
		if err := a.noteVerified(at, g); err != nil {
			a.ui.line("warning: that it was verified is not noted: %s", escapeText(err.Error()))
		}
	}
	a.ui.note("generation %d: %s, %s; %d by checksum, %d read (%s), %d by size only", g.N, plural(int64(r.Files), "file"),
		formatSize(r.Bytes), r.Checked, r.Read, formatSize(r.ReadBytes), r.Unknown)
	return printed
}

// verifyFinding is a file of a mirror that is missing or wrong, in JSON.
type verifyFinding struct {
	File   string `json:"file"`
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// verifyResult is the result of mirror verify in JSON.
type verifyResult struct {
	Generation uint64 `json:"generation"`
	Files      int    `json:"files"`
	Bytes      int64  `json:"bytes"`
	Checked    int    `json:"checked"`
	Read       int    `json:"read"`
	BytesRead  int64  `json:"bytes_read"`
	Unknown    int    `json:"unknown"`
	Damaged    int    `json:"damaged"`
	Broken     int    `json:"broken"`
}
