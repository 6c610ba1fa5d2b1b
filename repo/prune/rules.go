package prune

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Rules says what is kept. The zero value keeps nothing but what is always kept, and Check
// refuses it. A count of All is one without end.
type Rules struct {
	Last, Hourly, Daily, Weekly, Monthly, Quarterly, Yearly int

	// Within keeps every save within this period of the newest one, so that a client that
	// has stopped saving loses none.
	Within Period

	// The rules of bup's prune-older: every save, and the newest of each day, month or
	// year, within a period before now.
	AllFor, DailiesFor, MonthliesFor, YearliesFor Period

	// Tags keeps saves with a tag that matches one of these patterns (path.Match).
	Tags []string
}

// All is a count without end.
const All = -1

// ErrNoRule says that rules keep nothing.
var ErrNoRule = errors.New("no rule says what is to be kept")

// Check says why rules cannot be followed.
func (r *Rules) Check() error {
	any := !r.Within.IsZero() || len(r.Tags) > 0
	for _, p := range []Period{r.AllFor, r.DailiesFor, r.MonthliesFor, r.YearliesFor} {
		any = any || !p.IsZero()
	}
	for _, n := range []int{r.Last, r.Hourly, r.Daily, r.Weekly, r.Monthly, r.Quarterly, r.Yearly} {
		if n < All {
			return fmt.Errorf("%d saves cannot be kept", n)
		}
		any = any || n != 0
	}
	for _, t := range r.Tags {
		if _, err := path.Match(t, ""); err != nil {
			return fmt.Errorf("pattern %q of tags: %w", t, err)
		}
	}
	if !any {
		return ErrNoRule
	}
	return nil
}

// Save is a save of a name.
type Save struct {
	ID     pack.ID
	Commit repo.Commit
	Time   time.Time // when it came into the repository
	Name   string    // as it is listed, "2026-11-21-221500"
	Tags   []string  // without refs/tags/
	Pinned bool
	Partly bool // some files could not be read

	Why []string // which rules keep it; none: it is to be left out
}

// Kept reports whether a rule keeps the save.
func (s *Save) Kept() bool { return len(s.Why) > 0 }

// Apply fills in Why for the saves of a name, the newest first.
func (r *Rules) Apply(saves []Save, now time.Time, zone *time.Location) {
	if len(saves) == 0 {
		return
	}
	keep := func(i int, why string) { saves[i].Why = append(saves[i].Why, why) }
	for i := range saves {
		saves[i].Why = nil
	}
	keep(0, "newest")
	if i := slices.IndexFunc(saves, func(s Save) bool { return !s.Partly }); i > 0 {
		keep(i, "newest complete")
	}
	for i := range saves {
		if saves[i].Pinned {
			keep(i, "pinned")
		}
		for _, tag := range saves[i].Tags {
			if slices.ContainsFunc(r.Tags, func(p string) bool { ok, _ := path.Match(p, tag); return ok }) {
				keep(i, "tag "+tag)
			}
		}
	}
	times := make([]time.Time, len(saves))
	for i := range saves {
		times[i] = saves[i].Time.In(zone)
	}
	since := r.Within.Before(times[0])
	for i, t := range times {
		if !r.Within.IsZero() && !t.Before(since) {
			keep(i, "within "+r.Within.String())
		}
	}
	for _, rule := range []struct {
		why   string
		slots int
		slot  func(i int) string
	}{
		{"last", r.Last, func(i int) string { return saves[i].ID.String() }},
		{"hourly", r.Hourly, func(i int) string { return times[i].Format("2006-01-02 15 -0700") }},
		{"daily", r.Daily, func(i int) string { return times[i].Format("2006-01-02") }},
		{"weekly", r.Weekly, func(i int) string { y, w := times[i].ISOWeek(); return fmt.Sprint(y, w) }},
		{"monthly", r.Monthly, func(i int) string { return times[i].Format("2006-01") }},
		{"quarterly", r.Quarterly, func(i int) string { return fmt.Sprint(times[i].Year(), (times[i].Month()-1)/3) }},
		{"yearly", r.Yearly, func(i int) string { return times[i].Format("2006") }},
	} {
		fill(saves, rule.slots, time.Time{}, times, rule.slot, func(i int) { keep(i, rule.why) })
	}
	for _, rule := range []struct {
		why    string
		period Period
		slot   func(i int) string
	}{
		{"all", r.AllFor, func(i int) string { return saves[i].ID.String() }},
		{"dailies", r.DailiesFor, func(i int) string { return times[i].Format("2006-01-02") }},
		{"monthlies", r.MonthliesFor, func(i int) string { return times[i].Format("2006-01") }},
		{"yearlies", r.YearliesFor, func(i int) string { return times[i].Format("2006") }},
	} {
		if !rule.period.IsZero() {
			why := rule.why + " for " + rule.period.String()
			fill(saves, All, rule.period.Before(now.In(zone)), times, rule.slot, func(i int) { keep(i, why) })
		}
	}
}

// fill gives slots to saves: those not before since, the newest first, one in each stretch
// of saves that slot calls the same.
func fill(saves []Save, slots int, since time.Time, times []time.Time, slot func(int) string, keep func(int)) {
	whole, partly := slots, slots
	for i := 0; i < len(saves) && (whole != 0 || partly != 0); {
		if times[i].Before(since) {
			return
		}
		end, best := i, i
		for name := slot(i); end < len(saves) && slot(end) == name && !times[end].Before(since); end++ {
			if saves[best].Partly && !saves[end].Partly {
				best = end
			}
		}
		left := &whole
		if saves[best].Partly {
			left = &partly
		}
		if *left != 0 {
			*left--
			keep(best)
		}
		if whole == 0 {
			return // days before the last slot of a complete save are past
		}
		i = end
	}
}
