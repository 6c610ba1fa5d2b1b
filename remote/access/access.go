// Package access says who may do what with which repository: roles, the command that
// a key is bound to, authorized_keys, and what a client may ask an SSH server to run.
//
// # Where rights come from
//
// A right belongs to a key, never to what a client says. A key's line in authorized_keys
//
//	restrict,command="kedge server --repo build --role append" ssh-ed25519 AAAA… comment
//
// means the same to OpenSSH, which runs the command, and to the embedded server, which
// reads it with ParseForced. What the client asked for (SSH_ORIGINAL_COMMAND, or the exec
// request) only chooses among a fixed set of words; see ParseRequest.
package access

import (
	"errors"

	"github.com/kedgebackup/kedge/remote/wire"
)

// Role is what a key may do.
type Role uint8

// The roles. The zero value may do nothing.
const (
	None   Role = iota
	Read        // list, restore, git-upload-pack
	Append      // and create the repository, add objects, move refs forward
	Mirror      // read every repository that matches, as files
	Owner       // all that the user could do without kedge: no forced command binds it
)

// Grant is what one key may do.
type Grant struct {
	Role   Role
	Root   string   // directory of the repositories; "": the login's home
	Repos  []string // for Mirror and Read globs, for Append one name; empty with Owner: any path
	NoRead bool     // with Append: nothing that was saved can be read back
	Names  []string // globs of the refs that may be created or moved; empty: any
	Quota  int64    // bytes of the repository's packs; 0: no limit
	Who    string   // the principal, for receipts and caches: a fingerprint of the key, or "local"
}

// Rights returns what the grant allows, as the client is told.
func (g *Grant) Rights() wire.Rights { panic("stub") }

// ErrNoRepo is the answer to every path that a grant does not name, whether there is
// such a repository or not.
var ErrNoRepo = errors.New("no such repository")

// Resolve returns the directory of the repository that a client calls path, and its name
// in messages. Accepted are "" and, in any of the forms build, /build, <root>/build
// and ~/build, a name that the grant has.
func (g *Grant) Resolve(path string) (dir, name string, err error) { panic("stub") }

// Allowed returns nil if the grant may create or move a ref, else a *repo.RefusedError.
func (g *Grant) Allowed(ref string) error { panic("stub") }

// ParseForced reads the words of the command that a key is bound to, without
// "kedge server": --repo, --root, --role, --no-read, --names, --quota.
func ParseForced(words []string) (Grant, error) { panic("stub") }

// Request is what a client asks an SSH server to run.
type Request struct {
	What Program
	Path string // of UploadPack
}

// Program is one of the programs that a client may ask for.
type Program uint8

// The programs.
const (
	Server     Program = iota + 1 // kedge server, or one of bup's two forms of bup server
	UploadPack                    // git-upload-pack 'PATH'
)

// ParseRequest reads the command of an exec request or SSH_ORIGINAL_COMMAND: a fixed
// grammar of a few forms, which no shell sees.
func ParseRequest(command string) (Request, error) { panic("stub") }
