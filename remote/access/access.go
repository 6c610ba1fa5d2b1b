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
//
// # The command of a key
//
//	kedge server --repo NAME --role append [--no-read] [--names GLOB]... [--quota SIZE] [--root DIR]
//	kedge server --repo GLOB [--repo GLOB]... --role read|mirror [--root DIR]
//
// The first word may be a path that ends in kedge or bup. Values follow as "--name VALUE"
// or "--name=VALUE". Under OpenSSH a shell cuts the command into words, so the embedded
// server cuts it in the same way and refuses all that a shell would expand: $, `, *, ?
// and the like must stand between quotes. See SplitWords.
//
// # The lines of authorized_keys
//
// One key a line: options, a blank, the type of the key, a blank, the key in Base64, and
// after another blank a comment. Empty lines and those that begin with # say nothing.
// Options are separated by commas; a value stands between double quotes, in which \"
// is a quote. Known are, in any case of letters:
//
//	command="…"        as above; a key without it is refused: there is no shell here
//	from="…"           patterns of addresses, with * and ?, CIDR, and ! for "not"
//	expiry-time="…"    YYYYMMDD[HHMM[SS]], local time, or UTC with a Z behind it
//	restrict           nothing but the command, which is all there is
//	no-pty and all other no-*
//
// A line with any other option is refused, never read without it. So is a
// certificate, and a key of a kind that is too weak.
//
// # Names of repositories
//
// A repository is a directory under the root, and its name one component of a path: 1 to
// 200 bytes of printable UTF-8, without / \ * ? [ ] and quotes, and begins neither with
// a dot nor with a dash.
package access

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
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

// String returns the word that --role takes, for the roles that it takes.
func (r Role) String() string {
	words := [...]string{"none", "read", "append", "mirror", "owner"}
	if int(r) >= len(words) {
		return "none"
	}
	return words[r]
}

// Grant is what one key may do.
type Grant struct {
	Role   Role
	Root   string   // directory of the repositories; "": the login's home, which is the working directory
	Repos  []string // for Mirror and Read globs, for Append one name; empty with Owner: any path
	NoRead bool     // with Append: nothing that was saved can be read back
	Names  []string // globs of the refs that may be created or moved; empty: any
	Quota  int64    // bytes of the repository's packs; 0: no limit
	Store  Store    // where they are if not in directories; nil: Root counts
	Who    string   // the principal, for receipts and caches: a fingerprint of the key, or "local"
}

// Rights returns what the grant allows, as the client is told.
func (g *Grant) Rights() wire.Rights {
	switch g.Role {
	case Read:
		return wire.MayRead
	case Append:
		if g.NoRead {
			return wire.MayAppend
		}
		return wire.MayAppend | wire.MayRead
	case Mirror:
		return wire.MayRead | wire.MayMirror
	case Owner:
		return wire.MayRead | wire.MayAppend | wire.MayMirror | wire.MayRewind
	}
	return 0
}

// ErrNoRepo is the answer to every path that a grant does not name, whether there is
// such a repository or not. The errors of Resolve are of the type
// *repo.NotFoundError as well.
var ErrNoRepo = errors.New("no such repository")

// noRepo is ErrNoRepo about a path.
type noRepo struct{ repo.NotFoundError }

// Unwrap returns what the error counts as.
func (e *noRepo) Unwrap() []error { return []error{ErrNoRepo, &e.NotFoundError} }

// unknown returns the error about a path. What the client asked for is repeated to it,
// as far as it is of a length that a message can bear.
func unknown(path string) error {
	const most = 256
	if len(path) > most {
		path = path[:most] + "..."
	}
	return &noRepo{repo.NotFoundError{What: "repository", Name: path}}
}

// maxName is the longest name of a repository, in bytes. It leaves room in a
// component of a path for what is appended to the names of temporary files.
const maxName = 200

// CheckName refuses what is no name of a repository.
func CheckName(name string) error {
	bad := func(why string) error { return errors.New(strconv.Quote(name) + " is no name of a repository: " + why) }
	switch {
	case name == "":
		return bad("it is empty")
	case len(name) > maxName:
		return bad("it is too long")
	case name[0] == '.', name[0] == '-':
		return bad("it begins with " + name[:1])
	case !utf8.ValidString(name):
		return bad("it is no UTF-8")
	}
	for _, r := range name {
		if strings.ContainsRune(`/\*?[]"'`, r) || !strconv.IsPrint(r) {
			return bad("it holds " + strconv.QuoteRune(r))
		}
	}
	return nil
}

