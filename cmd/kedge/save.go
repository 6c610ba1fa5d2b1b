package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/save"
)

const saveHelp = `Save stores what the index knows below each PATH, and the output of any number of
commands, as one save of the name NAME. Only what the index says has changed is
read. What could not be read is named and left out, the rest is saved, and the exit
code is 3. If the save fails, NAME stays where it was. A PATH need not have been
indexed itself: 'save /' is all that the index knows.

A save is a commit on the branch NAME. With -t or -c its tree or commit id is printed;
with one of them and without -n no branch is moved.

--stream TREEPATH=CMD saves the output of a shell command as the file TREEPATH, without
a temporary file. CMD runs under bash with pipefail, so each part of a pipeline counts.
If it fails or is killed, so does the save. --stdin-name P saves standard input as the
file P; --stdin-name P --from-command CMD is --stream P=CMD.

Where things stand in the saved tree: by their absolute paths; with --strip below the
PATH that was given; with --strip-path P without P in front; with --graft OLD=NEW
below NEW, if they are below OLD.

--smaller leaves files out by their size alone, even if an earlier save stored them
and they have not changed. The next save without it has them again.

-v lists directories that changed, -vv files as well, after A (new), M (changed), D
(gone) or two blanks.`

const saveExample = `  kedge save -n etc /etc
  kedge save -n db --stream 'dump.sql=mysqldump --all-databases'
  pg_dumpall | kedge save -n db --stdin-name pg.sql
  kedge save -n home --strip --smaller 100M -9 /home`

// saving are the options of save, which backup shares.
type saving struct {
	name               string
	tree, commit       bool
	date               dateValue
	strip              bool
	stripPath          string
	graft              []string
	smaller, bwlimit   sizeValue
	level              int
	dryRun             bool
	streams            []string
	stdinName, command string
	indexFile          string
}

func (s *saving) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&s.name, "name", "n", "", "the `NAME` of the save: a branch of the repository")
	f.BoolVarP(&s.tree, "tree", "t", false, "print the id of the tree")
	f.BoolVarP(&s.commit, "commit", "c", false, "print the id of the commit")
	f.VarP(&s.date, "date", "d", "the time of the save, in `SECONDS` since 1970 (default: now)")
	f.BoolVar(&s.strip, "strip", false, "take each PATH off the front of what is below it")
	f.StringVar(&s.stripPath, "strip-path", "", "take `P` off the front of all paths")
	f.StringArrayVar(&s.graft, "graft", nil, "show what is below OLD below NEW: `OLD=NEW`; may be repeated")
	f.Var(&s.smaller, "smaller", "leave out files of `SIZE` and more, saved before or not")
	f.Var(&s.bwlimit, "bwlimit", "add at most `SIZE` a second to the repository")
	f.IntVar(&s.level, "compress", -1, "compress with level `N`, 0 to 9; -0 to -9 for short (default 1)")
	f.Lookup("compress").Annotations = map[string][]string{levelAnnotation: nil}
	f.BoolVar(&s.dryRun, "dry-run", false, "read and count, but store nothing")
	f.StringArrayVar(&s.streams, "stream", nil, "save what CMD prints: `TREEPATH=CMD`; may be repeated")
	f.StringVar(&s.stdinName, "stdin-name", "", "save standard input as the file `P`")
	f.StringVar(&s.command, "from-command", "", "with --stdin-name: save what `CMD` prints instead")
	f.StringVarP(&s.indexFile, "indexfile", "f", "", "use the index in `FILE`, not DIR/kedge/index")
}

func (a *app) saveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "save -n NAME [OPTION...] [PATH...]",
		Short:   "save what the index knows, and the output of commands",
		Long:    saveHelp,
		Example: saveExample,
	}
	var s saving
	s.flags(cmd)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o, err := a.saveOptions(s, args)
		if err != nil {
			return err
		}
		if o.Name == "" && !s.tree && !s.commit {
			return usagef("save needs a name: -n NAME (or -t or -c, to print an id only)")
		}
		if len(o.Roots) == 0 && len(o.Streams) == 0 {
			return usagef("save needs a PATH or a stream")
		}
		r, err := a.open(ctx, false)
		if err != nil {
			return err
		}
		defer a.closeRepo(r)
		res, err := a.save(ctx, r, o, s.indexFile, true)
		if err != nil {
			return err
		}
		a.doc.result = saveJSON(o, res)
		if err := a.printIDs(s, res); err != nil {
			return err
		}
		a.ui.note("%s", saveLine(res, o.DryRun))
		return saveOutcome(res)
	})
}

