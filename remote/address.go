package remote

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Address is where a repository is.
type Address struct {
	User string // "": as the SSH client has it
	Host string // "": no SSH, the server is a child process
	Port int    // 0: as the SSH client has it
	Path string // as the server takes it; "": the repository that the key is pinned to
}

// ParseAddress reads
//
//	ssh://[user@]host[:port][/path]    user and host may have %XX, the path is taken as it is
//	[user@]host:path                   user is all before the last @ of what precedes the colon
//	-:path                             a server that is a child process of this one
//
// A host may be an IPv6 address in brackets. A path is absolute in the first form, but for
// /./p and /~/p, which are p in the home of the login; in the others ~/p is p. Of an
// address that came out of a configuration or over a network nothing must reach the
// command line of ssh but a user and a host: neither may look like an option or hold what
// a shell would read, since ssh itself puts them in the commands of its configuration.
func ParseAddress(s string) (Address, error) {
	a, err := parseAddress(s)
	if err == nil {
		err = a.check()
	}
	if err == errPassword { // which is not to be shown
		return Address{}, err
	}
	if err != nil {
		return Address{}, fmt.Errorf("address %q: %w", s, err)
	}
	return a, nil
}

var errPassword = errors.New("a password has no place in an address")

func parseAddress(s string) (Address, error) {
	const scheme = "ssh://"
	if len(s) >= len(scheme) && strings.EqualFold(s[:len(scheme)], scheme) {
		return parseURL(s[len(scheme):])
	}
	if name, _, ok := strings.Cut(s, "://"); ok && !strings.ContainsAny(name, "/:@") {
		return Address{}, errors.New("this is not ssh://")
	}
	if path, ok := strings.CutPrefix(s, "-:"); ok {
		return Address{Path: plainPath(path)}, nil
	}
	var a Address
	host, path, ok := cutHost(s)
	if !ok {
		return a, errors.New("there is no colon behind a host")
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		if a.User, host = host[:i], host[i+1:]; a.User == "" {
			return a, errors.New("the user is empty")
		}
	}
	var err error
	a.Host, err = unbracket(host)
	if err == nil && a.Host == "" {
		err = errors.New("the host is empty")
	}
	a.Path = plainPath(path)
	return a, err
}

// cutHost cuts host:path at the first colon that is not within brackets.
func cutHost(s string) (host, path string, ok bool) {
	from := 0
	if i := strings.IndexAny(s, ":["); i >= 0 && s[i] == '[' && (i == 0 || s[i-1] == '@') {
		from = i + max(0, strings.IndexByte(s[i:], ']'))
	}
	i := strings.IndexByte(s[from:], ':')
	if i < 0 {
		return s, "", false
	}
	return s[:from+i], s[from+i+1:], true
}

// plainPath takes a path as scp does: ~/p is in the home. What would mean something else
// behind ssh://host is written otherwise, so that a place has one address: /./p is /p, and
// /~/p is in the home in both.
func plainPath(path string) string {
	for strings.HasPrefix(path, "/./") {
		path = "/" + strings.TrimLeft(path[3:], "/")
	}
	return inHome(inHome(path, "/~"), "~")
}

// parseURL reads what stands behind ssh://.
func parseURL(s string) (a Address, err error) {
	host := s
	if i := strings.IndexByte(s, '/'); i >= 0 {
		host, a.Path = s[:i], inHome(inHome(s[i:], "/~"), "/.")
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		user := host[:i]
		host = host[i+1:]
		if strings.ContainsRune(user, ':') {
			return a, errPassword
		}
		if a.User, err = unescape(user); err != nil {
			return a, err
		}
		if a.User == "" {
			return a, errors.New("the user is empty")
		}
	}
	// A colon within brackets is none before a port.
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		if a.Port, err = parsePort(host[i+1:]); err != nil {
			return a, err
		}
		host = host[:i]
	}
	if host, err = unbracket(host); err != nil {
		return a, err
	}
	if a.Host, err = unescape(host); err == nil && a.Host == "" {
		err = errors.New("the host is empty")
	}
	return a, err
}

