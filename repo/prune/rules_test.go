package prune

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

// saves makes saves at times, given the newest first; a time that ends in "!" is of a save
// with unreadable files, one that ends in "^" of a pinned one, "#" gives it the tag "t".
func saves(t *testing.T, zone *time.Location, times ...string) []Save {
	var list []Save
	for i, text := range times {
		at, err := time.ParseInLocation("2006-01-02 15:04", strings.TrimRight(text, "!^#"), zone)
		if err != nil {
			t.Fatal(err)
		}
		s := Save{ID: pack.Sum(pack.Blob, fmt.Append(nil, i)), Time: at, Name: text}
		s.Partly = strings.HasSuffix(text, "!")
		s.Pinned = strings.HasSuffix(text, "^")
		if strings.HasSuffix(text, "#") {
			s.Tags = []string{"t"}
		}
		list = append(list, s)
	}
	return list
}

func TestRules(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	for _, c := range []struct {
		name  string
		rules Rules
		times []string
		keep  []int
	}{
		{"last", Rules{Last: 2}, []string{"2026-03-03 10:00", "2026-03-02 10:00", "2026-03-01 10:00"}, []int{0, 1}},
		{"the newest always", Rules{Yearly: 1}, []string{"2026-03-03 10:00", "2026-03-02 10:00"}, []int{0}},
		{"daily, the newest of a day", Rules{Daily: 2},
			[]string{"2026-03-03 22:00", "2026-03-03 04:00", "2026-03-02 22:00", "2026-03-02 04:00", "2026-03-01 22:00"}, []int{0, 2}},
		{"a complete one before a newer incomplete one", Rules{Daily: 2},
			[]string{"2026-03-03 22:00!", "2026-03-03 04:00", "2026-03-02 22:00!", "2026-03-02 04:00", "2026-03-01 22:00"}, []int{0, 1, 3}},
		{"days with incomplete ones only take no slot", Rules{Daily: 2},
			[]string{"2026-03-04 22:00!", "2026-03-03 22:00!", "2026-03-02 22:00", "2026-03-01 22:00", "2026-02-28 22:00"}, []int{0, 1, 2, 3}},
		{"but they are not without end", Rules{Daily: 1},
			[]string{"2026-03-04 22:00!", "2026-03-03 22:00!", "2026-03-02 22:00!"}, []int{0}},
		{"midnight is that of the zone", Rules{Daily: 2},
			[]string{"2026-07-02 00:30", "2026-07-01 23:30", "2026-07-01 00:30"}, []int{0, 1}},
		{"the year of a week", Rules{Weekly: 2}, // Monday 2025-12-29 is week 1 of 2026
			[]string{"2026-01-02 10:00", "2025-12-30 10:00", "2025-12-28 10:00", "2025-12-22 10:00", "2025-12-21 10:00"}, []int{0, 2}},
		{"monthly", Rules{Monthly: 3}, []string{"2026-03-31 10:00", "2026-03-01 10:00", "2026-02-28 10:00", "2026-01-31 10:00", "2025-12-31 10:00"}, []int{0, 2, 3}},
		{"quarterly", Rules{Quarterly: 2}, []string{"2026-03-31 10:00", "2026-01-01 10:00", "2025-12-31 10:00", "2025-10-01 10:00", "2025-09-30 10:00"}, []int{0, 2}},
		{"yearly, all", Rules{Yearly: All}, []string{"2026-03-31 10:00", "2025-03-31 10:00", "2025-01-31 10:00", "2021-03-31 10:00"}, []int{0, 1, 3}},
		{"within, of the newest", Rules{Within: Period{Months: 1}}, []string{"2020-03-31 10:00", "2020-03-02 10:00", "2020-02-29 10:00", "2020-02-29 09:59"}, []int{0, 1, 2}},
		{"pins and tags", Rules{Last: 1, Tags: []string{"t*"}}, []string{"2026-03-04 10:00", "2026-03-03 10:00^", "2026-03-02 10:00", "2026-03-01 10:00#"}, []int{0, 1, 3}},
		{"bup's, before now", Rules{AllFor: Period{Days: 2}, DailiesFor: Period{Days: 4}},
			[]string{"2026-03-30 10:00", "2026-03-29 13:00", "2026-03-28 13:00", "2026-03-28 11:00", "2026-03-27 13:00", "2026-03-20 10:00"}, []int{0, 1, 2, 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := saves(t, berlin, c.times...)
			c.rules.Apply(list, time.Date(2026, 3, 31, 12, 0, 0, 0, berlin), berlin)
			var kept []int
			for i := range list {
				if list[i].Kept() {
					kept = append(kept, i)
				}
			}
			if !slices.Equal(kept, c.keep) {
				t.Errorf("kept %v, want %v", kept, c.keep)
			}
		})
	}
}

