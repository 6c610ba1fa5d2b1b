package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/prune"
)

const pruneHelp = `Prune takes saves out of the history of a name, but for those that a rule keeps.
NAME may be a pattern (*, ?, [a-z]). With --root the first operand is a repository
below ROOT.

Saves are dated by when they came into the repository, by its own clock. A rule such
as --keep-daily 7 keeps the newest save of each of the latest seven days on which
there was one; 'all' keeps one of every day. A save with unreadable files never takes
the place of a complete one. Always kept are the newest save, the newest complete one,
and those that are pinned (kedge pin).

What is left out can be brought back with --undo for 14 days. After that 'kedge gc'
frees the room. Prune works in the directory of a repository, on the server that has
it: clients cannot take anything away. Saves and restores that are under way are waited
for (--wait).

Without a rule on the command line those of the config file count, if the repository
is one of its [server]. With --server all of them are pruned.

PERIODs are numbers with units: 30d, 1y6m, 36h (s, min, h, d, w, m, y; forever).`

const pruneExample = `  kedge prune --keep-daily 7 --keep-weekly 4 --keep-monthly 12 web1
  kedge prune --dry-run --keep-within 30d --keep-yearly all '*'
  kedge prune --root /srv/backup build --keep-last 10 dir-etc
  kedge prune --undo web1`

// pruneOptions is the options of prune.
type pruneOptions struct {
	rules prune.Rules
	keep  job.Retention // the options that the config file knows as well
	// configured gives the rules of a name from the config file, if there are none on the
	// command line; ok is false for a name that it leaves alone.
	configured   func(name string) (r prune.Rules, ok bool, err error)
	periods      map[string]*string
	root, config string
	undo, dryRun bool
}

func (o *pruneOptions) flags(f *pflag.FlagSet) {
	o.periods = make(map[string]*string)
	f.StringVar(&o.keep.Last, "keep-last", "", "keep the newest `N` saves")
	for _, unit := range []struct {
		name, what string
		to         *string
	}{{"hourly", "hours", &o.keep.Hourly}, {"daily", "days", &o.keep.Daily}, {"weekly", "weeks", &o.keep.Weekly},
		{"monthly", "months", &o.keep.Monthly}, {"quarterly", "quarters", &o.keep.Quarterly}, {"yearly", "years", &o.keep.Yearly}} {
		f.StringVar(unit.to, "keep-"+unit.name, "", "keep one save of each of the latest `N` "+unit.what)
	}
	f.StringVar(&o.keep.Within, "keep-within", "", "keep all saves within `PERIOD` of the newest")
	o.periods["keep-all-for"] = f.String("keep-all-for", "", "keep all saves of the last `PERIOD`")
	o.periods["keep-dailies-for"] = f.String("keep-dailies-for", "", "keep one save a day of the last `PERIOD`")
	o.periods["keep-monthlies-for"] = f.String("keep-monthlies-for", "", "keep one save a month of the last `PERIOD`")
	o.periods["keep-yearlies-for"] = f.String("keep-yearlies-for", "", "keep one save a year of the last `PERIOD`")
	f.StringArrayVar(&o.keep.Tags, "keep-tag", nil, "keep saves with a tag that matches `PATTERN`; may be repeated")
	f.StringVar(&o.root, "root", "", "the first operand is a repository in `ROOT`")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "only say what would be left out, and how much that frees")
	f.BoolVar(&o.undo, "undo", false, "bring back what the last prune left out")
}

// parse fills in the rules, and reports whether there are any.
func (o *pruneOptions) parse() (any bool, err error) {
	rules, err := o.keep.Rules()
	if err != nil && !errors.Is(err, prune.ErrNoRule) {
		return false, usagef("option --%v", err)
	}
	any = err == nil
	for name, to := range map[string]*prune.Period{"keep-all-for": &rules.AllFor, "keep-dailies-for": &rules.DailiesFor,
		"keep-monthlies-for": &rules.MonthliesFor, "keep-yearlies-for": &rules.YearliesFor} {
		if text := *o.periods[name]; text != "" {
			if *to, err = prune.ParsePeriod(text); err != nil {
				return false, usagef("option --%s: %v", name, err)
			}
			any = true
		}
	}
	o.rules = rules
	if o.undo && any {
		return any, usagef("--undo takes no rules")
	}
	return any, nil
}

