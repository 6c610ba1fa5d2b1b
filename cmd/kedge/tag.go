package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const tagHelp = `Tag gives a save a name that stays with it. Without arguments it lists the tags, with
NAME and WHAT it makes one: WHAT is the name of a save, NAME/SAVE, a path below it, or
an id. A tag that is there is moved by -f only. -d removes one.

What a tag points at, and all below it, is kept. 'kedge ls .tag' shows it.`

const tagExample = `  kedge tag before-upgrade web1/2026-11-21-220000
  kedge tag -f good web1
  kedge tag -d before-upgrade`

func (a *app) tagCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "tag [-f] [NAME WHAT | -d NAME]",
		Short:             "list, make and remove tags",
		Long:              tagHelp,
		Example:           tagExample,
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: a.completeSaved,
	}
	f := cmd.Flags()
	remove := f.StringP("delete", "d", "", "remove the tag `NAME`")
	force := f.BoolP("force", "f", false, "move a tag that is there; with -d: it is no error if there is none")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		switch {
		case *remove != "" && len(args) > 0:
			return usagef("tag -d takes one NAME and nothing else")
		case len(args) == 1:
			return usagef("tag needs NAME and WHAT")
		}
		name := *remove
		if len(args) == 2 {
			name = args[0]
		}
		if name != "" {
			if err := repo.CheckRefName("refs/tags/" + name); err != nil {
				return usagef("%s is no name for a tag: %v", quote(name), err)
			}
		}
		r, err := a.open(ctx, name == "")
		if err != nil {
			return err
		}
		defer a.closeRepo(r)
		refs, err := r.Refs(ctx, "refs/tags/")
		if err != nil && !errors.As(err, new(*pack.CorruptError)) {
			return err
		}
		switch {
		case *remove != "":
			return a.removeTag(ctx, r, refs, name, *force)
		case len(args) == 2:
			return a.makeTag(ctx, r, refs, name, args[1], *force)
		}
		return errors.Join(a.listTags(refs), err)
	})
}

// listTags prints the names of tags.
func (a *app) listTags(refs []repo.Ref) error {
	if err := a.doc.begin(a, "tag"); err != nil {
		return err
	}
	var b []byte
	for _, ref := range refs {
		name := strings.TrimPrefix(ref.Name, "refs/tags/")
		if a.common.json {
			if err := a.doc.entry(a, tagEntry{name, ref.ID.String()}); err != nil {
				return err
			}
			continue
		}
		b = append(a.appendName(b, name), '\n')
	}
	return a.print(b)
}

// tagEntry is a tag in JSON.
type tagEntry struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

// refAt returns where a ref is, zero if it is nowhere.
func refAt(refs []repo.Ref, name string) pack.ID {
	for _, ref := range refs {
		if ref.Name == name {
			return ref.ID
		}
	}
	return pack.ID{}
}

func (a *app) makeTag(ctx context.Context, r repository, refs []repo.Ref, name, what string, force bool) error {
	id, err := objectOf(ctx, r, what)
	if err != nil {
		return err
	}
	m := repo.Move{Ref: "refs/tags/" + name, Old: refAt(refs, "refs/tags/"+name), New: id, Stats: repo.MoveStats{Principal: a.whoami()}}
	if !m.Old.IsZero() && !force {
		return withHint(fmt.Errorf("tag %s exists", quote(name)), "-f moves it")
	}
	_, err = r.SetRef(ctx, m)
	return err
}

func (a *app) removeTag(ctx context.Context, r repository, refs []repo.Ref, name string, force bool) error {
	m := repo.Move{Ref: "refs/tags/" + name, Old: refAt(refs, "refs/tags/"+name), Stats: repo.MoveStats{Principal: a.whoami()}}
	switch {
	case m.Old.IsZero() && force:
		return nil
	case m.Old.IsZero():
		return &repo.NotFoundError{What: "tag", Name: name}
	}
	_, err := r.SetRef(ctx, m)
	return err
}

// objectOf returns the object that a word means: an id that is there, or a path as in ls.
func objectOf(ctx context.Context, r repository, word string) (id pack.ID, err error) {
	if id, err := pack.ParseID(word); err == nil {
		err = r.Get(ctx, []pack.ID{id}, func(int, pack.Type, []byte) error { return nil })
		if m := new(repo.MissingError); errors.As(err, &m) && m.ID == id {
			err = &repo.NotFoundError{What: "commit", Name: word}
		}
		return id, err
	}
	v := &repo.VFS{Repo: r, Zone: time.Local}
	chain, err := v.Resolve(ctx, word, repo.ResolveOptions{Follow: true})
	if err != nil {
		return id, err
	}
	switch n := &chain[len(chain)-1]; n.Kind {
	case repo.NodeName, repo.NodeSave:
		return n.Commit, nil
	case repo.NodeItem:
		return n.ID, nil
	}
	return id, usagef("%s is nothing that can be tagged", quote(word))
}
