package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/s3sync"
)

const mirrorVerifyHelp = `Verify compares every file of the newest generation (or that of --generation) with what
its manifest says: that it is there, its size, and its SHA-256 as the store keeps it, which
costs no egress. --read-data reads a share of the files as well; with --turn, another share.`

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
		return a.verifyMirror(ctx, b, g, s3sync.VerifyOptions{ReadShare: *read / 100, Turn: *turn, Progress: a.verifyProgress})
	})
}

// mirrorAt returns the repository at an address.
func (a *app) mirrorAt(_ context.Context, arg string) (*s3sync.Bucket, bucketAt, error) {
	at, err := parseBucket(arg)
	if err != nil {
		return nil, at, err
	}
	s, err := a.objects(at)
	if err != nil {
		return nil, at, err
	}
	b, err := a.bucket(s, at)
	return b, at, err
}

// generation returns the generation that this run is about.
func (a *app) generation(ctx context.Context, b *s3sync.Bucket, at bucketAt) (g *s3sync.Generation, err error) {
	if n := a.common.store.generation; n != 0 {
		g, err = b.At(ctx, n)
	} else {
		g, err = b.Latest(ctx)
	}
	if err != nil {
		return nil, a.noMirror(ctx, b.Objects, at, err)
	}
	return g, nil
}

func (a *app) verifyProgress(r s3sync.VerifyResult) {
	a.ui.progress(func() string {
		return fmt.Sprintf("verifying: %d of %s, %s read", r.Checked+r.Unknown+r.Read+r.Damaged, plural(int64(r.Files), "file"), formatSize(r.ReadBytes))
	})
}

func (a *app) verifyMirror(ctx context.Context, b *s3sync.Bucket, g *s3sync.Generation, o s3sync.VerifyOptions) error {
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
	a.doc.result = verifyResult{g.N, r.Files, r.Bytes, r.Checked, r.Read, r.ReadBytes, r.Unknown, r.Damaged}
	if r.Damaged > 0 {
		return &codedError{exitDamaged, fmt.Errorf("generation %d is damaged: %s", g.N, plural(int64(r.Damaged), "file"))}
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
}

func (a *app) mirrorStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status s3://BUCKET/PREFIX/REPO",
		Short:   "list the generations of a mirror",
		Example: "  kedge mirror status s3://bucket/backup/build",
		Args:    cobra.ExactArgs(1),
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		b, at, err := a.mirrorAt(ctx, args[0])
		if err != nil {
			return err
		}
		if err := a.doc.begin(a, "mirror status"); err != nil {
			return err
		}
		n := 0
		err = b.Generations(ctx, func(l s3sync.Listed) error {
			n++
			return a.listGeneration(l)
		})
		if err == nil && n == 0 {
			_, err = a.generation(ctx, b, at)
		}
		return err
	})
}

// listGeneration prints a line about a generation.
func (a *app) listGeneration(l s3sync.Listed) error {
	if a.common.json {
		j := statusEntry{Generation: l.N, Kind: string(l.Kind), Files: l.Files, Bytes: l.Bytes, Refs: l.Refs, Signer: l.Signer}
		if l.Err != nil {
			j.Error = l.Err.Error()
		} else {
			j.Time = l.Time.UTC().Format(time.RFC3339)
		}
		return a.doc.entry(a, j)
	}
	if l.Err != nil {
		return a.print([]byte(escapeText(fmt.Sprintf("%d  unusable: %v\n", l.N, l.Err))))
	}
	signer := l.Signer
	if signer == "" {
		signer = "not signed"
	}
	age := a.now().Sub(l.Time).Round(time.Minute)
	return a.print(fmt.Appendf(nil, "%d  %s  %s ago  %-5s %s, %s, %s  %s\n", l.N, l.Time.UTC().Format(time.RFC3339), age,
		l.Kind, plural(int64(l.Refs), "ref"), plural(int64(l.Files), "file"), formatSize(l.Bytes), signer))
}

// statusEntry is a generation in JSON.
type statusEntry struct {
	Generation uint64 `json:"generation"`
	Time       string `json:"time,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Files      int    `json:"files,omitempty"`
	Bytes      int64  `json:"bytes,omitempty"`
	Refs       int    `json:"refs,omitempty"`
	Signer     string `json:"signer,omitempty"`
	Error      string `json:"error,omitempty"`
}
