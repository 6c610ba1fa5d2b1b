package main

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// escape makes a name safe for a terminal and a log: one line, no byte that a
// terminal obeys, nothing that reorders what a human reads. File names are
// bytes chosen by whoever could write in the tree, and that may be an attacker
// who wants an administrator's terminal to do or to show something else.
//
// What is printable stays as it is; the rest becomes \n, \t, \xNN (a byte that
// is no UTF-8, or an ASCII control), \uNNNN or \UNNNNNNNN. A backslash is
// doubled, so the escaped forms of two names are never the same. Printable is what Unicode calls letters, marks, numbers, punctuation and
// symbols, and the space: so C0, C1, the bidirectional controls, zero-width
// characters and exotic spaces are all escaped.
func escape(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 0x7f || s[i] == '\\' {
			return string(appendEscaped(make([]byte, 0, len(s)+16), s, true))
		}
	}
	return s
}

// escapeText does the same for a sentence that may quote names in a way of its
// own (%q), and so leaves backslashes alone.
func escapeText(s string) string {
	return string(appendEscaped(nil, s, false))
}

const hexDigits = "0123456789abcdef"

func appendEscaped(dst []byte, s string, double bool) []byte {
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(dst, '\\', 'x', hexDigits[s[0]>>4], hexDigits[s[0]&15])
		case r == '\\' && double:
			dst = append(dst, '\\', '\\')
		case r == '\n':
			dst = append(dst, '\\', 'n')
		case r == '\t':
			dst = append(dst, '\\', 't')
		case strconv.IsPrint(r):
			dst = append(dst, s[:n]...)
		case r < 0x80:
			dst = append(dst, '\\', 'x', hexDigits[r>>4], hexDigits[r&15])
		case r < 0x10000:
			dst = append(dst, '\\', 'u')
			dst = appendHex(dst, uint32(r), 4)
		default:
			dst = append(dst, '\\', 'U')
			dst = appendHex(dst, uint32(r), 8)
		}
		s = s[n:]
	}
	return dst
}

func appendHex(dst []byte, v uint32, digits int) []byte {
	for i := digits - 1; i >= 0; i-- {
		dst = append(dst, hexDigits[v>>(4*uint(i))&15])
	}
	return dst
}

// quote puts a name between double quotes where a sentence would otherwise not
// show where it ends.
func quote(s string) string {
	return `"` + strings.ReplaceAll(escape(s), `"`, `\"`) + `"`
}
