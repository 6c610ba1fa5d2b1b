package meta

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// example is the worked example of the package comment, as bup wrote it.
const example = `
	0a 2d a48604 00 04 726f6f74 00 04 726f6f74 00
	80c49fd50c 959aef3a 80c49fd50c 959aef3a a48287b00d d48df2e302 06
	06 03 808020
	07 17 02 07 757365722e6b31 02 7631 07 757365722e6b32 02 00ff
	00`

func exampleMeta() Meta {
	saved := fsx.Time{Sec: 1700000000, Nsec: 123456789}
	return Meta{
		Mode: 0o100644, User: "root", Group: "root", Size: 6,
		Atime: saved, Mtime: saved, Ctime: fsx.Time{Sec: 1795219620, Nsec: 746358484},
		Extras: Extras{
			Attr:   0x80000,
			Xattrs: []Xattr{{"user.k1", "v1"}, {"user.k2", "\x00\xff"}},
		},
	}
}

func TestExample(t *testing.T) {
	want := unhex(t, example)
	m := exampleMeta()
	if got := m.Append(nil); !bytes.Equal(got, want) {
		t.Errorf("Append gives\n%x, want\n%x", got, want)
	}
	extras := m.Extras.AppendExtras(nil)
	if got := m.AppendWith([]byte("x"), extras); !bytes.Equal(got[1:], want) || got[0] != 'x' {
		t.Errorf("AppendWith gives\n%x, want\n%x", got[1:], want)
	}
	got, rest, err := Parse(append(want, "next"...))
	if err != nil || string(rest) != "next" {
		t.Fatalf("Parse: rest %q, error %v", rest, err)
	}
	if !equal(got, m) {
		t.Errorf("Parse gives\n%+v, want\n%+v", got, m)
	}
}

// equal compares two entries, following the pointer.
func equal(a, b Meta) bool {
	if (a.Extras.ACL == nil) != (b.Extras.ACL == nil) ||
		a.Extras.ACL != nil && *a.Extras.ACL != *b.Extras.ACL ||
		len(a.Extras.Xattrs) != len(b.Extras.Xattrs) {
		return false
	}
	for i := range a.Extras.Xattrs {
		if a.Extras.Xattrs[i] != b.Extras.Xattrs[i] {
			return false
		}
	}
	if a.Extras.Attr != b.Extras.Attr {
		return false
	}
	plain := func(m Meta) Meta { m.Extras = Extras{}; return m }
	x, y := plain(a), plain(b)
	return x.Path == y.Path && x.Mode == y.Mode && x.UID == y.UID && x.GID == y.GID &&
		x.User == y.User && x.Group == y.Group && x.Rdev == y.Rdev && x.Atime == y.Atime &&
		x.Mtime == y.Mtime && x.Ctime == y.Ctime && x.Size == y.Size &&
		x.Symlink == y.Symlink && x.Hardlink == y.Hardlink
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		v    int64
		want string
	}{
		{0, "00"}, {-1, "41"}, {63, "3f"}, {-63, "7f"}, {64, "8001"}, {-64, "c001"}, {0o100644, "a48604"},
		{0o010644, "a446"}, {math.MaxInt64, "bfffffffffffffffff01"}, {math.MinInt64, "c08080808080808080" + "02"},
	} {
		enc := appendVint(nil, c.v)
		if hex.EncodeToString(enc) != c.want {
			t.Errorf("vint %d is %x, want %s", c.v, enc, c.want)
		}
		f := fields{b: enc}
		if got := f.vint(); got != c.v || f.err != nil || len(f.b) != 0 {
			t.Errorf("vint %x reads as %d, %v", enc, got, f.err)
		}
	}
	for _, c := range []struct {
		v    uint64
		want string
	}{{0, "00"}, {127, "7f"}, {128, "8001"}, {300, "ac02"}, {math.MaxUint64, "ffffffffffffffffff01"}} {
		enc := appendVuint(nil, c.v)
		if hex.EncodeToString(enc) != c.want {
			t.Errorf("vuint %d is %x, want %s", c.v, enc, c.want)
		}
		f := fields{b: enc}
		if got := f.vuint(); got != c.v || f.err != nil || len(f.b) != 0 {
			t.Errorf("vuint %x reads as %d, %v", enc, got, f.err)
		}
	}
	for _, bad := range []string{"8000", "ff", "ffffffffffffffffff02", "80808080808080808080808080808001"} {
		f := fields{b: unhex(t, bad)}
		if f.vuint(); f.err == nil {
			t.Errorf("vuint %s was taken", bad)
		}
	}
	for _, bad := range []string{"", "40", "8000", "c000", "80", "c18080808080808080" + "02", "80808080808080808002"} {
		f := fields{b: unhex(t, bad)}
		if f.vint(); f.err == nil {
			t.Errorf("vint %s was taken", bad)
		}
	}
}

