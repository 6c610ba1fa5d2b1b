package wire

import (
	"path"
	"strings"
)

// Rights are what a key may do with a repository, as the server tells the
// client. They are told so that a client can say at once what will be refused; the
// server decides each request anew.
type Rights uint8

// The rights.
const (
	MayRead   Rights = 1 << iota // Get, Commits, Check, Receipts
	MayAppend                    // Begin, and SetRef to descendants
	MayMirror                    // List, Read, State
	MayRewind                    // SetRef to anything, and deletion
)

// MatchRef reports whether globs name a ref. No globs name all. A glob is about the name
// of a save, "web-*", unless it begins with refs/. As in a shell, * and ? match no slash.
//
// Both ends ask it: the server before it moves a ref, and the client before it reads the
// first file of a save that the server would refuse at its end.
func MatchRef(globs []string, ref string) bool {
	save, isSave := strings.CutPrefix(ref, "refs/heads/")
	for _, glob := range globs {
		name := save
		if strings.HasPrefix(glob, "refs/") {
			name = ref
		} else if !isSave {
			continue
		}
		if ok, err := path.Match(glob, name); ok && err == nil {
			return true
		}
	}
	return len(globs) == 0
}
