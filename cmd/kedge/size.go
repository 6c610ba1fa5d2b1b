package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// sizeValue is an option that takes a number of bytes: "10k", "1.5M", "2GB".
// Letters count in steps of 1024, as in bup; a bare number is bytes.
type sizeValue int64

func (v *sizeValue) Set(s string) error {
	n, err := parseSize(s)
	if err == nil {
		*v = sizeValue(n)
	}
	return err
}

func (v *sizeValue) Type() string { return "SIZE" }

func (v *sizeValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*v), 10)
}

// parseSize reads a number with a unit. Anything else, a negative number and
// one beyond 2⁶³-1 are errors.
func parseSize(s string) (int64, error) {
	bad := fmt.Errorf("%s is no size; write a number and k, M, G, T or P", quote(s))
	num := strings.TrimRight(s, "bB")
	if len(s)-len(num) > 1 {
		return 0, bad
	}
	shift := 0
	if n := len(num); n > 0 {
		if i := strings.IndexByte("kmgtp", num[n-1]|0x20); i >= 0 {
			shift = 10 * (i + 1)
			num = num[:n-1]
		}
	}
	if num == "" || strings.Trim(num, "0123456789.") != "" {
		return 0, bad
	}
	if n, err := strconv.ParseInt(num, 10, 64); err == nil && n <= math.MaxInt64>>shift {
		return n << shift, nil
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil {
		return 0, bad
	}
	if f = math.Ldexp(f, shift); f >= math.MaxInt64 {
		return 0, fmt.Errorf("%s is more than 2^63 bytes", quote(s))
	}
	return int64(f), nil
}

// formatSize writes a number of bytes for people: "517 B", "1.5 MiB".
func formatSize(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, unit := float64(n)/1024, 0
	for f >= 1023.95 && unit < 5 {
		f, unit = f/1024, unit+1
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + "KMGTPE"[unit:unit+1] + "iB"
}

// shortSize is the form that ls --human-readable prints: "517", "1.5M".
func shortSize(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1023.95 && unit < 5 {
		f, unit = f/1024, unit+1
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + "KMGTPE"[unit:unit+1]
}

// formatCount writes a count with a comma in front of each three digits.
func formatCount(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural writes "1 file" or "7 files".
func plural(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return formatCount(n) + " " + one + "s"
}

// pluralOf does the same for words whose plural does not just add an s.
func pluralOf(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return formatCount(n) + " " + many
}

// formatSeconds writes a duration for people.
func formatSeconds(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 2, 64) + " s"
	case d < 2*time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	}
	return d.Round(time.Second).String()
}

// dateValue is -d/--date: seconds since the epoch, as in bup, with a fraction
// allowed and cut off.
type dateValue struct{ t time.Time }

func (v *dateValue) Set(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || strings.Trim(s, "0123456789.-") != "" || math.Abs(f) > 1<<53 {
		return fmt.Errorf("%s is no date; write seconds since 1970-01-01 UTC", quote(s))
	}
	v.t = time.Unix(int64(f), 0)
	return nil
}

func (v *dateValue) Type() string { return "SECONDS" }

func (v *dateValue) String() string {
	if v.t.IsZero() {
		return ""
	}
	return strconv.FormatInt(v.t.Unix(), 10)
}
