package repo

import (
	"time"

	"github.com/kedgebackup/kedge/pack"
)

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

// Append appends the body of the commit object.
func (c *Commit) Append(dst []byte) []byte { panic("stub") }

// ParseCommit reads the body of a commit object. What it accepts, Append gives
// back byte for byte.
func ParseCommit(body []byte) (Commit, error) { panic("stub") }

// Trailer returns the value of a "Key: value" line at the end of the message.
func (c *Commit) Trailer(key string) (string, bool) { panic("stub") }
