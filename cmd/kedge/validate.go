package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const validateObjectsHelp = `Validate-object-links reads every object that there is and prints a line for each one
that it refers to and that is missing. 'kedge fsck' looks at more, and tells which saves
are affected.`

const validateLinksHelp = `Validate-ref-links goes down from each REF, or from all, and names what is missing below
it. It is 'validate-refs --links'.`

const validateRefsHelp = `Validate-refs goes down from each REF, or from all branches and tags, and names what is
wrong:

    missing ID PATH         an object is not there
    damaged ID PATH         its bytes are wrong
    abridged-bupm PATH      the metadata of a directory does not fit what is in it

PATH is REF:COMMIT/PATH. --links looks for the first two and --bupm for the last, which
early versions of bup could leave behind; without either it is both. What was found
missing once is not gone through again in another save.

'kedge fsck' finds the same, reads the packs as well, and tells which saves suffer.`

func (a *app) validateObjectsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "validate-object-links",
		Short:   "look for objects that refer to missing ones",
		Long:    validateObjectsHelp,
		Example: "  kedge validate-object-links",
		Args:    cobra.NoArgs,
	}
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		at, err := a.place()
		if err != nil {
			return err
		}
		if at.scheme != "" {
			return usagef("validate-object-links reads the directory of a repository; over %s:// 'fsck' is for that", at.scheme)
		}
		r, err := a.open(ctx, true)
		if err != nil {
			return err
		}
		defer a.closeRepo(r)
		bad := int64(0)
		err = r.(directory).BrokenLinks(ctx, func(parent, child pack.ID) error {
			bad++
			return a.print(fmt.Appendf(nil, "no %v for %v\n", child, parent))
		})
		return invalid(err, bad, "link")
	})
}

// invalid is the outcome of a validation.
func invalid(err error, bad int64, what string) error {
	if err != nil || bad == 0 {
		return err
	}
	return &codedError{exitDamaged, fmt.Errorf("the repository is damaged: %s", plural(bad, "broken "+what))}
}

func (a *app) validateLinksCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "validate-ref-links [REF...]",
		Short:   "look for what is missing below refs",
		Long:    validateLinksHelp,
		Example: "  kedge validate-ref-links web1",
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.validateRefs(ctx, args, true, false)
	})
}

func (a *app) validateRefsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "validate-refs [--links] [--bupm] [REF...]",
		Short:   "look for what is missing or does not fit below refs",
		Long:    validateRefsHelp,
		Example: "  kedge validate-refs --bupm refs/heads/web1",
	}
	links := cmd.Flags().Bool("links", false, "look for missing objects")
	bupm := cmd.Flags().Bool("bupm", false, "look for metadata that does not fit its directory")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		return a.validateRefs(ctx, args, *links || !*bupm, *bupm || !*links)
	})
}

func (a *app) validateRefs(ctx context.Context, names []string, links, bupm bool) error {
	r, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer a.closeRepo(r)
	v := validator{a: a, ctx: ctx, r: r, seen: make(map[pack.ID]bool)}
	refs, err := r.Refs(ctx, "refs/")
	if err != nil && !errors.As(err, new(*pack.CorruptError)) {
		return err
	}
	if err != nil {
		v.tell("damaged %s", err)
	}
	if len(names) > 0 {
		refs = v.named(refs, names)
	}
	for _, ref := range refs {
		if links {
			if err := v.whole(spot{ref.ID, ref.Name}); err != nil {
				return err
			}
		}
		if bupm {
			if err := v.fitting(ref); err != nil {
				return err
			}
		}
	}
	return invalid(nil, v.bad, "path")
}

// validator goes down from refs.
type validator struct {
	a    *app
	ctx  context.Context
	r    repo.Repo
	seen map[pack.ID]bool // what was gone through: with links only what lacks something
	bad  int64
}

// spot is an object and where it was found.
type spot struct {
	id   pack.ID
	path string
}

// tell names something that is wrong, on standard error as bup does.
func (v *validator) tell(format string, args ...any) {
	v.bad++
	v.a.ui.raw([]byte(escapeText(fmt.Sprintf(format, args...)) + "\n"))
}

