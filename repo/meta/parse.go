package meta

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// The limits of what Parse takes; see the package comment.
const (
	MaxEntry     = 16 << 20
	maxSymlink   = 1<<16 - 1
	maxOwner     = 4096
	maxXattrName = 255
)

// Why an entry is refused. Parse wraps them in a *FormatError.
var (
	ErrTruncated = errors.New("cut short")
	ErrLimit     = errors.New("larger than the limit")
	ErrRange     = errors.New("number out of range or not in its shortest form")
	ErrTrailing  = errors.New("bytes behind the last field")
	ErrDuplicate = errors.New("record of this kind was there before")
	ErrNoCommon  = errors.New("records, but no common record")
	ErrXattrName = errors.New("empty or over-long name of an extended attribute")
)

// FormatError says where an entry is not what the format wants.
type FormatError struct {
	Off int    // from the beginning of the entry
	Tag uint64 // of the record; 0 between records
	Err error
}

// Error says where and why.
func (e *FormatError) Error() string {
	if e.Tag == 0 {
		return fmt.Sprintf("metadata entry: %v at offset %d", e.Err, e.Off)
	}
	return fmt.Sprintf("metadata entry: record %d: %v at offset %d", e.Tag, e.Err, e.Off)
}

// Unwrap returns the reason.
func (e *FormatError) Unwrap() error { return e.Err }

// Parse takes one entry off the front of b. An entry of the single byte 0 gives
// a Meta with Mode 0. Nothing in the result points into b. An error is a
// *FormatError.
func Parse(b []byte) (m Meta, rest []byte, err error) {
	m.Size = -1
	var p parser
	rest, err = p.records(&m, b)
	if err == nil && p.seen != 0 && m.Mode == 0 {
		err = &FormatError{Off: len(b) - len(rest), Err: ErrNoCommon}
	}
	if err != nil {
		return Meta{Size: -1}, b, err
	}
	return m, rest, nil
}

// ParseExtras reads what AppendExtras wrote.
func ParseExtras(b []byte) (Extras, error) {
	var m Meta
	var p parser
	for left := b; len(left) > 0; {
		tag, payload, rest, err := cutRecord(left)
		if err == nil && tag != tagACLv2 && tag != tagAttr && tag != tagXattrs {
			err = ErrTrailing
		}
		if err == nil {
			err = p.record(&m, tag, payload)
		}
		if err != nil {
			return Extras{}, &FormatError{Off: len(b) - len(left), Tag: tag, Err: err}
		}
		left = rest
	}
	return m.Extras, nil
}

// kinds of records, of which an entry has at most one each.
const (
	seenPath = 1 << iota
	seenCommon
	seenSymlink
	seenHardlink
	seenACL
	seenAttr
	seenXattrs
)

type parser struct{ seen uint }

// records reads up to and including the end mark.
func (p *parser) records(m *Meta, b []byte) (rest []byte, err error) {
	left := b
	for {
		off := len(b) - len(left)
		if len(left) > 0 && left[0] == tagEnd {
			return left[1:], nil
		}
		tag, payload, next, err := cutRecord(left)
		if err == nil && len(b)-len(next) >= MaxEntry {
			err = ErrLimit
		}
		if err == nil {
			err = p.record(m, tag, payload)
		}
		if err != nil {
			return b, &FormatError{Off: off, Tag: tag, Err: err}
		}
		left = next
	}
}

// cutRecord takes one record off the front of b, which is no end mark.
func cutRecord(b []byte) (tag uint64, payload, rest []byte, err error) {
	f := fields{b: b}
	tag = f.vuint()
	payload = f.bvec(MaxEntry)
	return tag, payload, f.b, f.err
}

// record reads the payload of one record into m.
func (p *parser) record(m *Meta, tag uint64, payload []byte) error {
	var kind uint
	f := fields{b: payload}
	switch tag {
	case tagPath:
		kind, m.Path = seenPath, string(f.bvec(MaxEntry))
	case tagCommonV1, tagCommonV2, tagCommonV3:
		kind = seenCommon
		f.common(m, tag)
	case tagSymlink:
		kind, m.Symlink = seenSymlink, string(f.take(uint64(len(payload)), maxSymlink))
	case tagHardlink:
		kind, m.Hardlink = seenHardlink, string(f.take(uint64(len(payload)), MaxEntry))
	case tagACLv1, tagACLv2:
		kind, m.Extras.ACL = seenACL, f.acl(tag == tagACLv1)
	case tagAttr:
		kind, m.Extras.Attr = seenAttr, uint32(f.vuintUpTo(math.MaxUint32))
	case tagXattrs:
		kind, m.Extras.Xattrs = seenXattrs, f.xattrs()
	default:
		return nil
	}
	if f.err != nil {
		return f.err
	}
	if len(f.b) > 0 {
		return ErrTrailing
	}
	if p.seen&kind != 0 {
		return ErrDuplicate
	}
	p.seen |= kind
	return nil
}

// fields reads the fields of a payload off the front of b. After the first
// error it reads nothing more and gives zeros.
type fields struct {
	b   []byte
	err error
}

