package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
it: clients cannot take anything away.

PERIODs are numbers with units: 30d, 1y6m, 36h (s, min, h, d, w, m, y; forever).`

const pruneExample = `  kedge prune --keep-daily 7 --keep-weekly 4 --keep-monthly 12 web1
  kedge prune --dry-run --keep-within 30d --keep-yearly all '*'
  kedge prune --root /srv/backup build --keep-last 10 dir-etc
  kedge prune --undo web1`

// pruneOptions is the options of prune.
type pruneOptions struct {
	rules        prune.Rules
	counts       map[string]*string
	periods      map[string]*string
	root         string
	undo, dryRun bool
}

func (o *pruneOptions) flags(f *pflag.FlagSet) {
	o.counts, o.periods = make(map[string]*string), make(map[string]*string)
	o.counts["keep-last"] = f.String("keep-last", "", "keep the newest `N` saves")
	for _, unit := range []struct{ name, what string }{{"hourly", "hours"}, {"daily", "days"}, {"weekly", "weeks"},
		{"monthly", "months"}, {"quarterly", "quarters"}, {"yearly", "years"}} {
		name := "keep-" + unit.name
		o.counts[name] = f.String(name, "", "keep one save of each of the latest `N` "+unit.what)
	}
	o.periods["keep-within"] = f.String("keep-within", "", "keep all saves within `PERIOD` of the newest")
	o.periods["keep-all-for"] = f.String("keep-all-for", "", "keep all saves of the last `PERIOD`")
	o.periods["keep-dailies-for"] = f.String("keep-dailies-for", "", "keep one save a day of the last `PERIOD`")
	o.periods["keep-monthlies-for"] = f.String("keep-monthlies-for", "", "keep one save a month of the last `PERIOD`")
	o.periods["keep-yearlies-for"] = f.String("keep-yearlies-for", "", "keep one save a year of the last `PERIOD`")
	f.StringArrayVar(&o.rules.Tags, "keep-tag", nil, "keep saves with a tag that matches `PATTERN`; may be repeated")
	f.StringVar(&o.root, "root", "", "the first operand is a repository in `ROOT`")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "only say what would be left out, and how much that frees")
	f.BoolVar(&o.undo, "undo", false, "bring back what the last prune left out")
}

// parse fills in the rules.
func (o *pruneOptions) parse() error {
	r := &o.rules
	for name, to := range map[string]*int{"keep-last": &r.Last, "keep-hourly": &r.Hourly, "keep-daily": &r.Daily,
		"keep-weekly": &r.Weekly, "keep-monthly": &r.Monthly, "keep-quarterly": &r.Quarterly, "keep-yearly": &r.Yearly} {
		switch text := *o.counts[name]; text {
		case "":
		case "all":
			*to = prune.All
		default:
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 {
				return usagef("option --%s: %s is no number and not 'all'", name, quote(text))
			}
			*to = n
		}
	}
	for name, to := range map[string]*prune.Period{"keep-within": &r.Within, "keep-all-for": &r.AllFor,
		"keep-dailies-for": &r.DailiesFor, "keep-monthlies-for": &r.MonthliesFor, "keep-yearlies-for": &r.YearliesFor} {
		if text := *o.periods[name]; text != "" {
			p, err := prune.ParsePeriod(text)
			if err != nil {
				return usagef("option --%s: %v", name, err)
			}
			*to = p
		}
	}
	err := r.Check()
	if o.undo && err == nil {
		return usagef("--undo takes no rules")
	} else if !o.undo && err != nil {
		return withHint(usagef("%v", err), "--keep-daily 7 --keep-weekly 4 --keep-monthly 12 is a usual beginning")
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
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeSaved,
	}
	o.flags(cmd.Flags())
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if err := o.parse(); err != nil {
			return err
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

// openOwn opens a repository that is in a directory, to take something away from it.
func (a *app) openOwn(ctx context.Context, what string) (*repo.Packs, error) {
	at, err := a.place()
	if err != nil {
		return nil, err
	}
	if at.scheme != "" {
		return nil, withHint(usagef("%s works in the directory of a repository, not over %s://", what, at.scheme),
			"run it on the server: nobody can take anything away from outside")
	}
	r, err := a.open(ctx, false)
	if err != nil {
		return nil, err
	}
	return r.(directory).Packs, nil
}

// upkeep takes the right to take things away, while nobody is saving.
func (a *app) upkeep(ctx context.Context, p *repo.Packs) (*repo.Upkeep, error) {
	u, err := p.Upkeep(ctx)
	if err != nil {
		return nil, err
	}
	n, err := u.Sessions(ctx)
	if err == nil && n > 0 {
		err = &repo.BusyError{What: p.Path(), Hint: plural(int64(n), "session") + " live; what is saved now is not pruned"}
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
	u, err := a.upkeep(ctx, p)
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
		plan, err := prune.NewPlan(ctx, p, name, time.Local)
		if err != nil {
			return err
		}
		o.rules.Apply(plan.Saves, now, time.Local)
		plans = append(plans, plan)
	}
	var res pruneResult
	for i, plan := range plans {
		if err := a.printPlan(names[i], plan); err != nil {
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
	u, err := a.upkeep(ctx, p)
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
