package repo

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

// A commit object is lines of text in a fixed order:
//
//	tree <hex id>
//	parent <hex id>                        none, one, or many
//	author <who> <seconds> <zone>
//	committer <who> <seconds> <zone>
//	<other headers>                        a line that begins with a blank goes on
//	                                       with the header before it
//	(an empty line)
//	<message>                              all the rest
//
// Seconds count from 1970 in UTC; the zone (+hhmm) says what the clock on the
// wall showed and changes nothing.

// maxParents is the largest number of parents that is accepted. The widest
// merge in public history has 66.
const maxParents = 1000

// maxSeconds is the last second that has a year of four digits. Names of saves
// are made of it.
const maxSeconds = 253402300799

// Commit is a git commit object.
type Commit struct {
	Tree      pack.ID
	Parents   []pack.ID
	Author    Signature
	Committer Signature
	Extra     string // other header lines (gpgsig, mergetag), kept as they are
	Message   string
}

// Signature says who and when.
type Signature struct {
	Who  string // "Full Name <login@host>"
	When time.Time
}

// Append appends the body of the commit object. Line feeds and NULs in a
// signature become blanks, so that no name can add a header; Check tells
// beforehand whether ParseCommit would take the result.
func (c *Commit) Append(dst []byte) []byte {
	dst = append(dst, "tree "...)
	dst = c.Tree.AppendHex(dst)
	for _, p := range c.Parents {
		dst = append(dst, "\nparent "...)
		dst = p.AppendHex(dst)
	}
	dst = append(dst, "\nauthor "...)
	dst = c.Author.append(dst)
	dst = append(dst, "\ncommitter "...)
	dst = c.Committer.append(dst)
	dst = append(dst, '\n')
	dst = append(dst, c.Extra...)
	dst = append(dst, '\n')
	return append(dst, c.Message...)
}

// Check says why the commit must not be stored, or nil: ParseCommit gives a
// commit that passed it back as it is.
func (c *Commit) Check() error {
	got, err := ParseCommit(c.Append(nil))
	if err != nil {
		return err
	}
	switch {
	case got.Author.Who != c.Author.Who, got.Committer.Who != c.Committer.Who:
		return errors.New("commit: signature with a line feed or a NUL")
	case got.Extra != c.Extra, got.Message != c.Message:
		return errors.New("commit: header with an empty line")
	}
	return nil
}

func (s *Signature) append(dst []byte) []byte {
	for i := range len(s.Who) {
		ch := s.Who[i]
		if ch == '\n' || ch == 0 {
			ch = ' '
		}
		dst = append(dst, ch)
	}
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, s.When.Unix(), 10)
	dst = append(dst, ' ')
	return appendZone(dst, s.When)
}

// appendZone writes the zone as it was read, or as hours and minutes.
func appendZone(dst []byte, t time.Time) []byte {
	name, offset := t.Zone()
	if got, ok := parseZone(name); ok && got == offset {
		return append(dst, name...)
	}
	sign := byte('+')
	if offset < 0 {
		sign, offset = '-', -offset
	}
	h, m := offset/3600, offset/60%60
	return append(dst, sign, '0'+byte(h/10%10), '0'+byte(h%10), '0'+byte(m/10), '0'+byte(m%10))
}

