package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"plain name.txt":    "plain name.txt",
		"größe/日本":          "größe/日本",
		"":                  "",
		`back\slash`:        `back\\slash`,
		"new\nline\ttab":    `new\nline\ttab`,
		"\x1b]0;owned\x07":  `\x1b]0;owned\x07`,
		"del\x7f":           `del\x7f`,
		"c1\u009b31m":       `c1\u009b31m`,
		"latin1 \xe4\xff":   `latin1 \xe4\xff`,
		"bidi\u202egnp.exe": `bidi\u202egnp.exe`,
		"\u2066isolate":     `\u2066isolate`,
		"zero\u200bwidth":   `zero\u200bwidth`,
		"nbsp\u00a0":        `nbsp\u00a0`,
		"line\u2028sep":     `line\u2028sep`,
		"tag\U000e0041":     `tag\U000e0041`,
		"\ufffd":            "\ufffd", // the character itself is no invalid byte
	} {
		if got := escape(in); got != want {
			t.Errorf("escape(%q) = %s, want %s", in, got, want)
		}
	}
	if got, want := escapeText("save \"a\\nb\": \x1b[m"), `save "a\nb": \x1b[m`; got != want {
		t.Errorf("escapeText: %s, want %s", got, want)
	}
	if got, want := quote("a\"b\n"), `"a\"b\n"`; got != want {
		t.Errorf("quote: %s, want %s", got, want)
	}
}

// Two names never look the same, and what is shown is one line of printable text.
func FuzzEscape(f *testing.F) {
	f.Add("a\nb", `a\nb`)
	f.Add("\u0085", "\xc2\x85")
	f.Add("\xff", `\xff`)
	f.Fuzz(func(t *testing.T, a, b string) {
		ea, eb := escape(a), escape(b)
		if (a == b) != (ea == eb) {
			t.Errorf("escape(%q) = escape(%q) = %s", a, b, ea)
		}
		if !utf8.ValidString(ea) || strings.ContainsFunc(ea, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
			t.Errorf("escape(%q) = %q", a, ea)
		}
	})
}
