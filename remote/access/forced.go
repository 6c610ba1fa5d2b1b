package access

import (
	"errors"
	"fmt"
	"math"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// ParseForced reads the words of the command that a key is bound to, without
// "kedge server": --repo, --root, --role, --no-read, --names, --quota. No words at all
// bind nothing: the grant is an Owner's. Options cannot be cut short, and nothing but
// options is taken, so that a mistake never gives more than was meant.
func ParseForced(words []string) (Grant, error) {
	var g Grant
	seen := map[string]bool{}
	for len(words) > 0 {
		name, value, hasValue := strings.Cut(words[0], "=")
		words = words[1:]
		if name == "--no-read" && !hasValue {
			g.NoRead = true
			continue
		}
		if !hasValue {
			if len(words) == 0 || !takesValue(name) {
				return Grant{}, fmt.Errorf("%s is no option of kedge server, or lacks its value", strconv.Quote(name))
			}
			value, words = words[0], words[1:]
		}
		if seen[name] && name != "--repo" && name != "--names" {
			return Grant{}, fmt.Errorf("option %s stands there twice", strconv.Quote(name))
		}
		seen[name] = true
		if err := g.set(name, value); err != nil {
			return Grant{}, err
		}
	}
	if g.Role == None && len(g.Repos) == 0 {
		g.Role = Owner
	}
	if err := g.check(); err != nil {
		return Grant{}, err
	}
	return g, nil
}

// takesValue reports whether an option has a value.
func takesValue(name string) bool {
	switch name {
	case "--repo", "--role", "--names", "--quota", "--root":
		return true
	}
	return false
}

// set puts one option into the grant.
func (g *Grant) set(name, value string) (err error) {
	switch name {
	case "--repo":
		g.Repos = append(g.Repos, value)
	case "--role":
		switch value {
		case "read":
			g.Role = Read
		case "append":
			g.Role = Append
		case "mirror":
			g.Role = Mirror
		default:
			return fmt.Errorf("there is no role %s: it is read, append or mirror", strconv.Quote(value))
		}
	case "--names":
		g.Names = append(g.Names, value)
	case "--quota":
		g.Quota, err = parseQuota(value)
	case "--root":
		if strings.HasPrefix(value, "s3://") && !strings.ContainsAny(value, "\x00\n") {
			g.Root = value // which takes a Store
			break
		}
		g.Root = filepath.Clean(value)
		if !filepath.IsAbs(value) || strings.ContainsAny(value, "\x00\n") {
			err = fmt.Errorf("option --root: %s is no absolute path", strconv.Quote(value))
		}
	default:
		err = fmt.Errorf("kedge server has no option %s", strconv.Quote(name))
	}
	return err
}

// check refuses options that do not go together.
func (g *Grant) check() error {
	switch {
	case g.Role == None:
		return errors.New("option --role is missing: read, append or mirror")
	case g.Role != Append && (g.NoRead || len(g.Names) > 0 || g.Quota != 0):
		return errors.New("--no-read, --names and --quota go with --role append")
	case g.Role == Owner:
		return nil
	case len(g.Repos) == 0:
		return errors.New("option --repo is missing")
	}
	for _, name := range g.Repos {
		if g.Role == Append || !strings.ContainsAny(name, `*?[`) {
			if err := CheckName(name); err != nil {
				return fmt.Errorf("option --repo: %w", err)
			}
		}
		if err := checkGlob(name); err != nil || strings.ContainsRune(name, '/') {
			return fmt.Errorf("option --repo: %s is no glob of names", strconv.Quote(name))
		}
	}
	for _, glob := range g.Names {
		if err := checkGlob(glob); err != nil {
			return fmt.Errorf("option --names: %w", err)
		}
	}
	if g.Role == Append && len(g.Repos) > 1 {
		return errors.New("--role append goes with one --repo")
	}
	return nil
}

// checkGlob refuses a glob that matches nothing or cannot be written down.
func checkGlob(glob string) error {
	if _, err := path.Match(glob, ""); err != nil || glob == "" || strings.ContainsFunc(glob, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return fmt.Errorf("%s is no glob", strconv.Quote(glob))
	}
	return nil
}

const units = "kMGTP"

// parseQuota reads a size: digits, and one of k, M, G, T, P for steps of 1024. No "0
// means unlimited": who wants no limit leaves the option out.
func parseQuota(s string) (int64, error) {
	bad := fmt.Errorf("option --quota: %s is no size; write a number and k, M, G, T or P", strconv.Quote(s))
	digits := s
	if n := len(s); n > 0 && s[n-1]|0x20 == 'b' {
		digits = s[:n-1]
	}
	shift := 0
	if n := len(digits); n > 0 {
		if i := strings.IndexByte(strings.ToLower(units), digits[n-1]|0x20); i >= 0 {
			digits, shift = digits[:n-1], 10*(i+1)
		}
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, bad
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n == 0 || n > math.MaxInt64>>shift {
		return 0, bad
	}
	return n << shift, nil
}

// formatQuota is the inverse of parseQuota, in the largest unit that is exact.
func formatQuota(n int64) string {
	unit := ""
	for i := 0; n%1024 == 0 && i < len(units); i++ {
		n, unit = n/1024, units[i:i+1]
	}
	return strconv.FormatInt(n, 10) + unit
}

// Words returns the options from which ParseForced makes the grant, but for Who. The
// order is fixed, so that one grant is always written the same.
func (g *Grant) Words() []string {
	var words []string
	add := func(name, value string) { words = append(words, name, value) }
	for _, name := range g.Repos {
		add("--repo", name)
	}
	if g.Role != Owner {
		add("--role", g.Role.String())
	}
	if g.NoRead {
		words = append(words, "--no-read")
	}
	for _, glob := range g.Names {
		add("--names", glob)
	}
	if g.Quota > 0 {
		add("--quota", formatQuota(g.Quota))
	}
	if g.Root != "" {
		add("--root", g.Root)
	}
	return words
}

// Command returns the command to which a key with this grant is bound, as a shell and
// SplitWords read it.
func (g *Grant) Command() string {
	b := []byte("kedge server")
	for _, w := range g.Words() {
		b = appendWord(append(b, ' '), w)
	}
	return string(b)
}

// plain reports whether a byte means itself to every shell, wherever it stands.
func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("-_./:=@%+,", c) >= 0
}

// appendWord appends a word, between single quotes if a shell would see more in it.
func appendWord(b []byte, w string) []byte {
	ok := w != ""
	for i := range len(w) {
		ok = ok && plain(w[i])
	}
	if ok {
		return append(b, w...)
	}
	return append(append(append(b, '\''), strings.ReplaceAll(w, "'", `'\''`)...), '\'')
}

// SplitWords cuts a command into words where a POSIX shell would do so, if the shell
// would do nothing else with it. Blanks separate words. Between single quotes all
// is literal, between double quotes all but \ $ and `, which are refused there; outside
// of quotes a backslash makes the next character literal, and of the others only letters
// of ASCII, digits and -_./:=@%+, are taken.
func SplitWords(s string) ([]string, error) {
	var words []string
	var word []byte
	in := false // a word has begun
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ' ' || c == '\t':
			if in {
				words, word, in = append(words, string(word)), word[:0], false
			}
			continue
		case c == '\'' || c == '"':
			n := strings.IndexByte(s[i+1:], c)
			if n < 0 {
				return nil, fmt.Errorf("a quote %c is not closed", c)
			}
			text := s[i+1 : i+1+n]
			if c == '"' && strings.ContainsAny(text, "\\$`") || strings.ContainsAny(text, "\x00\n") {
				return nil, errors.New("between its quotes stands what a shell would replace")
			}
			word = append(word, text...)
			i += n + 1
		case c == '\\' && i+1 < len(s) && s[i+1] > ' ' && s[i+1] < 0x7f:
			i++
			word = append(word, s[i])
		case plain(c):
			word = append(word, c)
		default:
			return nil, fmt.Errorf("%q must stand between single quotes", c)
		}
		in = true
	}
	if in {
		words = append(words, string(word))
	}
	return words, nil
}

// ParseCommand reads the whole command that a key is bound to. It must bind: a key that
// is bound to no repository is refused, because over a network there is no owner.
func ParseCommand(command string) (Grant, error) {
	words, err := SplitWords(command)
	if err != nil {
		return Grant{}, err
	}
	if len(words) < 2 || !isProgram(words[0]) || words[1] != "server" {
		return Grant{}, errors.New("the command is not kedge server")
	}
	g, err := ParseForced(words[2:])
	if err == nil && g.Role == Owner {
		return Grant{}, errors.New("kedge server without --repo and --role binds the key to nothing")
	}
	return g, err
}

// isProgram reports whether a word is this program, by itself or with its full path.
func isProgram(word string) bool {
	base := path.Base(word)
	return (base == "kedge" || base == "bup") && (word == base || word[0] == '/')
}