// An hour that the clock shows twice is two.
func TestHourShownTwice(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	second := time.Date(2026, 10, 25, 1, 30, 0, 0, time.UTC) // 02:30 for the second time
	list := []Save{{ID: pack.Sum(pack.Blob, nil), Time: second}, {ID: pack.Sum(pack.Tree, nil), Time: second.Add(-time.Hour)}}
	(&Rules{Hourly: 2}).Apply(list, second, berlin)
	if !list[0].Kept() || !list[1].Kept() {
		t.Error("the hour was taken for one")
	}
}

func TestPeriod(t *testing.T) {
	for text, want := range map[string]Period{
		"30d": {Days: 30}, "1y6m": {Years: 1, Months: 6}, "2w1d": {Days: 15}, "36h": {Clock: 36 * time.Hour},
		"90min": {Clock: 90 * time.Minute}, "5s": {Clock: 5 * time.Second}, "forever": {Forever: true},
	} {
		p, err := ParsePeriod(text)
		if err != nil || p != want {
			t.Errorf("%s: %+v, %v", text, p, err)
		}
		if again, err := ParsePeriod(p.String()); err != nil || again != p {
			t.Errorf("%s: written as %s", text, p)
		}
	}
	for _, text := range []string{"", "d", "30", "1 d", "-1d", "1x", "9999999999d", "forever1d"} {
		if p, err := ParsePeriod(text); err == nil {
			t.Errorf("%q is %+v", text, p)
		}
	}
	at := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	if got := (Period{Years: 1, Days: 1}).Before(at); !got.Equal(time.Date(2025, 3, 30, 12, 0, 0, 0, time.UTC)) {
		t.Error(got)
	}
}

func TestRulesCheck(t *testing.T) {
	for _, r := range []Rules{{}, {Daily: -2}, {Tags: []string{"["}}} {
		if r.Check() == nil {
			t.Errorf("%+v is accepted", r)
		}
	}
	for _, r := range []Rules{{Daily: 1}, {Yearly: All}, {Within: Period{Days: 1}}, {Tags: []string{"*"}}, {AllFor: Period{Forever: true}}} {
		if err := r.Check(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// A month or a year before a day that there was not then is the last of its month: nothing
// goes earlier than was said.
func TestPeriodBefore(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ period, from, want string }{
		{"1m", "2026-03-31 22:00", "2026-02-28 22:00"},
		{"1m", "2028-03-31 22:00", "2028-02-29 22:00"},
		{"1y", "2028-02-29 22:00", "2027-02-28 22:00"},
		{"4y", "2028-02-29 22:00", "2024-02-29 22:00"},
		{"1m1d", "2026-03-31 22:00", "2026-02-27 22:00"},
		{"13m", "2026-01-31 22:00", "2024-12-31 22:00"},
		{"1d", "2026-03-29 22:00", "2026-03-28 22:00"}, // 23 hours
		{"24h", "2026-03-29 22:00", "2026-03-28 21:00"},
		{"1d", "2026-10-25 22:00", "2026-10-24 22:00"}, // 25 hours
		{"1d", "2026-03-30 02:30", "2026-03-29 03:30"}, // there is no 02:30
		{"1y6m", "2026-08-31 00:00", "2025-02-28 00:00"},
	} {
		p, err := ParsePeriod(tt.period)
		if err != nil {
			t.Fatal(err)
		}
		from, err := time.ParseInLocation("2006-01-02 15:04", tt.from, berlin)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Before(from).Format("2006-01-02 15:04"); got != tt.want {
			t.Errorf("%s before %s: %s, want %s", tt.period, tt.from, got, tt.want)
		}
	}
}
