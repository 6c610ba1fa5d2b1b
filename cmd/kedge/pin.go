package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const pinHelp = `Pin keeps saves from being pruned, whatever the rules are. Without operands it lists
what is pinned. --remove takes the pin off again.

A pin knows a save by its contents and its date, so it holds when a prune gives the
save another commit.`

const pinExample = `  kedge pin --note 'before the upgrade' web1/2026-11-21-220000
  kedge pin
  kedge pin --remove web1/2026-11-21-220000`

func (a *app) pinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "pin [--note TEXT | --remove] [NAME/SAVE]...",
		Short:             "keep saves from being pruned",
		Long:              pinHelp,
		Example:           pinExample,
		ValidArgsFunction: a.completeSaved,
	}
	note := cmd.Flags().String("note", "", "say why, in a few words of `TEXT`")
	remove := cmd.Flags().Bool("remove", false, "take the pins off")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if len(args) == 0 && (*remove || *note != "") {
			return usagef("pin needs NAME/SAVE")
		}
		p, err := a.openOwn(ctx, "pin")
		if err != nil {
			return err
		}
		defer a.closeRepo(directory{p})
		if len(args) == 0 {
			return a.listPins(ctx, p)
		}
		var pins []repo.Pin
		for _, arg := range args {
			pin, err := a.pinOf(ctx, p, arg)
			if err != nil {
				return err
			}
			pin.Note = *note
			pins = append(pins, pin)
		}
		return p.SetPins(ctx, func(list []repo.Pin) ([]repo.Pin, error) {
			for i, pin := range pins {
				before := len(list)
				list = slices.DeleteFunc(list, pin.Same)
				if *remove && len(list) == before {
					return nil, &repo.NotFoundError{What: "pin", Name: args[i]}
				}
				if !*remove {
					list = append(list, pin)
				}
			}
			return list, nil
		})
	})
}

// pinOf returns the pin of a save that is named NAME/SAVE.
func (a *app) pinOf(ctx context.Context, p *repo.Packs, arg string) (pin repo.Pin, err error) {
	v := &repo.VFS{Repo: p, Zone: time.Local}
	chain, err := v.Resolve(ctx, arg, repo.ResolveOptions{Follow: true})
	if err != nil {
		return pin, err
	}
	n := chain[len(chain)-1]
	if n.Kind != repo.NodeSave || len(chain) < 2 {
		return pin, withHint(usagef("%s is no save", quote(arg)), "NAME/SAVE is, as 'kedge ls NAME' lists them, or NAME/latest")
	}
	err = p.Get(ctx, []pack.ID{n.Commit}, func(_ int, _ pack.Type, body []byte) error {
		c, err := repo.ParseCommit(body)
		pin = repo.PinOf("refs/heads/"+chain[1].Name, &c)
		return err
	})
	return pin, err
}

// listPins lists what is pinned, with the names of the saves.
func (a *app) listPins(ctx context.Context, p *repo.Packs) error {
	if err := a.doc.begin(a, "pin"); err != nil {
		return err
	}
	pins, err := p.Pins(ctx)
	if err != nil {
		return err
	}
	for _, pin := range pins {
		name := strings.TrimPrefix(pin.Ref, "refs/heads/")
		save, err := a.pinnedSave(ctx, p, pin)
		if err != nil {
			return err
		}
		if a.common.json {
			err = a.doc.entry(a, pinEntry{name, save, pin.Tree.String(), pin.Time.UTC().Format(time.RFC3339), pin.Note})
		} else {
			line := a.appendName(nil, name+"/"+save)
			if pin.Note != "" {
				line = fmt.Appendf(line, "  %s", escapeText(pin.Note))
			}
			err = a.print(append(line, '\n'))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pinnedSave finds the name under which a pinned save is listed.
func (a *app) pinnedSave(ctx context.Context, p *repo.Packs, pin repo.Pin) (save string, err error) {
	save = "?" // it is in no history any more
	v := &repo.VFS{Repo: p, Zone: time.Local}
	chain, err := v.Resolve(ctx, strings.TrimPrefix(pin.Ref, "refs/heads/"), repo.ResolveOptions{Follow: true})
	if err != nil {
		return save, nil
	}
	byID := make(map[pack.ID]string)
	err = v.ReadDir(ctx, &chain[len(chain)-1], false, func(n *repo.Node) error {
		if n.Kind == repo.NodeSave {
			byID[n.Commit] = n.Name
		}
		return nil
	})
	if err != nil {
		return save, err
	}
	err = repo.WalkCommits(ctx, p, chain[len(chain)-1].Commit, func(id pack.ID, c *repo.Commit) error {
		if at := repo.PinOf(pin.Ref, c); pin.Same(at) {
			save = byID[id]
		}
		return nil
	})
	return save, err
}

// pinEntry is a pin in JSON.
type pinEntry struct {
	Name string `json:"name"`
	Save string `json:"save"`
	Tree string `json:"tree"`
	Time string `json:"time"`
	Note string `json:"note,omitempty"`
}
