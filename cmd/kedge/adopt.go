package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/repo"
)

const adoptHelp = `Adopt makes a repository that bup made one of kedge's, in place. It is checked first, as
by 'kedge fsck', and nothing is done if it is damaged. Then its config gets a section
[kedge], in which the way stands in which bup has split files, so that new saves share
with old ones, and settings that keep git from deleting or losing anything. Nothing else
changes: bup can go on reading and writing.

The packs that passed the check are listed, and need not be looked at again.

Without the section [kedge] it is bup's repository again: remove the section to undo it.
An adopt that is interrupted has done nothing, and can be run again.`

func (a *app) adoptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "adopt [--dir DIR]",
		Short:   "make a repository of bup's one of kedge's",
		Long:    adoptHelp,
		Example: "  kedge adopt --dir ~/.bup",
		Args:    cobra.NoArgs,
	}
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		p, err := a.openOwn(ctx, "adopt")
		if err != nil {
			return err
		}
		defer a.closeRepo(directory{p})
		if p.Config().Version > 0 {
			a.ui.line("%s is a repository of kedge's already", escape(p.Path()))
			a.doc.result = adoptJSON(p.Path(), p.Config(), repo.CheckResult{}, false)
			return nil
		}
		res, err := a.checkToAdopt(ctx, p)
		if err != nil {
			return err
		}
		c, changed, err := repo.Adopt(ctx, p.Path(), repo.DirOptions{FS: a.FS, Wait: a.patience()})
		if err != nil {
			return err
		}
		a.doc.result = adoptJSON(p.Path(), c, res, changed)
		if a.common.json || a.common.quiet {
			return nil
		}
		return a.print(fmt.Appendf(nil, "%s is a repository of kedge's now.\n"+
			"checked: %s, %s; no damage\n"+
			"newly listed as complete: %s\n"+
			"written to config: [kedge] version = %d, chunker = %s (as bup has split files), and settings for git\n"+
			"bup can still read and write it; to undo this remove the section [kedge] from config\n",
			escape(p.Path()), plural(res.Packs, "pack"), plural(res.Objects, "object"), plural(res.Closed, "pack"), c.Version, c.Chunker))
	})
}

// checkToAdopt checks a whole repository, and tells what is wrong.
func (a *app) checkToAdopt(ctx context.Context, p *repo.Packs) (repo.CheckResult, error) {
	res, err := repo.Check(ctx, p, repo.CheckOptions{Workers: a.workers(), Progress: a.fsckProgress}, func(f repo.Finding) {
		if f.Damage() {
			a.ui.line("%s", escapeText(f.String()))
		}
	})
	a.ui.done()
	if err == nil && res.Damage > 0 {
		err = withHint(&codedError{exitDamaged, fmt.Errorf("the repository is damaged: %s; nothing was changed", plural(res.Damage, "finding"))},
			"kedge works with it as it is; 'kedge rm' takes out the saves that are damaged")
	}
	return res, err
}

// adoptResult is the result of adopt in JSON.
type adoptResult struct {
	Dir     string `json:"dir"`
	Changed bool   `json:"changed"`
	Version int    `json:"version"`
	Chunker string `json:"chunker"`
	Packs   int64  `json:"packs"`
	Objects int64  `json:"objects"`
	Closed  int64  `json:"packs_listed"`
}

func adoptJSON(dir string, c repo.Config, res repo.CheckResult, changed bool) adoptResult {
	return adoptResult{dir, changed, c.Version, c.Chunker, res.Packs, res.Objects, res.Closed}
}