// TestOtherTypes has entries of directories and special files, as bup wrote them.
func TestOtherTypes(t *testing.T) {
	const owner, times = "00 04726f6f74 00 04726f6f74 ", "acb78bb00d 8b84c4ba03 acb78bb00d 8b84c4ba03 acb78bb00d 8b84c4ba03 "
	for _, c := range []struct {
		name, hex string
		check     func(m Meta) bool
	}{
		{"directory", "0a2f ad8702" + owner + "00" + times + "41 0603808020 00", func(m Meta) bool {
			return m.Type() == TypeDir && m.Size == -1 && m.Extras.Attr == 0x80000
		}},
		{"block", "0a30 a48603" + owner + "801c" + times + "41 00", func(m Meta) bool {
			return m.Type() == TypeBlock && m.Rdev == 7<<8
		}},
		{"char", "0a30 a48601" + owner + "8304" + times + "41 00", func(m Meta) bool {
			return m.Type() == TypeChar && m.Rdev == 1<<8|3
		}},
		{"fifo", "0a2e a446" + owner + "00" + times + "41 00", func(m Meta) bool { return m.Type() == TypeFIFO }},
		{"socket", "0a2f ad8706" + owner + "00" + times + "41 00", func(m Meta) bool { return m.Type() == TypeSocket }},
		{"symlink", "0a2f bf8705" + owner + "00" + times + "05 0305612e747874 00", func(m Meta) bool {
			return m.Type() == TypeSymlink && m.Symlink == "a.txt" && m.Size == 5
		}},
		{"hard link", "0a2f a48604" + owner + "00" + times + "06 080d2f7372762f772f7372632f6832 00", func(m Meta) bool {
			return m.Type() == TypeFile && m.Hardlink == "/srv/w/src/h2"
		}},
		{"old times", "0a26 bc8604" + owner + "00 4280cab5ee01 41ff93ebdc03 adb78bb00df292c80e 02 00", func(m Meta) bool {
			return m.Atime == fsx.Time{Sec: -2, Nsec: 500000000} && m.Mtime == fsx.Time{Sec: -1, Nsec: 999999999}
		}},
	} {
		enc := unhex(t, c.hex)
		m, rest, err := Parse(enc)
		if err != nil || len(rest) != 0 || !c.check(m) {
			t.Errorf("%s: %+v, rest %x, error %v", c.name, m, rest, err)
			continue
		}
		if got := m.Append(nil); !bytes.Equal(got, enc) {
			t.Errorf("%s: comes back as\n%x, was\n%x", c.name, got, enc)
		}
	}
}

func TestEmptyEntry(t *testing.T) {
	m, rest, err := Parse([]byte{0, 7})
	if err != nil || m.Mode != 0 || len(rest) != 1 {
		t.Errorf("%+v, rest %x, error %v", m, rest, err)
	}
	if got := m.Append(nil); !bytes.Equal(got, []byte{0}) {
		t.Errorf("an empty entry is written as %x", got)
	}
	if got := m.AppendWith(nil, []byte{6, 1, 1}); !bytes.Equal(got, []byte{0}) {
		t.Errorf("an empty entry with extras is written as %x", got)
	}
}

