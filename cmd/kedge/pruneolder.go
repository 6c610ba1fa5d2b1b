package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/gc"
	"github.com/kedgebackup/kedge/repo/prune"
)

const pruneOlderHelp = `Prune-older is bup's way to say which saves stay: all of the last PERIOD, then the
newest of each day, of each month and of each year, each for a PERIOD of its own. Saves
are dated as their names are. 'kedge prune' has more rules, dates saves by the clock of
the repository and never takes the newest one; this one does if no rule keeps it.

Pinned saves stay. What is taken out can be brought back with 'kedge prune --undo NAME'
for 14 days, also with --gc, which is the default.

A PERIOD is a number with a unit, s, min, h, d, w, m (31 days) or y (366 days), or
'forever'. Periods end now, or at --wrt. Names that are not there are passed over.`

const pruneOlderExample = `  kedge prune-older --pretend --keep-all-for 1w --keep-dailies-for 1m web1
  kedge prune-older --keep-all-for 2w --keep-yearlies-for forever`

// olderOptions is the options of prune-older.
type olderOptions struct {
	periods   [4]string
	wrt       string
	pretend   bool
	gc        bool
	threshold int
}

// olderRules are the names of the options and what they keep the newest of.
var olderRules = [4]struct{ option, what, layout string }{
	{"keep-all-for", "all saves", "2006-01-02 15:04:05.999999999"},
	{"keep-dailies-for", "the newest save of each day", "2006-01-02"},
	{"keep-monthlies-for", "the newest save of each month", "2006-01"},
	{"keep-yearlies-for", "the newest save of each year", "2006"},
}

func (a *app) pruneOlderCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "prune-older [--unsafe] --keep-... [NAME...]",
		Short:             "take out old saves by bup's rules",
		Long:              pruneOlderHelp,
		Example:           pruneOlderExample,
		ValidArgsFunction: a.completeSaved,
	}
	var o olderOptions
	f := cmd.Flags()
	for i, r := range olderRules {
		f.StringVar(&o.periods[i], r.option, "", "keep "+r.what+" within `PERIOD`")
	}
	f.StringVar(&o.wrt, "wrt", "", "periods end at `SECONDS` since 1970, not now")
	f.BoolVar(&o.pretend, "pretend", false, "only list what would stay (+) and go (-)")
	f.BoolVar(&o.gc, "gc", true, "collect garbage afterwards")
	f.IntVar(&o.threshold, "gc-threshold", 10, "then write packs anew of which `PERCENT` is garbage")
	unsafe := a.unsafeFlags(cmd)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		since, err := o.since(a.now())
		if err == nil {
			err = a.checkUnsafe(*unsafe)
		}
		if err != nil {
			return err
		}
		p, err := a.openOwn(ctx, "prune-older")
		if err != nil {
			return err
		}
		defer a.closeRepo(directory{p})
		if err := a.pruneOlder(ctx, p, &o, since, args); err != nil || o.pretend || !o.gc {
			return err
		}
		_, err = gc.Run(ctx, p, gc.Options{Threshold: o.threshold, Yes: a.name == "bup", Wait: a.common.wait, Progress: a.gcProgress})
		a.ui.done()
		return err
	})
}

// since returns when each period began; nil stands for a rule that was not given.
func (o *olderOptions) since(now time.Time) (since [4]*time.Time, err error) {
	if o.wrt != "" {
		n, err := strconv.ParseInt(o.wrt, 10, 64)
		if err != nil {
			return since, usagef("option --wrt: %s is no number of seconds", quote(o.wrt))
		}
		now = time.Unix(n, 0)
	}
	if o.threshold < 1 || o.threshold > 100 {
		return since, usagef("option --gc-threshold: %d is no percentage", o.threshold)
	}
	given := false
	for i, text := range o.periods {
		if text == "" {
			continue
		}
		d, forever, err := bupPeriod(text)
		if err != nil {
			return since, usagef("option --%s: %v", olderRules[i].option, err)
		}
		at := time.Time{}
		if !forever {
			at = now.Add(-d)
		}
		since[i], given = &at, true
	}
	if !given {
		return since, usagef("no rule says what is to be kept: at least one --keep-... is needed")
	}
	return since, nil
}

