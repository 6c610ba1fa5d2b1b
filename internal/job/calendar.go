package job

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Calendar says when something is done: those of systemd's calendar events that cron can
// say, too.
//
//	[WEEKDAYS] [*-MONTH-DAY] [HOUR:MINUTE[:00]]
//	hourly | daily | weekly | monthly | quarterly | yearly
//
// A weekday is Mon … Sun. Weekdays, months, days, hours and minutes are one value, a list
// (1,15), a range (Mon..Fri), all (*), or steps (*/2, 8/4: from 8 on every fourth). Without
// a time it is midnight. Times are those of the zone in which it is asked.
//
//	Sat 06:00          Saturdays at six
//	*-*-1,15 03:30     the first and the fifteenth
//	Mon..Fri *:0/15    every quarter of an hour on working days
type Calendar struct {
	weekdays, hours, months, days uint64 // one bit for each value; weekdays count from Sunday, 0
	minutes                       uint64
}

// field is what a place in a calendar event may hold.
type field struct {
	what      string
	low, high int
}

var (
	fieldMonth  = field{"month", 1, 12}
	fieldDay    = field{"day", 1, 31}
	fieldHour   = field{"hour", 0, 23}
	fieldMinute = field{"minute", 0, 59}
)

var weekdayNames = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// all is the set of all values.
func (f field) all() uint64 { return (1<<(f.high+1) - 1) &^ (1<<f.low - 1) }

// parse reads a list of values.
func (f field) parse(text string) (set uint64, err error) {
	for part := range strings.SplitSeq(text, ",") {
		base, step, stepped := strings.Cut(part, "/")
		low, high, every := f.low, f.high, 1
		if stepped {
			if every, err = strconv.Atoi(step); err != nil || every < 1 {
				return 0, fmt.Errorf("%q is no step", part)
			}
		}
		if base != "*" {
			from, to, ranged := strings.Cut(base, "..")
			if low, err = f.value(from); err != nil {
				return 0, err
			}
			switch {
			case ranged:
				high, err = f.value(to)
			case !stepped:
				high = low
			}
			if err != nil {
				return 0, err
			}
		}
		if low > high {
			return 0, fmt.Errorf("%q goes backwards", part)
		}
		for v := low; v <= high; v += every {
			set |= 1 << v
		}
	}
	return set, nil
}

func (f field) value(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < f.low || n > f.high || s[0] == '+' {
		return 0, fmt.Errorf("%q is no %s", s, f.what)
	}
	return n, nil
}

// parseWeekdays reads "Sat", "Mon..Fri", "Sat,Sun".
func parseWeekdays(text string) (set uint64, err error) {
	index := func(s string) int {
		return slices.IndexFunc(weekdayNames, func(n string) bool {
			return len(s) >= 3 && strings.HasPrefix(strings.ToLower([]string{"Sunday", "Monday", "Tuesday", "Wednesday",
				"Thursday", "Friday", "Saturday"}[slices.Index(weekdayNames, n)]), strings.ToLower(s))
		})
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "..")
		a := index(from)
		b := a
		if ranged {
			b = index(to)
		}
		if a < 0 || b < 0 {
			return 0, fmt.Errorf("%q is no day of the week", part)
		}
		if (a+6)%7 > (b+6)%7 { // the week begins on Monday
			return 0, fmt.Errorf("%q goes backwards", part)
		}
		for d := a; ; d = (d + 1) % 7 {
			set |= 1 << d
			if d == b {
				break
			}
		}
	}
	return set, nil
}

// calendarWords are events with a name.
var calendarWords = map[string]string{
	"hourly": "*-*-* *:00", "daily": "*-*-* 00:00", "weekly": "Mon *-*-* 00:00", "monthly": "*-*-1 00:00",
	"quarterly": "*-1,4,7,10-1 00:00", "yearly": "*-1-1 00:00",
}

// ParseCalendar reads a calendar event.
func ParseCalendar(text string) (c Calendar, err error) {
	fail := func(err error) (Calendar, error) {
		return Calendar{}, fmt.Errorf("%q is no time such as \"daily\", \"22:00\" or \"Sat 06:00\": %w", text, err)
	}
	words := strings.Fields(text)
	if len(words) == 1 && calendarWords[strings.ToLower(words[0])] != "" {
		words = strings.Fields(calendarWords[strings.ToLower(words[0])])
	}
	if len(words) == 0 {
		return fail(fmt.Errorf("it is empty"))
	}
	c = Calendar{weekdays: 1<<7 - 1, months: fieldMonth.all(), days: fieldDay.all(), hours: 1, minutes: 1}
	place := 0 // of the last word: 1 weekdays, 2 date, 3 time
	for _, w := range words {
		at := 1
		switch {
		case strings.Contains(w, ":"):
			at = 3
			c.hours, c.minutes, err = parseTimeOfDay(w)
		case strings.Contains(w, "-"):
			at = 2
			c.months, c.days, err = parseDate(w)
		default:
			c.weekdays, err = parseWeekdays(w)
		}
		if err == nil && at <= place {
			err = fmt.Errorf("%q is out of its place", w)
		}
		if err != nil {
			return fail(err)
		}
		place = at
	}
	return c, nil
}

