package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/repo/meta"
	"github.com/kedgebackup/kedge/repo/restore"
)

const restoreHelp = `Restore writes what a save holds to OUTDIR, by default the working directory. A
PATH is NAME/SAVE/PATH, SAVE is a time as ls shows it or latest.

    NAME/latest/etc      makes OUTDIR/etc
    NAME/latest/etc/     puts what is in etc into OUTDIR
    NAME/latest/etc/.    the same, and makes OUTDIR itself like etc
    NAME/latest          makes OUTDIR/latest

A file that has the right size and time already is left alone, so a restore that was
cut off goes on where it was. Nothing is removed without --delete. No symbolic link is
followed, whether it is in the save or in OUTDIR. Each file is checked against its id
and gets its name when it is complete.

Into a directory that is not new, set-id bits, devices and system attributes are left
off unless --system asks for them: they are named, and the exit code is 3, as it is when
something else could not be restored.

Owners are looked up by name, and by number where no name is known or with
--numeric-ids; root is root. The maps come first, and count for root as well.

--tar writes an archive to standard output instead, with all metadata; long holes
stay holes in it, unless --no-sparse asks for zeros.

-v lists what is written (+) and removed (-), -vv also what is left alone (=).`

const restoreExample = `  kedge restore -C /tmp/out web1/latest/etc/nginx
  kedge restore -C / --system web1/2026-07-22-231500/.
  kedge restore --tar web1/latest/home | ssh other tar --xattrs --acls -xp`

// restoring are the options of restore.
type restoring struct {
	outdir                              string
	excludeRx, excludeRxFrom            []string
	numeric, sparse                     bool
	mapUser, mapGroup, mapUID, mapGID   []string
	overwrite                           string
	remove, system, dryRun, verify, tar bool
}

func (a *app) restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "restore [-C OUTDIR] [OPTION...] NAME/SAVE[/PATH]...",
		Short:             "get files back",
		Long:              restoreHelp,
		Example:           restoreExample,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeSaved,
	}
	var o restoring
	f := cmd.Flags()
	f.StringVarP(&o.outdir, "outdir", "C", "", "restore into `OUTDIR`, which is made if need be")
	f.StringArrayVar(&o.excludeRx, "exclude-rx", nil, "leave out what the regular expression `RE` matches")
	f.StringArrayVar(&o.excludeRxFrom, "exclude-rx-from", nil, "the same for each line of `FILE`")
	f.BoolVar(&o.numeric, "numeric-ids", false, "restore owners by number, not by name")
	f.StringArrayVar(&o.mapUser, "map-user", nil, "give what belongs to user OLD to NEW, or to its number: `OLD=[NEW]`")
	f.StringArrayVar(&o.mapGroup, "map-group", nil, "the same for groups: `OLD=[NEW]`")
	f.StringArrayVar(&o.mapUID, "map-uid", nil, "the same for user numbers: `OLD=NEW`")
	f.StringArrayVar(&o.mapGID, "map-gid", nil, "the same for group numbers: `OLD=NEW`")
	f.BoolVar(&o.sparse, "sparse", a.name != "bup", "leave holes where there are long runs of zeros (--no-sparse: write them)")
	f.StringVar(&o.overwrite, "overwrite", "if-changed", "what is there already: never, if-changed or always (`WHEN`)")
	_ = cmd.RegisterFlagCompletionFunc("overwrite", // fails only for options that are not there
		cobra.FixedCompletions([]string{"never", "if-changed", "always"}, cobra.ShellCompDirectiveNoFileComp))
	f.BoolVar(&o.remove, "delete", false, "remove what the save does not have, below what is restored")
	f.BoolVar(&o.system, "system", false, "restore set-id bits, devices and system attributes anywhere")
	f.BoolVar(&o.dryRun, "dry-run", false, "write nothing; -v shows what would be done")
	f.BoolVar(&o.verify, "verify", false, "read back and compare, also what is left alone")
	f.BoolVar(&o.tar, "tar", false, "write a tar archive to standard output")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		ro, err := a.restoreOptions(o, args)
		if err != nil {
			return err
		}
		return a.restore(ctx, o, ro)
	})
}

// restoreOptions checks the options and turns them into those of the package.
func (a *app) restoreOptions(o restoring, args []string) (restore.Options, error) {
	ro := restore.Options{
		Out: o.outdir, Paths: args, Numeric: o.numeric, Sparse: o.sparse, Delete: o.remove,
		System: o.system || a.name == "bup", DryRun: o.dryRun, Verify: o.verify, Workers: a.workers(),
		Progress: a.restoreProgress,
	}
	when := map[string]restore.Overwrite{"never": restore.Never, "if-changed": restore.IfChanged, "always": restore.Always}
	var ok bool
	if ro.Overwrite, ok = when[o.overwrite]; !ok {
		return ro, usagef("option --overwrite: %s is none of never, if-changed and always", quote(o.overwrite))
	}
	switch {
	case !o.tar:
	case a.common.json || o.outdir != "" || o.remove || o.verify || o.dryRun || o.system || ro.Overwrite != restore.IfChanged:
		return ro, usagef("--tar writes to standard output: it goes neither with --json nor with what is about a directory: --outdir, --overwrite, --delete, --system, --verify, --dry-run")
	case a.outTTY > 0:
		return ro, withHint(usagef("--tar: standard output is a terminal"), "send the archive to a file, '> FILE', or to a program, '| tar -t'")
	}
	if a.common.verbose > 0 {
		ro.Seen = a.listRestore
	}
	ex := excludes{rx: o.excludeRx, rxFrom: o.excludeRxFrom}
	matcher, err := ex.compile(a)
	if err != nil {
		return ro, err
	}
	if len(o.excludeRx)+len(o.excludeRxFrom) > 0 {
		ro.Exclude = matcher.Match
	}
	if ro.MapUser, err = nameMap("map-user", o.mapUser); err != nil {
		return ro, err
	}
	if ro.MapGroup, err = nameMap("map-group", o.mapGroup); err != nil {
		return ro, err
	}
	if ro.MapUID, err = numberMap("map-uid", o.mapUID); err != nil {
		return ro, err
	}
	if ro.MapGID, err = numberMap("map-gid", o.mapGID); err != nil {
		return ro, err
	}
	if _, err = meta.NewApplier(meta.Options{MapUser: ro.MapUser, MapGroup: ro.MapGroup}, &meta.Names{}); err != nil {
		return ro, usagef("%v", err)
	}
	return ro, nil
}

