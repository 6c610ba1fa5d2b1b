package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

const catFileHelp = `Cat-file writes the content of one saved file to standard output. Every part of it
is compared with its id before it is written.

With --meta it writes the metadata of PATH instead, with --bupm those of a directory
and of all files in it, both in the form in which they are stored: for programs, and
for bup meta.`

const catFileExample = `  kedge cat-file web1/latest/etc/passwd
  kedge cat-file db/2026-07-22-231500/dump.sql | mysql
  kedge cat-file --meta web1/latest/etc/passwd | bup meta -tvv`

func (a *app) catFileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "cat-file [--meta | --bupm] NAME/SAVE/PATH",
		Short:             "write a saved file to standard output",
		Long:              catFileHelp,
		Example:           catFileExample,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSaved,
	}
	asMeta := cmd.Flags().Bool("meta", false, "write the metadata of PATH")
	asBupm := cmd.Flags().Bool("bupm", false, "write the metadata file of the directory PATH")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if *asMeta && *asBupm {
			return usagef("--meta and --bupm exclude each other")
		}
		if a.common.json {
			return usagef("cat-file writes bytes, not JSON")
		}
		r, err := a.open(ctx, true)
		if err != nil {
			return err
		}
		defer a.closeRepo(r)
		v := repo.VFS{Repo: r}
		n, err := a.catNode(ctx, &v, args[0], !*asMeta && a.name != "bup")
		if err != nil {
			return err
		}
		switch {
		case n.Kind != repo.NodeItem && n.Kind != repo.NodeSave:
			return usagef("%s names nothing that was saved: write NAME/SAVE/PATH", quote(args[0]))
		case *asMeta:
			return a.catMeta(args[0], n)
		case *asBupm:
			return a.catBupm(ctx, r, args[0], n)
		}
		return a.catFile(ctx, r, args[0], n)
	})
}

// catNode finds what a path names. The metadata of a symbolic link are its own,
// and bup's cat-file does not follow one at the end of a path for its content
// either; latest is always followed. Only the metadata tell a pipe or a device
// from an empty file.
func (a *app) catNode(ctx context.Context, v *repo.VFS, path string, follow bool) (*repo.Node, error) {
	o := repo.ResolveOptions{Follow: follow, Meta: true}
	chain, err := v.Resolve(ctx, path, o)
	if err == nil && !follow && chain[len(chain)-1].Kind == repo.NodeLatest {
		o.Follow = true
		chain, err = v.Resolve(ctx, path, o)
	}
	if err != nil {
		return nil, err
	}
	return &chain[len(chain)-1], nil
}

// wrongKind says that a path is there, but is not of the kind that was asked for.
func wrongKind(path, format string) error {
	return &codedError{exitUsage, fmt.Errorf("%s "+format, quote(path))}
}

func (a *app) catFile(ctx context.Context, r repo.Repo, path string, n *repo.Node) error {
	if n.IsDir() {
		return wrongKind(path, "is a directory")
	}
	if n.StatMode()&meta.TypeMask != meta.TypeFile {
		return wrongKind(path, "is no regular file")
	}
	_, err := repo.OpenFile(ctx, r, n.ID, n.Chunked).WriteTo(a.out)
	return ofPath(path, err)
}

// ofPath names the path in an error about an object.
func ofPath(path string, err error) error {
	if exitCode(context.Background(), err) == exitDamaged {
		return fmt.Errorf("%s: %w", quote(path), err)
	}
	return err
}

func (a *app) catMeta(path string, n *repo.Node) error {
	if n.Err != nil {
		return n.Err
	}
	if n.Meta == nil || n.Meta.Mode == 0 {
		return &codedError{exitNotFound, fmt.Errorf("no metadata of %s were saved", quote(path))}
	}
	return a.print(n.Meta.Append(nil))
}

func (a *app) catBupm(ctx context.Context, r repo.Repo, path string, n *repo.Node) error {
	if !n.IsDir() {
		return wrongKind(path, "is no directory")
	}
	var bupm repo.TreeEntry
	err := r.Get(ctx, []pack.ID{n.ID}, func(_ int, _ pack.Type, body []byte) error {
		return repo.ParseTree(body, func(e repo.TreeEntry) error {
			if e.Name == ".bupm" {
				bupm = e
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if bupm.Name == "" {
		return &codedError{exitNotFound, fmt.Errorf("no metadata of %s were saved", quote(path))}
	}
	_, err = repo.OpenFile(ctx, r, bupm.ID, bupm.Mode == repo.ModeDir).WriteTo(a.out)
	return ofPath(path, err)
}
