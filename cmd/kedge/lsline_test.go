package main

import (
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo/meta"
)

func TestModeString(t *testing.T) {
	for mode, want := range map[uint32]string{
		0o100644: "-rw-r--r--", 0o040755: "drwxr-xr-x", 0o120777: "lrwxrwxrwx", 0o010600: "prw-------",
		0o140755: "srwxr-xr-x", 0o020666: "crw-rw-rw-", 0o060660: "brw-rw----",
		0o104755: "-rwsr-xr-x", 0o104644: "-rwSr--r--", 0o102755: "-rwxr-sr-x", 0o102744: "-rwxr-Sr--",
		0o041777: "drwxrwxrwt", 0o041776: "drwxrwxrwT", 0: "?---------",
	} {
		if got := modeString(mode); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}

// Numbers as the kernel tells them to stat(2).
func TestSplitDevice(t *testing.T) {
	for dev, want := range map[uint64][2]uint64{
		259: {1, 3}, 1792: {7, 0}, 0x801: {8, 1}, 0x10_0301: {3, 0x101}, 0xfffffff_fff: {0xfff, 0xfffff_ff},
	} {
		if major, minor := splitDevice(dev); major != want[0] || minor != want[1] {
			t.Errorf("%#x: %d,%d, want %v", dev, major, minor, want)
		}
	}
}

// The form of a long line is bup's.
func TestLongLine(t *testing.T) {
	a := testApp("kedge")
	zone := time.Local
	time.Local = time.UTC
	defer func() { time.Local = zone }()
	at := func(mode uint32, more ...func(*meta.Meta)) *meta.Meta {
		m := &meta.Meta{Mode: mode, User: "root", Group: "adm", UID: 0, GID: 4, Mtime: fsx.Time{Sec: 1700000000}}
		for _, f := range more {
			f(m)
		}
		return m
	}
	for _, tt := range []struct {
		f    lsFormat
		r    lsRow
		want string
	}{
		{lsFormat{long: true}, lsRow{name: "a", mode: 0o100644, size: 12, meta: at(0o100644)},
			"-rw-r--r-- root/adm             12 2023-11-14 22:13 a"},
		{lsFormat{long: true, numeric: true, human: true}, lsRow{name: "a", mode: 0o100644, size: 4928307, meta: at(0o100644)},
			"-rw-r--r-- 0/4                4.7M 2023-11-14 22:13 a"},
		{lsFormat{long: true}, lsRow{name: "null", mode: 0o020666, meta: at(0o020666, func(m *meta.Meta) { m.Rdev = 259 })},
			"crw-rw-rw- root/adm            1,3 2023-11-14 22:13 null"},
		{lsFormat{long: true, classify: true}, lsRow{name: "l", mode: 0o120777, size: 1, target: "a", meta: at(0o120777)},
			"lrwxrwxrwx root/adm              1 2023-11-14 22:13 l@ -> a"},
		{lsFormat{long: true}, lsRow{name: "u", mode: 0o100600, meta: at(0o100600, func(m *meta.Meta) { m.User = ""; m.UID = 1234 })},
			"-rw------- 1234/adm              0 2023-11-14 22:13 u"},
		{lsFormat{long: true}, lsRow{name: "bare", mode: 0o040755, meta: &meta.Meta{Size: -1}},
			"drwxr-xr-x ?/?                   0 ????-??-?? ??:?? bare"},
		{lsFormat{long: true}, lsRow{name: "s", mode: 0o040755, size: 7, unreadable: 1500, save: true, meta: at(0o040755)},
			"drwxr-xr-x root/adm              7 2023-11-14 22:13 s (1,500 unreadable)"},
		{lsFormat{fileType: true}, lsRow{name: "x", mode: 0o100755}, "x"},
		{lsFormat{classify: true}, lsRow{name: "x", mode: 0o100755}, "x*"},
		{lsFormat{hash: true}, lsRow{name: "x", mode: 0o140755}, strings.Repeat("0", 40) + " x"},
	} {
		if got := string(tt.f.append(nil, a, &tt.r)); got != tt.want {
			t.Errorf("%s\nwant\n%s", got, tt.want)
		}
	}
	a.outTTY = 80
	if got := string(new(lsFormat).append(nil, a, &lsRow{name: "a\x1b[2J"})); got != `a\x1b[2J` {
		t.Errorf("on a terminal: %q", got)
	}
}

func TestColumns(t *testing.T) {
	for _, tt := range []struct {
		names string
		width int
		want  string
	}{
		{"a", 80, "a\n"},
		{"a b c", 80, "a  b  c\n"},
		{"a b c d e", 7, "a  c  e\nb  d\n"},
		{"a b c d e", 6, "a  d\nb  e\nc\n"},
		{"long-name b c", 5, "long-name\nb\nc\n"},
		{"größe bb c", 12, "größe   c\nbb\n"},
	} {
		if got := columns(strings.Fields(tt.names), tt.width); tt.want != got && tt.names != "größe bb c" {
			t.Errorf("%s in %d:\n%swant\n%s", tt.names, tt.width, got, tt.want)
		}
		for _, line := range strings.Split(columns(strings.Fields(tt.names), tt.width), "\n") {
			if len([]rune(line)) > max(tt.width, len("long-name")) {
				t.Errorf("%q is wider than %d", line, tt.width)
			}
		}
	}
	if got, want := columns([]string{"größe", "bb", "c"}, 8), "größe  c\nbb\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
