package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/sshd"
)

const serveHelp = `Serve is a backup server: an SSH server that does nothing but keep repositories, for
clients of kedge, bup and git. It needs no sshd, no shell and no users.

Each repository is a directory under the root. Who may do what is said by the lines of
authorized_keys, which 'kedge client' writes; a change takes effect with the next
connection. The root's own things are in ROOT/.kedge: host_key, which is made if it is
not there, and authorized_keys.

It says what happens on standard error, a line each, until SIGTERM or SIGINT ends it:
then sessions that are open have 30 seconds. See docs/server.md.`

const serveExample = `  kedge serve                                   # to try it: loopback only
  kedge serve --root /srv/backup --listen :2222`

// serveMemory is the limit of the memory that the runtime manages, for all sessions
// together; each may take 32 MiB.
const serveMemory = 1 << 30

type serveOptions struct {
	root, listen, keys, hostKey string
	sessions, perKey            int
}

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "serve [--root DIR] [--listen ADDRESS] [OPTION...]",
		Short:   "be a backup server",
		Long:    serveHelp,
		Example: serveExample,
		Args:    cobra.NoArgs,
	}
	var o serveOptions
	f := cmd.Flags()
	f.StringVar(&o.root, "root", "", "repositories are in `DIR` (default: $KEDGE_ROOT, or the home)")
	f.StringVar(&o.listen, "listen", "127.0.0.1:2222", "take connections at `ADDRESS`; :2222 is port 2222 of all addresses")
	f.StringVar(&o.keys, "authorized-keys", "", "the keys that are let in are in `FILE` (default: ROOT/.kedge/authorized_keys)")
	f.StringVar(&o.hostKey, "host-key", "", "the server's private key is in `FILE` (default: ROOT/.kedge/host_key)")
	f.IntVar(&o.sessions, "sessions", 0, "at most `N` sessions at once (default 128)")
	f.IntVar(&o.perKey, "sessions-per-key", 0, "at most `N` sessions of one key at once (default 8)")
	return a.command(cmd, func(ctx context.Context, _ []string) error { return a.serve(ctx, o) })
}

func (a *app) serve(ctx context.Context, o serveOptions) error {
	if o.sessions < 0 || o.perKey < 0 {
		return usagef("a number of sessions is negative")
	}
	root, err := a.serverRoot(o.root)
	if err != nil {
		return err
	}
	if info, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return withHint(usagef("%s is no directory", quote(root)), "make it, for the user that the server runs as: it holds the repositories")
	} else if err != nil {
		return err
	}
	if o.keys == "" {
		o.keys = authorizedKeys(root)
	}
	if o.hostKey == "" {
		o.hostKey = filepath.Join(root, ".kedge", "host_key")
	}
	if a.Env("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(serveMemory)
	}
	syscall.Umask(0o077)
	s, err := sshd.New(sshd.Options{
		FS: a.FS, Root: root, HostKey: o.hostKey, AuthorizedKeys: o.keys, Log: a.serveLog(),
		Limits: sshd.Limits{Total: o.sessions, PerKey: o.perKey},
	})
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", o.listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return withHint(err, "--listen 127.0.0.1:2223 takes another port; 'ss -ltnp' tells who has this one")
	} else if err != nil {
		return err
	}
	if err := a.printFirstUse(s, l.Addr(), root, o.keys); err != nil {
		_ = l.Close()
		return err
	}
	return s.Serve(ctx, l)
}

// serveLog returns what writes the events of a server: with the time, unless systemd,
// which writes that itself, reads them.
func (a *app) serveLog() func(string, ...any) {
	var mu sync.Mutex
	journal := a.Env("JOURNAL_STREAM") != ""
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		at := ""
		if !journal {
			at = a.now().Format(time.RFC3339) + " "
		}
		fmt.Fprintf(a.Stderr, "%s%s\n", at, fmt.Sprintf(format, args...))
	}
}

// printFirstUse prints where the server listens and, as long as there is no key, what to
// type next.
func (a *app) printFirstUse(s *sshd.Server, at net.Addr, root, keys string) error {
	if a.common.quiet {
		return nil
	}
	text := fmt.Sprintf("listening on %v for repositories in %s\nhost key %s\n", at, escape(root), s.Fingerprint())
	if list, err := a.FS.ReadFile(keys, access.MaxKeys); err != nil || len(list) == 0 {
		host, port, _ := net.SplitHostPort(at.String())
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			if host, err = os.Hostname(); err != nil {
				host = "HOST"
			}
		}
		text += fmt.Sprintf(firstUse, host, port, s.HostKey(), root)
	}
	if err := a.print([]byte(text)); err != nil {
		return err
	}
	return a.out.Flush()
}

// firstUse is what to type for a first client: %[1]s host, %[2]s port, %[3]s host key,
// %[4]s root.
const firstUse = `
no key is let in yet. On the client:

    ssh-keygen -t ed25519 -N '' -f ~/.ssh/kedge
    echo '[%[1]s]:%[2]s %[3]s' >> ~/.ssh/known_hosts

Here, with the file ~/.ssh/kedge.pub of the client:

    kedge client add --root %[4]s REPO kedge.pub --role append

And on the client again:

    printf 'Host %[1]s\n  Port %[2]s\n  IdentityFile ~/.ssh/kedge\n' >> ~/.ssh/config
    kedge backup -r ssh://%[1]s:%[2]s/REPO /etc

`