// saveOptions checks the options and turns them into those of the pipeline.
func (a *app) saveOptions(s saving, args []string) (save.Options, error) {
	o := save.Options{
		FS: a.FS, Name: s.name, Strip: s.strip, Date: s.date.t, Level: s.level, Workers: a.workers(),
		MaxSize: int64(s.smaller), BytesPerSecond: int64(s.bwlimit), DryRun: s.dryRun,
		Author: a.author(), Host: hostname(), Version: version,
		Warn: a.ui.warn, Progress: a.saveProgress,
	}
	if a.common.verbose > 0 {
		o.Seen = a.listSave
	}
	if s.name != "" {
		if err := repo.CheckRefName("refs/heads/" + s.name); err != nil {
			return o, usagef("option --name: %v", err)
		}
	}
	if s.level < -1 || s.level > 9 {
		return o, usagef("option --compress: there is no level %d", s.level)
	}
	for _, arg := range args {
		root, err := sourcePath(arg)
		if err != nil {
			return o, err
		}
		o.Roots = append(o.Roots, root)
	}
	if err := s.places(&o); err != nil {
		return o, err
	}
	return o, a.streams(s, &o)
}

// places fills in where things stand in the saved tree.
func (s *saving) places(o *save.Options) (err error) {
	n := 0
	for _, given := range []bool{s.strip, s.stripPath != "", len(s.graft) > 0} {
		if given {
			n++
		}
	}
	if n > 1 {
		return usagef("--strip, --strip-path and --graft exclude each other")
	}
	if s.stripPath != "" {
		o.StripPath, err = sourcePath(s.stripPath)
	}
	for _, g := range s.graft {
		from, to, ok := strings.Cut(g, "=")
		if !ok || from == "" || to == "" {
			return usagef("option --graft: %s is not of the form OLD=NEW", quote(g))
		}
		if from, err = sourcePath(from); err != nil {
			return err
		}
		o.Graft = append(o.Graft, [2]string{from, path.Clean("/" + to)})
	}
	return err
}

// streams fills in what is saved besides the paths.
func (a *app) streams(s saving, o *save.Options) error {
	seen := map[string]bool{}
	add := func(treePath string, stream func(string) save.Stream) error {
		p, err := streamPath(treePath)
		if err != nil {
			return err
		}
		if seen[p] {
			return usagef("two streams for %s", quote(p))
		}
		seen[p] = true
		o.Streams = append(o.Streams, stream(p))
		return nil
	}
	for _, arg := range s.streams {
		treePath, command, ok := strings.Cut(arg, "=")
		if !ok || strings.TrimSpace(command) == "" {
			return usagef("option --stream: %s is not of the form TREEPATH=CMD", quote(arg))
		}
		if err := add(treePath, func(p string) save.Stream { return a.commandStream(p, command) }); err != nil {
			return err
		}
	}
	switch {
	case s.stdinName == "" && s.command != "":
		return usagef("--from-command needs --stdin-name, the path its output gets")
	case s.stdinName == "":
		return nil
	case s.command != "":
		return add(s.stdinName, func(p string) save.Stream { return a.commandStream(p, s.command) })
	}
	return add(s.stdinName, a.stdinStream)
}

// save runs the pipeline. It needs the index only if there are paths to save.
// With all, each of them must be in the index; without, those that the walk
// could not find are left out: it has said so.
func (a *app) save(ctx context.Context, r repo.Repo, o save.Options, indexFile string, all bool) (save.Result, error) {
	o.Repo = r
	if !o.DryRun {
		if err := a.packLoose(ctx, r, o.Name); err != nil {
			return save.Result{}, err
		}
	}
	if err := mayMove(r, "refs/heads/"+o.Name); err != nil && o.Name != "" {
		return save.Result{}, err
	}
	if len(o.Roots) > 0 {
		if indexFile == "" {
			home, err := a.home()
			if err != nil {
				return save.Result{}, err
			}
			indexFile = indexPath(home)
		}
		ix, err := index.OpenExclusive(a.FS, indexFile, a.common.wait)
		if !all && errors.Is(err, fs.ErrNotExist) {
			return save.Result{}, errNothing // the walk could not even begin one
		}
		if err != nil {
			return save.Result{}, indexError(indexFile, err)
		}
		defer closeIndex(ix)
		o.Index = ix
		if o.Roots, err = indexed(ix, o.Roots, all); err != nil {
			return save.Result{}, indexError(indexFile, err)
		}
	}
	res, err := save.Run(ctx, o)
	a.ui.done()
	return res, err
}

// errNothing is the end of a backup of which nothing is left. Each path was
// named before.
var errNothing = errors.New("no path could be read: nothing is saved")

// indexed returns those roots of which the index knows something: them, or what is
// below them. With all, one of which it knows nothing is an error, because nobody
// asks for a save of half of what he named.
func indexed(ix *index.File, roots []string, all bool) (found []string, err error) {
	var missing error
	for _, root := range roots {
		known := false
		err := ix.Tops(root, func(r *index.Record, _ uint64) error {
			known = known || r.Flags&index.Exists != 0
			return nil
		})
		switch {
		case err != nil:
			return nil, err
		case known:
			found = append(found, root)
		case missing == nil:
			missing = withHint(&save.NotIndexedError{Path: root}, "'index PATH' notes what is there; 'backup PATH' does that and saves")
		}
	}
	switch {
	case missing != nil && all:
		return nil, missing
	case len(found) == 0:
		return nil, errNothing
	}
	return found, nil
}

