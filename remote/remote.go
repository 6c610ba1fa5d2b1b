// Package remote is a repository on another machine: Client is a repo.Repo over a
// connection to a server, Dial makes the connection.
package remote

import (
	"io"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Options says how a client connects.
type Options struct {
	FS *fsx.FS
	// SSH is "system" (the program ssh), "builtin", or "": the program, if there is one.
	SSH        string
	Identities []string // files of private keys; nil: the agent and ~/.ssh/id_*
	KnownHosts string   // file; "": ~/.ssh/known_hosts
	AcceptNew  bool     // add the key of a host that is not known yet
	Cache      string   // directory of caches; "": none
	// BytesPerSecond bounds what is sent; 0: nothing does.
	BytesPerSecond int64
	Timeout        time.Duration // of connecting; 0: 30 s
	// Stderr gets what the other side says to people.
	Stderr io.Writer
	// Env looks up a variable of the environment; nil: there are none. Asked for are
	// SSH_AUTH_SOCK (the agent of the builtin client) and KEDGE_SSH (a program that takes
	// the place of ssh).
	Env func(name string) string
	// Server is what a child process of Address{} runs; nil: this program.
	Server []string
	Create *CreateOptions // make the repository if it is not there
}

// CreateOptions says what a new repository is like.
type CreateOptions struct {
	Chunker string
	Expect  int64
	Bup     bool // one as bup makes it, see repo.InitOptions; the others mean nothing then
}