// parseZone reads "+hhmm" and returns seconds east of Greenwich.
func parseZone(s string) (int, bool) {
	if len(s) != 5 || s[0] != '+' && s[0] != '-' {
		return 0, false
	}
	n := 0
	for _, c := range []byte(s[1:]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	offset := n/100*3600 + n%100*60
	if s[0] == '-' {
		offset = -offset
	}
	return offset, true
}

// ParseCommit reads the body of a commit object. What it accepts, Append gives
// back byte for byte. The strings do not share memory with body.
func ParseCommit(body []byte) (Commit, error) {
	p := commitParser{body: body, rest: body}
	c := p.parse()
	if p.reason != "" {
		off := len(body) - len(p.rest)
		return Commit{}, &pack.CorruptError{Off: int64(off), Reason: "commit: " + p.reason}
	}
	return c, nil
}

// commitParser reads headers in order. After the first fault it reads nothing.
type commitParser struct {
	body, rest []byte
	reason     string
}

func (p *commitParser) parse() (c Commit) {
	c.Tree = p.id("tree ")
	for p.reason == "" && bytes.HasPrefix(p.rest, []byte("parent ")) {
		if len(c.Parents) == maxParents {
			p.fail("more than %d parents", maxParents)
			return c
		}
		c.Parents = append(c.Parents, p.id("parent "))
	}
	c.Author = p.signature("author ")
	c.Committer = p.signature("committer ")
	c.Extra = p.extra()
	if p.reason == "" {
		c.Message = string(p.rest)
	}
	return c
}

func (p *commitParser) fail(format string, args ...any) {
	if p.reason == "" {
		p.reason = fmt.Sprintf(format, args...)
	}
}

// line returns the rest of a line that begins with key.
func (p *commitParser) line(key string) []byte {
	if p.reason != "" {
		return nil
	}
	if !bytes.HasPrefix(p.rest, []byte(key)) {
		p.fail("no %sline", key)
		return nil
	}
	line, rest, ok := bytes.Cut(p.rest[len(key):], []byte{'\n'})
	if !ok {
		p.fail("%sline without an end", key)
		return nil
	}
	p.rest = rest
	return line
}

func (p *commitParser) id(key string) pack.ID {
	line := p.line(key)
	if p.reason != "" {
		return pack.ID{}
	}
	id, err := pack.ParseID(string(line))
	if err != nil || !bytes.Equal(id.AppendHex(nil), line) {
		p.fail("%sline without an id", key)
	}
	return id
}

// signature reads "who <mail> seconds zone".
func (p *commitParser) signature(key string) (s Signature) {
	line := string(p.line(key))
	if p.reason != "" {
		return s
	}
	at := strings.LastIndexByte(line, '>')
	if at < 0 || strings.IndexByte(line[:at], '<') < 0 || strings.IndexByte(line, 0) >= 0 {
		p.fail("%sline without a <login@host>", key)
		return s
	}
	s.Who = line[:at+1]
	secs, zone, ok := strings.Cut(strings.TrimPrefix(line[at+1:], " "), " ")
	offset, good := parseZone(zone)
	n, err := strconv.ParseInt(secs, 10, 64)
	if !ok || !good || err != nil || strconv.FormatInt(n, 10) != secs || line[at+1] != ' ' {
		p.fail("%sline without a time", key)
		return s
	}
	if n > maxSeconds || n < -maxSeconds {
		p.fail("%sline with a time out of range", key)
		return s
	}
	s.When = time.Unix(n, 0).In(time.FixedZone(zone, offset))
	return s
}

// extra reads the other headers and the empty line after them.
func (p *commitParser) extra() string {
	start := p.rest
	for first := true; p.reason == ""; first = false {
		line, rest, ok := bytes.Cut(p.rest, []byte{'\n'})
		if !ok {
			p.fail("no empty line after the headers")
			break
		}
		if len(line) == 0 {
			extra := string(start[:len(start)-len(p.rest)])
			p.rest = rest
			return extra
		}
		key, _, _ := bytes.Cut(line, []byte{' '})
		switch string(key) {
		case "tree", "parent", "author", "committer":
			p.fail("second %s line", key)
		case "":
			if first {
				p.fail("header goes on that has not begun")
			}
		}
		if bytes.IndexByte(line, 0) >= 0 {
			p.fail("NUL in a header")
		}
		p.rest = rest
	}
	return ""
}

// Trailer returns the value of a "Key: value" line in the last paragraph of the
// message; of several the last.
func (c *Commit) Trailer(key string) (string, bool) {
	last := strings.TrimRight(c.Message, "\n")
	if i := strings.LastIndex(last, "\n\n"); i >= 0 {
		last = last[i+2:]
	}
	for len(last) > 0 {
		line := last
		if i := strings.LastIndexByte(last, '\n'); i >= 0 {
			last, line = last[:i], last[i+1:]
		} else {
			last = ""
		}
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}
