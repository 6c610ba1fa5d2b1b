package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

const lsHelp = `Ls lists the names of saves, the saves of a name, and what is in them. A save is
called by its time, YYYY-MM-DD-HHMMSS in the time zone of whoever asks, with a number
behind it if there are several; latest is the newest.

    kedge ls                      names
    kedge ls web1                 saves of web1
    kedge ls web1/latest/etc      what was in /etc
    kedge ls .tag                 tags; /.commit/ID is a commit by its id

Symbolic links are followed, but not at the end of a path with -d; an absolute one
begins again where the names are. If PATH is no directory, or a link that leads
nowhere, or with -d, PATH itself is listed.

-l shows mode, owner, size and time. The size of a save is that of all its files, and
it is marked if parts of the source could not be read.

Names are bytes. A terminal gets those escaped that it could not show, a pipe gets
them as they are, one to a line.`

const lsExample = `  kedge ls -l web1
  kedge ls -lR --human-readable web1/latest/etc/nginx
  kedge ls --json web1/latest | jq .entries`

// listing are the options of ls.
type listing struct {
	lsFormat
	all, almostAll     bool
	directory, recurse bool
}

func (a *app) lsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ls [OPTION...] [NAME[/SAVE[/PATH]]]...",
		Short:             "list names, saves and what is in them",
		Long:              lsHelp,
		Example:           lsExample,
		ValidArgsFunction: a.completeSaved,
	}
	var o listing
	o.flags(cmd.Flags())
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if len(args) == 0 {
			if p, err := a.place(); err == nil && p.scheme == "s3" && strings.HasSuffix(p.path, "/") {
				if ok, err := a.listMirrors(ctx, p, o.long); ok || err != nil {
					return err
				}
			}
			names, ok, err := a.servedRepos(ctx)
			if ok || err != nil {
				return a.listRepos(names, err)
			}
		}
		a.brief = true
		r, err := a.open(ctx, true)
		if err != nil {
			return err
		}
		defer a.closeRepo(r)
		if len(args) == 0 {
			args = []string{"/"}
		}
		l := lister{a: a, ctx: ctx, o: o, r: r, v: &repo.VFS{Repo: r}, told: make(map[string]bool)}
		return l.paths(args)
	})
}

func (o *listing) flags(f *pflag.FlagSet) {
	f.BoolVarP(&o.long, "long", "l", false, "show mode, owner, size and time")
	f.BoolVarP(&o.all, "all", "a", false, "show names that begin with a dot, and . and ..")
	f.BoolVarP(&o.almostAll, "almost-all", "A", false, "show names that begin with a dot")
	f.BoolVarP(&o.recurse, "recursive", "R", false, "list the directories below as well")
	f.BoolVarP(&o.directory, "directory", "d", false, "list PATH itself, not what is in it")
	f.BoolVarP(&o.classify, "classify", "F", false, "mark directories /, links @, FIFOs |, sockets =, programs *")
	f.BoolVar(&o.fileType, "file-type", false, "the same, but for programs")
	f.BoolVarP(&o.hash, "hash", "s", false, "show the id of each; of a save, that of its tree")
	f.BoolVar(&o.commit, "commit-hash", false, "the same, but of a save the id of its commit")
	f.BoolVar(&o.human, "human-readable", false, "show sizes like 4.7M")
	f.BoolVarP(&o.numeric, "numeric-ids", "n", false, "show owners as numbers")
}

