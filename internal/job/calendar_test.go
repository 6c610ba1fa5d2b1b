package job

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestCalendar(t *testing.T) {
	from := time.Date(2026, 11, 21, 22, 30, 0, 0, time.UTC) // a Saturday
	for _, c := range []struct{ text, unit, cron, next, last string }{
		{"22:00", "*-*-* 22:00:00", "0 22 * * *", "2026-11-22 22:00", "2026-11-21 22:00"},
		{"daily", "*-*-* 00:00:00", "0 0 * * *", "2026-11-22 00:00", "2026-11-21 00:00"},
		{"hourly", "*-*-* *:00:00", "0 * * * *", "2026-11-21 23:00", "2026-11-21 22:00"},
		{"weekly", "Mon *-*-* 00:00:00", "0 0 * * 1", "2026-11-23 00:00", "2026-11-16 00:00"},
		{"monthly", "*-*-01 00:00:00", "0 0 1 * *", "2026-12-01 00:00", "2026-11-01 00:00"},
		{"quarterly", "*-01,04,07,10-01 00:00:00", "0 0 1 1,4,7,10 *", "2027-01-01 00:00", "2026-10-01 00:00"},
		{"yearly", "*-01-01 00:00:00", "0 0 1 1 *", "2027-01-01 00:00", "2026-01-01 00:00"},
		{"Sat", "Sat *-*-* 00:00:00", "0 0 * * 6", "2026-11-28 00:00", "2026-11-21 00:00"},
		{"Sat 06:00", "Sat *-*-* 06:00:00", "0 6 * * 6", "2026-11-28 06:00", "2026-11-21 06:00"},
		{"Sat 22:30", "Sat *-*-* 22:30:00", "30 22 * * 6", "2026-11-28 22:30", "2026-11-21 22:30"},
		{"Sat,Sun 3:5:00", "Sat,Sun *-*-* 03:05:00", "5 3 * * 0,6", "2026-11-22 03:05", "2026-11-21 03:05"},
		{"monday..friday *:0/20", "Mon,Tue,Wed,Thu,Fri *-*-* *:00,20,40:00", "0,20,40 * * * 1,2,3,4,5", "2026-11-23 00:00", "2026-11-20 23:40"},
		{"Fri..Sun 01:00", "Fri,Sat,Sun *-*-* 01:00:00", "0 1 * * 0,5,6", "2026-11-22 01:00", "2026-11-21 01:00"},
		{"*-*-1,15 03:30", "*-*-01,15 03:30:00", "30 3 1,15 * *", "2026-12-01 03:30", "2026-11-15 03:30"},
		{"*-2-29 8..10/2:00", "*-02-29 08,10:00:00", "0 8,10 29 2 *", "2028-02-29 08:00", "2024-02-29 10:00"},
		{"*-*-31 12:00", "*-*-31 12:00:00", "0 12 31 * *", "2026-12-31 12:00", "2026-10-31 12:00"},
	} {
		e, err := ParseCalendar(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := e.String(); got != c.unit {
			t.Errorf("%s is %q, want %q", c.text, got, c.unit)
		}
		if again, err := ParseCalendar(c.unit); err != nil || again != e {
			t.Errorf("%s: %q is read as %v, %v", c.text, c.unit, again, err)
		}
		if got, err := e.Cron(); got != c.cron || err != nil {
			t.Errorf("%s is cron's %q, %v, want %q", c.text, got, err, c.cron)
		}
		const layout = "2006-01-02 15:04"
		if got := e.Next(from).Format(layout); got != c.next {
			t.Errorf("%s: next at %s, want %s", c.text, got, c.next)
		}
		if got := e.Last(from).Format(layout); got != c.last {
			t.Errorf("%s: last at %s, want %s", c.text, got, c.last)
		}
		askSystemd(t, c.text, c.next, from)
	}
}

// askSystemd compares what systemd makes of an event.
func askSystemd(t *testing.T, text, next string, from time.Time) {
	t.Helper()
	exe, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze")
	}
	cmd := exec.Command(exe, "calendar", "--base-time="+from.Format("2006-01-02 15:04:05 UTC"), text)
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze calendar %q: %v\n%s", text, err, out)
	} else if want := next + ":00 UTC"; !strings.Contains(string(out), want) {
		t.Errorf("systemd-analyze calendar %q: the next is not %s\n%s", text, want, out)
	}
}

func TestCalendarBad(t *testing.T) {
	for text, why := range map[string]string{
		"":                "it is empty",
		"tonight":         `"tonight" is no day of the week`,
		"25:00":           `"25" is no hour`,
		"22:60":           `"60" is no minute`,
		"22:00:30":        "not HOUR:MINUTE",
		"2026-11-21":      "no date of every year",
		"*-13-1":          `"13" is no month`,
		"*-*-0":           `"0" is no day`,
		"06:00 Sat":       `"Sat" is out of its place`,
		"Sat Sun":         `"Sun" is out of its place`,
		"*-*-5..1":        "goes backwards",
		"Sat..Mon":        "goes backwards",
		"*:0/0":           "no step",
		"*-*-* 22":        "no day of the week",
		"Mo 03:00":        "no day of the week",
		"+3:00":           `"+3" is no hour`,
		"*-*-* 22:00 UTC": "no day of the week",
	} {
		if c, err := ParseCalendar(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, %v; want %q", text, c, err, why)
		}
	}
	c, err := ParseCalendar("Sat *-*-1")
	if _, cerr := c.Cron(); err != nil || cerr == nil {
		t.Errorf("cron was asked for a Saturday that is the first: %v, %v", err, cerr)
	}
	if never, _ := ParseCalendar("*-2-31"); !never.Next(time.Now()).IsZero() || !never.Last(time.Now()).IsZero() {
		t.Error("there is a 31st of February")
	}
}

// An event that falls into the hour that spring leaves out is done all the same, and one in
// the hour that autumn has twice once.
func TestCalendarSummer(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	c, _ := ParseCalendar("02:30")
	for _, day := range []time.Time{time.Date(2026, 3, 28, 12, 0, 0, 0, zone), time.Date(2026, 10, 24, 12, 0, 0, 0, zone)} {
		first := c.Next(day)
		second := c.Next(first)
		if gap := second.Sub(first); first.Sub(day) > 16*time.Hour || gap < 22*time.Hour || gap > 26*time.Hour {
			t.Errorf("after %v: %v, %v", day, first, second)
		}
		if last := c.Last(second.Add(-time.Minute)); !last.Equal(first) {
			t.Errorf("before %v: %v, want %v", second, last, first)
		}
	}
}

func FuzzCalendar(f *testing.F) {
	for _, s := range []string{"daily", "Sat 06:00", "*-*-1,15 03:30", "Mon..Fri *:0/15", "*-2-29"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCalendar(s)
		if err != nil {
			return
		}
		again, err := ParseCalendar(c.String())
		if err != nil || again != c {
			t.Errorf("%q: %q is read as %v, %v", s, c, again, err)
		}
	})
}
