package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

const restoreStreamHelp = `Restore-stream writes a dump that was saved to standard output, for the program that
reads it. STREAM is the name that the config file gave to it, or the path at which it
stands in the save. Every part of it is compared with its id before it is written.

If something of it is damaged or cannot be read, the output ends early and the exit
code is not 0. Programs like psql take what they got by then for the whole: run them
with bash's pipefail, in one transaction, into an empty database. 'kedge run --restore'
does that by itself, and stops them before they can believe it.`

const restoreStreamExample = `  kedge restore-stream db/latest/bugs | mariadb
  kedge restore-stream db/2026-07-22-231500/var/backup/app.sql > app.sql
  set -o pipefail; kedge restore-stream db/latest/app | psql --single-transaction app`

func (a *app) restoreStreamCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "restore-stream NAME/SAVE/STREAM",
		Short:             "write a saved dump to standard output",
		Long:              restoreStreamHelp,
		Example:           restoreStreamExample,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSaved,
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		switch {
		case a.common.json:
			return usagef("restore-stream writes bytes, not JSON")
		case a.outTTY > 0:
			return withHint(usagef("restore-stream: standard output is a terminal"), "send the dump to the program that reads it, '| psql', or to a file, '> FILE'")
		}
		r, err := a.open(ctx, true)
		if err != nil {
			return err
		}
		defer a.closeRepo(r)
		s, err := findStream(ctx, r, args[0])
		if err != nil {
			return err
		}
		n, err := s.copyTo(ctx, a, a.out)
		if err == nil {
			err = a.out.Flush()
		}
		if err != nil {
			return fmt.Errorf("the dump is cut off after %s: %w", plural(n, "byte"), err)
		}
		a.ui.done()
		a.ui.note("%s, %s", s.path, formatSize(n))
		return nil
	})
}

// savedStream is a dump in a save.
type savedStream struct {
	path string // NAME/SAVE/PATH, with the save's own name
	file *repo.File
	size int64
}

// findStream finds NAME/SAVE/STREAM: what stands at that path, or else the stream that the
// config of the save's day gave that name to.
func findStream(ctx context.Context, r repo.Repo, path string) (*savedStream, error) {
	v := repo.VFS{Repo: r}
	o := repo.ResolveOptions{Follow: true, SaveNames: true}
	chain, err := v.Resolve(ctx, path, o)
	var missing *repo.NotFoundError
	if errors.As(err, &missing) {
		if save := saveOf(chain); save != "" {
			rest := strings.Split(strings.Trim(path, "/"), "/")[strings.Count(save, "/")+1:]
			if other, oerr := v.Resolve(ctx, save+streamPlace(ctx, &v, save, strings.Join(rest, "/")), o); oerr == nil {
				chain, err = other, nil
			}
		}
	}
	if err != nil {
		return nil, err
	}
	n := &chain[len(chain)-1]
	switch {
	case n.Kind != repo.NodeItem:
		return nil, usagef("%s names no stream: write NAME/SAVE/STREAM", quote(path))
	case n.IsDir():
		return nil, wrongKind(path, "is a directory")
	case n.StatMode()&meta.TypeMask != meta.TypeFile:
		return nil, wrongKind(path, "is no regular file")
	}
	s := &savedStream{path: chainPath(chain), file: repo.OpenFile(ctx, r, n.ID, n.Chunked)}
	if s.size, err = s.file.Size(); err != nil {
		return nil, ofPath(path, err)
	}
	return s, nil
}

// streamPlace returns where a stream stands in a save: its kit says so.
func streamPlace(ctx context.Context, v *repo.VFS, save, name string) string {
	if chain, err := v.Resolve(ctx, save+job.KitFile, repo.ResolveOptions{}); err == nil {
		n := &chain[len(chain)-1]
		var text bytes.Buffer
		_, err := repo.OpenFile(ctx, v.Repo, n.ID, n.Chunked).WriteTo(&limited{&text, 1 << 20})
		if kit, kerr := job.ParseKit(text.Bytes()); err == nil && kerr == nil {
			for _, s := range kit.Streams {
				if s.Name == name {
					return s.Path
				}
			}
		}
	}
	return "/.streams/" + name
}

// limited takes no more than room bytes.
type limited struct {
	w    io.Writer
	room int
}

// Write refuses what is too much.
func (l *limited) Write(b []byte) (int, error) {
	if l.room -= len(b); l.room < 0 {
		return 0, errors.New("it is too large")
	}
	return l.w.Write(b)
}

// saveOf returns NAME/SAVE of a chain that leads into a save, else "".
func saveOf(chain []repo.Node) string {
	for i := range chain {
		if chain[i].Kind == repo.NodeSave {
			return chainPath(chain[:i+1])
		}
	}
	return ""
}

// chainPath returns the path of the last node of a chain.
func chainPath(chain []repo.Node) string {
	var names []string
	for _, n := range chain[1:] {
		names = append(names, n.Name)
	}
	return strings.Join(names, "/")
}

// copyTo writes the dump, and tells how far it has come.
func (s *savedStream) copyTo(ctx context.Context, a *app, w io.Writer) (int64, error) {
	c := &counted{w: w}
	c.told = func(n int64) {
		a.ui.progress(func() string {
			return fmt.Sprintf("restoring: %s of %s", formatSize(n), formatSize(s.size))
		})
	}
	_, err := s.file.WriteTo(c)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && c.n != s.size {
		err = fmt.Errorf("it has %d bytes, not %d", c.n, s.size)
	}
	return c.n, ofPath(s.path, err)
}

// counted counts what is written.
type counted struct {
	w    io.Writer
	n    int64
	told func(n int64)
}

// Write writes and counts.
func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.told(c.n)
	return n, err
}
