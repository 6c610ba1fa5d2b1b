package restore

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// An archive is written in the pax format of POSIX: entries of one header of 512
// bytes and the content, both filled up with zero bytes to a multiple of 512, and
// two blocks of zeros at the end. What the header has no room for stands in
// records, which are the content of an entry of type x in front:
//
//	offset  size  field                   offset  size  field
//	     0   100  name                       257     6  "ustar\0"
//	   100     8  mode, octal digits         263     2  "00"
//	   108     8  uid                        265    32  name of the user
//	   116     8  gid                        297    32  name of the group
//	   124    12  size                       329     8  major number
//	   136    12  mtime                      337     8  minor number
//	   148     8  checksum                   345   155  front of the name
//	   156     1  type                       500    12  zero bytes
//	   157   100  target of a link
//
// A record is "LENGTH KEY=VALUE\n"; LENGTH counts its own digits too:
//
//	30 mtime=1700000000.123456789\n
//
// The checksum is the sum of the bytes of the header, its own field taken for
// blanks.
//
// The archive/tar of the standard library is not used, as it writes no sparse
// files, and tells by no type of error that it cannot write something.

const tarBlock = 512

var zeroTar [2 * tarBlock]byte

// The types of entries.
const (
	tarFile    = '0'
	tarLink    = '1'
	tarSymlink = '2'
	tarChar    = '3'
	tarBlk     = '4'
	tarDir     = '5'
	tarFIFO    = '6'
	tarRecords = 'x'
)

// The largest numbers that fields of 8 and of 12 bytes hold.
const (
	max8  = 1<<21 - 1
	max12 = 1<<33 - 1
)

// tarHeader is what stands in front of an entry.
type tarHeader struct {
	kind         byte // 0: not known yet
	name, link   string
	mode         uint32
	uid, gid     int64
	user, group  string
	size         int64 // of what follows
	mtime, atime fsx.Time
	timed        bool // the times are known
	major, minor int64
	records      []tarRecord // beside those that follow from the fields
}

type tarRecord struct{ key, value string }

func (h *tarHeader) add(key, value string) { h.records = append(h.records, tarRecord{key, value}) }

// check says why the header cannot be written.
func (h *tarHeader) check() error {
	for _, s := range []string{h.name, h.link, h.user, h.group} {
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("an archive cannot hold the name %q", s)
		}
	}
	if h.major > max8 || h.minor > max8 {
		return fmt.Errorf("an archive cannot hold device %d,%d", h.major, h.minor)
	}
	if h.name == "" {
		return errors.New("an archive cannot hold an entry without a name")
	}
	return nil
}

// append appends the header, with an entry of records in front if it needs any.
func (h *tarHeader) append(dst []byte) []byte {
	var recs []byte
	text := func(key, s string, room int) {
		if len(s) > room || !isASCII(s) && utf8.ValidString(s) {
			recs = appendRecord(recs, key, s)
		}
	}
	number := func(key string, n, most int64) {
		if n < 0 || n > most {
			recs = appendRecord(recs, key, strconv.FormatInt(n, 10))
		}
	}
	text("path", h.name, 100)
	text("linkpath", h.link, 100)
	text("uname", h.user, 32)
	text("gname", h.group, 32)
	number("uid", h.uid, max8)
	number("gid", h.gid, max8)
	number("size", h.size, max12)
	if h.timed {
		recs = appendRecord(recs, "mtime", tarTime(h.mtime))
		recs = appendRecord(recs, "atime", tarTime(h.atime))
	}
	for _, r := range h.records {
		recs = appendRecord(recs, r.key, r.value)
	}
	if len(recs) > 0 {
		front := tarHeader{kind: tarRecords, name: beside(h.name, "PaxHeaders.0"), mode: 0o644, size: int64(len(recs))}
		dst = front.block(dst)
		dst = append(dst, recs...)
		dst = append(dst, zeroTar[:tarPadding(int64(len(recs)))]...)
	}
	return h.block(dst)
}

// beside returns the name of something that belongs to name, for those who do
// not know what it is.
func beside(name, dir string) string { return path.Join(path.Dir(name), dir, path.Base(name)) }

// block appends the header itself.
func (h *tarHeader) block(dst []byte) []byte {
	dst = append(dst, zeroTar[:tarBlock]...)
	b := dst[len(dst)-tarBlock:]
	plain(b[0:100], h.name)
	octal(b[100:108], int64(h.mode&0o7777))
	octal(b[108:116], h.uid)
	octal(b[116:124], h.gid)
	octal(b[124:136], h.size)
	octal(b[136:148], h.mtime.Sec)
	copy(b[148:156], "        ")
	b[156] = h.kind
	plain(b[157:257], h.link)
	copy(b[257:], "ustar\x0000")
	plain(b[265:297], h.user)
	plain(b[297:329], h.group)
	octal(b[329:337], h.major)
	octal(b[337:345], h.minor)
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	octal(b[148:155], sum)
	return dst
}

// plain fills a field with as much of a text as there is room for. What does not
// fit, and what is UTF-8 and not ASCII, has a record, which counts. Records hold
// UTF-8 and nothing else: bytes that are none stand here, as in archives of old.
func plain(field []byte, s string) { copy(field, s) }

// octal fills a field with the digits of n and a zero byte; with zero if there
// is no room, as it has a record then.
func octal(field []byte, n int64) {
	last := len(field) - 1
	field[last] = 0
	if n < 0 || n >= 1<<(3*last) {
		n = 0
	}
	for i := last - 1; i >= 0; i-- {
		field[i] = '0' + byte(n&7)
		n >>= 3
	}
}

// appendRecord appends "LENGTH KEY=VALUE\n".
func appendRecord(dst []byte, key, value string) []byte {
	rest := len(key) + len(value) + 3 // the blank, the = and the newline
	n := rest + len(strconv.Itoa(rest))
	if len(strconv.Itoa(n))+rest > n { // the digits of the length make it longer by one
		n++
	}
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(append(append(dst, ' '), key...), '=')
	return append(append(dst, value...), '\n')
}

// tarTime writes a time in seconds, with a fraction if there is one.
func tarTime(t fsx.Time) string {
	sec, nsec, sign := t.Sec, int64(t.Nsec), ""
	if sec < 0 && nsec > 0 { // the fraction counts from zero, not upwards
		sec, nsec = sec+1, 1e9-nsec
		if sec == 0 {
			sign = "-"
		}
	}
	if nsec == 0 {
		return strconv.FormatInt(sec, 10)
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, sec, nsec), "0")
}

// tarPadding is how many zero bytes fill n bytes up to whole blocks.
func tarPadding(n int64) int64 { return -n & (tarBlock - 1) }

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