// named returns those refs that were asked for. They keep the names that they were given.
func (v *validator) named(refs []repo.Ref, names []string) (found []repo.Ref) {
	for _, name := range names {
		i := -1
		for _, full := range []string{name, "refs/" + name, "refs/tags/" + name, "refs/heads/" + name} { // git's order
			if i < 0 {
				i = slices.IndexFunc(refs, func(r repo.Ref) bool { return r.Name == full })
			}
		}
		if i < 0 {
			v.tell("missing %s", name)
			continue
		}
		found = append(found, repo.Ref{Name: name, ID: refs[i].ID})
	}
	return found
}

// whole goes down from an object to what is missing below it. What is there with all
// below is known without a walk (I9), so only what leads to a gap is read.
func (v *validator) whole(top spot) error {
	for todo := []spot{top}; len(todo) > 0; {
		o := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if v.seen[o.id] {
			continue
		}
		v.seen[o.id] = true
		gone, err := v.r.Missing(v.ctx, nil, []pack.ID{o.id})
		if err != nil {
			return err
		}
		if len(gone) == 0 {
			delete(v.seen, o.id)
			continue
		}
		below, err := v.below(o)
		switch {
		case errors.As(err, new(*repo.MissingError)):
			v.tell("missing %v %s", o.id, o.path)
		case errors.As(err, new(*pack.CorruptError)):
			v.tell("damaged %v %s", o.id, o.path)
		case err != nil:
			return err
		}
		slices.Reverse(below)
		todo = append(todo, below...)
	}
	return nil
}

// below returns what an object refers to.
func (v *validator) below(o spot) (list []spot, err error) {
	err = v.r.Get(v.ctx, []pack.ID{o.id}, func(_ int, t pack.Type, body []byte) error {
		ref, _, deeper := strings.Cut(o.path, ":")
		switch t {
		case pack.Tree:
			return repo.ParseTree(body, func(e repo.TreeEntry) error {
				name := o.path + "/" + e.Name
				if !deeper {
					name = o.path + ":" + e.Name
				}
				if e.Mode != 0o160000 {
					list = append(list, spot{e.ID, name})
				}
				return nil
			})
		case pack.Commit:
			c, err := repo.ParseCommit(body)
			list = append(list, spot{c.Tree, ref + ":" + o.id.String()})
			for _, p := range c.Parents {
				list = append(list, spot{p, ref})
			}
			return err
		case pack.Tag:
			line, _, _ := strings.Cut(string(body), "\n")
			id, err := pack.ParseID(strings.TrimPrefix(line, "object "))
			list = append(list, spot{id, ref})
			return err
		}
		return nil
	})
	return list, err
}

// fitting looks at the metadata of all directories below a ref.
func (v *validator) fitting(ref repo.Ref) error {
	kind := pack.Type(0)
	err := v.r.Get(v.ctx, []pack.ID{ref.ID}, func(_ int, t pack.Type, _ []byte) error {
		kind = t
		return nil
	})
	switch {
	case lost(err):
		return nil // which is for the links to tell
	case err != nil:
		return err
	case kind == pack.Tree:
		return v.dirs(spot{ref.ID, ref.Name + ":"})
	case kind != pack.Commit:
		return nil
	}
	err = repo.WalkCommits(v.ctx, v.r, ref.ID, func(id pack.ID, c *repo.Commit) error {
		return v.dirs(spot{c.Tree, ref.Name + ":" + id.String()})
	})
	if lost(err) {
		return nil
	}
	return err
}

// lost reports whether an object could not be read because it is not there, or wrong.
func lost(err error) bool {
	return errors.As(err, new(*repo.MissingError)) || errors.As(err, new(*pack.CorruptError))
}

// dirs looks at a directory and those below that were not met before.
func (v *validator) dirs(top spot) error {
	for todo := []spot{top}; len(todo) > 0; {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if v.seen[d.id] {
			continue
		}
		v.seen[d.id] = true
		err := repo.ReadDir(v.ctx, v.r, d.id, func(i *repo.DirItem) error {
			switch {
			case i.Name == "." && i.Lost && !errors.As(i.Err, new(*repo.MissingError)):
				v.tell("abridged-bupm %s/", d.path)
			case i.Name != "." && i.IsDir():
				todo = append(todo, spot{i.ID, d.path + "/" + i.Name})
			}
			return nil
		})
		if err != nil && !lost(err) {
			return err
		}
	}
	return nil
}
