package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/chunk"
	"github.com/kedgebackup/kedge/repo"
)

const initHelp = `Init makes DIR a repository: a bare git repository, set up so that git commands
run on it by others cannot hurt it. Run on a repository it changes nothing but
settings that are missing, and a repository that bup made stays one.

How files are cut into chunks is decided here, once. Small chunks find more that
is there already, large ones make less work. The default is rabin:13, chunks of
about 10 KiB; --expect picks larger ones for a repository that will hold more than
1 TB; --chunker says it outright. N is the number of bits: one more doubles the
chunks.`

const initExample = `  kedge init                                    # ~/.kedge
  kedge init -r s3://bucket/backup/build        # lives in an object store
  kedge -d /srv/backup/build init --expect 5T`

func (a *app) initCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "init [--chunker rabin:N|gear:N] [--expect SIZE] [DIR]",
		Short:   "make a repository",
		Long:    initHelp,
		Example: initExample,
		Args:    cobra.MaximumNArgs(1),
	}
	var o newRepo
	o.flags(cmd)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if len(args) == 1 {
			a.common.dir, a.common.remote = args[0], ""
		}
		p, c, err := a.create(ctx, o)
		if err != nil {
			return err
		}
		a.doc.result = initResult{Repository: nameJSON(p.path), ID: c.ID, Version: c.Version, Chunker: c.Chunker}
		if !a.common.quiet {
			a.ui.line("repository in %s, chunker %s", escape(p.path), c.Chunker)
		}
		return nil
	})
}

// initResult is the result of init in JSON.
type initResult struct {
	Repository jsonName `json:"repository"`
	ID         string   `json:"id"`
	Version    int      `json:"version"`
	Chunker    string   `json:"chunker"`
}

// newRepo says what a new repository is like.
type newRepo struct {
	chunker string
	expect  sizeValue
}

func (o *newRepo) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.chunker, "chunker", "", "cut files with rabin:`N` or gear:N, N from 10 to 20")
	f.Var(&o.expect, "expect", "choose N for a repository that will grow to `SIZE`")
}

// create makes the repository of this run, if it is not there yet.
func (a *app) create(ctx context.Context, o newRepo) (place, repo.Config, error) {
	p, err := a.place()
	if err != nil {
		return p, repo.Config{}, err
	}
	if o.chunker != "" {
		if _, err := chunk.Parse(o.chunker); err != nil {
			return p, repo.Config{}, usagef("option --chunker: %v", err)
		}
		if o.expect != 0 {
			return p, repo.Config{}, usagef("--chunker and --expect exclude each other")
		}
	}
	var c repo.Config
	switch p.scheme {
	case "s3":
		c, err = a.createLiving(ctx, p, o)
	case "ssh":
		c, err = a.createServed(ctx, p, o)
	default:
		c, err = repo.InitDir(ctx, p.path, repo.InitOptions{FS: a.FS, Chunker: o.chunker, Expect: int64(o.expect), Wait: a.patience(),
			Bup: a.asBup(o)})
	}
	if err != nil {
		return p, c, err
	}
	if o.chunker != "" && c.Chunker != o.chunker {
		return p, c, fmt.Errorf("%s is a repository already, and cuts files with %s", quote(p.path), c.Chunker)
	}
	return p, c, nil
}

// asBup reports whether a new repository is to be as bup makes it.
func (a *app) asBup(o newRepo) bool { return a.name == "bup" && o.chunker == "" && o.expect == 0 }

// openOrCreate opens the repository of this run and makes it first if there is
// none.
func (a *app) openOrCreate(ctx context.Context, o newRepo) (repository, error) {
	r, err := a.open(ctx, false)
	var none *repo.NotFoundError
	if !errors.As(err, &none) || none.What != "repository" {
		return r, err
	}
	p, c, err := a.create(ctx, o)
	if err != nil {
		return nil, err
	}
	if !a.common.quiet {
		a.ui.line("made a repository in %s, chunker %s", escape(p.path), c.Chunker)
	}
	return a.open(ctx, false)
}