// has reports whether the grant names a repository.
func (g *Grant) has(name string) bool {
	return CheckName(name) == nil && slices.ContainsFunc(g.Repos, func(glob string) bool {
		ok, err := path.Match(glob, name)
		return ok && err == nil
	})
}

// pinned returns the only name that the grant has, or "".
func (g *Grant) pinned() string {
	if len(g.Repos) == 1 && CheckName(g.Repos[0]) == nil {
		return g.Repos[0]
	}
	return ""
}

// Resolve returns the directory of the repository that a client calls path, and its name
// in messages. Accepted are "" and, in any of the forms build, /build, <root>/build
// and ~/build, a name that the grant has; slashes at the end mean nothing. "" is the
// repository that the grant is pinned to.
//
// The disk is looked at only for a path that the grant names, so that how long the
// answer takes tells nothing about the others. A symbolic link is refused: it would lead
// out of the root. Nobody can make one over the network.
//
// For Owner any path goes, relative ones from the root, and "" is "": the default of
// the server.
func (g *Grant) Resolve(path string) (dir, name string, err error) {
	if strings.IndexByte(path, 0) >= 0 {
		return "", "", unknown(path)
	}
	if g.Role == Owner && g.Store == nil {
		dir = g.ownerPath(path)
		return dir, dir, nil
	}
	name = g.pinned()
	if path != "" {
		name = g.nameOf(path)
	}
	if g.Role == None || !g.has(name) && !(g.Role == Owner && CheckName(name) == nil) {
		return "", "", unknown(path)
	}
	if g.Store != nil {
		return name, name, nil
	}
	dir = filepath.Join(g.Root, name)
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dir, name, nil
	case err != nil:
		return "", "", unknown(path)
	case info.Mode()&fs.ModeSymlink != 0:
		return "", "", &repo.RefusedError{Reason: "repository " + name + " is a symbolic link on the server, which is not followed"}
	case !info.IsDir():
		return "", "", unknown(path)
	}
	return dir, name, nil
}

// nameOf returns the name in one of the forms of a path, or what is no name.
func (g *Grant) nameOf(path string) string {
	path = strings.TrimRight(path, "/")
	for _, prefix := range []string{"~/", strings.TrimRight(g.Root, "/") + "/", "/"} {
		if name, ok := strings.CutPrefix(path, prefix); ok && CheckName(name) == nil {
			return name
		}
	}
	return path
}

// ownerPath returns the directory that the owner of the account means.
func (g *Grant) ownerPath(path string) string {
	switch {
	case path == "":
		return ""
	case path == "~":
		path = "."
	case strings.HasPrefix(path, "~/"):
		path = "./" + path[2:]
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(g.Root, path)
}

// Repositories returns the names of the repositories under the root that the grant
// has, sorted. A repository that was not created yet is not among them.
func (g *Grant) Repositories(ctx context.Context) ([]string, error) {
	if g.Store != nil {
		names, err := g.Store.Names(ctx)
		return slices.DeleteFunc(names, func(name string) bool {
			return g.Role == None || CheckName(name) != nil || g.Role != Owner && !g.has(name)
		}), err
	}
	if name := g.pinned(); name != "" && g.Role != Owner {
		if g.Role == None || !isRepository(filepath.Join(g.Root, name)) {
			return nil, nil
		}
		return []string{name}, nil
	}
	root := g.Root
	if root == "" {
		root = "."
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		seen := g.Role == Owner && CheckName(e.Name()) == nil || g.Role != None && g.has(e.Name())
		if seen && isRepository(filepath.Join(root, e.Name())) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// isRepository reports whether there is a repository, reached by no link.
func isRepository(dir string) bool {
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return false
	}
	config, err := os.Stat(filepath.Join(dir, "config"))
	if err != nil || !config.Mode().IsRegular() {
		return false
	}
	packs, err := os.Stat(filepath.Join(dir, "objects", "pack"))
	return err == nil && packs.IsDir()
}

// Allowed returns nil if the grant may create or move a ref, else a *repo.RefusedError.
// What Names mean is told at wire.MatchRef.
func (g *Grant) Allowed(ref string) error {
	switch g.Role {
	case Owner:
		return nil
	case Append:
	default:
		return &repo.RefusedError{Reason: "this key may not write"}
	}
	if !strings.HasPrefix(ref, "refs/heads/") && !strings.HasPrefix(ref, "refs/tags/") {
		return &repo.RefusedError{Reason: "this key may write below refs/heads and refs/tags only"}
	}
	if !wire.MatchRef(g.Names, ref) {
		return &repo.RefusedError{Reason: "this key may not write " + strconv.Quote(ref)}
	}
	return nil
}
