package index

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Exclude decides which paths an update passes over. The zero value excludes
// nothing. It may not be changed once an update uses it.
//
// What is excluded is not listed, nor is anything below it; records of it that
// an earlier run made are marked as gone. A root itself is never excluded, only
// what is below it: who asks for a path by name and gets an empty save without
// a word finds out when it is too late.
type Exclude struct {
	// Caches leaves out what lies in a directory marked as a cache: one with a
	// regular file CACHEDIR.TAG that begins with the signature of the Cache
	// Directory Tagging Specification. The directory itself and the tag stay.
	Caches bool

	paths map[string]bool
	rx    []*regexp.Regexp
	globs []*glob
	tags  []tag
}

// AddPath excludes one absolute path. Links on the way to it must be resolved,
// as they are in the roots of an update.
func (x *Exclude) AddPath(path string) error {
	if !filepath.IsAbs(path) || strings.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("path %q is not absolute", path)
	}
	if x.paths == nil {
		x.paths = map[string]bool{}
	}
	x.paths[filepath.Clean(path)] = true
	return nil
}

// AddRegexp excludes the paths in which a regular expression in the syntax of
// RE2 is found. It is held against the absolute path, unanchored; directories
// have a '/' at their end.
func (x *Exclude) AddRegexp(expr string) error {
	rx, err := regexp.Compile(expr)
	if err != nil {
		return fmt.Errorf("regular expression %q: %w", expr, explainSyntax(expr, err))
	}
	x.rx = append(x.rx, rx)
	return nil
}

// AddGlob excludes what a shell pattern matches: * ? [a-z] [!a-z] \x, and ** for
// any number of directories. A pattern with '/' at its front is held against the
// absolute path, any other against each end of it, so that one without any '/'
// means a base name. With '/' at its end it matches directories only.
func (x *Exclude) AddGlob(pattern string) error {
	g, err := parseGlob(pattern)
	if err != nil {
		return err
	}
	x.globs = append(x.globs, g)
	return nil
}

// AddTag excludes what lies in directories that hold a file. The argument is the
// file's name, or NAME:HEADER for a regular file that begins with HEADER. The
// directory itself and the file stay.
func (x *Exclude) AddTag(arg string) error {
	name, header, _ := strings.Cut(arg, ":")
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is not the name of a file", name)
	}
	x.tags = append(x.tags, tag{name, header})
	return nil
}

// PatternLines returns the lines of a file of patterns that are not blank. strip
// removes the white space around each; a carriage return before the newline
// belongs to a line that is not stripped.
func PatternLines(text string, strip bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		for line := range strings.SplitSeq(text, "\n") {
			bare := strings.TrimSpace(line)
			if bare == "" {
				continue
			}
			if strip {
				line = bare
			}
			if !yield(line) {
				return
			}
		}
	}
}

// explainSyntax says what an expression tried to use if RE2 does not have it.
func explainSyntax(expr string, err error) error {
	var bad *syntax.Error
	if !errors.As(err, &bad) {
		return err
	}
	for _, has := range []struct{ prefix, what string }{
		{"(?=", "lookahead"}, {"(?!", "lookahead"}, {"(?<=", "lookbehind"}, {"(?<!", "lookbehind"},
		{"(?>", "atomic groups"}, {"(?(", "conditional groups"}, {"(?P=", "backreferences"}, {"(?#", "comments"},
	} {
		if strings.HasPrefix(bad.Expr, has.prefix) || bad.Expr == "(?P" && strings.Contains(expr, has.prefix) {
			return fmt.Errorf("%s (%s…) are not supported: matching takes linear time, and they do not", has.what, has.prefix)
		}
	}
	if e := bad.Expr; bad.Code == syntax.ErrInvalidEscape && len(e) == 2 && '1' <= e[1] && e[1] <= '9' {
		return fmt.Errorf("backreferences (%s) are not supported: matching takes linear time, and they do not", e)
	}
	if bad.Expr == `\Z` {
		return fmt.Errorf(`the end of the text is \z here, not \Z`)
	}
	return bad
}

// Match reports whether an absolute path is excluded. Nothing is said of what
// lies below it, since a walk does not come there, nor of tags.
func (x *Exclude) Match(path string, isDir bool) bool {
	if x == nil {
		return false
	}
	if x.paths[path] {
		return true
	}
	for _, g := range x.globs {
		if g.match(keyOf(path), isDir) {
			return true
		}
	}
	if len(x.rx) == 0 {
		return false
	}
	if isDir && path != "/" {
		path += "/"
	}
	for _, rx := range x.rx {
		if rx.MatchString(path) {
			return true
		}
	}
	return false
}

// filters reports whether Match can ever say yes.
func (x *Exclude) filters() bool {
	return x != nil && len(x.paths)+len(x.rx)+len(x.globs) > 0
}

// A tag is a file that hides the directory it is in.
type tag struct{ name, header string }

const cacheTag = "CACHEDIR.TAG"
const cacheSignature = "Signature: 8a477f597d28d172789f06886806bc55"

// tagIn returns the name of the tag for which the rest of a directory is left
// out, "" if there is none. has reports whether the directory holds a name.
func (x *Exclude) tagIn(dir *fsx.Dir, has func(name string) bool) string {
	if x == nil {
		return ""
	}
	if x.Caches && has(cacheTag) && beginsWith(dir, cacheTag, cacheSignature) {
		return cacheTag
	}
	for _, t := range x.tags {
		if has(t.name) && (t.header == "" || beginsWith(dir, t.name, t.header)) {
			return t.name
		}
	}
	return ""
}

// beginsWith reports whether a regular file begins with some bytes. One that
// cannot be read does not: it hides nothing.
func beginsWith(dir *fsx.Dir, name, header string) bool {
	file, _, err := dir.OpenFile(name)
	if err != nil {
		return false
	}
	defer file.Close()
	buf := make([]byte, len(header))
	if _, err := io.ReadFull(file, buf); err != nil {
		return false
	}
	return string(buf) == header
}
