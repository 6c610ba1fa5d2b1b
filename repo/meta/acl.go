package meta

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The two extended attributes in which Linux keeps POSIX ACLs.
const (
	xattrACLAccess  = "system.posix_acl_access"
	xattrACLDefault = "system.posix_acl_default"
)

// The kernel's form of an ACL is a little-endian u32 version, 2, and then for
// each entry
//
//	0    2    4        8
//	| tag | perm | id |
//
// where id is ^0 for the kinds that have none.
const (
	aclVersion   = 2
	aclHeaderLen = 4
	aclEntryLen  = 8
	aclNoID      = 1<<32 - 1
)

// The kinds of entries. Their numbers give the order of an ACL.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

var errACL = errors.New("malformed ACL")

type aclEntry struct {
	tag, perm uint16
	id        uint32
	name      string // of text forms only
}

// parseACL reads the kernel's form.
func parseACL(b string) ([]aclEntry, error) {
	if len(b) < aclHeaderLen || (len(b)-aclHeaderLen)%aclEntryLen != 0 ||
		binary.LittleEndian.Uint32([]byte(b[:aclHeaderLen])) != aclVersion {
		return nil, errACL
	}
	list := make([]aclEntry, 0, len(b)/aclEntryLen)
	for b = b[aclHeaderLen:]; len(b) > 0; b = b[aclEntryLen:] {
		v := binary.LittleEndian.Uint64([]byte(b[:aclEntryLen]))
		e := aclEntry{tag: uint16(v), perm: uint16(v >> 16), id: uint32(v >> 32)}
		if aclKeyword(e.tag) == "" || e.perm > 7 {
			return nil, errACL
		}
		list = append(list, e)
	}
	sortACL(list)
	return list, nil
}

// appendACL appends the kernel's form.
func appendACL(dst []byte, list []aclEntry) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, aclVersion)
	for _, e := range list {
		id := e.id
		if e.tag != aclUser && e.tag != aclGroup {
			id = aclNoID
		}
		dst = binary.LittleEndian.AppendUint16(dst, e.tag)
		dst = binary.LittleEndian.AppendUint16(dst, e.perm)
		dst = binary.LittleEndian.AppendUint32(dst, id)
	}
	return dst
}

func sortACL(list []aclEntry) {
	slices.SortStableFunc(list, func(a, b aclEntry) int {
		if c := cmp.Compare(a.tag, b.tag); c != 0 {
			return c
		}
		return cmp.Compare(a.id, b.id)
	})
}

// modeACL is what the mode says, as an ACL.
func modeACL(mode uint32) []aclEntry {
	return []aclEntry{
		{tag: aclUserObj, perm: uint16(mode >> 6 & 7)},
		{tag: aclGroupObj, perm: uint16(mode >> 3 & 7)},
		{tag: aclOther, perm: uint16(mode & 7)},
	}
}

func aclKeyword(tag uint16) string {
	switch tag {
	case aclUserObj, aclUser:
		return "u"
	case aclGroupObj, aclGroup:
		return "g"
	case aclMask:
		return "m"
	case aclOther:
		return "o"
	}
	return ""
}

// aclText gives the short text form, with the names of ids if n is not nil.
func aclText(list []aclEntry, n *Names) string {
	var b []byte
	for i, e := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, aclKeyword(e.tag)...), ':')
		name := ""
		switch {
		case n == nil:
		case e.tag == aclUser:
			name = n.User(e.id)
		case e.tag == aclGroup:
			name = n.Group(e.id)
		}
		if name != "" {
			b = appendQuoted(b, name)
		} else if e.tag == aclUser || e.tag == aclGroup {
			b = strconv.AppendUint(b, uint64(e.id), 10)
		}
		b = append(b, ':')
		for bit, c := range "rwx" {
			if e.perm&(4>>bit) == 0 {
				c = '-'
			}
			b = append(b, byte(c))
		}
	}
	return string(b)
}

// appendQuoted appends a name so that it holds no separator.
func appendQuoted(dst []byte, name string) []byte {
	for i := 0; i < len(name); i++ {
		switch c := name[i]; c {
		case '\\':
			dst = append(dst, '\\', '\\')
		case ':', ',', ' ', '\t', '\n', '\r':
			dst = append(dst, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// unquote undoes appendQuoted.
func unquote(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b []byte
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			b = append(b, s[i])
		case strings.HasPrefix(s[i+1:], `\`):
			b = append(b, '\\')
			i++
		case i+3 < len(s):
			c, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
			if err != nil {
				return "", errACL
			}
			b = append(b, byte(c))
			i += 3
		default:
			return "", errACL
		}
	}
	return string(b), nil
}

// parseACLText reads the text form. Ids that stand as numbers get id, names get
// name; entries without either have the id ^0.
func parseACLText(text string) ([]aclEntry, error) {
	var list []aclEntry
	for part := range strings.SplitSeq(text, ",") {
		e, err := parseACLEntry(part)
		if err != nil {
			return nil, fmt.Errorf("%w: %q", err, part)
		}
		list = append(list, e)
	}
	return list, nil
}

func parseACLEntry(text string) (e aclEntry, err error) {
	word, rest, ok1 := strings.Cut(text, ":")
	who, perm, ok2 := strings.Cut(rest, ":")
	if !ok1 || !ok2 || len(perm) != 3 {
		return e, errACL
	}
	switch word {
	case "u", "user":
		e.tag = aclUserObj
	case "g", "group":
		e.tag = aclGroupObj
	case "m", "mask":
		e.tag = aclMask
	case "o", "other":
		e.tag = aclOther
	default:
		return e, errACL
	}
	e.id = aclNoID
	if who != "" {
		if e.tag != aclUserObj && e.tag != aclGroupObj {
			return e, errACL
		}
		e.tag <<= 1 // the named kind follows the unnamed one
		if id, err := strconv.ParseUint(who, 10, 32); err == nil && id != aclNoID {
			e.id = uint32(id)
		} else if e.name, err = unquote(who); err != nil {
			return e, err
		}
	}
	for i, c := range "rwx" {
		switch perm[i] {
		case byte(c):
			e.perm |= 4 >> i
		case '-':
		default:
			return e, errACL
		}
	}
	return e, nil
}

// readACL turns the kernel's forms of the two lists into the record. It returns
// nil if the lists say no more than the mode.
func readACL(access, dflt string, mode uint32, n *Names) (*ACL, error) {
	var a ACL
	list := modeACL(mode)
	if access != "" {
		var err error
		if list, err = parseACL(access); err != nil {
			return nil, fmt.Errorf("%s: %w", xattrACLAccess, err)
		}
	}
	if dflt != "" {
		d, err := parseACL(dflt)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", xattrACLDefault, err)
		}
		a.Default, a.DefaultNum = aclText(d, n), aclText(d, nil)
	}
	if len(list) <= 3 && a.Default == "" {
		return nil, nil
	}
	a.Access, a.AccessNum = aclText(list, n), aclText(list, nil)
	return &a, nil
}