// listRepos lists the repositories behind a server.
func (a *app) listRepos(names []string, err error) error {
	if err != nil {
		return err
	}
	if a.common.json {
		if err := a.doc.begin(a, "ls"); err != nil {
			return err
		}
		for _, name := range names {
			if err := a.doc.entry(a, lsRepo{nameJSON(name)}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range names {
		if err := a.print([]byte(escapeText(name) + "\n")); err != nil {
			return err
		}
	}
	return nil
}

// lsRepo is a repository behind a server in JSON.
type lsRepo struct {
	Repository jsonName `json:"repository"`
}

// lister makes one listing.
type lister struct {
	a    *app
	ctx  context.Context
	o    listing
	r    repo.Repo
	v    *repo.VFS
	rows []*lsRow        // of a directory, waiting for their sizes or to be put in columns
	said bool            // something was printed
	told map[string]bool // what could not be read
}

// paths lists one path after the other. One that fails is told of, and the
// others are listed all the same.
func (l *lister) paths(args []string) error {
	if err := l.a.doc.begin(l.a, "ls"); err != nil {
		return err
	}
	var failed error
	for _, arg := range args {
		err := l.path(arg, len(args) > 1)
		if ferr := l.flush(); err == nil {
			err = ferr
		}
		if err == nil {
			continue
		}
		if l.ctx.Err() != nil || errors.Is(err, errReaderGone) {
			return err
		}
		if failed != nil {
			_ = l.a.out.Flush() // so that things stand in their order; the last flush returns its error
			l.a.ui.fail(failed, hints(l.a.name, failed))
		}
		failed = err
	}
	if failed == nil && len(l.told) > 0 {
		failed = withHint(&codedError{exitDamaged, errors.New("the repository is damaged: not all could be read")},
			fmt.Sprintf("'%s fsck' tells which saves and paths are affected", l.a.name))
	}
	return failed
}

// path lists one argument.
func (l *lister) path(arg string, header bool) error {
	if arg == "" {
		return usagef("an empty path names nothing: / is where the names are")
	}
	chain, err := l.v.Resolve(l.ctx, arg, repo.ResolveOptions{Follow: !l.o.directory, Meta: true})
	if err != nil && !l.o.directory && exitCode(l.ctx, err) == exitNotFound { // perhaps a link that leads nowhere
		link, lerr := l.v.Resolve(l.ctx, arg, repo.ResolveOptions{Meta: true})
		if lerr == nil && link[len(link)-1].Mode == repo.ModeSymlink {
			chain, err = link, nil
		}
	}
	if err != nil {
		return err
	}
	if header || l.o.recurse {
		if err := l.header(arg); err != nil {
			return err
		}
	}
	name := path.Clean(arg)
	self := chain[len(chain)-1]
	if !self.IsDir() || l.o.directory {
		self.Name = name
		return l.add(&self, "")
	}
	return l.tree(chain, name)
}

// header prints the line above a directory, where there are several.
func (l *lister) header(name string) error {
	if l.a.common.json {
		return nil
	}
	var b []byte
	if l.said {
		b = append(b, '\n')
	}
	l.said = true
	return l.a.print(append(l.a.appendName(b, name), ":\n"...))
}

// pending is a directory still to be listed.
type pending struct {
	name       string
	node, over repo.Node
}

// tree lists a directory and, with -R, those below, without recursion: trees
// may be deeper than a stack should be.
func (l *lister) tree(chain []repo.Node, name string) error {
	todo := []pending{{name, chain[len(chain)-1], chain[max(0, len(chain)-2)]}}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if d.name != name { // that one has its header
			if err := l.header(d.name); err != nil {
				return err
			}
		}
		below, err := l.dir(d)
		if err != nil && d.name != name && l.damaged(d.name, err) {
			err = nil
		}
		if err == nil {
			err = l.flush()
		}
		if err != nil {
			return err
		}
		slices.Reverse(below)
		todo = append(todo, below...)
	}
	return nil
}

// dir lists what is in one directory, and returns the directories below that are
// to be listed too.
func (l *lister) dir(d pending) (below []pending, err error) {
	if l.o.all {
		self, over := d.node, d.over
		self.Name, over.Name = ".", ".."
		if err := errors.Join(l.add(&self, d.name), l.add(&over, d.name)); err != nil {
			return nil, err
		}
	}
	hidden := l.o.all || l.o.almostAll
	err = l.v.ReadDir(l.ctx, &d.node, l.o.long || l.a.common.json, func(n *repo.Node) error {
		if n.Err != nil && (n.Name != "." || !l.told[d.name]) {
			l.damaged(path.Join(d.name, n.Name), n.Err)
		}
		if n.Name == "." || !hidden && strings.HasPrefix(n.Name, ".") {
			return nil
		}
		if l.o.recurse && n.IsDir() {
			below = append(below, pending{path.Join(d.name, n.Name), *n, d.node})
		}
		return l.add(n, d.name)
	})
	return below, err
}

// damaged tells of what cannot be read, and reports whether the listing can go on
// without it.
func (l *lister) damaged(path string, err error) bool {
	if exitCode(l.ctx, err) != exitDamaged {
		return false
	}
	l.told[path] = true
	l.a.ui.warn(path, err)
	return true
}

// group is how many rows are kept back until their sizes are looked up together.
const group = 512

// add takes one line of the listing. Lines are printed as they come, except on
// a terminal, where they are put in columns.
func (l *lister) add(n *repo.Node, dir string) error {
	row, err := l.row(n, dir)
	if err != nil {
		return err
	}
	l.rows = append(l.rows, row)
	if len(l.rows) < group || l.inColumns() {
		return nil
	}
	return l.flush()
}

func (l *lister) inColumns() bool { return l.a.outTTY > 0 && !l.o.long && !l.a.common.json }

// row makes the row of a node.
func (l *lister) row(n *repo.Node, dir string) (*lsRow, error) {
	r := &lsRow{name: n.Name, dir: dir, mode: n.StatMode(), meta: n.Meta, id: n.ID, target: n.Target}
	switch n.Kind {
	case repo.NodeName:
		r.id, r.commit, r.save = n.Commit, n.Commit, true
	case repo.NodeSave:
		r.commit, r.save = n.Commit, true
	case repo.NodeLatest:
		r.size = int64(len(n.Target))
		r.mode = meta.TypeSymlink | 0o755
		return r, nil
	}
	if !l.o.long && !l.a.common.json || n.IsDir() {
		return r, nil
	}
	var err error
	switch r.mode & meta.TypeMask {
	case meta.TypeSymlink:
		if r.target = n.Meta.Symlink; r.target == "" {
			r.target, err = repo.ReadLink(l.ctx, l.r, n.ID)
		}
		r.size = int64(len(r.target))
	case meta.TypeFile:
		if r.size = n.Meta.Size; n.Meta.Mode == 0 || r.size < 0 {
			r.size, err = repo.OpenFile(l.ctx, l.r, n.ID, n.Chunked).Size()
		}
	}
	if err != nil && dir != "" && l.damaged(path.Join(dir, n.Name), err) {
		err = nil
	}
	return r, err
}

// flush prints the rows that wait.
func (l *lister) flush() error {
	rows := l.rows
	l.rows = nil
	if len(rows) == 0 {
		return nil
	}
	if l.o.long || l.a.common.json {
		if err := l.saves(rows); err != nil {
			return err
		}
	}
	l.said = true
	if l.a.common.json {
		for _, r := range rows {
			if err := l.a.doc.entry(l.a, r.entry()); err != nil {
				return err
			}
		}
		return nil
	}
	if l.inColumns() {
		lines := make([]string, len(rows))
		for i, r := range rows {
			lines[i] = string(l.o.append(nil, l.a, r))
		}
		return l.a.print([]byte(columns(lines, l.a.outTTY)))
	}
	var b []byte
	for _, r := range rows {
		b = append(l.o.append(b, l.a, r), '\n')
	}
	return l.a.print(b)
}

// saves fills in what the commits of saves tell of them.
func (l *lister) saves(rows []*lsRow) error {
	var ids []pack.ID
	var place []*lsRow
	for _, r := range rows {
		if r.save {
			ids, place = append(ids, r.commit), append(place, r)
		}
	}
	var mu sync.Mutex
	var trees []pack.ID
	var bare []*lsRow // names: their metadata are those of their newest save
	err := l.r.Get(l.ctx, ids, func(i int, _ pack.Type, body []byte) error {
		c, err := repo.ParseCommit(body)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		r := place[i]
		r.size, r.files, r.unreadable = trailer(&c, "Kedge-Bytes"), trailer(&c, "Kedge-Files"), trailer(&c, "Kedge-Unreadable")
		r.host, _ = c.Trailer("Kedge-Host")
		if r.meta == nil || r.meta.Mode == 0 {
			trees, bare = append(trees, c.Tree), append(bare, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return repo.DirMetas(l.ctx, l.r, trees, func(i int, d *repo.DirItem) error {
		m := *d.Meta
		bare[i].meta = &m
		if m.Mode != 0 {
			bare[i].mode = m.Mode
		}
		return nil
	})
}

// trailer returns a number at the end of a commit message, 0 if there is none.
func trailer(c *repo.Commit, key string) int64 {
	v, _ := c.Trailer(key)
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