func parseDate(w string) (months, days uint64, err error) {
	f := strings.Split(w, "-")
	if len(f) != 3 || f[0] != "*" {
		return 0, 0, fmt.Errorf("%q is no date of every year, as *-*-1 is", w)
	}
	if months, err = fieldMonth.parse(f[1]); err == nil {
		days, err = fieldDay.parse(f[2])
	}
	return months, days, err
}

func parseTimeOfDay(w string) (hours, minutes uint64, err error) {
	f := strings.Split(w, ":")
	if len(f) == 3 && strings.Trim(f[2], "0") == "" && f[2] != "" {
		f = f[:2] // cron knows no seconds
	}
	if len(f) != 2 {
		return 0, 0, fmt.Errorf("%q is not HOUR:MINUTE", w)
	}
	if hours, err = fieldHour.parse(f[0]); err == nil {
		minutes, err = fieldMinute.parse(f[1])
	}
	return hours, minutes, err
}

// text writes a set of values, "*" for all.
func (f field) text(set uint64, format string) string {
	if set == f.all() {
		return "*"
	}
	var list []string
	for v := f.low; v <= f.high; v++ {
		if set>>v&1 != 0 {
			list = append(list, fmt.Sprintf(format, v))
		}
	}
	return strings.Join(list, ",")
}

// String returns the event in systemd's own form.
func (c Calendar) String() string {
	s := fmt.Sprintf("*-%s-%s %s:%s:00", fieldMonth.text(c.months, "%02d"), fieldDay.text(c.days, "%02d"),
		fieldHour.text(c.hours, "%02d"), fieldMinute.text(c.minutes, "%02d"))
	if c.weekdays == 1<<7-1 {
		return s
	}
	var names []string
	for d := range 7 { // from Monday on
		if c.weekdays>>((d+1)%7)&1 != 0 {
			names = append(names, weekdayNames[(d+1)%7])
		}
	}
	return strings.Join(names, ",") + " " + s
}

// Cron returns the first five fields of a line of crontab. Cron takes a day of the month
// and a day of the week for alternatives, and so cannot ask for both.
func (c Calendar) Cron() (string, error) {
	weekdays := field{"weekday", 0, 6}
	if c.weekdays != weekdays.all() && c.days != fieldDay.all() {
		return "", fmt.Errorf("%s: cron cannot ask for a day of the week that is a day of the month, too", c)
	}
	return strings.Join([]string{fieldMinute.text(c.minutes, "%d"), fieldHour.text(c.hours, "%d"), fieldDay.text(c.days, "%d"),
		fieldMonth.text(c.months, "%d"), weekdays.text(c.weekdays, "%d")}, " "), nil
}

// Midnight reports whether the event has no time of day but midnight: it names days.
func (c Calendar) Midnight() bool { return c.hours == 1 && c.minutes == 1 }

// on reports whether a day is meant.
func (c Calendar) on(day time.Time) bool {
	return c.weekdays>>day.Weekday()&1 != 0 && c.months>>day.Month()&1 != 0 && c.days>>day.Day()&1 != 0
}

// horizon is how many days are looked through: a 29th of February that is a Sunday comes
// within 40 years.
const horizon = 41 * 366

// Next returns the first time of the event after t, in the zone of t; zero if there is none.
func (c Calendar) Next(t time.Time) time.Time {
	for d := range horizon {
		day := time.Date(t.Year(), t.Month(), t.Day()+d, 12, 0, 0, 0, t.Location())
		if !c.on(day) {
			continue
		}
		for h := c.hours; h != 0; h &= h - 1 {
			for m := c.minutes; m != 0; m &= m - 1 {
				if at := clock(day, bits.TrailingZeros64(h), bits.TrailingZeros64(m)); at.After(t) {
					return at
				}
			}
		}
	}
	return time.Time{}
}

// Last returns the latest time of the event that is not after t; zero if there is none.
func (c Calendar) Last(t time.Time) time.Time {
	for d := range horizon {
		day := time.Date(t.Year(), t.Month(), t.Day()-d, 12, 0, 0, 0, t.Location())
		if !c.on(day) {
			continue
		}
		for h := c.hours; h != 0; h &^= 1 << (bits.Len64(h) - 1) {
			for m := c.minutes; m != 0; m &^= 1 << (bits.Len64(m) - 1) {
				if at := clock(day, bits.Len64(h)-1, bits.Len64(m)-1); !at.After(t) {
					return at
				}
			}
		}
	}
	return time.Time{}
}

// clock is a time of a day. One that the clocks leave out in spring is an hour later.
func clock(day time.Time, hour, minute int) time.Time {
	return time.Date(day.Year(), day.Month(), day.Day(), hour, minute, 0, 0, day.Location())
}
