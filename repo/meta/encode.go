package meta

import "github.com/kedgebackup/kedge/internal/fsx"

// The tags of records, as the package comment has them.
const (
	tagEnd      = 0
	tagPath     = 1
	tagCommonV1 = 2
	tagSymlink  = 3
	tagACLv1    = 4
	tagAttr     = 6
	tagXattrs   = 7
	tagHardlink = 8
	tagCommonV2 = 9
	tagCommonV3 = 10
	tagACLv2    = 11
)

// Append appends the encoded entry, its end mark included.
func (m *Meta) Append(dst []byte) []byte {
	if m.Mode == 0 {
		return append(dst, tagEnd)
	}
	dst = m.Extras.AppendExtras(m.appendOwn(dst))
	return append(dst, tagEnd)
}

// AppendWith does the same with extras that are already encoded (AppendExtras);
// those in m are passed over.
func (m *Meta) AppendWith(dst, extras []byte) []byte {
	if m.Mode == 0 {
		return append(dst, tagEnd)
	}
	dst = append(m.appendOwn(dst), extras...)
	return append(dst, tagEnd)
}

// appendOwn appends every record that stands before the extras.
func (m *Meta) appendOwn(dst []byte) []byte {
	if m.Path != "" {
		dst = append(dst, tagPath)
		start := len(dst)
		dst = closeRecord(appendBvec(dst, m.Path), start)
	}
	dst = append(dst, tagCommonV3)
	start := len(dst)
	dst = appendVint(dst, int64(m.Mode))
	dst = appendVint(dst, m.UID)
	dst = appendBvec(dst, m.User)
	dst = appendVint(dst, m.GID)
	dst = appendBvec(dst, m.Group)
	dst = appendVintMagnitude(dst, false, m.Rdev)
	dst = appendTime(dst, m.Atime)
	dst = appendTime(dst, m.Mtime)
	dst = appendTime(dst, m.Ctime)
	dst = appendVint(dst, m.Size)
	dst = closeRecord(dst, start)
	if m.Symlink != "" {
		dst = append(dst, tagSymlink)
		dst = appendBvec(dst, m.Symlink)
	}
	if m.Hardlink != "" {
		dst = append(dst, tagHardlink)
		dst = appendBvec(dst, m.Hardlink)
	}
	return dst
}

// AppendExtras appends the encoded records of the extras.
func (x *Extras) AppendExtras(dst []byte) []byte {
	if x.ACL != nil {
		dst = append(dst, tagACLv2)
		start := len(dst)
		dst = appendBvec(dst, x.ACL.Access)
		dst = appendBvec(dst, x.ACL.AccessNum)
		dst = appendBvec(dst, x.ACL.Default)
		dst = appendBvec(dst, x.ACL.DefaultNum)
		dst = closeRecord(dst, start)
	}
	if x.Attr != 0 {
		dst = append(dst, tagAttr)
		start := len(dst)
		dst = closeRecord(appendVuint(dst, uint64(x.Attr)), start)
	}
	if len(x.Xattrs) > 0 {
		dst = append(dst, tagXattrs)
		start := len(dst)
		dst = appendVuint(dst, uint64(len(x.Xattrs)))
		for i := range x.Xattrs {
			dst = appendBvec(dst, x.Xattrs[i].Name)
			dst = appendBvec(dst, x.Xattrs[i].Value)
		}
		dst = closeRecord(dst, start)
	}
	return dst
}

// closeRecord puts the length of the payload dst[start:] in front of it. Moving
// the payload by a byte or two costs less than knowing its length beforehand.
func closeRecord(dst []byte, start int) []byte {
	n := len(dst) - start
	var length [10]byte
	k := len(appendVuint(length[:0], uint64(n)))
	dst = append(dst, length[:k]...)
	copy(dst[start+k:], dst[start:start+n])
	appendVuint(dst[start:start], uint64(n))
	return dst
}

func appendTime(dst []byte, t fsx.Time) []byte {
	return appendVuint(appendVint(dst, t.Sec), uint64(t.Nsec))
}

func appendBvec(dst []byte, s string) []byte {
	return append(appendVuint(dst, uint64(len(s))), s...)
}

func appendVuint(dst []byte, v uint64) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

func appendVint(dst []byte, v int64) []byte {
	if v < 0 {
		return appendVintMagnitude(dst, true, -uint64(v))
	}
	return appendVintMagnitude(dst, false, uint64(v))
}

func appendVintMagnitude(dst []byte, negative bool, v uint64) []byte {
	b := byte(v & 0x3f)
	if negative {
		b |= 0x40
	}
	if v >>= 6; v == 0 {
		return append(dst, b)
	}
	return appendVuint(append(dst, b|0x80), v)
}