// printIDs prints the ids that -t and -c ask for.
func (a *app) printIDs(s saving, res save.Result) error {
	if a.common.json {
		return nil
	}
	var b []byte
	if s.tree {
		b = append(res.Tree.AppendHex(b), '\n')
	}
	if s.commit {
		b = append(res.Commit.AppendHex(b), '\n')
	}
	return a.print(b)
}

// listSave names what is being saved, on standard error: standard output is for
// the ids.
func (a *app) listSave(path string, dir bool, status byte) {
	if a.common.verbose < 2 && (!dir || status == ' ') {
		return
	}
	line := append(make([]byte, 0, 256), status, ' ')
	line = append(line, escape(path)...)
	if dir && path != "/" {
		line = append(line, '/')
	}
	a.ui.raw(append(line, '\n'))
}

func (a *app) saveProgress(p save.Progress) {
	a.ui.progress(func() string {
		var b strings.Builder
		b.WriteString("saving: ")
		if p.BytesTotal > 0 {
			fmt.Fprintf(&b, "%.0f%%, ", 100*min(1, float64(p.Bytes)/float64(p.BytesTotal)))
		}
		fmt.Fprintf(&b, "%s of %s, %s of %s files", formatSize(p.Bytes), formatSize(p.BytesTotal),
			formatCount(p.Files), formatCount(p.FilesTotal))
		if p.Path != "" {
			b.WriteString(", " + escape(p.Path))
		}
		return b.String()
	})
}

// saveLine sums a save up in one line.
func saveLine(r save.Result, dry bool) string {
	return fmt.Sprintf("%s read, %s new, %s %s, %s", formatSize(r.BytesRead), formatSize(r.BytesNew),
		formatSize(r.BytesStored), storedWord(dry), formatSeconds(r.Elapsed))
}

// storedWord says of what is counted whether it is in the repository.
func storedWord(dry bool) string {
	if dry {
		return "would be stored"
	}
	return "stored"
}

// saveOutcome is the outcome of a save of which parts may be missing.
func saveOutcome(r save.Result) error {
	var parts []string
	if r.Unreadable > 0 {
		parts = append(parts, plural(r.Unreadable, "path")+" could not be read")
	}
	if r.Changed > 0 {
		parts = append(parts, plural(r.Changed, "file")+" changed while being read")
	}
	if parts == nil {
		return nil
	}
	return &partialError{strings.Join(parts, ", ") + "; the rest is saved"}
}

// author returns who makes the save, as git names people.
func (a *app) author() string {
	login, name := a.Env("LOGNAME"), ""
	if u, err := user.Current(); err == nil {
		login, name = u.Username, u.Name
	}
	if login == "" {
		login = "unknown"
	}
	if name == "" {
		name = login
	}
	clean := strings.NewReplacer("<", "", ">", "", "\n", " ", "\x00", "")
	return fmt.Sprintf("%s <%s@%s>", clean.Replace(name), clean.Replace(login), hostname())
}

// hostname returns the name of this host as the kernel has it.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	return name
}

// saveResult is the result of a save in JSON. Counts of bytes of sources are of
// what was read; "stored" is what the packs grew by.
type saveResult struct {
	Name          string  `json:"name,omitempty"`
	Tree          string  `json:"tree"`
	Commit        string  `json:"commit,omitempty"`
	Previous      string  `json:"previous,omitempty"`
	DryRun        bool    `json:"dry_run,omitempty"`
	Files         int64   `json:"files"`
	Dirs          int64   `json:"dirs"`
	Bytes         int64   `json:"bytes"`
	FilesRead     int64   `json:"files_read"`
	FilesNew      int64   `json:"files_new"`
	BytesRead     int64   `json:"bytes_read"`
	BytesNew      int64   `json:"bytes_new"`
	BytesDedup    int64   `json:"bytes_deduplicated"`
	BytesStored   int64   `json:"bytes_stored"`
	ObjectsStored int64   `json:"objects_stored"`
	Unreadable    int64   `json:"unreadable"`
	Changed       int64   `json:"changed_while_read"`
	Seconds       float64 `json:"seconds"`
}

func saveJSON(o save.Options, r save.Result) saveResult {
	j := saveResult{
		Name: o.Name, Tree: r.Tree.String(), DryRun: o.DryRun, Files: r.Files, Dirs: r.Dirs, Bytes: r.Bytes,
		FilesRead: r.FilesRead, FilesNew: r.FilesNew, BytesRead: r.BytesRead, BytesNew: r.BytesNew,
		BytesDedup: r.BytesDedup, BytesStored: r.BytesStored, ObjectsStored: r.ObjectsStored,
		Unreadable: r.Unreadable, Changed: r.Changed, Seconds: r.Elapsed.Round(time.Millisecond).Seconds(),
	}
	if !r.Commit.IsZero() {
		j.Commit = r.Commit.String()
	}
	if !r.Previous.IsZero() {
		j.Previous = r.Previous.String()
	}
	return j
}
