package main

import (
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "517": 517, "10k": 10 << 10, "10K": 10 << 10, "10kb": 10 << 10, "1.5M": 3 << 19,
		"2GB": 2 << 30, "5T": 5 << 40, "1P": 1 << 50, "10b": 10, "9223372036854775807": 1<<63 - 1,
		".5k": 512,
	} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "k", "b", "-1", "+1", "1kk", "1 k", "1e3", "0x10", "inf", "NaN", "1.2.3",
		"9223372036854775808", "8192P", "9999999999999999999999", "1KiB", "10kbb", "."} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("%q is %d", in, got)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{formatSize(0), "0 B"}, {formatSize(1023), "1023 B"}, {formatSize(1024), "1.0 KiB"},
		{formatSize(1536), "1.5 KiB"}, {formatSize(1<<20 - 1), "1.0 MiB"}, {formatSize(1<<63 - 1), "8.0 EiB"},
		{shortSize(999), "999"}, {shortSize(3 << 19), "1.5M"},
		{formatCount(0), "0"}, {formatCount(999), "999"}, {formatCount(1000), "1,000"}, {formatCount(1234567), "1,234,567"},
		{formatCount(-1234), "-1,234"}, {formatCount(-123), "-123"},
		{plural(1, "file"), "1 file"}, {plural(0, "file"), "0 files"}, {plural(2000, "file"), "2,000 files"},
		{pluralOf(2, "directory", "directories"), "2 directories"},
		{formatSeconds(1234 * time.Millisecond), "1.23 s"}, {formatSeconds(12340 * time.Millisecond), "12.3 s"},
		{formatSeconds(3725 * time.Second), "1h2m5s"},
	} {
		if tt.got != tt.want {
			t.Errorf("%q, want %q", tt.got, tt.want)
		}
	}
}

func TestDate(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "1700000000": 1700000000, "1700000000.9": 1700000000, "-5": -5} {
		var d dateValue
		if err := d.Set(in); err != nil || d.t.Unix() != want || d.t.IsZero() {
			t.Errorf("%q: %v, %v", in, d.t, err)
		}
	}
	for _, in := range []string{"", "now", "1e9", "inf", "99999999999999999999", "0x1", "2020-01-01"} {
		var d dateValue
		if err := d.Set(in); err == nil {
			t.Errorf("%q is %v", in, d.t)
		}
	}
}
