package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/prune"
)

const rmHelp = `Rm takes single saves, or all saves of a name, out of a repository. If one of them
cannot be, because it is pinned or is not there, nothing is done.

What was taken out can be brought back with 'kedge prune --undo NAME' for 14 days; after
that 'kedge gc' frees the room. Under the name bup it asks for --unsafe, as bup does.`

const rmExample = `  kedge rm web1/2026-11-21-220000
  kedge rm -v old-host
  kedge prune --undo old-host`

func (a *app) rmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "rm [--unsafe] NAME|NAME/SAVE...",
		Short:             "take out single saves, or all of a name",
		Long:              rmHelp,
		Example:           rmExample,
		ValidArgsFunction: a.completeSaved,
	}
	unsafe := a.unsafeFlags(cmd)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if err := a.checkUnsafe(*unsafe); err != nil {
			return err
		}
		if len(args) == 0 {
			return usagef("rm needs NAME or NAME/SAVE")
		}
		p, err := a.openOwn(ctx, "rm")
		if err != nil {
			return err
		}
		defer a.closeRepo(directory{p})
		u, err := a.upkeep(ctx, p, false)
		if err != nil {
			return err
		}
		defer u.Close()
		plans, err := a.rmPlans(ctx, p, args)
		if err != nil {
			return err
		}
		removed := int64(0)
		for _, plan := range plans {
			removed += int64(plan.Removed())
			if err := a.applyPlan(ctx, p, u, plan); err != nil {
				return err
			}
		}
		a.doc.result = rmResult{removed}
		if a.chatty() {
			a.ui.note("took out %s; 'prune --undo' brings them back for 14 days", plural(removed, "save"))
		}
		return nil
	})
}

// rmResult is the result of rm in JSON.
type rmResult struct {
	Removed int64 `json:"removed"`
}

// unsafeFlags defines --unsafe, which bup asks for, and its level of compression.
func (a *app) unsafeFlags(cmd *cobra.Command) *bool {
	f := cmd.Flags()
	unsafe := f.Bool("unsafe", false, "do it; bup asks for this")
	f.Int("compress", -1, "accepted; what is written is too small to matter: `LEVEL`")
	f.Lookup("compress").Hidden = true
	_ = f.SetAnnotation("compress", levelAnnotation, nil)
	return unsafe
}

func (a *app) checkUnsafe(given bool) error {
	if a.name == "bup" && !given {
		return usagef("refusing to take anything away without --unsafe")
	}
	return nil
}

// rmPlans makes the plans for what is to be taken out, in the order of the arguments.
func (a *app) rmPlans(ctx context.Context, p *repo.Packs, args []string) (plans []*prune.Plan, err error) {
	v := &repo.VFS{Repo: p, Zone: time.Local}
	byName := make(map[string]*prune.Plan)
	drop := make(map[*prune.Save]bool)
	for _, arg := range args {
		chain, err := v.Resolve(ctx, arg, repo.ResolveOptions{})
		if err != nil {
			return nil, err
		}
		n := &chain[len(chain)-1]
		whole := n.Kind == repo.NodeName
		if !whole && (n.Kind != repo.NodeSave || chain[1].Kind != repo.NodeName) {
			return nil, withHint(&codedError{exitNotFound, fmt.Errorf("%s is neither a name nor a save", quote(arg))},
				"NAME/SAVE is a save, as 'ls NAME' lists them; latest is none")
		}
		name := chain[1].Name
		plan := byName[name]
		if plan == nil {
			if plan, err = prune.NewPlan(ctx, p, name, time.Local); err != nil {
				return nil, err
			}
			byName[name], plans = plan, append(plans, plan)
		}
		for i := range plan.Saves {
			if s := &plan.Saves[i]; whole || s.ID == n.Commit {
				drop[s] = true
			}
		}
	}
	for _, plan := range plans {
		for i := range plan.Saves {
			s := &plan.Saves[i]
			if !drop[s] {
				s.Why = []string{"not named"}
			} else if s.Pinned {
				name := strings.TrimPrefix(plan.Ref, "refs/heads/")
				return nil, withHint(fmt.Errorf("%s/%s is pinned", name, s.Name), "'kedge pin --remove' takes the pin off")
			}
		}
	}
	return plans, nil
}

// applyPlan carries out a plan, and with -v tells of it as bup does.
func (a *app) applyPlan(ctx context.Context, p *repo.Packs, u *repo.Upkeep, plan *prune.Plan) error {
	if plan.Removed() == 0 {
		return nil
	}
	tip, err := plan.Apply(ctx, p, u, a.whoami())
	if err == nil && a.common.verbose > 0 {
		a.ui.raw(updatedLine(repo.Move{Ref: plan.Ref, Old: plan.Tip, New: tip}))
	}
	return err
}

// names returns the names of all branches, sorted.
func branchNames(ctx context.Context, r repo.Repo) ([]string, error) {
	refs, err := r.Refs(ctx, "refs/heads/")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, ref := range refs {
		names = append(names, strings.TrimPrefix(ref.Name, "refs/heads/"))
	}
	slices.Sort(names)
	return names, nil
}
