package repo

import (
	"fmt"
	"strings"

	"github.com/kedgebackup/kedge/pack"
)

// maxRefName is the longest name of a ref, in bytes. A file system takes 255
// for each component, of which ".lock" needs five.
const maxRefName = 250

// CheckRefName refuses what is no name of a ref: git's rules, and bup's for
// names of saves, which are the stricter ones. Everything that passes is a
// path below refs/ that leads nowhere else (I6).
func CheckRefName(name string) error {
	bad := func(why string) error { return fmt.Errorf("%q is no name of a ref: %s", name, why) }
	rest, ok := strings.CutPrefix(name, "refs/")
	switch {
	case !ok:
		return bad("it does not begin with refs/")
	case len(name) > maxRefName:
		return bad(fmt.Sprintf("it is longer than %d bytes", maxRefName))
	case strings.Contains(name, ".."), strings.Contains(name, "@{"):
		return bad("it holds .. or @{")
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == 0x7f || strings.IndexByte(`~^:?*[\`, c) >= 0 {
			return bad(fmt.Sprintf("it holds %q", c))
		}
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 2 {
		return bad("it has no kind, such as refs/heads/")
	}
	for _, part := range parts {
		switch {
		case part == "":
			return bad("a part of it is empty")
		case part[0] == '.', part == "@":
			return bad("a part of it begins with a dot or is @")
		case strings.HasSuffix(part, "."), strings.HasSuffix(part, ".lock"):
			return bad("a part of it ends in a dot or in .lock")
		}
	}
	if parts[1][0] == '-' {
		return bad("it begins with a dash")
	}
	return nil
}

// CheckRefTarget refuses to make a branch of what is no commit. Git moves no branch to
// anything else, its fsck calls one that is there damaged, and bup's server, which asks
// git, dies of being asked. Tags may name objects of all types.
func CheckRefTarget(name string, id pack.ID, t pack.Type) error {
	if t != pack.Commit && strings.HasPrefix(name, "refs/heads/") {
		return fmt.Errorf("%s: %v is a %v, and a branch leads to commits only", name, id, t)
	}
	return nil
}
