package main

import (
	"context"
	"io"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/remote"
	"github.com/kedgebackup/kedge/repo"
)

// place is where a repository is.
type place struct {
	scheme string // "" for a directory, "ssh", "s3"
	path   string // the directory, or the address as it was given
}

// isURL reports whether an address names a scheme.
func isURL(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && scheme != "" && !strings.Contains(scheme, "/")
}

// parsePlace reads the argument of -r. As in git and bup, "host:path" is a path
// on another host, unless a slash stands before the colon.
func parsePlace(s string) place {
	if scheme, _, _ := strings.Cut(s, "://"); isURL(s) {
		return place{strings.ToLower(scheme), s}
	}
	if i := strings.IndexAny(s, ":/"); i > 0 && s[i] == ':' {
		return place{"ssh", s}
	}
	return place{"", strings.TrimPrefix(s, ":")}
}

// place returns where the repository of this run is.
func (a *app) place() (place, error) {
	if a.reversing() {
		return place{"ssh", "the caller's"}, nil
	}
	if a.common.remote == "" {
		dir, err := a.home()
		return place{"", dir}, err
	}
	p := parsePlace(a.common.remote)
	switch p.scheme {
	case "ssh", "s3":
		return p, nil
	case "":
		dir, err := filepath.Abs(p.path)
		return place{"", dir}, err
	}
	return p, withHint(usagef("%s: repositories of the kind %s:// are not supported", quote(a.common.remote), escape(p.scheme)),
		"-r takes a directory (/path), a server (ssh://user@host/REPO, host:REPO) or a mirror (s3://bucket/prefix/REPO)")
}

// repository is what commands work on, wherever it is.
type repository interface {
	repo.Repo
	repo.Configured
	// Check is repo.Check.
	Check(ctx context.Context, o repo.CheckOptions, report func(repo.Finding)) (repo.CheckResult, error)
	// Warnings returns what was wrong and could be done without, such as an index
	// file that is missing beside its pack.
	Warnings() []error
}

// directory is a repository in a directory of this machine.
type directory struct{ *repo.Packs }

func (d directory) packs() *repo.Packs { return d.Packs }

// Check is repo.Check.
func (d directory) Check(ctx context.Context, o repo.CheckOptions, report func(repo.Finding)) (repo.CheckResult, error) {
	return repo.Check(ctx, d.Packs, o, report)
}

// served is a repository behind a server, which keeps its warnings to itself.
type served struct{ *remote.Client }

// Warnings returns nothing.
func (served) Warnings() []error { return nil }

// open opens the repository of this run. This is the only place that knows
// kinds of repositories; every command works on what it returns.
func (a *app) open(ctx context.Context, readOnly bool) (repository, error) {
	if r, ok, err := a.openReverse(ctx); ok {
		return r, err
	}
	p, err := a.place()
	if err != nil {
		return nil, err
	}
	switch {
	case p.scheme == "ssh":
		return a.dial(ctx, p, nil)
	case p.scheme == "s3" && !readOnly:
		return a.openLiving(ctx, p)
	case p.scheme == "s3":
		return a.openMirrored(ctx, p)
	}
	r, err := repo.OpenDir(ctx, p.path, repo.DirOptions{FS: a.FS, ReadOnly: readOnly, Wait: a.patience()})
	if err != nil {
		return nil, err
	}
	return directory{r}, nil
}

// mayMove fails if it is known already that a ref will not be moved in the end: before
// anything is read and sent for it.
func mayMove(r repo.Repo, ref string) error {
	if s, ok := r.(served); ok {
		return s.MayMove(ref)
	}
	return nil
}

// closeRepo closes a repository and tells its warnings.
func (a *app) closeRepo(r repository) {
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