// fromConfig takes the rules for a repository from the config file, if that is one of a
// server and the repository is one of its.
func (a *app) fromConfig(o *pruneOptions, p *repo.Packs) error {
	noRule := withHint(usagef("%v", prune.ErrNoRule), "--keep-daily 7 --keep-weekly 4 --keep-monthly 12 is a usual beginning")
	if !a.exists(a.configFile(o.config)) {
		return noRule
	}
	c, err := a.loadConfig(o.config)
	if err != nil {
		return err
	}
	if !isRootOf(c.Server, filepath.Dir(p.Path())) {
		return noRule
	}
	o.configured = func(name string) (prune.Rules, bool, error) {
		r, _, ok, err := c.Server.Rules(filepath.Base(p.Path()), name)
		return r, ok, err
	}
	return nil
}

func (a *app) pruneCommand() *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use:               "prune [--root ROOT REPO] --keep-... | --undo NAME...",
		Short:             "take old saves out of a name's history",
		Long:              pruneHelp,
		Example:           pruneExample,
		ValidArgsFunction: a.completeSaved,
	}
	o.flags(cmd.Flags())
	server := serverFlag(cmd, &o.config)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if *server {
			return cobra.NoArgs(cmd, args)
		}
		return cobra.MinimumNArgs(1)(cmd, args)
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		ruled, err := o.parse()
		if err != nil {
			return err
		}
		if *server {
			if ruled || o.undo || o.dryRun || o.root != "" {
				return usagef("--server does what the config file says: the other options are for one repository")
			}
			return a.runUpkeep(ctx, "prune", o.config, job.Plea{Tasks: []string{job.TaskPrune}, Now: true})
		}
		if o.root != "" {
			if len(args) < 2 {
				return usagef("prune --root needs REPO and NAME")
			}
			a.common.dir, args = filepath.Join(o.root, args[0]), args[1:]
		}
		p, err := a.openOwn(ctx, "prune")
		if err != nil {
			return err
		}
		defer a.closeRepo(directory{p})
		if !ruled && !o.undo {
			if err := a.fromConfig(&o, p); err != nil {
				return err
			}
		}
		names, err := prune.MatchNames(ctx, p, args)
		if err != nil {
			return usagef("%v", err)
		}
		if len(names) == 0 {
			return &repo.NotFoundError{What: "name", Name: args[0]}
		}
		if o.undo {
			return a.undoPrunes(ctx, p, names)
		}
		return a.prune(ctx, p, names, &o)
	})
}

// openOwn opens a repository that is in a directory or lives in a bucket, to take something
// away from it.
func (a *app) openOwn(ctx context.Context, what string) (*repo.Packs, error) {
	at, err := a.place()
	if err != nil {
		return nil, err
	}
	if at.scheme == "ssh" {
		return nil, withHint(usagef("%s works in the directory of a repository, not over %s://", what, at.scheme),
			"run it on the server: nobody can take anything away from outside")
	}
	r, err := a.open(ctx, false)
	if err != nil {
		return nil, err
	}
	own, ok := r.(interface{ packs() *repo.Packs })
	if !ok { // a client that the far end made us ask
		a.closeRepo(r)
		return nil, usagef("%s works where the repository is, not over a connection", what)
	}
	return own.packs(), nil
}

