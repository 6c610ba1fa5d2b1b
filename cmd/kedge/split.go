package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/save"
)

const splitHelp = `Split cuts FILEs, or standard input, into chunks and stores these, without names and
metadata: 'join' gets the bytes back. Several FILEs are one stream. What is printed:

    -b       the id of each chunk
    -t       the id of a tree of all of them
    -c       the id of a commit of that tree
    -n NAME  nothing: the commit becomes the newest save of NAME, and the tree has
             one file, called data

-t, -c and -n can be given together. --noop stores nothing and needs no repository; -b
and -t tell the ids that there would be. --copy writes what was read to standard output.

'backup --stdin-name P' saves a stream as a file with a path and times.`

const splitExample = `  pg_dumpall | kedge split -n pg
  kedge join pg
  kedge split --noop -t disk.img`

// splitting are the options of split.
type splitting struct {
	blobs, tree, commit, noop, copy bool
	name                            string
	date                            dateValue
	gitIDs, boundaries, bench       bool
	packSize, bwlimit, packObjects  sizeValue
	fanout                          sizeValue
	level                           int
}

func (a *app) splitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "split -b | -t | -c | -n NAME | --noop | --copy [OPTION...] [FILE...]",
		Short:   "store a stream, without a name",
		Long:    splitHelp,
		Example: splitExample,
	}
	var o splitting
	f := cmd.Flags()
	f.BoolVarP(&o.blobs, "blobs", "b", false, "print the ids of the chunks")
	f.BoolVarP(&o.tree, "tree", "t", false, "print the id of the tree")
	f.BoolVarP(&o.commit, "commit", "c", false, "print the id of the commit")
	f.StringVarP(&o.name, "name", "n", "", "the `NAME` of the save: a branch of the repository")
	f.BoolVar(&o.noop, "noop", false, "store nothing")
	f.BoolVar(&o.copy, "copy", false, "store nothing, and write all to standard output")
	f.VarP(&o.date, "date", "d", "the time of the commit, in `SECONDS` since 1970 (default: now)")
	f.BoolVar(&o.gitIDs, "git-ids", false, "split the objects of the repository whose ids standard input lists")
	f.BoolVar(&o.boundaries, "keep-boundaries", false, "let no chunk span two FILEs")
	f.BoolVar(&o.bench, "bench", false, "print how fast it was, on standard error")
	f.Var(&o.packSize, "max-pack-size", "begin a new pack at `SIZE`, in a directory of this machine")
	f.Var(&o.packObjects, "max-pack-objects", "begin a new pack at `N` objects")
	f.Var(&o.fanout, "fanout", "make trees of about `N` entries (default 16)")
	f.Var(&o.bwlimit, "bwlimit", "add at most `SIZE` a second to the repository")
	f.IntVar(&o.level, "compress", -1, "compress with level `N`, 0 to 9; -0 to -9 for short (default 1)")
	f.Lookup("compress").Annotations = map[string][]string{levelAnnotation: nil}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if err := o.check(args); err != nil {
			return err
		}
		s := splitRun{a: a, o: &o, start: a.now()}
		err := s.run(ctx, args)
		a.ui.done()
		if err == nil && (o.bench || a.common.verbose > 1) {
			s.bench()
		}
		if err == nil && s.gone > 0 {
			err = &partialError{plural(s.gone, "object") + " of the list not found; the rest is split"}
		}
		return err
	})
}

// check refuses what does not go together.
func (o *splitting) check(args []string) error {
	stored := o.commit || o.name != ""
	switch {
	case !o.blobs && !o.tree && !stored && !o.noop && !o.copy:
		return usagef("use one or more of -b, -t, -c, -n, --noop, --copy")
	case o.blobs && (o.tree || stored):
		return usagef("-b is incompatible with -t, -c, -n")
	case (o.noop || o.copy) && stored:
		return usagef("--noop and --copy are incompatible with -c, -n")
	case o.copy && (o.blobs || o.tree):
		return usagef("--copy is incompatible with -b, -t")
	case o.gitIDs && len(args) > 0:
		return usagef("don't provide filenames when using --git-ids")
	case o.level < -1 || o.level > 9:
		return usagef("option --compress: there is no level %d", o.level)
	case o.fanout == 1 || o.fanout > 1<<30:
		return usagef("option --fanout: a tree has two entries at least")
	case o.packObjects > 1<<30:
		return usagef("option --max-pack-objects: %d are too many", o.packObjects)
	}
	if o.name != "" {
		if err := repo.CheckRefName("refs/heads/" + o.name); err != nil {
			return usagef("option --name: %v", err)
		}
	}
	return nil
}

