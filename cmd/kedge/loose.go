package main

import (
	"context"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/get"
)

// packLoose puts the saves that a name has into packs, if git has left some of their
// objects loose: git deletes those when it likes, so nothing may rest on them, not even
// the next save. What is missing altogether stays missing, and is for the save to tell.
func (a *app) packLoose(ctx context.Context, r repo.Repo, name string) error {
	d, ok := r.(directory)
	if !ok || name == "" {
		return nil
	}
	refs, err := d.Refs(ctx, "refs/heads/"+name)
	if err != nil {
		return err
	}
	tip := refAt(refs, "refs/heads/"+name)
	if tip.IsZero() {
		return nil
	}
	gone, err := d.Missing(ctx, nil, []pack.ID{tip}) // with all below it (I9), where loose objects do not count
	if err != nil || len(gone) == 0 {
		return err
	}
	_, err = get.Run(ctx, get.Options{Source: d.Packs, Dest: d.Packs, Level: 1, Workers: a.workers(),
		Orders: []get.Order{{Method: get.Unnamed, Ref: "git:" + tip.String(), IgnoreMissing: true}}})
	return err
}
