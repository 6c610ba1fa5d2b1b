package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

const indexHelp = `Index looks at every path below each PATH and notes in the index what is there and
what has changed. The next save reads only what the index says has changed. It
needs no repository. What could not be read is named, the rest is noted, and the
exit code is 3. The index that was there stays until the new one is complete.

A path changed if its size, times, inode, device, mode or owner did. What changed
so shortly before that the clock may not tell is read again.

With -p, -m or -s it lists what the index knows below each PATH (default: the
working directory), and looks at the file system only with -u as well. A line is
[STATUS ][ID ][MODE GITMODE ]PATH. STATUS is A for a path never saved, M for one that
changed since, D for one that is gone.

Patterns: --exclude takes a path and leaves out it and all below it. --exclude-rx
takes a regular expression of RE2's syntax that may match anywhere in the absolute
path, in which a directory ends in a slash. --exclude-glob takes a shell pattern:
one with a slash at its front is held against the absolute path, any other against
each end of it; ** stands for any number of directories. A PATH that is given is never
left out itself, only what is below it.`

const indexExample = `  kedge index -x --exclude-caches /home
  kedge index --exclude-glob '**/node_modules' --exclude /home/tmp /home
  kedge index -s -m /home                       # what the next save will read`

// indexModes say what index is to do.
type indexModes struct {
	print, modified, status, update, check, clear bool
	hash, long                                    bool
	fakeValid, fakeInvalid                        bool
}

func (a *app) indexCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "index [-u | -p | -m | -s | --check | --clear] [OPTION...] PATH...",
		Aliases: []string{"add"},
		Short:   "note what is in a directory, and what has changed",
		Long:    indexHelp,
		Example: indexExample,
	}
	f := cmd.Flags()
	var m indexModes
	var w walk
	var file string
	f.BoolVarP(&m.update, "update", "u", false, "look at the file system; the default if no listing is asked for")
	f.BoolVarP(&m.print, "print", "p", false, "list what the index knows")
	f.BoolVarP(&m.modified, "modified", "m", false, "list only what is new or has changed")
	f.BoolVarP(&m.status, "status", "s", false, "list with a status")
	f.BoolVarP(&m.hash, "hash", "H", false, "list with the id of what was last saved")
	f.BoolVarP(&m.long, "long", "l", false, "list with the mode, and the mode in the repository")
	f.BoolVar(&m.check, "check", false, "read the whole index and check it")
	f.BoolVar(&m.clear, "clear", false, "remove the index")
	f.BoolVar(&m.fakeValid, "fake-valid", false, "note everything as saved")
	f.BoolVar(&m.fakeInvalid, "fake-invalid", false, "note everything as changed")
	w.flags(cmd)
	f.StringVarP(&file, "indexfile", "f", "", "use the index in `FILE`, not DIR/kedge/index")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		m.print = m.print || m.modified || m.status
		m.update = m.update || !m.print && !m.check && !m.clear
		if err := m.validate(args, file); err != nil {
			return err
		}
		home, err := a.home()
		if err != nil {
			return err
		}
		if file == "" {
			file = indexPath(home)
		}
		return a.index(ctx, m, w, file, args)
	})
}

func (m *indexModes) validate(args []string, file string) error {
	switch {
	case m.update && len(args) == 0:
		return usagef("index needs a PATH to look at")
	case (m.fakeValid || m.fakeInvalid) && !m.update:
		return usagef("--fake-valid and --fake-invalid need --update")
	case m.fakeValid && m.fakeInvalid:
		return usagef("--fake-valid and --fake-invalid exclude each other")
	case m.clear && file != "":
		return usagef("--clear removes the index of DIR: it does not go with --indexfile")
	}
	return nil
}

// index does what the modes say, one after the other, in bup's order.
func (a *app) index(ctx context.Context, m indexModes, w walk, file string, args []string) error {
	if m.check {
		if err := a.checkIndex(file); err != nil {
			return err
		}
	}
	if m.clear {
		if err := a.clearIndex(file); err != nil {
			return err
		}
	}
	var res index.Result
	if m.update {
		var err, printed error
		res, err = a.update(ctx, w, file, args, func(o *index.Options) {
			o.FakeValid, o.FakeInvalid = m.fakeValid, m.fakeInvalid
			if a.common.verbose > 0 && !m.print && !a.common.json {
				o.Seen = a.listWalk(&printed)
			}
		})
		if err != nil {
			return err
		}
		a.doc.result = updateJSON(res)
		if printed != nil {
			return printed
		}
	}
	if m.print {
		if err := a.listIndex(m, file, args); err != nil {
			return err
		}
	}
	return unreadable(int64(res.Errors))
}

// unreadable is the outcome of a walk that could not read everything.
func unreadable(n int64) error {
	if n == 0 {
		return nil
	}
	return &partialError{plural(n, "path") + " could not be read; the rest was"}
}

// listWalk prints directories, and with -vv all paths, as they are walked. What
// goes wrong with that does not stop the walk: it is told in printed.
func (a *app) listWalk(printed *error) func(path string, st *fsx.Stat, status byte) {
	var line []byte
	return func(path string, st *fsx.Stat, status byte) {
		dir := st != nil && isDir(st.Mode)
		if !dir && a.common.verbose < 2 {
			return
		}
		line = append(line[:0], status, ' ')
		line = a.appendName(line, path)
		if dir && path != "/" {
			line = append(line, '/')
		}
		if err := a.print(append(line, '\n')); *printed == nil {
			*printed = err
		}
	}
}