// maxPeriod is the longest period that is no forever.
const maxPeriod = 290 * 366 * 24 * time.Hour

// bupPeriod reads one of bup's periods: a number and one unit, of fixed length.
func bupPeriod(s string) (d time.Duration, forever bool, err error) {
	if s == "forever" {
		return 0, true, nil
	}
	const day = 24 * time.Hour
	units := map[string]time.Duration{"s": time.Second, "min": time.Minute, "h": time.Hour, "d": day, "w": 7 * day, "m": 31 * day, "y": 366 * day}
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, nerr := strconv.ParseInt(s[:digits], 10, 32)
	unit, ok := units[s[digits:]]
	if !ok || nerr != nil {
		return 0, false, fmt.Errorf("%q is no period: a number and one of s, min, h, d, w, m, y is, or forever", s)
	}
	if time.Duration(n) > maxPeriod/unit {
		return 0, true, nil
	}
	return time.Duration(n) * unit, false, nil
}

// pruneOlder takes out what the rules do not keep.
func (a *app) pruneOlder(ctx context.Context, p *repo.Packs, o *olderOptions, since [4]*time.Time, names []string) error {
	if err := a.doc.begin(a, "prune-older"); err != nil {
		return err
	}
	all, err := branchNames(ctx, p)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		names = all
	}
	u, err := a.upkeep(ctx, p, o.pretend)
	if err != nil {
		return err
	}
	defer u.Close()
	var plans []*prune.Plan
	for i, name := range names {
		if !slices.Contains(all, name) || slices.Contains(names[:i], name) {
			continue
		}
		plan, err := prune.NewPlan(ctx, p, name, time.Local)
		if err != nil {
			return err
		}
		keepOlder(plan.Saves, since, time.Local)
		plans = append(plans, plan)
		if o.pretend || a.common.json {
			if err := a.printOlder(name, plan); err != nil {
				return err
			}
		}
	}
	if o.pretend {
		return nil
	}
	for _, plan := range plans {
		if err := a.applyPlan(ctx, p, u, plan); err != nil {
			return err
		}
	}
	return nil
}

// keepOlder says which saves stay, the newest first. Each rule has the saves that those
// before it did not reach: as in bup, the first save that is too old for a rule and all
// behind it are left to the next one.
func keepOlder(saves []prune.Save, since [4]*time.Time, zone *time.Location) {
	at := 0
	for i, from := range since {
		last := ""
		for ; from != nil && at < len(saves); at++ {
			date := saves[at].Commit.Author.When.In(zone)
			if date.Before(*from) {
				break
			}
			slot := date.Format(olderRules[i].layout)
			if i == 0 || slot != last {
				saves[at].Why = []string{olderRules[i].option}
			}
			last = slot
		}
	}
	for i := range saves {
		if saves[i].Pinned && !saves[i].Kept() {
			saves[i].Why = []string{"pinned"}
		}
	}
}

// printOlder lists what stays and what goes, as bup does.
func (a *app) printOlder(name string, plan *prune.Plan) error {
	for i := range plan.Saves {
		s := &plan.Saves[i]
		if a.common.json {
			entry := pruneEntry{Name: name, Save: s.Name, Time: s.Commit.Author.When.UTC().Format(time.RFC3339), Commit: s.ID.String(), Kept: s.Kept(), Why: s.Why}
			if err := a.doc.entry(a, entry); err != nil {
				return err
			}
			continue
		}
		line := []byte("- ")
		if s.Kept() {
			line[0] = '+'
		}
		if err := a.print(append(a.appendName(line, name+"/"+s.Name), '\n')); err != nil {
			return err
		}
	}
	return nil
}