func (a *app) restore(ctx context.Context, o restoring, ro restore.Options) error {
	r, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer a.closeRepo(r)
	ro.Repo = r
	start := a.now()
	var damaged atomic.Bool
	ro.Warn = func(path string, err error) {
		if exitCode(context.Background(), err) == exitDamaged {
			damaged.Store(true)
		}
		if oe, ok := err.(*restore.ObjectError); ok { // it says where that is in the repository
			path, err = oe.Path, oe.Err
		}
		a.ui.warn(path, err)
	}
	var res restore.Result
	if o.tar {
		res, err = restore.Tar(ctx, ro, a.out)
	} else {
		res, err = restore.Run(ctx, ro)
	}
	a.ui.done()
	if err != nil {
		return err
	}
	a.doc.result = restoreJSON(res)
	a.ui.note("%s, %s", restoreSummary(o, res), formatSeconds(a.now().Sub(start)))
	return a.restoreOutcome(o, res, damaged.Load())
}

// restoreSummary says what was done.
func restoreSummary(o restoring, r restore.Result) string {
	s := fmt.Sprintf("%s and %s ", plural(r.Files, "file"), pluralOf(r.Dirs, "directory", "directories"))
	switch {
	case o.tar:
		s += "in the archive"
	case o.dryRun:
		s += "would be written"
	default:
		s += "written"
	}
	s += " (" + formatSize(r.Bytes) + ")"
	if o.tar { // there is nothing that could be left alone
		return s
	}
	s += ", " + formatCount(r.Kept) + " left alone"
	if o.remove {
		s += ", " + formatCount(r.Removed) + " removed"
	}
	return s
}

// restoreOutcome is the outcome of a restore that may not have been complete.
// That the repository is damaged is the graver news.
func (a *app) restoreOutcome(o restoring, r restore.Result, damaged bool) error {
	var parts []string
	var advice []string
	if r.Errors > 0 {
		done := "restored"
		if o.tar {
			done = "in the archive"
		}
		parts = append(parts, plural(r.Errors, "item")+" not, or not fully, "+done+"; the rest is")
	}
	if r.Withheld > 0 {
		parts = append(parts, plural(r.Withheld, "system attribute")+" left off")
		advice = append(advice, "--system restores set-id bits, devices and system attributes anywhere")
	}
	msg := strings.Join(parts, ", and ")
	switch {
	case damaged:
		return withHint(&codedError{exitDamaged, errors.New("the repository is damaged: " + msg)},
			append(advice, fmt.Sprintf("'%s fsck' tells which saves and paths are affected", a.name))...)
	case msg == "":
		return nil
	}
	return withHint(&partialError{msg}, advice...)
}

// listRestore names what is done to a path of the target.
func (a *app) listRestore(path string, what byte) {
	if what == '=' && a.common.verbose < 2 {
		return
	}
	a.ui.raw([]byte(string(what) + " " + escape(path) + "\n"))
}

func (a *app) restoreProgress(p restore.Progress) {
	a.ui.progress(func() string {
		return fmt.Sprintf("restoring: %s of %s, %s of %s files", formatSize(p.Bytes), formatSize(p.BytesTotal),
			formatCount(p.Files), formatCount(p.FilesTotal))
	})
}

// restoreResult is the result of restore in JSON.
type restoreResult struct {
	Files    int64 `json:"files"`
	Dirs     int64 `json:"dirs"`
	Bytes    int64 `json:"bytes"`
	Kept     int64 `json:"kept"`
	Removed  int64 `json:"removed"`
	Withheld int64 `json:"withheld"`
	Errors   int64 `json:"not_restored"`
}

func restoreJSON(r restore.Result) restoreResult {
	return restoreResult{r.Files, r.Dirs, r.Bytes, r.Kept, r.Removed, r.Withheld, r.Errors}
}

// nameMap reads the values OLD=NEW of an option that maps names. Without NEW the
// number counts that was saved with OLD.
func nameMap(option string, values []string) (map[string]string, error) {
	m := make(map[string]string, len(values))
	for _, v := range values {
		from, to, ok := strings.Cut(v, "=")
		if !ok || from == "" {
			return nil, usagef("option --%s: %s is not of the form OLD=NEW", option, quote(v))
		}
		m[from] = to
	}
	return m, nil
}

// numberMap reads the values OLD=NEW of an option that maps numbers. 2³²-1 is
// what the kernel takes for "leave it as it is", and so no owner.
func numberMap(option string, values []string) (map[uint32]uint32, error) {
	m := make(map[uint32]uint32, len(values))
	for _, v := range values {
		from, to, ok := strings.Cut(v, "=")
		old, err1 := strconv.ParseUint(from, 10, 32)
		now, err2 := strconv.ParseUint(to, 10, 32)
		if !ok || err1 != nil || err2 != nil || now == 1<<32-1 {
			return nil, usagef("option --%s: %s is not of the form OLD=NEW, two numbers", option, quote(v))
		}
		m[uint32(old)] = uint32(now)
	}
	return m, nil
}
