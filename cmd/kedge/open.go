package main

import (
	"context"
	"io"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/repo"
)

// place is where a repository is.
type place struct {
	scheme string // "" for a directory
	path   string
}

// isURL reports whether an address names a scheme.
func isURL(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && scheme != "" && !strings.Contains(scheme, "/")
}

// parsePlace reads the argument of -r. As in git and bup, "host:path" is a path
// on another host, unless a slash stands before the colon.
func parsePlace(s string) place {
	if scheme, rest, _ := strings.Cut(s, "://"); isURL(s) {
		return place{strings.ToLower(scheme), rest}
	}
	if i := strings.IndexAny(s, ":/"); i >= 0 && s[i] == ':' {
		return place{"ssh", s}
	}
	return place{"", s}
}

// place returns where the repository of this run is.
func (a *app) place() (place, error) {
	if a.common.remote == "" {
		dir, err := a.home()
		return place{"", dir}, err
	}
	p := parsePlace(a.common.remote)
	if p.scheme != "" {
		return p, withHint(usagef("%s: repositories of the kind %s:// are not supported", quote(a.common.remote), escape(p.scheme)),
			"this version opens repositories in a directory: -r /path or -r ./path")
	}
	dir, err := filepath.Abs(p.path)
	return place{"", dir}, err
}

// open opens the repository of this run. This is the only place that knows
// kinds of repositories; every command works on what it returns.
func (a *app) open(ctx context.Context, readOnly bool) (*repo.Packs, error) {
	p, err := a.place()
	if err != nil {
		return nil, err
	}
	return repo.OpenDir(ctx, p.path, repo.DirOptions{FS: a.FS, ReadOnly: readOnly})
}

// closeRepo closes a repository and tells what was wrong with it that could be
// done without, such as an index file that is missing beside its pack.
func (a *app) closeRepo(r *repo.Packs) {
	for _, err := range r.Warnings() {
		a.ui.line("warning: %s", escapeText(err.Error()))
	}
	_ = r.Close()
}

// maxCompletions is how many names a shell is offered.
const maxCompletions = 1000

// completeSaved completes the path of something saved, for a shell.
func (a *app) completeSaved(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	ctx := cmd.Context()
	r, err := a.open(ctx, true)
	if err != nil {
		return nil, directive
	}
	defer a.closeRepo(r)
	dir, prefix := path.Split(word)
	v := repo.VFS{Repo: r}
	chain, err := v.Resolve(ctx, dir, repo.ResolveOptions{Follow: true})
	if err != nil {
		return nil, directive
	}
	var words []string
	_ = v.ReadDir(ctx, &chain[len(chain)-1], false, func(n *repo.Node) error {
		hidden := strings.HasPrefix(n.Name, ".") && prefix == ""
		if hidden || n.Name == "." || !strings.HasPrefix(n.Name, prefix) || escape(n.Name) != n.Name {
			return nil
		}
		word := dir + n.Name
		if n.IsDir() || n.Kind == repo.NodeLatest {
			word += "/"
		}
		if words = append(words, word); len(words) == maxCompletions {
			return io.EOF
		}
		return nil
	})
	return words, directive
}