// inHome takes the prefix off a path of the form prefix/p or prefix alone, which is in a
// home; a path of another form comes back as it is.
func inHome(path, prefix string) string {
	rest, ok := strings.CutPrefix(path, prefix+"/")
	if !ok && (path != prefix || prefix == "/.") {
		return path
	}
	if rest = strings.TrimLeft(rest, "/"); rest == "" || !ok {
		return "."
	}
	return rest
}

func parsePort(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port", s)
	}
	return int(n), nil
}

func unbracket(host string) (string, error) {
	inner, ok := strings.CutPrefix(host, "[")
	if !ok {
		if strings.ContainsAny(host, ":[]") {
			return "", errors.New("an IPv6 address stands in brackets")
		}
		return host, nil
	}
	if inner, ok = strings.CutSuffix(inner, "]"); !ok {
		return "", errors.New("a bracket is not closed, or does not end the host")
	}
	return inner, nil
}

// unescape replaces %XX by the byte that it stands for.
func unescape(s string) (string, error) {
	if !strings.ContainsRune(s, '%') {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errors.New("a % is not followed by two digits")
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", errors.New("a % is not followed by two digits")
		}
		b = append(b, byte(n))
		i += 2
	}
	return string(b), nil
}

// check says why nobody must connect to an address, or nil.
func (a Address) check() error {
	switch {
	case a.Host == "" && (a.User != "" || a.Port != 0):
		return errors.New("there is a user or a port and no host")
	case strings.HasPrefix(a.User, "-"), strings.HasPrefix(a.Host, "-"):
		return errors.New("a user or a host cannot begin with -")
	case a.Port < 0 || a.Port > 65535:
		return fmt.Errorf("%d is no port", a.Port)
	case strings.ContainsAny(a.Path, "\r\n\x00"):
		return errors.New("a path cannot hold a line break or a NUL")
	}
	for i := range len(a.User) {
		if c := a.User[i]; c <= ' ' || c == 0x7f || strings.IndexByte("'`\"$;&<>|(){}", c) >= 0 {
			return fmt.Errorf("a user cannot hold %q", c)
		}
	}
	for i := range len(a.Host) {
		if c := a.Host[i]; !letter(c) && strings.IndexByte("-._:+", c) < 0 && (c != '%' || !strings.ContainsRune(a.Host, ':')) {
			return fmt.Errorf("a host cannot hold %q", c)
		}
	}
	return nil
}

func letter(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// String returns the address as ssh://…, as messages show it, and -:path for a child
// process. ParseAddress reads it back.
func (a Address) String() string {
	if a.Host == "" {
		if a.Path == "~" || strings.HasPrefix(a.Path, "~/") {
			return "-:~/" + a.Path
		}
		return "-:" + a.Path
	}
	b := []byte("ssh://")
	if a.User != "" {
		b = append(appendEscape(b, a.User, ""), '@')
	}
	if strings.ContainsRune(a.Host, ':') {
		b = append(appendEscape(append(b, '['), a.Host, ":"), ']')
	} else {
		b = appendEscape(b, a.Host, "")
	}
	if a.Port != 0 {
		b = strconv.AppendInt(append(b, ':'), int64(a.Port), 10)
	}
	if a.Path != "" && a.Path[0] != '/' {
		b = append(b, "/./"...)
	}
	return string(append(b, a.Path...))
}

// appendEscape appends s with all but letters, "-._~+" and the bytes in keep as %XX.
func appendEscape(b []byte, s, keep string) []byte {
	for i := range len(s) {
		if c := s[i]; letter(c) || strings.IndexByte("-._~+", c) >= 0 || strings.IndexByte(keep, c) >= 0 {
			b = append(b, c)
		} else {
			b = fmt.Appendf(b, "%%%02X", c)
		}
	}
	return b
}