func (f *fields) fail(err error) {
	if f.err == nil {
		f.err = err
	}
	f.b = nil
}

func (f *fields) common(m *Meta, tag uint64) {
	if tag == tagCommonV1 {
		m.Mode = uint32(f.vuintUpTo(math.MaxUint32))
		m.UID = int64(f.vuintUpTo(math.MaxInt64))
		m.User = string(f.bvec(maxOwner))
		m.GID = int64(f.vuintUpTo(math.MaxInt64))
		m.Group = string(f.bvec(maxOwner))
		m.Rdev = f.vuint()
	} else {
		m.Mode = uint32(f.vintMagnitude(math.MaxUint32))
		m.UID = f.vint()
		m.User = string(f.bvec(maxOwner))
		m.GID = f.vint()
		m.Group = string(f.bvec(maxOwner))
		m.Rdev = f.vintMagnitude(math.MaxUint64)
	}
	m.Atime = f.time()
	m.Mtime = f.time()
	m.Ctime = f.time()
	if tag == tagCommonV3 {
		m.Size = f.vint()
	}
	if f.err == nil && (m.Mode == 0 || m.Size < -1) {
		f.fail(ErrRange)
	}
}

func (f *fields) acl(v1 bool) *ACL {
	a := &ACL{
		Access:     string(f.bvec(MaxEntry)),
		AccessNum:  string(f.bvec(MaxEntry)),
		Default:    string(f.bvec(MaxEntry)),
		DefaultNum: string(f.bvec(MaxEntry)),
	}
	if !v1 {
		return a
	}
	for _, text := range []*string{&a.Access, &a.AccessNum, &a.Default, &a.DefaultNum} {
		if strings.Contains(*text, ",") {
			return nil
		}
		*text = strings.ReplaceAll(strings.Trim(*text, "\n"), "\n", ",")
	}
	return a
}

func (f *fields) xattrs() []Xattr {
	count := f.vuint()
	if f.err != nil || count == 0 {
		return nil
	}
	const shortest = 3 // length and byte of a name, length of an empty value
	if count > uint64(len(f.b)/shortest) {
		f.fail(ErrTruncated)
		return nil
	}
	list := make([]Xattr, count)
	for i := range list {
		name := f.bvec(maxXattrName)
		if len(name) == 0 {
			f.fail(ErrXattrName)
		}
		list[i] = Xattr{Name: string(name), Value: string(f.bvec(MaxEntry))}
	}
	if f.err != nil {
		return nil
	}
	return list
}

func (f *fields) time() fsx.Time {
	sec := f.vint()
	return fsx.Time{Sec: sec, Nsec: int32(f.vuintUpTo(999_999_999))}
}

// bvec returns a slice of f.b.
func (f *fields) bvec(limit int) []byte { return f.take(f.vuint(), limit) }

func (f *fields) take(n uint64, limit int) []byte {
	switch {
	case f.err != nil:
		return nil
	case n > uint64(limit):
		f.fail(ErrLimit)
		return nil
	case n > uint64(len(f.b)):
		f.fail(ErrTruncated)
		return nil
	}
	s := f.b[:n]
	f.b = f.b[n:]
	return s
}

func (f *fields) vuintUpTo(limit uint64) uint64 {
	v := f.vuint()
	if v > limit {
		f.fail(ErrRange)
		return 0
	}
	return v
}

func (f *fields) vuint() uint64 { return f.groups(0, 0) }

// groups reads 7-bit groups into v from bit shift on.
func (f *fields) groups(v uint64, shift uint) uint64 {
	for i, b := range f.b {
		group := uint64(b & 0x7f)
		if shift >= 64 || int(shift)+bits.Len64(group) > 64 {
			f.fail(ErrRange)
			return 0
		}
		v |= group << shift
		shift += 7
		if b < 0x80 {
			if b == 0 && shift > 7 { // the number was complete before
				f.fail(ErrRange)
				return 0
			}
			f.b = f.b[i+1:]
			return v
		}
	}
	f.fail(ErrTruncated)
	return 0
}

// signed reads a vint.
func (f *fields) signed() (negative bool, v uint64) {
	if len(f.b) == 0 {
		f.fail(ErrTruncated)
		return false, 0
	}
	b := f.b[0]
	f.b = f.b[1:]
	negative, v = b&0x40 != 0, uint64(b&0x3f)
	if b&0x80 != 0 {
		v = f.groups(v, 6)
	}
	if negative && v == 0 {
		f.fail(ErrRange)
		return false, 0
	}
	return negative, v
}

func (f *fields) vint() int64 {
	negative, v := f.signed()
	switch {
	case negative && v <= 1<<63:
		return -int64(v)
	case !negative && v <= math.MaxInt64:
		return int64(v)
	}
	f.fail(ErrRange)
	return 0
}

// vintMagnitude reads a vint that must be neither negative nor above limit.
func (f *fields) vintMagnitude(limit uint64) uint64 {
	negative, v := f.signed()
	if negative || v > limit {
		f.fail(ErrRange)
		return 0
	}
	return v
}
