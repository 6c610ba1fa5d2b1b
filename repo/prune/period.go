package prune

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Period is a stretch of the calendar. The zero Period is none.
type Period struct {
	Years, Months, Days int
	Clock               time.Duration // hours, minutes and seconds
	Forever             bool
}

// maxCount bounds the numbers in a period: nobody keeps saves for ten thousand years.
const maxCount = 1_000_000

// ParsePeriod reads a period: numbers with units, without blanks, as in 2y6m or 36h; the
// units are s, min, h, d, w, m (months) and y. "forever" has no end.
func ParsePeriod(s string) (p Period, err error) {
	if s == "forever" {
		return Period{Forever: true}, nil
	}
	bad := fmt.Errorf("%q is no period: numbers with units s, min, h, d, w, m (months), y are, such as 30d or 1y6m, and forever", s)
	if s == "" {
		return p, bad
	}
	for rest := s; rest != ""; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.Atoi(rest[:digits])
		if err != nil || n > maxCount {
			return Period{}, bad
		}
		rest = rest[digits:]
		letters := strings.IndexAny(rest, "0123456789")
		if letters < 0 {
			letters = len(rest)
		}
		unit := rest[:letters]
		rest = rest[letters:]
		switch unit {
		case "s":
			p.Clock += time.Duration(n) * time.Second
		case "min":
			p.Clock += time.Duration(n) * time.Minute
		case "h":
			p.Clock += time.Duration(n) * time.Hour
		case "d":
			p.Days += n
		case "w":
			p.Days += 7 * n
		case "m":
			p.Months += n
		case "y":
			p.Years += n
		default:
			return Period{}, bad
		}
	}
	return p, nil
}

// IsZero reports whether there is no period.
func (p Period) IsZero() bool { return p == Period{} }

// Before returns when a period that ends at a time began.
func (p Period) Before(t time.Time) time.Time {
	if p.Forever {
		return time.Time{}
	}
	// The day of a month that has none is its last, not one of the next month: a month before
	// the 31st of March is the 28th of February, and a period is never shorter than it says.
	first := time.Date(t.Year()-p.Years, t.Month()-time.Month(p.Months), 1, 12, 0, 0, 0, t.Location())
	last := first.AddDate(0, 1, -1).Day()
	h, m, s := t.Clock()
	at := time.Date(first.Year(), first.Month(), min(t.Day(), last)-p.Days, h, m, s, t.Nanosecond(), t.Location())
	return at.Add(-p.Clock)
}

// String returns the period as ParsePeriod reads it.
func (p Period) String() string {
	if p.Forever {
		return "forever"
	}
	var b strings.Builder
	for _, u := range []struct {
		n    int
		unit string
	}{{p.Years, "y"}, {p.Months, "m"}, {p.Days, "d"}, {int(p.Clock / time.Hour), "h"},
		{int(p.Clock / time.Minute % 60), "min"}, {int(p.Clock / time.Second % 60), "s"}} {
		if u.n > 0 {
			fmt.Fprintf(&b, "%d%s", u.n, u.unit)
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}
