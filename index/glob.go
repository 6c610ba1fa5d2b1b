package index

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A glob is a shell pattern for paths. It is matched against whole components:
//
//   - any run of characters in a component, a leading dot included
//     ?      one character
//     [a-z]  one of a class; [!a-z] or [^a-z] one that is not
//     \x     x itself
//     **     as a component: any number of components, none included; at the end
//     of the pattern one at least, so that "a/**" means what is below a
//
// A pattern with '/' at its front is held against the absolute path, any other
// against each end of it, so that one without any '/' means a base name
// anywhere. A '/' at its end lets it match directories only. Names need not be
// UTF-8: a byte that is part of no character is one itself.
type glob struct {
	parts   []globPart
	dirOnly bool
}

// globPart is the pattern of one component.
type globPart struct {
	any  bool // "**"
	toks []globToken
}

// globToken matches one character, or, if star is set, any number of them.
type globToken struct {
	star, not bool
	ranges    [][2]rune // nil: any character
}

func parseGlob(s string) (*glob, error) {
	g := &glob{}
	rest, anchored := strings.CutPrefix(s, "/")
	if !anchored {
		g.parts = append(g.parts, globPart{any: true})
	}
	says := false
	for part := range strings.SplitSeq(rest, "/") {
		g.dirOnly = part == ""
		switch part {
		case "", ".":
			continue
		case "..":
			return nil, fmt.Errorf("pattern %q: '..' matches no path", s)
		}
		says = true
		p := globPart{any: part == "**"}
		if n := len(g.parts); p.any && n > 0 && g.parts[n-1].any {
			continue // twice means no more than once
		}
		var err error
		if !p.any {
			if p.toks, err = parseGlobPart(part); err != nil {
				return nil, fmt.Errorf("pattern %q: %w", s, err)
			}
		}
		g.parts = append(g.parts, p)
	}
	if !says {
		return nil, fmt.Errorf("pattern %q matches nothing", s)
	}
	return g, nil
}

func parseGlobPart(s string) ([]globToken, error) {
	var toks []globToken
	for s != "" {
		c, n := decodeRune(s)
		s = s[n:]
		switch c {
		case '*':
			if len(toks) == 0 || !toks[len(toks)-1].star {
				toks = append(toks, globToken{star: true})
			}
			continue
		case '?':
			toks = append(toks, globToken{})
			continue
		case '[':
			tok, rest, err := parseGlobClass(s)
			if err != nil {
				return nil, err
			}
			toks, s = append(toks, tok), rest
			continue
		case '\\':
			if s == "" {
				return nil, fmt.Errorf(`'\' at the end`)
			}
			c, n = decodeRune(s)
			s = s[n:]
		}
		toks = append(toks, globToken{ranges: [][2]rune{{c, c}}})
	}
	return toks, nil
}

// parseGlobClass parses what follows '['.
func parseGlobClass(s string) (tok globToken, rest string, err error) {
	if s != "" && (s[0] == '!' || s[0] == '^') {
		tok.not, s = true, s[1:]
	}
	for first := true; s != ""; first = false {
		if s[0] == ']' && !first {
			return tok, s[1:], nil
		}
		if strings.HasPrefix(s, "[:") {
			return tok, "", fmt.Errorf("named classes like [:alpha:] are not supported")
		}
		var lo, hi rune
		if lo, s = classRune(s); s == "" {
			break
		}
		hi = lo
		if s[0] == '-' && len(s) > 1 && s[1] != ']' {
			hi, s = classRune(s[1:])
		}
		if hi < lo {
			return tok, "", fmt.Errorf("range from %q down to %q", lo, hi)
		}
		tok.ranges = append(tok.ranges, [2]rune{lo, hi})
	}
	return tok, "", fmt.Errorf("'[' without ']'")
}

// classRune takes one character of a class, which may be escaped.
func classRune(s string) (rune, string) {
	if s[0] == '\\' && len(s) > 1 {
		s = s[1:]
	}
	c, n := decodeRune(s)
	return c, s[n:]
}

// decodeRune takes a character, or a byte that is part of none as a character of
// its own, beyond all others.
func decodeRune(s string) (rune, int) {
	c, n := utf8.DecodeRuneInString(s)
	if c == utf8.RuneError && n == 1 {
		return utf8.MaxRune + 1 + rune(s[0]), 1
	}
	return c, n
}

// match holds a key against the pattern. Only "**" can match in more than one
// way, and it is enough to let the last one seen take more and more: what an
// earlier one could win, a later one can as well.
func (g *glob) match(key string, dir bool) bool {
	if g.dirOnly && !dir {
		return false
	}
	if key == "" {
		return false
	}
	if len(g.parts) == 2 && g.parts[0].any && !g.parts[1].any { // a base name
		return matchGlobPart(g.parts[1].toks, key[strings.LastIndexByte(key, '/')+1:])
	}
	part, back, backKey := 0, -1, ""
	for {
		switch {
		case part < len(g.parts) && g.parts[part].any:
			if part == len(g.parts)-1 {
				return key != ""
			}
			back, backKey = part, key
			part++
			continue
		case part < len(g.parts) && key != "":
			name, rest := cutComponent(key)
			if matchGlobPart(g.parts[part].toks, name) {
				part, key = part+1, rest
				continue
			}
		case part == len(g.parts) && key == "":
			return true
		}
		if back < 0 || backKey == "" {
			return false
		}
		_, backKey = cutComponent(backKey)
		part, key = back+1, backKey
	}
}

// cutComponent takes the first component off a key.
func cutComponent(key string) (name, rest string) {
	if i := strings.IndexByte(key[1:], '/'); i >= 0 {
		return key[1 : 1+i], key[1+i:]
	}
	return key[1:], ""
}

// matchGlobPart holds a name against the pattern of a component, in the way of
// glob.match.
func matchGlobPart(toks []globToken, name string) bool {
	t, back, backName := 0, -1, ""
	for {
		switch {
		case t < len(toks) && toks[t].star:
			back, backName = t, name
			t++
			continue
		case t < len(toks) && name != "":
			if c, n := decodeRune(name); toks[t].match(c) {
				t, name = t+1, name[n:]
				continue
			}
		case t == len(toks) && name == "":
			return true
		}
		if back < 0 || backName == "" {
			return false
		}
		_, n := decodeRune(backName)
		backName = backName[n:]
		t, name = back+1, backName
	}
}

func (t *globToken) match(c rune) bool {
	if t.ranges == nil {
		return true
	}
	for _, r := range t.ranges {
		if r[0] <= c && c <= r[1] {
			return !t.not
		}
	}
	return t.not
}
