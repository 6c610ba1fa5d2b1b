package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const joinHelp = `Join writes what split stored to standard output, every part of it compared with its
id before. REF is

    NAME              what the newest save of NAME holds
    NAME/SAVE[/PATH]  a save, by its time or latest, or a file in it
    REV               anything git's words name: an id of a chunk, a tree or a commit,
                      a tag, NAME~2, NAME:data

Of a directory it writes all files below, the metadata among them: 'cat-file' writes a
file that was saved by its name, 'restore' brings directories back. Without REF the
lines of standard input are taken.`

const joinExample = `  kedge join pg | psql
  kedge join -o disk.img disk/latest
  kedge split -b big | kedge join > copy`

func (a *app) joinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "join [-o FILE] [REF...]",
		Short:             "write out what split stored",
		Long:              joinHelp,
		Example:           joinExample,
		ValidArgsFunction: a.completeSaved,
	}
	output := cmd.Flags().StringP("output", "o", "", "write to `FILE`")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if a.common.json {
			return usagef("join writes bytes, not JSON")
		}
		r, err := a.open(ctx, true)
		if err != nil {
			return err
		}
		defer a.closeRepo(r)
		out, done, err := a.joinOutput(*output)
		if err != nil {
			return err
		}
		err = a.joinAll(ctx, r, args, out)
		return errors.Join(err, done())
	})
}

// joinOutput returns where to write, and what ends it.
func (a *app) joinOutput(name string) (io.Writer, func() error, error) {
	if name == "" {
		return listingWriter{a}, func() error { return nil }, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, nil, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	return w, func() error { return errors.Join(w.Flush(), f.Close()) }, nil
}

// listingWriter writes to standard output, and ends quietly when its reader is gone.
type listingWriter struct{ a *app }

// Write writes a piece.
func (w listingWriter) Write(p []byte) (int, error) {
	if err := w.a.print(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// joinAll writes one object after the other.
func (a *app) joinAll(ctx context.Context, r repository, refs []string, out io.Writer) error {
	one := func(ref string) error {
		id, err := joinTarget(ctx, r, ref)
		if err == nil {
			_, err = repo.Join(ctx, r, id, out)
		}
		return ofPath(ref, err)
	}
	if len(refs) > 0 {
		for _, ref := range refs {
			if err := one(ref); err != nil {
				return err
			}
		}
		return nil
	}
	lines := bufio.NewScanner(a.Stdin)
	for lines.Scan() {
		if lines.Text() == "" {
			continue
		}
		if err := one(lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// joinTarget finds what a word names: what git would find, or else what ls would.
func joinTarget(ctx context.Context, r repository, ref string) (pack.ID, error) {
	id, err := repo.Revision(ctx, r, ref)
	var none *repo.NotFoundError
	if !errors.As(err, &none) {
		return id, err
	}
	v := repo.VFS{Repo: r}
	chain, verr := v.Resolve(ctx, ref, repo.ResolveOptions{Follow: true})
	if verr != nil {
		var also *repo.NotFoundError
		if errors.As(verr, &also) {
			err = verr // which knows what is near
		}
		return id, err
	}
	if n := &chain[len(chain)-1]; !n.ID.IsZero() {
		return n.ID, nil
	} else if !n.Commit.IsZero() {
		return n.Commit, nil
	}
	return id, err
}