// splitRun is one run of split.
type splitRun struct {
	a     *app
	o     *splitting
	start time.Time
	bytes int64 // that were split
	gone  int64 // objects of --git-ids that are not there
}

func (s *splitRun) run(ctx context.Context, args []string) error {
	o := s.o
	r, err := s.open(ctx)
	if err != nil {
		return err
	}
	so := save.SplitOptions{
		Chunker: s.a.usualChunker(), Fanout: int(o.fanout), Apart: o.boundaries, Name: o.name, Commit: o.commit,
		Date: o.date.t, Level: o.level, Workers: s.a.workers(), BytesPerSecond: int64(o.bwlimit),
		Author: s.a.author(), Host: hostname(), Version: version, Progress: s.progress,
	}
	if r != nil {
		defer s.a.closeRepo(r)
		so.Chunker = r.Config().Chunker
		if d, ok := r.(directory); ok {
			d.LimitPacks(int64(o.packSize), int(o.packObjects))
		}
		if !o.noop && !o.copy {
			so.Repo = r
		}
	}
	so.Inputs = s.a.splitInputs(args)
	if o.gitIDs {
		so.Inputs = s.listed(r)
	}
	if (o.noop || o.copy) && !o.blobs && !o.tree {
		return s.only(ctx, &so)
	}
	if o.blobs {
		var line []byte
		so.Blobs = func(id pack.ID) error {
			line = append(id.AppendHex(line[:0]), '\n')
			return s.a.print(line)
		}
	}
	res, err := save.Split(ctx, so)
	if s.bytes = res.BytesRead; err != nil {
		return err
	}
	s.a.doc.result = splitJSON(o, res)
	return s.a.printIDs(saving{tree: o.tree, commit: o.commit}, res)
}

// open opens the repository. What is not stored needs none: what there is of one says how
// files are split.
func (s *splitRun) open(ctx context.Context) (repository, error) {
	if !s.o.noop && !s.o.copy {
		return s.a.open(ctx, false)
	}
	r, err := s.a.open(ctx, true)
	var none *repo.NotFoundError
	if !s.o.gitIDs && errors.As(err, &none) && none.What == "repository" {
		return nil, nil
	}
	return r, err
}

// splitInputs returns files, or standard input if there are none.
func (a *app) splitInputs(names []string) []save.Input {
	if len(names) == 0 {
		return []save.Input{{Open: func(context.Context) (io.ReadCloser, error) {
			if f, ok := a.Stdin.(*os.File); ok {
				remote.WidenPipe(f)
				return io.NopCloser(f), nil
			}
			return io.NopCloser(a.Stdin), nil
		}}}
	}
	list := make([]save.Input, len(names))
	for i, name := range names {
		list[i].Open = func(context.Context) (io.ReadCloser, error) { return os.Open(name) }
	}
	return list
}

// progress shows how far it is.
func (s *splitRun) progress(p save.Progress) {
	s.a.ui.progress(func() string {
		sec := s.a.now().Sub(s.start).Seconds()
		return fmt.Sprintf("splitting: %s, %s/s", formatSize(p.Bytes), formatSize(int64(float64(p.Bytes)/max(sec, 0.001))))
	})
}

// bench prints what bup prints with --bench.
func (s *splitRun) bench() {
	sec := max(s.a.now().Sub(s.start).Seconds(), 1e-6)
	k := float64(s.bytes) / 1024
	s.a.ui.raw(fmt.Appendf(nil, "%s: %.2f kbytes in %.2f secs = %.2f kbytes/sec\n", s.a.name, k, sec, k/sec))
}

// splitResult is the result of split in JSON.
type splitResult struct {
	Name        string  `json:"name,omitempty"`
	Tree        string  `json:"tree,omitempty"`
	Commit      string  `json:"commit,omitempty"`
	BytesRead   int64   `json:"bytes_read"`
	BytesNew    int64   `json:"bytes_new"`
	BytesStored int64   `json:"bytes_stored"`
	Seconds     float64 `json:"seconds"`
}

func splitJSON(o *splitting, r save.Result) splitResult {
	j := splitResult{Name: o.name, BytesRead: r.BytesRead, BytesStored: r.BytesStored,
		Seconds: r.Elapsed.Round(time.Millisecond).Seconds()}
	if !o.noop {
		j.BytesNew = r.BytesNew
	}
	if !r.Tree.IsZero() {
		j.Tree = r.Tree.String()
	}
	if !r.Commit.IsZero() {
		j.Commit = r.Commit.String()
	}
	return j
}

// usualChunker is that of a repository which does not say another.
func (a *app) usualChunker() string {
	if a.name == "bup" {
		return "rollsum:13"
	}
	return "rabin:13"
}