// upkeep takes the right to take things away, once nobody is saving: sessions are waited for as
// gc waits for them. A dry run takes nothing away, and waits for nobody.
func (a *app) upkeep(ctx context.Context, p *repo.Packs, dry bool) (*repo.Upkeep, error) {
	u, err := p.Upkeep(ctx)
	if err != nil || dry {
		return u, err
	}
	n, err := u.Quiet(ctx, a.common.wait)
	if err == nil && n > 0 {
		err = withHint(&repo.BusyError{What: p.Path(), Hint: plural(int64(n), "session") + " live; what is saved now is not pruned"},
			"--wait 1h waits longer; nothing was changed")
	}
	if err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

// prune prunes names.
func (a *app) prune(ctx context.Context, p *repo.Packs, names []string, o *pruneOptions) error {
	if err := a.doc.begin(a, "prune"); err != nil {
		return err
	}
	u, err := a.upkeep(ctx, p, o.dryRun)
	if err != nil {
		return err
	}
	defer u.Close()
	now, err := u.Now(ctx)
	if err != nil {
		return err
	}
	var plans []*prune.Plan
	for _, name := range names {
		rules := o.rules
		if o.configured != nil {
			r, ok, err := o.configured(name)
			if err != nil {
				return err
			} else if !ok {
				continue
			}
			rules = r
		}
		plan, err := prune.NewPlan(ctx, p, name, time.Local)
		if err != nil {
			return err
		}
		rules.Apply(plan.Saves, now, time.Local)
		plans = append(plans, plan)
	}
	var res pruneResult
	for _, plan := range plans {
		if err := a.printPlan(strings.TrimPrefix(plan.Ref, "refs/heads/"), plan); err != nil {
			return err
		}
		res.Kept += int64(len(plan.Saves) - plan.Removed())
		res.Removed += int64(plan.Removed())
	}
	if o.dryRun {
		if res.Freed, err = prune.Freed(ctx, p, plans); err != nil {
			return err
		}
		a.doc.result = res
		return a.conclude("would leave out %s of %d, which frees %s", plural(res.Removed, "save"), res.Removed+res.Kept, formatSize(res.Freed))
	}
	for _, plan := range plans {
		if _, err := plan.Apply(ctx, p, u, a.whoami()); err != nil {
			return err
		}
	}
	a.doc.result = res
	if a.chatty() {
		a.ui.note("left out %s of %d; --undo brings them back for 14 days", plural(res.Removed, "save"), res.Removed+res.Kept)
	}
	return nil
}

// conclude prints the last line of a dry run, which is what the user asked for.
func (a *app) conclude(format string, args ...any) error {
	if a.common.json {
		return nil
	}
	return a.print(fmt.Appendf(nil, format+"\n", args...))
}

// chatty reports whether a summary is wanted.
func (a *app) chatty() bool { return !a.common.quiet && !a.common.json }

// printPlan lists the saves of a name, with what keeps them.
func (a *app) printPlan(name string, plan *prune.Plan) error {
	for i := range plan.Saves {
		s := &plan.Saves[i]
		if a.common.json {
			err := a.doc.entry(a, pruneEntry{Name: name, Save: s.Name, Time: s.Time.UTC().Format(time.RFC3339), Commit: s.ID.String(),
				Kept: s.Kept(), Why: s.Why})
			if err != nil {
				return err
			}
			continue
		}
		if a.common.quiet {
			continue
		}
		line := a.appendName([]byte("- "), name+"/"+s.Name)
		if s.Kept() {
			line[0] = '+'
			line = fmt.Appendf(line, "  (%s)", strings.Join(s.Why, ", "))
		}
		if err := a.print(append(line, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// undoPrunes undoes the last prune of each name.
func (a *app) undoPrunes(ctx context.Context, p *repo.Packs, names []string) error {
	u, err := a.upkeep(ctx, p, false)
	if err != nil {
		return err
	}
	defer u.Close()
	var res undoResult
	for _, name := range names {
		n, err := prune.Undo(ctx, p, u, name, a.whoami())
		if err != nil {
			return err
		}
		res.Restored += int64(n)
		if a.chatty() {
			a.ui.note("%s: %s came back", name, plural(int64(n), "save"))
		}
	}
	a.doc.result = res
	return nil
}

// pruneEntry is a save in the JSON of prune.
type pruneEntry struct {
	Name   string   `json:"name"`
	Save   string   `json:"save"`
	Time   string   `json:"time"`
	Commit string   `json:"commit"`
	Kept   bool     `json:"kept"`
	Why    []string `json:"why,omitempty"`
}

// pruneResult is the result of prune in JSON.
type pruneResult struct {
	Kept    int64 `json:"kept"`
	Removed int64 `json:"removed"`
	Freed   int64 `json:"bytes_freed,omitempty"`
}

// undoResult is the result of prune --undo in JSON.
type undoResult struct {
	Restored int64 `json:"restored"`
}

// whoami returns who runs this, for the receipts.
func (a *app) whoami() string {
	for _, name := range []string{"SUDO_USER", "LOGNAME", "USER"} {
		if who := a.Env(name); who != "" {
			return who
		}
	}
	return ""
}