// checkIndex reads the whole index.
func (a *app) checkIndex(file string) error {
	ix, err := index.Open(a.FS, file)
	if err != nil {
		return indexError(file, err)
	}
	defer closeIndex(ix)
	if err := ix.Check(); err != nil {
		return indexError(file, err)
	}
	a.ui.note("the index is in order: %s", plural(int64(ix.Len()), "path"))
	return nil
}

// closeIndex closes an index. What a save changed in it is durable before.
func closeIndex(ix *index.File) { _ = ix.Close() }

// clearIndex removes the index. It is only notes: the next run makes it anew,
// and reads everything once more.
func (a *app) clearIndex(file string) error {
	return index.Clear(a.FS, file, a.common.wait)
}

// indexError adds to an error of the index what to do about it.
func indexError(file string, err error) error {
	var corrupt *pack.CorruptError
	var newer *index.VersionError
	switch {
	case errors.As(err, &corrupt) && corrupt.File == file:
		return withHint(err, "the index is only notes: the next 'index PATH...' or 'backup PATH...' sets it aside and makes a new one",
			"'index --clear' removes it")
	case errors.As(err, &newer):
		return withHint(err, "use the newer program that wrote it; or -f FILE, for an index of your own")
	case errors.Is(err, fs.ErrNotExist):
		return withHint(&codedError{exitNotFound, fmt.Errorf("there is no index %s", quote(file))},
			"'index PATH...' makes it; 'backup PATH...' does everything in one step")
	}
	return err
}

// sourcePath returns the absolute path of a source: everything resolved but a
// symbolic link at the very end, which is itself what is to be saved. A slash
// or a dot behind it says that what it points to is meant.
func sourcePath(arg string) (string, error) {
	if arg == "" {
		return "", usagef("an empty PATH")
	}
	p := arg
	if !filepath.IsAbs(p) {
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		p = wd + "/" + p
	}
	dir, base := filepath.Split(p)
	if base == "" || base == "." || base == ".." {
		dir, base = p, ""
	}
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Clean(p), nil // gone: the index may still know it by this path
	}
	return filepath.Join(real, base), err
}

// listIndex prints what the index knows below each argument.
func (a *app) listIndex(m indexModes, file string, args []string) error {
	ix, err := index.Open(a.FS, file)
	if err != nil {
		return indexError(file, err)
	}
	defer closeIndex(ix)
	if err := a.doc.begin(a, "index"); err != nil {
		return err
	}
	shown := args
	if len(args) == 0 {
		args, shown = []string{"."}, []string{"."}
		if a.name == "bup" { // which puts no "./" in front then
			shown = []string{""}
		}
	}
	for i, arg := range args {
		root, err := sourcePath(arg)
		if err != nil {
			return err
		}
		it := a.indexRecords(ix, root)
		for it.Next() {
			if err := a.listRecord(m, it.Record(), root, shown[i]); err != nil {
				return err
			}
		}
		if err := it.Err(); err != nil {
			return indexError(file, err)
		}
	}
	return nil
}

// recordIter goes through records of the index.
type recordIter interface {
	Next() bool
	Record() *index.Record
	Err() error
}

// indexRecords goes through the records at and below root. Scripts around bup
// read listings of an index from the end, so under its name they have its order.
func (a *app) indexRecords(ix *index.File, root string) recordIter {
	if a.name == "bup" {
		return ix.Reverse(root)
	}
	return ix.Records(root)
}

// indexEntry is a line of the listing in JSON.
type indexEntry struct {
	jsonName
	Status  string `json:"status"`
	ID      string `json:"id,omitempty"`
	Mode    string `json:"mode"`
	GitMode string `json:"git_mode"`
	Size    int64  `json:"size"`
}

// listRecord prints one line of the listing. The path begins as the argument
// was written, and with nothing if that is empty.
func (a *app) listRecord(m indexModes, r *index.Record, root, arg string) error {
	status := r.Status()
	if m.modified && status != 'A' && status != 'M' {
		return nil
	}
	name := strings.TrimSuffix(arg, "/")
	switch below := strings.TrimPrefix(r.Path[len(root):], "/"); {
	case arg == "":
		name = cmp.Or(below, ".")
	case below != "":
		name += "/" + below
	}
	if r.IsDir() {
		name += "/"
	}
	if a.common.json {
		e := indexEntry{jsonName: nameJSON(name), Status: strings.TrimSpace(string(status)),
			Mode: fmt.Sprintf("%07o", r.Stat.Mode), GitMode: fmt.Sprintf("%07o", r.GitMode), Size: r.Stat.Size}
		if !r.ID.IsZero() {
			e.ID = r.ID.String()
		}
		return a.doc.entry(a, e)
	}
	var line []byte
	if m.status {
		line = append(line, status, ' ')
	}
	if m.hash {
		line = append(r.ID.AppendHex(line), ' ')
	}
	if m.long {
		line = fmt.Appendf(line, "%07o %07o ", r.Stat.Mode, r.GitMode)
	}
	return a.print(append(a.appendName(line, name), '\n'))
}

// updateResult is the result of an update in JSON.
type updateResult struct {
	Paths   uint64 `json:"paths"`
	New     uint64 `json:"new"`
	Changed uint64 `json:"changed"`
	Gone    uint64 `json:"gone"`
	Errors  uint64 `json:"unreadable"`
}

func updateJSON(r index.Result) updateResult {
	return updateResult{r.Paths, r.New, r.Changed, r.Gone, r.Errors}
}