// commonV3 is a common record of root's regular file.
const commonV3 = "0a 17 a48604 00 04 726f6f74 00 04 726f6f74 00 00 00 00 00 00 00 06 "

func TestOldRecords(t *testing.T) {
	for _, c := range []struct {
		name, hex string
		want      Meta
	}{
		{"v1", "02 15 a48302 8f4e 00 e807 0473746166 8302 05 06 07 08 09 0a 00",
			Meta{Mode: 0o100644, UID: 9999, GID: 1000, Group: "staf", Rdev: 259, Size: -1,
				Atime: fsx.Time{Sec: 5, Nsec: 6}, Mtime: fsx.Time{Sec: 7, Nsec: 8}, Ctime: fsx.Time{Sec: 9, Nsec: 10}}},
		{"v2", "09 16 a48604 00 04726f6f74 00 04726f6f74 00 41 02 00 00 00 00 00",
			Meta{Mode: 0o100644, User: "root", Group: "root", Size: -1, Atime: fsx.Time{Sec: -1, Nsec: 2}}},
		{"ACL v1", commonV3 + "04 18 0a 753a3a72772d 0a 6f3a3a" + "0a 753a3a72772d 0a 6f3a3a 00 00" + "00",
			Meta{Mode: 0o100644, User: "root", Group: "root", Size: 6,
				Extras: Extras{ACL: &ACL{Access: "u::rw-,o::", AccessNum: "u::rw-,o::"}}}},
		{"ACL v1 with commas", commonV3 + "04 0a 03 612c62 03 612c62 00 00" + "00",
			Meta{Mode: 0o100644, User: "root", Group: "root", Size: 6}},
		{"unknown tags", "05 02 ffff" + commonV3 + "9001 03 616263" + "0c00" + "00",
			Meta{Mode: 0o100644, User: "root", Group: "root", Size: 6}},
		{"path", "01 04 03 2f612f" + commonV3 + "00",
			Meta{Path: "/a/", Mode: 0o100644, User: "root", Group: "root", Size: 6}},
	} {
		m, rest, err := Parse(unhex(t, c.hex))
		if err != nil || len(rest) != 0 || !equal(m, c.want) {
			t.Errorf("%s: %+v\nwant %+v\nrest %x, error %v", c.name, m, c.want, rest, err)
		}
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("61", 5000)
	for _, c := range []struct {
		name, hex string
		want      error
	}{
		{"nothing", "", ErrTruncated},
		{"no end", commonV3, ErrTruncated},
		{"tag cut short", commonV3 + "80", ErrTruncated},
		{"payload cut short", "0a 19 a48604 00", ErrTruncated},
		{"field cut short", "0a 02 a486 00", ErrTruncated},
		{"string past the payload", "0a 05 a48604 00 09 00", ErrTruncated},
		{"trailing byte", "06 02 01 01" + commonV3 + "00", ErrTrailing},
		{"record twice", "06 01 01" + commonV3 + "06 01 01 00", ErrDuplicate},
		{"two versions", commonV3 + "09 16 a48604 00 04726f6f74 00 04726f6f74 00 41 02 00 00 00 00 00", ErrDuplicate},
		{"no common", "06 01 01 00", ErrNoCommon},
		{"path only", "01 04 03 2f612f 00", ErrNoCommon},
		{"negative mode", "0a 17 e48604 00 04 726f6f74 00 04 726f6f74 00 00 00 00 00 00 00 06 00", ErrRange},
		{"mode 0", "0a 15 00 00 04 726f6f74 00 04 726f6f74 00 00 00 00 00 00 00 06 00", ErrRange},
		{"size -2", "0a 17 a48604 00 04 726f6f74 00 04 726f6f74 00 00 00 00 00 00 00 42 00", ErrRange},
		{"10^9 nanoseconds", "0a 1b a48604 00 04 726f6f74 00 04 726f6f74 00 00 8094ebdc03 00 00 00 00 06 00", ErrRange},
		{"number too long", "0a 18 a4868400 00 04 726f6f74 00 04 726f6f74 00 00 00 00 00 00 00 06 00", ErrRange},
		{"attributes of 33 bits", commonV3 + "06 05 8080808010 00", ErrRange},
		{"user of 5000 bytes", "0a 9827 a48604 00 8827" + long + "00 00 00 00 00 00 00 00 00 06 00", ErrLimit},
		{"claims 16 GiB", "0a 8080808040", ErrLimit},
		{"10^9 xattrs", commonV3 + "07 05 8094ebdc03 00", ErrTruncated},
		{"xattr without name", commonV3 + "07 04 01 00 01 61 00", ErrXattrName},
		{"ACL of three lists", commonV3 + "0b 03 00 00 00 00", ErrTruncated},
	} {
		b := unhex(t, c.hex)
		_, rest, err := Parse(b)
		var fe *FormatError
		if !errors.Is(err, c.want) || !errors.As(err, &fe) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
		if len(rest) != len(b) {
			t.Errorf("%s: something was taken", c.name)
		}
	}
	big := append(unhex(t, commonV3), appendVuint([]byte{20}, MaxEntry-8)...)
	big = append(append(big, make([]byte, MaxEntry-8)...), 0)
	if _, _, err := Parse(big); !errors.Is(err, ErrLimit) {
		t.Errorf("an entry of more than 16 MiB: %v", err)
	}
}

// TestEveryCut parses every beginning of an entry: none may be taken, none may panic.
func TestEveryCut(t *testing.T) {
	b := unhex(t, example)
	for n := range b {
		if m, _, err := Parse(b[:n]); err == nil {
			t.Errorf("the first %d of %d bytes gave %+v", n, len(b), m)
		}
	}
}

func TestParseExtras(t *testing.T) {
	m := exampleMeta()
	m.Extras.ACL = &ACL{"a", "b", "c", "d"}
	got, err := ParseExtras(m.Extras.AppendExtras(nil))
	if err != nil || !equal(Meta{Extras: got}, Meta{Extras: m.Extras}) {
		t.Errorf("%+v, error %v", got, err)
	}
	if x, err := ParseExtras(nil); err != nil || !equal(Meta{Extras: x}, Meta{}) {
		t.Errorf("of nothing: %+v, error %v", x, err)
	}
	for _, bad := range []string{"0301 61", "06", "0601", "00", "060101060101"} {
		if x, err := ParseExtras(unhex(t, bad)); err == nil {
			t.Errorf("%s was taken: %+v", bad, x)
		}
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	m := exampleMeta()
	m.Extras.ACL = &ACL{"u::rw-", "u::rw-", "", ""}
	extras := m.Extras.AppendExtras(nil)
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = m.Append(buf[:0]) }); n != 0 {
		t.Errorf("Append allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { buf = m.AppendWith(buf[:0], extras) }); n != 0 {
		t.Errorf("AppendWith allocates %v times", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(unhex(f, example))
	f.Add([]byte{0})
	f.Add(unhex(f, "02 15 a48302 8f4e 00 e807 0473746166 8302 05 06 07 08 09 0a 00"))
	f.Add(unhex(f, commonV3+"0b 0e 05 753a3a722d 05 753a3a722d 00 00 03 0161 08 02 2f61 00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, rest, err := Parse(b)
		if err != nil {
			if len(rest) != len(b) {
				t.Fatal("an error, and yet something was taken")
			}
			return
		}
		enc := m.Append(nil)
		again, left, err := Parse(enc)
		if err != nil || len(left) != 0 || !equal(again, m) {
			t.Fatalf("%+v\nwas written as %x\nand read as %+v, error %v", m, enc, again, err)
		}
		if got := again.Append(nil); !bytes.Equal(got, enc) {
			t.Fatalf("%x\nbecame %x", enc, got)
		}
	})
}

func BenchmarkAppendWith(b *testing.B) {
	m := exampleMeta()
	extras := m.Extras.AppendExtras(nil)
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = m.AppendWith(buf[:0], extras)
	}
}

func BenchmarkParse(b *testing.B) {
	enc := unhex(b, example)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Parse(enc); err != nil {
			b.Fatal(err)
		}
	}
}
